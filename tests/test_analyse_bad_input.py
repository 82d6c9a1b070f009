"""What a person who declares an analysis may get wrong, or the data may lack: a reason, or a clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from long_tables import frame, ids, write_tsv
from study import GROUPS, Study

from somite.analysis import firth, logistic
from somite.analysis.clinical import check
from somite.analysis.selection import Selected

PLACE = "select: {side: L, level: L5}"
KINDS = {
    "groups": f"kind: compare, group: diagnosis, {PLACE}",
    "ranks": f"kind: compare, group: diagnosis, test: mann_whitney, {PLACE}",
    "adjusted": f"kind: compare, group: diagnosis, covariates: [age], {PLACE}",
    "sides": "kind: compare, paired: side, select: {level: L5}",
    "score": f"kind: correlate, columns: age, {PLACE}",
    "odds": f"kind: logistic, outcome: diagnosis, event: patient, fit: ml, {PLACE}",
    "curve": f"kind: roc, outcome: diagnosis, event: patient, resamples: 200, {PLACE}",
    "repeats": "kind: agreement, repeated: side, select: {level: L5}",
    "rows": "kind: mixed, fixed: [diagnosis], repeated: [side], select: {level: L5}",
    "nodes": "kind: profile, nodes: segments, along: level, group: diagnosis, permutations: 99, "
    "select: {side: L}",
}


def yaml(kinds: dict[str, str]) -> str:
    return "extends: default\nanalyses:\n" + "".join(
        f"  {name}: {{{text}}}\n" for name, text in kinds.items()
    )


def reasons(study: Study, change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, set[str]]:
    """Analysis -> why rows of FA have no number; every such row has a word, and those of MD stay."""
    study.measure(change(study.rows.copy()))
    study.states(yaml(KINDS))
    found = {}
    for name in KINDS:
        table = study.results(name)
        lacking = table[table["estimate"].isna()]
        assert lacking["reason"].notna().all(), (name, lacking["contrast"].tolist())
        assert table.loc[table["estimate"].notna(), "reason"].isna().all(), name
        assert not table["sentence"].str.contains("nan").any(), name
        found[name] = set(lacking.loc[lacking["metric"] == "fa", "reason"])
    return found


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, frame(ids(8)))


def fa(rows: pd.DataFrame) -> pd.Series:
    return rows["metric"] == "fa"


def patient(rows: pd.DataFrame) -> pd.Series:
    return rows["participant_id"].map(dict(zip(ids(8), GROUPS, strict=True))) == "patient"


def test_a_constant_metric(study: Study) -> None:
    found = reasons(study, lambda rows: rows.assign(value=rows["value"].where(~fa(rows), 0.4)))
    same = "all values are the same"
    assert found["score"] == {"all values of fa are the same"}
    assert found["sides"] == {"both of every pair are the same"}
    assert found["nodes"] == {"all values are the same at L4, L5"}
    for name in ("groups", "ranks", "adjusted", "odds", "curve", "repeats", "rows"):
        assert found[name] == {same}


def test_all_missing(study: Study) -> None:
    found = reasons(study, lambda rows: rows.assign(value=rows["value"].where(~fa(rows))))
    for name in set(KINDS) - {"sides", "repeats"}:
        assert {text.partition(" (")[0] for text in found[name]} == {
            "no values: all are missing or left out"
        }, name
    assert found["groups"] == {"no values: all are missing or left out (no value: 7)"}
    assert {text.partition(" (")[0] for text in found["sides"]} == {"nothing to pair: all are missing"}


def test_who_lacks_a_covariate_is_told(study: Study) -> None:
    study.people({"diagnosis": GROUPS, "age": ["n/a"] * 8})
    found = reasons(study, lambda rows: rows)
    assert found["adjusted"] == {"no values: all are missing or left out (no age: 7)"}
    assert not found["groups"]


def test_perfect_separation(study: Study) -> None:
    def separated(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(value=rows["value"] + 10 * (patient(rows) & fa(rows)))

    found = reasons(study, separated)
    assert "complete separation: maximum likelihood has no finite estimate; take fit: firth" in found["odds"]
    curve = study.results("curve")
    area = curve[(curve["estimate_name"] == "AUC") & (curve["metric"] == "fa")].iloc[0]
    assert (area["estimate"], area["ci_high"]) == (1, 1)
    assert "the interval is Newcombe's" in area["warnings"]


def test_one_group_and_a_group_of_one(study: Study) -> None:
    alone = ["sub-001", "sub-003", "sub-004", "sub-006"]
    found = reasons(study, lambda rows: rows[rows["participant_id"].isin(alone)])
    for name in ("groups", "ranks", "adjusted"):
        assert found[name] == {"one person only of diagnosis patient has a value"}
    assert found["nodes"] == {"fewer than two people in a group: 3/1"}
    found = reasons(study, lambda rows: rows[patient(rows)])
    assert found["groups"] == {"all are of one group: diagnosis is patient"}
    assert found["odds"] == found["curve"] == {"one class: everybody with a value has diagnosis patient"}
    assert found["nodes"] == {"all are of one group: diagnosis is patient"}
    assert found["rows"] == {"diagnosis has one value only: patient"}
    found = reasons(study, lambda rows: rows[rows["participant_id"] == "sub-001"])
    assert found["score"] == {"too few people: 1, and a correlation needs 4"}
    assert found["sides"] == {"too few pairs: 1, and 3 are needed"}
    assert found["repeats"] == {"too few people with all 2 repeats: 1, and 3 are needed"}
    assert found["rows"] == {"too few people: 1, and 3 are needed"}


def test_a_group_whose_values_are_all_the_same(study: Study) -> None:
    found = reasons(
        study, lambda rows: rows.assign(value=rows["value"].where(~(fa(rows) & patient(rows)), 0.4))
    )
    assert found["groups"] == {"all values of diagnosis patient are the same: their spread is not known"}
    assert "all values of a group are the same: their spread is not known" in found["nodes"]


def test_a_scan_that_stands_twice_is_not_two_people(study: Study) -> None:
    study.measure(pd.concat([study.rows, study.rows]))
    done = study.run(yaml({"groups": KINDS["groups"]}))
    (problem,) = done["groups"].problems
    assert (problem.code, problem.where) == ("MANY_ROWS", "analyses.groups.select")
    assert problem.what.startswith("sub-001 has 2 rows in nerve_root L L5 fa")
    assert problem.do.startswith("take the second of them out of the table")


@pytest.mark.parametrize(
    ("text", "code", "where", "do"),
    [
        ("kind: compare, group: diagnosis, covariates: [agee]", "COLUMN_UNKNOWN", "covariates", "age"),
        ("kind: compare, group: diagnos", "COLUMN_UNKNOWN", "group", "diagnosis"),
        ("kind: compare, group: diagnosis, groups: [pateint, control]", "GROUP_UNKNOWN", "groups", "patient"),
        ("kind: roc, outcome: diagnosis, event: patients", "GROUP_UNKNOWN", "event", "patient"),
        ("kind: logistic, outcome: diagnosis, event: controll", "GROUP_UNKNOWN", "event", "control"),
        (
            "kind: mixed, fixed: [diagnosis], repeated: [side], reference: {diagnosis: contrl}",
            "GROUP_UNKNOWN",
            "reference.diagnosis",
            "control",
        ),
        ("kind: profile, group: diagnosis, groups: [patient, contro]", "GROUP_UNKNOWN", "groups", "control"),
        ("kind: compare, paired: side, only: {diagnosis: p}", "GROUP_UNKNOWN", "only.diagnosis", ""),
        ("kind: correlate, columns: diagnosis", "COLUMN_NOT_NUMBERS", "columns", ""),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_told_in_the_plan_with_the_nearest(
    study: Study, text: str, code: str, where: str, do: str
) -> None:
    place = study.place(yaml({"mine": text}))
    (problem,) = check(study.bids, place.settings.cohort, place.settings.analyses)
    assert (problem.code, problem.where.partition(";")[0]) == (code, f"analyses.mine.{where}")
    assert not do or problem.do == f"did you mean {do}?"


def test_a_participant_who_stands_twice_is_told_in_the_plan(study: Study) -> None:
    twice = {"participant_id": [*ids(8), "sub-003"], "diagnosis": [*GROUPS, "control"], "age": range(9)}
    write_tsv(study.bids / "participants.tsv", twice)
    place = study.place(yaml({"groups": KINDS["groups"]}))
    (problem,) = check(study.bids, place.settings.cohort, place.settings.analyses)
    assert (problem.code, problem.what) == ("PARTICIPANT_TWICE", "sub-003 stands more than once")
    assert problem.found == "lines 4, 10"


@pytest.mark.parametrize(
    ("fit", "module", "word"), [("firth", firth, "penalised"), ("ml", logistic, "maximum")]
)
def test_a_model_that_does_not_converge_is_a_row_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, fit: str, module: object, word: str
) -> None:
    random = np.random.default_rng(1)
    sick = np.arange(40) % 2
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02d}" for i in range(40)],
            "value": random.normal(sick, 1),
            "weak": sick.astype(str),
        }
    )
    config = logistic.Config.model_validate(
        {"outcome": "weak", "event": "1", "fit": fit, "calibration": False}
    )
    assert np.isfinite(logistic.run([Selected.of(table)], config)[0].estimate)
    monkeypatch.setattr(module, "_MOST_STEPS", 1)
    (row,) = logistic.run([Selected.of(table)], config)
    assert "did not converge" in row.reason
    assert word in row.reason
    assert np.isnan(row.estimate)
