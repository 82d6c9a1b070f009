"""A head that moves and is distorted, and where all of it lay in each volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from somite.corrected import polynomial
from somite.correction import estimation
from somite.correction.estimation import Acquisition, Estimate, Options
from somite.correction.series import Encoding
from somite.gradients import Gradients
from somite.images import Grid

FINE = 1.5  # mm, of the phantom from which volumes are cut


def oblique(shape: tuple[int, int, int], voxel: tuple[float, ...]) -> Grid:
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", (12, -18, 25), degrees=True).as_matrix()
    affine[:3, :3] = axes @ np.diag(voxel)
    affine[:3, 3] = np.array([5, -12, 30]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def sphere(n: int, seed: int = 0) -> np.ndarray:
    """Directions (n, 3), spread evenly over the half sphere, in random order and sign."""
    rng = np.random.default_rng(seed)
    height = (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    ring = np.sqrt(1 - height**2)
    even = np.column_stack([ring * np.cos(turn), ring * np.sin(turn), height])
    return np.asarray(rng.permutation(even * rng.choice([-1, 1], n)[:, None]))


class Head:
    """An ellipsoid with a rim, ventricles, texture and fibres, on a fine grid along the axes of `grid`."""

    def __init__(self, grid: Grid, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.grid = grid
        self.middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
        self.frame = grid.affine[:3, :3] / grid.voxel_mm
        extent = np.array(grid.shape) * grid.voxel_mm
        self.size = tuple(int(s) for s in np.ceil(extent / FINE) + 12)
        x, y, z = np.meshgrid(*((np.arange(s) - (s - 1) / 2) * FINE for s in self.size), indexing="ij")
        a, b, c = 0.38 * extent[0], 0.42 * extent[1], 0.48 * extent[2]
        shell = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        texture = gaussian_filter(rng.standard_normal(self.size), 2.5)
        texture /= texture.std()
        self.s0 = np.where(shell < 1, 800 * np.exp(0.25 * texture), 0)
        self.s0[(shell > 0.88) & (shell < 1)] *= 1.6
        fluid = np.minimum(np.hypot(x - 9, y / 2.5), np.hypot(x + 9, (y - 4) / 2.5)) < 5 + 0.1 * z
        self.fluid = fluid & (shell < 0.8)
        self.s0[self.fluid] = 2000
        fibre = np.stack([gaussian_filter(rng.standard_normal(self.size), 7) for _ in range(3)], -1)
        self.fibre = np.float32(fibre / np.linalg.norm(fibre, axis=-1, keepdims=True))
        self.s0 = np.float32(self.s0)

    def signal(self, b: float, g: np.ndarray) -> np.ndarray:
        """On the fine grid, of a direction in the tissue's world axes, blurred by the voxel."""
        along = (self.fibre @ np.float32(self.frame.T @ g)) ** 2
        decay = np.where(self.fluid, np.float32(2.8e-3), 0.5e-3 + 0.8e-3 * along)
        return gaussian_filter(self.s0 * np.exp(-b * decay), 0.35 * self.grid.voxel_mm / FINE)

    def look_up(self, signal: np.ndarray, world: np.ndarray) -> np.ndarray:
        at = (world - self.middle) @ self.frame / FINE + (np.array(self.size) - 1) / 2
        return np.asarray(map_coordinates(signal, at.T, order=3, mode="nearest"))


@dataclass(frozen=True)
class Truth:
    """A series, and where its tissue was: r = q + e (eddy(q) + field T), q = R (h - m) + m + t."""

    data: np.ndarray
    still: np.ndarray
    """What each volume would show in the place of the first."""
    gradients: Gradients
    encoding: Encoding
    grid: Grid
    mask: np.ndarray
    rotations: np.ndarray
    shifts: np.ndarray
    eddy: np.ndarray
    """(n, 10) mm along e, the terms of `polynomial` about the middle of the image."""
    lost: np.ndarray
    middle: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def places(self, volume: int, points: np.ndarray) -> np.ndarray:
        """World places of points (m, 3) of the first volume, without a field."""
        rigid = (points - self.middle) @ self.rotations[volume].T + self.middle + self.shifts[volume]
        along = polynomial(rigid - self.middle) @ self.eddy[volume]
        return np.asarray(rigid + along[:, None] * self.encoding.directions(self.grid)[volume])

    def residual_mm(self, found: Estimate | None) -> np.ndarray:
        """Mean distance (n,) over the mask between where tissue was and where it was found to be."""
        voxels = np.argwhere(self.mask)
        points = voxels @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
        errors = []
        for volume in range(self.data.shape[3]):
            placed = points
            if found is not None:
                at, _ = found.series.places(volume, found.series.frame_at(voxels))
                placed = at @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
            errors.append(np.linalg.norm(placed - self.places(volume, points), axis=1).mean())
        return np.array(errors)

    def bvec_error_deg(self, gradients: Gradients) -> np.ndarray:
        true = np.einsum("nji,nj->ni", self.rotations, self.gradients.bvecs)
        weighted = true.any(1)
        cosine = np.abs(np.einsum("ni,ni->n", gradients.bvecs, true))[weighted]
        return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))

    def acquired(self, **known: object) -> Acquisition:
        return Acquisition(self.data, self.gradients, self.encoding, self.mask, self.grid, **known)

    def estimate(self, threads: int = 1, **options: object) -> Estimate:
        return estimation.estimate(self.acquired(), Options(**options), threads)


