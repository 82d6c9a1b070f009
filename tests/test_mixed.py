"""Mixed models equal statsmodels' own, and the t tests that they are in balanced designs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from measures import by_contrast, complete, ms_cohort, people, repeats
from pydantic import ValidationError
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from somite.analysis import mixed, random_effects
from somite.analysis.results import Result
from somite.analysis.selection import Selected


def rows(measure: Selected, **options: Any) -> list[Result]:
    found = mixed.run([measure], mixed.Config(name="x", **options))
    complete(found)
    return found


def direct(formula: str, frame: pd.DataFrame, **options: Any) -> Any:
    """The call of statsmodels that a person would write, on values of a variance of about 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = smf.mixedlm(formula, frame, **options).fit()
    assert found.converged
    return found


def roots(seed: int = 0, n: int = 40) -> pd.DataFrame:
    """Roots of patients of two groups; SD 0.03 of patients, 0.02 of levels within them, 0.015 of the rest."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        patient = 0.4 + 0.03 * random.normal() - 0.02 * (i % 2)
        for level in ("L4", "L5", "S1"):
            own = patient + 0.02 * random.normal()
            rows.extend(
                (f"sub-{i:02}", "patient" if i % 2 else "control", level, side, own + 0.015 * random.normal())
                for side in "LR"
            )
    return pd.DataFrame(rows, columns=["participant_id", "group", "level", "side", "value"])


def test_visits_of_the_ms_cohort_are_modelled_as_statsmodels_does(real_data: Path) -> None:
    cohort = ms_cohort(real_data)[["participant_id", "session_id", "group", "years", "sex", "cca"]]
    frame = cohort.rename(columns={"cca": "value"})
    found = by_contrast(
        rows(
            Selected.of(frame, region="CC"),
            fixed=("group", "years", "sex"),
            repeated=("session_id",),
            reference={"group": "MS"},
        )
    )
    truth = direct("value ~ C(group) + years + C(sex)", frame, groups="participant_id")
    names = ("group control - MS", "years", "sex male - female")
    for name, term in zip(names, ("C(group)[T.control]", "years", "C(sex)[T.male]"), strict=True):
        row = found[name]
        expected = [truth.params[term], truth.bse[term], truth.pvalues[term]]
        np.testing.assert_allclose([row.estimate, row.se, row.p], expected, rtol=2e-4)
        assert row.n == 142 and row.n_groups == "382 rows of 142 people" and not row.warnings
    np.testing.assert_allclose(found["SD of participant"].estimate ** 2, truth.cov_re.iloc[0, 0], rtol=1e-4)
    np.testing.assert_allclose(found["SD of residual"].estimate ** 2, truth.scale, rtol=1e-4)
    formula = "value ~ 1 + C(group, Treatment('MS')) + years + C(sex) + (1 | participant_id)"
    assert found["years"].formula == formula


def test_levels_within_patients_are_nested_as_statsmodels_does() -> None:
    frame = roots()
    options: dict[str, Any] = {
        "fixed": ("group", "side"),
        "repeated": ("level", "side"),
        "nested": ("level",),
        "reference": {"group": "control"},
    }
    found = by_contrast(rows(Selected.of(frame), **options))
    scaled = frame.assign(value=frame["value"] / 0.04)
    truth = direct("value ~ C(group) + C(side)", scaled, groups="participant_id", re_formula="1",
                   vc_formula={"level": "0 + C(level)"})  # fmt: skip
    row, term = found["group patient - control"], "C(group)[T.patient]"
    expected = [0.04 * truth.params[term], 0.04 * truth.bse[term], truth.pvalues[term]]
    np.testing.assert_allclose([row.estimate, row.se, row.p], expected, rtol=1e-3)
    level = found["SD of level within participant"].estimate
    np.testing.assert_allclose(level, 0.04 * np.sqrt(truth.vcomp[0]), rtol=1e-3)
    assert "(1 | participant_id:level)" in row.formula
    shares = [r.effect for r in found.values() if r.effect_name]
    np.testing.assert_allclose(sum(shares), 1)


def test_the_truth_of_nested_effects_is_recovered() -> None:
    found = by_contrast(
        rows(Selected.of(roots(1, 200)), fixed=("group",), repeated=("level", "side"), nested=("level",))
    )
    sds = [
        found[f"SD of {name}"].estimate for name in ("participant", "level within participant", "residual")
    ]
    np.testing.assert_allclose(sds, [0.03, 0.02, 0.015], rtol=0.15)
    row = found["group patient - control"]
    assert abs(row.estimate + 0.02) < 3 * row.se


def test_raters_are_crossed_with_patients() -> None:
    random = np.random.default_rng(4)
    values = 2 * random.normal(size=(40, 1)) + random.normal(size=(1, 6)) + 0.5 * random.normal(size=(40, 6))
    measure = repeats(values, "rater", [f"r{j}" for j in range(6)], x=random.normal(size=40))
    found = by_contrast(rows(measure, fixed=("x",), repeated=("rater",), crossed=("rater",)))
    # balanced: the REML variances are those of the two-way analysis of variance
    means = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    error = (means**2).sum() / (39 * 5)
    between = 40 * values.mean(axis=0).var(ddof=1)
    np.testing.assert_allclose(found["SD of rater"].estimate ** 2, (between - error) / 40, rtol=1e-2)
    np.testing.assert_allclose(found["SD of residual"].estimate ** 2, error, rtol=1e-2)


def test_balanced_designs_give_the_t_tests_of_people() -> None:
    """Sides within people: the paired t test. Groups of people: Student's t test of their means."""
    random = np.random.default_rng(2)
    values = 0.4 + 0.05 * random.normal(size=(14, 1)) + 0.02 * random.normal(size=(14, 2))
    group = ["a"] * 6 + ["b"] * 8
    measure = repeats(values, "side", ["L", "R"], group=group)
    found = by_contrast(rows(measure, fixed=("group", "side"), repeated=("side",), df="between_within"))
    side = stats.ttest_rel(values[:, 1], values[:, 0])
    np.testing.assert_allclose(found["side R - L"].statistic_value, side.statistic, rtol=1e-4)
    np.testing.assert_allclose(found["side R - L"].p, side.pvalue, rtol=1e-3)
    means = values.mean(axis=1)
    between = stats.ttest_ind(means[6:], means[:6])
    np.testing.assert_allclose(found["group b - a"].p, between.pvalue, rtol=1e-3)
    assert (found["side R - L"].df, found["group b - a"].df) == ("13", "12")
    normal = by_contrast(rows(measure, fixed=("group", "side"), repeated=("side",)))["group b - a"]
    assert normal.p < found["group b - a"].p and "14 people" in normal.warnings


