"""What of the motion and distortion that were found can be true.

A volume is brought onto the mean of its shell, from which it differs in contrast too, and where contrast has
an edge it feigns displacement. But contrast is an even function of the gradient's direction, and nearly a
quadratic one. An eddy current turns round with the gradient: its field is an odd function, nearly a linear
one (Andersson and Sotiropoulos, NeuroImage 125 (2016) 1063, "second level model"). Motion knows nothing of
directions, but of time: it changes little from one volume to the next. So what is even in direction is taken
off, and with it the offset between the shell and b=0, which no comparison within the shell can show. Where
the shell's mean lies beside the b=0 mean, by mutual information, tells it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Ints = NDArray[np.intp]

_ODD_MM = 5.0
"""Standard deviation expected of the coefficients of eddy currents."""
_EVEN_MM = (0.7, 0.05, 2.0)
"""That of feigned displacement: where its estimate starts, and its bounds."""
_LEAST_MM = 0.02
"""Of scatter."""
_ROUNDS = 30


@dataclass(frozen=True)
class Design:
    """Functions of direction, one row per volume; zeros for b=0."""

    odd: Float
    """(n, 3) linear: sqrt(b) g, times readout time; 1 for the strongest. Of displacement along encoding."""
    even: Float
    """(n, 6 s) quadratic, for each group of volumes on its own; with their sum, a constant."""

    @classmethod
    def of(cls, bvals: Float, directions: Float, strength: Float, groups: list[Ints]) -> Design:
        """Of b-values (n,), unit directions (n, 3), readout times (n,) and groups of volumes."""
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

    def signed(self, signs: Float) -> Design:
        """For displacement along world axes: signs (n,) of encoding."""
        return Design(self.odd * signs[:, None], self.even)


@dataclass
class _Ridge:
    """Regression on odd and even functions with normal priors."""

    n_even: int
    odd_mm: float = _ODD_MM
    even_mm: float = _EVEN_MM[0]
    spread_mm: float = 0.1
    """Of the scatter about both."""
    counts_as: float = 0.0
    """Parameters that the coefficients count as."""
    power: float = 0.0
    """Mean square of the even coefficients, with their uncertainty."""

    def solve(self, design: Float, found: Float, weights: Float) -> Float:
        """Coefficients (k,)."""
        scale = np.r_[np.full(design.shape[1] - self.n_even, self.odd_mm), np.full(self.n_even, self.even_mm)]
        weighted = design * weights[:, None]
        data = design.T @ weighted
        inverse = np.linalg.inv(data + np.diag((self.spread_mm / scale) ** 2))
        both = inverse @ (weighted.T @ found)
        self.counts_as = float(np.trace(inverse @ data))
        power = both**2 + np.diag(inverse) * self.spread_mm**2
        self.power = float(power[-self.n_even :].mean()) if self.n_even else 0.0
        return np.asarray(both)


def eddy_terms(found: Float, sizes: Float, design: Design, volumes: Ints) -> Float:
    """Coefficients of distortion (v, k) without what is even in direction.

    Args:
        found: (v, k) mm.
        sizes: (k,) root mean square of each term over the region: mm of displacement per mm.
        design: of all volumes.
        volumes: (v,) those of `found`.
    """
    columns = np.hstack([design.odd, design.even])[volumes]
    ridges = [_Ridge(design.even.shape[1]) for _ in sizes]
    mm, ones = found * sizes, np.ones(len(found))
    both = np.zeros((columns.shape[1], len(sizes)))
    for _ in range(_ROUNDS):
        for k, ridge in enumerate(ridges):
            both[:, k] = ridge.solve(columns, mm[:, k], ones)
            left = ((mm[:, k] - columns @ both[:, k]) ** 2).sum()
            ridge.spread_mm = max(float(np.sqrt(left / max(len(mm) - ridge.counts_as, 1.0))), _LEAST_MM)
            ridge.even_mm = float(np.clip(np.sqrt(ridge.power), *_EVEN_MM[1:]))
    # In a single slice some terms are nothing anywhere.
    return found - columns[:, 3:] @ both[3:] / np.where(sizes > 0, sizes, 1)


@dataclass(frozen=True)
class Link:
    """How a group of volumes should move to lie on the b=0 volumes."""

    volumes: Ints
    vector: Float
    """(6,) mm, in the image's axes."""
    spread_mm: Float
    """(6,) standard deviations."""


def motion(found: Float, design: Design, along: Float, breaks: Ints, links: Sequence[Link] = ()) -> Float:
    """Motion (n, 6), mm, of volumes in the order of time, without what is even in direction.

    Changes from one volume to the next are compared with changes of the functions of direction; jumps count
    little (Cauchy weights). The shift along phase encoding holds the constant of the eddy current too, which
    stays in it.

    Args:
        found: (n, 6) vectors as of `Pose.vectors`, in the image's axes.
        design: of all volumes.
        along: (n, 3) phase encoding, in the same.
        breaks: (.,) volumes that begin a series: what changed before them is not known.
        links: what is known of the offset between groups and b=0.
    """
    columns = np.hstack([design.odd, design.even])
    turns, changes = np.diff(columns, axis=0), np.diff(found, axis=0)
    follows = np.ones(len(changes), bool)
    follows[breaks[breaks > 0] - 1] = False
    turns, changes = turns[follows], changes[follows]
    is_along = np.abs(along).max(0)
    ties = [np.r_[np.zeros(3), design.even[link.volumes].mean(0)] for link in links]
    rows, wanted = np.vstack([turns, *ties]), np.vstack([changes, *(-link.vector for link in links)])
    firm = np.array([1 / link.spread_mm**2 for link in links]).reshape(-1, 6)
    # Only a shift along phase encoding can be an eddy current.
    odd = [1e-6, 1e-6, 1e-6, *(max(_ODD_MM * part, 1e-6) for part in is_along)]
    ridges = [_Ridge(design.even.shape[1], odd_mm=mm) for mm in odd]
    weights, both = np.ones(len(changes)), np.zeros((columns.shape[1], 6))
    for _ in range(_ROUNDS if len(changes) else 0):
        for k, ridge in enumerate(ridges):
            both[:, k] = ridge.solve(rows, wanted[:, k], np.r_[weights, firm[:, k] * ridge.spread_mm**2])
        left = changes - turns @ both
        for k, ridge in enumerate(ridges):
            free = max(len(changes) - ridge.counts_as, 1.0) / len(changes)
            ridge.spread_mm = max(1.4826 * float(np.median(np.abs(left[:, k]))) / np.sqrt(free), _LEAST_MM)
        spread = np.array([ridge.spread_mm for ridge in ridges])
        weights = 1 / (1 + ((left / spread) ** 2).mean(1) / 2)
    return found - design.even @ both[3:]
