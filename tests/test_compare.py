"""Differences, tests and effects are those of scipy, statsmodels and of published examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from measures import by_contrast, complete, ms_cohort, people, repeats
from pydantic import ValidationError
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from somite.analysis import compare, effects, shifts
from somite.analysis.results import Result
from somite.analysis.selection import Selected

RNG = np.random.default_rng(7)
PATIENT, CONTROL = RNG.normal(0.40, 0.05, 11), RNG.normal(0.44, 0.03, 21)
VALUES = np.concatenate([PATIENT, CONTROL])
GROUP = np.repeat(["patient", "control"], [11, 21])
AGE = RNG.normal(55, 9, 32)
SEX = RNG.choice(["F", "M"], 32)


def rows(measure: Selected, **options: Any) -> list[Result]:
    found = compare.run([measure], compare.Config(name="x", **options))
    complete(found)
    return found


def two(**options: Any) -> Result:
    measure = people(VALUES, group=GROUP)
    return rows(measure, group="group", groups=("patient", "control"), **options)[0]


@pytest.mark.parametrize(("test", "equal"), [(None, False), ("welch", False), ("student", True)])
def test_two_groups_are_compared_as_scipy_does(test: str | None, equal: bool) -> None:
    row, truth = two(test=test), stats.ttest_ind(PATIENT, CONTROL, equal_var=equal)
    interval = truth.confidence_interval()
    assert row.contrast == "patient - control" and row.n_groups == "11/21" and row.n == 32
    np.testing.assert_allclose(row.estimate, PATIENT.mean() - CONTROL.mean())
    np.testing.assert_allclose(
        (row.statistic_value, row.p, row.ci_low, row.ci_high), (*truth, interval.low, interval.high)
    )
    np.testing.assert_allclose(row.estimate / row.se, row.statistic_value)
    np.testing.assert_allclose(float(row.df), truth.df, rtol=1e-5)
    assert ("Student" if equal else "Welch") in row.test


def test_the_order_of_the_groups_is_that_of_the_configuration() -> None:
    swapped = rows(people(VALUES, group=GROUP), group="group", groups=("control", "patient"))[0]
    np.testing.assert_allclose([swapped.estimate, swapped.effect], [-two().estimate, -two().effect])
    assert rows(people(VALUES, group=GROUP), group="group")[0].contrast == "control - patient"


def test_groups_that_are_not_named_are_not_looked_at() -> None:
    measure = people([*VALUES, 9.0, 8.0, 9.0], group=[*GROUP, "third", "third", "third"])
    row = rows(measure, group="group", groups=("patient", "control"))[0]
    assert (row.estimate, row.p, row.n) == (two().estimate, two().p, 32)


def test_the_ends_of_the_interval_of_g_are_quantiles_of_noncentral_t() -> None:
    for t in (-40.0, -2.2, 0.0, 0.7, 11.0):
        low, high = effects.noncentrality_of_t(t, 30, 0.05)
        np.testing.assert_allclose(stats.nct.cdf(t, 30, [low, high]), [0.975, 0.025], atol=1e-9)
    g, t = two(), stats.ttest_ind(PATIENT, CONTROL)
    d = t.statistic * np.sqrt(1 / 11 + 1 / 21)
    np.testing.assert_allclose(g.effect, d * (1 - 3 / (4 * 30 - 1)), rtol=2e-4)  # Hedges' approximation
    low, high = effects.noncentrality_of_t(t.statistic, 30, 0.05)
    np.testing.assert_allclose([g.effect_ci_low / low, g.effect_ci_high / high], g.effect / t.statistic)


def test_the_interval_of_f_is_that_of_its_noncentrality() -> None:
    low, high = effects.noncentrality_of_f(6.1, 3, 40, 0.05)
    np.testing.assert_allclose(stats.ncf.cdf(6.1, 3, 40, [low, high]), [0.975, 0.025], atol=1e-9)
    assert effects.noncentrality_of_f(0.4, 3, 40, 0.05)[0] == 0


def test_omega_squared_is_that_of_hays() -> None:
    groups = [RNG.normal(m, 1, n) for m, n in ((0, 9), (1.5, 14), (0.3, 20))]
    everybody = np.concatenate(groups)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    total, error = ((everybody - everybody.mean()) ** 2).sum(), within / 40
    f = stats.f_oneway(*groups).statistic
    found = effects.omega_squared(f, 2, 40, 0.05)
    np.testing.assert_allclose(found.value, (total - within - 2 * error) / (total + error))
    assert found.low < found.value < found.high


def test_the_interval_of_the_rank_biserial_has_the_width_of_the_jackknife() -> None:
    d = np.random.default_rng(0).normal(0.4, 1, 80)

    def u(x: np.ndarray) -> float:
        i, j = np.triu_indices(len(x), 1)
        return float((x[i] + x[j] > 0).mean())

    leave_one_out = np.array([u(np.delete(d, i)) for i in range(80)])
    se = np.sqrt(79 / 80 * ((leave_one_out - leave_one_out.mean()) ** 2).sum())
    found = effects.rank_biserial(d, 0.05)
    p = (1 + found.value) / 2
    half = (np.log((1 + found.high) / (1 - found.high)) - np.log(p / (1 - p))) / 1.959964
    np.testing.assert_allclose(half * p * (1 - p), se, rtol=0.03)


def test_ranks_give_the_published_shifts() -> None:
    """Hollander and Wolfe (1973), p. 29 and 69: depression scores; permeability of membranes."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    pairs = shifts.one_sample(before - after, 0.05)
    np.testing.assert_allclose([pairs.value, pairs.low, pairs.high], [0.46, 0.010, 0.786], atol=1e-9)
    x = np.array([0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46])
    y = np.array([1.15, 0.88, 0.90, 0.74, 1.21])
    groups = shifts.two_samples(x, y, 0.05)
    np.testing.assert_allclose([groups.value, groups.low, groups.high], [0.305, -0.15, 0.76], atol=1e-9)


