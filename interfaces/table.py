"""Join the segments of all sessions: one long table, the same as Parquet, one wide, and their dictionary.

The long TSV and the Parquet file hold the same rows: sessions in the order of their names, within a session
the order of its file. The wide table (`somite.wide_table`) has one row per session and one column per
segment, metric and statistic: `fa__mean__nerve_root__R__L5__foraminal_drg`, `md__median__canal__midline`,
of measured and of derived metrics: `fa_asymmetry__mean__gracilis`.

Comparisons of segments and their measures without border or doubtful voxels have long tables of their own.

Sessions are read one at a time: memory grows with the wide table only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from somite.derived import DERIVED
from somite.errors import DatasetError, Problem
from somite.long_table import Key, Parquet, Schema, as_lines, in_order, problem_of, read_stats
from somite.registry import Context, StepConfig, step
from somite.segments import COLUMNS, SCHEMA, dictionary
from somite.sensitivity import SENSITIVITY_SCHEMA
from somite.wide_table import Wide


class Config(StepConfig):
    """The table has no options."""


Stats = Annotated[Path, "Segments of one session, TSV: a row per segment, metric and statistic"]
Derived = Annotated[Path, "Comparisons of segments of one session, TSV"]
Variants = Annotated[Path, "Segments of one session measured again, TSV: a row per variant"]


@dataclass
class Joined:
    """Tables of sessions, joined one after the other; what is wrong with them is collected."""

    schema: Schema
    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    """Read so far."""

    def tables(self, paths: Sequence[Path]) -> list[tuple[Key, Path]]:
        """Sessions with their files, in order."""
        try:
            return in_order(paths, self.schema)
        except DatasetError as error:
            self.problems.extend(error.problems)
            return []

    def read(self, path: Path) -> Any | None:
        """A table; None where it cannot be read."""
        try:
            table = read_stats(path, self.schema)
        except DatasetError as error:
            self.problems.extend(error.problems)
            return None
        self.rows += len(table)
        return table


@step(
    makes={
        "segments_table": "Segments of all sessions, long, TSV",
        "segments_parquet": "Segments of all sessions, long, Parquet",
        "segments_wide": "Segments of all sessions, wide, TSV: a row per session",
        "segments_dictionary": "Columns of the long and the wide table, JSON",
        "derived_table": "Comparisons of segments of all sessions, long, TSV",
        "derived_dictionary": "Columns of the comparisons, JSON",
        "sensitivity_parquet": "Segments of all sessions measured again, long, Parquet",
        "sensitivity_dictionary": "Columns of the segments measured again, JSON",
    },
    dwi_copies=0.0,
)
def run(
    stats: tuple[Stats, ...],
    config: Config,  # noqa: ARG001
    context: Context,
    derived: tuple[Derived, ...] | None = None,
    sensitivity: tuple[Variants, ...] | None = None,
) -> tuple[Path, ...]:
    """Join the files of the sessions; without any, the tables have columns and no rows.

    Raises:
        DatasetError: see `in_order`, `read_stats` and `Wide.add`; `TABLE_SESSION`, comparisons of a session
            without its segments; the problems of all files together.
    """
    folder = context.folder
    measured, compared, varied = Joined(SCHEMA), Joined(SCHEMA), Joined(SENSITIVITY_SCHEMA)
    wide = Wide()
    others = dict(compared.tables(derived or ()))
    paths = {
        "segments_table": folder / "segments_table.tsv",
        "segments_parquet": folder / "segments_parquet.parquet",
        "segments_wide": folder / "segments_wide.tsv",
        "segments_dictionary": folder / "segments_dictionary.json",
        "derived_table": folder / "derived_table.tsv",
        "derived_dictionary": folder / "derived_dictionary.json",
        "sensitivity_parquet": folder / "sensitivity_parquet.parquet",
        "sensitivity_dictionary": folder / "sensitivity_dictionary.json",
    }
    with (
        _lines(paths["segments_table"]) as long,
        _lines(paths["derived_table"]) as comparisons,
        Parquet(paths["segments_parquet"], SCHEMA) as parquet,
    ):
        for session, path in measured.tables(stats):
            table = measured.read(path)
            other = others.pop(session, None)
            beside = None if other is None else compared.read(other)
            if table is None:
                continue
            long.write(as_lines(table))
            parquet.add(table)
            if beside is not None:
                comparisons.write(as_lines(beside))
                table = pa.concat_tables([table, beside], promote_options="permissive")
            try:
                wide.add(session, table, path)
            except DatasetError as error:
                measured.problems.extend(error.problems)
    with Parquet(paths["sensitivity_parquet"], SENSITIVITY_SCHEMA) as parquet:
        for _, path in varied.tables(sensitivity or ()):
            table = varied.read(path)
            if table is not None:
                parquet.add(table)
    alone = [_alone(path) for path in others.values()] if not measured.problems else []
    if problems := [*measured.problems, *compared.problems, *varied.problems, *alone]:
        raise DatasetError.of(problems)
    with paths["segments_wide"].open("w", encoding="utf-8", newline="\n") as text:
        text.writelines(wide.lines())
    _write_json(paths["segments_dictionary"], dictionary() | wide.dictionary())
    compared_columns = dictionary()
    compared_columns["metric"]["Levels"] = dict(DERIVED)
    _write_json(paths["derived_dictionary"], compared_columns)
    _write_json(paths["sensitivity_dictionary"], dictionary(SENSITIVITY_SCHEMA))
    context.numbers |= {"sessions": len(wide.sessions), "rows": measured.rows}
    return tuple(paths.values())


def _lines(path: Path) -> TextIOWrapper:
    """A TSV with the columns of the table, open for its rows."""
    text = path.open("w", encoding="utf-8", newline="\n")
    text.write("\t".join(COLUMNS) + "\n")
    return text


def _alone(path: Path) -> Problem:
    return problem_of("TABLE_SESSION", "comparisons of a session whose segments are not there", path)


def _write_json(path: Path, entries: object) -> None:
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
