"""Foretell each volume from the others: kriging over the sphere of directions.

The covariance of two volumes over the voxels depends on the angle between their directions: a series of even
Legendre polynomials, whose coefficients come from the data (the spherical harmonics' power; Andersson and
Sotiropoulos, NeuroImage 122 (2015) 166, choose a kernel of one shape instead). Shells share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Ints = NDArray[np.intp]
ORDERS = (0, 2, 4, 6)
"""Of the Legendre polynomials; those with more than 1.5 harmonics per volume say more noise than signal."""


@dataclass(frozen=True)
class Kriging:
    """How the signals of volumes go together."""

    signal: Float
    """(n, n) covariance of what volumes share."""
    own: Float
    """(n,) variance of what is a volume's own."""

    @classmethod
    def of(cls, values: Float32, directions: Float, groups: Sequence[Ints]) -> Kriging:
        """From values (n, m) of volumes with unit directions (n, 3); groups: b=0, then the shells."""
        raw = (values @ values.T).astype(np.float64) / values.shape[1]
        b0s, *shells = groups
        signal = np.zeros_like(raw)
        pairs = raw[np.ix_(b0s, b0s)][~np.eye(len(b0s), dtype=bool)]
        signal[np.ix_(b0s, b0s)] = pairs.mean() if pairs.size else 0.0
        if shells:
            weighted = np.concatenate(shells)
            labels = np.repeat(np.arange(len(shells)), [len(shell) for shell in shells])
            block = np.ix_(weighted, weighted)
            signal[block] = _by_angle(raw[block], directions[weighted], labels)
        own = np.diag(raw) - np.diag(signal)
        return cls(signal, np.maximum(own, 1e-4 * np.median(np.diag(raw))))

    def without_itself(self) -> Float32:
        """Weights (n, n), zeros on the diagonal, of the best linear prediction of each from the others.

        Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 5.12.
        """
        inverse = np.linalg.inv(self.signal + np.diag(self.own))
        weights = -inverse / np.diag(inverse)[:, None]
        np.fill_diagonal(weights, 0)
        return np.asarray(weights, np.float32)

    def of_lost(self, lost: NDArray[np.bool_]) -> Float32:
        """Weights (l, n - l) of the prediction of the lost (n,) from the other volumes."""
        good = ~lost
        total = self.signal[np.ix_(good, good)] + np.diag(self.own[good])
        return np.asarray(np.linalg.solve(total, self.signal[np.ix_(good, lost)]).T, np.float32)


def _by_angle(raw: Float, directions: Float, labels: Ints) -> Float:
    """Covariance (v, v) as a function of angle for each two shells, fitted to the raw one (v, v)."""
    cosines = np.clip(directions @ directions.T, -1, 1)
    orders = [order for order in ORDERS if (order + 1) * (order + 2) / 2 <= max(1.5 * len(raw), 1)]
    shapes = np.stack([legendre.legval(cosines, np.eye(order + 1)[order]) for order in orders], -1)
    pairs = ~np.eye(len(raw), dtype=bool)
    n_groups = int(labels.max(initial=0)) + 1
    power = np.zeros((len(orders), n_groups, n_groups))
    for a in range(n_groups):
        for b in range(a, n_groups):
            chosen = pairs & (labels[:, None] == a) & (labels == b)
            if chosen.any():
                power[:, a, b] = power[:, b, a] = np.linalg.lstsq(shapes[chosen], raw[chosen], rcond=None)[0]
    signal = np.zeros_like(raw)
    for order, matrix in enumerate(power):
        sizes, axes = np.linalg.eigh(matrix)
        signal += ((axes * np.maximum(sizes, 0)) @ axes.T)[labels[:, None], labels] * shapes[..., order]
    return signal
