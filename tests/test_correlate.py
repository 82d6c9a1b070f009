"""Correlations are those of scipy and of least squares; intervals cover the truth as often as they say."""

from __future__ import annotations

from math import asin, pi
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from measures import by_contrast, complete, people, repeats
from pydantic import ValidationError
from scipy import stats

from somite.analysis import correlate, correlations
from somite.analysis.results import Result
from somite.analysis.selection import Selected

RNG = np.random.default_rng(11)
N = 31
AGE = RNG.normal(60, 8, N)
SEX = RNG.choice(["F", "M"], N)
SCORE = np.round(40 - 0.3 * AGE + RNG.normal(0, 4, N))  # with ties
FA = 0.4 + 0.004 * SCORE - 0.001 * AGE + RNG.normal(0, 0.03, N)


def rows(measures: Selected | list[Selected], **options: Any) -> list[Result]:
    many = [measures] if isinstance(measures, Selected) else measures
    found = correlate.run(many, correlate.Config(name="x", **options))
    complete(found)
    return found


def one(**options: Any) -> Result:
    measure = people(FA, alsfrs=SCORE, age=AGE, sex=SEX)
    return rows(measure, columns="alsfrs", **options)[0]


def test_pearson_is_scipys_with_fishers_interval() -> None:
    row, truth = one(), stats.pearsonr(FA, SCORE)
    interval = truth.confidence_interval()
    np.testing.assert_allclose(
        [row.estimate, row.p, row.ci_low, row.ci_high], [*truth, interval.low, interval.high]
    )
    assert row.contrast == "r(fa, alsfrs)" and row.n == N and row.seed is None


def test_spearman_is_scipys() -> None:
    row, truth = one(method="spearman", bootstrap=300), stats.spearmanr(FA, SCORE)
    np.testing.assert_allclose([row.estimate, row.p], [truth.statistic, truth.pvalue])
    assert row.ci_low < row.estimate < row.ci_high and row.seed == 1
    assert row == one(method="spearman", bootstrap=300)
    assert row.ci_low != one(method="spearman", bootstrap=300, seed=2).ci_low


