"""Slices of images as people look at them: superior and anterior up, the patient's right on the left.

Slices are those of the voxels: nothing is resampled, and borders of voxels are borders in the picture. On an
oblique grid, axial, coronal and sagittal are the planes of the grid nearest to those of the world, and `tilt`
says how near. What is left and right is read from the affine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from somite.images import Grid

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)
_NORMAL: Mapping[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
# World axes down the rows and along the columns, both from + to -: superior or anterior is up, right is left.
_SHOWN: Mapping[Plane, tuple[int, int]] = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
_LETTERS = ("RAS", "LPI")

Box = tuple[slice, slice, slice]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """One slice: a plane, and the index of the slice along the voxel axis that the plane is normal to."""

    plane: Plane
    index: int


@dataclass(frozen=True)
class Marks:
    """What lies at the edges of a slice, as letters L, R, A, P, S, I."""

    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True)
class View:
    """How the voxels of a grid are turned for looking at them."""

    grid: Grid

    @cached_property
    def _axes(self) -> tuple[tuple[int, float], ...]:
        """World axis -> the voxel axis nearest to it, and its sign."""
        nearest = io_orientation(self.grid.affine)
        where = [int(np.flatnonzero(nearest[:, 0] == world)[0]) for world in range(3)]
        return tuple((axis, float(nearest[axis, 1])) for axis in where)

    def axis(self, plane: Plane) -> int:
        """The voxel axis that a plane is normal to."""
        return self._axes[_NORMAL[plane]][0]

    def steps(self, plane: Plane) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """Voxels (3,) that one step down the rows, and one along the columns, of a slice leads to."""
        found = []
        for world in _SHOWN[plane]:
            axis, sign = self._axes[world]
            step = np.zeros(3, np.int_)
            step[axis] = -1 if sign > 0 else 1
            found.append(step)
        return found[0], found[1]

    def first(self, cut: Cut) -> NDArray[np.int_]:
        """The voxel (3,) at the top left of a slice."""
        start = np.zeros(3, np.int_)
        for step in self.steps(cut.plane):
            if step.sum() < 0:
                start += (np.array(self.grid.shape) - 1) * (step != 0)
        start[self.axis(cut.plane)] = cut.index
        return start

    def take(self, volume: NDArray[Any], cut: Cut) -> NDArray[Any]:
        """The slice (rows, columns, ...) of a volume (i, j, k, ...)."""
        down, along = self.steps(cut.plane)
        axis, row, column = self.axis(cut.plane), int(np.flatnonzero(down)[0]), int(np.flatnonzero(along)[0])
        rest = volume.take(cut.index, axis)
        if row > column:
            rest = rest.swapaxes(0, 1)
        return np.asarray(rest[:: int(down[row]), :: int(along[column])])

    def pixel_mm(self, plane: Plane) -> tuple[float, float]:
        """Height and width of a voxel in a slice, mm."""
        height, width = (float(self.grid.voxel_mm[step != 0][0]) for step in self.steps(plane))
        return height, width

    def marks(self, plane: Plane) -> Marks:
        """What the affine says lies at the edges of a slice."""
        down, along = self.steps(plane)
        return Marks(self._letter(-along), self._letter(along), self._letter(-down), self._letter(down))

    def _letter(self, step: NDArray[np.int_]) -> str:
        way = self.grid.affine[:3, :3] @ step
        world = int(np.abs(way).argmax())
        return _LETTERS[0 if way[world] > 0 else 1][world]

    def tilt(self, plane: Plane) -> float:
        """Angle between the normal of the slices and the world axis nearest to it, degrees."""
        normal = self.grid.axes[:, self.axis(plane)]
        return math.degrees(math.acos(min(1.0, abs(float(normal[_NORMAL[plane]])))))

    def position(self, cut: Cut) -> float:
        """World coordinate of the middle of a slice along the world axis nearest to its normal, mm."""
        middle = (np.array(self.grid.shape) - 1) / 2
        middle[self.axis(cut.plane)] = cut.index
        return float((self.grid.affine[:3, :3] @ middle + self.grid.affine[:3, 3])[_NORMAL[cut.plane]])

    def described(self, cut: Cut) -> str:
        """`axial, z = -12 mm`."""
        return f"{cut.plane}, {'xyz'[_NORMAL[cut.plane]]} = {round(self.position(cut)) + 0} mm"

    def ordered(self, cuts: Iterable[Cut]) -> list[Cut]:
        """Slices of one plane from superior to inferior, anterior to posterior, right to left."""
        return sorted(cuts, key=self.position, reverse=True)


def box_around(inside: NDArray[np.bool_], voxel_mm: Floats, margin_mm: float) -> Box:
    """The voxels around what is inside, with a margin; all of them where nothing is."""
    found = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(inside.any(others))
        margin = math.ceil(margin_mm / voxel_mm[axis])
        n = inside.shape[axis]
        found.append(
            slice(max(0, int(where[0]) - margin), min(n, int(where[-1]) + 1 + margin))
            if len(where)
            else slice(0, n)
        )
    return found[0], found[1], found[2]


def cropped(grid: Grid, box: Box) -> Grid:
    """The grid of the voxels of a box."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [float(part.start) for part in box]
    shape = [part.stop - part.start for part in box]
    return Grid((shape[0], shape[1], shape[2]), affine)


_NO_MORE = 0.1
"""A further slice that shows no more than so much of a segment is not worth its room."""


