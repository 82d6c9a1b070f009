"""ROC analyses of measures: rows of known studies, and a row with its reason where there is no number."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from somite.analysis import roc
from somite.analysis.results import Result
from somite.analysis.selection import Selected


def config(**options: Any) -> roc.Config:
    return roc.Config(**({"name": "r", "outcome": "group", "event": "patient"} | options))


def study(
    d: float = 1.0, sizes: tuple[int, int] = (31, 69), seed: int = 1, metric: str = "fa", **columns: Any
) -> Selected:
    """Patients and controls, the patients d standard deviations lower."""
    random = np.random.default_rng(seed)
    value = np.concatenate([random.normal(-d, 1, sizes[0]), random.normal(0, 1, sizes[1])])
    n = len(value)
    frame = pd.DataFrame({"participant_id": [f"sub-{i:03}" for i in range(n)], "value": value})
    frame["group"] = np.where(np.arange(n) < sizes[0], "patient", "control")
    return Selected.of(frame.assign(**columns), metric=metric, region="nerve_root", level="L5", side="L")


def row(rows: list[Result], start: str) -> Result:
    found = [one for one in rows if one.contrast.startswith(start)]
    assert len(found) == 1, [one.contrast for one in rows]
    return found[0]


def no_silent_gaps(rows: list[Result]) -> None:
    """A row without an estimate has a reason; one with it has an interval or says why not."""
    for one in rows:
        assert math.isnan(one.estimate) == bool(one.reason), one
        if not one.reason and math.isnan(one.ci_low):
            assert "no interval" in one.warnings or one.ci_method.startswith("none"), one
        for field in fields(one):
            value = getattr(one, field.name)
            assert not (isinstance(value, float) and math.isinf(value)), (field.name, one)


@pytest.fixture(scope="module")
def asah(real_data: Path) -> list[Selected]:
    table = pd.read_csv(real_data / "tables" / "asah.csv")
    table["participant_id"] = [f"sub-{i:03}" for i in range(len(table))]
    return [
        Selected.of(
            table[["participant_id", "outcome", "gender"]].assign(value=table[name].astype(float)),
            metric=name,
        )
        for name in ("wfns", "s100b", "ndka")
    ]


def test_rows_of_a_published_study(asah: list[Selected]) -> None:
    options = {
        "outcome": "outcome",
        "event": "Poor",
        "compare": ("metric",),
        "between": "gender",
        "resamples": 300,
    }
    rows = roc.run(asah, config(**options))
    no_silent_gaps(rows)
    area = row(rows, "AUC(ndka)")
    assert area.estimate == pytest.approx(0.611957994579946)
    assert (area.effect_ci_low, area.effect_ci_high) == pytest.approx((0.501244999271703, 0.722670989888189))
    assert area.ci_low < 0.5 < area.effect_ci_low  # the logit's and the plain interval differ
    assert area.n_groups == "41/72"
    compared = row(rows, "AUC(wfns) - AUC(s100b)")
    assert f"{compared.statistic_value:.5f} {compared.p:.7f}" == "2.20898 0.0271758"
    cut = row(rows, "cut-off(s100b)")
    assert cut.estimate == pytest.approx(0.205)
    assert cut.ci_low <= cut.estimate <= cut.ci_high
    assert row(rows, "sensitivity(s100b above 0.205)").estimate == pytest.approx(26 / 41)
    women = row(rows, "AUC(ndka, gender Female)")
    # xrobin/pROC, test-ci.auc.R: the area of the women is 0.6671428571
    men = roc.run([asah[2]], config(**options | {"between": None, "only": {"gender": "Male"}}))[0]
    assert women.n_groups == "71/42"
    assert women.test == "DeLong test, unpaired"
    assert men.estimate == area.estimate  # `only` is applied before, by the selection


def test_the_direction_is_told_given_or_taken_from_the_data() -> None:
    measure = study()
    auto, lower, higher = (
        roc.run([measure], config(direction=d)) for d in ("auto", {"fa": "lower"}, "higher")
    )
    assert auto[0].estimate == lower[0].estimate == pytest.approx(1 - higher[0].estimate)
    assert "direction from the data" in auto[0].warnings
    assert "direction" not in lower[0].warnings
    assert lower[0].p == pytest.approx(higher[0].p)
    cut = row(lower, "cut-off").estimate
    values = measure.frame.set_index("group")["value"]
    assert row(lower, "sensitivity(fa below").estimate == pytest.approx((values["patient"] < cut).mean())
    own = roc.run([measure], config(direction="lower", cutoff=-0.5, prevalence=0.1))
    assert row(own, "specificity(fa below -0.5)").estimate == pytest.approx(
        (values["control"] >= -0.5).mean()
    )
    assert "data chose" not in row(own, "specificity").warnings
    bayes = [one for one in own if "prevalence" in one.contrast]
    assert [one.estimate_name for one in bayes] == ["PPV", "NPV"]
    assert bayes[0].estimate < row([o for o in own if o not in bayes], "PPV").estimate


def test_a_perfect_marker_has_an_interval_and_says_which() -> None:
    measure = study(d=20.0, sizes=(11, 21))
    rows = roc.run([measure], config())
    no_silent_gaps(rows)
    assert rows[0].estimate == 1
    assert 0.7 < rows[0].ci_low < rows[0].ci_high == 1
    assert "Newcombe" in rows[0].ci_method
    assert "no variance" in rows[0].warnings
    assert row(rows, "cut-off").effect == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.iloc[:0], "no values"),
        (lambda f: f[f["group"] == "control"], "one class: nobody with a value has group patient"),
        (lambda f: f[f["group"] == "patient"], "one class"),
        (lambda f: f.assign(value=0.3), "all values are the same"),
        (lambda f: f.assign(group=["patient", "a", "b", "c"] * 25), "several other values (a, b, c)"),
    ],
)
def test_bad_input_is_a_row_with_its_reason(change: Any, reason: str) -> None:
    measure = study()
    bad = Selected.of(change(measure.frame), metric="fa", region="nerve_root", level="L5", side="L")
    good = study(metric="md", seed=2)
    rows = roc.run([bad, good], config(compare=("metric",), combine=("metric",), between="rater"))
    no_silent_gaps(rows)
    first = rows[0]
    assert reason in first.reason
    assert (first.metric, first.level) == ("fa", "L5")
    assert math.isnan(first.p)
    assert next(one for one in rows if one.contrast == "AUC(md)").reason == ""


def test_one_patient_alone_and_a_marker_of_two_values() -> None:
    no_silent_gaps(roc.run([study(sizes=(1, 20))], config(combine=("metric",))))
    measure = study()
    two = Selected.of(measure.frame.assign(value=(measure.frame["value"] > 0).astype(float)), metric="fa")
    no_silent_gaps(roc.run([two], config()))


def roots(patients: int, controls: int, seed: int, spread: float = 1.0) -> Selected:
    """Eight roots of each person; most of the variation is between people."""
    random = np.random.default_rng(seed)
    rows = []
    for person in range(patients + controls):
        own = random.normal(-0.8 if person < patients else 0, spread)
        for level in ("L3", "L4", "L5", "S1"):
            for side in "LR":
                group = "patient" if person < patients else "control"
                rows.append((f"sub-{person:03}", group, level, side, own + random.normal(0, 0.3)))
    frame = pd.DataFrame(rows, columns=["participant_id", "group", "level", "side", "value"])
    return Selected.of(frame, metric="fa", region="nerve_root", level="*", side="*")


def test_roots_of_one_patient_widen_the_interval() -> None:
    measure = roots(20, 20, 3)
    clustered = roc.run([measure], config(repeated=("level", "side"), direction="lower"))
    no_silent_gaps(clustered)
    as_if = measure.frame.assign(participant_id=[str(i) for i in range(len(measure.frame))])
    naive = roc.run([Selected.of(as_if, metric="fa")], config(direction="lower"))
    width = [one[0].ci_high - one[0].ci_low for one in (clustered, naive)]
    assert clustered[0].estimate == pytest.approx(naive[0].estimate)
    assert width[0] > 2 * width[1]
    assert clustered[0].p > 10 * naive[0].p
    assert (clustered[0].n, clustered[0].n_groups) == (40, "160/160 rows")
    assert "cluster bootstrap" in row(clustered, "sensitivity").ci_method
    with pytest.raises(ValidationError, match="only bootstrap holds"):
        config(repeated=("level",), interval="logit")


@pytest.mark.slow
def test_the_cluster_bootstrap_covers_where_the_naive_interval_does_not() -> None:
    truth = float(norm.cdf(0.8 / np.sqrt(2 * (1 + 0.09))))
    held = np.zeros(2)
    for seed in range(200):
        measure = roots(20, 20, seed)
        clustered = roc.run([measure], config(repeated=("level", "side"), direction="lower", cutoff="none"))[
            0
        ]
        as_if = measure.frame.assign(participant_id=[str(i) for i in range(len(measure.frame))])
        naive = roc.run([Selected.of(as_if, metric="fa")], config(direction="lower", cutoff="none"))[0]
        held += [one.ci_low <= truth <= one.ci_high for one in (clustered, naive)]
    assert held[0] / 200 > 0.88
    assert held[1] / 200 < 0.7


def test_markers_of_roots_are_compared_by_the_same_resamples() -> None:
    fa, md = roots(20, 20, 3), roots(20, 20, 4)
    md = Selected.of(md.frame, metric="md", region="nerve_root", level="*", side="*")
    rows = roc.run([fa, md], config(repeated=("level", "side"), direction="lower", compare=("metric",)))
    compared = row(rows, "AUC(fa) - AUC(md)")
    assert compared.estimate == pytest.approx(rows[0].estimate - row(rows, "AUC(md)").estimate)
    assert compared.ci_low < compared.estimate < compared.ci_high
    again = roc.run([fa, md], config(repeated=("level", "side"), direction="lower", compare=("metric",)))
    assert again == rows or repr(again) == repr(rows)


def test_combined_markers_are_validated() -> None:
    fa, md, noise = study(1.0, seed=1), study(1.0, seed=2, metric="md"), study(0.0, seed=3, metric="rd")
    rows = roc.run([fa, md, noise], config(combine=("metric",), repeats=5, cutoff="none"))
    no_silent_gaps(rows)
    apparent, seen = row(rows, "AUC(fa + md + rd, apparent)"), row(rows, "AUC(fa + md + rd, cross-validated)")
    assert apparent.estimate > max(one.estimate for one in rows[:3])
    assert seen.estimate < apparent.estimate
    assert seen.ci_low < seen.estimate < seen.ci_high
    assert "too large" in apparent.warnings
    assert apparent.metric == "*"


def test_noise_is_found_to_be_noise_by_cross_validation() -> None:
    seen, apparent = [], []
    for seed in range(12):
        measures = [
            study(0.0, (20, 20), 10 * seed + k, metric) for k, metric in enumerate(("fa", "md", "ad", "rd"))
        ]
        rows = roc.run(measures, config(combine=("metric",), repeats=2, cutoff="none", resamples=200))
        apparent.append(rows[-2].estimate)
        seen.append(rows[-1].estimate)
    assert np.mean(apparent) > 0.6
    assert abs(np.mean(seen) - 0.5) < 3.3 * np.std(seen) / np.sqrt(12)


def test_who_lacks_a_marker_is_left_out_of_the_pair_and_counted() -> None:
    fa, md = study(seed=1), study(seed=2, metric="md")
    fewer = Selected.of(md.frame.iloc[5:], metric="md", region="nerve_root", level="L5", side="L")
    rows = roc.run([fa, fewer], config(compare=("metric",)))
    compared = row(rows, "AUC(fa) - AUC(md)")
    assert compared.n == 95
    assert compared.warnings.startswith("left out, as they lack one of the measures: 5 participants")
    assert "95 participants" not in compared.warnings


def test_options_that_contradict_each_other_are_refused() -> None:
    for wrong in (
        {"covariates": ("age",)},
        {"repeated": ("level",), "combine": ("metric",)},
        {"prevalence": 1.5},
    ):
        with pytest.raises(ValidationError):
            config(**wrong)


def test_the_same_marker_twice_has_no_difference_in_any_resample() -> None:
    fa = roots(20, 20, 3)
    twin = Selected.of(fa.frame, metric="md", region="nerve_root", level="*", side="*")
    rows = roc.run([fa, twin], config(repeated=("level", "side"), direction="lower", compare=("metric",)))
    compared = row(rows, "AUC(fa) - AUC(md)")
    assert (compared.estimate, compared.se) == (0, 0)
    assert compared.ci_method.startswith("none: the difference is the same")


def test_groups_are_compared_in_the_direction_of_all() -> None:
    fa = study(1.0)
    frame = fa.frame.assign(sex=["F", "M"] * 50)
    men = (frame["sex"] == "M") & (frame["group"] == "patient")
    frame.loc[men, "value"] += 1.6  # in men alone the patients are higher
    found = row(roc.run([Selected.of(frame, metric="fa")], config(between="sex")), "AUC(fa, sex F)")
    values = {
        sex: [part.loc[part["group"] == name, "value"].to_numpy() for name in ("patient", "control")]
        for sex, part in frame.groupby("sex")
    }
    areas = {sex: (up[:, None] < down).mean() for sex, (up, down) in values.items()}
    assert areas["M"] < 0.5
    assert found.estimate == pytest.approx(areas["F"] - areas["M"])