@pytest.mark.parametrize(("n1", "n2"), [(5, 9), (49, 12), (60, 70)])
def test_shifts_are_order_statistics_of_all_pairs(n1: int, n2: int) -> None:
    x, y = RNG.normal(size=n1).round(1), RNG.normal(0.5, 2, n2).round(1)  # with ties
    every = np.sort((x[:, None] - y).ravel())
    shift = shifts.two_samples(x, y, 0.05)
    rank = np.searchsorted(every, shift.low - 1e-9)
    np.testing.assert_allclose([shift.value, shift.low], [np.median(every), every[rank]], atol=1e-12)
    assert (every < shift.low - 1e-9).sum() <= n1 * n2 / 2 - 1.96 * np.sqrt(n1 * n2 * (n1 + n2 + 1) / 12) + 3
    below, above = (every < shift.low - 1e-9).sum(), (every > shift.high + 1e-9).sum()
    assert abs(int(below) - int(above)) <= (every == every[rank]).sum() + n1  # symmetric but for ties
    i, j = np.triu_indices(n1)
    np.testing.assert_allclose(shifts.one_sample(x, 0.05).value, np.median((x[i] + x[j]) / 2), atol=1e-12)


def test_mann_whitney_is_scipys_with_its_own_shift_and_effect() -> None:
    row, truth = two(test="mann_whitney"), stats.mannwhitneyu(PATIENT, CONTROL)
    assert (row.statistic_value, row.p) == (truth.statistic, truth.pvalue)
    np.testing.assert_allclose(row.effect, truth.statistic / (11 * 21))
    assert row.ci_low < row.estimate < row.ci_high and row.effect_ci_low < row.effect < row.effect_ci_high
    separate = rows(people([1.0, 2, 3, 7, 8, 9], group=list("aaabbb")), group="group", test="mann_whitney")[0]
    assert separate.effect == 0 and 0 < separate.effect_ci_high < 1


def test_the_placements_variance_is_delongs() -> None:
    """The same AUC and standard error as the formula of DeLong written out pair by pair."""
    found = effects.probability_of_superiority(PATIENT, CONTROL, 0.05)
    wins = (PATIENT[:, None] > CONTROL) + 0.5 * (PATIENT[:, None] == CONTROL)
    variance = wins.mean(axis=1).var(ddof=1) / 11 + wins.mean(axis=0).var(ddof=1) / 21
    p = wins.mean()
    ends = np.log(p / (1 - p)) + np.array([-1, 1]) * stats.norm.ppf(0.975) * np.sqrt(variance) / (p * (1 - p))
    np.testing.assert_allclose([found.value, found.low, found.high], [p, *(1 / (1 + np.exp(-ends)))])


