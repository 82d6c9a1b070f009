"""A T2w image of the lumbar phantom and its b=0 image, distorted along phase encoding: the way is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import paint, roots, scheme, tissue
from somite.phantom.anatomy import SIDES, Anatomy, rigid
from somite.phantom.lumbar import CANAL_Y, EXIT_Z, Build, lumbar, lumbar_grid

Float = NDArray[np.float64]
PHASE_AXIS = 1
_WITHOUT_FAT_SUPPRESSION = {"fat, suppressed": 0.9, "bone": 0.5, "skin": 0.6}


@dataclass(frozen=True)
class Spine:
    """Both images, and what is true of them."""

    b0: NDArray[np.float32]
    grid: Grid
    t2w: NDArray[np.float32]
    t2w_grid: Grid
    labels: NDArray[np.int32]
    """On the T2w grid: 1 to 8, the roots in the order of `centrelines`."""
    movement: Float
    """(4, 4): where tissue of the undistorted b=0 image lies in the T2w image."""
    strength: float
    centrelines: tuple[tuple[Float, Float], ...]
    """Points and tangents (k, 3) of each root, undistorted, 0.5 mm apart."""

    @property
    def along(self) -> Float:
        """Unit vector of phase encoding."""
        return self.grid.axes[:, PHASE_AXIS]

    def distorted(self, points: Float) -> Float:
        """Where tissue at points (n, 3) is found in the b=0 image."""
        return points + self.strength * field_mm(points)[:, None] * self.along

    def in_t2w(self, points: Float) -> Float:
        """Where tissue at points (n, 3) is found in the T2w image."""
        return points @ self.movement[:3, :3].T + self.movement[:3, 3]


def field_mm(points: Float) -> Float:
    """Displacement of up to 5 mm, a little more than three voxels."""
    x, y, z = points.T
    one = 4.5 * np.exp(-((x - 25) ** 2 + (y - 35) ** 2) / 900 - (z - 5) ** 2 / 1600)
    other = 3.5 * np.exp(-((x + 30) ** 2) / 700 - ((y + 10) ** 2 + (z + 10) ** 2) / 900)
    return np.asarray(one - other + 1.5 * np.sin(z / 18))


def world(grid: Grid) -> Float:
    """(n, 3) mm of all voxels."""
    return (grid.affine[:3, :3] @ np.indices(grid.shape).reshape(3, -1)).T + grid.affine[:3, 3]


@cache
def spine(
    strength: float = 0.0,
    seed: int = 1,
    axes: str = "LPS",
    shift_mm: tuple[float, float, float] = (3.0, -2.5, 3.0),
    turn_deg: tuple[float, float, float] = (1.5, -2.0, 1.7),
) -> Spine:
    """T2w of 0.9 x 0.9 x 3 mm with fat, shading and noise, moved by 5 mm and 3 degrees; b=0 with SNR 20."""
    rng = np.random.default_rng([seed, 5])
    build = Build.draw(np.random.default_rng([seed, 0]))
    anatomy, grid = lumbar(build), lumbar_grid()
    b0 = _painted(anatomy, grid, scheme.TE_MS, {})[0]
    if strength:
        b0 = _distorted(b0, grid, strength)
    b0 = np.hypot(*(b0 * part + rng.normal(0, 25, b0.shape) for part in (1, 0))).astype(np.float32)
    movement = rigid(shift_mm, turn_deg)
    sizes = {"L": 0.9, "R": 0.9, "A": 0.9, "P": 0.9, "S": 3.0, "I": 3.0}
    t2w_grid = lumbar_grid([sizes[a] for a in axes], axes, (-6, 2, 1), (144, 144, 75))
    t2w, painting = _painted(
        anatomy.moved(movement),
        t2w_grid,
        100.0,
        _WITHOUT_FAT_SUPPRESSION,
    )
    shading = np.exp(-(world(t2w_grid)[:, 1].reshape(t2w_grid.shape) + 20) / 120)
    t2w = (t2w * shading + rng.normal(0, 25, t2w.shape)).clip(0).astype(np.float32)
    labels = (
        paint.label(painting, [piece.label for piece in anatomy.pieces]).astype(np.int32) % 100
    )  # and edges
    labels = np.where((labels > 0) & (labels <= 24), (labels + 2) // 3, 0).astype(np.int32)
    return Spine(b0, grid, t2w, t2w_grid, labels, movement, strength, tuple(_centrelines(build)))


def _painted(
    anatomy: Anatomy, grid: Grid, te_ms: float, density: dict[str, float]
) -> tuple[NDArray[np.float32], paint.Painting]:
    pieces = [
        replace(p, tissue=replace(p.tissue, s0=density.get(p.tissue.name, p.tissue.s0)))
        for p in anatomy.pieces
    ]
    shown = replace(anatomy, pieces=pieces)
    painting = paint.paint(shown, grid, 2)
    still = Gradients(np.zeros(1), np.zeros((1, 3)))
    signal = paint.average(painting, *paint.signal(shown, painting, still, te_ms))
    return (1000 * signal / tissue.NERVE.brightness(te_ms)).reshape(grid.shape), painting


def _distorted(image: NDArray[np.float32], grid: Grid, strength: float) -> NDArray[np.float32]:
    """Signal moved along phase encoding, none lost: each point of the result looked up where it came from."""
    here, along = world(grid), grid.axes[:, PHASE_AXIS]
    shift = np.zeros(len(here))
    for _ in range(40):
        shift = strength * field_mm(here - shift[:, None] * along)
    inverse = np.linalg.inv(grid.affine)
    voxels = (here - shift[:, None] * along) @ inverse[:3, :3].T + inverse[:3, 3]
    found = map_coordinates(image, voxels.T, order=3, mode="nearest").reshape(grid.shape)
    squeezed = np.gradient(voxels[:, PHASE_AXIS].reshape(grid.shape), axis=PHASE_AXIS)
    return np.asarray(np.maximum(found, 0) * squeezed, np.float32)


def _centrelines(build: Build) -> list[tuple[Float, Float]]:
    """As `somite.phantom.anatomy` lays them."""
    found, angle, turn = [], np.deg2rad(20.0), build.pose[:3, :3]
    for number, (z, sign) in enumerate((z, sign) for z in EXIT_Z for sign in SIDES.values()):
        mirror, nudge = np.array([sign, 1.0, 1.0]), build.takeoff[number]
        start = (sign * build.canal_radius * np.cos(angle), CANAL_Y + build.canal_radius * np.sin(angle), z)
        first, last = np.array([0.60, 0.12, -0.72]) * mirror, np.array([0.78, 0.42, -0.38]) * mirror
        root = roots.grow(start, first + nudge[0], last + nudge[1], build.drg_diameter[number])
        found.append((root.points[::5] @ turn.T + build.pose[:3, 3], root.tangents[::5] @ turn.T))
    return found
