"""Registration of two images of other contrast and other grids: rigid or affine, and along one axis.

The model: the tissue that the fixed image (the diffusion series) shows at a world point u lies in the moving
image (the anatomy) at T (u + e(u) a), with T a linear transform, a the axis of phase encoding, and e a smooth
displacement in mm, 0 unless it is asked for. All of it is found by the most mutual information, with exact
derivatives (Mattes et al., IEEE TMI 2003; Thevenaz and Unser, IEEE TIP 2000), from coarse to fine; the
displacement is a cubic B-spline (Rueckert et al., IEEE TMI 1999) held smooth by its bending energy.

World RAS+ mm. Sums are made on one thread, in one order. Knows arrays, no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from somite.images import Grid
from somite.position import Aligned, Comparison, Float, Image
from somite.registration import Region, about, displacement_mm, small_motion
from somite.rivals import APART_MM, aside, best, spaced, starts

Linear = Literal["rigid", "affine"]

_WIDTHS_MM = (10.0, 5.0, 2.5, 1.5)
"""Smoothing of the linear levels, full width at half maximum."""
_FIELD_LEVELS = ((40.0, 6.0), (25.0, 4.0), (15.0, 2.0), (15.0, 1.5))
"""Distance of the displacement's knots, and smoothing, mm."""
_BENDING = 30.0
"""Information, nats, that a mean squared second derivative of 1 per mm2 costs."""
_HELD_MM, _HELD_NATS = 5.0, 0.01
"""What the linear part may change in a level: far steps are the search's, and a coarse level may drift."""
_UNIT_MM = 3.0
"""Linear parameters are counted in this length beside the coefficients of the displacement in mm: at 30 and
more the climb follows the linear part alone and ends before the displacement is found."""
_STRETCH = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _motion(parameters: Float, region: Region) -> Float:
    """Rigid of the first parameters, after a symmetric stretch of six more: all in mm at the radius."""
    rigid = len(region.free)
    if len(parameters) == rigid:
        return small_motion(parameters, region)
    stretch = np.eye(3)
    for (i, j), size in zip(_STRETCH, parameters[rigid:] / region.radius, strict=True):
        stretch[i, j] += size
        stretch[j, i] += size * (i != j)
    stretch = region.axes @ stretch @ region.axes.T
    return small_motion(parameters[:rigid], region) @ about(region.centre, stretch, np.zeros(3))


def _changes(parameters: Float, region: Region, step: float = 1e-4) -> Iterator[Float]:
    """Derivative (3, 4) of the motion to each parameter."""
    for column in np.eye(len(parameters)) * step:
        yield (_motion(parameters + column, region) - _motion(parameters - column, region))[:3] / (2 * step)


