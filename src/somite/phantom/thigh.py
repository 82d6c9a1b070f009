"""The thigh phantom: twelve muscles of each thigh, cut in thirds along the femur.

Lengths in mm in the frame of the body: +x right, +y anterior, +z superior. A thigh is a cylinder about its
femur: muscles are sectors of rings around the bone, parted by fat, under a rim of subcutaneous fat. The femur
is drawn at a third of its length, to fit 144 mm; it slants, its lower end towards the other knee.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from somite.images import Grid
from somite.phantom import make, scheme
from somite.phantom.anatomy import SIDES, Anatomy, Line, Pieces, Shape, fan, number, rigid
from somite.phantom.change import Change
from somite.phantom.protocol import Protocol, Score
from somite.phantom.tissue import FAT_DIFFUSION, SKIN, Floats, Tissue
from somite.segments import Segment, SegmentGroup, expand

THIRDS = ("proximal", "middle", "distal")
FEMUR_MM = 126.0
CENTRE_X, BONE_MM, INNER_MM, RING_MM, GLUTEAL_MM, FAT_MM, SKIN_MM = 69.0, 12.0, 35.0, 55.0, 70.0, 63.0, 65.0
"""Place of a thigh's axis; radii of bone, of the two rings of muscles, of the gluteus, of fat, of skin."""
GAP_MM = 0.8
"""Half the fat between two muscles."""
TENDON_MM = 80.0
"""From the middle of a muscle to the point where its fibres would meet."""
DEPTH = 1.06
"""Front to back over side to side."""
MUSCLE = Tissue("muscle", 1.0, 35.0, 0.25, 1.55e-3, perfusion=0.11, pseudo_diffusion=29.7e-3, fat=0.05)
RIM = Tissue("fat, suppressed", 0.05, 80.0, 0.0, FAT_DIFFUSION, unsuppressed_s0=1.0)
BONE = Tissue("cortical bone", 0.05, 20.0, 0.0, 0.5e-3)
COMPARTMENTS = {"anterior": (0.256, 1.60e-3), "medial": (0.233, 1.55e-3), "posterior": (0.304, 1.50e-3)}
"""FA (medians of healthy thighs at 1.5 T) and MD, mm2/s."""
LESION = (Change("adductor_magnus", "R", delta_fa=-0.05, delta_md=0.15e-3),)
VARIANTS = {
    "plain": "muscle is water that does not flow: neither perfusion nor fat",
    "perfused": "perfusion without fat",
    "fatty": "fat without perfusion",
}


@dataclass(frozen=True)
class Muscle:
    """A sector of a ring around the femur. Angles in degrees from the front, positive to the outside."""

    compartment: str
    inner_mm: float
    outer_mm: float
    first_deg: float
    last_deg: float
    top: float
    """Upper and lower end, in parts of the femur from its upper end."""
    bottom: float
    fibre: tuple[float, float, float]
    """Direction in its middle: lateral, anterior, superior; of any length."""


MUSCLES = {
    "gluteus_maximus": Muscle("posterior", RING_MM, GLUTEAL_MM, 130, 215, 0.0, 0.45, (0.55, -0.2, -0.8)),
    "gracilis": Muscle("medial", INNER_MM, RING_MM, -140, -105, 0.0, 1.0, (0.1, -0.15, 1.0)),
    "rectus_femoris": Muscle("anterior", INNER_MM, RING_MM, -30, 30, 0.0, 0.96, (0.05, 0.3, 1.0)),
    "vastus_lateralis": Muscle("anterior", INNER_MM, RING_MM, 30, 112, 0.0, 1.0, (0.4, 0.2, 1.0)),
    "vastus_medialis": Muscle("anterior", INNER_MM, RING_MM, -75, -30, 0.05, 1.0, (-0.45, 0.25, 1.0)),
    "vastus_intermedius": Muscle("anterior", BONE_MM, INNER_MM, -68, 112, 0.05, 1.0, (0.1, 0.25, 1.0)),
    "adductor_magnus": Muscle("medial", BONE_MM, INNER_MM, -248, -125, 0.0, 1.0, (0.5, -0.15, -0.8)),
    "adductor_longus": Muscle("medial", BONE_MM, INNER_MM, -125, -68, 0.0, 0.8, (0.55, 0.15, -0.8)),
    "biceps_femoris_long": Muscle("posterior", INNER_MM, RING_MM, 112, 155, 0.08, 1.0, (0.3, 0.1, -0.95)),
    "semitendinosus": Muscle("posterior", INNER_MM, RING_MM, 155, 185, 0.08, 1.0, (-0.15, 0.2, -1.0)),
    "semimembranosus": Muscle("posterior", INNER_MM, RING_MM, 185, 220, 0.08, 1.0, (-0.35, 0.1, -0.9)),
    "sartorius": Muscle("anterior", INNER_MM, RING_MM, -105, -75, 0.0, 1.0, (-0.4, -0.1, -0.9)),
}


