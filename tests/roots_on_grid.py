"""The roots and the canal of the lumbar phantom as labels drawn on any grid, with the truth of the voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from somite.images import Grid
from somite.phantom import lumbar, roots
from somite.phantom.anatomy import SIDES
from somite.phantom.lumbar import Build, lumbar_grid
from somite.segments import Label, Segment

ORIENTATIONS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "LAS": ("LAS", (3, 0, 0)),
    "PSR": ("PSR", (20, -15, 10)),
    "SRA": ("SRA", (0, 0, 0)),
}
"""Three ways to store the same body: axes, and the tilt of the grid in degrees."""
CANAL = 99


def grid_of(
    orientation: str, voxel_mm: float | Sequence[float], size_mm: Sequence[float] = (90, 60, 62)
) -> Grid:
    """A grid around the roots."""
    axes, tilt = ORIENTATIONS[orientation]
    return lumbar_grid(voxel_mm, axes, tilt, size_mm)


@dataclass(frozen=True)
class Drawn:
    """A root drawn on a grid: the voxels whose centres lie in it, and their true arc lengths."""

    segment: Segment
    root: roots.Root
    points: np.ndarray
    """Its centreline (k, 3), world mm, 0.1 mm apart from the dural exit."""
    mask: np.ndarray
    s: np.ndarray
    """Arc length (x, y, z); of meaning within `mask`."""


def draw(grid: Grid, seed: int = 1) -> tuple[list[Drawn], np.ndarray, Build]:
    """The roots of the phantom of a seed, and the canal (x, y, z) around them."""
    build = Build.draw(np.random.default_rng([seed, 0]))
    world = np.indices(grid.shape).reshape(3, -1)
    world = grid.affine[:3, :3] @ world + grid.affine[:3, 3:]
    inverse = np.linalg.inv(build.pose)
    points = inverse[:3, :3] @ world + inverse[:3, 3:]
    canal = np.hypot(points[0], points[1] - lumbar.CANAL_Y) <= build.canal_radius
    drawn = []
    for number, (level, side) in enumerate((v, s) for v in lumbar.NERVE_LEVELS for s in SIDES):
        root = grow(build, number, side, lumbar.EXIT_Z[lumbar.NERVE_LEVELS.index(level)])
        index, inside = root.nearest(points)
        canal &= ~inside
        curve = root.points @ build.pose[:3, :3].T + build.pose[:3, 3]
        shaped = inside.reshape(grid.shape), root.s[index].reshape(grid.shape)
        drawn.append(Drawn(Segment("nerve_root", side, level), root, curve, *shaped))
    return drawn, canal.reshape(grid.shape), build


def grow(build: Build, number: int, side: str, z: float) -> roots.Root:
    """The root of the phantom, as `anatomy` makes it."""
    sign, angle = SIDES[side], np.deg2rad(20.0)
    mirror = np.array([sign, 1.0, 1.0])
    start = (
        sign * build.canal_radius * np.cos(angle),
        lumbar.CANAL_Y + build.canal_radius * np.sin(angle),
        z,
    )
    first, last = np.array([0.60, 0.12, -0.72]) * mirror, np.array([0.78, 0.42, -0.38]) * mirror
    nudge = build.takeoff[number]
    return roots.grow(start, first + nudge[0], last + nudge[1], build.drg_diameter[number])


def labelled(drawn: Sequence[Drawn], canal: np.ndarray) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Label image (x, y, z) and table: whole roots 1, 2, ... and the canal."""
    labels = np.where(canal, CANAL, 0).astype(np.int32)
    table = [Label(CANAL, "canal", Segment("canal", "midline"))]
    for index, one in enumerate(drawn, start=1):
        labels[one.mask] = index
        table.append(Label(index, str(one.segment), one.segment))
    return labels, tuple(table)


def write_table(path, table: Sequence[Label]):
    """Write a label table as TSV; returns `path`."""
    lines = ["index\tname\tregion\tside\tlevel\tsegment"]
    for one in table:
        s = one.segment
        fields = (str(one.index), one.name, s.region, s.side, s.level, s.segment)
        lines.append("\t".join(field or "n/a" for field in fields))
    path.write_text("\n".join(lines) + "\n")
    return path


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Twice the common voxels over all."""
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
