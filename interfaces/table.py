"""Join the segments of all sessions: one long table, the same as Parquet, one wide, and their dictionary.

The long TSV and the Parquet file hold the same rows: sessions in the order of their names, within a session
the order of its file. The wide table has one row per session and one column per segment, metric and
statistic, named `metric__statistic__region__side__level__segment` without the empty parts at the end:
`fa__mean__nerve_root__R__L5__foraminal_drg`, `md__median__canal__midline`. No part of a name holds `__`, so
that splitting at it gives the parts back; the dictionary holds them too.

Sessions are read one at a time: memory grows with the wide table only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem
from somite.metrics import METRICS, STATISTICS
from somite.registry import Context, StepConfig, step
from somite.segments import COLUMNS, NA, SCHEMA, WIDE_SEPARATOR, dictionary

SESSION = ("participant_id", "session_id", "run", "site", "protocol", "rater", "roi_source", "model")
"""The columns that have one value in a stats file: together they name a row of the wide table."""
MEASURE = ("metric", "statistic", "region", "side", "level", "segment")
"""The columns that name a column of the wide table, in the order of its name."""

_KINDS = {"text": pa.string(), "number": pa.float64(), "count": pa.int64()}
_CODED = pa.dictionary(pa.int32(), pa.string())
_ROWS_PER_GROUP = 100_000

Key = tuple[str, ...]


class Config(StepConfig):
    """The table has no options."""


def arrow_schema() -> Any:
    """Schema of the Parquet file; each field carries its description and units."""
    entries = dictionary()
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
            for column in SCHEMA
        ]
    )


def _problem(
    code: str, what: str, path: Path, found: object = "", expected: str = "", do: str = ""
) -> Problem:
    again = "run the participant level of this session again, or correct the file"
    return Problem(code, what, where=str(path), found=str(found), expected=expected, do=do or again)


def session_of(path: Path) -> Key:
    """The session that a stats file holds, from its first row; also checks its columns.

    Raises:
        DatasetError: `TABLE_UNREADABLE`; `TABLE_COLUMNS`, the columns are not those of the table;
            `TABLE_EMPTY`, there is no row.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            header, first = (lines.readline().rstrip("\n").split("\t") for _ in range(2))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            _problem("TABLE_UNREADABLE", "a stats file cannot be read", path, error)
        ) from error
    if tuple(header) != COLUMNS:
        raise DatasetError(_other_columns(path, header))
    if len(first) != len(COLUMNS):
        raise DatasetError(_problem("TABLE_EMPTY", "a stats file holds no row", path, "\t".join(first)))
    row = dict(zip(COLUMNS, first, strict=True))
    return tuple("" if row[name] == NA else row[name] for name in SESSION)


def _other_columns(path: Path, header: list[str]) -> Problem:
    absent = [name for name in COLUMNS if name not in header]
    strange = [name for name in header if name not in COLUMNS]
    found = "; ".join(
        f"{words} {', '.join(names)}"
        for words, names in (("absent:", absent), ("not known:", strange))
        if names
    )
    return _problem(
        "TABLE_COLUMNS",
        "a stats file has other columns than the table",
        path,
        found or "another order, or a column twice",
        ", ".join(COLUMNS),
        "was it written by another version of Somite? Run the participant level of this session again",
    )


def in_order(paths: Iterable[Path]) -> list[tuple[Key, Path]]:
    """Sessions and their files, in the order of the table.

    Raises:
        DatasetError: all the problems of `session_of`; `TABLE_DUPLICATE`, two files hold one session.
    """
    problems: list[Problem] = []
    files: dict[Key, Path] = {}
    for path in paths:
        try:
            session = session_of(path)
        except DatasetError as error:
            problems.extend(error.problems)
            continue
        if session in files:
            name = " ".join(part for part in session if part)
            problems.append(
                _problem("TABLE_DUPLICATE", f"two stats files hold {name}", path, files[session], "one file")
            )
        files[session] = path
    if problems:
        raise DatasetError.of(problems)
    return sorted(files.items())


