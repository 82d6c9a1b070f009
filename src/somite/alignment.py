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
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from somite.images import Grid
from somite.registration import (
    Binning,
    Region,
    about,
    displacement_mm,
    mutual_information,
    region_of,
    scattered,
    small_motion,
    smooth,
)
from somite.sampling import coefficients, sample, sample_slopes

Float = NDArray[np.float64]
Volume = NDArray[np.floating[Any]]
Linear = Literal["rigid", "affine"]

_WIDTHS_MM = (10.0, 5.0, 2.5, 1.5)
"""Smoothing of the linear levels, full width at half maximum."""
_FIELD_LEVELS = ((40.0, 6.0), (25.0, 4.0), (15.0, 2.0), (15.0, 1.5))
"""Distance of the displacement's knots, and smoothing, mm."""
_BENDING = 30.0
"""Information, nats, that a mean squared second derivative of 1 per mm2 costs."""
_SEARCH_STEP_MM = 10.0
_ASIDE_MM = 4.0
_KEPT = 5
"""Starts of the search that are followed at the coarsest level."""
_LEAST_OVERLAP = 0.5
_PRIOR_MM, _PRIOR_NATS, _OUTSIDE_NATS = 20.0, 0.04, 0.1
"""How far the headers may be off; what a start two thirds as far again must have more of information; and
what one must that has the whole mask outside the moving image."""
_HELD_MM, _HELD_NATS = 5.0, 0.01
"""What the linear part may change in a level: far steps are the search's, and a coarse level may drift."""
_UNIT_MM = 3.0
"""Linear parameters are counted in this length beside the coefficients of the displacement in mm: at 30 and
more the climb follows the linear part alone and ends before the displacement is found."""
_STRETCH = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class Image:
    """Voxels (x, y, z) and where they lie."""

    data: Volume
    grid: Grid


@dataclass(frozen=True)
class Aligned:
    """Where the points of the fixed image lie in the moving one, and how good that is."""

    grid: Grid
    """Of the fixed image."""
    transform: Float
    """(4, 4), T."""
    axis: int = 0
    """Voxel axis of the fixed grid along which the displacement is."""
    displacement: NDArray[np.float32] | None = None
    """(x, y, z) mm, e; None for 0."""
    information: float = 0.0
    """Nats, at the finest level."""
    at_start: float = 0.0
    """That of the headers alone."""
    nearby: float = 0.0
    """The largest of six shifts by 10 mm from where it ended: a peak stands out from it."""
    overlap: float = 0.0
    """Fraction of the fixed image's mask that lies in the moving image."""
    moved_mm: float = 0.0
    """Mean distance that the transform moves the mask by."""

    def points(self) -> Float:
        """(x, y, z, 3) world mm in the moving image of every voxel of the fixed grid."""
        at = np.moveaxis(np.indices(self.grid.shape), 0, -1) @ self.grid.affine[:3, :3].T
        at = at + self.grid.affine[:3, 3]
        if self.displacement is not None:
            at += self.displacement[..., None] * self.grid.axes[:, self.axis]
        return np.asarray(at @ self.transform[:3, :3].T + self.transform[:3, 3])


