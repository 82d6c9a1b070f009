"""What a body is made of: shapes, their tissues, and the segments that they belong to. Knows no protocol.

Lengths in mm in the frame of the body: +x right, +y anterior, +z superior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from somite.phantom import tissue
from somite.phantom.change import Change, changed
from somite.phantom.tissue import Floats, Tissue
from somite.segments import Label, Segment

SIDES = {"L": -1.0, "R": 1.0}
"""Side -> sign of x in RAS."""
PARTIAL_VOLUME = "partial_volume"
"""Region of the labels for voxels that a segment shares with something else. No protocol measures it."""
EDGE = 100
"""Index of a segment's partial-volume label minus that of its pure label."""

Diffusion = Callable[[Floats], tuple[Floats, Floats, Floats]]
Pieces = NDArray[np.int16]


@dataclass(frozen=True)
class Piece:
    """What a point can belong to: a tissue, and the indices of its labels or 0."""

    tissue: Tissue
    label: int = 0
    """Of the segment."""
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Principal direction, where it is the same everywhere. Of any length."""
    diffusion: Diffusion | None = None
    """Points (3, m) -> FA (m,), MD (m,), unit directions (3, m), where they vary."""
    whole: int = 0
    """Of the whole structure that the segment is a part of."""


@dataclass(frozen=True)
class Shape:
    """A region of space between two corners. Shapes are painted in order, a later one over an earlier."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    paint: Callable[[Floats], Pieces]
    """Points (3, m) -> piece of each (m,), 0 where the shape is not."""


@dataclass(frozen=True)
class Line:
    """The centreline of a structure, from its first end. Lengths in mm, frame of the body."""

    structure: Segment
    s: Floats
    """Arc length (k,)."""
    points: Floats
    """(k, 3)"""


@dataclass(frozen=True)
class Landmark:
    """A named point of a structure, frame of the body, mm."""

    name: str
    structure: Segment
    point: tuple[float, float, float]


@dataclass(frozen=True)
class Bend:
    """A smooth deformation: a point of the body lies in its template at p + sum of sines of p.

    Args of the sines: `waves` (k, 3) radians per mm, `phases` (k,); amplitudes (k, 3) mm.
    """

    waves: Floats
    phases: Floats
    amplitudes: Floats

    def to_template(self, points: Floats) -> Floats:
        """Places in the template (3, m) of points of the body (3, m)."""
        return points + self.amplitudes.T @ np.sin(self.waves @ points + self.phases[:, None])

    def from_template(self, points: Floats) -> Floats:
        """Points of the body (3, m) whose places in the template are given: by iteration."""
        found = points.copy()
        for _ in range(20):
            found = found + points - self.to_template(found)
        return found

    def turn(self, places: Floats, directions: Floats) -> Floats:
        """Unit directions (3, m) in the body of those in the template, at places of the template (3, m)."""
        slope = np.cos(self.waves @ self.from_template(places) + self.phases[:, None])
        jacobian = np.eye(3) + np.einsum("ki,kj,km->mij", self.amplitudes, self.waves, slope)
        turned = np.linalg.solve(jacobian, directions.T[..., None])[..., 0].T
        return np.asarray(turned / np.linalg.norm(turned, axis=0), np.float64)


def fan(apex: Sequence[float] | Floats, fa: float, md: float) -> Diffusion:
    """Diffusion of fibres that run straight to one point: other flips and swaps of axes do not fit them."""
    place = np.asarray(apex, np.float64)[:, None]

    def diffusion(points: Floats) -> tuple[Floats, Floats, Floats]:
        away = place - points
        n = points.shape[1]
        return np.full(n, fa), np.full(n, md), away / np.maximum(np.linalg.norm(away, axis=0), 1e-9)

    return diffusion


