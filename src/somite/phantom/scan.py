"""What goes wrong in a scan: motion, distortion, eddy currents, lost slices and ringing, each with its truth.

Echo-planar images are displaced along phase encoding. What lies at x is seen at x + p (±f(x) + e(x)): f is
the field of the body's susceptibility, which moves with the body and acts the other way round in an image of
the opposite phase encoding; e, a shear and scale of each volume, is that of the eddy currents. Signal is
kept: where space is compressed it piles up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom.anatomy import rigid
from somite.phantom.paint import Shift
from somite.phantom.tissue import Floats

LEFT_OF_SIGNAL = 0.1
"""What a lost slice keeps of its signal."""
_BUMPS = (((0.05, -0.22, 0.1), 1.0, 0.14), ((0.18, 0.12, -0.2), -0.8, 0.18), ((-0.2, 0.08, 0.15), 0.6, 0.2))
"""Of the field: centre and width in parts of the field of view along x, y, z; height."""
_ROUNDS = 12


@dataclass(frozen=True)
class Scan:
    """What is to go wrong. The default is nothing."""

    motion_mm: float = 0.0
    """Largest shift of the body along an axis during the series."""
    motion_deg: float = 0.0
    """Largest turn of the body about an axis."""
    distortion_voxels: float = 0.0
    """Largest displacement by susceptibility, voxels along phase encoding. An image of the opposite phase
    encoding comes with it."""
    eddy_percent: float = 0.0
    """Largest shear or scale by eddy currents, mm per 100 mm."""
    dropouts: int = 0
    """Slices of diffusion-weighted volumes that lose their signal."""
    ringing: bool = False
    """Whether k-space ends in the plane of the slices, as that of a scanner does. Without, every voxel is the
    mean over its volume, and to take ringing off that is not there blurs it."""

    @property
    def moves(self) -> bool:
        """Whether the body moves."""
        return self.motion_mm > 0 or self.motion_deg > 0


ALL_FAULTS = Scan(
    motion_mm=1.0, motion_deg=0.5, distortion_voxels=3.0, eddy_percent=1.5, dropouts=2, ringing=True
)
"""What a bad but usual scan has."""


def drift(
    volumes: int, seed: int | Sequence[int], shift_mm: float = 1.0, turn_deg: float = 0.5
) -> NDArray[np.float64]:
    """Rigid motion (n, 4, 4), world mm: a smooth random walk that starts at rest.

    Its largest shift along any axis is `shift_mm`, its largest turn about any axis `turn_deg`.
    """
    rng = np.random.default_rng([seed, 2] if isinstance(seed, int) else [*seed, 2])
    walk = np.cumsum(rng.standard_normal((volumes, 6)), axis=0)
    walk -= walk[0]
    largest = np.maximum([np.abs(walk[:, :3]).max(), np.abs(walk[:, 3:]).max()], 1e-12)
    walk *= np.repeat([shift_mm, turn_deg] / largest, 3)
    return np.stack([rigid(row[:3], row[3:]) for row in walk])


def phase_axis(grid: Grid) -> tuple[int, float]:
    """The stored axis nearest to anterior-posterior, and the sign with which it points to posterior."""
    toward = -grid.affine[1, :3] / grid.voxel_mm
    axis = int(np.abs(toward).argmax())
    return axis, 1.0 if toward[axis] > 0 else -1.0


@dataclass(frozen=True)
class Field:
    """Displacement by susceptibility: a sum of Gaussian bumps in world mm around the body of volume 0."""

    centres: Floats
    """(k, 3)"""
    heights: Floats
    """(k,), mm."""
    widths: Floats
    """(k,), mm."""

    @classmethod
    def around(cls, grid: Grid, largest_mm: float) -> Field:
        """A field within the field of view whose largest displacement at a voxel's centre is `largest_mm`."""
        extent = np.abs(grid.affine[:3, :3]) @ np.array(grid.shape)
        middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
        places = middle + np.array([place for place, _, _ in _BUMPS]) * extent
        widths = np.array([width for _, _, width in _BUMPS]) * extent.max()
        field = cls(places, np.array([height for _, height, _ in _BUMPS]), widths)
        peak = np.abs(field.at(centres(grid))).max()
        return cls(places, field.heights * largest_mm / peak, widths)

    def at(self, points: Floats) -> Floats:
        """Displacement (m,) in mm at points (3, m)."""
        total = np.zeros(points.shape[1])
        for centre, height, width in zip(self.centres, self.heights, self.widths, strict=True):
            distance = ((points - centre[:, None]) ** 2).sum(axis=0)
            total += height * np.exp(-distance / (2 * width**2))
        return total


def centres(grid: Grid) -> Floats:
    """World coordinates (3, v) of the voxels' centres, in C order."""
    index = np.indices(grid.shape).reshape(3, -1)
    return np.asarray(grid.affine[:3, :3] @ index + grid.affine[:3, 3:])


def eddies(gradients: Gradients, percent: float, seed: Sequence[int]) -> Floats:
    """Eddy currents of each volume (n, 4): mm, then mm per mm along the x, y and z of the world.

    Linear in the gradient's strength and direction, as eddy currents are, with a little chance; at b=0 none.
    The largest shear or scale is `percent` / 100; a shift comes with it, of up to 1 mm per 1 %.
    """
    rng = np.random.default_rng([*seed, 5])
    strength = np.sqrt(gradients.bvals / max(gradients.bvals.max(), 1.0))[:, None] * gradients.bvecs
    terms = strength @ rng.uniform(-1.0, 1.0, (3, 4))
    terms += 0.1 * rng.standard_normal(terms.shape) * (gradients.bvals > 0)[:, None]
    largest = np.maximum(np.abs(terms).max(axis=0), 1e-12)
    return np.asarray(terms / largest * [percent, *[percent / 100] * 3])


def shift(
    grid: Grid,
    *,
    field: Field | None = None,
    polarity: float = 1.0,
    pose: Floats | None = None,
    eddy: Floats | None = None,
) -> Shift:
    """Where what is seen in each voxel of a distorted image really lies.

    Args:
        grid: of the image.
        field: of susceptibility, attached to the body of volume 0.
        polarity: 1 for the series, -1 for an image of the opposite phase encoding.
        pose: affine (4, 4), where the body of volume 0 lies in this volume.
        eddy: (4,), as of `eddies`.
    """
    axis, sign = phase_axis(grid)
    along = grid.affine[:3, axis] / grid.voxel_mm[axis] * sign
    seen = centres(grid)
    middle = seen.mean(axis=1, keepdims=True)
    back = np.zeros(seen.shape[1]) if eddy is None else eddy[0] + eddy[1:] @ (seen - middle)
    to_body = np.linalg.inv(np.eye(4) if pose is None else pose)
    moved = back
    if field is not None:
        for _ in range(_ROUNDS):
            lies = seen - along[:, None] * moved
            moved = back + polarity * field.at(to_body[:3, :3] @ lies + to_body[:3, 3:])
    voxels = -sign * moved / grid.voxel_mm[axis]
    return Shift.of(voxels.reshape(grid.shape), axis)


def lost_slices(
    gradients: Gradients, slices: int, number: int, seed: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Volumes and slices (along the third axis, from 0) that lose their signal, in weighted volumes."""
    rng = np.random.default_rng([*seed, 6])
    weighted = np.flatnonzero(~gradients.is_b0())
    volumes = np.sort(rng.choice(weighted, min(number, len(weighted)), replace=False))
    inner = np.arange(slices)[slices // 4 : max(slices - slices // 4, 1)]
    return tuple((int(volume), int(rng.choice(inner))) for volume in volumes)
