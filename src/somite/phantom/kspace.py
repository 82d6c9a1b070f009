"""What a scanner makes of a body: k-space that ends, so that edges ring.

A phantom's voxel is the mean over its volume. A scanner measures the frequencies of a plane up to that of
two voxels and no further: its image is that of a finer one with the higher frequencies left out (Bernstein,
King and Zhou, Handbook of MRI Pulse Sequences, 2004, section 13.1). Slices are excited one by one, and do
not ring across.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from somite.images import Grid

PLANE = (0, 1)
"""Stored axes of the slices; the third is across them."""


def finer(grid: Grid, times: int) -> Grid:
    """The same field of view in voxels that are `times` smaller along both axes of the plane."""
    affine = grid.affine.copy()
    affine[:3, list(PLANE)] /= times
    affine[:3, 3] -= (grid.affine[:3, list(PLANE)] - affine[:3, list(PLANE)]).sum(axis=1) / 2
    nx, ny, nz = grid.shape
    return Grid((nx * times, ny * times, nz), affine)


def acquired(fine: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """The magnitude image (x, y, z) whose k-space is the middle of that of `fine` (x times, y times, z)."""
    image = fine
    for axis in PLANE:
        image = _ended(image, times, axis)
    return np.abs(image)


def _ended(image: NDArray[np.float32], times: int, axis: int) -> NDArray[np.float32]:
    """Of `times` fewer voxels along an axis, centred as before, by leaving the higher frequencies out."""
    n = image.shape[axis] // times
    kept = np.moveaxis(scipy.fft.rfft(image, axis=axis), axis, -1)[..., : n // 2 + 1]
    # The first voxel's centre lies half of the difference in size beyond that of the first finer one.
    ramp = np.exp(1j * np.pi * (times - 1) / (n * times) * np.arange(n // 2 + 1)).astype(np.complex64)
    return np.asarray(np.moveaxis(scipy.fft.irfft(kept * ramp / times, n), -1, axis), np.float32)
