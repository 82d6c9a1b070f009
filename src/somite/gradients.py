"""Gradient tables: FSL text files on disk, unit vectors in world RAS+ axes in memory.

FSL's convention: directions are given along the voxel axes of the image, with the first axis reversed
when the determinant of the affine is positive (https://fsl.fmrib.ox.ac.uk/fsl/docs, FDT, "bvecs").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.images import axes_of


@dataclass(frozen=True)
class Gradients:
    """One row per volume: b-values (n,) in s/mm2 and unit directions (n, 3) in world RAS+ axes.

    Where b is 0, or the file gave no direction, the direction is (0, 0, 0).
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]

    def is_b0(self, b0_max: float = 50.0) -> NDArray[np.bool_]:
        """Which volumes count as b=0: b at most `b0_max` s/mm2, or no direction."""
        return (self.bvals <= b0_max) | ~self.bvecs.any(1)


def voxel_to_world(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) that turns FSL directions of an image with this affine into world RAS+ axes.

    The nearest orthogonal matrix to the affine's axes (polar decomposition), with FSL's flip of the first
    axis for a positive determinant folded in.
    """
    rotation = axes_of(affine)
    if np.linalg.det(affine[:3, :3]) > 0:
        rotation = rotation @ np.diag([-1.0, 1.0, 1.0])
    return np.asarray(rotation, np.float64)


def read_fsl(bval: Path, bvec: Path, affine: NDArray[np.float64]) -> Gradients:
    """Read FSL files as checked by the `load` step: 1 row of n b-values, 3 rows of n directions."""
    bvals = np.loadtxt(bval, ndmin=1, dtype=np.float64).ravel()
    vectors = np.loadtxt(bvec, ndmin=2, dtype=np.float64).T
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return Gradients(bvals, unit @ voxel_to_world(affine).T)


def write_fsl(gradients: Gradients, bval: Path, bvec: Path, affine: NDArray[np.float64]) -> tuple[Path, Path]:
    """Write FSL files for an image with this affine; returns both paths."""
    np.savetxt(bval, gradients.bvals[None], fmt="%g")
    np.savetxt(bvec, (gradients.bvecs @ voxel_to_world(affine)).T, fmt="%.10f")
    return bval, bvec