class _Comparison:
    """The fixed image's bins at its points, and the moving image as a spline, both smoothed alike."""

    def __init__(
        self, fixed: Image, moving: Image, mask: NDArray[np.bool_], fwhm_mm: float, most: int
    ) -> None:
        self.region = region_of(mask, fixed.grid, most)
        voxel_mm = float(np.prod(fixed.grid.voxel_mm) ** (1 / 3))
        # Between the voxels, where noise has no peak at no motion (Thevenaz et al., IEEE TIP 2008).
        at = self.region.points + scattered(self.region.points) * voxel_mm
        to_fixed, top = self.region.to_voxels, np.array(fixed.grid.shape) - 1
        voxels = np.clip(at @ to_fixed[:3, :3].T + to_fixed[:3, 3], 0, top)
        self.points = np.asarray(voxels @ fixed.grid.affine[:3, :3].T + fixed.grid.affine[:3, 3])
        values = sample(coefficients(smooth(fixed.data, fwhm_mm, fixed.grid)), voxels)[0]
        self.n_bins = int(np.clip(np.sqrt(len(values)) / 2, 8, 48))
        scaled = Binning.of(values, self.n_bins).scale(values)
        self.bins = np.clip(scaled, 0, self.n_bins - 1).astype(np.intp)
        blurred = smooth(moving.data, fwhm_mm, moving.grid)
        self.binning = Binning.of(blurred, self.n_bins)
        self.spline = coefficients(blurred)
        self.to_moving = np.linalg.inv(moving.grid.affine)
        self.top = np.array(moving.grid.shape) - 1

    def information(self, points: Float, transform: Float) -> tuple[float, Float]:
        """Mutual information, nats, of points (n, 3) through a transform; its slope (n, 3) per moving voxel.

        Beyond the edge of the moving image its nearest value stands.
        """
        matrix = self.to_moving @ transform
        wanted = points @ matrix[:3, :3].T + matrix[:3, 3]
        held = np.clip(wanted, 0, self.top)
        values, slopes = sample_slopes(self.spline, held)
        scaled, last = self.binning.scale(values), self.n_bins - 1
        found, pull = mutual_information(self.bins, np.clip(scaled, 0, last - 1e-6), self.n_bins)
        pull = pull * self.binning.per_unit * ((scaled > 0) & (scaled < last))
        return found, np.asarray((held == wanted) * slopes * pull[:, None], np.float64)

    def overlap(self, transform: Float) -> float:
        """Fraction of the points that a transform takes into the moving image."""
        matrix = self.to_moving @ transform
        wanted = self.points @ matrix[:3, :3].T + matrix[:3, 3]
        return float(((wanted >= -0.5) & (wanted <= self.top + 0.5)).all(1).mean())


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
    comparison: _Comparison, found: Aligned, kind: Linear, knots_mm: float | None, most_steps: int
) -> Aligned:
    """One level: the linear part, and a change of the displacement where `knots_mm` is given."""
    region = comparison.region
    n_linear = len(region.free) + (len(_STRETCH) if kind == "affine" else 0)
    spline = None if knots_mm is None else _Spline.on(found.grid, knots_mm)
    direction, place = found.grid.axes[:, found.axis], tuple(region.voxels.T)
    base = comparison.points
    if found.displacement is not None:
        base = base + found.displacement[place].astype(np.float64)[:, None] * direction
    weight = _BENDING / (len(region.voxels) * found.grid.voxel_mm3)
    held = _HELD_NATS / _HELD_MM**2

    def cost(unknowns: Float) -> tuple[float, Float]:
        linear, points = unknowns[:n_linear] * _UNIT_MM, base
        if spline is not None:
            points = (
                base + spline.values(unknowns[n_linear:].reshape(spline.shape))[place][:, None] * direction
            )
        transform = found.transform @ _motion(linear, region)
        information, pull = comparison.information(points, transform)
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


def _starts(
    comparison: _Comparison, fixed: Image, moving: Image, mask: NDArray[np.bool_], reach_mm: float
) -> list[Float]:
    """Shifts to begin from: the headers' own, and the best of a lattice about it and about the centres."""
    bright = [np.asarray(image.data, np.float64).clip(0) for image in (fixed, moving)]
    centres = []
    for image, weights in zip((fixed, moving), (bright[0] * mask, bright[1]), strict=True):
        middle = [(weights.sum(tuple({0, 1, 2} - {a})) @ np.arange(weights.shape[a])) for a in range(3)]
        middle = np.array(middle) / max(weights.sum(), 1e-30)
        centres.append(image.grid.affine[:3, :3] @ middle + image.grid.affine[:3, 3])
    steps = np.arange(-np.floor(reach_mm / _SEARCH_STEP_MM), np.floor(reach_mm / _SEARCH_STEP_MM) + 1)
    lattice = fixed.grid.axes @ (np.array(list(product(steps, steps, steps))).T * _SEARCH_STEP_MM)
    header = about(np.zeros(3), np.eye(3), np.zeros(3))
    tried = []
    for origin in (np.zeros(3), centres[1] - centres[0]):
        for shift in lattice.T:
            start = about(np.zeros(3), np.eye(3), origin + shift)
            if comparison.overlap(start) >= _LEAST_OVERLAP:
                tried.append((comparison.information(comparison.points, start)[0], start))
    tried.sort(key=lambda one: -one[0])
    return [header, *(start for _, start in tried[:_KEPT])]