@pytest.mark.parametrize("test", [None, "anova", "kruskal"])
def test_three_groups_give_a_test_of_all_and_one_of_each_pair(test: str | None) -> None:
    groups = [RNG.normal(m, s, n) for m, s, n in ((0, 1, 9), (0.8, 2, 14), (0.3, 0.5, 20))]
    labels = np.repeat(["a", "b", "c"], [9, 14, 20])
    found = rows(people(np.concatenate(groups), arm=labels), group="arm", test=test)
    truth: Any = {
        None: lambda: anova_oneway(groups, use_var="unequal", welch_correction=True),
        "anova": lambda: stats.f_oneway(*groups),
        "kruskal": lambda: stats.kruskal(*groups),
    }[test]()
    np.testing.assert_allclose([found[0].statistic_value, found[0].p], [truth.statistic, truth.pvalue])
    assert [row.contrast for row in found] == ["arm: a, b, c", "a - b", "a - c", "b - c"]
    if test is None:
        df = [float(x) for x in found[0].df.split(",")]
        np.testing.assert_allclose(df, [truth.df_num, truth.df_denom], rtol=1e-5)
    pair = stats.mannwhitneyu if test == "kruskal" else stats.ttest_ind
    options = {} if test == "kruskal" else {"equal_var": test == "anova"}
    np.testing.assert_allclose(found[2].p, pair(groups[0], groups[2], **options).pvalue)


def test_covariates_adjust_differences_and_means() -> None:
    frame = pd.DataFrame({"value": VALUES, "group": GROUP, "age": AGE, "sex": SEX})
    formula = "value ~ C(group, Treatment('control')) + age + C(sex)"
    truth = smf.ols(formula, frame).fit()
    measure = people(VALUES, group=GROUP, age=AGE, sex=SEX)
    options: dict[str, Any] = {
        "group": "group",
        "groups": ("patient", "control"),
        "covariates": ("age", "sex"),
    }
    found = by_contrast(rows(measure, test="student", **options))
    row, i = found["patient - control"], 1
    np.testing.assert_allclose(
        [row.estimate, row.se, row.p, row.ci_low, row.ci_high],
        [truth.params.iloc[i], truth.bse.iloc[i], truth.pvalues.iloc[i], *truth.conf_int().iloc[i]],
    )
    assert row.formula == "value ~ C(group) + age + C(sex)" and row.covariates == "age;sex"
    at = pd.DataFrame({"group": "patient", "age": AGE.mean(), "sex": ["F", "M"]})
    np.testing.assert_allclose(found["mean of patient"].estimate, truth.predict(at).mean())
    d = row.estimate / np.sqrt(truth.scale)
    np.testing.assert_allclose(row.effect, d * effects.small_sample_factor(28))
    robust = smf.ols(formula, frame).fit(cov_type="HC3", use_t=True)
    welch = by_contrast(rows(measure, **options))["patient - control"]
    np.testing.assert_allclose([welch.se, welch.p], [robust.bse.iloc[i], robust.pvalues.iloc[i]])
    everything = rows(measure, test="anova", **options)[0]
    np.testing.assert_allclose(everything.p, truth.pvalues.iloc[i])


def test_sides_are_compared_within_people() -> None:
    values = RNG.normal(size=(15, 2)) + RNG.normal(size=(15, 1)) * 3
    values[3, 1] = np.nan
    measure = repeats(values, "side", ["L", "R"])
    row = rows(measure, paired="side")[0]
    whole = values[np.isfinite(values).all(axis=1)]
    truth = stats.ttest_rel(whole[:, 0], whole[:, 1])
    assert row.contrast == "L - R" and row.n == 14 and "only one of L and R: 1" in row.warnings
    np.testing.assert_allclose(
        [row.statistic_value, row.p, row.ci_low], [*truth, truth.confidence_interval().low]
    )
    differences = whole[:, 0] - whole[:, 1]
    factor = effects.small_sample_factor(13)
    np.testing.assert_allclose(row.effect, factor * differences.mean() / differences.std(ddof=1))
    ranks = rows(measure, paired="side", test="wilcoxon", groups=("R", "L"))[0]
    assert ranks.contrast == "R - L"
    np.testing.assert_allclose(ranks.p, stats.wilcoxon(-differences).pvalue)
    w = stats.rankdata(np.abs(differences))
    np.testing.assert_allclose(ranks.effect, (w * np.sign(-differences)).sum() / w.sum())
    assert ranks.effect_ci_low < ranks.effect < ranks.effect_ci_high


