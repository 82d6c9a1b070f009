"""From shapes to voxels: each voxel is sampled at a lattice of points, and its signal is their mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom.anatomy import EDGE, Anatomy
from somite.phantom.tissue import Floats, attenuation

_BRICK = 24
"""Points along the side of the bricks that are painted at a time: small enough for the processor's cache, and
for most shapes to be far from most bricks."""


@dataclass(frozen=True)
class Painting:
    """What lies in each voxel of a grid with v voxels, in C order.

    Points in pieces whose diffusion varies in space are kept one by one, sorted by voxel.
    """

    shape: tuple[int, int, int]
    per_voxel: int
    """Points per voxel."""
    first: NDArray[np.int16]
    """Piece of each voxel (v,), where all its points belong to one; of its first point elsewhere."""
    mixed: NDArray[np.intp]
    """Voxels with points of several pieces (m,)."""
    counts: NDArray[np.int32]
    """How many points of a mixed voxel belong to each piece (m, pieces)."""
    fine_voxel: NDArray[np.intp]
    """Voxel of each point that is kept (f,)."""
    fine_piece: NDArray[np.int16]
    """(f,)"""
    fine_points: Floats
    """Where it lies, in the frame of the shapes, mm (3, f)."""


@dataclass(frozen=True)
class Shift:
    """Where what is seen in a voxel really lies: displaced along one axis, linearly within each voxel."""

    axis: int
    """Of the voxels."""
    centre: Floats
    """Displacement of the centres (v,), voxels."""
    slope: Floats
    """Its gradient along the voxel axes (3, v), voxels per voxel."""

    @classmethod
    def of(cls, displacement: Floats, axis: int) -> Shift:
        """The shift of a grid whose voxels' centres are displaced (x, y, z) along `axis`, voxels."""
        slopes = [
            np.gradient(displacement, axis=a) if n > 1 else np.zeros_like(displacement)
            for a, n in enumerate(displacement.shape)
        ]
        return cls(axis, displacement.ravel(), np.stack([slope.ravel() for slope in slopes]))

    def finer(self, shape: tuple[int, int, int], times: int) -> Shift:
        """The same in voxels of `shape` cut into `times` along the first two axes each."""
        steps = (np.arange(times) + 0.5) / times - 0.5
        whole = [part.reshape(shape)[:, None, :, None] for part in (self.centre, *self.slope)]
        first, second = steps[:, None, None, None], steps[:, None]
        unit = 1 if self.axis == 2 else times
        parts = (
            unit * (whole[0] + whole[1] * first + whole[2] * second),
            *(unit / along * slope for slope, along in zip(whole[1:], (times, times, 1), strict=True)),
        )
        cut = (shape[0], times, shape[1], times, shape[2])
        centre, *slope = (np.broadcast_to(part, cut).ravel() for part in parts)
        return Shift(self.axis, centre, np.stack(slope))

    @property
    def density(self) -> Floats:
        """Volume of the body whose signal each voxel holds (v,), voxels."""
        return np.asarray(1.0 + self.slope[self.axis])


