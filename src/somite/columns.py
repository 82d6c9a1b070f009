"""Volumes as columns along phase encoding: cumulative signal, and what a displacement makes of it.

Distortion moves signal along phase encoding only and loses none. So each column is kept as the integral of
its signal: the undistorted voxel holds what lies between its two displaced faces. That is exact for voxels
that are means over their extent, and the Jacobian is in it.

Arrays have phase encoding last, (u, v, n). Voxel k of a column reaches from face k to face k + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from somite.jit import compiled

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Volume = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Columns:
    """A volume as a quadratic spline along its last axis that keeps the mean over every voxel."""

    coefficients: Float
    """(lines, n)"""
    cumulative: Float
    """(lines, n + 1): integral of the spline from the first face to each face."""
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume) -> Columns:
        """Columns of a volume (u, v, n). Beyond its ends the last coefficient stands."""
        n = volume.shape[2]
        c = np.asarray(volume, np.float64)
        if n > 1:
            c = np.asarray(spline_filter1d(c, 3, axis=-1, mode="reflect", output=np.float64))
        c = np.ascontiguousarray(c).reshape(-1, n)
        means = (
            np.concatenate([c[:, :1], c[:, :-1]], 1) + 4 * c + np.concatenate([c[:, 1:], c[:, -1:]], 1)
        ) / 6
        cumulative = np.zeros((len(c), n + 1))
        np.cumsum(means, 1, out=cumulative[:, 1:])
        return cls(c, cumulative, (volume.shape[0], volume.shape[1], n))

    def displaced(self, displacement: Volume, factor: float = 1.0) -> tuple[Float32, Float32]:
        """Signal (u, v, n) between displaced faces, and density (u, v, n + 1) at them.

        Args:
            displacement: (u, v, n + 1), of each face, in voxels.
            factor: the displacement is multiplied with it.
        """
        lines, n = self.coefficients.shape
        signal, density = np.empty((lines, n), np.float32), np.empty((lines, n + 1), np.float32)
        by_line = np.ascontiguousarray(displacement, np.float32).reshape(lines, n + 1)
        _displace(self.coefficients, self.cumulative, by_line, factor, signal, density)
        return signal.reshape(self.shape), density.reshape(*self.shape[:2], n + 1)


@compiled
def _displace(
    coefficients: Float,
    cumulative: Float,
    displacement: Float32,
    factor: float,
    signal: Float32,
    density: Float32,
) -> None:
    lines, n = coefficients.shape
    for line in range(lines):
        before = 0.0
        for face in range(n + 1):
            # Position in units of voxels, voxel k being centred on k; no further out than the column reaches.
            position = face - 0.5 + factor * displacement[line, face]
            position = min(max(position, -0.5), n - 0.5)
            voxel = min(int(np.floor(position + 0.5)), n - 1)
            here = coefficients[line, voxel]
            below = coefficients[line, max(voxel - 1, 0)]
            above = coefficients[line, min(voxel + 1, n - 1)]
            x = position - voxel
            a, b = 0.5 - x, 0.5 + x
            density[line, face] = 0.5 * a * a * below + (0.75 - x * x) * here + 0.5 * b * b * above
            total = cumulative[line, voxel] + below * (1 - a * a * a) / 6 + above * b * b * b / 6
            total += here * (0.75 * b - (x * x * x + 0.125) / 3)
            if face > 0:
                signal[line, face - 1] = total - before
            before = total


def at_faces(displacement: Volume) -> Volume:
    """Values at the faces (u, v, n + 1) from those at the centres of voxels (u, v, n)."""
    ends = displacement[..., :1], displacement[..., -1:]
    return np.asarray(
        0.5 * (np.concatenate([ends[0], displacement], -1) + np.concatenate([displacement, ends[1]], -1))
    )


def at_centres(displacement: Volume) -> Volume:
    """Values at the centres of voxels (u, v, n) from those at their faces (u, v, n + 1)."""
    return np.asarray(0.5 * (displacement[..., 1:] + displacement[..., :-1]))


def undistort(volume: Volume, displacement: Volume, axis: int) -> Float32:
    """A volume (i, j, k) without its distortion, the signal kept.

    Args:
        volume: as acquired.
        displacement: (i, j, k), voxels: the signal of voxel u is found at u + displacement along `axis`.
        axis: of phase encoding.
    """
    moved = np.moveaxis(volume, axis, 2)
    faces = at_faces(np.moveaxis(displacement, axis, 2))
    return np.ascontiguousarray(np.moveaxis(Columns.of(moved).displaced(faces)[0], 2, axis))
