"""Agreement of repeated measurements: intraclass correlations, errors of measurement, limits of agreement.

Values are matrices (n people, k repeats) without gaps. Mean squares are those of Shrout and Fleiss (1979,
Psychol Bull 86:420); intervals of the correlations are theirs and McGraw and Wong's (1996, Psychol Methods
1:30).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Squares:
    """Mean squares of n people and k repeats."""

    n: int
    k: int
    people: float
    repeats: float
    within: float
    """Of the repeats within people, systematic differences of the repeats included."""
    error: float
    """Of what is left when people and repeats are taken out."""


@dataclass(frozen=True)
class Icc:
    """An intraclass correlation with its interval and the F test that it is 0."""

    form: str
    """As Shrout and Fleiss name it: `ICC(2,1)`."""
    meaning: str
    value: float
    low: float
    high: float
    f: float
    df1: float
    df2: float
    p: float


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float
    df: float = math.nan


def squares(values: Array) -> Squares:
    """Mean squares of the two-way layout (n, k), n and k at least 2."""
    n, k = values.shape
    grand = values.mean()
    people = k * ((values.mean(axis=1) - grand) ** 2).sum()
    repeats = n * ((values.mean(axis=0) - grand) ** 2).sum()
    residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + grand
    error = (residual**2).sum()
    return Squares(
        n,
        k,
        float(people / (n - 1)),
        float(repeats / (k - 1)),
        float((repeats + error) / (n * (k - 1))),
        float(error / ((n - 1) * (k - 1))),
    )


def iccs(values: Array, alpha: float) -> tuple[Icc, ...]:
    """The six forms. ICC(1,.): each person has repeats of their own. (2,.): the repeats are a sample of all,
    and agree absolutely. (3,.): the repeats are all there are, and are consistent but for an offset. (.,1):
    of one measurement, (.,k): of the mean of k.

    An interval of the mean of k is that of one, stepped up by Spearman and Brown.
    """
    s = squares(values)
    one, two, three = _oneway(s, alpha), _agreement(s, alpha), _consistency(s, alpha)
    return (one, two, three, *(_of_mean(single, s) for single in (one, two, three)))


def _f(quantile: float, df1: float, df2: float) -> float:
    return float(special.fdtri(df1, df2, quantile))


def _from_f(form: str, meaning: str, f: float, df: tuple[float, float], k: int, alpha: float) -> Icc:
    """The forms whose interval follows from F: (F - 1) / (F + k - 1)."""
    low = f / _f(1 - alpha / 2, *df)
    high = f * _f(1 - alpha / 2, df[1], df[0])
    value, low, high = ((x - 1) / (x + k - 1) for x in (f, low, high))
    return Icc(form, meaning, value, low, high, f, *df, float(special.fdtrc(*df, f)))


def _oneway(s: Squares, alpha: float) -> Icc:
    df = (s.n - 1, s.n * (s.k - 1))
    meaning = "one measurement, repeats of their own, absolute agreement"
    return _from_f("ICC(1,1)", meaning, s.people / s.within, df, s.k, alpha)


def _consistency(s: Squares, alpha: float) -> Icc:
    df = (s.n - 1, (s.n - 1) * (s.k - 1))
    return _from_f(
        "ICC(3,1)", "one measurement, fixed repeats, consistency", s.people / s.error, df, s.k, alpha
    )


def _agreement(s: Squares, alpha: float) -> Icc:
    n, k = s.n, s.k
    value = (s.people - s.error) / (s.people + (k - 1) * s.error + k * (s.repeats - s.error) / n)
    ratio = s.repeats / s.error  # Satterthwaite's degrees of freedom, Shrout and Fleiss, p. 424
    a, b = k * value * ratio, n * (1 + (k - 1) * value) - k * value
    df = (n - 1) * (k - 1) * (a + b) ** 2 / ((n - 1) * a**2 + b**2)
    f_low, f_high = _f(1 - alpha / 2, n - 1, df), _f(1 - alpha / 2, df, n - 1)
    offset = k * s.repeats + (k * n - k - n) * s.error
    low = n * (s.people - f_low * s.error) / (f_low * offset + n * s.people)
    high = n * (f_high * s.people - s.error) / (offset + n * f_high * s.people)
    f, df1, df2 = s.people / s.error, n - 1, (n - 1) * (k - 1)
    p = float(special.fdtrc(df1, df2, f))
    meaning = "one measurement, random repeats, absolute agreement"
    return Icc("ICC(2,1)", meaning, value, low, high, f, df1, df2, p)


def _of_mean(single: Icc, s: Squares) -> Icc:
    def step_up(r: float) -> float:
        """Spearman and Brown; minus infinity where one measurement is as low as it can be."""
        below = 1 + (s.k - 1) * r
        return s.k * r / below if below > 0 else -math.inf

    value, low, high = (step_up(r) for r in (single.value, single.low, single.high))
    form = single.form.replace("1)", "k)")
    meaning = single.meaning.replace("one measurement", "mean of k")
    return Icc(form, meaning, value, low, high, single.f, single.df1, single.df2, single.p)


def _chi_square(value: float, df: float, alpha: float) -> Estimate:
    """A standard deviation with its interval from chi-square."""
    low, high = (value * math.sqrt(df / float(stats.chi2.ppf(q, df))) for q in (1 - alpha / 2, alpha / 2))
    return Estimate(value, low, high, df)


def standard_error_of_measurement(values: Array, alpha: float) -> Estimate:
    """Standard deviation of the repeats within people, in the unit of the values (Bland and Altman 1996,
    BMJ 313:744): systematic differences of the repeats are error too."""
    s = squares(values)
    return _chi_square(math.sqrt(s.within), s.n * (s.k - 1), alpha)


def minimal_detectable_difference(values: Array, alpha: float) -> Estimate:
    """The difference of two measurements that chance exceeds in alpha of people: z sqrt(2) SEM."""
    sem = standard_error_of_measurement(values, alpha)
    factor = float(stats.norm.ppf(1 - alpha / 2)) * math.sqrt(2)
    return Estimate(sem.value * factor, sem.low * factor, sem.high * factor, sem.df)


def within_subject_cv(values: Array, alpha: float) -> Estimate:
    """Root mean square over people of SD / mean (Raunig et al. 2015, Stat Methods Med Res 24:27), as a share.

    Values must be positive. The interval is that of a standard deviation of the same degrees of freedom.
    """
    n, k = values.shape
    share = values.var(axis=1, ddof=1) / values.mean(axis=1) ** 2
    return _chi_square(math.sqrt(float(share.mean())), n * (k - 1), alpha)


@dataclass(frozen=True)
class Limits:
    """Bland and Altman's bias and limits of agreement, each with its interval."""

    bias: Estimate
    lower: Estimate
    upper: Estimate
    sd: float
    trend_r: float
    """Correlation of the differences with the means: whether the difference grows with the value."""
    trend_p: float


