"""An anatomical image where the slices of a diffusion series lie, through the transform found for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from somite.images import Grid
from somite.report.slices import Cut, View

Floats = NDArray[np.float64]
ToAnatomy = Callable[[Floats], Floats]
_FINEST = 4
"""Pixels along a voxel of the series at most."""


@dataclass(frozen=True)
class Anatomy:
    """An anatomical image (i, j, k), and how points of the series come to it."""

    data: NDArray[np.floating[Any]]
    grid: Grid
    to_anatomy: ToAnatomy
    """World points (n, 3) of the series, mm -> world points of the anatomy."""

    def slice(self, view: View, cut: Cut) -> NDArray[np.float32]:
        """The anatomy in a slice of the series; NaN where the anatomy does not reach.

        Pixels are parts of the voxels of the series, as many along each as the anatomy is finer, at most
        four. The transform is applied at the middles of the voxels and is linear between them.
        """
        down, along = view.steps(cut.plane)
        shape = [int(np.abs(step) @ view.grid.shape) for step in (down, along)]
        rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
        voxels = view.first(cut) + rows[..., None] * down + columns[..., None] * along
        points = voxels.reshape(-1, 3) @ view.grid.affine[:3, :3].T + view.grid.affine[:3, 3]
        inverse = np.linalg.inv(self.grid.affine)
        there = self.to_anatomy(points) @ inverse[:3, :3].T + inverse[:3, 3]
        fine = finer(there.reshape(*shape, 3), self._parts(view, cut))
        shown = map_coordinates(
            self.data, fine.transpose(2, 0, 1), order=1, mode="constant", cval=np.nan, prefilter=False
        )
        return np.asarray(shown, np.float32)

    def _parts(self, view: View, cut: Cut) -> tuple[int, int]:
        finest = float(self.grid.voxel_mm.min())
        height, width = (math.ceil(mm / finest - 0.01) for mm in view.pixel_mm(cut.plane))
        return max(1, min(height, _FINEST)), max(1, min(width, _FINEST))


def finer(at: Floats, parts: tuple[int, int]) -> Floats:
    """Positions (rows, columns, 3) at the middles of voxels -> those of parts of them, linear between."""
    for axis, count in enumerate(parts):
        n = at.shape[axis]
        where = (np.arange(n * count) + 0.5) / count - 0.5
        if n == 1:
            at = np.repeat(at, count, axis)
            continue
        low = np.clip(np.floor(where).astype(int), 0, n - 2)
        part = (where - low)[:, None, None] if axis == 0 else (where - low)[None, :, None]
        at = at.take(low, axis) * (1 - part) + at.take(low + 1, axis) * part
    return at
