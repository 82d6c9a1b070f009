"""The field of a pair of opposite phase encoding: error and time, beside FSL topup where it is installed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import THREADS, Row, absent, best_seconds
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from somite.fieldmap import estimate
from somite.fsl_topup import run_topup
from somite.images import Grid
from somite.registry import Context

NAME = "susceptibility"
VOXEL_MM = 2.0
SHAPE = (96, 96, 48)
SIGMA = 22.0
"""Noise of a mean of three b=0 volumes, white matter being 750."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Both images, the displacement of the first in mm, and the brain."""

    one: Float
    two: Float
    field_mm: Float
    brain: NDArray[np.bool_]


def field_at(x: Float, y: Float, z: Float) -> Float:
    """Displacement in mm: above the sinuses, beside the ears, and slow changes elsewhere."""
    field = 9 * np.exp(-(((x / 18) ** 2) + ((y - 62) / 16) ** 2 + ((z + 22) / 14) ** 2))
    for side in (-1, 1):
        field -= 6 * np.exp(-(((x - side * 48) / 14) ** 2 + ((y + 10) / 16) ** 2 + ((z + 24) / 12) ** 2))
    return np.asarray(field + 1.2 * np.sin(x / 60) * np.cos(y / 70))


def make(seed: int, move: bool = False) -> Pair:
    """A head at 1 mm, its signal moved along y without loss, averaged to voxels of 2 mm; Rician noise."""
    rng = np.random.default_rng(seed)
    fine = np.array(SHAPE) * 2
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in fine), indexing="ij", sparse=True)
    depth = (1 - np.sqrt((x / 66) ** 2 + (y / 80) ** 2 + ((z + 4) / 42) ** 2)) * 60

    def texture(width: float) -> Float:
        smooth = gaussian_filter(rng.standard_normal(fine).astype(np.float32), width, truncate=3)
        return np.asarray(smooth / smooth.std(), np.float64)

    sulci = (depth > 0) & (depth < 18) & (np.abs(texture(6)) < 0.18)
    ventricles = (((np.abs(x) - 12) / 6) ** 2 + (y / 30) ** 2 + ((z - 4) / 9) ** 2) < 1
    signal = np.select(
        [sulci | ventricles | ((depth > 0) & (depth < 2)), (depth > 0) & (depth < 6), depth > 0],
        [2000.0, 1000.0, 750.0],
        np.where((depth > -10) & (depth < -5), 350.0, 0.0),
    ) * (1 + 0.06 * texture(2))
    bias = texture(40)[::2, ::2, ::2]
    sensitivity = np.exp(0.18 * bias)
    turn, shift = np.eye(3), np.zeros(3)
    if move:
        turn = Rotation.from_rotvec(np.deg2rad(1.0) * np.array([0.6, 0.48, 0.64])).as_matrix()
        shift = np.array([0.8, 0.0, -0.6])
    centre = (fine - 1) / 2
    moved = affine_transform(signal, turn.T, centre - turn.T @ (centre + shift), order=3) if move else signal
    points = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * VOXEL_MM for n in SHAPE), indexing="ij")
    field = field_at(*points)
    tissue = np.moveaxis((np.stack(points, -1) - shift) @ turn, -1, 0)
    clean = (_distorted(signal, field), _distorted(moved, -field_at(*tissue)))
    one, two = (
        np.hypot(s * sensitivity + rng.normal(0, SIGMA, SHAPE), rng.normal(0, SIGMA, SHAPE)) for s in clean
    )
    inside = np.broadcast_to(depth > 0, tuple(fine)).astype(float)
    x2, y2, z2 = SHAPE
    return Pair(one, two, field, inside.reshape(x2, 2, y2, 2, z2, 2).mean((1, 3, 5)) > 0.5)


def _distorted(signal: Float, displacement_mm: Float) -> Float:
    nx, ny, nz = SHAPE
    columns = signal.reshape(nx, 2, 2 * ny, nz, 2).mean((1, 4))
    edges, centres = np.arange(2 * ny + 1) - float(ny), (np.arange(ny) - (ny - 1) / 2) * VOXEL_MM
    out = np.empty(SHAPE)
    for i, k in np.ndindex(nx, nz):
        moved = np.maximum.accumulate(edges + np.interp(edges, centres, displacement_mm[i, :, k]))
        total = np.r_[0, np.cumsum(columns[i, :, k])]
        out[i, :, k] = np.diff(np.interp(edges[::2], moved, total)) / 2
    return out


def rows() -> list[Row]:
    """Rows of this benchmark."""
    grid = Grid(SHAPE, np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))
    has_fsl = not absent(["topup"])
    result = []
    for seed, move in ((1, False), (2, False), (1, True)):
        pair = make(seed, move)
        made: dict[str, Float] = {}

        def ours(pair: Pair = pair, made: dict[str, Float] = made) -> None:
            found = estimate((pair.one, pair.two), (1.0, -1.0), grid, 1, THREADS)
            made["somite"] = found.displacement * VOXEL_MM

        def theirs(pair: Pair = pair, made: dict[str, Float] = made) -> None:
            with tempfile.TemporaryDirectory() as scratch:
                context = Context(Path(scratch), threads=THREADS)
                field, _ = run_topup((pair.one, pair.two), ("j", "j-"), (0.05, 0.05), grid, context)
            made["topup"] = field * 0.05 * VOXEL_MM

        seconds = best_seconds({"somite": ours} | ({"topup": theirs} if has_fsl else {}), repeats=1)
        errors = {name: np.abs(f - pair.field_mm)[pair.brain] for name, f in made.items()}
        case = f"seed {seed}" + (", moved by 1 mm and 1 degree" if move else "")
        note = "" if has_fsl else "topup is not installed"
        for what, value, goal in (
            ("mean", np.mean, 0.046),
            ("99th percentile", lambda e: np.percentile(e, 99), 0.20),
        ):
            result.append(
                Row(NAME, f"error of the displacement, {what}, {case}", "mm", float(value(errors["somite"])),
                    at_most=None if move else goal, note=note)
            )  # fmt: skip
            if has_fsl:
                theirs_error = float(value(errors["topup"]))
                result.append(Row(NAME, f"the same, topup's, {what}, {case}", "mm", theirs_error))
        size = "x".join(map(str, SHAPE))
        result.append(Row(NAME, f"time, {size}, {case}", "s", seconds["somite"], at_most=10.0, note=note))
    return result
