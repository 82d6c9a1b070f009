"""Cut structures into parts by their own geometry, in world millimetres: discs, slabs, thirds, erosion.

Functions of points and frames. They know no label, no table and no storage order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from somite.images import Grid

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DiscFrame:
    """Where a disc lies: its centre, its own axes, and how far it reaches along them. World RAS mm."""

    centre: Floats
    """(3,)"""
    axes: Floats
    """(3, 3) rows: lateral, anterior, and the normal of its plane, superior; unit vectors."""
    semi: Floats
    """(3,) half of its extent along each axis: of the ellipse, and of the slab, with its second moments."""

    def coordinates(self, points: Floats) -> Floats:
        """Points (n, 3) in the frame of the disc (n, 3), mm."""
        return np.asarray((points - self.centre) @ self.axes.T)


def plane_of(points: Floats) -> tuple[Floats, Floats]:
    """Centre (3,) and superior unit normal (3,) of a flat structure: the axis along which it is thinnest."""
    centre = points.mean(0)
    _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
    normal = axes[2]
    return centre, normal * (1.0 if normal[2] >= 0 else -1.0)


def disc_frame(points: Floats, canal: Floats) -> DiscFrame:
    """The frame of a disc from its voxels (n, 3) and from the point of the canal (3,) behind it.

    The plane is the disc's own, whatever its pose; anterior is away from the canal, within that plane.

    Raises:
        ValueError: fewer than 4 voxels, or a canal that does not lie beside the disc.
    """
    if len(points) < 4:
        raise ValueError(f"{len(points)} voxels are too few for the plane of a disc")
    centre, normal = plane_of(points)
    anterior = centre - canal
    anterior -= (anterior @ normal) * normal
    length = float(np.linalg.norm(anterior))
    if length < 1.0:
        raise ValueError("the canal does not lie beside the disc")
    anterior /= length
    axes = np.stack([np.cross(anterior, normal), anterior, normal])
    spread = ((points - centre) @ axes.T).std(0)
    # Of a uniform ellipse the standard deviation is half a semi-axis; of a slab it is the half over sqrt 3.
    return DiscFrame(centre, axes, spread * (2.0, 2.0, np.sqrt(3.0)))


def in_nucleus(points: Floats, frame: DiscFrame, fractions: Floats, offset_fraction: float) -> Mask:
    """Which points (n, 3) of a disc lie in its nucleus, an ellipsoid along the disc's axes.

    Args:
        points: world mm.
        frame: of the disc.
        fractions: of width, depth and height (3,).
        offset_fraction: how far the nucleus' centre lies behind the disc's, over the depth of the disc.
    """
    apart = frame.coordinates(points)
    apart[:, 1] += 2 * offset_fraction * frame.semi[1]
    return np.asarray(((apart / (fractions * frame.semi)) ** 2).sum(1) <= 1.0)


def is_anterior(points: Floats, frame: DiscFrame, offset_fraction: float) -> Mask:
    """Which points (n, 3) lie before the coronal plane through the nucleus' centre."""
    return np.asarray(frame.coordinates(points)[:, 1] > -2 * offset_fraction * frame.semi[1])


def slab_of(points: Floats, centres: Floats, normals: Floats, height_mm: float) -> NDArray[np.intp]:
    """Slab (n,) in which each point (n, 3) lies, the nearest where slabs overlap; -1 where in none.

    Args:
        points: world mm.
        centres: a point of the mid-plane of each slab (k, 3).
        normals: unit normals (k, 3).
        height_mm: of the slabs, both halves.
    """
    height = np.abs(np.einsum("nkj,kj->nk", points[:, None] - centres, normals))
    nearest = height.argmin(1)
    within = height[np.arange(len(points)), nearest] <= height_mm / 2
    return np.where(within, nearest, -1)


def long_axis(points: Floats) -> Floats:
    """Unit vector (3,), superior, along which points (n, 3) reach furthest: their first principal axis."""
    _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    axis = axes[0]
    return np.asarray(axis * (1.0 if axis[2] >= 0 else -1.0))


def bin_from_top(height: Floats, low: float, high: float, n: int) -> NDArray[np.intp]:
    """Which of `n` equal parts from `high` down to `low` each height (m,) lies in; the end parts go on."""
    part = np.floor((high - height) / (high - low) * n).astype(np.intp)
    return np.clip(part, 0, n - 1)


def slice_axis(grid: Grid) -> int:
    """Voxel axis across the slices: that of the longest voxel edge; of equal edges the most upright one."""
    sizes, upright = grid.voxel_mm, np.abs(grid.axes[2])
    longest = sizes > 0.99 * sizes.max()
    return int(np.argmax(np.where(longest, upright, -1.0)))


def touches_end(mask: Mask, axis: int) -> bool:
    """Whether a mask (x, y, z) has a voxel in the first or the last slice along a voxel axis."""
    ends = mask.take([0, -1], axis=axis)
    return bool(ends.any())


def erode(mask: Mask, voxels: int, within: tuple[int, ...]) -> Mask:
    """A mask (x, y, z) without its outermost voxels, those beside a face of its border, `voxels` times.

    The border of the field of view is none: a structure goes on beyond it.

    Args:
        mask: (x, y, z).
        voxels: how many times.
        within: voxel axes along which neighbours count: two for slices, three for space.
    """
    if voxels == 0:
        return mask
    cross = np.zeros((3, 3, 3), np.bool_)
    cross[1, 1, 1] = True
    for axis in within:
        for side in (0, 2):
            at = [1, 1, 1]
            at[axis] = side
            cross[tuple(at)] = True
    return np.asarray(binary_erosion(mask, cross, iterations=voxels, border_value=1))
