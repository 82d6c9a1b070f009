"""Series of a head or of two limbs that move and are distorted: where all tissue lay is known.

Drawn at 1 mm, moved and distorted as coordinates, and averaged to voxels. What was found of the motion is
measured as the distance between where tissue is said to lie in a volume and where it lay.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from tissues import FIELD_OF_VIEW_MM, FINE, WHITE, Anatomy, drawn

from somite import tensorfit
from somite.gradients import Gradients
from somite.images import Grid
from somite.registration import in_threads

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]

QUADRATIC = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [0, 2, 0], [0, 0, 2],
                      [1, 1, 0], [1, 0, 1], [0, 1, 1]])  # fmt: skip
CUBIC = np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [2, 1, 0], [2, 0, 1], [1, 2, 0], [0, 2, 1],
                  [1, 0, 2], [0, 1, 2], [1, 1, 1]])  # fmt: skip
SIZES = np.array([0.6, 2.5, 2.5, 2.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
"""Of the eddy currents' terms, mm at 100 mm."""


@dataclass(frozen=True)
class Case:
    """What is acquired, and what happens meanwhile."""

    seed: int = 1
    snr: float = 20.0
    directions: int = 42
    shells: tuple[float, ...] = (1000.0,)
    voxel_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    largest_deg: float | None = None
    """Of the motion between volumes; None: as drawn, about 2 degrees."""
    eddy: float = 1.0
    """Factor of the eddy currents."""
    cubic_mm: float = 0.0
    """Their terms of degree 3, mm at 100 mm: none of the corrector's."""
    by_slice: float = 0.0
    """Standard deviation of a factor of the eddy currents from slice to slice."""
    within: float = 0.0
    """Factor of the motion within volumes, of about 1 degree and 1 mm in three volumes of ten."""
    field: float = 0.0
    """Factor of a susceptibility field of up to 9 mm that moves with the head."""
    dropped: int = 0
    """Slices that lost 30 to 90 % of their signal."""
    oblique: bool = False
    phase_axis: int = 1
    limbs: bool = False


def spread_directions(rng: np.random.Generator, n: int) -> Float:
    """(n, 3) unit vectors that repel each other and each other's opposites."""
    found = rng.standard_normal((n, 3))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    for _ in range(400):
        force = np.zeros_like(found)
        for sign in (1, -1):
            apart = found[:, None] - sign * found[None]
            distance = np.maximum(np.linalg.norm(apart, axis=-1) + (np.eye(n) if sign == 1 else 0), 1e-2)
            force += (apart / distance[..., None] ** 3).sum(1)
        force -= (force * found).sum(1, keepdims=True) * found
        found += 0.06 * force / np.abs(force).max()
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def polynomial(points: NDArray[np.floating], powers: NDArray[np.intp], terms: Float) -> NDArray[np.floating]:
    """Sum of terms at points (..., 3), mm from the isocentre, counted in 100 mm."""
    total = np.zeros(points.shape[:-1], points.dtype)
    scaled = points / 100
    for (i, j, k), term in zip(powers, terms, strict=True):
        if term:
            total += points.dtype.type(term) * scaled[..., 0] ** i * scaled[..., 1] ** j * scaled[..., 2] ** k
    return total


def slope(
    points: NDArray[np.floating], powers: NDArray[np.intp], terms: Float, axis: int
) -> NDArray[np.floating]:
    """Its derivative along an axis, per mm."""
    lower = powers.copy()
    lower[:, axis] = np.maximum(lower[:, axis] - 1, 0)
    return polynomial(points, lower, terms * powers[:, axis] / 100)


