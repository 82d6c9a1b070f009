"""Clinical data: participants.tsv, phenotype/*.tsv, sub-*_sessions.tsv and the quality numbers, by visit.

A visit is a participant, session and run of the table of segments. A file with a column session_id gives its
values to that session only; one without gives them to all sessions of the participant. The sessions files of
all participants are one source, `sessions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from somite.configs.schema import nearest
from somite.errors import DatasetError, Problem
from somite.segments import NA

KEYS = ("participant_id", "session_id", "run")
PREFIXES = {"participant_id": "sub-", "session_id": "ses-"}
QC = "qc"
"""Name of the source of quality numbers."""
SESSIONS = "sessions"
"""Name of the source of all sessions files."""
_SESSIONS_FILE = re.compile(r"(sub-[0-9A-Za-z]+)_sessions\.tsv")
_WORDS_ON_QUALITY = ("protocol", "verdict", "reason")

Texts = NDArray[np.object_]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One file of clinical data: text as it is written, `""` for n/a."""

    name: str
    """Stem of the file, for `file.column`."""
    path: Path
    keys: tuple[str, ...]
    """Of KEYS, those that the file has."""
    rows: Mapping[Key, int]
    """Values of the keys -> row."""
    columns: Mapping[str, Texts]

    def values(self, column: str, visits: Sequence[Key]) -> Texts:
        """The column for visits of (participant, session, run); `""` where the file has no row."""
        places = [KEYS.index(key) for key in self.keys]
        found = (self.rows.get(tuple(visit[i] for i in places)) for visit in visits)
        texts = self.columns[column]
        return np.array(["" if row is None else texts[row] for row in found], object)


def read_source(path: Path, name: str = "") -> Source:
    """Read a TSV with a column participant_id, and session_id or run where rows are of sessions or runs.

    Raises:
        DatasetError: every `PEOPLE_TABLE`, the file cannot be read, has no column participant_id, a column
            twice, or a row of another length; every `PARTICIPANT_TWICE`.
    """
    texts = _columns_of(path)
    return _source(name or path.name.removesuffix(".tsv"), path, texts)


def read_sessions(paths: Sequence[Path]) -> Source:
    """Read the sessions files of participants, whose names tell whose they are, as one source.

    A column that only some of them have is `""` for the others.

    Raises:
        DatasetError: as `read_source`, of all files together, with session_id for participant_id.
    """
    problems: list[Problem] = []
    parts: list[dict[str, Texts]] = []
    for path in paths:
        found = _SESSIONS_FILE.fullmatch(path.name)
        try:
            texts = _columns_of(path, "session_id")
            who = np.full(len(texts["session_id"]), found[1] if found else "", object)
            parts.append({**texts, "participant_id": who})
            _source(SESSIONS, path, parts[-1])
        except DatasetError as error:
            problems += error.problems
    if problems:
        raise DatasetError.of(problems)
    names = dict.fromkeys(name for texts in parts for name in texts)
    whole = {
        name: np.concatenate(
            [texts.get(name, np.full(len(texts["session_id"]), "", object)) for texts in parts]
        )
        for name in names
    }
    return _source(SESSIONS, paths[0].parent.parent / "sub-*" / "sub-*_sessions.tsv", whole)


def _columns_of(path: Path, key: str = "participant_id") -> dict[str, Texts]:
    """The columns of a TSV that has the column `key`. Raises as `read_source`."""
    lines = lines_of(path)
    header = [column.strip() for column in lines[0]]
    problems = _header_problems(header, path, key)
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            at = f"{path}, line {number}"
            problems.append(_unfit("a row has not one field per column", at, len(line), len(header)))
    if problems:
        raise DatasetError.of(problems)
    return {
        column: np.array([field_of(column, line[i]) for line in lines[1:]], object)
        for i, column in enumerate(header)
    }


def _source(name: str, path: Path, texts: Mapping[str, Texts]) -> Source:
    """A source of columns. Raises DatasetError, `PARTICIPANT_TWICE`."""
    keys = tuple(key for key in KEYS if key in texts)
    names = list(zip(*(texts[key] for key in keys), strict=True))
    if twice := _twice(names, path):
        raise DatasetError.of(twice)
    return Source(
        name,
        path,
        keys,
        {key: row for row, key in enumerate(names)},
        {column: values for column, values in texts.items() if column not in keys},
    )