def bland_altman(first: Array, second: Array, alpha: float, width: float, exact: bool) -> Limits:
    """Bias first - second and the limits bias -+ width * SD.

    Args:
        first, second: (n,) n >= 3, the differences not constant.
        alpha: 1 - alpha is the level of the intervals.
        width: 1.96 for 95 % of the differences; Bland and Altman (1986, Lancet 1:307) took 2.
        exact: intervals of the limits as of quantiles, from noncentral t (Carkeet 2015, Optom Vis Sci
            92:e71); otherwise those of 1986: standard error sqrt(3 / n) SD, Student's t.
    """
    differences = first - second
    n, bias, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    t = float(stats.t.ppf(1 - alpha / 2, n - 1))
    half = t * sd / math.sqrt(n)
    if exact:
        inner, outer = (
            float(stats.nct.ppf(q, n - 1, width * math.sqrt(n))) / math.sqrt(n) * sd
            for q in (alpha / 2, 1 - alpha / 2)
        )
    else:
        inner, outer = (width * sd + sign * t * sd * math.sqrt(3 / n) for sign in (-1, 1))
    means = (first + second) / 2
    trend = (math.nan, math.nan)
    if np.ptp(means) > 1e-12 * np.abs(means).max():
        found = stats.pearsonr(differences, means)
        trend = float(found.statistic), float(found.pvalue)
    return Limits(
        Estimate(bias, bias - half, bias + half, n - 1),
        Estimate(bias - width * sd, bias - outer, bias - inner, n - 1),
        Estimate(bias + width * sd, bias + inner, bias + outer, n - 1),
        sd,
        *trend,
    )