def test_slopes_vary_between_people() -> None:
    random = np.random.default_rng(8)
    rows_ = []
    for i in range(60):
        a, b = 0.5 + 0.05 * random.normal(), -0.01 + 0.01 * random.normal()
        rows_.extend((f"{i:02}", str(v), v, a + b * v + 0.01 * random.normal()) for v in range(5))
    frame = pd.DataFrame(rows_, columns=["participant_id", "session_id", "years", "value"])
    frame["years"] = frame["years"].astype(float)
    options: dict[str, Any] = {"fixed": ("years",), "repeated": ("session_id",), "slope": "years"}
    found = by_contrast(rows(Selected.of(frame), **options))
    np.testing.assert_allclose(found["SD of slope of years"].estimate, 0.01, rtol=0.25)
    np.testing.assert_allclose(found["SD of participant"].estimate, 0.05, rtol=0.25)
    truth = direct("value ~ years", frame.assign(value=frame["value"] / 0.05), groups="participant_id",
                   re_formula="1 + years")  # fmt: skip
    np.testing.assert_allclose(found["years"].se, 0.05 * truth.bse["years"], rtol=1e-3)
    fixed = by_contrast(rows(Selected.of(frame), fixed=("years",), repeated=("session_id",)))
    assert fixed["years"].se < 0.8 * found["years"].se


def test_interactions_and_terms_of_several_categories_are_tested() -> None:
    frame = roots()
    options: dict[str, Any] = {"repeated": ("level", "side"), "nested": ()}
    found = by_contrast(rows(Selected.of(frame), fixed=("group", "level", "group:level"), **options))
    truth = direct("value ~ C(group) * C(level)", frame.assign(value=frame["value"] / 0.04),
                   groups="participant_id")  # fmt: skip
    terms = [name for name in truth.params.index if ":" in name]
    b, cov = truth.params[terms], truth.cov_params().loc[terms, terms]
    row = found["C(group):C(level): all"]
    np.testing.assert_allclose(row.statistic_value, b @ np.linalg.solve(cov, b), rtol=1e-3)
    np.testing.assert_allclose(row.p, stats.chi2.sf(row.statistic_value, 2))
    assert "(group patient - control) : (level S1 - L4)" in found


