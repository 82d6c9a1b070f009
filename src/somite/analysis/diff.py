"""What changed between two freezes of a table: who, which segment, by how much.

Takes the long table of segments, or the results of an analysis, as TSV or Parquet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from somite.errors import DatasetError, Problem
from somite.segments import NA, field_text

SEGMENT_KEYS = (
    *("participant_id", "session_id", "run"),
    *("region", "side", "level", "segment", "metric", "statistic"),
)
_MORE_KEYS = ("rater", "roi_source", "model", "protocol", "site")
"""Name a row, too, where the others do not suffice."""
RESULT_KEYS = (
    *("analysis", "region", "side", "level", "segment", "metric", "statistic"),
    *("contrast", "estimate_name", "test"),
)
_VERSIONS = ("pipeline_version", "somite_version", "table_sha256", "sentence")
"""What differs with every freeze, and says nothing of the numbers."""
_WHO = ("participant_id", "session_id", "run")
MAIN = {"segments": "value", "results": "estimate"}


@dataclass(frozen=True)
class Change:
    """One field of one row that is not the same in both tables, or a row that only one of them has."""

    what: str
    """`only in A`, `only in B`, or the column that changed."""
    row: tuple[str, ...]
    before: str = ""
    after: str = ""

    @property
    def by(self) -> str:
        """How much a number changed: `+0.012 (+3.1 %)`; `""` for text."""
        try:
            before, after = float(self.before), float(self.after)
        except ValueError:
            return ""
        share = f" ({100 * (after - before) / abs(before):+.3g} %)" if before else ""
        return f"{after - before:+.4g}{share}"


@dataclass(frozen=True)
class Difference:
    """All changes, and what a row is named by."""

    keys: tuple[str, ...]
    changes: tuple[Change, ...]
    rows: tuple[int, int]
    """Rows of both tables."""


def read(path: Path) -> pd.DataFrame:
    """A table as text, `n/a` for what is not there.

    Raises:
        DatasetError: `DIFF_TABLE`, the file cannot be read as TSV or Parquet.
    """
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            with path.open(encoding="utf-8-sig") as text:
                names = text.readline().rstrip("\n").split("\t")
            table = pa.csv.read_csv(
                path,
                parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
            )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(_unfit(path, str(error))) from error
    return pd.DataFrame({name: _texts(table[name]) for name in table.column_names})


def _texts(column: pa.ChunkedArray) -> list[str]:
    coded = column.combine_chunks().dictionary_encode()
    words = [field_text(_number(value)) for value in coded.dictionary.to_pylist()]
    return [NA if code is None else words[code] for code in coded.indices.to_pylist()]


def _number(value: object) -> object:
    """Text of a number as the number, so that both formats are written alike."""
    if isinstance(value, str):
        try:
            return float(value) if value not in ("", NA) and not value.isdigit() else value
        except ValueError:
            return value
    return value


def _unfit(path: Path, found: str) -> Problem:
    return Problem(
        "DIFF_TABLE",
        "this is no table that can be compared",
        str(path),
        found,
        "group/segments.tsv or .parquet, or group/analyses/<name>.tsv or .parquet, of two runs",
        "name two tables of the same kind",
    )


def difference(a: Path, b: Path) -> Difference:
    """Compare two tables.

    Raises:
        DatasetError: `DIFF_TABLE`: one cannot be read, they are of different kinds, or rows stand twice.
    """
    one, other = read(a), read(b)
    keys = _keys(one, a)
    if _keys(other, b) != keys:
        raise DatasetError(_unfit(b, f"another kind of table than {a}"))
    if one.duplicated(list(keys)).any() or other.duplicated(list(keys)).any():
        keys = (*keys, *(name for name in _MORE_KEYS if name in one and name in other))
    changes = _changes(_indexed(one, keys, a), _indexed(other, keys, b))
    return Difference(keys, tuple(changes), (len(one), len(other)))


def _keys(frame: pd.DataFrame, path: Path) -> tuple[str, ...]:
    for keys in (RESULT_KEYS, SEGMENT_KEYS):
        if set(keys) <= set(frame.columns):
            return keys
    raise DatasetError(_unfit(path, "the columns " + ", ".join(map(str, frame.columns[:10]))))


def _indexed(frame: pd.DataFrame, keys: Sequence[str], path: Path) -> pd.DataFrame:
    indexed = frame.set_index(list(keys))
    if indexed.index.has_duplicates:
        twice = indexed.index[indexed.index.duplicated()][0]
        raise DatasetError(_unfit(path, f"two rows for {_words(twice)}"))
    return indexed


def _changes(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Change]:
    for what, only in (
        ("only in A", a.index.difference(b.index)),
        ("only in B", b.index.difference(a.index)),
    ):
        yield from (Change(what, tuple(row)) for row in only)
    for name in [n for n in a.columns if n not in b.columns] + [n for n in b.columns if n not in a.columns]:
        yield Change(f"column {name}", (), *((name, "") if name in a.columns else ("", name)))
    both = a.index.intersection(b.index)
    left, right, rows = a.loc[both], b.loc[both], both.to_list()
    for name in a.columns.intersection(b.columns):
        if name in _VERSIONS:
            continue
        before, after = left[name].to_numpy(object), right[name].to_numpy(object)
        for i in np.flatnonzero(before != after):
            yield Change(str(name), tuple(rows[i]), before[i], after[i])


def _words(row: Sequence[str]) -> str:
    return " ".join(part for part in row if part != NA)


def lines(found: Difference, most: int = 40) -> Iterator[str]:
    """The changes for a person: how many of what, then the largest of the main column, who by who.

    Args:
        found: the difference.
        most: lines of single changes; 0 for all.
    """
    counts = pd.Series([change.what for change in found.changes], dtype="str").value_counts(sort=False)
    if not len(counts):
        yield f"no difference: {found.rows[0]} rows"
        return
    yield f"rows: {found.rows[0]} in A, {found.rows[1]} in B"
    yield from (f"{what}: {n}" for what, n in counts.items())
    yield from _who(found)
    ordered = sorted(found.changes, key=_size, reverse=True)
    shown = ordered if most == 0 else ordered[:most]
    for change in shown:
        told = f"{change.before} -> {change.after}" if change.before or change.after else ""
        amount = f"  {change.by}" if change.by else ""
        yield f"  {change.what}  {_words(change.row)}  {told}{amount}".rstrip()
    if len(shown) < len(ordered):
        yield f"  and {len(ordered) - len(shown)} more: --all shows them, --tsv FILE writes them"


def _who(found: Difference) -> Iterator[str]:
    """Which participants and sessions are touched, and by how many changes."""
    if "participant_id" not in found.keys:
        return
    place = [found.keys.index(name) for name in _WHO]
    visits = pd.Series(
        [_words([change.row[i] for i in place]) for change in found.changes if change.row], dtype="str"
    ).value_counts()
    yield f"sessions touched: {len(visits)}"
    yield from (f"  {visit}: {n} changes" for visit, n in sorted(visits.items())[:20])


def _size(change: Change) -> tuple[int, float]:
    """Rows that are gone or new first, then the main column, each by its size."""
    if change.what.startswith("only"):
        return 3, 0.0
    rank = 2 if change.what in MAIN.values() else 1
    try:
        amount = abs(float(change.after) - float(change.before))
    except ValueError:
        return rank, math.inf
    return rank, amount


def write(found: Difference, path: Path) -> Path:
    """Write every change as TSV: the names of the row, the column, before, after and by how much."""
    header = [*found.keys, "what", "before", "after", "by"]
    out = ["\t".join(header)]
    for change in found.changes:
        names = change.row or (NA,) * len(found.keys)
        out.append(
            "\t".join([*names, change.what, *(x or NA for x in (change.before, change.after, change.by))])
        )
    path.write_text("\n".join(out) + "\n", encoding="utf-8", newline="\n")
    return path
