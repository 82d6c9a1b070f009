"""ROC curve, cut-off and what a cut-off does: sensitivity, specificity and predictive values.

The positive outcomes are taken to have the higher scores, and a score above the cut-off is a positive test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """The empirical curve; from the lowest cut-off to the highest."""

    cutoffs: Floats
    """(k,) -inf, the midpoints between neighbouring scores, inf."""
    sensitivity: Floats
    """(k,)"""
    specificity: Floats
    """(k,)"""


@dataclass(frozen=True)
class Youden:
    """The cut-off with the largest sensitivity + specificity - 1."""

    cutoff: float
    index: float


@dataclass(frozen=True)
class Rate:
    """A proportion: events over people, with its Wilson interval; NaN where nobody counts."""

    events: int
    people: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The proportion."""
        return self.events / self.people if self.people else float("nan")


def curve(score: Floats, positive: Bools) -> Curve:
    """The curve of scores (n,) and outcomes (n,), at least one of each."""
    values, place = np.unique(score, return_inverse=True)
    up, down = (np.bincount(place[side], minlength=len(values)) for side in (positive, ~positive))
    below_up, below_down = (np.concatenate([[0], np.cumsum(counts)]) for counts in (up, down))
    between = np.concatenate([[-np.inf], (values[:-1] + values[1:]) / 2, [np.inf]])
    return Curve(between, 1 - below_up / below_up[-1], below_down / below_down[-1])


def youden(score: Floats, positive: Bools) -> Youden:
    """Youden's cut-off; of several equally good ones the lowest, which is the most sensitive."""
    along = curve(score, positive)
    index = along.sensitivity + along.specificity - 1
    best = int(np.argmax(np.round(index, 12)))
    return Youden(float(along.cutoffs[best]), float(index[best]))


def rate(events: int, people: int, alpha: float = 0.05) -> Rate:
    """Proportion with the interval of Wilson (1927)."""
    if not people:
        return Rate(0, 0, float("nan"), float("nan"))
    from statsmodels.stats.proportion import proportion_confint  # a second that planning does not need

    low, high = proportion_confint(events, people, alpha, method="wilson")
    return Rate(events, people, float(low), float(high))


def table(score: Floats, positive: Bools, cut: float, alpha: float = 0.05) -> dict[str, Rate]:
    """Sensitivity, specificity and the predictive values of a cut-off, with Wilson's intervals.

    The predictive values are those at the share of positives in the sample.
    """
    test = score > cut
    hits, rejections = int((test & positive).sum()), int((~test & ~positive).sum())
    return {
        "sensitivity": rate(hits, int(positive.sum()), alpha),
        "specificity": rate(rejections, int((~positive).sum()), alpha),
        "PPV": rate(hits, int(test.sum()), alpha),
        "NPV": rate(rejections, int((~test).sum()), alpha),
    }


@dataclass(frozen=True)
class Predictive:
    """A predictive value at a given prevalence, with its interval."""

    value: float
    low: float
    high: float


def predictive(
    sensitivity: Rate, specificity: Rate, prevalence: float, alpha: float = 0.05
) -> dict[str, Predictive]:
    """PPV and NPV at a prevalence that is not that of the sample, by Bayes' rule.

    Intervals on the logit scale (Mercaldo et al. 2007, doi:10.1002/sim.2677); where sensitivity or
    specificity is 0 or 1, with z^2/2 events and non-events added to both, as they advise.
    """
    z = float(norm.ppf(1 - alpha / 2))
    extra = z**2 / 2 if {sensitivity.value, specificity.value} & {0.0, 1.0} else 0.0
    sizes = sensitivity.people + 2 * extra, specificity.people + 2 * extra
    se, sp = (sensitivity.events + extra) / sizes[0], (specificity.events + extra) / sizes[1]
    odds = float(logit(prevalence))
    found = {}
    for name, centre, spread, exact in (
        (
            "PPV",
            np.log(se / (1 - sp)) + odds,
            (1 - se) / se / sizes[0] + sp / (1 - sp) / sizes[1],
            (sensitivity.value * prevalence, (1 - specificity.value) * (1 - prevalence)),
        ),
        (
            "NPV",
            np.log(sp / (1 - se)) - odds,
            se / (1 - se) / sizes[0] + (1 - sp) / sp / sizes[1],
            (specificity.value * (1 - prevalence), (1 - sensitivity.value) * prevalence),
        ),
    ):
        half = z * np.sqrt(spread)
        right, wrong = exact
        value = right / (right + wrong) if right + wrong > 0 else float("nan")
        found[name] = Predictive(value, float(expit(centre - half)), float(expit(centre + half)))
    return found
