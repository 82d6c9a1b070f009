"""Studies of known truth: does the interval hold it, does the test reject where there is nothing?

A trial is one simulated study; `TRIALS` holds one per quantity. Shared with benchmarks/bench_coverage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, mannwhitneyu, norm

from somite.analysis import correlations, delong, firth, location, reliability

SIZES = ((31, 69), (11, 21))
"""The groups of the two studies that the project comes from."""
D, R, ICC = 0.8, -0.5, 0.7
NULL_D, NULL_R, NULL_ICC = 0.0, 0.0, 0.0
ALPHA = 0.05


@dataclass(frozen=True)
class Held:
    """Which of several intervals held the truth, and which tests rejected; by name."""

    covered: Mapping[str, bool]
    rejected: Mapping[str, bool]


Trial = Callable[[np.random.Generator, tuple[int, int], bool], Held]


def two_groups(
    random: np.random.Generator, sizes: tuple[int, int], d: float
) -> tuple[np.ndarray, np.ndarray]:
    """Normal values of standard deviation 1, the first group d higher."""
    return random.normal(d, 1, sizes[0]), random.normal(0, 1, sizes[1])


def difference(random: np.random.Generator, sizes: tuple[int, int], null: bool) -> Held:
    d = NULL_D if null else D
    found = location.t_test(*two_groups(random, sizes, d), ALPHA, equal_variances=False)
    return Held(
        {
            "mean difference, Welch": found["ci_low"] <= d <= found["ci_high"],
            "Hedges g": found["effect_ci_low"] <= d <= found["effect_ci_high"],
        },
        {"Welch t test": found["p"] < ALPHA},
    )


def correlation(random: np.random.Generator, sizes: tuple[int, int], null: bool) -> Held:
    r, n = NULL_R if null else R, sum(sizes)
    x = random.normal(size=n)
    y = r * x + np.sqrt(1 - r**2) * random.normal(size=n)
    found = correlations.pearson(x, y, np.empty((n, 0)), ALPHA)
    return Held({"Pearson r, Fisher": found.low <= r <= found.high}, {"test of r": found.p < ALPHA})


def area_at(auc: float) -> Trial:
    """A trial at a true area."""

    def area(random: np.random.Generator, sizes: tuple[int, int], null: bool) -> Held:
        truth = 0.5 if null else auc
        up, down = two_groups(random, sizes, np.sqrt(2) * norm.ppf(truth))
        placed = delong.placements(np.concatenate([up, down]), np.arange(sum(sizes)) < sizes[0])
        ends = {
            "AUC, logit DeLong": delong.interval(placed.auc, placed.variance, ALPHA),
            "AUC, plain DeLong": delong.interval(placed.auc, placed.variance, ALPHA, "plain"),
            "AUC, Newcombe": delong.newcombe(placed.auc, *sizes, ALPHA),
        }
        if np.isnan(ends["AUC, logit DeLong"][0]):  # as the rows of `roc` give it
            ends["AUC, logit DeLong"] = ends["AUC, Newcombe"]
            ends["AUC, plain DeLong"] = (placed.auc, placed.auc)
        held = {name: low <= truth <= high for name, (low, high) in ends.items()}
        return Held(held, {"Mann-Whitney test": float(mannwhitneyu(up, down).pvalue) < ALPHA})

    return area


def odds_ratio(random: np.random.Generator, sizes: tuple[int, int], null: bool) -> Held:
    slope = NULL_D if null else D  # of normal groups of variance 1 the log odds ratio is d
    design = np.column_stack([np.ones(sum(sizes)), np.concatenate(two_groups(random, sizes, slope))])
    found = firth.profile(design, np.arange(sum(sizes)) < sizes[0], 1, alpha=ALPHA)
    return Held(
        {"odds ratio, Firth": found.low <= slope <= found.high}, {"likelihood ratio, Firth": found.p < ALPHA}
    )


def agreement(random: np.random.Generator, sizes: tuple[int, int], null: bool) -> Held:
    truth, n = NULL_ICC if null else ICC, sum(sizes)
    people = np.sqrt(truth) * random.normal(size=(n, 1))
    values = people + np.sqrt(1 - truth) * random.normal(size=(n, 2))
    found = {icc.form: icc for icc in reliability.iccs(values, ALPHA)}
    forms = ("ICC(1,1)", "ICC(2,1)", "ICC(3,1)")
    return Held(
        {form: found[form].low <= truth <= found[form].high for form in forms},
        {f"F test of {form}": found[form].p < ALPHA for form in ("ICC(1,1)", "ICC(3,1)")},
    )


TRIALS: Mapping[str, Trial] = {
    "difference": difference,
    "correlation": correlation,
    "area": area_at(float(norm.cdf(D / np.sqrt(2)))),
    "odds ratio": odds_ratio,
    "agreement": agreement,
}


@dataclass(frozen=True)
class Rates:
    """Share of the repetitions whose interval held the truth, and of null studies that were rejected."""

    coverage: Mapping[str, float]
    rejections: Mapping[str, float]


def rates(trial: Trial, sizes: tuple[int, int], repetitions: int, seed: int = 1) -> Rates:
    """Repeat a trial, and the same without an effect."""
    random, nothing = (np.random.default_rng([seed, *sizes, null]) for null in (0, 1))
    held = [trial(random, sizes, False).covered for _ in range(repetitions)]
    struck = [trial(nothing, sizes, True).rejected for _ in range(repetitions)]
    return Rates(_mean(held), _mean(struck))


def _mean(flags: list[Mapping[str, bool]]) -> dict[str, float]:
    return {name: sum(one[name] for one in flags) / len(flags) for name in flags[0]}


def band(share: float, repetitions: int, level: float = 0.999) -> tuple[float, float]:
    """Where a share counted over repetitions lies with a probability of `level`."""
    low, high = binom.interval(level, repetitions, share)
    return float(low) / repetitions, float(high) / repetitions
