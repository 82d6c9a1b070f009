"""N4 by SimpleITK against MRtrix3's dwibiascorrect (ANTs): time, and the error of the field."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from harness import THREADS, Row, absent, best_seconds
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from somite import images
from somite.images import Grid
from somite.interfaces import bias
from somite.registry import Context

NAME = "bias"
SHAPE, VOXEL_MM = (96, 96, 48), 2.0


def make(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Six b=0 volumes (x, y, z, 6) of a head of three tissues, SNR 20, the mask, and the field."""
    rng = np.random.default_rng(seed)

    def smooth(sigma_mm: float) -> NDArray[np.float64]:
        field = gaussian_filter(rng.standard_normal(SHAPE), sigma_mm / VOXEL_MM)
        return np.asarray(field / field.std())

    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    depth = 0.9 - np.sqrt(x * x + y * y + z * z)
    head = depth > 0
    fluid = head & (((np.abs(smooth(6)) < 0.18) & (depth < 0.3)) | (x * x + y * y < 0.03))
    grey = head & ~fluid & ((depth < 0.12) | (smooth(8) > 1.2))
    tissue = np.select([fluid, grey, head], [2000.0, 1000.0, 750.0]) * (1 + 0.06 * smooth(3))
    field = np.exp(0.18 * smooth(40))
    noise = rng.normal(0, 37.5, (2, *SHAPE, 6))
    return np.hypot((tissue * field)[..., None] + noise[0], noise[1]).astype(np.float32), head, field


def rows() -> list[Row]:
    """Rows of this benchmark."""
    scans = [make(seed) for seed in (1, 2)]
    grid = Grid(SHAPE, np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))
    wanting = absent(["dwibiascorrect", "N4BiasFieldCorrection"])
    methods = ["n4"] if wanting else ["n4", "dwibiascorrect"]
    errors: dict[str, list[float]] = {method: [] for method in ["none", *methods]}
    seconds = dict.fromkeys(methods, 0.0)
    for data, head, field in scans:
        errors["none"].append(_error(np.ones(SHAPE), field, head))
        for method in methods:
            found, took = _run(data, head, grid, method)
            errors[method].append(_error(found, field, head))
            seconds[method] += took
    note = f"not installed: {', '.join(wanting)}" if wanting else ""
    peer = {"peer_name": "dwibiascorrect ants", "note": note}
    size = "x".join(map(str, SHAPE))
    mean = {method: float(np.mean(values)) for method, values in errors.items()}
    return [
        Row(NAME, f"RMSE of the log field, {size}, mean of 2 seeds", "", mean["n4"],
            peer=mean.get("dwibiascorrect"), **peer),
        Row(NAME, "the same, over that without correction", "", mean["n4"] / mean["none"], at_most=0.34),
        Row(NAME, f"time, {size}, files to files", "s", seconds["n4"] / 2,
            peer=seconds.get("dwibiascorrect", 0.0) / 2 or None, **peer),
    ]  # fmt: skip


def _run(
    data: NDArray[np.float32], head: NDArray[np.bool_], grid: Grid, method: str
) -> tuple[NDArray[np.float32], float]:
    """The field that a method finds, and its seconds, files to files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dwi = images.write(folder / "dwi.nii", np.asfortranarray(data), grid)
        mask = images.write(folder / "mask.nii", head, grid)
        np.savetxt(folder / "dwi.bval", np.zeros((1, data.shape[3])), fmt="%g")
        config, context = bias.Config(method=method), Context(folder, threads=THREADS)
        call = {method: lambda: bias.run(dwi, folder / "dwi.bval", config, context, mask)}
        took = best_seconds(call, repeats=1)[method]
        return np.array(images.read_float(folder / "bias_field.nii")[0]), took


def _error(found: NDArray[np.floating], truth: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    apart = np.log(np.asarray(found[mask], np.float64)) - np.log(truth[mask])
    return float(apart.std())