def slices_through(labels: NDArray[np.integer[Any]], axis: int, count: int) -> list[int]:
    """At most `count` slices that together show the most of the segments, ascending.

    A segment is shown as well as the largest of its cross sections that is taken, relative to the largest
    that it has. Slices are taken one by one, each the one that adds most.

    Args:
        labels: (i, j, k), 0 outside.
        axis: that the slices are normal to.
        count: how many slices.
    """
    where = np.nonzero(labels > 0)
    values, which = np.unique(labels[where], return_inverse=True)
    n = labels.shape[axis]
    area = np.bincount(which.ravel() * n + where[axis], minlength=len(values) * n).reshape(len(values), n)
    share = area / area.max(1, keepdims=True) if len(values) else np.zeros((0, n))
    shown = np.zeros(len(values))
    taken: list[int] = []
    for _ in range(count):
        gain = np.maximum(share - shown[:, None], 0).sum(0)
        best = int(gain.argmax())
        if gain[best] <= _NO_MORE:
            break
        taken.append(best)
        shown = np.maximum(shown, share[:, best])
    return sorted(taken)


def slices_across(inside: NDArray[np.bool_], axis: int, count: int) -> list[int]:
    """At most `count` slices at equal distances through what is inside, ascending."""
    others = tuple(a for a in range(3) if a != axis)
    where = np.flatnonzero(inside.any(others))
    if not len(where):
        where = np.arange(inside.shape[axis])
    at = where[0] + (np.arange(count) + 0.5) / max(count, 1) * (where[-1] + 1 - where[0])
    return sorted({int(index) for index in at})


def chosen(
    view: View, counts: Mapping[Plane, int], inside: NDArray[np.bool_], labels: NDArray[Any] | None
) -> list[Cut]:
    """The slices to show, plane by plane: where the segments are, or evenly through what is inside."""
    cuts: list[Cut] = []
    for plane, count in counts.items():
        axis = view.axis(plane)
        found = [] if labels is None else slices_through(labels, axis, count)
        cuts += view.ordered(
            Cut(plane, index) for index in (found if found else slices_across(inside, axis, count))
        )
    return cuts


def window(values: NDArray[Any], low: float = 1.0, high: float = 99.5) -> tuple[float, float]:
    """Percentiles of the finite values between which greys are spread; 0 to 1 where there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    bottom, top = (float(x) for x in np.percentile(finite, (low, high)))
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


@dataclass(frozen=True)
class Greys:
    """How a signal becomes greys: limits of black and white, and the power between them."""

    limits: tuple[float, float]
    power: float = 1.0


_MIDDLE_GREY = 0.45
_LIGHTEST = 0.65
_LIGHTEST_PERCENTILE = 75
_LEAST_POWER = 0.3


def greys_of(values: NDArray[Any]) -> Greys:
    """Greys for a signal (n,): most of it neither near black nor so light that outlines vanish.

    Where most is dark beside fluid, a power brings its median up; where much is bright, white lies above it.
    """
    low, high = window(values)
    above = values[np.isfinite(values) & (values > low)]
    median = float(np.median(above)) if above.size else low
    bright = float(np.percentile(above, _LIGHTEST_PERCENTILE)) if above.size else low
    limits = (low, max(high, low + (bright - low) / _LIGHTEST))
    middle = (median - low) / (limits[1] - low)
    power = math.log(_MIDDLE_GREY) / math.log(middle) if 0 < middle < _MIDDLE_GREY else 1.0
    return Greys(limits, max(power, _LEAST_POWER))


def outline(mask: NDArray[np.bool_]) -> list[NDArray[np.int_]]:
    """The border of a mask (rows, columns) as closed polygons (n, 2) of corners x, y, the last as the first.

    Corners are corners of voxels: the voxel of row i and column j reaches from (j, i) to (j + 1, i + 1). The
    mask lies on the right hand of the way, y pointing down; voxels that touch in a corner have polygons of
    their own.
    """
    ahead: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end in _edges(np.pad(mask, 1)):
        ahead.setdefault(start, []).append(end)
    polygons = []
    while ahead:
        first = next(iter(ahead))
        corners, here, way = [first], first, (0, 0)
        while True:
            ends = ahead[here]
            end = min(ends, key=lambda to: _turn(way, (to[0] - here[0], to[1] - here[1])))
            ends.remove(end)
            if not ends:
                del ahead[here]
            step = (end[0] - here[0], end[1] - here[1])
            if step == way:
                corners.pop()
            corners.append(end)
            here, way = end, step
            if here == first:
                break
        polygons.append(np.array(corners))
    return polygons


def _turn(way: tuple[int, int], step: tuple[int, int]) -> int:
    """-1 for a right turn (y down), 1 for a left turn, 0 straight on."""
    return -(way[0] * step[1] - way[1] * step[0])


def _edges(padded: NDArray[np.bool_]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Edges of voxels between inside and outside, from corner to corner, the inside on the right (y down)."""
    down = padded[1:, 1:-1].astype(np.int8) - padded[:-1, 1:-1]
    for row, column in np.argwhere(down).tolist():
        ends = (column, row), (column + 1, row)
        yield ends if down[row, column] > 0 else ends[::-1]
    across = padded[1:-1, 1:].astype(np.int8) - padded[1:-1, :-1]
    for row, column in np.argwhere(across).tolist():
        ends = (column, row + 1), (column, row)
        yield ends if across[row, column] > 0 else ends[::-1]
