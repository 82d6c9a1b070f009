"""The recorded level and side is found where there is a lesion, and by chance only where there is none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cohort import SOMITE, call
from hypothesis import given
from hypothesis import strategies as st
from long_tables import read_segments, write_parquet
from pydantic import ValidationError
from scipy.stats import binom

from somite.analysis import clinical, ranking, stand_ins
from somite.analysis import symptomatic_level as symptomatic
from somite.analysis.cells import cells_of
from somite.analysis.choose import select
from somite.analysis.long import read_long
from somite.analysis.model import Affected, Cohort, Select
from somite.analysis.people import People, read_people
from somite.analysis.results import Result
from somite.analysis.selection import Selected
from somite.cli import main
from somite.errors import ConfigError
from somite.phantom.change import Change
from somite.phantom.cohort import Cohort as PhantomCohort
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

IMAGES = """\
extends: lumbar
denoise: {method: none, noise_floor: keep}
degibbs: {method: none}
eddy: {method: none}
norms: {min_controls: 4}
cohort: {controls: {group: control}}
analyses:
  which:
    kind: symptomatic_level
    against: other_side
    resamples: 200
    select: {region: nerve_root, metric: [fa, md], segment: foraminal_drg}
"""
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
    found = cells_of(frame, Affected())
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
    with pytest.raises(ValidationError, match="takes both group and reference"):
        config(against="reference", group="group")
    with pytest.raises(ValidationError, match="the others take neither"):
        config(against="self", group="group", reference="control")


def test_what_the_cohort_declares_need_not_be_said_again() -> None:
    declared = Cohort(
        controls={"diagnosis": ("healthy",)}, affected=Affected(side="bad_side", level="bad_level")
    )
    filled = config(against="reference").in_cohort(declared)
    names = [(one.name, one.levels) for one in filled.requirements()]
    assert names == [("bad_side", ()), ("bad_level", ()), ("diagnosis", ("healthy",))]
    own = config(affected=Affected(side="s", level="l")).in_cohort(declared)
    assert [one.name for one in own.requirements()] == ["s", "l"]
    with pytest.raises(ConfigError, match="CONTROLS"):
        config(against="reference").in_cohort(Cohort())
    fa = cohort(0.1)[0]
    frame = fa.frame.rename(columns={"affected_side": "bad_side", "affected_level": "bad_level"})
    other = Selected.of(frame, metric="fa", region="nerve_root", side="*", level="*")
    renamed = symptomatic.run([other], config().in_cohort(declared))
    assert [one.estimate for one in renamed] == [one.estimate for one in symptomatic.run([fa], config())]


def test_controls_stand_in_by_chance_where_all_places_are_alike() -> None:
    for way in WAYS:
        found = symptomatic.run(cohort(0.1, controls=60), config(**way))
        one, two = row(found, "stand-ins, top-1"), row(found, "stand-ins, top-2")
        assert (one.effect, two.effect) == (pytest.approx(1 / 8), pytest.approx(1 / 4))
        assert one.ci_low < 1 / 8 < one.ci_high
        assert one.estimate < 0.2 < row(found, "top-1").estimate
        assert one.n == 60
    assert not [
        one for one in symptomatic.run(cohort(0.1), config(stand_ins=False)) if "stand" in one.contrast
    ]


def test_stand_ins_show_a_place_that_looks_diseased_in_everybody() -> None:
    fa = cohort(0.0)[0]
    frame = fa.frame
    frame.loc[frame["affected_level"] != "", ["affected_level", "affected_side"]] = ["S1", "L"]
    low = (frame["level"] == "S1") & (frame["side"] == "L")
    frame.loc[low, "value"] -= 0.15 * (np.arange(low.sum()) % 3 == 0)  # a poor place in a third of all
    measure = Selected.of(frame, metric="fa", region="nerve_root", side="*", level="*")
    found = symptomatic.run([measure], config(against="other_side"))
    patients, others = row(found, "top-1"), row(found, "stand-ins, top-1")
    assert patients.estimate > 0.25  # no lesion, and beyond the 1/8 of counting
    assert others.estimate == pytest.approx(patients.estimate, abs=0.15)


def test_stand_ins_by_hand() -> None:
    z = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [np.nan, np.nan, 1.0]])
    recorded = np.array([[True, False, False], [True, False, False], [False, True, False]])
    np.testing.assert_allclose(stand_ins.hits(z, recorded, 1), [2 / 3, 0])
    np.testing.assert_allclose(stand_ins.hits(z, recorded, 2), [1, 1 / 3])
    assert np.isnan(stand_ins.interval(np.array([1.0]), np.random.default_rng(0), 200, 0.05)).all()


def phantom(folder: Path, *options: str) -> tuple[Path, People]:
    """A cohort from the command line, as a table that analyses read."""
    made = folder / "cohort"
    common = ["--patients", "25", "--controls", "25", "--table-only", "--seed", "3"]
    assert main(["phantom", "lumbar", str(made), *common, *options]) == 0
    found = clinical.files(made, Cohort())
    table = write_parquet(folder / "segments.parquet", read_segments(made / "group" / "segments.tsv"))
    return table, read_people(found.tables)


@pytest.mark.parametrize(("d", "found_share"), [("-3", 0.7), ("0", 0.0)])
def test_the_phantom_cohort_is_found_and_the_null_cohort_by_chance(
    tmp_path: Path, d: str, found_share: float
) -> None:
    table, people = phantom(tmp_path, "--lesion", "nerve_root:L:S1", "--d", d)
    select_ = Select(region="nerve_root", metric=("fa", "md"), segment="foraminal_drg")
    controls = Cohort(controls={"group": ("control",)})
    for against in ("self", "other_side", "reference"):
        analysis = config(against=against, select=select_).in_cohort(controls)
        rows = symptomatic.run(list(select(read_long(table), people, analysis)), analysis)
        no_silent_gaps(rows)
        top, stand = row(rows, "top-1", "*"), row(rows, "stand-ins, top-1", "*")
        assert (top.n, top.effect, stand.n) == (25, pytest.approx(1 / 8), 25)
        assert stand.estimate < 0.35
        if d == "0":
            assert top.p > 0.001
            assert top.estimate < 0.4
        else:
            assert top.estimate > found_share
            assert top.p < 1e-6


@pytest.mark.slow
def test_an_image_cohort_is_found_through_the_whole_path(tmp_path: Path) -> None:
    """Somite run on scans of four patients and four controls, a lesion of the left S1 root."""
    cohort_ = PhantomCohort(4, 4, d=-5.0, fa_sd=0.03, md_d=4.0)
    write_dataset(
        tmp_path / "bids",
        seed=2,
        snr=40.0,
        grid=lumbar_grid(2.0),
        cohort=cohort_,
        lesion=(Change("nerve_root", "L", "S1"),),
    )
    (tmp_path / "my.yaml").write_text(IMAGES)
    out = str(tmp_path / "out")
    told = call(
        [*SOMITE, "run", str(tmp_path / "bids"), out, "participant", "group", "-c", str(tmp_path / "my.yaml")]
    )
    assert told.code == 0, told.out + told.err
    results = (
        pd.read_csv(
            tmp_path / "out" / "group" / "analyses" / "which.tsv",
            sep="\t",
            na_values=["n/a"],
            keep_default_na=False,
        )
        .set_index(["metric", "contrast"])
        .sort_index()
    )
    top = results.loc[("*", "top-1")]
    assert (top["n"], top["estimate"]) == (4, 1.0)
    assert top["p"] < 0.001
    assert results.loc[("*", "stand-ins, top-1"), "estimate"] < 0.5
    scores = pd.read_csv(tmp_path / "out" / "group" / "reference.tsv", sep="\t", na_values=["n/a"])
    own = scores[(scores["source"] == "own controls") & (scores["metric"] == "fa")]
    here = own[(own["level"] == "S1") & (own["side"] == "L") & (own["segment"] == "foraminal_drg")]
    here = here.set_index("participant_id")["z"]
    assert here.iloc[4:].max() < here.iloc[:4].min()
    ratios = pd.read_csv(tmp_path / "out" / "group" / "affected.tsv", sep="\t", na_values=["n/a"])
    assert ratios["participant_id"].nunique() == 4
    status = call([*SOMITE, "status", out])
    assert status.code == 0
    assert "which" in status.out
