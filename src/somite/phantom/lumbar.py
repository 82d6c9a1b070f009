"""The lumbar phantom: nerve roots, discs, canal and paraspinal muscles, L3 to S1.

Lengths in mm in the frame of the body: +x right, +y anterior, +z superior, the origin behind the middle of
L4-L5. The discs are 12 mm apart and the vertebral bodies 5 mm high, about a third of nature, so that three
discs and four pairs of roots fit into 60 mm; across the body, sizes are about natural near the spine, and the
trunk is drawn small to fit 144 mm. Pedicles, facets and transverse processes are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import make, roots, scheme, tissue
from somite.phantom.anatomy import SIDES, Anatomy, Diffusion, Landmark, Line, Pieces, Shape, number, rigid
from somite.phantom.change import Change
from somite.phantom.make import Phantom
from somite.phantom.protocol import Anatomical, Protocol, Score
from somite.phantom.tissue import Floats, Tissue
from somite.phantom.tube import along
from somite.segments import Segment, SegmentGroup, expand

DISC_LEVELS = ("L3-L4", "L4-L5", "L5-S1")
NERVE_LEVELS = ("L3", "L4", "L5", "S1")
LEVELS = {
    "": (NERVE_LEVELS, DISC_LEVELS),
    "L6": (("L4", "L5", "L6", "S1"), ("L4-L5", "L5-L6", "L6-S1")),
    "four": (("L2", "L3", "L4", "S1"), ("L2-L3", "L3-L4", "L4-S1")),
}
"""Variant -> levels of the roots and of the discs that the field of view holds, from above."""
SPACING_MM = 12.0
DISC_Z = (14.5, 2.5, -9.5)
EXIT_Z = (26.5, 14.5, 2.5, -9.5)
"""Height of the dural exit of each root."""
SLAB_MM = 4.0
"""Half the height of the slabs at the disc levels in which canal and muscles are measured."""
MUSCLES = ("multifidus", "erector_spinae", "psoas_major")
CANAL_Y, CANAL_RADIUS = -3.0, 8.0
BODY_Y = 22.0
LESION = (Change("nerve_root", "R", "L5", fa=0.26, md=1.79e-3),)


def segments(variant: str = "") -> tuple[Segment, ...]:
    """The segments that the phantom has, in the order of their labels 1, 2, 3, ..."""
    nerves, discs = LEVELS[variant]
    both = ("L", "R")
    return expand(
        (
            SegmentGroup(region="nerve_root", sides=both, levels=nerves, segments=tuple(roots.ZONES)),
            SegmentGroup(region="disc", levels=discs, segments=("np", "af_anterior", "af_posterior")),
            SegmentGroup(region="canal", levels=discs),
            *(SegmentGroup(region=region, sides=both, levels=discs) for region in MUSCLES),
        )
    )


def wholes(variant: str = "") -> tuple[Segment, ...]:
    """Whole roots, discs, canal and muscles, as a rater or a segmentation tool draws them."""
    nerves, discs = LEVELS[variant]
    both = ("L", "R")
    return expand(
        (
            SegmentGroup(region="nerve_root", sides=both, levels=nerves),
            SegmentGroup(region="disc", levels=discs),
            SegmentGroup(region="canal"),
            *(SegmentGroup(region=region, sides=both) for region in MUSCLES),
        )
    )


SEGMENTS = segments()


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


def build(rng: np.random.Generator, variant: str = "", changes: tuple[Change, ...] = ()) -> Anatomy:
    """The lumbar spine of one participant."""
    return lumbar(Build.draw(rng), variant, changes)


def lumbar(made: Build, variant: str = "", changes: tuple[Change, ...] = ()) -> Anatomy:
    """The lumbar spine that a build describes."""
    nerves, discs = LEVELS[variant]
    anatomy = Anatomy(made.pose, number(segments(variant)), number(wholes(variant)), changes)
    _trunk(anatomy)
    _muscles(anatomy, made, discs)
    _vertebrae(anatomy, made)
    _canal(anatomy, made, discs)
    for level, z, half in zip(discs, DISC_Z, made.disc_half_height, strict=True):
        _disc(anatomy, made, level, z, half)
    order = 0
    for level, z in zip(nerves, EXIT_Z, strict=True):
        for side in SIDES:
            _root(anatomy, made, order, side, level, z)
            order += 1
    return anatomy


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


def _muscles(anatomy: Anatomy, build: Build, discs: Sequence[str]) -> None:
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
            rest = anatomy.piece(material, Segment(region, side), direction)
            slabs = [rest] * len(discs)
            if region:
                slabs = [anatomy.piece(material, Segment(region, side, level), direction) for level in discs]
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


def _canal(anatomy: Anatomy, build: Build, discs: Sequence[str]) -> None:
    rest = anatomy.piece(tissue.CSF, Segment("canal", "midline"))
    slabs = [anatomy.piece(tissue.CSF, Segment("canal", "midline", level)) for level in discs]
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
        return anatomy.piece(material, Segment("disc", "midline", level, part), (1.0, 0.0, 0.0), diffusion)

    nucleus = made_of(tissue.NUCLEUS, "np")
    anterior = made_of(tissue.ANNULUS, "af_anterior", around)
    posterior = made_of(tissue.ANNULUS, "af_posterior", around)

    def annulus(points: Floats) -> Pieces:
        piece = np.where(points[1] > plane, anterior, posterior)
        return np.where(np.abs(points[2] - z) <= half, piece, 0).astype(np.int16)

    anatomy.ellipsoid(annulus, (0, BODY_Y, z), (a, b, 7.0))
    anatomy.ellipsoid(nucleus, (0, plane, z), (11.0 * build.size, 7.0 * build.size, half - 0.3))


def _root(anatomy: Anatomy, build: Build, order: int, side: str, level: str, z: float) -> None:
    """A root leaves the canal 20 degrees in front of the coronal plane: down, outward and forward."""
    sign, angle = SIDES[side], np.deg2rad(20.0)
    mirror = np.array([sign, 1.0, 1.0])
    first, last = np.array([0.60, 0.12, -0.72]) * mirror, np.array([0.78, 0.42, -0.38]) * mirror
    start = (sign * build.canal_radius * np.cos(angle), CANAL_Y + build.canal_radius * np.sin(angle), z)
    nudge = build.takeoff[order]
    root = roots.grow(start, first + nudge[0], last + nudge[1], build.drg_diameter[order])
    diffusion = along(root, roots.profile)
    pieces = []
    for zone in roots.ZONES:
        fa, md = roots.zone_means(zone)
        nerve = replace(tissue.NERVE, fa=fa, md=md)
        pieces.append(anatomy.piece(nerve, Segment("nerve_root", side, level, zone), diffusion=diffusion))
    anatomy.shapes.append(root.shape([low for low, _ in roots.ZONES.values()], pieces))
    structure = Segment("nerve_root", side, level)
    anatomy.lines.append(Line(structure, root.s, root.points))
    anatomy.landmarks.append(Landmark("dural_exit", structure, start))


def lumbar_grid(
    voxel_mm: float | Sequence[float] = 1.5,
    axes: str = "LAS",
    tilt_deg: Sequence[float] = (3.0, 0.0, 0.0),
    field_of_view_mm: Sequence[float] = (144.0, 144.0, 60.0),
) -> Grid:
    """A grid around the phantom. The default is that of a real axial-oblique series, 96 x 96 x 40 at 1.5 mm:
    stored to the left, anterior, superior (negative determinant, as DICOM converters write it), and tilted
    by 3 degrees about the left-right axis. Arguments: `somite.phantom.make.grid`.
    """
    return make.grid(voxel_mm, axes, tilt_deg, field_of_view_mm, (0.0, 6.0, 0.0))


def make_lumbar(
    seed: int | Sequence[int] = 1,
    snr: float = 25.0,
    *,
    grid: Grid | None = None,
    gradients: Gradients | None = None,
    patient: bool = False,
    motion: Floats | None = None,
    points_per_axis: int = 3,
) -> Phantom:
    """One participant, as `somite.phantom.make.make`; a patient's right L5 root has FA 0.26, MD 1.79e-3."""
    return make.make(
        PROTOCOL,
        seed,
        snr,
        grid=grid,
        gradients=gradients,
        changes=LESION if patient else (),
        motion=motion,
        points_per_axis=points_per_axis,
    )


