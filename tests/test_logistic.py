"""Logistic regression of measures, against statsmodels; a row with its reason where there is no number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from statsmodels.discrete.discrete_model import Logit

from somite.analysis import crossval, firth, logistic
from somite.analysis.results import Result
from somite.analysis.selection import Selected


def config(**options: Any) -> logistic.Config:
    return logistic.Config(**({"name": "l", "outcome": "weak", "event": "1", "calibration": False} | options))


def study(n: int = 80, seed: int = 1, slope: float = 1.0) -> list[Selected]:
    """FA and MD of people, two covariates, and a weakness that FA, age and sex explain."""
    random = np.random.default_rng(seed)
    fa, age = random.normal(0.4, 0.05, n), random.normal(60, 10, n)
    md = 1.5 - 2 * (fa - 0.4) + random.normal(0, 0.05, n)
    sex = np.where(random.uniform(size=n) < 0.5, "F", "M")
    chance = expit(-slope * (fa - 0.4) / 0.05 + 0.03 * (age - 60) + 0.5 * (sex == "M"))
    frame = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:03}" for i in range(n)],
            "weak": np.where(random.uniform(size=n) < chance, "1", "0"),
            "age": age,
            "sex": sex,
        }
    )
    place = {"region": "nerve_root", "side": "R", "level": "L5"}
    return [Selected.of(frame.assign(value=v), metric=name, **place) for name, v in (("fa", fa), ("md", md))]


def row(rows: list[Result], contrast: str) -> Result:
    found = [one for one in rows if one.contrast == contrast]
    assert len(found) == 1, [one.contrast for one in rows]
    return found[0]


def no_silent_gaps(rows: list[Result]) -> None:
    for one in rows:
        assert math.isnan(one.estimate) == bool(one.reason), one
        assert one.reason or not math.isnan(one.ci_low) or one.ci_method.startswith("none"), one


def test_maximum_likelihood_is_that_of_statsmodels_per_sd_and_per_unit() -> None:
    fa, _ = study()
    frame = fa.frame
    columns = np.column_stack([np.ones(len(frame)), frame["value"], frame["age"], frame["sex"] == "M"])
    peer = Logit((frame["weak"] == "1").astype(float), columns.astype(float)).fit(disp=0)
    ends = peer.conf_int().to_numpy()
    sd = frame["value"].std()
    for per, step in (("sd", sd), ("unit", 1.0)):
        rows = logistic.run([fa], config(fit="ml", per=per, covariates=("age", "sex")))
        found = row(rows, f"OR(fa per {per.upper() if per == 'sd' else per})")
        assert found.estimate == pytest.approx(np.exp(peer.params.iloc[1] * step), rel=1e-5)
        assert (found.ci_low, found.ci_high) == pytest.approx(tuple(np.exp(ends[1] * step)), rel=1e-5)
        assert found.p == pytest.approx(peer.pvalues.iloc[1], rel=1e-5)
        assert (found.effect, found.effect_ci_low) == pytest.approx(
            (peer.params.iloc[1], ends[1, 0]), rel=1e-5
        )
    assert row(rows, "OR(age)").estimate == pytest.approx(np.exp(peer.params.iloc[2]), rel=1e-5)
    assert row(rows, "OR(sex M - F)").estimate == pytest.approx(np.exp(peer.params.iloc[3]), rel=1e-5)
    assert found.formula == "logit P(weak = 1) ~ fa + age + C(sex)"
    assert found.n_groups == f"{(frame['weak'] == '1').sum()}/{(frame['weak'] == '0').sum()}"


def test_the_default_is_firths_fit_and_its_odds_ratio_is_nearer_to_one() -> None:
    fa, _ = study(40)
    default, plain = logistic.run([fa], config())[0], logistic.run([fa], config(fit="ml"))[0]
    design = np.column_stack([np.ones(40), fa.frame["value"]])
    event = (fa.frame["weak"] == "1").to_numpy()
    assert default.effect == pytest.approx(firth.fit(design, event).coefficients[1])
    assert plain.estimate < default.estimate < 1
    assert "Firth" in default.ci_method
    assert "Wald" in plain.ci_method


def test_several_measures_make_one_model_with_their_variance_inflation() -> None:
    measures = study()
    rows = logistic.run(measures, config(models="both"))
    no_silent_gaps(rows)
    assert [one.contrast for one in rows[:2]] == ["OR(fa per SD)", "OR(md per SD)"]
    joint = [one for one in rows if one.metric == "*"]
    assert [one.contrast for one in joint] == ["OR(fa per SD)", "OR(md per SD)", "VIF(fa)", "VIF(md)"]
    r = np.corrcoef(measures[0].frame["value"], measures[1].frame["value"])[0, 1]
    assert joint[2].estimate == pytest.approx(1 / (1 - r**2))
    assert joint[0].level == "L5"


def test_models_are_split_by_what_they_do_not_combine() -> None:
    measures = study()
    other = [
        Selected.of(m.frame, metric=m.metric, region="nerve_root", side="R", level="S1")
        for m in study(seed=2)
    ]
    rows = logistic.run([*measures, *other], config(models="multivariable", combine=("metric",)))
    assert {(one.level, one.metric) for one in rows} == {("L5", "*"), ("S1", "*")}
    alone = logistic.run([*measures, *other], config(models="multivariable"))
    assert [one.contrast for one in alone[:4]] == [
        f"OR({level} {metric} per SD)" for level in ("L5", "S1") for metric in ("fa", "md")
    ]


def test_few_events_and_inflated_variance_are_warned_of() -> None:
    measures = study(24)
    near = Selected.of(
        measures[0].frame.assign(value=measures[0].frame["value"] + np.linspace(0, 1e-3, 24)), metric="ad"
    )
    few = logistic.run(measures, config(models="multivariable"))[0]
    assert "events per variable, fewer than 10" in few.warnings
    inflated = logistic.run([measures[0], near], config(models="multivariable"))[0]
    assert "the variance of" in inflated.warnings
    assert "events" not in logistic.run([study(80)[0]], config())[0].warnings


def test_separation_gives_a_reason_by_maximum_likelihood_and_a_finite_interval_by_firth() -> None:
    fa, _ = study(30)
    apart = Selected.of(
        fa.frame.assign(weak=np.where(fa.frame["value"] < 0.4, "1", "0")), metric="fa", region="nerve_root"
    )
    refused = logistic.run([apart], config(fit="ml"))
    assert refused[0].reason.startswith("complete separation")
    no_silent_gaps(refused)
    found = logistic.run([apart], config())[0]
    assert "complete separation" in found.warnings
    assert 0 < found.ci_low < found.estimate < found.ci_high < 1
    assert math.isfinite(found.p)


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda f: f.iloc[:0], {}, "no values"),
        (lambda f: f.assign(weak="1"), {}, "one class"),
        (lambda f: f.assign(weak="0"), {}, "one class: nobody with a value has weak 1"),
        (lambda f: f.assign(value=0.4), {}, "all values are the same"),
        (lambda f: f.assign(age=60.0), {"covariates": ("age",)}, "age has one value only"),
        (lambda f: f.assign(age=2 * f["value"]), {"covariates": ("age",)}, "age follows from fa"),
        (lambda f: f.iloc[[0, 1, 2]].assign(weak=["0", "1", "0"]), {"covariates": ("age",)}, "too few"),
    ],
)
def test_bad_input_is_a_row_with_its_reason(change: Any, options: dict[str, Any], reason: str) -> None:
    fa, md = study()
    bad = Selected.of(change(fa.frame), metric="fa", region="nerve_root")
    rows = logistic.run([bad, md], config(calibration=True, repeats=1, **options))
    no_silent_gaps(rows)
    assert reason in rows[0].reason
    assert rows[0].contrast == "OR(fa)"
    assert rows[1].reason == ""


def test_calibration_rows_count_everybody_once() -> None:
    fa, _ = study(82)
    rows = logistic.run([fa], config(calibration=True, repeats=3))
    no_silent_gaps(rows)
    groups = [one for one in rows if one.contrast.startswith("calibration group")]
    assert [one.n for one in groups] == [17, 17, 16, 16, 16]
    assert sum(one.estimate * one.n for one in groups) == pytest.approx((fa.frame["weak"] == "1").sum())
    predicted = [one.effect for one in groups]
    assert predicted == sorted(predicted)
    again = logistic.run([fa], config(calibration=True, repeats=3))
    assert repr(again) == repr(rows)
    few = logistic.run([study(9)[0]], config(calibration=True))
    assert "too few people of one outcome for 5 folds" in row(few, "calibration").reason


def test_calibration_tells_an_overfitted_model_from_a_sound_one() -> None:
    random = np.random.default_rng(1)
    sound, over = [], []
    for _ in range(4):
        x = random.normal(size=(400, 1))
        event = random.uniform(size=400) < expit(1.5 * x[:, 0])
        design = np.column_stack([np.ones(400), x])
        sound.append(crossval.validate(design, event, random, repeats=1).slope)
        many = np.column_stack([np.ones(50), random.normal(size=(50, 10))])
        event = random.uniform(size=50) < expit(many[:, 1])
        over.append(crossval.validate(many, event, random, repeats=2).slope)
    assert np.mean(sound) == pytest.approx(1, abs=0.1)
    assert np.mean(over) < 0.6


def test_folds_hold_both_outcomes_evenly() -> None:
    outcome = np.arange(32) < 11
    fold = crossval.folds(outcome, 5, np.random.default_rng(1))
    assert set(np.bincount(fold[outcome])) == {2, 3}
    assert set(np.bincount(fold[~outcome])) == {4, 5}
    assert np.ptp(np.bincount(fold)) <= 1
