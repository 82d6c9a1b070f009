"""Own norms, z-scores and the affected side at the group level: made where they are declared, and cached."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from long_tables import write_tsv

from somite.analysis.clinical import check
from somite.configs import reader
from somite.dataset.sessions import Plan
from somite.errors import DatasetError
from somite.record import Record
from somite.registry import discover
from somite.segments import write_table
from somite.workflows import group, session
from somite.workflows.group import Member
from somite.workflows.participant import Place

DECLARED = "cohort: {controls: {group: control}, age: years}\n"
N = 9


class Tables:
    """A dataset of eight controls and a patient, and the segments that were measured in them."""

    def __init__(self, root: Path) -> None:
        self.root, self.bids, self.out = root, root / "bids", root / "out"
        self.ids = [f"sub-{i:02}" for i in range(N)]
        self.people()
        for i, who in enumerate(self.ids):
            self.measure(who, 0.4 + 0.01 * (i % 4))

    def people(self, patient: int = 8, **more: list[object]) -> None:
        groups = ["patient" if i == patient else "control" for i in range(N)]
        columns = {"participant_id": self.ids, "group": groups, "years": [30 + i**2 for i in range(N)]}
        write_tsv(self.bids / "participants.tsv", {**columns, **more})

    def measure(self, who: str, value: float) -> None:
        shared = {
            "participant_id": who,
            "protocol": "lumbar",
            "region": "nerve_root",
            "level": "L5",
            "statistic": "mean",
            "n_voxels": 20,
            "n_effective": 20.0,
            "extraction": "label",
            "qc_status": "pass",
        }
        rows = [
            {
                **shared,
                "side": side,
                "metric": "fa",
                "value": value - 0.1 * (side == "R"),
                "se": 0.01,
                "unit": "1",
            }
            for side in "LR"
        ]
        path = self.path(who)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, rows)

    def path(self, who: str) -> Path:
        return self.out / who / f"{who}_desc-segments_stats.tsv"

    def place(self, yaml: str) -> Place:
        (self.root / "my.yaml").write_text("extends: lumbar\n" + yaml)
        return Place(
            Plan(self.bids), reader.read(self.root / "my.yaml", discover()), self.out, self.root / "work"
        )

    def run(self, yaml: str = "") -> Record:
        members = [
            Member(who, who, "", "", "done", "", None, (self.path(who).relative_to(self.out).as_posix(),))
            for who in self.ids
        ]
        done = session.run(group.unit(self.place(yaml), members), lambda event: None)
        assert done.verdict == "done", [str(problem) for problem in done.problems]
        return done

    def table(self, name: str) -> pd.DataFrame:
        path = self.out / "group" / f"{name}.tsv"
        return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)

    def names(self) -> set[str]:
        return {path.name for path in (self.out / "group").iterdir()}


def states(done: Record) -> dict[str, str]:
    return {step.step: step.state for step in done.steps}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_without_a_declaration_there_are_neither_norms_nor_ratios(tables: Tables) -> None:
    done = tables.run()
    assert set(states(done)) == {"table", "profile_table", "reference", "qc_table"}
    assert not {"norms.tsv", "affected.tsv"} & tables.names()
    assert done.steps[0].inputs.keys().isdisjoint({"clinical"})


def test_every_table_of_the_group_has_its_dictionary(tables: Tables) -> None:
    tables.people(affected_side=["n/a"] * 8 + ["R"])
    tables.run(DECLARED)
    for name in tables.names():
        if name.endswith((".tsv", ".parquet")):
            stem = "segments" if name.startswith("segments") else name.partition(".")[0].removesuffix("_wide")
            told = json.loads((tables.out / "group" / f"{stem}.json").read_text())
            if name.endswith(".tsv") and not name.startswith("qc"):
                assert set(tables.table(name.removesuffix(".tsv")).columns) <= set(told), name
    assert {"norms.json", "reference.json", "affected.json", "derived.json"} <= tables.names()


def test_declared_controls_make_norms_and_judge_each_other(tables: Tables) -> None:
    tables.run(DECLARED)
    norms = tables.table("norms").set_index("side")
    controls = [0.4 + 0.01 * (i % 4) for i in range(8)]
    assert norms.loc["L", "mean"] == pytest.approx(np.mean(controls))
    years = np.array([30 + i**2 for i in range(8)])
    assert norms.loc["L", "age_slope"] == pytest.approx(np.polyfit(years, controls, 1)[0])
    assert set(norms["protocol"]) == {"lumbar"}
    scores = tables.table("reference")
    own = scores[scores["source"] == "own controls"]
    assert len(own) == 2 * N
    left = own[own["side"] == "L"].set_index("participant_id")
    assert (left.loc[tables.ids[:8], "reference_n"] == 7).all()
    assert left.loc["sub-08", "reference_n"] == 8
    slope, intercept = np.polyfit(years[1:], controls[1:], 1)
    assert left.loc["sub-00", "reference_mean"] == pytest.approx(intercept + slope * years[0])
    assert (scores["source"] != "own controls").sum() > 0  # the published ones stay beside them


def test_the_norms_follow_the_scans_and_the_clinical_table(tables: Tables) -> None:
    tables.run(DECLARED)
    assert set(states(tables.run(DECLARED)).values()) == {"cached"}
    tables.people(patient=0)
    again = states(tables.run(DECLARED))
    assert (again["norms"], again["reference"], again["table"]) == ("run", "run", "cached")
    assert (
        tables.table("reference")
        .set_index(["participant_id", "side", "source"])
        .loc[("sub-00", "L", "own controls"), "reference_n"]
        == 8
    )
    before = tables.table("norms")["mean"]
    tables.measure("sub-01", 0.9)
    assert states(tables.run(DECLARED))["norms"] == "run"
    assert (tables.table("norms")["mean"] > before + 0.04).all()
    tables.run()
    assert "norms.tsv" not in tables.names()


def test_the_excluded_have_no_part_in_the_norms(tables: Tables) -> None:
    write_tsv(tables.bids / "out.tsv", {"participant_id": ["sub-01"], "reason": ["withdrew"]})
    tables.run("cohort: {controls: {group: control}, exclusions: out.tsv}\n")
    assert (tables.table("norms")["n"] == 7).all()


def test_the_affected_side_comes_from_any_clinical_table(tables: Tables) -> None:
    sides = ["n/a"] * 7 + ["left", "R"]
    write_tsv(tables.bids / "phenotype" / "clinic.tsv", {"participant_id": tables.ids, "bad_side": sides})
    done = tables.run("cohort: {affected: {side: bad_side}}\n")
    assert set(states(done)) == {"table", "profile_table", "reference", "qc_table", "affected"}
    found = tables.table("affected").set_index("participant_id")["value"]
    assert found.to_dict() == pytest.approx({"sub-07": 0.43 / 0.33, "sub-08": 0.30 / 0.40})


def test_the_affected_side_may_differ_between_sessions(tables: Tables) -> None:
    write_tsv(
        tables.bids / "sub-08" / "sub-08_sessions.tsv", {"session_id": ["ses-1"], "affected_side": ["L"]}
    )
    tables.run()
    assert tables.table("affected").empty  # nobody was measured in that session


def test_given_norms_are_compared_with_and_those_of_the_cohort_refused(tables: Tables) -> None:
    own = "region\tside\tlevel\tsegment\tmetric\tmean\tsd\tn\tunit\n"
    (tables.bids / "mine.tsv").write_text(own + "nerve_root\t*\t*\tn/a\tfa\t0.5\t0.1\t30\t1\n")
    tables.run("cohort: {norms: mine.tsv}\n")
    scores = tables.table("reference")
    mine = scores[scores["reference_mean"] == 0.5]
    assert len(mine) == 2 * N
    assert mine["z"].tolist() == pytest.approx([(value - 0.5) / 0.1 for value in mine["value"]])
    tables.run(DECLARED)
    place = tables.place(f"cohort: {{controls: {{group: control}}, norms: {tables.out}/group/norms.tsv}}\n")
    with pytest.raises(DatasetError, match="NORMS_CIRCULAR"):
        group.unit(place, [])


def test_a_clinical_table_that_nobody_asked_for_does_not_take_the_tables_away(tables: Tables) -> None:
    (tables.bids / "participants.tsv").write_text("name\tgroup\nx\ty\n")
    done = tables.run()
    assert [(warning.code, warning.severity) for warning in done.warnings] == [("PEOPLE_TABLE", "warning")]
    with pytest.raises(DatasetError, match="PEOPLE_TABLE"):
        group.unit(tables.place(DECLARED), [])


@pytest.mark.parametrize(
    ("yaml", "code", "where", "do"),
    [
        ("{controls: {grup: control}}", "COLUMN_UNKNOWN", "cohort.controls.grup", "did you mean group?"),
        ("{controls: {group: contrl}}", "GROUP_UNKNOWN", "cohort.controls.group", "did you mean control?"),
        ("{controls: {group: control}, age: year}", "COLUMN_UNKNOWN", "cohort.age", "did you mean years?"),
        ("{affected: {side: side}}", "COLUMN_UNKNOWN", "cohort.affected.side", ""),
        ("{norms: none.tsv}", "NORMS", "none.tsv", ""),
    ],
)
def test_planning_names_what_the_cohort_gets_wrong(
    tables: Tables, yaml: str, code: str, where: str, do: str
) -> None:
    settings = tables.place(f"cohort: {yaml}\n").settings
    (problem,) = check(tables.bids, settings.cohort, {})
    assert problem.code == code
    assert where in problem.where
    assert do in problem.do
