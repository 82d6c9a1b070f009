"""Join the quality numbers of all sessions: one long table, one wide, and their dictionary.

The long table holds the rows of all sessions, in the order of their names. The wide one has a row per
session: its verdict, the reasons, and a column per number: `snr_b0`, and `snr_shell_b1000` where there is one
per shell.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from somite.errors import DatasetError, Problem
from somite.quality_table import COLUMNS, METRICS, dictionary
from somite.registry import Context, StepConfig, step
from somite.segments import NA

SESSION = ("participant_id", "session_id", "run", "protocol")
"""The columns that name a session."""

Row = dict[str, str]


class Config(StepConfig):
    """The table has no options."""


def read_qc(path: Path) -> list[Row]:
    """The rows of one session.

    Raises:
        DatasetError: `QC_TABLE`, the file cannot be read, has other columns or a row of another length, holds
            no row, or rows of several sessions.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            header, *rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    except (OSError, ValueError) as error:
        raise _unfit(path, str(error) or "an empty file") from error
    if header != list(COLUMNS) or any(len(row) != len(header) for row in rows):
        raise _unfit(path, "other columns, or a row of another length")
    named = [dict(zip(header, row, strict=True)) for row in rows]
    if len({session_of(row) for row in named}) != 1:
        raise _unfit(path, "rows of several sessions" if rows else "no row")
    return named


def session_of(row: Row) -> tuple[str, ...]:
    """The session that a row belongs to."""
    return tuple(row[name] for name in SESSION)


def _unfit(path: Path, found: str) -> DatasetError:
    return DatasetError(
        Problem(
            "QC_TABLE",
            "a table of quality numbers cannot be used",
            where=str(path),
            found=found,
            expected=f"the columns {', '.join(COLUMNS)}, and the rows of one session",
            do="run the participant level of this session again",
        )
    )


def gather(paths: Iterable[Path]) -> list[list[Row]]:
    """The rows of each session, sessions in the order of their names.

    Raises:
        DatasetError: all the problems of `read_qc`; `QC_DUPLICATE`, two files hold one session.
    """
    problems: list[Problem] = []
    sessions: dict[tuple[str, ...], tuple[Path, list[Row]]] = {}
    for path in paths:
        try:
            rows = read_qc(path)
        except DatasetError as error:
            problems += error.problems
            continue
        known = sessions.setdefault(session_of(rows[0]), (path, rows))
        if known[0] != path:
            problems.append(_twice(path, known[0]))
    if problems:
        raise DatasetError.of(problems)
    return [rows for _, (_, rows) in sorted(sessions.items())]


def _twice(path: Path, first: Path) -> Problem:
    return Problem(
        "QC_DUPLICATE",
        "two files hold the quality numbers of one session",
        where=str(path),
        found=str(first),
        expected="one file",
        do="remove the one that is out of date",
    )


def name_of(row: Row) -> str:
    """The column of the wide table for a row: `snr_shell_b1000`."""
    return row["metric"] + ("" if row["b_s_per_mm2"] == NA else f"_b{row['b_s_per_mm2']}")


def wide(sessions: Sequence[Sequence[Row]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the wide table: columns in the order of the metrics, then of b."""

    def place(row: Row) -> tuple[int, float]:
        return list(METRICS).index(row["metric"]), float(row["b_s_per_mm2"].replace(NA, "0"))

    numbers = [row for rows in sessions for row in rows if row["metric"] in METRICS]
    columns = list(dict.fromkeys(name_of(row) for row in sorted(numbers, key=place)))
    table = []
    for rows in sessions:
        values = {name_of(row): row["value"] for row in rows}
        overall: Row = next((row for row in rows if row["metric"] == "overall"), {})
        table.append(
            [
                *session_of(rows[0]),
                overall.get("verdict", NA),
                overall.get("reason", NA),
                *(values.get(name, NA) for name in columns),
            ]
        )
    return [*SESSION, "verdict", "reason", *columns], table


def wide_dictionary(columns: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Data dictionary of the wide table's columns of numbers."""
    entries = {}
    for column in columns:
        metric, _, b = column.rpartition("_b")
        metric, shell = (metric, f", b={b} s/mm2") if metric in METRICS and b.isdigit() else (column, "")
        if metric in METRICS:
            about = METRICS[metric]
            entries[column] = {
                "LongName": about.long_name + shell,
                "Description": about.description,
                "Units": about.unit,
            }
    return entries


def _write(path: Path, header: Iterable[str], rows: Iterable[Sequence[str]]) -> Path:
    lines = ["\t".join(row) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


Table = Annotated[Path, "Quality numbers of one session, TSV"]


@step(
    makes={
        "qc_table": "Quality numbers of all sessions, long, TSV",
        "qc_wide": "Quality numbers of all sessions, wide, TSV: a row per session",
        "qc_table_dictionary": "Columns of the long and the wide table, JSON",
    },
    dwi_copies=0.0,
)
def run(qc: tuple[Table, ...], config: Config, context: Context) -> tuple[Path, Path, Path]:  # noqa: ARG001
    """Join the quality numbers; without any, the tables have columns and no rows.

    Raises:
        DatasetError: `QC_TABLE` and `QC_DUPLICATE`, of all files together.
    """
    sessions = gather(qc)
    header, rows = wide(sessions)
    verdicts = [row[header.index("verdict")] for row in rows]
    context.numbers |= {"sessions": float(len(rows))}
    context.numbers |= {f"sessions_{v}": float(verdicts.count(v)) for v in ("pass", "warn", "fail")}
    words = context.folder / "qc_table_dictionary.json"
    entries = dictionary() | wide_dictionary(header)
    words.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return (
        _write(
            context.folder / "qc_table.tsv",
            COLUMNS,
            ([row[name] for name in COLUMNS] for rows_of in sessions for row in rows_of),
        ),
        _write(context.folder / "qc_wide.tsv", header, rows),
        words,
    )
