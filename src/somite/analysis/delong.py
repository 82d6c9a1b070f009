"""Area under the ROC curve: its variance, intervals and comparisons after DeLong et al. (1988).

The positive outcomes are taken to have the higher scores; turn the sign of a marker for which they have the
lower ones. A tie between a positive and a negative counts one half. The placements are computed from ranks
(Sun and Xu 2014, doi:10.1109/LSP.2014.2337313). scipy, statsmodels and scikit-learn have none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from scipy.stats import t as student

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Placements:
    """What each outcome adds to the area: its mean is the area, its scatter the variance."""

    positive: Floats
    """(m,) For each positive the fraction of negatives that it lies above."""
    negative: Floats
    """(n,) For each negative the fraction of positives that it lies below."""

    @property
    def auc(self) -> float:
        """Area under the curve: the probability that a positive lies above a negative."""
        return float(self.positive.mean())

    @property
    def variance(self) -> float:
        """DeLong's variance of the area; NaN with fewer than two positives or negatives."""
        return float(covariance([self])[0, 0])


def placements(score: Floats, positive: Bools) -> Placements:
    """Placements of scores (n,), none NaN; `positive` (n,) tells the outcomes, at least one of each."""
    m, n = int(positive.sum()), int((~positive).sum())
    among_all = rankdata(score)
    above = (among_all[positive] - rankdata(score[positive])) / n
    below = 1 - (among_all[~positive] - rankdata(score[~positive])) / m
    return Placements(above, below)


def covariance(markers: Sequence[Placements]) -> Floats:
    """Covariance (k, k) of the areas of k markers of the same people, in the same order; eq. 8 of DeLong."""
    total = np.zeros((len(markers), len(markers)))
    for sides in ([m.positive for m in markers], [m.negative for m in markers]):
        size = len(sides[0])
        total += np.cov(np.stack(sides), ddof=1) / size if size > 1 else np.nan
    return total


def interval(
    auc: float,
    variance: float,
    alpha: float = 0.05,
    scale: Literal["logit", "plain"] = "logit",
    df: float = np.inf,
) -> tuple[float, float]:
    """Interval of level 1 - `alpha` of an area.

    logit: symmetric on the scale of the logit (Pepe 2003, p. 107; Qin and Hotilovac 2008): it stays between
    0 and 1 and keeps its coverage at large areas. plain: symmetric, cut at 0 and 1, as pROC gives it.
    NaN where the area is 0 or 1: its estimated variance is then 0, and neither says anything. `df`: degrees
    of freedom of the variance, for one that is bootstrapped from few clusters.
    """
    if not 0 < auc < 1 or not variance > 0:
        return float("nan"), float("nan")
    half = float(student.ppf(1 - alpha / 2, df)) * np.sqrt(variance)
    if scale == "plain":
        return max(0.0, float(auc - half)), min(1.0, float(auc + half))
    half /= auc * (1 - auc)
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))


def newcombe(auc: float, positives: int, negatives: int, alpha: float = 0.05) -> tuple[float, float]:
    """Interval of level 1 - `alpha` that exists at an area of 1 too: method 5 of Newcombe (2006).

    The areas that differ from the one found by less than z standard errors, the variance being that of
    Hanley and McNeil for exponential scores at the area tried, with the mean of the two sizes
    (doi:10.1002/sim.2324).
    """
    z = float(norm.ppf(1 - alpha / 2))
    half = (positives + negatives) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + half * (1 - area) / (2 - area) + half * area / (1 + area)
        return float((area - auc) ** 2 - z**2 * area * (1 - area) * spread / (positives * negatives))

    tiny = 1e-12  # at 0 and 1 the excess is 0, which is not the end that is looked for
    low = 0.0 if auc <= 0 else float(brentq(excess, 0.0, min(auc, 1 - tiny)))
    high = 1.0 if auc >= 1 else float(brentq(excess, max(auc, tiny), 1.0))
    return low, high


@dataclass(frozen=True)
class Comparison:
    """Difference of two areas, with its interval and test."""

    difference: float
    se: float
    low: float
    high: float
    statistic: float
    df: float
    """Of Student's t; infinite for a normal deviate."""
    p: float


def paired(first: Placements, second: Placements, alpha: float = 0.05) -> Comparison:
    """DeLong's test of two markers of the same people, in the same order: first minus second.

    Markers that order the people alike have no difference and no variance: statistic 0, p 1.
    """
    spread = covariance([first, second])
    variance = float(spread[0, 0] + spread[1, 1] - 2 * spread[0, 1])
    return _comparison(first.auc - second.auc, max(variance, 0.0), np.inf, alpha)


def unpaired(first: Placements, second: Placements, alpha: float = 0.05) -> Comparison:
    """Test of the areas of different people: first minus second.

    Student's t with the degrees of freedom of Welch and Satterthwaite over all people of each, as in pROC.
    """
    one, two = first.variance, second.variance
    n_one, n_two = (len(p.positive) + len(p.negative) for p in (first, second))
    weight = one**2 / (n_one - 1) + two**2 / (n_two - 1)
    df = (one + two) ** 2 / weight if weight > 0 else np.inf
    return _comparison(first.auc - second.auc, one + two, df, alpha)


def _comparison(difference: float, variance: float, df: float, alpha: float) -> Comparison:
    law = norm if np.isinf(df) else student(df)
    se = float(np.sqrt(variance))
    if se < 1e-12:
        same = abs(difference) < 1e-12
        nan = float("nan")
        return Comparison(difference, se, nan, nan, 0.0 if same else nan, df, 1.0 if same else nan)
    half = float(law.ppf(1 - alpha / 2)) * se
    z = difference / se
    return Comparison(difference, se, difference - half, difference + half, z, df, 2 * float(law.sf(abs(z))))