def scheme(shells: tuple[float, ...], n: int) -> Gradients:
    """Directions of all shells in turn, with a b=0 volume first and after every seven."""
    each = [sphere(n, seed) for seed in range(len(shells))]
    weighted = [(b, directions[i]) for i in range(n) for b, directions in zip(shells, each, strict=True)]
    rows = []
    for number, row in enumerate(weighted):
        if number % 7 == 0:
            rows.append((0.0, np.zeros(3)))
        rows.append(row)
    return Gradients(np.array([b for b, _ in rows]), np.array([g for _, g in rows]))


@cache
def truth_of(
    shape: tuple[int, int, int] = (40, 40, 18),
    shells: tuple[float, ...] = (1000.0,),
    n: int = 24,
    motion: float = 1.0,
    eddy: float = 1.0,
    lost: float = 0.0,
    field_voxels: float = 0.0,
    snr: float = 25,
    seed: int = 0,
) -> Truth:
    """A head that moves along a path in time, with eddy currents that turn round with the gradient.

    Phase encoding runs along i-; with a field, along i in every second pair of volumes.
    """
    rng = np.random.default_rng(seed)
    voxel = tuple(100 / 40 * 40 / shape[0] * np.array([1, -1, 1.4]))
    grid = oblique(shape, voxel)
    head, gradients = Head(grid, seed), scheme(shells, n)
    bvals, bvecs = gradients.bvals, gradients.bvecs
    count = len(bvals)
    signs = np.where(np.arange(count) // 2 % 2, 1.0, -1.0) if field_voxels else np.full(count, -1.0)
    encoding = Encoding(np.zeros(count, np.intp), signs, np.full(count, 0.05))
    path = np.cumsum(rng.normal(0, 1, (count, 6)), 0) * np.array([0.3] * 3 + [0.35] * 3) * motion
    path -= path[0]
    rotations = Rotation.from_rotvec(np.deg2rad(path[:, :3])).as_matrix()
    # Fields linear in the gradient, for each a linear and a smaller quadratic polynomial, no constant.
    mixing = rng.normal(0, 1, (3, 10)) * np.r_[0, [5.0] * 3, [4.0] * 6] * eddy
    coefficients_of = (np.sqrt(bvals / bvals.max())[:, None] * bvecs @ mixing) * signs[:, None]
    points = np.argwhere(np.ones(shape)) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    drop = np.zeros((count, shape[2]), bool)
    drop[:, 3:-3] = rng.random((count, shape[2] - 6)) < lost
    drop[bvals == 0] = False
    truth = Truth(
        np.empty((*shape, count), np.float32, order="F"),
        np.empty((*shape, count), np.float32, order="F"),
        gradients,
        encoding,
        grid,
        head.look_up(head.s0, points).reshape(shape) > 200,
        rotations,
        path[:, 3:],
        coefficients_of,
        drop,
        head.middle,
    )
    directions = encoding.directions(grid)
    for v in range(count):
        signal = head.signal(bvals[v], rotations[v].T @ bvecs[v])
        truth.still[..., v] = head.look_up(signal, points).reshape(shape)
        placed, squeezed = distorted(truth, v, points, directions[v], field_voxels)
        values = (head.look_up(signal, placed) / squeezed).reshape(shape)
        values[..., drop[v]] *= rng.uniform(0.2, 0.6, drop[v].sum())
        noise = rng.normal(0, 800 / snr, (2, *shape))
        truth.data[..., v] = np.hypot(values + noise[0], noise[1])
    return truth


def field_at(truth: Truth, world: np.ndarray, voxels: float) -> np.ndarray:
    """A field that displaces by up to so many voxels, in mm."""
    x, y, z = ((world - truth.middle) / 30).T
    return np.asarray(voxels * truth.grid.voxel_mm[0] * np.exp(-(x**2) - (y - 0.3) ** 2 - z**2))


def distorted(
    truth: Truth, volume: int, places: np.ndarray, along: np.ndarray, field_voxels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue (m, 3) found at places (m, 3), by iteration; and how much its signal is spread there."""

    def tissue_of(q: np.ndarray) -> np.ndarray:
        return (q - truth.middle - truth.shifts[volume]) @ truth.rotations[volume] + truth.middle

    def offset(q: np.ndarray) -> np.ndarray:
        eddy = polynomial(q - truth.middle) @ truth.eddy[volume]
        return np.asarray(eddy + (field_at(truth, tissue_of(q), field_voxels) if field_voxels else 0))

    q = places
    for _ in range(7):
        q = places - offset(q)[:, None] * along
    step = 0.1
    squeezed = 1 + (offset(q + step * along) - offset(q - step * along)) / (2 * step)
    return tissue_of(q), squeezed