def _best(tried: Sequence[Aligned], comparison: _Comparison, most: int) -> list[Aligned]:
    """The most believable, each at least 3 mm from the others.

    What is repeated along the spine agrees with itself one level further too, and well where it leaves the
    image: what lies outside counts against it, and so does a long way from the headers' position.
    """

    def belief(one: Aligned) -> float:
        moved = displacement_mm(one.transform, comparison.region)
        outside = 1 - comparison.overlap(one.transform)
        return one.information - _OUTSIDE_NATS * outside - _PRIOR_NATS * (moved / _PRIOR_MM) ** 2 / 2

    kept: list[Aligned] = []
    for one in sorted(tried, key=belief, reverse=True):
        back = [np.linalg.inv(other.transform) @ one.transform for other in kept]
        if all(displacement_mm(change, comparison.region) >= 3.0 for change in back):
            kept.append(one)
    return kept[:most]


def _aside(tried: Sequence[Aligned], comparison: _Comparison, reach_mm: float) -> list[Aligned]:
    """Those tried, and the best of what lies beside them along each axis: where tissue hardly changes along
    the body, the coarsest level does not tell how far along."""
    beside = list(tried)
    steps = np.arange(_ASIDE_MM, reach_mm + 1e-6, _ASIDE_MM)
    for one, axis, shift in product(tried, comparison.region.axes.T, (*steps, *-steps)):
        transform = one.transform @ about(np.zeros(3), np.eye(3), axis * shift)
        information = comparison.information(comparison.points, transform)[0]
        beside.append(replace(one, transform=transform, information=information))
    return _best(beside, comparison, _KEPT)


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
    coarse = _Comparison(fixed, moving, mask, _WIDTHS_MM[0], 6000)
    none = Aligned(fixed.grid, np.eye(4), axis=axis or 0)
    tried = [replace(none, transform=start) for start in _starts(coarse, fixed, moving, mask, reach_mm)]
    tried = _best([_climb(coarse, one, kind, None, 30) for one in tried], coarse, 2)
    fine = _Comparison(fixed, moving, mask, _WIDTHS_MM[1], 12_000)
    tried = _best([_climb(fine, one, kind, None, 30) for one in _aside(tried, fine, reach_mm)], fine, 4)
    fine = _Comparison(fixed, moving, mask, _WIDTHS_MM[2], 20_000)
    tried = _best([_climb(fine, one, kind, None, 30) for one in tried], fine, 1 if axis is None else 3)
    if axis is None:
        fine = _Comparison(fixed, moving, mask, _WIDTHS_MM[3], 40_000)
        return _judged(_climb(fine, tried[0], kind, None, 50), fine)
    for (knots_mm, width), kept in zip(_FIELD_LEVELS, (3, 1, 1, 1), strict=True):
        fine = _Comparison(fixed, moving, mask, width, 20_000 if kept > 1 else 60_000)
        tried = _best([_climb(fine, one, kind, knots_mm, 80) for one in tried], fine, kept)
    return _judged(tried[0], fine)


def _judged(found: Aligned, comparison: _Comparison) -> Aligned:
    """With the figures that tell a good registration from a bad one."""
    points = comparison.points
    if found.displacement is not None:
        shift = found.displacement[tuple(comparison.region.voxels.T)].astype(np.float64)
        points = points + shift[:, None] * found.grid.axes[:, found.axis]
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
