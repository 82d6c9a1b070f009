"""The anatomy of the lumbar phantom: shapes, what they are made of, and the segments that they belong to.

Lengths in mm in the frame of the body: +x right, +y anterior, +z superior, the origin behind the middle of
L4-L5. The discs are 12 mm apart and the vertebral bodies 5 mm high, about a third of nature, so that three
discs and four pairs of roots fit into 60 mm; across the body, sizes are about natural near the spine, and the
trunk is drawn small to fit 144 mm. Pedicles, facets and transverse processes are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from somite.phantom import roots, tissue
from somite.phantom.tissue import Floats, Tissue
from somite.segments import Label, Segment, SegmentGroup, expand

DISC_LEVELS = ("L3-L4", "L4-L5", "L5-S1")
NERVE_LEVELS = ("L3", "L4", "L5", "S1")
SIDES = {"L": -1.0, "R": 1.0}
"""Side -> sign of x in RAS."""
SPACING_MM = 12.0
DISC_Z = (14.5, 2.5, -9.5)
EXIT_Z = (26.5, 14.5, 2.5, -9.5)
"""Height of the dural exit of each root."""
SLAB_MM = 4.0
"""Half the height of the slabs at the disc levels in which canal and muscles are measured."""
SEGMENTS = expand(
    (
        SegmentGroup(region="nerve_root", sides=("L", "R"), levels=NERVE_LEVELS, segments=tuple(roots.ZONES)),
        SegmentGroup(region="disc", levels=DISC_LEVELS, segments=("np", "af_anterior", "af_posterior")),
        SegmentGroup(region="canal", levels=DISC_LEVELS),
        SegmentGroup(region="multifidus", sides=("L", "R"), levels=DISC_LEVELS),
        SegmentGroup(region="erector_spinae", sides=("L", "R"), levels=DISC_LEVELS),
        SegmentGroup(region="psoas_major", sides=("L", "R"), levels=DISC_LEVELS),
    )
)
"""The segments that the phantom has, in the order of their labels 1, 2, 3, ..."""
CANAL_Y, CANAL_RADIUS = -3.0, 8.0
BODY_Y = 22.0
PARTIAL_VOLUME = "partial_volume"
"""Region of the labels for voxels that a segment shares with something else. No protocol measures it."""
EDGE = 100
"""Index of a segment's partial-volume label minus that of its pure label."""

Diffusion = Callable[[Floats], tuple[Floats, Floats, Floats]]
Pieces = NDArray[np.int16]


@dataclass(frozen=True)
class Piece:
    """What a point can belong to: a tissue, and the index of a label or 0."""

    tissue: Tissue
    label: int = 0
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Principal direction, where it is the same everywhere. Of any length."""
    diffusion: Diffusion | None = None
    """Points (3, m) -> FA (m,), MD (m,), unit directions (3, m), where they vary."""


@dataclass(frozen=True)
class Shape:
    """A region of space between two corners. Shapes are painted in order, a later one over an earlier."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    paint: Callable[[Floats], Pieces]
    """Points (3, m) -> piece of each (m,), 0 where the shape is not."""


@dataclass(frozen=True)
class Build:
    """How one participant differs from another. `draw` says within what limits."""

    size: float
    canal_radius: float
    disc_half_height: tuple[float, ...]
    drg_diameter: tuple[float, ...]
    """One per root: L3 L, L3 R, L4 L, ..."""
    takeoff: NDArray[np.float64]
    """Deviation of each root's first and last direction (8, 2, 3)."""
    pose: NDArray[np.float64]
    """Affine (4, 4) from the frame of the body to the world, rigid."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """Sizes within 3 %, canal within 0.5 mm, discs 6 to 7 mm, ganglia 6 to 7.5 mm, pose within 1.5 mm
        (0.4 mm along z) and 1.5 degrees."""
        return cls(
            size=float(rng.uniform(0.97, 1.03)),
            canal_radius=float(CANAL_RADIUS + rng.uniform(-0.5, 0.5)),
            disc_half_height=tuple(rng.uniform(3.0, 3.5, 3)),
            drg_diameter=tuple(rng.uniform(6.0, 7.5, 8)),
            takeoff=rng.uniform(-0.04, 0.04, (8, 2, 3)),
            pose=rigid(rng.uniform(-1.0, 1.0, 3) * (1.5, 1.5, 0.4), rng.uniform(-1.5, 1.5, 3)),
        )


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
    pieces: list[Piece] = field(default_factory=lambda: [Piece(tissue.AIR)])
    shapes: list[Shape] = field(default_factory=list)

    def piece(
        self,
        material: Tissue,
        label: int = 0,
        direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
        diffusion: Diffusion | None = None,
    ) -> int:
        """Add a piece; returns its number."""
        self.pieces.append(Piece(material, label, direction, diffusion))
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


def lumbar(build: Build, patient: bool = False) -> Anatomy:
    """The lumbar spine of one participant. A patient's right L5 root has a lesion."""
    anatomy = Anatomy(build.pose)
    _trunk(anatomy)
    _muscles(anatomy, build)
    _vertebrae(anatomy, build)
    _canal(anatomy, build)
    for number, level in enumerate(DISC_LEVELS):
        _disc(anatomy, build, level, DISC_Z[number], build.disc_half_height[number])
    number = 0
    for level, z in zip(NERVE_LEVELS, EXIT_Z, strict=True):
        for side in SIDES:
            lesion = patient and (side, level) == ("R", "L5")
            _root(anatomy, build, number, side, level, z, lesion)
            number += 1
    return anatomy


