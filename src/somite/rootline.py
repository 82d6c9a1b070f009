"""The centreline of a nerve root, counted from where it leaves the dural sac, away from the spinal canal.

The dural exit is the point where the centreline crosses the border of the label of the canal, or a landmark.
Where there is neither there is no origin, and the reason is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import binary_dilation, distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from somite.centreline import Centreline, Floats, NoCentreline, through_voxels
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.segments import NA, Segment, Word

Mask = NDArray[np.bool_]

_SMOOTH_MM = 40.0
_BORDER_MM = 14.0
"""Radius of the ball in which the border of the canal is taken for a quadric."""
_NEAR_MM = 5.0
"""Standard deviation of the weights in it: where no quadric fits all of it, what is near counts."""
_RIDGE = 1e-7
_ROUNDS = 60


class RootOptions(BaseModel):
    """How the centreline of a root is laid, and where it begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    canal: Word = "canal"
    """Region of the labels of the spinal canal, in which the roots lie before the dural exit."""
    exit_reach_mm: float = Field(5.0, ge=0, le=50)
    """How far before its label a root is continued, straight, to find where it crosses the canal's border."""
    canal_close_mm: float = Field(4.0, ge=0, le=20)
    """Gaps of less than twice this are closed in the canal: those that the roots' labels leave in it."""
    landmark_reach_mm: float = Field(5.0, gt=0, le=50)
    """A landmark further than this from the centreline of its root is not used."""
    smooth_mm: float = Field(_SMOOTH_MM, gt=0, le=200)
    """Bends of the centreline shorter than this are smoothed away: half of a wave of this length is kept."""


