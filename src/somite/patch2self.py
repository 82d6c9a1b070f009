"""Patch2Self: each volume replaced by what the others of its kind tell of it. Knows arrays, no files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from somite.images import FloatArray

BLOCK_VOXELS = 1 << 16
"""Voxels worked on at once: bounds the working memory."""


def patch2self(dwi: FloatArray, is_b0: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Denoise by regression: each volume is predicted, linearly, from the others; b=0 from b=0 alone.

    Noise that is independent between volumes cannot be predicted, and is left behind. A volume that is alone
    of its kind comes back as it was. The result is the same to the bit for any number of threads.

    Args:
        dwi: (x, y, z, volumes), finite; it is not changed.
        is_b0: (volumes,) which are b=0.

    Source: Fadnavis et al., NeurIPS 33 (2020) 16293, with ordinary least squares and patches of one voxel,
        DIPY's defaults. All regressions come from one inverse: the weights of variable i on the others are
        -P_ij / P_ii of the precision matrix P. DIPY 1.12 needs scikit-learn for it; its version 3 fits to
        sums of voxels drawn anew in each run, and its version 1 alters the data that it predicts from.
    """
    voxels = dwi.reshape(-1, dwi.shape[3], order="F")
    blocks = [slice(at, at + BLOCK_VOXELS) for at in range(0, len(voxels), BLOCK_VOXELS)]
    out = np.empty(voxels.shape, np.float32, order="F")
    with threadpool_limits(1):
        for mine in (np.flatnonzero(is_b0), np.flatnonzero(~is_b0)):
            mean = np.array([voxels[:, volume].mean(dtype=np.float64) for volume in mine])
            covariance = np.zeros((len(mine), len(mine)))
            for block in blocks:
                about = voxels[block][:, mine] - mean
                covariance += about.T @ about
            weights = _of_the_others(covariance)
            for block in blocks:
                out[block, mine] = (voxels[block][:, mine] - mean) @ weights + mean
    return out.reshape(dwi.shape, order="F")


def _of_the_others(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n, n), a column per volume, by which the others predict it; its own is 0, or 1 if alone."""
    n = len(covariance)
    scale = np.trace(covariance) / max(n, 1)
    if n < 2 or scale == 0:
        return np.eye(n)
    # Next to nothing, so that volumes that are equal, or empty, have a solution.
    precision = np.linalg.inv(covariance + 1e-12 * scale * np.eye(n))
    weights = np.asarray(-precision / np.diag(precision), np.float64)
    np.fill_diagonal(weights, 0)
    return weights
