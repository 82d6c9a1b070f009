"""Values of an image between its voxels: cubic B-splines, compiled, with the derivatives where wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import spline_filter

from somite.jit import compiled

Float32 = NDArray[np.float32]


def coefficients(volume: NDArray[np.floating[Any]]) -> Float32:
    """Cubic B-spline coefficients (x, y, z) of a volume, mirrored at its borders (Unser 1999)."""
    return np.ascontiguousarray(spline_filter(volume, 3, np.float32, mode="mirror"))


@compiled
def _weights(x: Any, w: Float32) -> None:
    y = np.float32(1) - x
    w[0] = y * y * y / np.float32(6)
    w[1] = np.float32(2 / 3) - x * x * (np.float32(2) - x) / np.float32(2)
    w[2] = np.float32(2 / 3) - y * y * (np.float32(2) - y) / np.float32(2)
    w[3] = x * x * x / np.float32(6)


@compiled
def _mirror(i: int, n: int) -> int:
    if n == 1:
        return 0
    period = 2 * n - 2
    i = abs(i) % period
    return period - i if i >= n else i


@compiled
def _sample(c: Float32, at: Float32, margin: Any, values: Float32, inside: Float32) -> None:
    nx, ny, nz = c.shape
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    ix, iy, iz = np.empty(4, np.int64), np.empty(4, np.int64), np.empty(4, np.int64)
    for n in range(at.shape[0]):
        x, y, z = at[n, 0], at[n, 1], at[n, 2]
        within = (
            x >= -margin
            and y >= -margin
            and z >= -margin
            and x <= nx - 1 + margin
            and y <= ny - 1 + margin
            and z <= nz - 1 + margin
        )
        inside[n] = np.float32(1) if within else np.float32(0)
        if not within:
            values[n] = np.float32(0)
            continue
        fx, fy, fz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        _weights(np.float32(x - fx), wx)
        _weights(np.float32(y - fy), wy)
        _weights(np.float32(z - fz), wz)
        total = np.float32(0)
        if 1 <= fx < nx - 2 and 1 <= fy < ny - 2 and 1 <= fz < nz - 2:
            for i in range(4):
                plane = np.float32(0)
                for j in range(4):
                    row = c[fx - 1 + i, fy - 1 + j]
                    line = row[fz - 1] * wz[0] + row[fz] * wz[1] + row[fz + 1] * wz[2] + row[fz + 2] * wz[3]
                    plane += wy[j] * line
                total += wx[i] * plane
        else:
            for k in range(4):
                ix[k] = _mirror(fx - 1 + k, nx)
                iy[k] = _mirror(fy - 1 + k, ny)
                iz[k] = _mirror(fz - 1 + k, nz)
            for i in range(4):
                for j in range(4):
                    for k in range(4):
                        total += wx[i] * wy[j] * wz[k] * c[ix[i], iy[j], iz[k]]
        values[n] = total


def sample(
    spline: Float32, voxels: NDArray[np.floating[Any]], margin: float = 0.05
) -> tuple[Float32, Float32]:
    """Values (n,) at voxel positions (n, 3), and 1 where a position lies in the field of view, else 0.

    Args:
        spline: `coefficients` of the volume.
        voxels: positions in voxel indices.
        margin: how far beyond the outermost voxel centres counts as inside, voxels. Outside, values are 0.
    """
    at = np.ascontiguousarray(voxels, np.float32)
    values, inside = np.empty(len(at), np.float32), np.empty(len(at), np.float32)
    _sample(spline, at, np.float32(margin), values, inside)
    return values, inside


@compiled
def _weight_slopes(x: Any, w: Float32) -> None:
    y = np.float32(1) - x
    half = np.float32(0.5)
    w[0] = -y * y * half
    w[1] = x * (np.float32(3) * x - np.float32(4)) * half
    w[2] = -y * (np.float32(3) * y - np.float32(4)) * half
    w[3] = x * x * half


@compiled
def _sample_slopes(c: Float32, at: Float32, values: Float32, slopes: Float32) -> None:
    index, weight, slope = (
        np.empty((3, 4), np.int64),
        np.empty((3, 4), np.float32),
        np.empty((3, 4), np.float32),
    )
    for n in range(at.shape[0]):
        for axis in range(3):
            first = int(np.floor(at[n, axis]))
            fraction = np.float32(at[n, axis] - first)
            _weights(fraction, weight[axis])
            _weight_slopes(fraction, slope[axis])
            for k in range(4):
                index[axis, k] = _mirror(first - 1 + k, c.shape[axis])
        total = along_x = along_y = along_z = np.float32(0)
        for i in range(4):
            for j in range(4):
                row, line, tilt = c[index[0, i], index[1, j]], np.float32(0), np.float32(0)
                for k in range(4):
                    value = row[index[2, k]]
                    line += weight[2, k] * value
                    tilt += slope[2, k] * value
                both = weight[0, i] * weight[1, j]
                total += both * line
                along_x += slope[0, i] * weight[1, j] * line
                along_y += weight[0, i] * slope[1, j] * line
                along_z += both * tilt
        values[n] = total
        slopes[n, 0], slopes[n, 1], slopes[n, 2] = along_x, along_y, along_z


def sample_slopes(spline: Float32, voxels: NDArray[np.floating[Any]]) -> tuple[Float32, Float32]:
    """Values (n,) at voxel positions (n, 3) in the field of view, and their slopes (n, 3) per voxel.

    Along an axis of one voxel the slope is 0.
    """
    at = np.ascontiguousarray(voxels, np.float32)
    values, slopes = np.empty(len(at), np.float32), np.empty((len(at), 3), np.float32)
    _sample_slopes(spline, at, values, slopes)
    return values, slopes
