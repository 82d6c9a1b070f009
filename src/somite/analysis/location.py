"""Tests of two or more groups and of pairs, each with its estimate, interval and effect size.

scipy has the tests; here they are joined with the intervals and effects that belong to them. Every function
takes one array of values for each group, without missing values and not constant, and returns the fields of
a `Result`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from somite.analysis import effects
from somite.analysis.results import df_text

if TYPE_CHECKING:
    from somite.analysis.shifts import Shift

Array = NDArray[np.float64]
Numbers = dict[str, Any]
"""Fields of a `Result`."""


def level_text(alpha: float) -> str:
    """`95 %`."""
    return f"{100 * (1 - alpha):g} %"


def is_constant(values: Array) -> bool:
    """Whether values differ by no more than rounding."""
    return not len(values) or bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def t_test(first: Array, second: Array, alpha: float, *, equal_variances: bool) -> Numbers:
    """Student's or Welch's t test of two groups; difference first - second; Hedges' g."""
    name = "Student" if equal_variances else "Welch"
    found: Any = stats.ttest_ind(first, second, equal_var=equal_variances)
    interval = found.confidence_interval(1 - alpha)
    return {
        **_difference(float(first.mean() - second.mean()), interval, f"{name} t, {level_text(alpha)}"),
        "se": _standard_error(first, second, equal_variances),
        **effects.hedges_g(first, second, alpha).fields,
        "test": f"{name} t test",
        "statistic_name": "t",
        "statistic_value": float(found.statistic),
        "df": df_text(found.df),
        "p": float(found.pvalue),
    }


def _difference(estimate: float, interval: Any, method: str) -> Numbers:
    return {
        "estimate_name": "mean difference",
        "estimate": estimate,
        "ci_low": float(interval.low),
        "ci_high": float(interval.high),
        "ci_method": method,
    }


def _standard_error(first: Array, second: Array, equal_variances: bool) -> float:
    n1, n2 = len(first), len(second)
    v1, v2 = float(first.var(ddof=1)), float(second.var(ddof=1))
    if equal_variances:
        v1 = v2 = ((n1 - 1) * v1 + (n2 - 1) * v2) / (n1 + n2 - 2)
    return math.sqrt(v1 / n1 + v2 / n2)


def mann_whitney(first: Array, second: Array, alpha: float) -> Numbers:
    """Mann-Whitney's U test (scipy: exact for small groups without ties); Hodges-Lehmann shift."""
    from somite.analysis import shifts  # numba, which planning does not need

    found: Any = stats.mannwhitneyu(first, second)
    shift = shifts.two_samples(first, second, alpha)
    return {
        **_shift(shift, "Hodges-Lehmann shift", alpha),
        **effects.probability_of_superiority(first, second, alpha).fields,
        "test": "Mann-Whitney U test",
        "statistic_name": "U",
        "statistic_value": float(found.statistic),
        "p": float(found.pvalue),
    }


def _shift(shift: Shift, name: str, alpha: float) -> Numbers:
    return {
        "estimate_name": name,
        "estimate": shift.value,
        "ci_low": shift.low,
        "ci_high": shift.high,
        "ci_method": f"{shift.method}, {level_text(alpha)}",
    }


def paired_t(first: Array, second: Array, alpha: float) -> Numbers:
    """Paired t test; mean of the differences first - second; Hedges' g by the SD of the differences."""
    found: Any = stats.ttest_rel(first, second)
    differences = first - second
    interval = found.confidence_interval(1 - alpha)
    return {
        **_difference(float(differences.mean()), interval, f"paired t, {level_text(alpha)}"),
        "se": float(differences.std(ddof=1)) / math.sqrt(len(differences)),
        **effects.hedges_g_paired(differences, alpha).fields,
        "test": "paired t test",
        "statistic_name": "t",
        "statistic_value": float(found.statistic),
        "df": df_text(found.df),
        "p": float(found.pvalue),
    }


def wilcoxon(first: Array, second: Array, alpha: float) -> Numbers:
    """Wilcoxon's signed-rank test of first - second, differences of 0 left out; their pseudomedian."""
    from somite.analysis import shifts

    differences = first - second
    found: Any = stats.wilcoxon(first, second)
    return {
        **_shift(shifts.one_sample(differences, alpha), "Hodges-Lehmann pseudomedian", alpha),
        **effects.rank_biserial(differences, alpha).fields,
        "test": "Wilcoxon signed-rank test",
        "statistic_name": "W",
        "statistic_value": float(found.statistic),
        "p": float(found.pvalue),
    }


def several(groups: Sequence[Array], alpha: float, *, equal_variances: bool) -> Numbers:
    """Analysis of variance of two or more groups, classical or Welch's; omega squared."""
    found: Any = stats.f_oneway(*groups, equal_var=equal_variances)
    df1 = len(groups) - 1
    df2 = sum(map(len, groups)) - len(groups) if equal_variances else welch_df(groups)
    f = float(found.statistic)
    name = "one-way analysis of variance" if equal_variances else "Welch analysis of variance"
    return {
        **share(effects.omega_squared(f, df1, df2, alpha), f"noncentral F, {level_text(alpha)}"),
        "test": name,
        "statistic_name": "F",
        "statistic_value": f,
        "df": df_text(df1, df2),
        "p": float(found.pvalue),
    }


def share(effect: effects.Effect, method: str) -> Numbers:
    """An effect that is the estimate too."""
    return {
        "estimate_name": effect.name,
        "estimate": effect.value,
        "ci_low": effect.low,
        "ci_high": effect.high,
        "ci_method": method,
        **effect.fields,
    }


def welch_df(groups: Sequence[Array]) -> float:
    """Denominator degrees of freedom of Welch's analysis of variance (Welch 1951, Biometrika 38:330)."""
    sizes = np.array([len(group) for group in groups], float)
    weights = sizes / np.array([group.var(ddof=1) for group in groups])
    k = len(groups)
    return float((k**2 - 1) / (3 * ((1 - weights / weights.sum()) ** 2 / (sizes - 1)).sum()))


def kruskal(groups: Sequence[Array]) -> Numbers:
    """Kruskal-Wallis test of two or more groups; epsilon squared of the ranks, which has no interval."""
    found: Any = stats.kruskal(*groups)
    n = sum(map(len, groups))
    effect = effects.epsilon_squared(float(found.statistic), n)
    return {
        **share(effect, "none: the rows of the pairs have intervals"),
        "test": "Kruskal-Wallis test",
        "statistic_name": "H",
        "statistic_value": float(found.statistic),
        "df": df_text(len(groups) - 1),
        "p": float(found.pvalue),
    }


def mean(values: Array, alpha: float) -> Numbers:
    """Mean of one group with Student's interval; no test."""
    se = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf(1 - alpha / 2, len(values) - 1)) * se
    middle = float(values.mean())
    return {
        "estimate_name": "mean",
        "estimate": middle,
        "se": se,
        "ci_low": middle - half,
        "ci_high": middle + half,
        "ci_method": f"Student t, {level_text(alpha)}",
        "test": "none",
    }