def test_the_bootstrap_is_that_of_scipy() -> None:
    """The same resampled people through scipy.stats.spearmanr, one sample at a time."""
    columns = np.column_stack([FA, SCORE])
    found = correlations.bootstrap(columns, 20, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(0, N, (20, N))
    np.testing.assert_allclose(found, [stats.spearmanr(*columns[rows].T).statistic for rows in drawn])


def test_a_bootstrap_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.column_stack([FA, SCORE, AGE])
    whole = correlations.bootstrap(columns, 50, np.random.default_rng(3))
    monkeypatch.setattr(correlations, "BLOCK", 7 * columns.size)
    np.testing.assert_array_equal(correlations.bootstrap(columns, 50, np.random.default_rng(3)), whole)


def test_a_partial_correlation_has_the_t_of_least_squares() -> None:
    row = one(covariates=("age", "sex"))
    frame = pd.DataFrame({"fa": FA, "score": SCORE, "age": AGE, "sex": SEX})
    truth = smf.ols("fa ~ score + age + C(sex)", frame).fit()
    t = truth.tvalues["score"]
    np.testing.assert_allclose([row.statistic_value, row.p], [t, truth.pvalues["score"]])
    np.testing.assert_allclose(row.estimate, t / np.sqrt(t**2 + truth.df_resid))
    assert row.formula == "r(fa, alsfrs | age + C(sex))" and row.df == str(N - 4)
    z = np.arctanh(row.estimate) + np.array([-1, 1]) * stats.norm.ppf(0.975) / np.sqrt(N - 2 - 3)
    np.testing.assert_allclose([row.ci_low, row.ci_high], np.tanh(z))


def test_a_partial_rank_correlation_is_that_of_the_ranks_residuals() -> None:
    row = one(method="spearman", covariates=("age",), bootstrap=200)
    fa, score, age = (stats.rankdata(x) for x in (FA, SCORE, AGE))
    residuals = [y - np.polyval(np.polyfit(age, y, 1), age) for y in (fa, score)]
    np.testing.assert_allclose(row.estimate, stats.pearsonr(*residuals).statistic)


def test_sides_correlate_as_a_matrix_of_places() -> None:
    cst, plic = (RNG.normal(size=(20, 2)) + RNG.normal(size=(20, 1)) for _ in range(2))
    cst[4, 0] = np.nan
    frames = [repeats(v, "side", ["L", "R"]).frame for v in (cst, plic)]
    measures = [Selected.of(f, region=r, side="*") for f, r in zip(frames, ("CST", "PLIC"), strict=True)]
    midline = Selected.of(people(plic[:, 0]).frame.assign(side="midline"), region="BCC", side="midline")
    found = rows([*measures, midline], between="sides")
    by = by_contrast(found[:4])
    assert set(by) == {"r(L, R)", "r(CST L, PLIC R)", "r(PLIC L, CST R)"}
    assert [row.region for row in found] == ["CST", "*", "*", "PLIC", "BCC"]
    have = np.isfinite(cst[:, 0])
    np.testing.assert_allclose(found[0].estimate, np.corrcoef(cst[have].T)[0, 1])
    np.testing.assert_allclose(by["r(CST L, PLIC R)"].p, stats.pearsonr(cst[have, 0], plic[have, 1]).pvalue)
    np.testing.assert_allclose(by["r(PLIC L, CST R)"].p, stats.pearsonr(plic[:, 0], cst[:, 1]).pvalue)
    assert found[-1].reason == "not on both sides: the sides are midline"
    assert len(rows(measures, between="sides", matrix=False)) == 2


def test_measures_correlate_with_each_other() -> None:
    a, b, c = people(FA), people(SCORE), people(AGE[:20])
    found = rows([a, Selected.of(b.frame, metric="md", region="CST"), c], between="measures")
    assert found[0].contrast == "r(CST fa, CST md)" and found[0].metric == "*"
    np.testing.assert_allclose(found[1].p, stats.pearsonr(FA[:20], AGE[:20]).pvalue)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(
    ("fa", "score", "reason"),
    [
        ([], [], "no values"),
        ([1.0, 2, 3], [1.0, 2, 4], "too few people: 3"),
        ([1.0] * 6, [1.0, 2, 3, 4, 5, 6], "all values of fa are the same"),
        ([1.0, 2, 3, 4, 5, 6], [1.0] * 6, "all values of alsfrs are the same"),
    ],
)
def test_what_cannot_be_correlated_says_why(
    method: str, fa: list[float], score: list[float], reason: str
) -> None:
    measure = people(np.array(fa), alsfrs=np.array(score, float))
    (row,) = rows(measure, columns="alsfrs", method=method)
    assert reason in row.reason and np.isnan(row.estimate)


def test_a_covariate_that_explains_all_leaves_nothing() -> None:
    (row,) = rows(people(2 * AGE, alsfrs=SCORE, age=AGE), columns="alsfrs", covariates=("age",))
    assert "explain one of the two exactly" in row.reason


@pytest.mark.filterwarnings("error")
def test_a_perfect_correlation_is_a_point_with_a_warning() -> None:
    for method in ("pearson", "spearman"):
        (row,) = rows(people(-2 * SCORE + 1, alsfrs=SCORE), columns="alsfrs", method=method, bootstrap=200)
        assert (
            row.estimate == row.ci_low == row.ci_high == -1 and row.p == 0 and "no interval" in row.warnings
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"columns": "x", "between": "sides"}, {"columns": ("x", "y"), "covariates": ("y",)}],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        correlate.Config(**options)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho"), [(31, 0.5), (100, -0.3)])
def test_intervals_cover_the_truth(n: int, rho: float) -> None:
    """1,000 cohorts; the 99.9 % binomial band around 95 % is 0.927 to 0.972. Spearman: 300 cohorts."""
    random = np.random.default_rng(5)
    spearman_truth = 6 / pi * asin(rho / 2)
    hits, rank_hits, given = 0, 0, np.empty((n, 0))
    for i in range(1000):
        x, noise = random.normal(size=(2, n))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        found = correlations.pearson(x, y, given, 0.05)
        hits += found.low <= rho <= found.high
        if i < 300:
            ranks = correlations.spearman(x, y, given, 0.05, 500, random)
            rank_hits += ranks.low <= spearman_truth <= ranks.high
    assert 0.927 <= hits / 1000 <= 0.972
    assert 0.90 <= rank_hits / 300 <= 0.985
