"""Gibbs unringing against mrdegibbs, and for partial Fourier against Lee et al. (2021): time and error."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import head
import numpy as np
from harness import THREADS, Row, absent, best_seconds, command
from numpy.typing import NDArray

from somite import gibbs, images
from somite.gibbs import Cut
from somite.images import Grid
from somite.interfaces import degibbs
from somite.registry import Context

NAME = "degibbs"
FINE = 2
"""Points per voxel and axis of the plane of what is scanned."""

Array = NDArray[np.float32]


def scanned(fine: Array, fraction: float = 1.0, points: int = FINE) -> tuple[Array, Array]:
    """Magnitude with ringing, and the mean in each voxel, of an object (x, y, ...) drawn finely.

    The part `fraction` of k-space is measured along x, the rest is zeros; the phase varies smoothly.
    """
    shape = tuple(n // points for n in fine.shape[:2])
    x, y = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in fine.shape[:2]), indexing="ij")
    phase = np.exp(1j * (np.sin(x) - 0.7 * np.cos(y) + 0.5 * np.sin(x + y)))
    kspace = np.fft.fft2(fine.T * phase.T)  # (..., y, x)
    for axis, n in enumerate(shape):
        k = np.fft.fftfreq(n, 1 / n).astype(int)
        factor = np.exp(1j * np.pi * k * (points - 1) / fine.shape[axis])
        if axis == 0:
            factor[k < -(fraction - 0.5) * n] = 0
        kspace = np.take(kspace, k, -1 - axis) * (factor if axis == 0 else factor[:, None])
    image = np.abs(np.fft.ifft2(kspace)).T / points**2
    truth = fine.reshape(shape[0], points, shape[1], points, *fine.shape[2:]).mean((1, 3))
    return image.astype(np.float32), truth.astype(np.float32)


def published_rpg(plane: Array, fraction: float) -> Array:
    """Lee et al., Magn Reson Med 86 (2021) 2733, along axis 0: the usual shifts, then at wider distances."""
    up, down = {0.75: (1, 2), 0.875: (3, 4)}[fraction]
    lines = np.repeat(gibbs.unring_plane(plane).T, up, 1)
    for start in range(down):
        lines[:, start::down] = gibbs.unring_lines(np.ascontiguousarray(lines[:, start::down]))
    return np.asarray(lines[:, up // 2 :: up].T)


def _error(image: Array, truth: Array, mask: NDArray[np.bool_]) -> float:
    return float(np.sqrt(((image - truth)[mask] ** 2).mean()))


def rows() -> list[Row]:
    """Rows of this benchmark."""
    scan = head.make((128, 128, 20))
    fine = scan.clean.astype(np.float32)
    mask = scanned(scan.mask.astype(np.float32))[1] > 0.5
    ringing, truth = scanned(fine)
    noise = np.random.default_rng(0).normal(0, head.SIGMA, (2, *truth.shape)).astype(np.float32)
    noisy = np.hypot(ringing + noise[0], noise[1])
    return [
        *_against_mrdegibbs("without noise", ringing, truth, mask),
        *_against_mrdegibbs("SNR 20", noisy, truth, mask),
        *_objects(),
        *_partial_fourier(fine[..., :1], mask),
    ]


def _against_mrdegibbs(case: str, data: Array, truth: Array, mask: NDArray[np.bool_]) -> list[Row]:
    size = "x".join(map(str, data.shape))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dwi = images.write(folder / "dwi.nii", np.asfortranarray(data), Grid(data.shape[:3], np.eye(4)))
        series = {"name": "dwi", "slice_encoding_direction": "k", "partial_fourier": None}
        volumes = [{"series": 0}] * data.shape[3]
        scan = folder / "scan.json"
        scan.write_text(json.dumps({"volumes": volumes, "series": [series]}))
        context = Context(folder, threads=THREADS)
        made = {}
        calls = {"somite": lambda: made.update(ours=degibbs.run(dwi, scan, degibbs.Config(), context))}
        theirs, note = folder / "theirs.nii", "mrdegibbs is not installed"
        if not absent(["mrdegibbs"]):
            calls["mrdegibbs"] = command("mrdegibbs", "-quiet", "-force", "-nthreads", THREADS, dwi, theirs)
            note = ""
        seconds = best_seconds(calls)
        ours = images.read_float(made["ours"])[0]
        peer = _error(images.read_float(theirs)[0], truth, mask) if theirs.exists() else None
        return [
            Row(NAME, f"time, {size}, {case}, files to files", "s", seconds["somite"], "mrdegibbs",
                seconds.get("mrdegibbs"), 1.5, note),
            Row(NAME, f"RMSE inside the head, {case}", "", _error(ours, truth, mask), "mrdegibbs", peer, 1.02,
                note),
            Row(NAME, f"the same, {case}", "", _error(ours, truth, mask), "uncorrected",
                _error(data, truth, mask), 1.0),
        ]  # fmt: skip


def _objects() -> list[Row]:
    """A box and a line one voxel wide, in tissue and in the dark, at eight places within their voxels."""
    result = []
    for name, tissue in (("in tissue", 300), ("in the dark, SNR 50", 0)):
        box, line = np.full((2, 512, 512, 8), tissue, np.float32)
        for place in range(8):
            box[120 + place : 360 + place, 160 : 400 + 2 * place, place] = 1000
            line[100:400, 240 + place : 248 + place, place] = 1000
        for shape, fine in (("box", box), ("thin line", line)):
            image, truth = scanned(fine, points=8)
            if tissue == 0:
                noise = np.random.default_rng(0).normal(0, 20, (2, *image.shape))
                image = np.hypot(image + noise[0], noise[1]).astype(np.float32)
            everywhere = np.ones(truth.shape, bool)
            ours = gibbs.unring(image[..., None])[..., 0]
            before = _error(image, truth, everywhere)
            after = _error(ours, truth, everywhere)
            result.append(
                Row(NAME, f"RMSE of a {shape} of 1000 {name}", "", after, "uncorrected", before, 1.0)
            )
    return result


def _partial_fourier(fine: Array, mask: NDArray[np.bool_]) -> list[Row]:
    result = []
    for fraction, name in ((0.75, "6/8"), (0.875, "7/8")):
        image, truth = scanned(fine, fraction)
        rpg = np.stack([published_rpg(image[:, :, k, 0], fraction) for k in range(image.shape[2])], 2)
        ours = _error(gibbs.unring(image, cut=Cut(0, fraction)), truth, mask[..., None])
        case = f"RMSE inside the head, partial Fourier {name}"
        uncorrected = _error(image, truth, mask[..., None])
        result += [
            Row(NAME, case, "", ours, "Lee 2021", _error(rpg[..., None], truth, mask[..., None]), 1.0),
            Row(NAME, case, "", ours, "uncorrected", uncorrected, 1.0),
        ]
    return result
