"""MP-PCA against dwidenoise and dipy: time, error and the level of the noise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import head
import numpy as np
from dipy.denoise.localpca import mppca as dipy_mppca
from harness import THREADS, Row, absent, best_seconds, command

from somite import images
from somite.interfaces import denoise
from somite.phase import without_smooth_phase
from somite.registry import Context

NAME = "denoise"


def rows() -> list[Row]:
    """Rows of this benchmark."""
    scan = head.make()
    size = "x".join(map(str, scan.noisy.shape))

    def error(signal: np.ndarray) -> float:
        return float(np.sqrt(((signal - scan.clean)[scan.mask] ** 2).mean()) / head.SIGMA)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = scan.write(folder)
        context = Context(folder, threads=THREADS)
        made = {}
        calls = {"somite": lambda: made.update(ours=denoise.run(files["dwi"], denoise.Config(), context))}
        theirs, noise = folder / "theirs.nii", folder / "theirs_sigma.nii"
        if not absent(["dwidenoise"]):
            arguments = ("-quiet", "-force", "-extent", 5, "-nthreads", THREADS, "-noise", noise)
            calls["dwidenoise"] = command("dwidenoise", *arguments, files["dwi"], theirs)
        seconds = best_seconds(calls)
        signal, sigma = (images.read_float(path)[0] for path in made["ours"])
        result = [
            Row(NAME, f"time, {size}, files to files", "s", seconds["somite"], "dwidenoise",
                seconds.get("dwidenoise"), 0.5, _note(seconds)),
            Row(NAME, "RMSE inside the head", "sigma", error(signal), "dwidenoise",
                error(images.read_float(theirs)[0]) if theirs.exists() else None, 0.9, _note(seconds)),
            Row(NAME, "error of the median sigma, relative", "", _off(sigma, scan), at_most=0.02),
        ]  # fmt: skip
        if noise.exists():
            result.append(
                Row(
                    NAME,
                    "the same, dwidenoise's",
                    "",
                    _off(images.read_float(noise)[0], scan),
                    note="for comparison",
                )
            )
        result += _against_dipy(scan)
    return [*result, *_with_phase(scan)]


def _note(seconds: dict[str, float]) -> str:
    return "" if "dwidenoise" in seconds else "dwidenoise is not installed"


def _off(sigma: np.ndarray, scan: head.Head) -> float:
    return abs(float(np.median(sigma[scan.mask])) / head.SIGMA - 1)


def _with_phase(scan: head.Head) -> list[Row]:
    """A noise of 200, white matter having 750 at b=0 and 200 to 500 beyond; a phase of 1 rad and more."""
    sigma, clean = 200.0, scan.clean[4:-4, 4:-4, 8:20]
    mask = scan.mask[4:-4, 4:-4, 8:20]
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(*2 * [np.linspace(-1, 1, clean.shape[0])], indexing="ij")
    terms = np.stack([x, y, x * y, x * x, y * y])
    phase = np.einsum("txy,tzv->xyzv", terms, rng.normal(0, 1, (5, *clean.shape[2:])))
    noise = rng.normal(0, sigma, (2, *clean.shape))
    received = clean * np.exp(1j * phase) + noise[0] + 1j * noise[1]
    magnitude = np.abs(received).astype(np.float32)
    without, spread = denoise.mppca(magnitude, threads=THREADS)
    off, _ = denoise.true_noise(without, spread, off_floor=True, threads=THREADS)
    series = without_smooth_phase(magnitude, np.angle(received), threads=THREADS)
    signal, found = denoise.mppca(series, threads=THREADS)

    def error(image: np.ndarray) -> float:
        return float(np.sqrt(((np.abs(image) - clean)[mask] ** 2).mean()) / sigma)

    case = "RMSE with the phase, sigma 200"
    off_sigma = abs(float(np.median(found[mask])) / sigma - 1)
    return [
        Row(NAME, case, "sigma", error(signal), "magnitudes only", error(without), 1.0),
        Row(NAME, case, "sigma", error(signal), "magnitudes, koay", error(off), 1.0),
        Row(NAME, "error of sigma with the phase", "", off_sigma, at_most=0.02),
    ]


def _against_dipy(scan: head.Head) -> list[Row]:
    """dipy is slow: a part of the head, once, with one thread each."""
    part = np.ascontiguousarray(scan.noisy[16:40, 16:40, 6:22])
    truth = scan.clean[16:40, 16:40, 6:22]
    made: dict[str, np.ndarray] = {}
    seconds = best_seconds(
        {
            "somite": lambda: made.update(ours=denoise.mppca(part)[0]),
            "dipy": lambda: made.update(dipy=dipy_mppca(part, patch_radius=2)),
        },
        repeats=1,
    )
    errors = {
        name: float(np.sqrt(((signal - truth) ** 2).mean()) / head.SIGMA) for name, signal in made.items()
    }
    size = "x".join(map(str, part.shape))
    return [
        Row(NAME, f"time, {size}, one thread", "s", seconds["somite"], "dipy mppca", seconds["dipy"]),
        Row(NAME, f"RMSE, {size}", "sigma", errors["ours"], "dipy mppca", errors["dipy"]),
    ]