def test_visits_are_compared_pair_by_pair() -> None:
    values = RNG.normal(size=(12, 3))
    found = rows(repeats(values, "session_id", ["pre", "month1", "month3"]), paired="session_id",
                 groups=("month1", "month3", "pre"), means=True)  # fmt: skip
    assert [row.contrast for row in found][:3] == ["month1 - month3", "month1 - pre", "month3 - pre"]
    np.testing.assert_allclose(found[1].p, stats.ttest_rel(values[:, 1], values[:, 0]).pvalue)
    np.testing.assert_allclose(found[-1].estimate, values[:, 0].mean())


@pytest.mark.parametrize(
    ("values", "group", "reason"),
    [
        ([], [], "no values"),
        ([1.0, 2, 3], ["a"] * 3, "all are of one group: group is a"),
        ([1.0, 2, 3], ["a", "a", "b"], "one person only of group b"),
        ([0.1] * 6, list("aaabbb"), "all values are the same"),
        ([0.1, 0.1, 0.1, 0.2, 0.3, 0.4], list("aaabbb"), "group a are the same"),
    ],
)
@pytest.mark.parametrize("test", ["welch", "mann_whitney", "anova"])
def test_what_cannot_be_compared_says_why(
    values: list[float], group: list[str], reason: str, test: str
) -> None:
    (row,) = rows(people(values, group=group), group="group", test=test)
    assert reason in row.reason and np.isnan(row.p) and row.contrast


def test_a_group_that_nobody_is_of_is_named() -> None:
    (row,) = rows(people(VALUES, group=GROUP), group="group", groups=("patient", "carrier"))
    assert row.reason == "nobody of group carrier has a value"


def test_covariates_that_tell_nothing_new_are_named() -> None:
    same = (GROUP == "patient").astype(float)
    for column, words in ((same, "follows from"), (np.ones(32), "has one value only")):
        (row,) = rows(people(VALUES, group=GROUP, x=column), group="group", covariates=("x",))
        assert words in row.reason
    exact = rows(people(AGE * 2 + same, group=GROUP, age=AGE), group="group", covariates=("age",))
    assert "explain every value exactly" in exact[0].reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((5, 2), np.nan), "nothing to pair"),
        (np.array([[1.0, 2.0], [1, np.nan]]), "too few pairs: 1"),
        (np.array([[1.0, 1.0], [2, 2], [3, 3]]), "both of every pair are the same"),
        (np.array([[1.0, 2.0], [2, 3], [3, 4]]), "the difference is the same in every pair"),
    ],
)
def test_pairs_that_cannot_be_compared_say_why(values: np.ndarray, reason: str) -> None:
    (row,) = rows(repeats(values, "side", ["L", "R"]), paired="side")
    assert reason in row.reason


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": "g", "paired": "side"},
        {"group": "g", "test": "paired_t"},
        {"paired": "side", "test": "welch"},
        {"paired": "side", "covariates": ("age",)},
        {"group": "g", "test": "kruskal", "covariates": ("age",)},
        {"group": "g", "groups": ("a",)},
        {"group": "g", "groups": ("a", "a")},
        {"group": "g", "groups": ("a", "b", "c"), "test": "student"},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        compare.Config(**options)


def test_the_ms_cohort_is_compared_as_scipy_does(real_data: Path) -> None:
    first = ms_cohort(real_data).query("visit == 1")
    measure = people(first["cca"].to_numpy(), group=first["group"].to_numpy())
    row = rows(measure, group="group", groups=("MS", "control"))[0]
    ms, control = (first.loc[first["group"] == name, "cca"] for name in ("MS", "control"))
    truth = stats.ttest_ind(ms, control, equal_var=False)
    np.testing.assert_allclose([row.statistic_value, row.p], truth)
    assert row.n_groups == "100/42" and row.effect < -0.8
