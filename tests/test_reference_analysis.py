"""Reference intervals are those of statsmodels and scipy, cover as often as they say, and find the truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from long_tables import long, read_segments
from measures import complete, people
from pydantic import ValidationError
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from somite.analysis import reference
from somite.analysis.choose import select
from somite.analysis.model import Cohort
from somite.analysis.people import read_people
from somite.analysis.results import Result
from somite.analysis.selection import Selected
from somite.errors import ConfigError
from somite.phantom.change import Change
from somite.phantom.cohort import Cohort as PhantomCohort
from somite.phantom.dataset import write_cohort_table

N = 40


def config(**options: Any) -> reference.Config:
    return reference.Config(**({"name": "x", "group": "group", "reference": "control"} | options))


def cohort(seed: int = 1, n: int = N, patients: int = 5, shift: float = 0.1) -> Selected:
    """FA falls with age, and is lower in men and in patients."""
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(20, 70, n + patients), rng.choice(["F", "M"], n + patients)
    ill = np.arange(n + patients) >= n
    fa = 0.5 - 0.002 * age - 0.02 * (sex == "M") - shift * ill + rng.normal(0, 0.03, n + patients)
    return people(fa, group=np.where(ill, "patient", "control"), age=age, sex=sex)


def rows(measure: Selected, **options: Any) -> list[Result]:
    found = reference.run([measure], config(**options))
    complete(found)
    return found


def by_name(found: list[Result]) -> dict[str, Result]:
    return {row.estimate_name: row for row in found}


def of_people(found: list[Result]) -> dict[str, Result]:
    return {row.contrast.partition(":")[0]: row for row in found if row.contrast.startswith("sub-")}


def test_mean_and_spread_are_those_of_statsmodels() -> None:
    measure = cohort()
    found, controls = by_name(rows(measure)), measure.frame["value"][:N]
    told = DescrStatsW(controls)
    np.testing.assert_allclose(found["mean"].estimate, told.mean)
    np.testing.assert_allclose([found["mean"].ci_low, found["mean"].ci_high], told.tconfint_mean())
    spread = found["standard deviation between people"]
    np.testing.assert_allclose(spread.estimate, controls.std())
    ends = np.sqrt((N - 1) * controls.var() / stats.chi2(N - 1).ppf([0.975, 0.025]))
    np.testing.assert_allclose([spread.ci_low, spread.ci_high], ends)
    assert found["mean"].n == N and found["mean"].contrast == "control" and found["mean"].test == "none"


def test_percentiles_are_normal_with_exact_intervals() -> None:
    measure = cohort()
    found, x = by_name(rows(measure)), measure.frame["value"][:N]
    for name, p in (("2.5th percentile", 0.025), ("50th percentile", 0.5), ("97.5th percentile", 0.975)):
        row = found[name]
        np.testing.assert_allclose(row.estimate, stats.norm(x.mean(), x.std()).ppf(p))
        # The end is the percentile under which the tail of the statistic seen is alpha / 2.
        for end, tail in ((row.ci_low, 0.975), (row.ci_high, 0.025)):
            seen = math.sqrt(N) * (end - x.mean()) / x.std()
            assert stats.nct.cdf(seen, N - 1, stats.norm.ppf(p) * math.sqrt(N)) == pytest.approx(1 - tail)


def test_adjusted_reference_and_scores_are_those_of_a_regression() -> None:
    measure = cohort()
    found = rows(measure, covariates=("age", "sex"))
    controls, patients = measure.frame[:N], measure.frame[N:]
    fit = smf.ols("value ~ age + C(sex)", controls).fit()
    named = by_name(found)
    slope = named["effect of age"]
    np.testing.assert_allclose(
        [slope.estimate, slope.se, slope.ci_low, slope.ci_high],
        [fit.params["age"], fit.bse["age"], *fit.conf_int().loc["age"]],
    )
    np.testing.assert_allclose(named["effect of sex M - F"].estimate, fit.params["C(sex)[T.M]"])
    both = pd.DataFrame({"age": [controls["age"].mean()] * 2, "sex": ["F", "M"]})
    np.testing.assert_allclose(named["mean at typical covariates"].estimate, fit.predict(both).mean())
    assert named["mean at typical covariates"].formula == "value ~ age + C(sex)"
    told = fit.get_prediction(patients).summary_frame()
    scores = of_people(found)
    assert set(scores) == set(patients["participant_id"])
    for i, (who, row) in enumerate(scores.items()):
        value = patients["value"].iloc[i]
        np.testing.assert_allclose(row.estimate, (value - told["mean"].iloc[i]) / math.sqrt(fit.scale))
        t = (value - told["mean"].iloc[i]) / math.sqrt(fit.scale + told["mean_se"].iloc[i] ** 2)
        np.testing.assert_allclose([row.statistic_value, row.p], [t, 2 * stats.t.sf(abs(t), fit.df_resid)])
        np.testing.assert_allclose(row.effect, stats.t.cdf(t, fit.df_resid))
        low, high = told.loc[told.index[i], ["obs_ci_lower", "obs_ci_upper"]]
        assert (row.p < 0.05) == (not low <= value <= high), who
        assert reference.CAVEAT in row.warnings


def test_nobody_has_a_part_in_the_reference_that_judges_him() -> None:
    measure = cohort()
    found = of_people(rows(measure, covariates=("age",), scored="all"))
    assert len(found) == N + 5
    frame = measure.frame
    for i in (0, 7):
        others = frame[:N].drop(i)
        fit = sm.OLS(others["value"], sm.add_constant(others["age"])).fit()
        usual = float(fit.predict([1.0, frame["age"][i]])[0])
        row = found[frame["participant_id"][i]]
        np.testing.assert_allclose(row.estimate, (frame["value"][i] - usual) / math.sqrt(fit.scale))
        assert row.n_groups == f"1/{N - 1}"
    assert not of_people(rows(measure, scored="none"))


def test_intervals_and_tests_hold_what_they_say() -> None:
    """400 references of 15: the mean, the 2.5th percentile, z of a person, and healthy people called ill."""
    rng = np.random.default_rng(7)
    hits = np.zeros(4)
    for _ in range(400):
        values = np.append(rng.normal(10, 2, 15), 10 - 1.5 * 2)
        groups = ["control"] * 15 + ["patient"]
        found = reference.run([people(values, group=groups)], config(percentiles=(2.5,)))
        named, score = by_name(found), found[-1]
        mean, low = named["mean"], named["2.5th percentile"]
        hits[0] += mean.ci_low <= 10 <= mean.ci_high
        hits[1] += low.ci_low <= stats.norm(10, 2).ppf(0.025) <= low.ci_high
        hits[2] += score.ci_low <= -1.5 <= score.ci_high
        line = reference.Line.fit(values[:15], np.empty((15, 0)))
        hits[3] += reference.score(float(rng.normal(10, 2)), np.empty(0), line, "control", 0.05)["p"] >= 0.05
    low, high = stats.binom(400, 0.95).ppf([0.0005, 0.9995])
    assert ((low <= hits) & (hits <= high)).all(), hits


def test_ranks_are_those_of_the_guideline() -> None:
    """CLSI EP28: of 120 people the 90 % interval of the 2.5th percentile is the first to the seventh."""
    values = np.random.default_rng(3).permutation(np.arange(1.0, 121.0))
    measure = people(values, group=["control"] * 120)
    found = by_name(rows(measure, method="nonparametric", alpha=0.1))
    low = found["2.5th percentile"]
    assert (low.estimate, low.ci_low, low.ci_high) == (pytest.approx(3.025), 1, 7)
    few = by_name(rows(people(values[:38], group=["control"] * 38), method="nonparametric"))
    assert "needs 39" in few["2.5th percentile"].reason
    enough = by_name(rows(people(values[:39], group=["control"] * 39), method="nonparametric"))
    assert enough["2.5th percentile"].estimate == values[:39].min()
    assert enough["2.5th percentile"].ci_method.startswith("none: 39 people are too few")


def test_what_makes_a_score_doubtful_stands_in_its_row() -> None:
    measure = cohort(n=12)
    frame = measure.frame
    frame.loc[12, "age"] = 95.0
    frame.loc[13, "sex"] = "X"
    found = of_people(reference.run([measure], config(covariates=("age", "sex"))))
    assert "age 95 lies beyond the reference's" in found["sub-012"].warnings
    assert "a reference of 12 people" in found["sub-014"].warnings
    assert "same category" in found["sub-013"].reason
    skewed = people(np.exp(np.random.default_rng(1).normal(0, 1.5, 41)), group=["control"] * 40 + ["patient"])
    assert "not normal" in of_people(rows(skewed))["sub-040"].warnings
    noisy = cohort()
    noisy.frame["snr"] = np.where(noisy.frame["group"] == "patient", 10.0, 20.0) + np.arange(N + 5) % 3
    assert "snr differs" in of_people(rows(noisy))["sub-040"].warnings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.iloc[:0], "no values"),
        (lambda f: f[f["group"] == "patient"], "nobody of control"),
        (lambda f: f.iloc[38:], "2 people of control are too few"),
        (lambda f: f.assign(value=0.3), "all values of control are the same"),
        (lambda f: f.assign(age=50.0), "age has one value only"),
    ],
)
def test_bad_input_is_a_row_with_its_reason(change: Any, reason: str) -> None:
    measure = Selected.of(change(cohort().frame), region="CST")
    (row,) = rows(measure, covariates=("age",))
    assert reason in row.reason


def test_the_controls_of_the_cohort_are_the_default() -> None:
    empty = reference.Config(name="x")
    filled = empty.in_cohort(Cohort(controls={"diagnosis": ("healthy", "volunteer")}))
    assert (filled.group, filled.reference) == ("diagnosis", ("healthy", "volunteer"))
    assert [one.name for one in filled.requirements()] == ["diagnosis"]
    with pytest.raises(ConfigError, match="CONTROLS"):
        empty.in_cohort(Cohort())
    with pytest.raises(ValidationError, match="both group and reference"):
        reference.Config(name="x", group="diagnosis")
    with pytest.raises(ValidationError, match="takes none"):
        config(method="nonparametric", covariates=("age",))


def test_the_phantom_cohort_has_the_reference_that_it_was_drawn_from(tmp_path: Path) -> None:
    """FA of controls: 0.40 of a root beyond the foramen, SD 0.03; the lesion lies 3 SD below."""
    lesion = (Change("nerve_root", "L", "S1"),)
    made = write_cohort_table(tmp_path / "c", PhantomCohort(30, 100, d=-3.0, fa_sd=0.03), 11, lesion=lesion)
    table = read_segments(made / "group" / "segments.tsv")
    chosen = {"region": "nerve_root", "metric": "fa", "level": "S1", "segment": "extraforaminal"}
    analysis = config(select=chosen, percentiles=(2.5,))
    people_ = read_people([made / "participants.tsv", *sorted((made / "phenotype").glob("*.tsv"))])
    measures = {m.side: m for m in select(long(tmp_path, table), people_, analysis)}
    for side, shift in (("L", -3.0), ("R", 0.0)):
        found = reference.run([measures[side]], analysis)
        named = by_name(found)
        for name, truth in (
            ("mean", 0.40),
            ("standard deviation between people", 0.03),
            ("2.5th percentile", stats.norm(0.40, 0.03).ppf(0.025)),
        ):
            assert named[name].ci_low <= truth <= named[name].ci_high, name
        z = [row.estimate for row in of_people(found).values()]
        assert len(z) == 30
        assert np.mean(z) == pytest.approx(shift, abs=0.5)  # standard error 0.17
        assert np.std(z) == pytest.approx(1, abs=0.4)
