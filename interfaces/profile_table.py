"""Join the profiles of all sessions to one table with the columns of the table of segments.

A node is a segment of its own there (`node_7`, `proximal_node_7`), so that the analyses select nodes as they
select segments.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from somite.errors import DatasetError, Problem
from somite.long_table import Parquet, arrow_schema, problem_of
from somite.profiles import COLUMNS, SCHEMA_OF_PROFILES
from somite.registry import Context, StepConfig, step
from somite.segments import NA, SCHEMA, dictionary

PLACE = tuple(
    column
    for column in SCHEMA_OF_PROFILES
    if column.name in ("node", "position_mm", "position_frac", "weight")
)
SCHEMA_OF_NODES = (*SCHEMA, *PLACE)
"""Columns of the joined table: those of the segments, and where on the curve a node lies."""
_TYPES = {field.name: field.type for field in arrow_schema(SCHEMA_OF_NODES)}


class Config(StepConfig):
    """It has no options."""


def read_profiles(path: Path) -> Any:
    """The profiles of a session as an Arrow table with the columns of `SCHEMA_OF_NODES`.

    Raises:
        DatasetError: `TABLE_UNREADABLE`, `TABLE_COLUMNS`, `TABLE_VALUE`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = tuple(next(lines, ()))
            if header != COLUMNS:
                raise DatasetError(
                    problem_of(
                        "TABLE_COLUMNS",
                        "a table of profiles has other columns than this version's",
                        path,
                        ", ".join(header),
                        ", ".join(COLUMNS),
                    )
                )
            rows = [_row(dict(zip(COLUMNS, line, strict=True))) for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            problem_of("TABLE_UNREADABLE", "a table of profiles cannot be read", path, error)
        ) from error
    except ValueError as error:
        raise DatasetError(
            problem_of("TABLE_VALUE", "a table of profiles holds a row that cannot be read", path, error)
        ) from error
    return pa.Table.from_pylist(rows, arrow_schema(SCHEMA_OF_NODES))


def _row(line: Mapping[str, str]) -> dict[str, object]:
    segment = f"node_{line['node']}" if line["segment"] == NA else f"{line['segment']}_node_{line['node']}"
    told = dict(line) | {"segment": segment, "statistic": "mean", "space": "dwi"}
    return {name: _value(name, text) for name, text in told.items() if text != NA}


def _value(name: str, text: str) -> object:
    """A field as its column wants it. Raises ValueError."""
    if pa.types.is_integer(_TYPES[name]):
        return int(text)
    return float(text) if pa.types.is_floating(_TYPES[name]) else text


def _each(paths: tuple[Path, ...]) -> Iterator[Any | Problem]:
    """The table of each session, or what is wrong with it."""
    seen: dict[tuple[object, ...], Path] = {}
    for path in sorted(paths):
        try:
            table = read_profiles(path)
        except DatasetError as error:
            yield from error.problems
            continue
        session = tuple(
            table[name][0].as_py() for name in ("participant_id", "session_id", "run") if len(table)
        )
        if session and session in seen:
            yield problem_of(
                "TABLE_DUPLICATE", "two tables of profiles hold one session", path, seen[session], "one file"
            )
            continue
        seen[session] = path
        yield table


@step(
    makes={
        "profiles_parquet": "Profiles of all sessions, long, Parquet: a row per node and metric",
        "profiles_dictionary": "Columns of the profiles, JSON",
    },
    dwi_copies=0.0,
)
def run(
    profiles: tuple[Annotated[Path, "Profiles of a session, TSV"], ...],
    config: Config,  # noqa: ARG001
    context: Context,
) -> tuple[Path, Path]:
    """Join the profiles of the sessions; without any, the table has columns and no rows.

    Raises:
        DatasetError: `TABLE_DUPLICATE`, two files hold one session; as `read_profiles`; all together.
    """
    path = context.folder / "profiles_parquet.parquet"
    words = context.folder / "profiles_dictionary.json"
    problems: list[Problem] = []
    with Parquet(path, SCHEMA_OF_NODES) as parquet:
        for found in _each(profiles):
            if isinstance(found, Problem):
                problems.append(found)
            else:
                parquet.add(found)
    if problems:
        raise DatasetError.of(problems)
    words.write_text(json.dumps(dictionary(SCHEMA_OF_NODES), indent=2) + "\n", encoding="utf-8")
    return path, words
