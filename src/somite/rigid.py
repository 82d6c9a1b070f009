"""Motion of every volume of a diffusion series, as rigid transforms from the first b=0 volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from somite.registration import (
    Float,
    LeastSquares,
    Region,
    about,
    align_by_information,
    in_threads,
    mean_of,
    resample,
)

# Smoothing of both images in the rounds of registration, full widths at half maximum in mean voxel sizes.
_WIDTHS = (3.0, 1.5, 0.7, 0.5)


def shells_of(bvals: Float, is_b0: NDArray[np.bool_], smallest: int = 4) -> list[NDArray[np.intp]]:
    """Weighted volumes by shell, in ascending b-value: a new shell starts at a gap of 100 s/mm2 and 10 %.

    A shell of fewer than `smallest` volumes joins the one before it: its mean would be too noisy a target.
    """
    order = np.argsort(bvals, kind="stable")
    shells: list[list[int]] = []
    for volume in order[~is_b0[order]]:
        step_up = bvals[volume] - bvals[shells[-1][-1]] if shells else np.inf
        if step_up > max(100.0, 0.1 * bvals[volume]):
            shells.append([])
        shells[-1].append(int(volume))
    joined: list[list[int]] = []
    for shell in shells:
        if joined and min(len(shell), len(joined[-1])) < smallest:
            joined[-1] += shell
        else:
            joined.append(shell)
    return [np.array(sorted(shell)) for shell in joined]


class Rigid:
    """Estimates a transform for each volume of a series: rigid, as in `registration`.

    The b=0 volumes are brought to the first by least squares. Each shell is brought to its own mean, which
    is renewed in every round, and the mean to the b=0 mean by mutual information; a higher shell's mean to
    that of the shell below, whose contrast is nearer.
    """

    def __init__(self, data: NDArray[np.floating[Any]], region: Region, threads: int) -> None:
        self.data, self.region, self.threads = data, region, threads
        self.transforms = np.tile(np.eye(4), (data.shape[3], 1, 1))
        self.expected = self.transforms.copy()
        self.voxel_mm = float(np.prod(region.grid.voxel_mm) ** (1 / 3))

    def estimate(self, bvals: Float, directions: Float, is_b0: NDArray[np.bool_]) -> Float:
        """Transforms (n, 4, 4) of all volumes, from b-values (n,) in s/mm2 and unit directions (n, 3)."""
        b0s = np.flatnonzero(is_b0)
        self._align_b0s(b0s)
        below, _ = self._mean(b0s)
        self._start_between(b0s, np.flatnonzero(~is_b0))
        for shell in shells_of(bvals, is_b0):
            for number, width in enumerate(_WIDTHS):
                self._align(shell, *self._mean(shell), width * self.voxel_mm)
                self._distrust(shell, directions[shell])
                if number in (0, len(_WIDTHS) - 1):
                    self._link(shell, below)
            below, _ = self._mean(shell)
        return self.transforms

    def _align_b0s(self, b0s: NDArray[np.intp]) -> None:
        first = self.data[..., b0s[0]]
        whole = np.ones(first.shape, bool)
        for width in _WIDTHS[:2]:
            self._align(b0s[1:], first, whole, width * self.voxel_mm)
        for _ in range(2 if len(b0s) > 1 else 0):
            self._align(b0s, *self._mean(b0s), _WIDTHS[2] * self.voxel_mm)
            self.transforms[b0s] = self.transforms[b0s] @ np.linalg.inv(self.transforms[b0s[0]])
        self.transforms[b0s[0]] = np.eye(4)

    def _start_between(self, b0s: NDArray[np.intp], others: NDArray[np.intp]) -> None:
        """Start each weighted volume from the motion of the b=0 volumes before and after it."""
        rotations, shifts = parameters_of(self.transforms[b0s], self.region.centre)
        for volume in others:
            rotation, shift = (
                np.array([np.interp(volume, b0s, column) for column in values.T])
                for values in (rotations, shifts)
            )
            turn = Rotation.from_rotvec(rotation).as_matrix()
            self.transforms[volume] = self.expected[volume] = about(self.region.centre, turn, shift)

    def _align(
        self, volumes: NDArray[np.intp], target: NDArray[Any], valid: NDArray[np.bool_], fwhm_mm: float
    ) -> None:
        squares = LeastSquares(target, valid, self.region, fwhm_mm)
        found = in_threads(
            lambda volume: squares.align(
                self.data[..., volume], self.transforms[volume], self.expected[volume]
            ),
            volumes,
            self.threads,
        )
        for volume, transform in zip(volumes, found, strict=True):
            self.transforms[volume] = transform

    def _distrust(self, shell: NDArray[np.intp], directions: Float) -> None:
        rotations, shifts = parameters_of(self.transforms[shell], self.region.centre)
        found = np.concatenate([rotations * self.region.radius, shifts], 1)
        believed = without_contrast(found, directions)
        for volume, (turn, shift) in zip(shell, believed.reshape(-1, 2, 3), strict=True):
            rotation = Rotation.from_rotvec(turn / self.region.radius).as_matrix()
            self.transforms[volume] = about(self.region.centre, rotation, shift)

    def _mean(self, volumes: NDArray[np.intp]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        grid = self.region.grid
        return mean_of(
            in_threads(
                lambda volume: resample(self.data[..., volume], self.transforms[volume], grid),
                volumes,
                self.threads,
            )
        )

    def _link(self, shell: NDArray[np.intp], below: NDArray[np.float32]) -> None:
        mean, valid = self._mean(shell)
        seen = self.region.voxels[valid[tuple(self.region.voxels.T)]]
        region = Region(self.region.grid, seen if len(seen) else self.region.voxels)
        width = _WIDTHS[-1] * self.voxel_mm
        common = in_threads(lambda _: align_by_information(below, mean, region, width), (0,), 1)[0]
        self.transforms[shell] = self.transforms[shell] @ common
        self.expected[shell] = self.expected[shell] @ common


def without_contrast(parameters: Float, directions: Float, suspicious: float = 3.0) -> Float:
    """Motion (n, k) of a shell's volumes in order, in mm, without what their contrast feigns.

    The contrast of a volume differs from the shell's mean as an even, nearly quadratic function of its
    direction, and the motion that it feigns does too; motion itself knows nothing of directions. So from
    volume to volume, motion should change as much per degree of freedom along the quadratic functions of
    direction as beside them. An excess by more than the factor `suspicious` is shrunk to that (an
    empirical Bayes estimate). Changes are used since true motion is mostly slow, which directions are not.
    """
    x, y, z = directions.T
    quadratic = np.stack([x * x, y * y, z * z, x * y, x * z, y * z], 1)
    basis, sizes, _ = np.linalg.svd(quadratic - quadratic.mean(0), full_matrices=False)
    basis = basis[:, sizes > 1e-3 * max(float(sizes.max(initial=0.0)), 1e-12)]
    beside = len(parameters) - 1 - basis.shape[1]
    if beside < basis.shape[1] or not basis.shape[1]:
        return parameters
    changes, turns = np.diff(parameters, axis=0), np.diff(basis, axis=0)
    weights = np.linalg.lstsq(turns, changes, rcond=None)[0]
    along = turns @ weights
    excess = ((along**2).sum() / basis.shape[1]) / max(((changes - along) ** 2).sum() / beside, 1e-12)
    return parameters if excess < suspicious else parameters - basis @ weights * (1 - 1 / excess)


def parameters_of(transforms: Float, centre: Float) -> tuple[Float, Float]:
    """Rotation vectors (n, 3) in radians and shifts (n, 3) in mm of transforms about a centre, world axes."""
    rotations = Rotation.from_matrix(transforms[:, :3, :3]).as_rotvec()
    shifts = transforms[:, :3, :3] @ centre + transforms[:, :3, 3] - centre
    return np.asarray(rotations), np.asarray(shifts)