def field_at(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Displacement in mm by susceptibility at points (..., 3): above sinuses, beside ears, and slow."""
    x, y, z = np.moveaxis(points, -1, 0)
    total = 9 * np.exp(-((x / 18) ** 2 + ((y - 62) / 16) ** 2 + ((z + 22) / 14) ** 2))
    for side in (-1, 1):
        total -= 6 * np.exp(-(((x - side * 48) / 14) ** 2 + ((y + 10) / 16) ** 2 + ((z + 24) / 12) ** 2))
    return np.asarray(total + 1.2 * np.sin(x / 60) * np.cos(y / 70))


@dataclass
class Happening:
    """What happens during the scan, in the axes of the image, about the isocentre."""

    gradients: Gradients
    motion: Float
    """(n, 6): angles in radians about x, y, z, shifts in mm."""
    speed: Float
    """(n, 6): the same, per time of a volume, about its middle."""
    eddy: Float
    """(n, 10) of `QUADRATIC`, mm."""
    cubic: Float
    """(n, 10) of `CUBIC`, mm."""
    by_slice: Float
    """(nz,) factor of both."""
    dropped: dict[tuple[int, int], float] = field(default_factory=dict)
    """(volume, slice) -> what was left of the signal."""


def _happening(case: Case, nz: int, rng: np.random.Generator) -> Happening:
    """The order of the draws is that of earlier measurements, so that figures can be held against them."""
    directions = list(spread_directions(rng, case.directions))
    bvals, bvecs, used = [], [], 0
    while used < case.directions:
        is_b0 = len(bvals) % 8 == 0
        bvals.append(0.0 if is_b0 else case.shells[used % len(case.shells)])
        bvecs.append(np.zeros(3) if is_b0 else directions[used])
        used += not is_b0
    n, b = len(bvals), np.array(bvals)
    gradients = Gradients(b, np.array(bvecs))
    walk = np.cumsum(rng.standard_normal((n, 6)) * [0.12, 0.12, 0.12, 0.08, 0.08, 0.12], 0)
    for share, size in ((0.27, 1.5), (0.56, -2.0), (0.8, 1.2)):
        walk[round(n * share) :] += size * rng.standard_normal(6) * [0.7, 0.7, 0.7, 0.5, 0.5, 0.6]
    walk -= walk[0]
    if case.largest_deg is not None:
        walk *= case.largest_deg / np.linalg.norm(walk[:, :3], axis=1).max()
    per_unit = np.array([np.pi / 180] * 3 + [1.0] * 3)
    by_direction = rng.standard_normal((10, 3)) * SIZES[:, None]
    strength = (np.sqrt(b / 1000) * case.eddy)[:, None]
    eddy = strength * (gradients.bvecs @ by_direction.T + 0.1 * rng.standard_normal((n, 10)) * SIZES)
    cubic, speed, by_slice = np.zeros((n, 10)), np.zeros((n, 6)), np.ones(nz)
    if case.cubic_mm:
        cubic = strength * (gradients.bvecs @ (rng.standard_normal((10, 3)) * case.cubic_mm).T)
    if case.within:
        speed = case.within * rng.standard_normal((n, 6)) * [0.8, 0.8, 0.8, 0.6, 0.6, 0.6] * per_unit
        speed *= (rng.random(n) < 0.3)[:, None]
    happening = Happening(gradients, walk * per_unit, speed, eddy, cubic, by_slice)
    if case.dropped:
        struck = rng.permutation(np.flatnonzero(b > 0))[: max(1, case.dropped // 3)]
        while len(happening.dropped) < case.dropped:
            place = int(rng.choice(struck)), int(rng.integers(int(nz * 0.15), int(nz * 0.85)))
            if place not in happening.dropped:
                happening.dropped[place] = float(rng.uniform(0.1, 0.7))
    if case.by_slice:
        by_slice += case.by_slice * np.random.default_rng([case.seed, nz]).standard_normal(nz)
    return happening


class Scan:
    """A series, and where all of its tissue lay."""

    def __init__(self, case: Case, threads: int = 1) -> None:
        self.case = case
        anatomy, rng = drawn(case.seed, case.limbs)
        rng = deepcopy(rng)
        self.voxel = np.array(case.voxel_mm)
        shape = np.round(FIELD_OF_VIEW_MM / self.voxel).astype(int)
        self.shape = tuple(int(n) for n in shape + shape % 2)
        self.parts = np.maximum(np.ceil(self.voxel).astype(int), 1)
        """Points per voxel and axis."""
        self.happening = _happening(case, self.shape[2], rng)
        self.n = len(self.happening.gradients.bvals)
        tilt = Rotation.from_euler("xyz", (14, -20, 27), degrees=True).as_matrix()
        self.axes = tilt if case.oblique else np.eye(3)
        """World axes of those of the image."""
        self.straight = np.diag([*self.voxel, 1.0])
        self.straight[:3, 3] = -(np.array(self.shape) - 1) / 2 * self.voxel
        affine = self.straight.copy()
        affine[:3] = self.axes @ affine[:3]
        self.grid = Grid(self.shape, affine)
        own = self.happening.gradients
        self.gradients = Gradients(own.bvals, own.bvecs @ self.axes.T)
        nz = self.shape[2]
        order = np.r_[np.arange(0, nz, 2), np.arange(1, nz, 2)]
        self.times = np.empty(nz)
        self.times[order] = (np.arange(nz) + 0.5) / nz - 0.5
        self._acquire(anatomy, rng, threads)

    def _acquire(self, anatomy: Anatomy, rng: np.random.Generator, threads: int) -> None:
        points, middles = self._points(self.parts), self._points(np.ones(3, int))
        bias = self._averaged(_sampled(anatomy.bias, points))
        pairs = in_threads(lambda v: self._volume(anatomy, v, points, middles), range(self.n), threads)
        self.clean = np.stack([still for still, _ in pairs], -1) * bias[..., None]
        moved = np.stack([volume for _, volume in pairs], -1) * bias[..., None]
        for (volume, at), left in self.happening.dropped.items():
            moved[:, :, at, volume] *= left
        sigma = WHITE / self.case.snr
        noise = [sigma * rng.standard_normal(moved.shape, np.float32) for _ in range(2)]
        self.data = np.asfortranarray(np.hypot(moved + noise[0], noise[1]).astype(np.float32))
        tissues = (anatomy.fluid, anatomy.grey, anatomy.fibrous)
        fluid, grey, fibrous = (self._averaged(_sampled(t.astype(np.float32), points)) for t in tissues)
        self.inside = fluid + grey + fibrous > 0.5
        self.tissue = self.inside & (fluid < 0.1)

    def _points(self, parts: NDArray[np.intp]) -> Float32:
        axes = [
            ((np.arange(n * p) + 0.5) / p - 0.5 - (n - 1) / 2) * v
            for n, p, v in zip(self.shape, parts, self.voxel, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)

    def _averaged(self, fine: Float32) -> Float32:
        (x, y, z), (a, b, c) = self.shape, self.parts
        return np.asarray(fine.reshape(x, a, y, b, z, c).mean((1, 3, 5)))

    def _volume(
        self, anatomy: Anatomy, volume: int, points: Float32, middles: Float32
    ) -> tuple[Float32, Float32]:
        what, axis = self.happening, self.case.phase_axis
        b, g = what.gradients.bvals[volume], what.gradients.bvecs[volume]
        still = self._averaged(_sampled(anatomy.signal(b, g), points))
        away = points.copy()
        factors = np.repeat(what.by_slice, self.parts[2]).astype(np.float32)
        away[..., axis] += factors * (
            polynomial(points, QUADRATIC, what.eddy[volume]) + polynomial(points, CUBIC, what.cubic[volume])
        )
        tissue, stretched = self._tissue_of(away, volume)
        turn = Rotation.from_euler("xyz", what.motion[volume, :3]).as_matrix()
        signal = _sampled(anatomy.signal(b, turn.T @ g), tissue)
        if stretched is not None:
            signal /= 1 + stretched
        return still, self._averaged(signal) * self._density(middles, volume)

    def _density(self, points: NDArray[np.floating], volume: int) -> NDArray[np.floating]:
        """How much closer the eddy currents lay tissue at points (..., 3) of a volume."""
        what, axis = self.happening, self.case.phase_axis
        total = slope(points, QUADRATIC, what.eddy[volume], axis)
        total += slope(points, CUBIC, what.cubic[volume], axis)
        at = np.rint((points[..., 2] - self.straight[2, 3]) / self.voxel[2]).astype(int)
        factors = what.by_slice[np.clip(at, 0, self.shape[2] - 1)]
        return np.asarray(1 + factors * total, points.dtype)

    def _tissue_of(self, away: Float32, volume: int) -> tuple[Float32, Float32 | None]:
        """The tissue at undistorted places of a volume; the field's stretching there."""
        what, times = self.happening, np.repeat(self.times, self.parts[2])
        turns, shifts = _places(what.motion[volume] + times[:, None] * what.speed[volume])
        along = turns[:, self.case.phase_axis].astype(np.float32)  # of phase encoding, in the tissue's axes
        body = np.einsum("xyzi,zij->xyzj", away - shifts.astype(np.float32), turns.astype(np.float32))
        if not self.case.field:
            return body, None
        factor, tissue = np.float32(self.case.field), body
        for _ in range(12):
            tissue = body - factor * field_at(tissue)[..., None] * along
        step = np.float32(0.5)
        ends = [field_at(tissue + sign * step * along) for sign in (1, -1)]
        return tissue, factor * (ends[0] - ends[1])

    @cached_property
    def tissue_mm(self) -> Float:
        """(m, 3) of the voxels inside, in the axes of the image."""
        return np.asarray(np.argwhere(self.inside) * self.voxel + self.straight[:3, 3])

    @cached_property
    def lay(self) -> Float:
        """(n, m, 3) where that tissue lay in each volume, in the axes of the image."""
        return np.stack([self._lay(volume) for volume in range(self.n)])

    def _lay(self, volume: int) -> Float:
        what, axis, tissue = self.happening, self.case.phase_axis, self.tissue_mm
        field_mm = self.case.field * field_at(tissue)
        places = tissue.copy()
        for _ in range(12):
            at = np.rint((places[:, 2] - self.straight[2, 3]) / self.voxel[2]).astype(int)
            at = np.clip(at, 0, self.shape[2] - 1)
            turns, shifts = _places(what.motion[volume] + self.times[:, None] * what.speed[volume])
            now = np.einsum("mij,mj->mi", turns[at], tissue) + shifts[at]
            away = polynomial(places, QUADRATIC, what.eddy[volume])
            away += polynomial(places, CUBIC, what.cubic[volume])
            now[:, axis] += field_mm - what.by_slice[at] * away
            places = now
        return places

    @property
    def field_voxels(self) -> Float32 | None:
        """Displacement by susceptibility in voxels, on the grid; None where there is none."""
        if not self.case.field:
            return None
        points = self._points(np.ones(3, int))
        return np.asarray(self.case.field * field_at(points) / self.voxel[self.case.phase_axis], np.float32)

    def seen_directions(self) -> Float:
        """(n, 3) gradients as the tissue saw them, world axes."""
        what = self.happening
        turns = Rotation.from_euler("xyz", what.motion[:, :3]).as_matrix()
        return np.asarray(np.einsum("nji,nj->ni", turns, what.gradients.bvecs) @ self.axes.T)

    def in_image_axes(self, voxels: NDArray[np.floating]) -> Float:
        """mm of voxel positions (..., 3), in the axes of the image."""
        return np.asarray(voxels * self.voxel + self.straight[:3, 3])

    def oracle(self) -> Float32:
        """(m, n) the series at the true places: one cubic interpolation, which no correction escapes."""
        columns, step = [], np.eye(3)[self.case.phase_axis] / 2
        change = field_at(self.tissue_mm + step) - field_at(self.tissue_mm - step)
        stretched = 1 + self.case.field * change
        for volume in range(self.n):
            at = ((self.lay[volume] - self.straight[:3, 3]) / self.voxel).T
            values = map_coordinates(self.data[..., volume], at, order=3, mode="nearest")
            columns.append(np.maximum(values, 0) / self._density(self.lay[volume], volume) * stretched)
        return np.stack(columns, -1).astype(np.float32)

    @cached_property
    def true_fa(self) -> Float:
        """(m,) of the voxels inside: the tensor fit without noise, motion and distortion."""
        return fa_of(self.clean[self.inside], self.gradients)


def _places(motion: Float) -> tuple[Float, Float]:
    return Rotation.from_euler("xyz", motion[:, :3]).as_matrix(), motion[:, 3:]


def _sampled(fine: Float32, points: Float32) -> Float32:
    """Linear interpolation of tissue at points (..., 3), mm from the isocentre; 0 outside."""
    at = np.moveaxis(points, -1, 0) + ((np.array(FINE) - 1) / 2).astype(np.float32)[:, None, None, None]
    return np.asarray(map_coordinates(fine, at, order=1, mode="constant", output=np.float32))


def fa_of(signal: NDArray[np.floating], gradients: Gradients) -> Float:
    """(m,) FA of the weighted tensor fit of signals (m, n)."""
    return tensor_of(signal, gradients)[0]


def tensor_of(signal: NDArray[np.floating], gradients: Gradients) -> tuple[Float, Float]:
    """(m,) FA and MD of the weighted tensor fit of signals (m, n)."""
    design, blocks = tensorfit.design_matrix(gradients), []
    for start in range(0, len(signal), 20_000):
        log_signal = np.log(np.maximum(signal[start : start + 20_000].astype(np.float64), 1e-4)).T
        blocks.append(tensorfit.eigen(tensorfit.fit_wls(log_signal, design)[:6])[0])
    values = np.concatenate(blocks, 1)
    return np.asarray(tensorfit.fractional_anisotropy(values)), np.asarray(np.maximum(values, 0).mean(0))