PROTOCOL = Protocol(
    name="lumbar",
    title="lumbar spine",
    about="""\
Levels of the spine are compressed to fit 60 mm: the discs are 12 mm apart.

Nerve roots: FA 0.25 to 0.40 and MD 1.6 to 1.3e-3 mm2/s over the first 15 mm from the dural exit, then
constant. The lesion: FA 0.26 and MD 1.79e-3 mm2/s over the whole length of the root.""",
    about_labels="""\
Segments of the canal and of the muscles are slabs of 8 mm at the levels of the discs. The zones of a root,
from the dural exit along its centreline: intraspinal 0 to 10 mm, foraminal_drg to 20 mm, extraforaminal to
30 mm.""",
    gradients=scheme.lumbar,
    scheme="4 volumes at b=0 and 33 directions at b=800 s/mm2",
    te_ms=scheme.TE_MS,
    reference=tissue.NERVE,
    snr=25.0,
    grid=lumbar_grid,
    build=build,
    lesion=LESION,
    lesion_words="lesion of the right L5 root",
    score=Score("odi", "Oswestry Disability Index", 36.0, 14.0, 0.0, 100.0, r=-0.65, units="%"),
    variants={
        "L6": "six lumbar vertebrae: roots L4, L5, L6, S1, discs L4-L5, L5-L6, L6-S1",
        "four": "four lumbar vertebrae: roots L2, L3, L4, S1, discs L2-L3, L3-L4, L4-S1",
    },
    anatomical=Anatomical(),
)