def read_stats(path: Path) -> Any:
    """One stats file as an Arrow table: text dictionary-coded, `n/a` as null.

    Raises:
        DatasetError: `TABLE_VALUE`, a row has too few or too many fields or a number is not one;
            `TABLE_SESSION`, rows of several sessions.
    """
    types = {column.name: _CODED if column.kind == "text" else _KINDS[column.kind] for column in SCHEMA}
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
            _problem("TABLE_VALUE", "a stats file holds a row that cannot be read", path, error)
        ) from error
    mixed = [name for name in SESSION if len(table[name].unique()) > 1]
    if mixed:
        raise DatasetError(
            _problem(
                "TABLE_SESSION", "a stats file holds several sessions", path, f"several {', '.join(mixed)}"
            )
        )
    return table


def as_lines(table: Any) -> str:
    """The rows as lines of TSV: numbers in the fewest digits that give the same number, `n/a` for null."""
    texts = [pc.fill_null(pc.cast(column, pa.string()), NA) for column in table.columns]
    return "\n".join(pc.binary_join_element_wise(*texts, "\t").to_pylist()) + "\n"


def wide_name(measure: Key) -> str:
    """Name of the wide table's column for (metric, statistic, region, side, level, segment)."""
    return WIDE_SEPARATOR.join(measure).rstrip("_")


def measure_of(name: str) -> Key:
    """The reverse of `wide_name`."""
    parts = tuple(name.split(WIDE_SEPARATOR))
    return parts + ("",) * (len(MEASURE) - len(parts))


@dataclass
class Wide:
    """The wide table as it grows, session by session."""

    units: dict[Key, str] = field(default_factory=dict)
    """Measure -> unit."""
    sessions: list[tuple[Key, NDArray[np.intp], NDArray[np.float64]]] = field(default_factory=list)
    """Session, codes (n,) and values (n,)."""
    _codes: dict[str, int] = field(default_factory=dict)
    """Measure and unit, joined by tabs -> code."""
    _last: tuple[list[str], NDArray[np.intp]] = field(default_factory=lambda: ([], np.zeros(0, np.intp)))
    """Measures and codes of the session before: most sessions of a cohort hold the same."""

    def add(self, session: Key, table: Any, path: Path) -> None:
        """Take in the rows of one session.

        Raises:
            DatasetError: `TABLE_DUPLICATE`, two rows for one measure; `TABLE_UNIT`, a unit that is not that
                of the same measure in the sessions before.
        """
        named = table.filter(pc.is_valid(table["metric"]))
        texts = [pc.fill_null(pc.cast(named[name], pa.string()), "") for name in (*MEASURE, "unit")]
        measures = pc.binary_join_element_wise(*texts, "\t").to_pylist()
        if measures != self._last[0]:
            self._last = (measures, self._encode(measures, path))
        self.sessions.append((session, self._last[1], named["value"].to_numpy()))

    def _encode(self, measures: list[str], path: Path) -> NDArray[np.intp]:
        for joined in measures:
            if joined in self._codes:
                continue
            *measure, unit = joined.split("\t")
            known = self.units.setdefault(tuple(measure), unit)
            if known != unit:
                what = f"{wide_name(tuple(measure))} has two units"
                raise DatasetError(_problem("TABLE_UNIT", what, path, unit, f"{known}, as in other sessions"))
            self._codes[joined] = len(self._codes)
        if len(set(measures)) < len(measures):
            *twice, _ = next(joined for joined in measures if measures.count(joined) > 1).split("\t")
            what = f"two rows hold {wide_name(tuple(twice))}"
            raise DatasetError(_problem("TABLE_DUPLICATE", what, path, expected="one row"))
        return np.array([self._codes[joined] for joined in measures], np.intp)

    def measures(self) -> list[Key]:
        """Measures in the order of the columns: by segment, then metric, then statistic."""
        metrics, statistics = list[str](METRICS), list[str](STATISTICS)

        def place(measure: Key) -> tuple[object, ...]:
            metric, statistic, region, side, level, segment = measure
            return (
                (region, level, side, segment),
                (_rank(metric, metrics), metric),
                (_rank(statistic, statistics), statistic),
            )

        return sorted(self.units, key=place)

    def lines(self) -> Iterator[str]:
        """Header and rows as TSV."""
        joined = ("\t".join([*measure, self.units[measure]]) for measure in self.measures())
        order = np.array([self._codes[one] for one in joined], np.intp)
        yield "\t".join([*SESSION, *map(wide_name, self.measures())]) + "\n"
        for session, codes, values in self.sessions:
            row = np.full(len(self._codes), np.nan)
            row[codes] = values
            texts = pc.fill_null(pc.cast(pa.array(row[order], from_pandas=True), pa.string()), NA)
            yield "\t".join([*(part or NA for part in session), *texts.to_pylist()]) + "\n"

    def dictionary(self) -> dict[str, dict[str, str]]:
        """Data dictionary of the columns of measures."""
        return {wide_name(measure): self._entry(measure) for measure in self.measures()}

    def _entry(self, measure: Key) -> dict[str, str]:
        metric, statistic, *place = measure
        words = {str(name): known.description for name, known in METRICS.items()}.get(metric, metric)
        where = " ".join(part for part in place if part)
        parts = {name.capitalize(): part for name, part in zip(MEASURE, measure, strict=True) if part}
        return {"Description": f"{words}: {statistic} in {where}", "Units": self.units[measure], **parts}


