"""What of the motion and distortion that were found can be true.

A volume is brought onto the mean of its shell, from which it differs in contrast too, and where contrast has
an edge it feigns displacement. But contrast is an even function of the gradient's direction, and nearly a
quadratic one. An eddy current turns round with the gradient: its field is an odd function, nearly a linear
one (Andersson and Sotiropoulos, NeuroImage 125 (2016) 1063, "second level model"). Motion knows nothing of
directions, but of time: it changes little from one volume to the next. So what is even in direction is taken
off, and with it the offset between the shell and b=0, which no comparison within the shell can show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Ints = NDArray[np.intp]

_ODD_MM, _EVEN_MM, _LEAST_MM = 5.0, 0.7, 0.02
"""Standard deviations expected of coefficients: of eddy currents, of feigned displacement; least scatter."""


@dataclass(frozen=True)
class Design:
    """Functions of direction, one row per volume; zeros for b=0."""

    odd: Float
    """(n, 3) linear: sqrt(b) g, times readout time and sign, 1 for the strongest."""
    even: Float
    """(n, 6 s) quadratic, for each group of volumes on its own; with their sum, a constant."""

    @classmethod
    def of(cls, bvals: Float, directions: Float, strength: Float, groups: list[Ints]) -> Design:
        """Of b-values (n,), unit directions (n, 3), readout times with sign (n,) and groups of volumes."""
        amplitude = np.sqrt(bvals) * strength
        odd = directions * (amplitude / max(np.abs(amplitude).max(), 1e-12))[:, None]
        x, y, z = directions.T
        quadratic = np.stack([x * x, y * y, z * z, x * y, x * z, y * z], 1)
        even = np.zeros((len(bvals), 6 * len(groups)))
        weighted = np.zeros((len(bvals), 1))
        for number, volumes in enumerate(groups):
            even[volumes, 6 * number : 6 * number + 6] = quadratic[volumes]
            weighted[volumes] = 1
        return cls(odd * weighted, even)


def _solve(design: Float, found: Float, weights: Float, scale: Float, spread: float) -> Float:
    """Coefficients with normal priors of standard deviation `scale`, for scatter of `spread`."""
    weighted = design * weights[:, None]
    normal = design.T @ weighted + np.diag((spread / scale) ** 2)
    return np.asarray(np.linalg.solve(normal, weighted.T @ found))


def eddy_terms(found: Float, sizes: Float, design: Design, volumes: Ints) -> Float:
    """Coefficients of distortion (v, k) without what is even in direction.

    Args:
        found: (v, k) mm.
        sizes: (k,) root mean square of each term over the region: mm of displacement per mm.
        design: of all volumes.
        volumes: (v,) those of `found`.
    """
    columns = np.hstack([design.odd, design.even])[volumes]
    scale = np.r_[np.full(3, _ODD_MM), np.full(design.even.shape[1], _EVEN_MM)]
    believed = found.copy()
    for k, size in enumerate(sizes):
        mm, spread = found[:, k] * size, _LEAST_MM * 5
        for _ in range(5):
            weights = np.ones(len(mm))
            both = _solve(columns, mm, weights, scale, spread)
            left = mm - columns @ both
            spread = max(float(np.sqrt((left**2).sum() / max(len(mm) - columns.shape[1], 1))), _LEAST_MM)
            if len(mm) <= columns.shape[1]:
                spread = _LEAST_MM * 5
                break
        believed[:, k] -= columns[:, 3:] @ both[3:] / size
    return believed


def motion(found: Float, design: Design, along: Float, breaks: Ints, rounds: int = 30) -> Float:
    """Motion (n, 6), mm, of volumes in the order of time, without what is even in direction.

    Changes from one volume to the next are compared with changes of the functions of direction; jumps count
    little (Cauchy weights). The shift along phase encoding holds the constant of the eddy current too, which
    stays in it.

    Args:
        found: (n, 6) vectors as of `Pose.vectors`.
        design: of all volumes.
        along: (n, 3) phase encoding.
        breaks: (.,) volumes that begin a series: what changed before them is not known.
        rounds: of reweighting.
    """
    columns = np.hstack([design.odd, design.even])
    turns, changes = np.diff(columns, axis=0), np.diff(found, axis=0)
    follows = np.ones(len(changes), bool)
    follows[breaks[breaks > 0] - 1] = False
    turns, changes = turns[follows], changes[follows]
    scale = np.r_[np.full(3, _ODD_MM), np.full(design.even.shape[1], _EVEN_MM)]
    is_along = np.r_[np.zeros(3), np.abs(along).max(0)]
    weights = np.ones(len(changes))
    both = np.zeros((columns.shape[1], 6))
    spread = np.full(6, 0.1)
    for _ in range(rounds):
        for k in range(6):
            # Only a shift along phase encoding can be an eddy current.
            scale[:3] = max(_ODD_MM * is_along[k], 1e-6)
            both[:, k] = _solve(turns, changes[:, k], weights, scale, float(spread[k]))
        left = changes - turns @ both
        spread = np.maximum(1.4826 * np.median(np.abs(left), 0), _LEAST_MM) if len(left) else spread
        weights = 1 / (1 + ((left / spread) ** 2).mean(1) / 2)
    return found - design.even @ both[3:]
