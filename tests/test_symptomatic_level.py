"""The recorded level and side is found where there is a lesion, and by chance only where there is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binom

from somite.analysis import ranking
from somite.analysis import symptomatic_level as symptomatic
from somite.analysis.results import Result
from somite.analysis.selection import Selected

LEVELS = ("L3", "L4", "L5", "S1")
WAYS: tuple[dict[str, Any], ...] = (
    {"against": "self"},
    {"against": "other_side"},
    {"against": "reference", "group": "group", "reference": "control"},
)


def config(**options: Any) -> symptomatic.Config:
    return symptomatic.Config(**({"name": "s", "resamples": 200, "patients": False} | options))


def cohort(effect: float, seed: int = 1, patients: int = 40, controls: int = 30) -> list[Selected]:
    """FA falls from level to level and differs between people; the recorded root has `effect` less."""
    random = np.random.default_rng(seed)
    rows = []
    for person in range(patients + controls):
        sick = person < patients
        level, side = random.choice(LEVELS), random.choice(["L", "R"])
        own = random.normal(0, 0.03)
        for step, one in enumerate(LEVELS):
            for other in "LR":
                hit = effect * (sick and one == level and other == side)
                rows.append(
                    {
                        "participant_id": f"sub-{person:03}",
                        "group": "patient" if sick else "control",
                        "affected_level": level if sick else "",
                        "affected_side": {"L": "left", "R": "R"}[side] if sick else "",
                        "level": one,
                        "side": other,
                        "fa": 0.40 - 0.02 * step + own + random.normal(0, 0.02) - hit,
                        "md": 1.3 + 0.05 * step - own + random.normal(0, 0.06) + 3 * hit,
                    }
                )
    frame = pd.DataFrame(rows)
    return [
        Selected.of(
            frame.drop(columns=["fa", "md"]).assign(value=frame[metric]),
            metric=metric,
            region="nerve_root",
            side="*",
            level="*",
        )
        for metric in ("fa", "md")
    ]


def row(rows: list[Result], contrast: str, metric: str = "fa") -> Result:
    return next(one for one in rows if one.contrast.startswith(contrast) and one.metric == metric)


def no_silent_gaps(rows: list[Result]) -> None:
    for one in rows:
        assert math.isnan(one.estimate) == bool(one.reason), one
        assert one.reason or not math.isnan(one.ci_low) or one.ci_method.startswith("none"), one


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way["against"])
def test_a_lesion_is_found(way: dict[str, Any]) -> None:
    rows = symptomatic.run(cohort(0.10), config(**way))
    no_silent_gaps(rows)
    for metric in ("fa", "md", "*"):
        top = row(rows, "top-1", metric)
        assert top.estimate > 0.7
        assert top.p < 1e-6
        assert top.effect == pytest.approx(1 / 8)
        assert top.p == pytest.approx(binom.sf(top.statistic_value - 1, 40, 1 / 8))
        assert row(rows, "top-2", metric).estimate >= top.estimate
        assert row(rows, "AUC of z", metric).estimate > 0.9
    for name in ("sensitivity", "specificity"):
        assert row(rows, name, "*").estimate > 0.8


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way["against"])
def test_where_there_is_none_it_is_found_by_chance(way: dict[str, Any]) -> None:
    hits, p, youden = [], [], []
    for seed in range(25):
        rows = symptomatic.run(cohort(0.0, 100 + seed, 24, 20)[:1], config(**way))
        hits.append([row(rows, name).estimate for name in ("top-1", "top-2", "level", "side")])
        p.append(row(rows, "top-1").p)
        youden.append(row(rows, "sensitivity").estimate + row(rows, "specificity").estimate - 1)
    mean, error = np.mean(hits, axis=0), np.std(hits, axis=0) / 5
    assert (np.abs(mean - [1 / 8, 1 / 4, 1 / 4, 1 / 2]) < 3.3 * error).all(), mean
    assert np.mean(np.array(p) < 0.05) <= 0.2
    assert np.mean(youden) < 0.05  # a cut-off from the patient's own cells would seem to tell them apart


def test_a_patient_has_no_part_in_their_own_norm() -> None:
    values = np.random.default_rng(1).normal(size=(6, 8))
    pairs = np.arange(8).reshape(4, 2)[:, ::-1].ravel()
    everyone = np.ones(6, bool)
    for score in (
        lambda v: ranking.against_reference(v, everyone),
        lambda v: ranking.against_other_side(v, pairs),
    ):
        moved = values.copy()
        moved[2, 3] += 100
        before, after = score(values), score(moved)
        np.testing.assert_allclose(np.delete(after[2], [2, 3]), np.delete(before[2], [2, 3]))
        step = (after[2, 3] - before[2, 3]) / 100
        assert step > 0
        moved[2, 3] += 100
        assert score(moved)[2, 3] - after[2, 3] == pytest.approx(100 * step)  # linear: the spread is others'


def test_z_against_the_reference_is_that_of_one_further_value() -> None:
    values = np.array([[2.0], [0.0], [1.0], [-1.0], [0.5]])
    reference = np.array([False, True, True, True, True])
    others = values[1:, 0]
    expected = (2 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 4))
    assert ranking.against_reference(values, reference)[0, 0] == pytest.approx(expected)
    assert np.isnan(ranking.against_reference(values, np.array([False, True, True, False, False]))[0, 0])


def test_the_usual_course_over_the_levels_is_no_evidence() -> None:
    course = np.repeat([0.40, 0.36, 0.32, 0.28], 2)
    values = course + np.random.default_rng(1).normal(0, 0.01, (12, 8)) + np.linspace(0, 0.2, 12)[:, None]
    z = ranking.against_self(values)
    assert np.abs(z.mean(0)).max() < 1
    assert np.unique(z.argmin(1)).size > 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_law_of_chance_hits(chances: list[float]) -> None:
    law = ranking.hits_by_chance(np.array(chances))
    assert law.sum() == pytest.approx(1)
    assert law @ np.arange(len(law)) == pytest.approx(sum(chances))


def test_chance_of_several_recorded_cells() -> None:
    found = ranking.chance(np.array([8, 8, 2]), np.array([1, 2, 1]), 2)
    np.testing.assert_allclose(found, [2 / 8, 1 - 6 / 8 * 5 / 7, 1])


def test_the_usual_course_is_that_of_the_others() -> None:
    values = np.random.default_rng(3).normal(size=(3, 6))
    level = values[1:] - np.median(values[1:], axis=1)[:, None]
    rest = values[0] - np.median(level, axis=0)
    others = rest[1:]
    expected = (rest[0] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert ranking.against_self(values)[0, 0] == pytest.approx(expected)


def test_ties_share_ranks() -> None:
    found = ranking.rank(np.array([1.0, 3.0, 3.0, np.nan]), np.array([False, True, False, True]))
    assert found is not None
    assert (found.rank, found.cells, found.top) == (1.5, 3, 1)
    assert ranking.rank(np.array([np.nan, 1.0]), np.array([True, False])) is None


def test_rows_of_patients_name_what_stood_out() -> None:
    rows = symptomatic.run(cohort(0.2, patients=5)[:1], config(patients=True))
    own = [one for one in rows if one.contrast.startswith("sub-")]
    assert len(own) == 5
    assert own[0].contrast.startswith("sub-000: recorded ")
    assert own[0].n == 1
    assert {one.estimate for one in own} == {1.0}


def test_both_sides_and_several_levels_count_as_recorded() -> None:
    fa = cohort(0.2, patients=6)[0]
    frame = fa.frame
    frame.loc[frame["participant_id"] == "sub-000", ["affected_level", "affected_side"]] = ["L3;L4", "both"]
    found = symptomatic.cells_of(frame, config())
    assert found.recorded[0].reshape(4, 2).tolist() == [[True, True], [True, True], [False] * 2, [False] * 2]
    assert found.recorded.sum(1)[1:6].tolist() == [1] * 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.iloc[:0], "no values"),
        (lambda f: f.assign(affected_level="", affected_side=""), "nobody has a recorded"),
        (lambda f: f.assign(affected_side="middle"), "no side: middle"),
        (lambda f: f[(f["level"] == "L5") & (f["side"] == "L")], "nothing to rank"),
        (lambda f: f.assign(value=0.3), "no z score"),
        (lambda f: f[f["participant_id"] == "sub-000"].assign(affected_level="L3").iloc[:2], "no z score"),
    ],
)
def test_bad_input_is_a_row_with_its_reason(change: Any, reason: str) -> None:
    fa, md = cohort(0.1)
    bad = Selected.of(change(fa.frame), metric="fa", region="nerve_root", side="*", level="*")
    rows = symptomatic.run([bad, md], config())
    no_silent_gaps(rows)
    assert reason in rows[0].reason
    assert any(one.metric == "md" and one.contrast == "top-1" for one in rows)


def test_a_metric_without_a_direction_has_a_reason() -> None:
    fa = cohort(0.1)[0]
    other = Selected.of(fa.frame, metric="s0", region="nerve_root", side="*", level="*")
    assert "towards does not say" in symptomatic.run([other], config())[0].reason


def test_who_was_not_measured_where_recorded_is_counted() -> None:
    fa = cohort(0.1)[0]
    frame = fa.frame
    first = frame["participant_id"] == "sub-000"
    gone = first & (frame["level"] == frame["affected_level"])
    some = Selected.of(frame[~gone], metric="fa", region="nerve_root", side="*", level="*")
    found = row(symptomatic.run([some], config()), "top-1")
    assert found.n == 39
    assert "1 patients have no z score" in found.warnings


def test_the_reference_needs_its_group() -> None:
    with pytest.raises(ValidationError, match="needs both group and reference"):
        config(against="reference")
    with pytest.raises(ValidationError, match="the others take neither"):
        config(against="self", group="group", reference="control")