@dataclass(frozen=True)
class _Spline:
    """A cubic B-spline along each axis of a grid, and its bending energy."""

    bases: tuple[Float, ...]
    """(n, k) per axis."""
    knots_mm: tuple[float, ...]
    voxel_mm3: float

    @classmethod
    def on(cls, grid: Grid, knots_mm: float) -> _Spline:
        """Knots at most every voxel."""
        steps = [max(knots_mm / size, 1.0) for size in grid.voxel_mm]
        bases = []
        for n, step in zip(grid.shape, steps, strict=True):
            knots = np.arange(int(np.ceil((n - 1) / step)) + 3) - 1
            t = np.abs(np.arange(n)[:, None] / step - knots)
            bases.append(np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6))
        sizes = tuple(float(s * v) for s, v in zip(steps, grid.voxel_mm, strict=True))
        return cls(tuple(bases), sizes, grid.voxel_mm3)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the coefficients."""
        return tuple(basis.shape[1] for basis in self.bases)

    def values(self, coefficients: Float) -> Float:
        """On the grid."""
        return _along(coefficients, self.bases)

    def gathered(self, slopes: Float) -> Float:
        """Slopes to the coefficients, of slopes to the values on the grid."""
        return _along(slopes, [basis.T for basis in self.bases])

    def bending(self, coefficients: Float) -> tuple[float, Float]:
        """Integral of the squared second derivatives, mm2 per mm4 times mm3, and its slope."""
        pull = np.zeros(self.shape)
        for orders, weight in (((2, 0, 0), 1), ((0, 2, 0), 1), ((0, 0, 2), 1), ((1, 1, 0), 2), ((1, 0, 1), 2),
                               ((0, 1, 1), 2)):  # fmt: skip
            ways = [
                np.diff(np.eye(k), order, axis=0) / mm**order
                for k, order, mm in zip(self.shape, orders, self.knots_mm, strict=True)
            ]
            bent = _along(coefficients, ways)
            pull += 2 * weight * _along(bent, [way.T for way in ways])
        pull *= float(np.prod(self.knots_mm))
        return float((pull * coefficients).sum()) / 2, pull


def _along(values: Float, matrices: Sequence[Float]) -> Float:
    """A matrix applied to each of three axes."""
    for matrix in matrices:
        values = np.moveaxis(np.tensordot(values, matrix, (0, 1)), -1, 2)
    return np.asarray(values)


def _climb(
    comparison: Comparison, found: Aligned, kind: Linear, knots_mm: float | None, most_steps: int
) -> Aligned:
    """One level: the linear part, and a change of the displacement where `knots_mm` is given."""
    region = comparison.region
    n_linear = len(region.free) + (len(_STRETCH) if kind == "affine" else 0)
    spline = None if knots_mm is None else _Spline.on(found.grid, knots_mm)
    base = comparison.displaced(found)
    # What lies beyond the edge of the moving image agrees with nothing, and would pull the rest inwards.
    rows = np.flatnonzero(comparison.inside(base, found.transform))
    base = base[rows]
    direction, place = found.grid.axes[:, found.axis], tuple(region.voxels[rows].T)
    weight = _BENDING / (len(region.voxels) * found.grid.voxel_mm3)
    held = _HELD_NATS / _HELD_MM**2

    def cost(unknowns: Float) -> tuple[float, Float]:
        linear, points = unknowns[:n_linear] * _UNIT_MM, base
        if spline is not None:
            points = (
                base + spline.values(unknowns[n_linear:].reshape(spline.shape))[place][:, None] * direction
            )
        transform = found.transform @ _motion(linear, region)
        information, pull = comparison.information(points, transform, rows)
        by_matrix = (comparison.to_moving @ found.transform)[:3, :3].T @ pull.T
        by_matrix = by_matrix @ np.column_stack([points, np.ones(len(points))])
        slopes = [np.array([(by_matrix * change).sum() for change in _changes(linear, region)]) * _UNIT_MM]
        cost_beside = held * float(linear @ linear) / 2
        slopes[0] -= held * linear * _UNIT_MM
        if spline is not None:
            on_grid = np.zeros(found.grid.shape)
            on_grid[place] = pull @ ((comparison.to_moving @ transform)[:3, :3] @ direction)
            bent, stiff = spline.bending(unknowns[n_linear:].reshape(spline.shape))
            slopes.append((spline.gathered(on_grid) - weight * stiff).ravel())
            cost_beside += weight * bent
        return cost_beside - information, -np.concatenate(slopes)

    from scipy.optimize import minimize

    start = np.zeros(n_linear + (int(np.prod(spline.shape)) if spline else 0))
    best = minimize(
        cost,
        start,
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": most_steps, "ftol": 1e-8, "gtol": 1e-6, "maxcor": 20},
    )
    moved = found.transform @ _motion(best.x[:n_linear] * _UNIT_MM, region)
    displacement = found.displacement
    if spline is not None:
        change = spline.values(best.x[n_linear:].reshape(spline.shape)).astype(np.float32)
        displacement = change if displacement is None else displacement + change
    return replace(found, transform=moved, displacement=displacement, information=-float(best.fun))


def align(
    fixed: Image,
    moving: Image,
    mask: NDArray[np.bool_],
    kind: Linear = "rigid",
    axis: int | None = None,
    reach_mm: float = 20.0,
) -> Aligned:
    """Where the points of `fixed` lie in `moving`.

    Args:
        fixed: the diffusion series' mean b=0 volume, FA, or another image of it.
        moving: of any contrast, on any grid.
        mask: (x, y, z) of `fixed`, where the images are compared; empty: everywhere.
        kind: the linear part.
        axis: voxel axis of `fixed` along which a displacement is looked for; None: for none.
        reach_mm: how far from the headers' position, and from that where the centres of brightness meet,
            the search for a start goes.
    """
    with threadpool_limits(1):
        return _align(fixed, moving, mask, kind, axis, reach_mm)


def _align(
    fixed: Image, moving: Image, mask: NDArray[np.bool_], kind: Linear, axis: int | None, reach_mm: float
) -> Aligned:
    coarse = Comparison(fixed, moving, mask, _WIDTHS_MM[0], 6000)
    none = Aligned(fixed.grid, np.eye(4), axis=axis or 0)
    tried = starts(none, coarse, fixed, moving, mask, reach_mm)
    tried = spaced([_climb(coarse, one, kind, None, 30) for one in tried], coarse, APART_MM)[:5]
    fine = Comparison(fixed, moving, mask, _WIDTHS_MM[1], 12_000)
    beside = [_climb(fine, one, kind, None, 30) for one in aside(tried, fine, reach_mm)]
    tried = spaced(beside, fine, APART_MM)
    # Blurred more than this, a wrong place can agree better than the right one.
    judge = Comparison(fixed, moving, mask, _WIDTHS_MM[2], 20_000)
    tried = best([_climb(judge, one, kind, None, 30) for one in tried], judge)
    if axis is None:
        fine = Comparison(fixed, moving, mask, _WIDTHS_MM[3], 40_000)
        return _judged(_climb(fine, tried[0], kind, None, 50), fine)
    tried = tried[:3]
    for number, (knots_mm, width) in enumerate(_FIELD_LEVELS):
        fine = Comparison(fixed, moving, mask, width, 20_000 if len(tried) > 1 else 60_000)
        tried = [_climb(fine, one, kind, knots_mm, 80) for one in tried]
        if number == 1:
            tried = best(tried, judge)[:1]
    return _judged(tried[0], fine)


def _judged(found: Aligned, comparison: Comparison) -> Aligned:
    """With the figures that tell a good registration from a bad one."""
    points = comparison.displaced(found)
    nearby = []
    for column in (*np.eye(3), *-np.eye(3)):
        aside = about(np.zeros(3), np.eye(3), found.grid.axes @ column * 10.0)
        nearby.append(comparison.information(points, found.transform @ aside)[0])
    return replace(
        found,
        information=comparison.information(points, found.transform)[0],
        at_start=comparison.information(comparison.points, np.eye(4))[0],
        nearby=max(nearby),
        overlap=comparison.overlap(found.transform),
        moved_mm=displacement_mm(found.transform, comparison.region),
    )
