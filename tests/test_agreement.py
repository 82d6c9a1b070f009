"""Agreement equals the worked examples of Shrout and Fleiss (1979) and Bland and Altman (1986)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.formula.api as smf
from measures import complete, people, repeats
from scipy import stats

from somite.analysis import agreement, reliability
from somite.analysis.results import Result
from somite.analysis.selection import Selected

JUDGES = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Shrout and Fleiss (1979), table 2: six targets, four judges."""
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
"""Bland and Altman (1986), table: peak expiratory flow by two meters, l/min, the first of each."""


def rows(measure: Selected, **options: Any) -> list[Result]:
    found = agreement.run([measure], agreement.Config(name="x", repeated="rater", **options))
    complete(found)
    return found


def raters(values: np.ndarray) -> Selected:
    return repeats(values, "rater", [f"r{j + 1}" for j in range(values.shape[1])])


def test_mean_squares_are_those_of_shrout_and_fleiss() -> None:
    s = reliability.squares(JUDGES)
    np.testing.assert_allclose(
        [s.people, s.within, s.repeats, s.error], [11.24, 6.26, 32.49, 1.02], atol=0.005
    )


def test_the_six_forms_are_those_of_shrout_and_fleiss() -> None:
    """Table 4 of the paper; the intervals as psych::ICC of R gives them for the same table."""
    published = {
        "ICC(1,1)": (0.17, -0.13, 0.72),
        "ICC(2,1)": (0.29, 0.02, 0.76),
        "ICC(3,1)": (0.71, 0.34, 0.95),
        "ICC(1,k)": (0.44, -0.88, 0.91),
        "ICC(2,k)": (0.62, 0.07, 0.93),
        "ICC(3,k)": (0.91, 0.68, 0.99),
    }
    found = rows(raters(JUDGES))[:6]
    for row in found:
        form = row.effect_name
        np.testing.assert_allclose([row.estimate, row.ci_low, row.ci_high], published[form], atol=0.005)
        np.testing.assert_allclose(row.p, 0.16477 if "(1" in form else 0.000134566, rtol=1e-4)
    assert [row.effect_name for row in found] == list(published)
    assert [row.estimate for row in rows(raters(JUDGES), icc=("ICC(3,1)",))[:1]] == [found[2].estimate]


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    measure = repeats(np.column_stack([WRIGHT, MINI]).astype(float), "rater", ["large", "mini"])
    found = rows(measure, limits_sd=2, limits_interval="bland_altman_1986")
    bias, lower, upper = found[-3:]
    assert bias.contrast == "large - mini" and bias.n == 17
    np.testing.assert_allclose([bias.estimate, bias.ci_low, bias.ci_high], [-2.1, -22.0, 17.8], atol=0.06)
    np.testing.assert_allclose([lower.estimate, upper.estimate], [-79.7, 75.5], atol=0.11)
    np.testing.assert_allclose([lower.ci_low, lower.ci_high], [-114.3, -45.1], atol=0.25)
    np.testing.assert_allclose([upper.ci_low, upper.ci_high], [40.9, 110.1], atol=0.25)


def test_exact_limits_cover_the_quantiles_of_the_population() -> None:
    """12 people, 2,000 cohorts: the interval of the upper limit holds 1.96 SD in 95 %; that of 1986 less."""
    random = np.random.default_rng(3)
    hits = np.zeros(2)
    for _ in range(1000):
        first, second = random.normal(size=12), np.zeros(12)
        for i, exact in enumerate((True, False)):
            upper = reliability.bland_altman(first, second, 0.05, 1.96, exact).upper
            hits[i] += upper.low <= 1.96 <= upper.high
    assert 0.927 <= hits[0] / 1000 <= 0.972
    assert hits[1] < hits[0]


