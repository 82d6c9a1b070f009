"""A small head of white matter, grey matter and fluid, with partial volume, bias field and noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from somite import images
from somite.gradients import Gradients, write_fsl
from somite.images import Grid

Array = NDArray[np.float32]

SIGMA = 37.5
"""Standard deviation of the noise: white matter, 750 at b=0, has an SNR of 20."""


@dataclass(frozen=True)
class Head:
    """Signals (x, y, z, volumes), without and with Rician noise; the mask; the scheme."""

    clean: Array
    noisy: Array
    mask: NDArray[np.bool_]
    white: NDArray[np.bool_]
    """Voxels of at least 90 % white matter."""
    gradients: Gradients
    grid: Grid

    def write(self, folder: Path) -> dict[str, Path]:
        """The inputs of the steps as files."""
        bval, bvec = write_fsl(self.gradients, folder / "dwi.bval", folder / "dwi.bvec", self.grid.affine)
        return {
            "dwi": images.write(folder / "dwi.nii", np.asfortranarray(self.noisy), self.grid),
            "bval": bval,
            "bvec": bvec,
            "mask": images.write(folder / "mask.nii", self.mask, self.grid),
        }


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    field = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma)
    return field / field.std()


def _half(fine: Array) -> Array:
    """Mean of blocks of 2x2x2 voxels: partial volume."""
    x, y, z = fine.shape
    return fine.reshape(x // 2, 2, y // 2, 2, z // 2, 2).mean((1, 3, 5))


def make(shape: tuple[int, int, int] = (56, 56, 28), seed: int = 1) -> Head:
    """6 volumes of b=0 and 42 directions at b=1000 s/mm2, 2 mm voxels, made at 1 mm."""
    rng = np.random.default_rng(seed)
    fine = tuple(2 * n for n in shape)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in fine), indexing="ij")
    depth = 0.92 - np.sqrt(x**2 + y**2 + z**2)
    inside = depth > 0
    fluid = inside & (((np.abs(_smooth(rng, fine, 4)) < 0.15) & (depth < 0.25)) | (x**2 + y**2 < 0.02))
    grey = inside & ~fluid & ((depth < 0.12) | (_smooth(rng, fine, 6) > 1.2))
    white = inside & ~fluid & ~grey
    fibres = np.stack([_smooth(rng, fine, 9) for _ in range(6)], -1).reshape(*fine, 2, 3)[white]
    fibres /= np.linalg.norm(fibres, axis=-1, keepdims=True)
    share = np.clip(0.8 + 0.25 * _smooth(rng, fine, 8), 0.4, 1)[white]
    bias = np.exp(0.18 * _smooth(rng, fine, 20))
    s0 = np.select([fluid, grey, white], [2000.0, 1000.0, 750.0]) * (1 + 0.06 * _smooth(rng, fine, 2)) * bias
    directions = rng.standard_normal((42, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    gradients = Gradients(np.r_[np.zeros(6), np.full(42, 1000.0)], np.r_[np.zeros((6, 3)), directions])
    clean = np.empty((*shape, 48), np.float32)
    for volume, (b, g) in enumerate(zip(gradients.bvals, gradients.bvecs, strict=True)):
        signal = np.where(fluid, np.exp(-b * 3e-3), np.exp(-b * 0.8e-3)).astype(np.float32)
        first, second = ((fibres @ g.astype(np.float32)) ** 2).T
        signal[white] = share * np.exp(-b * (0.35e-3 + 1.35e-3 * first))
        signal[white] += (1 - share) * np.exp(-b * (0.4e-3 + 1.2e-3 * second))
        clean[..., volume] = _half((signal * s0).astype(np.float32))
    noise = rng.standard_normal((2, *clean.shape), np.float32) * np.float32(SIGMA)
    noisy = np.hypot(clean + noise[0], noise[1])
    return Head(
        clean,
        noisy,
        _half(inside.astype(np.float32)) > 0.5,
        _half(white.astype(np.float32)) > 0.9,
        gradients,
        Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])),
    )
