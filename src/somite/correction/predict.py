"""Foretell each volume from the others: kriging over the sphere of directions.

The covariance of two volumes over the voxels depends on the angle between their directions: a series of even
Legendre polynomials, whose coefficients come from the data (the spherical harmonics' power; Andersson and
Sotiropoulos, NeuroImage 122 (2015) 166, choose a kernel of one shape instead). Shells share them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Ints = NDArray[np.intp]
ORDERS = (0, 2, 4)


def weights(values: Float32, directions: Float, groups: Sequence[Ints]) -> Float32:
    """Weights (n, n) by which each volume is foretold from the others; rows of zeros where it cannot be.

    Args:
        values: (n, m) what the volumes show.
        directions: (n, 3) unit vectors.
        groups: volumes of b=0, each foretold by the mean of the others; then those of each shell.
    """
    found, (b0s, *shells) = np.zeros((len(values), len(values)), np.float32), groups
    if len(b0s) > 1:
        found[np.ix_(b0s, b0s)] = (1 - np.eye(len(b0s))) / (len(b0s) - 1)
    if shells:
        weighted = np.concatenate(shells)
        labels = np.repeat(np.arange(len(shells)), [len(shell) for shell in shells])
        of_others = without_itself(*covariance(values[weighted], directions[weighted], labels))
        found[np.ix_(weighted, weighted)] = of_others
    return found


def covariance(values: Float32, directions: Float, groups: Ints) -> tuple[Float, Float]:
    """Covariance (n, n) of the signals of volumes, and the variance (n,) of what is their own.

    Args:
        values: (n, m).
        directions: (n, 3) unit vectors.
        groups: (n,) shell of each volume, from 0.
    """
    n = len(values)
    raw = (values @ values.T).astype(np.float64) / values.shape[1]
    cosines = np.clip(directions @ directions.T, -1, 1)
    shapes = np.stack([legendre.legval(cosines, np.eye(order + 1)[order]) for order in ORDERS], -1)
    pairs = ~np.eye(n, dtype=bool)
    n_groups = int(groups.max(initial=0)) + 1
    power = np.zeros((len(ORDERS), n_groups, n_groups))
    for a in range(n_groups):
        for b in range(a, n_groups):
            chosen = pairs & (groups[:, None] == a) & (groups == b)
            if chosen.any():
                power[:, a, b] = power[:, b, a] = np.linalg.lstsq(shapes[chosen], raw[chosen], rcond=None)[0]
    signal = np.zeros((n, n))
    for order, matrix in enumerate(power):
        sizes, axes = np.linalg.eigh(matrix)
        signal += ((axes * np.maximum(sizes, 0)) @ axes.T)[groups[:, None], groups] * shapes[..., order]
    own = np.diag(raw) - np.diag(signal)
    return signal, np.maximum(own, 1e-4 * np.median(np.diag(raw)))


def without_itself(signal: Float, own: Float) -> Float32:
    """Weights (n, n), zeros on the diagonal, of the best linear prediction of each volume from the others.

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 5.12.
    """
    inverse = np.linalg.inv(signal + np.diag(own))
    weights = -inverse / np.diag(inverse)[:, None]
    np.fill_diagonal(weights, 0)
    return np.asarray(weights, np.float32)
