"""Standardised effects with exact intervals: Hedges' g, and the share of variance that groups explain.

Intervals invert the noncentral t and F distributions (Cumming and Finch 2001, Educ Psychol Meas 61:532;
Steiger 2004, Psychol Methods 9:164): the ends are the effects under which the statistic that was seen would
be at a quantile of its distribution. They are exact for normal values with equal variances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """An effect size and its interval, without unit."""

    name: str
    value: float
    low: float
    high: float

    @property
    def fields(self) -> dict[str, Any]:
        """As the fields of a `Result`."""
        return {
            "effect_name": self.name,
            "effect": self.value,
            "effect_ci_low": self.low,
            "effect_ci_high": self.high,
        }


def small_sample_factor(df: float) -> float:
    """Hedges' exact correction J(df), by which d times J is unbiased (Hedges 1981, eq. 6e)."""
    if df <= 1:
        return math.nan
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


@cache
def _grid() -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre on -1..1."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return nodes, weights


@cache
def _spread(df: float) -> tuple[Array, Array]:
    """Values of an SD that is estimated with `df`, its truth being 1, and their probabilities."""
    nodes, weights = _grid()
    low, high = np.sqrt(stats.chi2.ppf(1e-17, df) / df), np.sqrt(stats.chi2.isf(1e-17, df) / df)
    s = low + (high - low) * (nodes + 1) / 2
    return s, weights * stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df) * (high - low) / 2


def noncentral_t(t: float, df: float, noncentrality: float) -> float:
    """P(T <= t), by integrating over the estimated SD, or over the mean where t is large against its spread.

    Boost's, which scipy has, is NaN at some places in the middle of its range.
    """
    if t < 0:
        return 1 - noncentral_t(-t, df, -noncentrality)
    if t < math.sqrt(2 * df):
        s, probability = _spread(df)
        return float(probability @ special.ndtr(t * s - noncentrality))
    nodes, weights = _grid()
    above = np.maximum(9 * nodes + noncentrality, 0) / t
    inner = stats.norm.pdf(9 * nodes) * special.gammaincc(df / 2, df / 2 * above**2)
    return float(9 * weights @ inner)


def noncentrality_of_t(t: float, df: float, alpha: float) -> tuple[float, float]:
    """The interval's ends: the noncentralities under which `t` is the 1 - alpha/2 and alpha/2 quantile."""
    width = float(stats.norm.isf(alpha / 2) + 3) * math.sqrt(1 + t * t / df) * (1 + 4 / df)

    def end(quantile: float) -> float:
        def excess(noncentrality: float) -> float:
            return noncentral_t(t, df, noncentrality) - quantile

        low, high = t - width, t + width
        while excess(low) < 0:
            low -= width
        while excess(high) > 0:
            high += width
        return float(optimize.brentq(excess, low, high, xtol=1e-10 * (1 + abs(t))))

    return end(1 - alpha / 2), end(alpha / 2)


def noncentrality_of_f(f: float, df1: float, df2: float, alpha: float) -> tuple[float, float]:
    """As `noncentrality_of_t` for F; an end is 0 where even the central distribution puts F too low."""

    def end(quantile: float) -> float:
        def excess(noncentrality: float) -> float:
            return float(special.ncfdtr(df1, df2, noncentrality, f)) - quantile

        if excess(0.0) <= 0:
            return 0.0
        high = 2 * df1 * f + 10
        while excess(high) > 0:
            high *= 2
        return float(optimize.brentq(excess, 0.0, high, xtol=1e-10))

    return end(1 - alpha / 2), end(alpha / 2)


def g_from_t(name: str, t: float, df: float, scale: float, alpha: float) -> Effect:
    """Hedges' g from a t statistic: d = t * scale, where scale is the standard error of d over its unit.

    Args:
        name: what is standardised by what.
        t: difference over its standard error.
        df: degrees of freedom of the standard deviation that standardises.
        scale: standard error of the difference over that standard deviation: sqrt(1/n1 + 1/n2) for two
            groups, sqrt(1/n) for pairs.
        alpha: 1 - alpha is the level of the interval.
    """
    factor = small_sample_factor(df) * scale
    low, high = noncentrality_of_t(t, df, alpha)
    return Effect(name, t * factor, low * factor, high * factor)