@dataclass(frozen=True)
class Canal:
    """The label of the spinal canal on its grid."""

    mask: Mask
    grid: Grid
    close_mm: float
    roots: Mask
    """The labels of all roots (x, y, z): they take voxels of the canal, and hide its border."""

    def around(self, points: Floats, root: Mask, margin_mm: float) -> tuple[NDArray[np.float32], Floats]:
        """The canal without the gap that the root leaves in it, in a box around `points` (n, 3).

        Returns:
            1 inside, 0 outside (x, y, z), and the index (3,) of its first voxel.
        """
        grid = self.grid
        inverse = np.linalg.inv(grid.affine)
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        margin = margin_mm / grid.voxel_mm
        low = np.clip(np.floor(voxels.min(0) - margin), 0, np.array(grid.shape) - 1).astype(int)
        high = np.clip(np.ceil(voxels.max(0) + margin) + 1, low + 1, grid.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        canal = self.mask[box]
        closed = _closed(canal, grid.voxel_mm, self.close_mm)
        inside = canal | (closed & root[box])
        return inside.astype(np.float32), low.astype(np.float64)

    def touched_by(self, where: Mask) -> Mask:
        """Which voxels (n,) of a structure (x, y, z) lie outside and share a face with one of the canal."""
        return np.asarray((binary_dilation(self.mask) & ~self.mask)[where])


def _closed(mask: Mask, voxel_mm: Floats, radius_mm: float) -> Mask:
    """Morphological closing by a ball of a radius in mm; what lies outside the array is not looked at."""
    if radius_mm == 0 or not mask.any() or mask.all():
        return mask
    dilated = distance_transform_edt(~mask, sampling=voxel_mm) <= radius_mm
    if dilated.all():
        return np.ones_like(mask)
    return np.asarray(distance_transform_edt(dilated, sampling=voxel_mm) > radius_mm) | mask


def points_of(mask: Mask, grid: Grid) -> Floats:
    """World positions (n, 3) of the centres of the voxels of a mask, mm."""
    return np.asarray(np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def root_line(mask: Mask, canal: Canal, landmark: Floats | None, options: RootOptions) -> Centreline:
    """Centreline of the root in `mask`, its arc lengths counted from the dural exit, distal ones above 0.

    Args:
        mask: (x, y, z) the whole root, as far as it is labelled.
        canal: on the same grid; it may be empty.
        landmark: of the dural exit (3,), world mm; it goes before the canal.
        options: how far to look.

    Raises:
        NoCentreline: with the reason, also where there is no dural exit.
    """
    grid = canal.grid
    curve = through_voxels(points_of(mask, grid), grid.voxel_mm3, smooth_mm=options.smooth_mm)
    return from_exit(curve, mask, canal, landmark, options)


def from_exit(
    curve: Centreline, mask: Mask, canal: Canal, landmark: Floats | None, options: RootOptions
) -> Centreline:
    """A centreline in any direction -> that from the dural exit outwards. Arguments as for `root_line`."""
    canal_points = points_of(canal.mask, canal.grid)
    if landmark is not None:
        return _from_landmark(curve, landmark, canal_points, options)
    if not len(canal_points):
        raise NoCentreline(f"no dural exit: neither a label of {options.canal} nor a landmark")
    curve = _outwards(curve, _distances(canal_points, curve))
    section = 1.5 * float(curve.project(points_of(mask, canal.grid))[1].mean())
    at = np.arange(curve.s[0] - options.exit_reach_mm, curve.s[-1], 0.1)
    points, tangents = curve.at(at)
    inside, first = canal.around(points, mask, options.canal_close_mm * 2 + section)
    share = _share(inside, first, canal.grid, points, tangents, section)
    leaves = np.flatnonzero((share[:-1] >= 0.5) & (share[1:] < 0.5))
    if not len(leaves):
        raise NoCentreline(
            f"no dural exit: the centreline does not cross the border of the {options.canal} within "
            f"{options.exit_reach_mm:g} mm of the label"
        )
    k = leaves[-1]
    roughly = float(at[k] + 0.1 * (share[k] - 0.5) / (share[k] - share[k + 1]))
    return curve.measured_from(_on_smooth_border(curve, roughly, mask, canal))


def _on_smooth_border(curve: Centreline, roughly: float, root: Mask, canal: Canal) -> float:
    """Arc length where the curve crosses a smooth border of the canal, near where it crosses its voxels.

    The border is the quadric that best parts the voxels in and out of the canal around the crossing, those of
    roots left out: finer than a voxel, and without the gaps that roots leave. Where there is no such border
    nearby, the crossing stays where it is.
    """
    grid, centre = canal.grid, curve.at(np.array([roughly]))[0][0]
    inverse = np.linalg.inv(grid.affine)
    middle = inverse[:3, :3] @ centre + inverse[:3, 3]
    reach = _BORDER_MM * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.clip(np.floor(middle - reach), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, 0, grid.shape).astype(int)
    index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3)
    points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3] - centre
    place = tuple(index.T)
    hidden = canal.roots[place] | (root[place] & ~canal.mask[place])
    seen = (np.linalg.norm(points, axis=1) <= _BORDER_MM) & ~hidden
    points, inside = points[seen], canal.mask[place][seen]
    if min(inside.sum(), (~inside).sum()) < 20:
        return roughly
    near = np.exp(-0.5 * (points**2).sum(1) / _NEAR_MM**2)
    weights = _logistic(_quadric(points), inside, near)
    at = roughly + np.arange(-3.0, 3.05, 0.05)
    value = _quadric(curve.at(at)[0] - centre) @ weights
    leaves = np.flatnonzero((value[:-1] > 0) & (value[1:] <= 0))
    if not len(leaves):
        return roughly
    k = leaves[np.abs(at[leaves] - roughly).argmin()]
    return float(at[k] + 0.05 * value[k] / (value[k] - value[k + 1]))


def _quadric(points: Floats) -> Floats:
    """Monomials up to the second degree (n, 10) of points (n, 3) in mm about the centre."""
    x, y, z = (points / _BORDER_MM).T
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, y * z, z * x], axis=1)


def _logistic(features: Floats, inside: Mask, importance: Floats) -> Floats:
    """Weights (k,) of a logistic regression with a very small ridge, by Newton's method with halved steps.

    Where a border parts all voxels, so small a ridge leaves the one that is furthest from the voxels on
    either side: its error falls with the number of voxels, not with the root of it. Where none does, the
    likelihood decides.
    """
    ridge = _RIDGE * importance.sum()

    def gain(weights: Floats) -> float:
        value = features @ weights
        likelihood = importance * (np.where(inside, value, 0.0) - np.logaddexp(0.0, value))
        return float(likelihood.sum() - 0.5 * ridge * weights @ weights)

    weights = np.zeros(features.shape[1])
    reached = gain(weights)
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        slope = features.T @ (importance * (inside - chance)) - ridge * weights
        spread = (importance * chance * (1 - chance))[:, None] * features
        step = np.linalg.solve(features.T @ spread + ridge * np.eye(len(weights)), slope)
        while (now := gain(weights + step)) < reached and np.abs(step).max() > 1e-6:
            step = step / 2
        weights, gained, reached = weights + step, now - reached, now
        if gained < 1e-9 * importance.sum():
            break
    return weights


