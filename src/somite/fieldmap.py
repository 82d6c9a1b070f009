"""The off-resonance field from two images of opposite phase encoding.

Both images show one object, displaced to opposite sides. The field is the smoothest displacement under which
their undistorted versions agree, found by Gauss-Newton steps with preconditioned conjugate gradients, coarse
to fine (Andersson et al., NeuroImage 20 (2003) 870; on faces of voxels as PyHySCO, Julian et al.,
arXiv:2403.10706). How smooth, the data decide (`somite.fieldfit`). Neither the scale of the intensities nor
the size of the voxels has an influence.

Estimated along with the field:
- the logarithm of the receive sensitivity, as a few cosines: coils do not move with the signal, so that both
  images differ where they are bright for the coil's sake;
- a factor between both images;
- the rigid movement between them. A shift along phase encoding looks exactly as a constant field does, so it
  is held at zero, and the field has it.

Arrays have phase encoding last; displacements are of faces, in voxels (`somite.columns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from threadpoolctl import threadpool_limits

from somite.body import body_mask
from somite.columns import at_centres, undistort
from somite.fieldfit import MOST_WAVES, Level, State, refine
from somite.images import Grid
from somite.registration import (
    LeastSquares,
    Region,
    displacement_mm,
    look_up,
    region_of,
    small_motion,
    smooth,
)
from somite.sampling import coefficients, sample

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Volume = NDArray[np.floating[Any]]

_LEVELS_MM = (8.0, 4.0, 0.0)
"""Sizes of the voxels that each level aims at; 0: as they are."""
_STEPS = (8, 6, 5)
"""Gauss-Newton steps of each level, at most."""
_FINEST = 0.5
"""Weight of the smoothness at the finest level, in that of the level before: means over blocks of voxels
agree less well than noise alone would have it, and the evidence takes that for noise."""
_AT_REST = 0.04
"""Mean movement, in the smallest voxel size, below which the second image is used as it is."""
_START = 64.0
"""Weight of the bending energy that the first level begins with, mm2."""
_SLOWEST_MM = 80.0
"""Half wavelength of the finest cosine of the receive sensitivity."""
_SENSITIVITY_SD, _FACTOR_SD = 0.3, 0.3
"""Expected size of the logarithms of the sensitivity and of the factor."""


@dataclass(frozen=True)
class Estimate:
    """What was found from a pair."""

    displacement: Float32
    """(i, j, k), voxels along phase encoding, for a factor of 1."""
    undistorted: Float32
    """(i, j, k), mean of both images without distortion and movement, in the space of the first."""
    movement: Float
    """(4, 4), world mm: from a point of the first image to where the same tissue was in the second."""
    smoothness: float
    """Weight of the bending energy that was chosen, mm2 (of squared intensity in the 99th percentile)."""


def estimate(
    images: tuple[Volume, Volume],
    factors: tuple[float, float],
    grid: Grid,
    axis: int,
    threads: int = 1,
    move: bool = True,
) -> Estimate:
    """The field of a pair of images (i, j, k) of one object.

    Args:
        images: as acquired, on one grid.
        factors: the displacement of each image along voxel axis `axis` is the result times its factor; of
            opposite sign.
        grid: of both.
        axis: of phase encoding.
        threads: the result does not depend on them.
        move: whether the second may have moved against the first.
    """
    with threadpool_limits(1):
        pair = _Pair(images, factors, grid, axis, threads)
        return pair.estimate(move)


class _Pair:
    """Estimates level by level, with the movement in between."""

    def __init__(
        self,
        images: tuple[Volume, Volume],
        factors: tuple[float, float],
        grid: Grid,
        axis: int,
        threads: int,
    ) -> None:
        bright = float(np.percentile(images[0], 99)) or 1.0
        self.first, self.second = (np.asarray(image, np.float32) / np.float32(bright) for image in images)
        self.bright, self.factors, self.grid, self.axis, self.threads = bright, factors, grid, axis, threads
        self.movement = np.eye(4)
        self.moved, self.at_rest = self.second, True
        order = [a for a in range(3) if a != axis] + [axis]
        self.voxel_mm = grid.voxel_mm[order]
        self.shape = np.array(grid.shape)[order]
        extent = self.shape * self.voxel_mm
        most = np.minimum(extent // _SLOWEST_MM, MOST_WAVES).astype(int)
        self.waves = tuple(wave for wave in np.ndindex(*(most + 1)) if any(wave))
        rates = np.array([np.sum((np.array(wave) / extent) ** 2) for wave in self.waves])
        self.prior_sd = np.array(
            [_FACTOR_SD, *(_SENSITIVITY_SD * np.exp(-((np.pi * _SLOWEST_MM / 2) ** 2) * rates / 2))]
        )

    def estimate(self, move: bool) -> Estimate:
        state = State(np.zeros(0, np.float32), np.zeros(1 + len(self.waves)), _START)
        sizes = list(dict.fromkeys(tuple(self._factors(mm)) for mm in _LEVELS_MM))
        before = sizes[0]
        for number, size in enumerate(sizes):
            last = number == len(sizes) - 1
            rounds = 1 if last or not move else 2
            for _ in range(rounds):
                level = self._level(np.array(size))
                if not len(state.faces):
                    state.faces = np.zeros(level.faces_shape, np.float32)
                elif state.faces.shape != level.faces_shape:
                    state.faces = _refined(state.faces, level.faces_shape, np.array(size) / np.array(before))
                    state.weight *= _FINEST if last else 1.0
                before = size
                adapt = not last or number == 0
                state = refine(level, state, self.prior_sd, _STEPS[number], adapt)
                if move and not last:
                    self._follow(state, np.array(size))
        displacement = self._whole(state.faces, np.ones(3))
        return Estimate(displacement, self._mean(displacement), self.movement, state.weight)

    def _factors(self, aim_mm: float) -> list[int]:
        """Voxels that are joined along each axis: none of less than 4 blocks."""
        wanted = np.maximum(1, np.rint(aim_mm / self.voxel_mm))
        return [int(f) for f in np.maximum(1, np.minimum(wanted, self.shape // 4))]

    def _level(self, size: NDArray[Any]) -> Level:
        one, two = (_blocks(np.moveaxis(image, self.axis, 2), size) for image in (self.first, self.moved))
        return Level((one, two), self.factors, self.voxel_mm * size, self.waves, self.threads)

    def _whole(self, faces: Float32, size: Float) -> Float32:
        """Displacement (i, j, k) at the voxels of the images from the faces of a level."""
        shape = (int(self.shape[0]), int(self.shape[1]), int(self.shape[2]) + 1)
        fine = faces if faces.shape == shape else _refined(faces, shape, 1 / size)
        return np.ascontiguousarray(np.moveaxis(at_centres(fine), 2, self.axis), np.float32)

    def _mean(self, displacement: Float32) -> Float32:
        one, two = (
            undistort(image, factor * displacement, self.axis)
            for image, factor in zip((self.first, self.moved), self.factors, strict=True)
        )
        return np.asarray(0.5 * self.bright * (one + two), np.float32)

    def _follow(self, state: State, size: NDArray[Any]) -> None:
        """Renew the movement of the second image, and resample it so that it lies where the first does."""
        displacement = self._whole(state.faces, size)
        one, two = (
            undistort(image, factor * displacement, self.axis)
            for image, factor in zip((self.first, self.moved), self.factors, strict=True)
        )
        region = region_of(body_mask(one), self.grid)
        found = movement_across(one, two, region, self.axis, fwhm_mm=float(self.voxel_mm.max()))
        # At rest, the image was measured as it is.
        self.movement = found if self.at_rest else self.movement @ found
        self.at_rest = displacement_mm(self.movement, region) < _AT_REST * float(self.voxel_mm.min())
        self.moved = self.second
        if not self.at_rest:
            shift = np.float32(self.factors[1]) * displacement
            self.moved = as_if_unmoved(self.second, self.movement, shift, self.grid, self.axis)


def as_if_unmoved(volume: Volume, movement: Float, shift: Float32, grid: Grid, axis: int) -> Float32:
    """A distorted volume as it would be had the body not moved: cubic interpolation.

    Tissue moves with the body, its distortion acts along the scanner's phase encoding all the same: a turn of
    the volume as a whole would turn the distortion too, by a fifth of a millimetre where it is 9 mm and the
    turn one degree.

    Args:
        volume: (i, j, k).
        movement: (4, 4), world mm: from a point of the unmoved body to the same tissue in the volume.
        shift: (i, j, k) displacement of the volume's signal along `axis`, voxels, at undistorted places.
        grid: of the volume.
        axis: of phase encoding.
    """
    at = np.indices(grid.shape).reshape(3, -1).astype(np.float64)
    along = shift.ravel().astype(np.float64)
    for _ in range(2):  # the shift of the tissue that is found here, not of that which belongs here
        from_there = at.copy()
        from_there[axis] -= along
        along = map_coordinates(shift, from_there, order=1, mode="nearest")
    tissue = at.copy()
    tissue[axis] -= along
    matrix = np.linalg.inv(grid.affine) @ movement @ grid.affine
    found = matrix[:3, :3] @ tissue + matrix[:3, 3:]
    found[axis] += along
    edge = np.array(grid.shape)[:, None] - 1.0
    values, _ = sample(coefficients(volume), np.clip(found, 0, edge).T)
    return np.asarray(np.maximum(values, volume.min()).reshape(grid.shape), np.float32)


def movement_across(one: Volume, two: Volume, region: Region, axis: int, fwhm_mm: float) -> Float:
    """Rigid movement (4, 4) of `two` against `one`, told by what lies across phase encoding only.

    Along it the field has explained whatever there was: displacements linear in space are let free beside
    the movement, and do not count.
    """
    target = LeastSquares(one, np.ones(one.shape, bool), region, fwhm_mm)
    spline = coefficients(smooth(two, fwhm_mm, region.grid))
    rigid = [n for n, free in enumerate(region.free) if free != 3 + axis]
    if 3 + axis not in region.free:
        return np.eye(4)
    slope = target.derivatives[:, region.free.index(3 + axis)]
    away = (region.points - region.centre) @ region.axes / region.radius
    along = target.values / region.radius
    nuisance = np.column_stack([slope, away * slope[:, None], along, target.values])
    found = np.eye(4)
    for _ in range(6):
        matrix = region.to_voxels @ found
        values, inside = look_up(spline, matrix[:3, :3] @ region.points.T + matrix[:3, 3:])
        columns = np.column_stack([target.derivatives[:, rigid], nuisance]) * inside[:, None]
        step, *_ = np.linalg.lstsq(columns, (values - target.values) * inside, rcond=1e-6)
        parameters = np.zeros(len(region.free))
        parameters[rigid] = step[: len(rigid)]
        motion = small_motion(parameters, region)
        found = found @ np.linalg.inv(motion)
        if displacement_mm(motion, region) < 3e-3:
            break
    return found


def _blocks(volume: Volume, size: NDArray[Any]) -> Volume:
    """Means of blocks of voxels; the last block is filled up with the last voxel."""
    for axis, n in enumerate(size):
        length = volume.shape[axis]
        blocks = -(-length // n)
        if blocks * n > length:
            volume = np.take(volume, np.minimum(np.arange(blocks * n), length - 1), axis)
        parts = (*volume.shape[:axis], blocks, n, *volume.shape[axis + 1 :])
        volume = volume.reshape(parts).mean(axis + 1)
    return volume


def _refined(faces: Float32, shape: Sequence[int], size: Float) -> Float32:
    """Displacements on a finer level, `size` being its voxels in those of the coarser one."""
    across = [(np.arange(n) + 0.5) * s - 0.5 for n, s in zip(shape[:2], size[:2], strict=True)]
    positions = np.meshgrid(*across, np.arange(shape[2]) * size[2], indexing="ij")
    fine = map_coordinates(faces, positions, order=1, mode="nearest", output=np.float32)
    return np.asarray(fine / np.float32(size[2]), np.float32)