def lines_of(path: Path) -> list[list[str]]:
    """The fields of every line of a TSV, empty lines left out. Raises DatasetError, `PEOPLE_TABLE`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(_unfit("the table cannot be read", str(path), error, "UTF-8 text")) from error
    return [line.split("\t") for line in text.splitlines() if line.strip()] or [[]]


def field_of(column: str, text: str) -> str:
    """A field as it is compared: `""` for n/a, participants and sessions with the prefix of BIDS."""
    value = text.strip()
    value = "" if value == NA else value
    prefix = PREFIXES.get(column, "")
    return value if not value or value.startswith(prefix) else prefix + value


def _header_problems(header: Sequence[str], path: Path, key: str) -> list[Problem]:
    problems = []
    if key not in header:
        found = ", ".join(header) or "an empty file"
        problems.append(_unfit(f"the table has no column {key}", str(path), found, key))
    if twice := sorted({name for name in header if header.count(name) > 1}):
        problems.append(_unfit("a column stands twice", str(path), ", ".join(twice), "each column once"))
    return problems


def _unfit(what: str, where: str, found: object, expected: object) -> Problem:
    do = "correct the file: tab-separated, a header, and a row per participant, or participant and session"
    return Problem("PEOPLE_TABLE", what, where, str(found), str(expected), do)


def _twice(names: Sequence[Key], path: Path) -> list[Problem]:
    seen: dict[Key, list[int]] = {}
    for line, name in enumerate(names, start=2):
        seen.setdefault(name, []).append(line)
    return [
        Problem(
            "PARTICIPANT_TWICE",
            f"{' '.join(filter(None, name)) or 'a row without a participant'} stands more than once",
            str(path),
            f"lines {', '.join(map(str, lines))}",
            "one row",
            "remove one of them, or tell them apart by a column session_id",
        )
        for name, lines in seen.items()
        if len(lines) > 1
    ]


@dataclass(frozen=True)
class People:
    """All sources together."""

    sources: tuple[Source, ...] = ()
    _known: dict[str, list[tuple[Source, str]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for source in self.sources:
            for column in source.columns:
                self._known.setdefault(f"{source.name}.{column}", []).append((source, column))
                if source.name != QC or column not in _WORDS_ON_QUALITY:
                    self._known.setdefault(column, []).append((source, column))

    @property
    def participants(self) -> set[str]:
        """Everybody in a clinical file; the quality numbers do not count as one."""
        return {key[0] for source in self.sources if source.name != QC for key in source.rows}

    def find(self, name: str, where: str) -> tuple[Source, str]:
        """The source and column that a name means.

        Raises:
            DatasetError: `COLUMN_UNKNOWN`, with the nearest name; `COLUMN_AMBIGUOUS`, in two files.
        """
        found = self._known.get(name, [])
        if len(found) == 1:
            return found[0]
        if not found:
            raise DatasetError(self._unknown(name, where))
        names = ", ".join(f"{source.name}.{column}" for source, column in found)
        raise DatasetError(
            Problem(
                "COLUMN_AMBIGUOUS",
                f"several files have a column {name}",
                where,
                names,
                "one column",
                f"write one of {names}",
            )
        )

    def _unknown(self, name: str, where: str) -> Problem:
        names = sorted({column for source in self.sources for column in source.columns})
        meant = nearest(name, [*names, *TABLE_NUMBERS])
        return Problem(
            "COLUMN_UNKNOWN",
            f"no table has a column {name}",
            where,
            ", ".join(str(source.path) for source in self.sources) or "no participants.tsv, no phenotype",
            ", ".join([*names, *TABLE_NUMBERS]),
            f"did you mean {meant}?" if meant else "name a column of one of these files",
        )

    def values(self, name: str, visits: Sequence[Key], where: str) -> Texts:
        """The column of that name, a text for every visit. Raises as `find`."""
        source, column = self.find(name, where)
        return source.values(column, visits)

    def levels(self, name: str, where: str) -> list[str]:
        """The values of a column, sorted, without n/a. Raises as `find`."""
        source, column = self.find(name, where)
        return sorted(set(source.columns[column]) - {""})


TABLE_NUMBERS = ("snr", "n_voxels")
"""Columns of every frame that may be covariates."""


def read_people(clinical: Iterable[Path], quality: Path | None = None) -> People:
    """Read all clinical files, those named `sub-*_sessions.tsv` together, and the quality numbers.

    Raises:
        DatasetError: the problems of `read_source` and `read_sessions` of all files together.
    """
    problems: list[Problem] = []
    sources: list[Source] = []
    paths = list(clinical)
    visits = [path for path in paths if _SESSIONS_FILE.fullmatch(path.name)]
    named = [(path, "") for path in paths if path not in set(visits)]
    named += [(quality, QC)] if quality is not None else []
    for path, name in named:
        try:
            sources.append(read_source(path, name))
        except DatasetError as error:
            problems += error.problems
    try:
        sources += [read_sessions(visits)] if visits else []
    except DatasetError as error:
        problems += error.problems
    if problems:
        raise DatasetError.of(problems)
    return People(tuple(sources))


def numbers(texts: Texts) -> NDArray[np.float64] | None:
    """Texts as float64, NaN for `""`; None where one is not a finite number."""
    try:
        values = np.array([float(text) if text else np.nan for text in texts], np.float64)
    except ValueError:
        return None
    written = np.array([bool(text) for text in texts], bool)
    return values if np.isfinite(values[written]).all() else None


def unlike_numbers(texts: Texts) -> list[str]:
    """The texts that are not finite numbers, each once."""
    return sorted({text for text in texts if numbers(np.array([text], object)) is None})


def text_column(texts: Texts) -> pd.Series[str]:
    """Texts as a column."""
    return pd.Series(texts, dtype="str")
