"""The tables of an analysis: results, how many were left out and why, and what all of it means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from somite import __version__
from somite.analysis import families
from somite.analysis.choose import Selection
from somite.analysis.families import Adjusted
from somite.analysis.model import AnalysisConfig
from somite.analysis.results import COLUMNS, Column, Result
from somite.analysis.rows import Left
from somite.analysis.selection import IDENTITY
from somite.analysis.sentences import sentence
from somite.segments import METRICS, field_text

ADDED: Mapping[str, Column] = {
    "p_adjusted": Column("number", "p-value, corrected for the tests of its family", "1"),
    "correction": Column("text", "How p was corrected"),
    "family": Column("text", "The tests that were corrected together; none where the test itself corrects"),
    "family_size": Column(
        "count", "Tests in the family; rows without p or with one that the test corrects do not count"
    ),
    "table_sha256": Column("text", "SHA-256 of the frozen table of segments, segments.parquet"),
    "somite_version": Column("text", "Version of Somite"),
    "sentence": Column("text", "The result in words"),
}
ALL: Mapping[str, Column] = {**COLUMNS, **ADDED}
"""Columns of the results, in order."""

FLOW: Mapping[str, Column] = {
    "analysis": Column("text", "Name of the analysis"),
    **{name: Column("text", COLUMNS[name].description + "; n/a for the whole analysis") for name in IDENTITY},
    "step": Column(
        "text", "cohort: before measures are looked at; measure: one measure; analysed: who is left"
    ),
    "reason": Column("text", "Why they were left out"),
    "n_out": Column("count", "Participants left out for this reason, wholly or with some rows"),
    "n_left": Column("count", "Participants who are left"),
    "participants": Column("text", "Who was left out, joined by ;"),
}

_ARROW = {"text": pa.string(), "number": pa.float64(), "count": pa.int64()}
Row = dict[str, Any]

MISSING: Mapping[str, str] = {
    "per_measure": "People were left out of each measure in which they lacked a value or a covariate",
    "complete": "People who lacked a value or a covariate in any measure were left out of all of them",
    "error": "Nobody might lack a value or a covariate, and nobody did",
}
"""What was done about missing values, in words."""


@dataclass(frozen=True)
class Freeze:
    """What an analysis rests on."""

    table_sha256: str
    inputs: Mapping[str, str]
    """Name of each file -> its SHA-256."""
    versions: Mapping[str, str]


def full_rows(
    results: Sequence[Result],
    mates: Sequence[Result],
    configs: Mapping[str, AnalysisConfig],
    units: Mapping[str, str],
    freeze: Freeze,
) -> list[Row]:
    """Results as rows of all columns.

    Args:
        results: of the analysis.
        mates: of the other analyses that share its family.
        configs: name of each of these analyses -> its options.
        units: metric -> unit, where the table of segments does not know the metric.
        freeze: what they rest on.
    """
    adjusted = families.adjust([*results, *mates], configs)[: len(results)]
    return [
        _full(result, one, units, configs[result.analysis].alpha, freeze)
        for result, one in zip(results, adjusted, strict=True)
    ]


def _full(result: Result, adjusted: Adjusted, units: Mapping[str, str], alpha: float, freeze: Freeze) -> Row:
    unit = units.get(result.metric, "")
    return {
        **{name: getattr(result, name) for name in COLUMNS},
        **asdict(adjusted),
        "table_sha256": freeze.table_sha256,
        "somite_version": __version__,
        "sentence": sentence(result, adjusted, unit, alpha),
    }


def units() -> dict[str, str]:
    """Metric -> unit, of the metrics that the table knows."""
    return {str(name): metric.unit for name, metric in METRICS.items()}


def flow(
    config: AnalysisConfig, people: int, before: Sequence[Left], selection: Selection, start: set[str]
) -> list[Row]:
    """Who was left out, step by step.

    Args:
        config: the analysis.
        people: everybody in participants.tsv or the table.
        before: who was left out of all analyses, in order; the first: who is not in the table.
        selection: the measures.
        start: who is in the table after `before`.
    """
    rows: list[Row] = []

    def add(step: str, reason: str, out: Sequence[str], left: int, identity: Mapping[str, str]) -> None:
        row = dict.fromkeys(IDENTITY, "") | dict(identity)
        told = {"step": step, "reason": reason, "n_out": len(out), "n_left": left}
        rows.append({"analysis": config.name, **row, **told, "participants": ";".join(out)})

    add("cohort", "in participants.tsv or the table", (), people, {})
    left = people
    stay = set(start)
    for place, one in enumerate(before):
        # Who lost several visits, each for another reason, is gone with the last of them.
        later = {who for other in before[place + 1 :] for who in other.participants}
        left -= len({*one.participants} - start - later)
        add("cohort", one.reason, one.participants, left, {})
    for one in selection.left:
        stay -= set(one.participants)
        add("cohort", one.reason, one.participants, len(stay), {})
    for identity, n, absent in selection.measures.account():
        here = len(stay)
        for reason, who in absent.items():
            add("measure", reason, who, 0, identity)
            rows[-1]["n_left"] = here = max(here - len(who), n)
        add("analysed", "", (), n, identity)
    return rows


def dictionary(
    config: AnalysisConfig, rows: Sequence[Row], flow_rows: Sequence[Row], freeze: Freeze
) -> dict[str, Any]:
    """The data dictionary of both tables, and under `Analysis` what the analysis was."""
    cohort = [row for row in flow_rows if row["step"] == "cohort"]
    return {
        "Analysis": {
            "Name": config.name,
            "Options": config.model_dump(mode="json"),
            "Formulas": sorted({row["formula"] for row in rows if row["formula"]}),
            "Tests": sorted({row["test"] for row in rows if row["test"]}),
            "Missing": MISSING[config.missing],
            "Participants": sorted({row["n"] for row in rows}),
            "Flow": [{key: row[key] for key in ("reason", "n_out", "n_left")} for row in cohort],
            "Rows": len(rows),
            "RowsWithoutNumber": sum(bool(row["reason"]) for row in rows),
            "Seed": config.seed,
            "TableSHA256": freeze.table_sha256,
            "Inputs": dict(freeze.inputs),
            "Versions": {"somite": __version__, **freeze.versions},
        },
        **{name: _entry(column) for name, column in ALL.items()},
        **{name: _entry(column) for name, column in FLOW.items() if name not in ALL},
    }


def _entry(column: Column) -> dict[str, str]:
    return {"Description": column.description} | ({"Units": column.units} if column.units else {})


def write_tsv(path: Path, columns: Mapping[str, Column], rows: Sequence[Row]) -> Path:
    """Write rows as TSV: numbers with 9 digits, n/a for what is not there."""
    lines = ["\t".join(columns), *("\t".join(field_text(row[name]) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def write_parquet(path: Path, columns: Mapping[str, Column], rows: Sequence[Row]) -> Path:
    """Write rows as Parquet, null for what is not there; each field carries its description."""
    schema = pa.schema(
        [
            pa.field(name, _ARROW[column.kind], metadata={"description": column.description})
            for name, column in columns.items()
        ]
    )
    arrays = [
        pa.array([_none(row[name]) for row in rows], field.type)
        for name, field in zip(columns, schema, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
    return path


def _none(value: Any) -> Any:
    return None if value == "" or value != value else value


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a dictionary."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