def _bricks(
    shape: tuple[int, int, int], numbers: Sequence[int]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Voxel indices (3, b) and flat indices (b,) of each brick.

    Args:
        shape: of the grid.
        numbers: points of a voxel along each axis.
    """
    sides = [max(1, _BRICK // number) for number in numbers]
    starts = (range(0, n, side) for n, side in zip(shape, sides, strict=True))
    for corner in product(*starts):
        ranges = [np.arange(c, min(c + side, n)) for c, side, n in zip(corner, sides, shape, strict=True)]
        ijk = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")])
        yield ijk, np.ravel_multi_index(tuple(ijk), shape)


def paint(
    anatomy: Anatomy, grid: Grid, per_axis: int | tuple[int, int, int] = 3, shift: Shift | None = None
) -> Painting:
    """Sample every voxel of `grid` at `per_axis` points along each axis, symmetric about its centre.

    With a `shift` the points lie where it says; the signal of their mean is then to be multiplied with its
    density.
    """
    to_body = np.linalg.inv(anatomy.pose) @ grid.affine
    numbers = (per_axis,) * 3 if isinstance(per_axis, int) else per_axis
    steps = [(np.arange(number) + 0.5) / number - 0.5 for number in numbers]
    offsets = np.stack([axis.ravel() for axis in np.meshgrid(*steps, indexing="ij")])
    n = offsets.shape[1]
    varies = np.array([piece.diffusion is not None for piece in anatomy.pieces])
    first = np.zeros(int(np.prod(grid.shape)), np.int16)
    mixed, counts, fine_voxel, fine_piece, fine_points = [], [], [], [], []
    for ijk, flat in _bricks(grid.shape, numbers):
        index = ijk[:, :, None] + offsets[:, None, :]
        if shift is not None:
            index[shift.axis] += shift.centre[flat][:, None] + shift.slope[:, flat].T @ offsets
        points = to_body[:3, :3] @ index.reshape(3, -1) + to_body[:3, 3:]
        if anatomy.bend is not None:
            points = anatomy.bend.to_template(points)
        pieces = _pieces(anatomy, points)
        by_voxel = pieces.reshape(-1, n)
        first[flat] = by_voxel[:, 0]
        several = np.flatnonzero((by_voxel != by_voxel[:, :1]).any(axis=1))
        mixed.append(flat[several])
        counts.append(_count(by_voxel[several], len(anatomy.pieces)))
        fine = np.flatnonzero(varies[pieces])
        fine_voxel.append(flat[fine // n])
        fine_piece.append(pieces[fine])
        fine_points.append(points[:, fine])
    return Painting(
        grid.shape,
        n,
        first,
        np.concatenate(mixed),
        np.concatenate(counts),
        np.concatenate(fine_voxel),
        np.concatenate(fine_piece),
        np.concatenate(fine_points, axis=1),
    )


def _pieces(anatomy: Anatomy, points: Floats) -> NDArray[np.int16]:
    """Piece of each of `points` (3, m), frame of the body."""
    pieces = np.zeros(points.shape[1], np.int16)
    low, high = points.min(axis=1), points.max(axis=1)
    for shape in anatomy.shapes:
        if (high >= shape.low).all() and (low <= shape.high).all():
            painted = shape.paint(points)
            np.copyto(pieces, painted, where=painted > 0)
    return pieces


def _count(pieces: NDArray[np.int16], n_pieces: int) -> NDArray[np.int32]:
    """How often each piece occurs in each row: (rows, n_pieces)."""
    rows = np.arange(len(pieces))[:, None] * n_pieces
    flat = np.bincount((rows + pieces).ravel(), minlength=len(pieces) * n_pieces)
    return flat.reshape(len(pieces), n_pieces).astype(np.int32)


def average(painting: Painting, table: Floats, fine: Floats) -> NDArray[np.float32]:
    """Mean over each voxel's points of k quantities: (v, k).

    Args:
        painting: what lies where.
        table: the quantities in each piece (pieces, k); 0 in those whose diffusion varies in space.
        fine: the quantities at the points of those pieces (f, k).
    """
    n = painting.per_voxel
    values = table.astype(np.float32)[painting.first]
    values[painting.mixed] = painting.counts @ table / n
    if len(fine):
        starts = np.flatnonzero(np.diff(painting.fine_voxel, prepend=-1))
        values[painting.fine_voxel[starts]] += (np.add.reduceat(fine, starts, axis=0) / n).astype(np.float32)
    return values


def diffusion(anatomy: Anatomy, painting: Painting) -> tuple[Floats, Floats]:
    """FA and MD (mm2/s) as columns: in each piece (pieces, 2), and at each kept point (f, 2)."""
    table = np.array(
        [(0.0, 0.0) if p.diffusion else (p.tissue.fa, p.tissue.md) for p in anatomy.pieces], np.float64
    )
    fine = np.zeros((len(painting.fine_voxel), 2))
    for number, piece in enumerate(anatomy.pieces):
        if piece.diffusion:
            mine = painting.fine_piece == number
            fa, md, _ = piece.diffusion(painting.fine_points[:, mine])
            fine[mine] = np.stack([fa, md], axis=1)
    return table, fine


def signal(anatomy: Anatomy, painting: Painting, gradients: Gradients, te_ms: float) -> tuple[Floats, Floats]:
    """Signal as columns, relative to fully relaxed nerve: of each piece (pieces, n), at each kept point."""
    table = np.zeros((len(anatomy.pieces), len(gradients.bvals)))
    fine = np.zeros((len(painting.fine_voxel), len(gradients.bvals)), np.float32)
    for number, piece in enumerate(anatomy.pieces):
        material = piece.tissue
        bright = material.brightness(te_ms)
        mixture = material.mixture
        if piece.diffusion:
            mine = painting.fine_piece == number
            places = painting.fine_points[:, mine]
            fa, md, direction = piece.diffusion(places)
            fine[mine] = bright * attenuation(fa, md, anatomy.turn(places, direction), gradients, *mixture)
        else:
            axis = np.asarray(piece.direction) / np.linalg.norm(piece.direction)
            fa, md = np.array([material.fa]), np.array([material.md])
            turned = anatomy.pose[:3, :3] @ axis[:, None]
            table[number] = bright * attenuation(fa, md, turned, gradients, *mixture)[0]
    return table, fine.astype(np.float64)


def brightness_tse(anatomy: Anatomy, painting: Painting, te_ms: float) -> NDArray[np.float32]:
    """Signal (v,) of a turbo spin echo without fat suppression, relative to fully relaxed nerve."""
    table = np.array([[piece.tissue.brightness_tse(te_ms)] for piece in anatomy.pieces])
    fine = table[painting.fine_piece]
    table[[piece.diffusion is not None for piece in anatomy.pieces]] = 0.0
    return average(painting, table, fine)[:, 0]


def label(painting: Painting, of_piece: Sequence[int]) -> NDArray[np.int16]:
    """Label image: a label where all of a voxel is of it, that plus EDGE where only a part is.

    A voxel that several labels share carries the edge label of the one with most points (the lower index
    where two have the same).

    Args:
        painting: what lies where.
        of_piece: the label of each piece, or 0.
    """
    labels_of = np.asarray(of_piece)
    labels = labels_of[painting.first].astype(np.int16)
    points = _points_of(painting, labels_of)
    pure = points.max(axis=1) == painting.per_voxel
    points[:, 0] = 0
    most = np.where(points.any(axis=1), points.argmax(axis=1) + EDGE, 0)
    labels[painting.mixed] = np.where(pure, labels_of[painting.first[painting.mixed]], most)
    return labels.reshape(painting.shape)


def drawn(painting: Painting, of_piece: Sequence[int]) -> NDArray[np.int16]:
    """Label image as a rater would draw it: the label, or none, that has most of each voxel."""
    labels_of = np.asarray(of_piece)
    labels = labels_of[painting.first].astype(np.int16)
    labels[painting.mixed] = _points_of(painting, labels_of).argmax(axis=1)
    return labels.reshape(painting.shape)


def _points_of(painting: Painting, of_piece: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """How many points of a mixed voxel belong to each label (m, labels + 1)."""
    belongs = (of_piece[:, None] == np.arange(of_piece.max() + 1)).astype(np.int32)
    return np.asarray(painting.counts @ belongs)