def _rank(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)


class _Parquet:
    """Gathers the rows of sessions to groups of a good size, and writes them."""

    def __init__(self, path: Path) -> None:
        self._schema = arrow_schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._tables: list[Any] = []

    def add(self, table: Any) -> None:
        self._tables.append(table)
        if sum(map(len, self._tables)) >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).cast(self._schema))
        self._tables = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


Stats = Annotated[Path, "Segments of one session, TSV: a row per segment, metric and statistic"]


@step(
    makes={
        "segments_table": "Segments of all sessions, long, TSV",
        "segments_parquet": "Segments of all sessions, long, Parquet",
        "segments_wide": "Segments of all sessions, wide, TSV: a row per session",
        "segments_dictionary": "Columns of the long and the wide table, JSON",
    },
    dwi_copies=0.0,
)
def run(stats: tuple[Stats, ...], config: Config, context: Context) -> tuple[Path, Path, Path, Path]:  # noqa: ARG001
    """Join the stats files; without any, the tables have columns and no rows.

    Raises:
        DatasetError: see `in_order`, `read_stats` and `Wide.add`; the problems of all files together.
    """
    files = in_order(stats)
    long_path, parquet_path, wide_path, dictionary_path = (
        context.folder / f"segments_{name}"
        for name in ("table.tsv", "parquet.parquet", "wide.tsv", "dictionary.json")
    )
    problems: list[Problem] = []
    wide, rows = Wide(), 0
    parquet = _Parquet(parquet_path)
    with long_path.open("w", encoding="utf-8", newline="\n") as long:
        long.write("\t".join(COLUMNS) + "\n")
        for session, path in files:
            try:
                table = read_stats(path)
                wide.add(session, table, path)
            except DatasetError as error:
                problems.extend(error.problems)
                continue
            long.write(as_lines(table))
            parquet.add(table)
            rows += len(table)
    parquet.close()
    if problems:
        raise DatasetError.of(problems)
    with wide_path.open("w", encoding="utf-8", newline="\n") as text:
        text.writelines(wide.lines())
    entries = dictionary() | wide.dictionary()
    dictionary_path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    context.numbers |= {"sessions": len(wide.sessions), "rows": rows}
    return long_path, parquet_path, wide_path, dictionary_path