def rigid(shift_mm: Sequence[float] | Floats, turn_deg: Sequence[float] | Floats) -> Floats:
    """Affine (4, 4) that turns about the x, then the y, then the z axis through the origin, then shifts."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(turn_deg)):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        sine = np.sin(angle) * (-1.0 if axis == 1 else 1.0)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -sine, sine
        rotation = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation, shift_mm
    return affine


@dataclass
class Anatomy:
    """Shapes in the order of painting, the pieces that they paint, and where the body lies in the world."""

    pose: Floats
    """Affine (4, 4) from the frame of the body to the world, rigid."""
    segments: tuple[Label, ...] = ()
    """The segments that have labels."""
    wholes: tuple[Label, ...] = ()
    """The structures that they are parts of: their segment names no part, and where it names no level it
    stands for all of them."""
    changes: tuple[Change, ...] = ()
    bend: Bend | None = None
    """Shapes are those of a template; the body is the template bent."""
    pieces: list[Piece] = field(default_factory=lambda: [Piece(tissue.AIR)])
    shapes: list[Shape] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    landmarks: list[Landmark] = field(default_factory=list)

    def piece(
        self,
        material: Tissue,
        place: Segment | None = None,
        direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
        diffusion: Diffusion | None = None,
    ) -> int:
        """Add a piece; returns its number.

        Its labels are those of the segment `place` and of the structure that this is a part of. The changes
        that hold there change its diffusion.
        """
        fa, md = changed(np.array([material.fa]), np.array([material.md]), place, self.changes)
        material = replace(material, fa=float(fa[0]), md=float(md[0]))
        if diffusion is not None and place is not None and self.changes:
            diffusion = _with_changes(diffusion, place, self.changes)
        index = _index(self.segments, place)
        whole = 0
        if place is not None:
            structures = (replace(place, segment=""), replace(place, level="", segment=""))
            whole = next((found for s in structures if (found := _index(self.wholes, s))), 0)
        self.pieces.append(Piece(material, index, direction, diffusion, whole))
        return len(self.pieces) - 1

    def ellipsoid(
        self, piece: int | Callable[[Floats], Pieces], centre: Sequence[float], semi: Sequence[float]
    ) -> None:
        """Add an ellipsoid. A semi-axis of infinity makes a cylinder."""
        c, a = np.asarray(centre, np.float64), np.asarray(semi, np.float64)

        def paint(points: Floats) -> Pieces:
            inside = sum(((points[i] - c[i]) / a[i]) ** 2 for i in range(3) if np.isfinite(a[i])) <= 1.0
            return np.where(inside, piece(points) if callable(piece) else piece, 0).astype(np.int16)

        self.shapes.append(Shape(tuple(c - a), tuple(c + a), paint))

    def measured_wholes(self) -> tuple[Label, ...]:
        """The whole structures that have segments: not those that only guide their cutting."""
        regions = {label.segment.region for label in self.segments}
        return tuple(label for label in self.wholes if label.segment.region in regions)

    def to_world(self, points: Floats) -> Floats:
        """World coordinates (3, m) of points of the shapes (3, m)."""
        bent = points if self.bend is None else self.bend.from_template(points)
        return np.asarray(self.pose[:3, :3] @ bent + self.pose[:3, 3:])

    def turn(self, places: Floats, directions: Floats) -> Floats:
        """Unit directions in world axes (3, m) of those of the shapes, at places of the shapes (3, m)."""
        bent = directions if self.bend is None else self.bend.turn(places, directions)
        return np.asarray(self.pose[:3, :3] @ bent)

    def moved(self, motion: Floats) -> Anatomy:
        """The same body elsewhere: `motion` is an affine (4, 4) in the world."""
        return replace(self, pose=motion @ self.pose)


def _with_changes(diffusion: Diffusion, place: Segment, changes: tuple[Change, ...]) -> Diffusion:
    def with_changes(points: Floats) -> tuple[Floats, Floats, Floats]:
        fa, md, directions = diffusion(points)
        return (*changed(fa, md, place, changes), directions)

    return with_changes


def _index(labels: Iterable[Label], place: Segment | None) -> int:
    return next((label.index for label in labels if label.segment == place), 0)


def name_of(segment: Segment) -> str:
    """Name of a segment's label: its parts joined by `_`, without `midline`."""
    side = segment.side if segment.side in SIDES else ""
    return "_".join(part for part in (segment.region, side, segment.level, segment.segment) if part)


def number(segments: Iterable[Segment], indices: Iterable[int] | None = None) -> tuple[Label, ...]:
    """Labels of segments, with indices from 1 on unless they are given."""
    given = count(1) if indices is None else indices
    return tuple(Label(index, name_of(s), s) for index, s in zip(given, segments, strict=indices is not None))


def with_edges(labels: Iterable[Label]) -> tuple[Label, ...]:
    """The labels, then those of the voxels that they share with something else."""
    pure = tuple(labels)
    edges = [
        Label(m.index + EDGE, f"{PARTIAL_VOLUME}_{m.name}", replace(m.segment, region=PARTIAL_VOLUME))
        for m in pure
    ]
    return (*pure, *edges)