def segments() -> tuple[Segment, ...]:
    """Every third of every muscle, in the order of their labels 1, 2, 3, ..."""
    return expand(SegmentGroup(region=name, sides=("L", "R"), segments=THIRDS) for name in MUSCLES)


def wholes() -> tuple[Segment, ...]:
    """The whole muscles, and the femur that they are cut along."""
    return expand(SegmentGroup(region=name, sides=("L", "R")) for name in (*MUSCLES, "femur"))


@dataclass(frozen=True)
class Thigh:
    """Where one thigh lies: a frame along its femur. Directions are unit vectors."""

    sign: float
    """Of x on its side."""
    top: Floats
    """Upper end of the femur (3,)."""
    down: Floats
    """(3,)"""
    length: float
    size: float

    def place(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Part of the femur's length from its upper end, distance from its axis (of the nominal thigh, mm),
        and angle from the front (radians, positive to the outside) of points (3, m)."""
        relative = points - self.top[:, None]
        along = self.down @ relative
        outward, forward = (
            self.sign * (relative[0] - self.down[0] * along),
            relative[1] - self.down[1] * along,
        )
        return (
            along / self.length,
            np.hypot(outward, forward / DEPTH) / self.size,
            np.arctan2(outward, forward / DEPTH),
        )


def build(rng: np.random.Generator, variant: str = "", changes: tuple[Change, ...] = ()) -> Anatomy:
    """The thighs of one participant: sizes within 3 %, the femur within 4 mm, borders of the muscles within
    2 degrees, pose within 3 mm and 1.5 degrees."""
    pose = rigid(rng.uniform(-3.0, 3.0, 3) * (1.0, 1.0, 0.3), rng.uniform(-1.5, 1.5, 3))
    size, length = float(rng.uniform(0.97, 1.03)), float(FEMUR_MM + rng.uniform(-4.0, 4.0))
    nudge = np.deg2rad(rng.uniform(-2.0, 2.0))
    anatomy = Anatomy(pose, number(segments()), number(wholes()), changes)
    for side, sign in SIDES.items():
        down = np.array([-0.04 * sign, -0.02, -1.0])
        down /= np.linalg.norm(down)
        top = np.array([CENTRE_X * sign, 0.0, 0.0]) - down * length / 2
        thigh = Thigh(sign, top, down, length, size)
        _tissue_around(anatomy, thigh)
        _muscles(anatomy, thigh, side, variant, float(nudge))
        bone = anatomy.piece(BONE, Segment("femur", side))
        anatomy.shapes.append(_bone(thigh, bone))
        s = np.linspace(0.0, length, 127)
        anatomy.lines.append(Line(Segment("femur", side), s, top + s[:, None] * down))
    return anatomy


def _box(thigh: Thigh) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    reach = 1.4 * SKIN_MM
    x = thigh.sign * CENTRE_X
    low, high = (x - reach, -reach - 10.0, -np.inf), (x + reach, reach, np.inf)
    return low, high


def _tissue_around(anatomy: Anatomy, thigh: Thigh) -> None:
    """Skin and subcutaneous fat, thicker at the back of the upper half, where the gluteus lies."""
    skin, fat = anatomy.piece(SKIN), anatomy.piece(RIM)

    def paint(points: Floats) -> Pieces:
        part, radius, angle = thigh.place(points)
        hip = np.clip((0.62 - part) / 0.12, 0.0, 1.0)
        behind = np.clip(np.cos(angle - np.deg2rad(172.0)), 0.0, 1.0)
        edge = 14.0 * hip * behind
        return np.where(radius <= FAT_MM + edge, fat, np.where(radius <= SKIN_MM + edge, skin, 0)).astype(
            np.int16
        )

    anatomy.shapes.append(Shape(*_box(thigh), paint))


def _muscles(anatomy: Anatomy, thigh: Thigh, side: str, variant: str, nudge: float) -> None:
    sectors = []
    for name, muscle in MUSCLES.items():
        fa, md = COMPARTMENTS[muscle.compartment]
        flesh = replace(MUSCLE, fa=fa, md=md)
        if variant in ("plain", "fatty"):
            flesh = replace(flesh, perfusion=0.0)
        if variant in ("plain", "perfused"):
            flesh = replace(flesh, fat=0.0)
        fibres = fan(_tendon(thigh, muscle), fa, md)
        places = [Segment(name, side, segment=third) for third in THIRDS]
        sectors.append((muscle, [anatomy.piece(flesh, place, diffusion=fibres) for place in places]))

    def paint(points: Floats) -> Pieces:
        part, radius, angle = thigh.place(points)
        found = np.zeros(points.shape[1], np.int16)
        third = np.clip((part * len(THIRDS)).astype(int), 0, len(THIRDS) - 1)
        for muscle, pieces in sectors:
            inside = (radius >= muscle.inner_mm + GAP_MM) & (radius <= muscle.outer_mm - GAP_MM)
            inside &= (part >= muscle.top) & (part <= muscle.bottom)
            middle = np.deg2rad((muscle.first_deg + muscle.last_deg) / 2) + nudge
            half = np.deg2rad(muscle.last_deg - muscle.first_deg) / 2
            away = np.abs(np.remainder(angle - middle + np.pi, 2 * np.pi) - np.pi)
            inside &= (half - away) * radius >= GAP_MM
            found[inside] = np.asarray(pieces, np.int16)[third[inside]]
        return found

    anatomy.shapes.append(Shape(*_box(thigh), paint))


def _tendon(thigh: Thigh, muscle: Muscle) -> Floats:
    """The point to which a muscle's fibres run: `TENDON_MM` from its middle along its `fibre`."""
    angle = np.deg2rad((muscle.first_deg + muscle.last_deg) / 2)
    radius = (muscle.inner_mm + muscle.outer_mm) / 2
    outward = np.array([thigh.sign * np.sin(angle), np.cos(angle), 0.0]) * radius
    middle = thigh.top + thigh.down * thigh.length * (muscle.top + muscle.bottom) / 2 + outward
    fibre = np.array(muscle.fibre) * (thigh.sign, 1.0, 1.0)
    return np.asarray(middle + TENDON_MM * fibre / np.linalg.norm(fibre))


def _bone(thigh: Thigh, piece: int) -> Shape:
    def paint(points: Floats) -> Pieces:
        part, radius, _ = thigh.place(points)
        return np.where((radius <= BONE_MM) & (part >= 0) & (part <= 1), piece, 0).astype(np.int16)

    return Shape(*_box(thigh), paint)


def thigh_grid(
    voxel_mm: float | Sequence[float] = (3.0, 3.0, 6.0),
    axes: str = "LAS",
    tilt_deg: Sequence[float] = (0.0, 0.0, 0.0),
    field_of_view_mm: Sequence[float] = (288.0, 288.0, 144.0),
) -> Grid:
    """A grid around the phantom, by default 96 x 96 x 24 of 3 x 3 x 6 mm. Arguments:
    `somite.phantom.make.grid`."""
    return make.grid(voxel_mm, axes, tilt_deg, field_of_view_mm, (0.0, 0.0, 0.0))


PROTOCOL = Protocol(
    name="thigh",
    title="pair of thighs",
    about="""\
The femur is drawn at a third of its length, to fit 144 mm.

Muscles: FA 0.256 and MD 1.60e-3 mm2/s in the anterior compartment, 0.233 and 1.55e-3 in the medial, 0.304 and
1.50e-3 in the posterior. Of the water 11 % flows in capillaries (D* 29.7e-3 mm2/s), and fat has 5 % of the
signal at b=0, unless the variant says otherwise. FA and MD of the truth are those of the water that does not
flow: fit b >= 200 s/mm2. The lesion: FA 0.05 lower and MD 0.15e-3 mm2/s higher.""",
    about_labels="""\
The segments are the thirds of each muscle along the femur, of the femur's length: proximal, middle and
distal.""",
    gradients=scheme.thigh,
    scheme="4 volumes at b=0, 12 directions at b=200 and 30 at b=600 s/mm2",
    te_ms=scheme.THIGH_TE_MS,
    reference=MUSCLE,
    snr=40.0,
    grid=thigh_grid,
    build=build,
    lesion=LESION,
    lesion_words="lesion of the right adductor magnus",
    score=Score("strength", "Force of knee extension", 250.0, 60.0, 0.0, 600.0, r=0.5, units="N"),
    variants=VARIANTS,
    drawn="whole",
    wholes_are_measured=True,
    points_per_axis=2,
)