def test_errors_of_measurement_are_those_of_a_one_way_analysis() -> None:
    measure = raters(JUDGES)
    found = {row.estimate_name: row for row in rows(measure)}
    fit = smf.ols("value ~ C(participant_id)", measure.frame).fit()
    sem = found["standard error of measurement"]
    np.testing.assert_allclose(sem.estimate, np.sqrt(fit.mse_resid))
    assert sem.df == str(int(fit.df_resid)) == "18"
    mdd = found["minimal detectable difference"].estimate
    np.testing.assert_allclose(mdd, 1.959964 * np.sqrt(2) * sem.estimate, rtol=1e-6)
    cv = found["within-subject coefficient of variation"].estimate
    shares = [np.std(row, ddof=1) / np.mean(row) for row in JUDGES]
    np.testing.assert_allclose(cv, np.sqrt(np.mean(np.square(shares))))
    chi2 = stats.chi2.ppf([0.975, 0.025], 18)
    np.testing.assert_allclose([sem.ci_low, sem.ci_high], sem.estimate * np.sqrt(18 / chi2))


@pytest.mark.slow
def test_intervals_of_the_icc_cover_the_truth() -> None:
    """People, raters and error of variances 4, 1 and 2; 31 people, 5 raters; 1,000 cohorts."""
    random = np.random.default_rng(9)
    truth = {"ICC(2,1)": 4 / 7, "ICC(3,1)": 4 / 6, "ICC(3,k)": 4 / (4 + 2 / 5)}
    hits = dict.fromkeys(truth, 0)
    for _ in range(1000):
        values = (
            2 * random.normal(size=(31, 1)) + random.normal(size=5) + 2**0.5 * random.normal(size=(31, 5))
        )
        for icc in reliability.iccs(values, 0.05):
            if icc.form in truth:
                hits[icc.form] += icc.low <= truth[icc.form] <= icc.high
    assert all(0.927 <= count / 1000 <= 0.972 for count in hits.values()), hits


def test_who_lacks_a_repeat_is_left_out_and_counted() -> None:
    values = np.vstack([JUDGES, [5, np.nan, 4, 4]])
    found, whole = rows(raters(values)), rows(raters(JUDGES))
    assert [row.estimate for row in found] == [row.estimate for row in whole]
    assert all("lack a repeat: 1" in row.warnings for row in found)
    assert rows(raters(values), of=("r1", "r3"))[0].n == 7


def test_a_difference_that_grows_with_the_value_is_told() -> None:
    x = np.linspace(1, 2, 12)
    noise = np.random.default_rng(0).normal(0, 0.02, 12)
    bias = rows(raters(np.column_stack([x, 1.4 * x + noise])))[-3]
    assert "the difference changes with the mean" in bias.warnings


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.empty((0, 2)), "nothing is repeated, no values"),
        (JUDGES[:, :1], "nothing is repeated: rater is r1 only"),
        (JUDGES[:2], "too few people with all 4 repeats: 2"),
        (np.full((5, 2), 0.3), "all values are the same"),
    ],
)
def test_what_cannot_be_judged_says_why(values: np.ndarray, reason: str) -> None:
    (row,) = rows(raters(values))
    assert row.reason.startswith(reason)


def test_repeats_that_are_the_same_have_no_error() -> None:
    x = np.linspace(1, 2, 8)
    same = {row.estimate_name.split(",")[0]: row.reason for row in rows(raters(np.column_stack([x, x])))}
    assert "agree exactly" in same["ICC(1"] and "all the same" in same["standard error of measurement"]
    assert "the difference is 0 in every person" in same["Bland-Altman bias"]
    offset = rows(raters(np.column_stack([x, x + 1])))
    assert "the difference is -1 in every person" in offset[-1].reason
    opposite = rows(raters(np.column_stack([x, 3 - x])))
    assert opposite[0].reason == "the means of all people are the same"


def test_values_below_0_have_no_coefficient_of_variation() -> None:
    row = next(row for row in rows(raters(JUDGES - 5)) if "coefficient" in row.estimate_name)
    assert row.reason == "a coefficient of variation needs values above 0"


def test_a_measure_without_repeats_says_so() -> None:
    assert rows(people([1.0, 2, 3]))[0].reason.startswith("nothing is repeated")
