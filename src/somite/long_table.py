"""Long tables of sessions: read and checked one at a time, written as lines of TSV and as Parquet.

A file holds one session, which its columns `SESSION` name; its columns are those of a schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from somite.errors import DatasetError, Problem
from somite.segments import NA, SCHEMA, Column, dictionary

SESSION = ("participant_id", "session_id", "run", "site", "protocol", "rater", "roi_source", "model")
"""The columns that have one value in a file of a session: together they name a row of the wide table."""

_KINDS = {"text": pa.string(), "number": pa.float64(), "count": pa.int64()}
_CODED = pa.dictionary(pa.int32(), pa.string())
ROWS_PER_GROUP = 100_000

Key = tuple[str, ...]
Schema = Sequence[Column]


def arrow_schema(schema: Schema = SCHEMA) -> Any:
    """Schema of the Parquet file; each field carries its description and units."""
    entries = dictionary(schema)
    return pa.schema(
        [
            pa.field(
                column.name,
                _KINDS[column.kind],
                metadata={
                    key.lower(): entries[column.name][key]
                    for key in ("Description", "Units")
                    if key in entries[column.name]
                },
            )
            for column in schema
        ]
    )


def problem_of(
    code: str, what: str, path: Path, found: object = "", expected: str = "", do: str = ""
) -> Problem:
    """A problem of the table of a session."""
    again = "run the participant level of this session again, or correct the file"
    return Problem(code, what, where=str(path), found=str(found), expected=expected, do=do or again)


def session_of(path: Path, schema: Schema = SCHEMA) -> Key:
    """The session that a stats file holds, from its first row; also checks its columns.

    Raises:
        DatasetError: `TABLE_UNREADABLE`; `TABLE_COLUMNS`, the columns are not those of the table;
            `TABLE_EMPTY`, there is no row.
    """
    columns = tuple(column.name for column in schema)
    try:
        with path.open(encoding="utf-8-sig") as lines:
            header, first = (lines.readline().rstrip("\n").split("\t") for _ in range(2))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            problem_of("TABLE_UNREADABLE", "a stats file cannot be read", path, error)
        ) from error
    if tuple(header) != columns:
        raise DatasetError(_other_columns(path, header, columns))
    if len(first) != len(columns):
        raise DatasetError(problem_of("TABLE_EMPTY", "a stats file holds no row", path, "\t".join(first)))
    row = dict(zip(columns, first, strict=True))
    return tuple("" if row[name] == NA else row[name] for name in SESSION)


def _other_columns(path: Path, header: list[str], columns: Key) -> Problem:
    absent = [name for name in columns if name not in header]
    strange = [name for name in header if name not in columns]
    found = "; ".join(
        f"{words} {', '.join(names)}"
        for words, names in (("absent:", absent), ("not known:", strange))
        if names
    )
    return problem_of(
        "TABLE_COLUMNS",
        "a stats file has other columns than the table",
        path,
        found or "another order, or a column twice",
        ", ".join(columns),
        "was it written by another version of Somite? Run the participant level of this session again",
    )


def in_order(paths: Iterable[Path], schema: Schema = SCHEMA) -> list[tuple[Key, Path]]:
    """Sessions and their files, in the order of the table.

    Raises:
        DatasetError: all the problems of `session_of`; `TABLE_DUPLICATE`, two files hold one session.
    """
    problems: list[Problem] = []
    files: dict[Key, Path] = {}
    for path in paths:
        try:
            session = session_of(path, schema)
        except DatasetError as error:
            problems.extend(error.problems)
            continue
        if session in files:
            name = " ".join(part for part in session if part)
            problems.append(
                problem_of(
                    "TABLE_DUPLICATE", f"two stats files hold {name}", path, files[session], "one file"
                )
            )
        files[session] = path
    if problems:
        raise DatasetError.of(problems)
    return sorted(files.items())


def read_stats(path: Path, schema: Schema = SCHEMA) -> Any:
    """One stats file as an Arrow table: text dictionary-coded, `n/a` as null.

    Raises:
        DatasetError: `TABLE_VALUE`, a row has too few or too many fields or a number is not one;
            `TABLE_SESSION`, rows of several sessions.
    """
    types = {column.name: _CODED if column.kind == "text" else _KINDS[column.kind] for column in schema}
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, null_values=[NA], strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        raise DatasetError(
            problem_of("TABLE_VALUE", "a stats file holds a row that cannot be read", path, error)
        ) from error
    mixed = [name for name in SESSION if len(table[name].unique()) > 1]
    if mixed:
        raise DatasetError(
            problem_of(
                "TABLE_SESSION", "a stats file holds several sessions", path, f"several {', '.join(mixed)}"
            )
        )
    return table


def as_lines(table: Any) -> str:
    """The rows as lines of TSV: numbers in the fewest digits that give the same number, `n/a` for null."""
    texts = [pc.fill_null(pc.cast(column, pa.string()), NA) for column in table.columns]
    return "\n".join(pc.binary_join_element_wise(*texts, "\t").to_pylist()) + "\n"


class Parquet:
    """Gathers the rows of sessions to groups of a good size, and writes them; complete when it is left."""

    def __init__(self, path: Path, schema: Schema = SCHEMA) -> None:
        self._schema = arrow_schema(schema)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._tables: list[Any] = []

    def add(self, table: Any) -> None:
        """Take in the rows of a table."""
        self._tables.append(table)
        if sum(map(len, self._tables)) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).cast(self._schema))
        self._tables = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