def hedges_g(first: Array, second: Array, alpha: float) -> Effect:
    """Hedges' g of two groups: difference of the means over the pooled SD, corrected for small samples."""
    n1, n2 = len(first), len(second)
    df = n1 + n2 - 2
    pooled = math.sqrt(((n1 - 1) * first.var(ddof=1) + (n2 - 1) * second.var(ddof=1)) / df)
    scale = math.sqrt(1 / n1 + 1 / n2)
    t = float(first.mean() - second.mean()) / (pooled * scale)
    return g_from_t("Hedges g", t, df, scale, alpha)


def hedges_g_paired(differences: Array, alpha: float) -> Effect:
    """Mean of the differences over their own SD (g_z), corrected for small samples; its interval is exact."""
    n = len(differences)
    scale = 1 / math.sqrt(n)
    t = float(differences.mean()) / (float(differences.std(ddof=1)) * scale)
    return g_from_t("Hedges g (SD of the differences)", t, n - 1, scale, alpha)


def omega_squared(f: float, df1: float, df2: float, alpha: float) -> Effect:
    """Share of the variance that groups explain, nearly unbiased (Hays), with Steiger's interval.

    The population's share is L / (L + N), L the noncentrality of F and N = df1 + df2 + 1; the estimate takes
    L = (F - 1) df1, not below 0.
    """
    n = df1 + df2 + 1
    low, high = noncentrality_of_f(f, df1, df2, alpha)
    middle = max(0.0, (f - 1) * df1)
    return Effect("omega squared", middle / (middle + n), low / (low + n), high / (high + n))


def probability_of_superiority(first: Array, second: Array, alpha: float) -> Effect:
    """P(first > second) + P(equal)/2 with the logit interval of the placements' variance (DeLong).

    At 0 or 1 there is no such variance; the interval is then that of Hanley and Lippman-Hand: all of the
    smaller group on one side (the rule of three).
    """
    n1, n2 = len(first), len(second)
    both = stats.rankdata(np.concatenate([first, second]))
    above = (both[:n1] - stats.rankdata(first)) / n2
    below = 1 - (both[n1:] - stats.rankdata(second)) / n1
    p = float(above.mean())
    name = "probability of superiority"
    if p in (0.0, 1.0):
        edge = (alpha / 2) ** (1 / min(n1, n2))
        return Effect(name, p, 0.0, 1 - edge) if p == 0 else Effect(name, p, edge, 1.0)
    se = math.sqrt(above.var(ddof=1) / n1 + below.var(ddof=1) / n2)
    half = stats.norm.ppf(1 - alpha / 2) * se / (p * (1 - p))
    low, high = (float(special.expit(special.logit(p) + sign * half)) for sign in (-1, 1))
    return Effect(name, p, low, high)


def rank_biserial(differences: Array, alpha: float) -> Effect:
    """Rank sum of the positive minus that of the negative differences over all (Kerby 2014); 0 left out.

    The interval is the logit interval of P(d_i + d_j > 0), whose U-statistic it is but for terms of 1/n, with
    the variance of its projections; at -1 and 1 the rule of three, as `probability_of_superiority`.
    """
    moved = np.sort(differences[differences != 0])
    n = len(moved)
    ranks = stats.rankdata(np.abs(moved))
    value = float((ranks * np.sign(moved)).sum() / ranks.sum())
    name = "matched-pairs rank-biserial correlation"
    if abs(value) == 1:
        edge = 2 * (alpha / 2) ** (1 / n) - 1
        return Effect(name, value, *((edge, 1.0) if value > 0 else (-1.0, -edge)))
    above = n - (np.searchsorted(moved, -moved, "left") + np.searchsorted(moved, -moved, "right")) / 2
    placements = (above - (moved > 0)) / (n - 1)
    p = (1 + value) / 2
    half = stats.norm.ppf(1 - alpha / 2) * 2 * placements.std(ddof=1) / math.sqrt(n) / (p * (1 - p))
    low, high = (2 * float(special.expit(special.logit(p) + sign * half)) - 1 for sign in (-1, 1))
    return Effect(name, value, low, high)


def epsilon_squared(h: float, n: int) -> Effect:
    """Share of the ranks' variance between groups (Kruskal-Wallis): H / (n - 1); no interval."""
    return Effect("epsilon squared of the ranks", h / (n - 1), math.nan, math.nan)
