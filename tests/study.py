"""A study of eight invented people with the tables of its group level, for the tests of analyses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from long_tables import ids, write_parquet, write_tsv

from somite.configs import reader
from somite.dataset.sessions import Plan
from somite.record import Record
from somite.registry import discover
from somite.workflows import analyses, session
from somite.workflows.participant import Place

GROUPS = ["patient", "patient", "control", "control", "patient", "control", "patient", "control"]
YAML = """\
extends: default
cohort: {exclusions: exclusions.tsv}
analyses:
  level:
    kind: compare
    group: diagnosis
    groups: [patient, control]
    select: {metric: fa, level: L5}
    family: {name: both, method: bonferroni}
  md:
    kind: compare
    group: diagnosis
    groups: [patient, control]
    select: {metric: md}
    family: {name: both, method: bonferroni}
"""


class Study:
    """A dataset with clinical data and the tables of its group level."""

    def __init__(self, root: Path, rows: pd.DataFrame) -> None:
        self.root, self.rows = root, rows
        self.bids, self.out = root / "bids", root / "out"
        (self.out / "group").mkdir(parents=True)
        self.people({"diagnosis": GROUPS, "age": [50 + 3 * i for i in range(8)]})
        self.exclude({"participant_id": ["sub-008"], "reason": ["withdrew"]})
        self.measure(rows)
        n = len(ids(8))
        quality = {"participant_id": ids(8), "session_id": ["n/a"] * n, "run": ["n/a"] * n}
        verdicts = ["fail" if i == 6 else "pass" for i in range(n)]
        write_tsv(self.out / "group" / "qc_wide.tsv", {**quality, "verdict": verdicts})

    def people(self, columns: dict[str, list[object]] | dict[str, list[str]]) -> None:
        write_tsv(self.bids / "participants.tsv", {"participant_id": ids(8), **columns})

    def exclude(self, columns: dict[str, list[str]]) -> None:
        write_tsv(self.bids / "exclusions.tsv", columns)

    def measure(self, rows: pd.DataFrame) -> None:
        write_parquet(self.out / "group" / "segments.parquet", rows)

    def place(self, yaml: str = YAML) -> Place:
        (self.root / "my.yaml").write_text(yaml)
        settings = reader.read(self.root / "my.yaml", discover())
        return Place(Plan(self.bids), settings, self.out, self.root / "work")

    def run(self, yaml: str = YAML) -> dict[str, Record]:
        place = self.place(yaml)
        analyses.forget(place)
        return {
            unit.label.removeprefix("analysis-"): session.run(unit, lambda event: None)
            for unit in analyses.units(place)
        }

    def states(self, yaml: str = YAML) -> dict[str, str]:
        done = self.run(yaml)
        assert {item.verdict for item in done.values()} == {"done"}, [
            str(p) for i in done.values() for p in i.problems
        ]
        return {name: item.steps[0].state for name, item in done.items()}

    def results(self, name: str) -> pd.DataFrame:
        return pd.read_csv(
            self.out / "group" / "analyses" / f"{name}.tsv",
            sep="\t",
            na_values=["n/a"],
            keep_default_na=False,
        )
