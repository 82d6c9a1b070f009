"""The long table of segments in memory: texts as codes, numbers as they are; 16 million rows fit in 2 GB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from numpy.typing import NDArray

from somite.analysis.people import PREFIXES
from somite.errors import DatasetError, Problem
from somite.segments import COLUMNS, NA

TEXTS = (
    "participant_id",
    "session_id",
    "run",
    "site",
    "rater",
    "metric",
    "statistic",
    "region",
    "side",
    "level",
    "segment",
    "extraction",
    "unit",
    "qc_status",
    "reason",
)
NUMBERS = ("value", "se", "n_voxels", "snr")

Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of texts: `words[codes[i]]` is the text of row i. Words are sorted, each once."""

    codes: Codes
    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Coded:
        """Code texts."""
        words = tuple(sorted(set(texts)))
        code = {word: i for i, word in enumerate(words)}
        return cls(np.array([code[text] for text in texts], np.int32), words)

    def where(self, wanted: Callable[[str], bool]) -> Mask:
        """Which rows have a text that is wanted (n,)."""
        return np.asarray(np.array([wanted(word) for word in self.words], bool)[self.codes])

    def equal(self, text: str) -> Mask:
        """Which rows have this text (n,)."""
        return self.where(lambda word: word == text)

    def take(self, rows: NDArray[Any]) -> Coded:
        """Some of the rows, by a mask or by indices."""
        return replace(self, codes=self.codes[rows])


@dataclass(frozen=True, eq=False)
class Long:
    """Rows of the long table, columns `TEXTS` and `NUMBERS`."""

    texts: Mapping[str, Coded]
    numbers: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.numbers["value"])

    def take(self, rows: NDArray[Any]) -> Long:
        """Some of the rows, by a mask or by indices."""
        return Long(
            {name: column.take(rows) for name, column in self.texts.items()},
            {name: column[rows] for name, column in self.numbers.items()},
        )

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Long:
        """A table of a frame, for tests and notebooks; columns that are not there are empty."""
        n = len(frame)
        return cls(
            {
                name: Coded.of([_plain(name, text) for text in frame[name]] if name in frame else [""] * n)
                for name in TEXTS
            },
            {
                name: frame[name].to_numpy(np.float64) if name in frame else np.full(n, np.nan)
                for name in NUMBERS
            },
        )


def together(columns: Sequence[Coded]) -> tuple[Codes, list[tuple[str, ...]]]:
    """Several columns as one: a code for every row (n,), and the texts of each code, sorted."""
    codes = np.zeros(len(columns[0].codes), np.int64)
    distinct: list[tuple[str, ...]] = [()]
    for column in columns:
        width = len(column.words)
        joint = codes * width + column.codes
        there = np.zeros(len(distinct) * width, bool)
        there[joint] = True
        codes = (np.cumsum(there) - 1)[joint]
        distinct = [(*distinct[i // width], column.words[i % width]) for i in np.flatnonzero(there)]
    return codes.astype(np.int32), distinct


def _plain(name: str, value: object) -> str:
    """A text as it is compared: `""` for n/a, with the prefix of BIDS. Voxels are a label's by default."""
    text = "" if value is None or value == NA or value != value else str(value)
    if name == "extraction" and not text:
        return "label"
    prefix = PREFIXES.get(name, "")
    return text if not text or text.startswith(prefix) else prefix + text


def read_long(path: Path, metrics: Sequence[str] = ("*",), statistics: Sequence[str] = ("*",)) -> Long:
    """Read `segments.parquet`, only the rows of the metrics and statistics that match the patterns.

    Rows without a metric (a session with nothing to measure) are left out. `n/a` and null are `""`.

    Raises:
        DatasetError: `TABLE_UNREADABLE`, `TABLE_COLUMNS`.
    """
    try:
        names = pq.read_schema(path).names
        if absent := [name for name in COLUMNS if name not in names]:
            raise DatasetError(_problem("TABLE_COLUMNS", path, "absent: " + ", ".join(absent)))
        wanted = _wanted(path, {"metric": metrics, "statistic": statistics})
        data = pyarrow.dataset.dataset(path, format=_coded())
        table = data.to_table(columns=[*TEXTS, *NUMBERS], filter=wanted, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(_problem("TABLE_UNREADABLE", path, str(error))) from error
    return Long(
        {name: _coded_column(name, table[name]) for name in TEXTS},
        {name: _floats(table[name]) for name in NUMBERS},
    )


def _coded() -> Any:
    options = pyarrow.dataset.ParquetReadOptions(dictionary_columns=set(TEXTS))
    return pyarrow.dataset.ParquetFileFormat(read_options=options)


def _wanted(path: Path, patterns: Mapping[str, Sequence[str]]) -> Any:
    """Filter of the rows whose metric and statistic match."""
    wanted = None
    for name, globs in patterns.items():
        column = pq.read_table(path, columns=[name], read_dictionary=[name])[name]
        words = {word for chunk in column.chunks for word in chunk.dictionary.to_pylist() if word}
        names = [word for word in sorted(words) if matches(word, globs)]
        one = pyarrow.dataset.field(name).isin(pa.array(names, pa.string()))
        wanted = one if wanted is None else wanted & one
    return wanted


def matches(word: str, patterns: Sequence[str]) -> bool:
    """Whether a text matches any pattern; `n/a` means no text. `*` matches no text, too."""
    return any(fnmatchcase(word, "" if pattern == NA else pattern) for pattern in patterns)


def _coded_column(name: str, column: Any) -> Coded:
    """An Arrow column of dictionary-coded chunks as codes of sorted words; null is `""`."""
    if len(column) == 0:
        return Coded(np.zeros(0, np.int32), ("",))
    whole = column.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    texts = [_plain(name, word) for word in whole.dictionary.to_pylist()]
    texts.append(_plain(name, None))
    words = tuple(sorted({*texts, ""}))
    code = {word: i for i, word in enumerate(words)}
    recode = np.array([code[text] for text in texts], np.int32)
    codes = whole.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
    return Coded(recode[codes], words)


def _floats(column: Any) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def _problem(code: str, path: Path, found: str) -> Problem:
    return Problem(
        code,
        "the table of segments cannot be used",
        str(path),
        found,
        "segments.parquet of the group level, with the columns of this version",
        "run the group level again",
    )