def test_the_cluster_bootstrap_draws_whole_people_within_groups() -> None:
    random = np.random.default_rng(0)
    people_ = np.repeat(np.arange(12), [1, 2, 3] * 4)
    columns = np.column_stack([np.ones(24), people_ % 2, random.normal(size=24)])
    values, strata = random.normal(size=24), np.arange(12) % 2
    found = random_effects.cluster_bootstrap(values, columns, people_, strata, 50, np.random.default_rng(5))
    again = np.random.default_rng(5)
    counts = np.zeros((50, 12), int)
    for s in (0, 1):
        counts[:, s::2] = again.multinomial(6, np.full(6, 1 / 6), 50)
    for count, estimate in zip(counts, found, strict=True):
        drawn = np.concatenate([np.flatnonzero(people_ == p) for p in range(12) for _ in range(count[p])])
        truth = np.linalg.lstsq(columns[drawn], values[drawn], rcond=None)[0]
        np.testing.assert_allclose(estimate, truth, atol=1e-9)


def test_the_cluster_bootstrap_knows_that_roots_of_one_patient_are_not_independent() -> None:
    measure = Selected.of(roots(3, 30))
    options: dict[str, Any] = {"fixed": ("group", "side"), "repeated": ("level", "side")}
    found = by_contrast(rows(measure, method="cluster_bootstrap", bootstrap=1000, **options))
    mixed_ = by_contrast(rows(measure, **options))
    for name in ("group patient - control", "side R - L"):
        np.testing.assert_allclose(found[name].estimate, mixed_[name].estimate, rtol=1e-4)
    naive = smf.ols("value ~ C(group) + C(side)", measure.frame).fit().bse["C(group)[T.patient]"]
    assert found["group patient - control"].se > 1.3 * naive
    np.testing.assert_allclose(
        found["group patient - control"].se, mixed_["group patient - control"].se, rtol=0.15
    )
    assert found["side R - L"].seed == 1
    assert rows(measure, method="cluster_bootstrap", bootstrap=1000, **options) == list(found.values())


def test_a_variance_of_0_is_told() -> None:
    random = np.random.default_rng(12)
    values = random.normal(size=(20, 2))
    values[:, 1] = -values[:, 0] + 0.1 * random.normal(size=20)  # people differ less than by chance
    found = rows(repeats(values, "side", ["L", "R"]), fixed=("side",), repeated=("side",))
    assert "the variance of participant is 0" in found[0].warnings


def test_what_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = MixedLM.fit

    def fails(self: Any, method: str = "", **options: Any) -> Any:
        found = fit(self, method="bfgs", **options)
        if method in failing:
            found.converged = False
            warnings.warn("gradient is not 0", ConvergenceWarning, stacklevel=1)
        return found

    monkeypatch.setattr(MixedLM, "fit", fails)
    failing = ["lbfgs"]
    options: dict[str, Any] = {"fixed": ("group",), "repeated": ("level", "side")}
    assert "lbfgs did not converge, bfgs did" in rows(Selected.of(roots(n=10)), **options)[0].warnings
    failing = list(random_effects.OPTIMISERS)
    (row,) = rows(Selected.of(roots(n=10)), **options)
    assert row.reason.startswith("the model did not converge with lbfgs, bfgs, cg, powell: lbfgs: gradient")


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({"value": 0.5}, {}, "all values are the same"),
        ({"group": "patient"}, {}, "group has one value only: patient"),
        ({}, {"reference": {"group": "carrier"}}, "nobody has group carrier, the reference"),
        ({}, {"nested": ("level", "side")}, "cannot be told from the residual"),
        ({"age": 3.0}, {"fixed": ("group", "age")}, "age has one value only"),
    ],
)
def test_what_cannot_be_modelled_says_why(
    change: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    measure = Selected.of(roots(n=8).assign(**change))
    (row,) = rows(measure, **{"fixed": ("group",), "repeated": ("level", "side")} | options)
    assert reason in row.reason


def test_too_few_people_or_rows_say_so() -> None:
    options: dict[str, Any] = {"fixed": ("group",), "repeated": ("side",)}
    frame = roots(n=8)
    assert rows(Selected.of(frame[:0]), **options)[0].reason.startswith("no values")
    assert "too few people: 2" in rows(Selected.of(frame[:12]), **options)[0].reason
    single = people(np.arange(8.0), group=["a", "b"] * 4)
    assert rows(single, **options)[0].reason.startswith("one row per person")


@pytest.mark.parametrize(
    "options",
    [
        {"fixed": ("a:b",)},
        {"fixed": ("side",), "repeated": ("level",)},
        {"fixed": ("a",), "slope": "years"},
        {"fixed": ("a",), "nested": ("side",), "repeated": ("level",)},
        {"fixed": ("years",), "slope": "years", "crossed": ("rater",)},
        {"fixed": ("a",), "method": "cluster_bootstrap", "crossed": ("rater",)},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mixed.Config(**{"repeated": ("session_id",)} | options)
