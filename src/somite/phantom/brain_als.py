"""The brain phantom: motor and extra-motor bundles, in coordinates like those of MNI.

Lengths in mm: +x right, +y anterior, +z superior, the origin at the anterior commissure. Bundles are simple
tubes through a few points; labels are those parts of them that the JHU ICBM-DTI-81 atlas names, with its
numbers. A participant is the template bent smoothly by a few millimetres and put elsewhere in the scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from somite.images import Grid
from somite.phantom import make, scheme
from somite.phantom.anatomy import SIDES, Anatomy, Bend, Line, Pieces, Shape, number, rigid
from somite.phantom.change import Change
from somite.phantom.protocol import Protocol, Score
from somite.phantom.tissue import Floats, Tissue
from somite.phantom.tube import Tube, along, through, uniform
from somite.segments import Segment

Points = Sequence[tuple[float, float, float]]

WHITE = Tissue("white matter", 1.0, 75.0, 0.35, 0.80e-3)
GREY = Tissue("grey matter", 1.15, 90.0, 0.10, 0.85e-3)
FLUID = Tissue("cerebrospinal fluid", 1.7, 1500.0, 0.0, 3.0e-3)
SCALP = Tissue("scalp and skull, fat suppressed", 0.25, 50.0, 0.0, 0.5e-3, unsuppressed_s0=0.8)
TRUTH: dict[str, tuple[float, float]] = {
    "CST": (0.60, 0.75e-3),
    "CP": (0.60, 0.75e-3),
    "PLIC": (0.58, 0.75e-3),
    "SCR": (0.52, 0.74e-3),
    "SCP": (0.592, 0.80e-3),
    "ICP": (0.479, 0.76e-3),
    "MCP": (0.502, 0.75e-3),
    "GCC": (0.65, 0.89e-3),
    "BCC": (0.59, 1.02e-3),
    "SCC": (0.66, 0.88e-3),
    "cingulum": (0.50, 0.76e-3),
    "SLF": (0.47, 0.74e-3),
    "uncinate": (0.46, 0.79e-3),
}
"""Region -> FA and MD (mm2/s). PLIC, GCC, BCC: 10.1038/s41598-019-39199-x; FA of SCP, ICP, MCP:
10.1136/jnnp-2021-326854; others chosen here."""
INDICES: dict[str, tuple[int, ...]] = {
    "MCP": (1,),
    "GCC": (3,),
    "BCC": (4,),
    "SCC": (5,),
    "CST": (8, 7),
    "ICP": (12, 11),
    "SCP": (14, 13),
    "CP": (16, 15),
    "PLIC": (20, 19),
    "SCR": (26, 25),
    "cingulum": (36, 35),
    "SLF": (42, 41),
    "uncinate": (46, 45),
}
"""Region -> index on the midline, or on the left and on the right, as in the ICBM-DTI-81 atlas."""
MOTOR = ("CST", "CP", "PLIC", "SCR")
MOTOR_Z = (-60.0, -22.0, -5.0, 16.0, 40.0)
"""Heights between which the corticospinal tract is CST, CP, PLIC and SCR; above, it has no label."""
LESION = tuple(Change(region, delta_fa=-0.04, delta_rd=0.05e-3) for region in MOTOR)

_MOTOR: Points = [
    (5, -34, -62),
    (6, -30, -46),
    (7, -26, -34),
    (11, -21, -20),
    (18, -17, -8),
    (24, -14, 4),
    (26, -16, 18),
    (27, -20, 36),
    (29, -24, 54),
]
_BUNDLES: dict[str, tuple[Points, float]] = {
    "SCP": ([(13, -55, -32), (10, -47, -25), (6, -39, -17)], 3.5),
    "ICP": ([(9, -44, -54), (12, -45, -44), (16, -50, -35)], 3.5),
    "cingulum": ([(9, 40, 6), (9, 30, 24), (9, 8, 37), (9, -16, 41), (9, -38, 34), (9, -49, 20)], 4.0),
    "SLF": ([(41, 10, 26), (41, -10, 31), (40, -30, 31), (40, -46, 24)], 4.5),
    "uncinate": ([(36, -4, -24), (36, 5, -13), (30, 15, -8), (22, 29, -8)], 4.0),
}
"""Of the right side, from which the left is mirrored: points of the centreline and radius."""
_MIDDLE: Points = [(28, -52, -36), (22, -34, -35), (11, -19, -34), (0, -15, -34)]
"""Right half of the middle cerebellar peduncle, which crosses in front of the corticospinal tracts."""
_ARCH: Points = [
    (0, 22, -4),
    (0, 32, 3),
    (0, 29, 16),
    (0, 14, 25),
    (0, -8, 29),
    (0, -26, 25),
    (0, -38, 15),
    (0, -35, 6),
]
ARCH_MM, ARCH_HALF_WIDTH, ARCH_RISE = 4.5, 22.0, 0.012
"""Of the corpus callosum: half its thickness, how far it reaches from the midline, and by how much times x²
it rises away from the middle of the brain."""
ARCH_Y = (18.0, -26.0)
"""Places on top of the arch between which GCC, BCC and SCC lie."""
_HUB = (0.0, -4.0, 2.0)
_HEAD = (0.0, -18.0, 8.0)
_BUSH_MM = 32.0
"""Edge of the cells from whose middle the fibres of the white matter beside the bundles radiate."""


def segments() -> dict[Segment, int]:
    """Segments, and their labels."""
    found: dict[Segment, int] = {}
    for region, indices in INDICES.items():
        sides = ("midline",) if len(indices) == 1 else ("L", "R")
        found |= {Segment(region, side): index for side, index in zip(sides, indices, strict=True)}
    return found


def build(rng: np.random.Generator, variant: str = "", changes: tuple[Change, ...] = ()) -> Anatomy:  # noqa: ARG001
    """The brain of one participant: the template bent by up to about 4 mm, within 5 mm and 4 degrees."""
    waves = rng.uniform(-1.0, 1.0, (4, 3)) * 2 * np.pi / 110.0
    phases = rng.uniform(0.0, 2 * np.pi, 4)
    bend = Bend(waves, phases, rng.uniform(-1.6, 1.6, (4, 3)))
    pose = rigid(rng.uniform(-5.0, 5.0, 3), rng.uniform(-4.0, 4.0, 3))
    return _brain(pose, bend, changes)


def template() -> Anatomy:
    """The brain that all are bent from."""
    return _brain(np.eye(4), None, ())


def _brain(pose: Floats, bend: Bend | None, changes: tuple[Change, ...]) -> Anatomy:
    numbered = segments()
    labels = number(numbered, numbered.values())
    anatomy = Anatomy(pose, labels, labels, changes, bend)
    _head(anatomy)
    _callosum(anatomy)
    for side, sign in SIDES.items():
        _motor(anatomy, side, sign)
        for region, (points, radius) in _BUNDLES.items():
            _bundle(anatomy, Segment(region, side), through(_mirrored(points, sign), radius))
    right = list(_MIDDLE)
    left = [(-x, y, z) for x, y, z in right[-2::-1]]
    _bundle(anatomy, Segment("MCP", "midline"), through([*right, *left], 5.0))
    return anatomy


def _mirrored(points: Points, sign: float) -> Points:
    return [(sign * x, y, z) for x, y, z in points]


def _head(anatomy: Anatomy) -> None:
    """All but the bundles: scalp, fluid, folded grey and white matter, cerebellum, brainstem, ventricles."""
    anatomy.ellipsoid(anatomy.piece(SCALP), (0, -18, 4), (80, 99, 86))
    anatomy.ellipsoid(anatomy.piece(FLUID), (0, -18, 4), (74, 92, 79))
    grey, fluid = anatomy.piece(GREY), anatomy.piece(FLUID)
    white = anatomy.piece(WHITE, diffusion=_bushes)
    anatomy.shapes.append(_folded(grey, 1.0, 0.03))
    anatomy.shapes.append(_folded(white, 0.87, 0.06))
    for sign in SIDES.values():
        anatomy.ellipsoid(grey, (sign * 24, -62, -38), (24, 24, 18))
        anatomy.ellipsoid(white, (sign * 22, -58, -37), (15, 14, 9))
        anatomy.ellipsoid(fluid, (sign * 9, -8, 16), (5, 24, 6))
        anatomy.ellipsoid(grey, (sign * 12, -17, 7), (8, 12, 7))
        anatomy.ellipsoid(grey, (sign * 28, 2, 2), (7, 14, 9))
    anatomy.ellipsoid(white, (0, -29, -40), (17, 17, 26))
    anatomy.ellipsoid(fluid, (0, -44, -36), (4, 3, 9))


def _bushes(points: Floats) -> tuple[Floats, Floats, Floats]:
    """White matter beside the bundles: fibres that change direction from place to place, as in the gyri."""
    away = np.remainder(points, _BUSH_MM) - _BUSH_MM / 2
    n = points.shape[1]
    directions = away / np.maximum(np.linalg.norm(away, axis=0), 1e-9)
    return np.full(n, WHITE.fa), np.full(n, WHITE.md), directions


def _folded(piece: int, scale: float, depth: float) -> Shape:
    """An ellipsoid whose surface goes in and out by `depth` of its radius."""
    semi = np.array([69.0, 86.0, 70.0]) * scale

    def paint(points: Floats) -> Pieces:
        x, y, z = ((points[i] - _HEAD[i]) / semi[i] for i in range(3))
        folds = np.sin(9 * x + 2 * z) * np.sin(8 * y - 1.5 * x) + np.sin(7 * z + 3 * y) * np.cos(6 * x)
        inside = np.sqrt(x**2 + y**2 + z**2) <= 1.0 - depth + depth * folds / 2
        inside &= (z > -0.72) & (np.abs(points[0]) > 1.5 * (points[2] > 34))
        return np.where(inside, piece, 0).astype(np.int16)

    centre = np.array(_HEAD)
    return Shape(tuple(centre - semi), tuple(centre + semi), paint)


def _fibres(region: str) -> Tissue:
    fa, md = TRUTH[region]
    return replace(WHITE, fa=fa, md=md)


def _bundle(anatomy: Anatomy, place: Segment, tube: Tube) -> None:
    diffusion = along(tube, uniform(*TRUTH[place.region]))
    piece = anatomy.piece(_fibres(place.region), place, diffusion=diffusion)
    anatomy.shapes.append(tube.shape([0.0], [piece]))
    anatomy.lines.append(Line(place, tube.s, tube.points))


def _motor(anatomy: Anatomy, side: str, sign: float) -> None:
    """The corticospinal tract from the medulla to the cortex, one tube of five parts."""
    tube = through(_mirrored(_MOTOR, sign), 4.5)
    borders = [0.0, *(float(np.interp(z, tube.points[:, 2], tube.s)) for z in MOTOR_Z[1:])]
    pieces = []
    for region in (*MOTOR, ""):
        diffusion = along(tube, uniform(*TRUTH[region or "SCR"]))
        place = Segment(region, side) if region else None
        pieces.append(anatomy.piece(_fibres(region or "SCR"), place, diffusion=diffusion))
    anatomy.shapes.append(tube.shape(borders, pieces))
    for region, first, last in zip(MOTOR, borders[:-1], borders[1:], strict=True):
        part = (tube.s >= first) & (tube.s <= last)
        anatomy.lines.append(Line(Segment(region, side), tube.s[part] - first, tube.points[part]))


@dataclass(frozen=True)
class _Sheet:
    """The corpus callosum: an arch in the midline plane, whose fibres cross it and rise to both sides."""

    arch: Tube

    def _flat(self, points: Floats) -> tuple[Floats, Floats]:
        """Points moved along the rise of the fibres to the midline plane, and the direction of the rise."""
        away = points - np.array(_HUB)[:, None]
        away[0] = 0.0
        away /= np.maximum(np.linalg.norm(away, axis=0), 1e-9)
        flat = points - away * (ARCH_RISE * points[0] ** 2)
        flat[0] = 0.0
        return flat, away

    def paint(self, points: Floats, borders: Sequence[float], pieces: Sequence[int]) -> Pieces:
        """Piece by arc length along the arch."""
        index, inside = self.arch.nearest(self._flat(points)[0])
        inside &= np.abs(points[0]) <= ARCH_HALF_WIDTH
        part = np.searchsorted(borders, self.arch.s[index], side="right") - 1
        return np.where(inside, np.asarray(pieces)[part], 0).astype(np.int16)

    def directions(self, points: Floats) -> Floats:
        """Unit directions of the fibres (3, m)."""
        _, away = self._flat(points)
        fibre = away * (2 * ARCH_RISE * points[0])
        fibre[0] = 1.0
        return np.asarray(fibre / np.linalg.norm(fibre, axis=0))


def _callosum(anatomy: Anatomy) -> None:
    sheet = _Sheet(through(_ARCH, ARCH_MM))
    arch = sheet.arch
    top = int(arch.points[:, 2].argmax())
    front, back = arch.points[: top + 1], arch.points[top:]
    genu = float(arch.s[: top + 1][np.flatnonzero(front[:, 1] > ARCH_Y[0])[-1]])
    splenium = float(arch.s[top:][np.flatnonzero(back[:, 1] < ARCH_Y[1])[0]])
    borders = [0.0, genu, splenium]
    pieces = []
    for region in ("GCC", "BCC", "SCC"):
        fa, md = TRUTH[region]

        def diffusion(points: Floats, fa: float = fa, md: float = md) -> tuple[Floats, Floats, Floats]:
            n = points.shape[1]
            return np.full(n, fa), np.full(n, md), sheet.directions(points)

        pieces.append(anatomy.piece(_fibres(region), Segment(region, "midline"), diffusion=diffusion))
    margin = ARCH_MM + ARCH_RISE * ARCH_HALF_WIDTH**2
    low, high = arch.points.min(axis=0) - margin, arch.points.max(axis=0) + margin
    low[0], high[0] = -ARCH_HALF_WIDTH, ARCH_HALF_WIDTH
    anatomy.shapes.append(Shape(tuple(low), tuple(high), lambda points: sheet.paint(points, borders, pieces)))


def brain_grid(
    voxel_mm: float | Sequence[float] = 2.0,
    axes: str = "LAS",
    tilt_deg: Sequence[float] = (0.0, 0.0, 0.0),
    field_of_view_mm: Sequence[float] = (192.0, 192.0, 192.0),
) -> Grid:
    """A grid around the phantom, by default 96 x 96 x 96 of 2 mm. Arguments: `somite.phantom.make.grid`."""
    return make.grid(voxel_mm, axes, tilt_deg, field_of_view_mm, _HEAD)


PROTOCOL = Protocol(
    name="brain-als",
    title="brain",
    about="""\
Bundles in coordinates like those of MNI, labelled as the ICBM-DTI-81 atlas labels them: FA and MD (1e-3
mm2/s) 0.60 and 0.75 in the corticospinal tract, 0.58 and 0.75 in the internal capsule, 0.65, 0.59, 0.66 and
0.89, 1.02, 0.88 in genu, body and splenium of the corpus callosum. The lesion: FA 0.04 lower and radial
diffusivity 0.05e-3 mm2/s higher in CST, CP, PLIC and SCR of both sides.""",
    about_labels="Labels have the numbers of the ICBM-DTI-81 atlas.",
    gradients=scheme.brain,
    scheme="5 volumes at b=0 and 30 directions at b=1000 s/mm2",
    te_ms=scheme.BRAIN_TE_MS,
    reference=WHITE,
    snr=30.0,
    grid=brain_grid,
    build=build,
    lesion=LESION,
    lesion_words="lesion of the corticospinal tracts",
    score=Score("alsfrs_r", "ALS Functional Rating Scale, revised", 36.0, 5.0, 0.0, 48.0, r=0.5),
    drawn="none",
    points_per_axis=2,
    template=template,
)
