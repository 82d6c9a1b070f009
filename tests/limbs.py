"""Two limbs that move as one, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from heads import oblique
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from somite.gradients import Gradients
from somite.images import Grid

FINE = 1.25  # mm, of the phantom from which volumes are cut


@dataclass(frozen=True)
class Phantom:
    data: np.ndarray
    gradients: Gradients
    transforms: np.ndarray
    """Truth: from a point of the first volume to where its tissue was."""
    inside: np.ndarray
    grid: Grid

    def error_mm(self, transforms: np.ndarray) -> np.ndarray:
        points = np.argwhere(self.inside) @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
        both = [
            points @ t[:, :3, :3].transpose(0, 2, 1) + t[:, None, :3, 3]
            for t in (transforms, self.transforms)
        ]
        return np.asarray(np.linalg.norm(both[0] - both[1], axis=-1).mean(1))


@cache
def phantom(
    shape: tuple[int, int, int] = (40, 36, 14),
    voxel: tuple[float, ...] = (2.5, -2.5, 3.5),
    motion: float = 1.0,
    n: int = 14,
    snr: float = 20,
    seed: int = 0,
) -> Phantom:
    """Two limbs with changing fibre directions, a bone, fluid and a septum, moving as one."""
    rng = np.random.default_rng(seed)
    grid = oblique(shape, voxel)
    size = tuple(int(s) for s in np.ceil(np.array(shape) * np.abs(voxel) / FINE) + 24)
    axes = [(np.arange(s) - (s - 1) / 2) * FINE for s in size]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    texture = gaussian_filter(rng.standard_normal(size), 3)
    width = axes[0][-1]
    body = (
        np.minimum(
            np.hypot(x - width / 2.3, y) / (width * 0.33), np.hypot(x + width / 2.3, y + 4) / (width * 0.3)
        )
        < 1
    )
    s0 = np.where(body, 800 * (1 + 3 * texture), 0)
    s0[body & (np.hypot(x - width / 2, y) < 5)] = 60
    s0[body & (np.hypot(x + width / 2, y - 6) < 4 + np.sin(z / 7))] = 2500
    s0[body & (np.abs(y - 6 * np.sin(z / 11)) < 2)] *= 0.4
    fibre = np.stack([gaussian_filter(rng.standard_normal(size), 10) for _ in range(3)], -1)
    fibre /= np.linalg.norm(fibre, axis=-1, keepdims=True)
    frame = grid.affine[:3, :3] / np.abs(voxel)
    centre = grid.affine[:3, :3] @ (np.array(shape) - 1) / 2 + grid.affine[:3, 3]
    directions = rng.standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    bvals = np.r_[0, np.tile([800.0], n), 0]
    bvecs = np.r_[np.zeros((1, 3)), directions, np.zeros((1, 3))]
    steps = np.cumsum(rng.normal(0, 0.6, (n + 2, 6)), 0)
    steps = motion * (steps - steps[0])
    if shape[2] == 1:
        steps[:, [0, 1, 5]] = 0
    data, transforms = [], []
    for step, b, g in zip(steps, bvals, bvecs, strict=True):
        rotation = frame @ Rotation.from_rotvec(np.deg2rad(step[:3])).as_matrix() @ frame.T
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = centre + frame @ step[3:] - rotation @ centre
        seen = frame.T @ rotation.T @ g
        signal = s0 * np.exp(-b * (1.2e-3 + 0.6e-3 * (fibre @ seen) ** 2))
        signal = gaussian_filter(signal, 0.4 * np.abs(voxel) / FINE)
        where = np.argwhere(np.ones(shape)) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        tissue = (where - transform[:3, 3]) @ rotation
        fine = ((tissue - centre) @ frame) / FINE + (np.array(size) - 1) / 2
        data.append(map_coordinates(signal, fine.T, order=3, mode="nearest").reshape(shape))
        transforms.append(transform)
    clean = np.stack(data, -1)
    noise = rng.normal(0, 800 / snr, (2, *clean.shape))
    noisy = np.hypot(clean + noise[0], noise[1]).astype(np.float32)
    return Phantom(
        np.asfortranarray(noisy), Gradients(bvals, bvecs), np.array(transforms), clean[..., 0] > 200, grid
    )