def _from_landmark(
    curve: Centreline, landmark: Floats, canal_points: Floats, options: RootOptions
) -> Centreline:
    distance = float(curve.project(landmark[None])[1][0])
    if distance > options.landmark_reach_mm:
        raise NoCentreline(
            f"no dural exit: the landmark lies {distance:.1f} mm from the centreline, "
            f"landmark_reach_mm is {options.landmark_reach_mm:g}"
        )
    if len(canal_points):
        curve = _outwards(curve, _distances(canal_points, curve))
    else:
        curve = _outwards(curve, np.linalg.norm(curve.points[[0, -1]] - landmark, axis=1))
    return curve.measured_from(float(curve.project(landmark[None])[0][0]))


def _distances(points: Floats, curve: Centreline) -> Floats:
    """Distance (2,) of the ends of a curve from the nearest of some points (n, 3)."""
    return np.asarray(cKDTree(points).query(curve.points[[0, -1]])[0], np.float64)


def _outwards(curve: Centreline, end_distances: Floats) -> Centreline:
    """The curve from the end that is nearer to something to the one that is further from it."""
    return curve if end_distances[0] <= end_distances[1] else curve.reversed()


def _share(
    inside: NDArray[np.float32], first: Floats, grid: Grid, points: Floats, tangents: Floats, radius: float
) -> Floats:
    """Part (n,) of the cross sections of a tube around `points` (n, 3) that lies inside, 0 to 1."""
    angle = np.arange(12) * np.pi / 6
    rings = [np.zeros((1, 2))] + [
        radius * r * np.stack([np.cos(angle), np.sin(angle)], axis=1) for r in (0.45, 0.8)
    ]
    offsets = np.concatenate(rings)
    helper = np.eye(3)[np.abs(tangents).argmin(1)]
    u = np.cross(tangents, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(tangents, u)
    spread = points[:, None] + offsets[:, :1] * u[:, None] + offsets[:, 1:] * v[:, None]
    inverse = np.linalg.inv(grid.affine)
    voxels = spread @ inverse[:3, :3].T + inverse[:3, 3] - first
    values = map_coordinates(inside, np.moveaxis(voxels, -1, 0), order=1, mode="nearest")
    return np.asarray(values.mean(1), np.float64)


def read_landmarks(path: Path) -> dict[Segment, Floats]:
    """Landmarks of the dural exits: a TSV with the columns x, y, z (world mm), region, side, level.

    Returns:
        Segment (without its part) -> point (3,).

    Raises:
        DatasetError: `LANDMARK_TABLE`, the file cannot be read, a column is missing, a coordinate is not a
            number, or a root has two landmarks.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(_landmark_problem("the landmarks cannot be read", str(path), error)) from error
    header = [name.strip() for name in lines[0].split("\t")] if lines else []
    wanted = ("x", "y", "z", "region", "side", "level")
    if missing := [name for name in wanted if name not in header]:
        what = f"the landmarks lack a column: {', '.join(missing)}"
        raise DatasetError(_landmark_problem(what, f"{path}, line 1", ", ".join(header) or "no header"))
    found: dict[Segment, Floats] = {}
    problems = []
    for number, line in enumerate(lines[1:], start=2):
        fields = ["" if text.strip() == NA else text.strip() for text in line.split("\t")]
        row = dict(zip(header, fields, strict=False))
        where = Segment(row.get("region", ""), row.get("side", ""), row.get("level", ""))
        try:
            point = np.array([float(row[axis]) for axis in "xyz"])
        except (KeyError, ValueError):
            point = np.full(3, np.nan)
        if not np.isfinite(point).all():
            problems.append(_landmark_problem("x, y, z are not numbers", f"{path}, line {number}", line))
        elif where in found:
            problems.append(_landmark_problem("two landmarks of one root", f"{path}, line {number}", where))
        found[where] = point
    if problems:
        raise DatasetError.of(problems)
    return found


def _landmark_problem(what: str, where: str, found: object) -> Problem:
    return Problem(
        "LANDMARK_TABLE",
        what,
        where=where,
        found=str(found),
        expected="tab-separated: x, y, z in world mm of the diffusion series, region, side, level",
        do="correct the TSV of the landmarks",
    )