def index_of(segment: Segment) -> int:
    """Value of the pure voxels of a segment."""
    return SEGMENTS.index(segment) + 1


def label_table() -> tuple[Label, ...]:
    """The labels of the segments, then those of the voxels that a segment shares with something else."""
    pure, edges = [], []
    for index, s in enumerate(SEGMENTS, start=1):
        side = s.side if s.side in SIDES else ""
        name = "_".join(part for part in (s.region, side, s.level, s.segment) if part)
        pure.append(Label(index, name, s))
        edge = Segment(PARTIAL_VOLUME, s.side, s.level, s.segment)
        edges.append(Label(index + EDGE, f"{PARTIAL_VOLUME}_{name}", edge))
    return (*pure, *edges)


def _trunk(anatomy: Anatomy) -> None:
    endless = np.inf
    anatomy.ellipsoid(anatomy.piece(tissue.SKIN), (0, 6, 0), (68, 60, endless))
    anatomy.ellipsoid(anatomy.piece(tissue.FAT), (0, 6, 0), (66, 58, endless))
    anatomy.ellipsoid(anatomy.piece(tissue.ABDOMEN), (0, 47, 0), (40, 12, endless))
    vessel = anatomy.piece(tissue.VESSEL)
    anatomy.ellipsoid(vessel, (-8, 45, 0), (6, 6, endless))
    anatomy.ellipsoid(vessel, (9, 45, 0), (7, 6, endless))


def _in_slabs(rest: int, slabs: Sequence[int]) -> Callable[[Floats], Pieces]:
    """Piece by height: `slabs` at the disc levels, `rest` between them."""

    def pick(points: Floats) -> Pieces:
        piece = np.full(points.shape[1], rest, np.int16)
        for slab, z in zip(slabs, DISC_Z, strict=True):
            piece[np.abs(points[2] - z) <= SLAB_MM] = slab
        return piece

    return pick


def _muscles(anatomy: Anatomy, build: Build) -> None:
    """Fibres: multifidus up and inward to the spinous processes, psoas down, outward and forward."""
    named: list[tuple[str, Tissue, Sequence[float], Sequence[float], Sequence[float]]] = [
        ("", tissue.QUADRATUS, (50, 0), (8, 13), (-0.2, 0.0, 1.0)),
        ("psoas_major", tissue.PSOAS_MAJOR, (39, 20), (13, 15), (-0.3, -0.25, 0.92)),
        ("erector_spinae", tissue.ERECTOR_SPINAE, (28, -26), (17, 12), (0.08, -0.05, 1.0)),
        ("multifidus", tissue.MULTIFIDUS, (11, -25), (8, 11), (-0.25, -0.1, 0.96)),
    ]
    for region, material, centre, semi, fibre in named:
        for side, sign in SIDES.items():
            direction = (sign * fibre[0], fibre[1], fibre[2])
            rest = anatomy.piece(material, direction=direction)
            slabs = [rest] * len(DISC_LEVELS)
            if region:
                labels = [index_of(Segment(region, side, level)) for level in DISC_LEVELS]
                slabs = [anatomy.piece(material, label, direction) for label in labels]
            where = (sign * build.size * centre[0], build.size * centre[1], 0)
            extent = (build.size * semi[0], build.size * semi[1], np.inf)
            anatomy.ellipsoid(_in_slabs(rest, slabs), where, extent)


def _vertebrae(anatomy: Anatomy, build: Build) -> None:
    """A column of bodies; behind the canal, at the height of each body, a lamina and a spinous process."""
    bone, gap = anatomy.piece(tissue.BONE), anatomy.piece(tissue.FAT)

    def behind(points: Floats) -> Pieces:
        x, y, z = points
        ring = np.hypot(x, y - CANAL_Y)
        lamina = (ring > build.canal_radius + 1.5) & (ring < build.canal_radius + 4.5) & (y < CANAL_Y)
        process = (np.abs(x) < 2.0) & (y < CANAL_Y - build.canal_radius - 4.0) & (y > -36.0)
        height = np.abs((z - DISC_Z[0]) % SPACING_MM - SPACING_MM / 2) < 3.5
        filled = (ring < build.canal_radius + 4.5) & (y < CANAL_Y) | process
        return np.where((lamina | process) & height, bone, np.where(filled, gap, 0)).astype(np.int16)

    anatomy.shapes.append(Shape((-14, -36, -np.inf), (14, CANAL_Y, np.inf), behind))
    anatomy.ellipsoid(bone, (0, BODY_Y, 0), (22 * build.size, 14.5 * build.size, np.inf))


def _canal(anatomy: Anatomy, build: Build) -> None:
    labels = [index_of(Segment("canal", "midline", level)) for level in DISC_LEVELS]
    rest = anatomy.piece(tissue.CSF)
    slabs = [anatomy.piece(tissue.CSF, label) for label in labels]
    r = build.canal_radius
    anatomy.ellipsoid(_in_slabs(rest, slabs), (0, CANAL_Y, 0), (r, r, np.inf))


def _disc(anatomy: Anatomy, build: Build, level: str, z: float, half: float) -> None:
    """An ellipsoid cut flat by the endplates; the nucleus an ellipsoid within, the rest annulus.

    The coronal plane through the nucleus' centre parts the annulus into anterior and posterior. Its fibres
    run around the disc.
    """
    a, b = 23.0 * build.size, 15.3 * build.size
    plane = BODY_Y - 1.5

    def around(points: Floats) -> tuple[Floats, Floats, Floats]:
        x, y = points[0] / a**2, (points[1] - BODY_Y) / b**2
        norm = np.maximum(np.hypot(x, y), 1e-12)
        direction = np.stack([-y / norm, x / norm, np.zeros_like(x)])
        fa, md = tissue.ANNULUS.fa, tissue.ANNULUS.md
        return np.full(x.shape, fa), np.full(x.shape, md), direction

    def made_of(material: Tissue, part: str, diffusion: Diffusion | None = None) -> int:
        label = index_of(Segment("disc", "midline", level, part))
        return anatomy.piece(material, label, (1.0, 0.0, 0.0), diffusion)

    nucleus = made_of(tissue.NUCLEUS, "np")
    anterior = made_of(tissue.ANNULUS, "af_anterior", around)
    posterior = made_of(tissue.ANNULUS, "af_posterior", around)

    def annulus(points: Floats) -> Pieces:
        piece = np.where(points[1] > plane, anterior, posterior)
        return np.where(np.abs(points[2] - z) <= half, piece, 0).astype(np.int16)

    anatomy.ellipsoid(annulus, (0, BODY_Y, z), (a, b, 7.0))
    anatomy.ellipsoid(nucleus, (0, plane, z), (11.0 * build.size, 7.0 * build.size, half - 0.3))


def _root(anatomy: Anatomy, build: Build, number: int, side: str, level: str, z: float, lesion: bool) -> None:
    """A root leaves the canal 20 degrees in front of the coronal plane: down, outward and forward."""
    sign, angle = SIDES[side], np.deg2rad(20.0)
    mirror = np.array([sign, 1.0, 1.0])
    first, last = np.array([0.60, 0.12, -0.72]) * mirror, np.array([0.78, 0.42, -0.38]) * mirror
    start = (sign * build.canal_radius * np.cos(angle), CANAL_Y + build.canal_radius * np.sin(angle), z)
    nudge = build.takeoff[number]
    root = roots.grow(start, first + nudge[0], last + nudge[1], build.drg_diameter[number], lesion)
    pieces = [
        anatomy.piece(
            tissue.NERVE, index_of(Segment("nerve_root", side, level, zone)), diffusion=root.diffusion
        )
        for zone in roots.ZONES
    ]
    borders = [low for low, _ in roots.ZONES.values()]

    def paint(points: Floats) -> Pieces:
        index, inside = root.nearest(points)
        zone = np.searchsorted(borders, root.s[index], side="right") - 1
        return np.where(inside, np.asarray(pieces)[zone], 0).astype(np.int16)

    margin = root.radii.max()
    low, high = root.points.min(axis=0) - margin, root.points.max(axis=0) + margin
    anatomy.shapes.append(Shape(tuple(low), tuple(high), paint))
