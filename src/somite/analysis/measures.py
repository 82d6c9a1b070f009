"""Rows of one analysis, sorted into measures, each with its people, and who was left out of it and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from somite.analysis import balance
from somite.analysis.long import Coded, Codes, Long, together
from somite.analysis.model import AnalysisConfig
from somite.analysis.people import KEYS, QC, People
from somite.analysis.selection import FRAME, MANY, Selected
from somite.analysis.visits import OF_ROWS, Visits, required, where
from somite.errors import DatasetError, Problem

_PLACE = ("region", "level", "side", "segment", "metric", "statistic")
_TIES = ("region", "side", "level", "segment", "rater")
_TEXTS = ("site", "rater", "region", "side", "level", "segment")
MOTION = "motion_relative_mean_mm"

Ids = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Sorted:
    """Rows sorted by measure, then by visit."""

    rows: Long
    visit: Codes
    measure: Codes
    names: tuple[tuple[str, ...], ...]
    """Of each measure, in the order of `_PLACE`."""
    visits: Visits
    lack: NDArray[np.int32]
    """Of every row: 0 where nothing is missing, else 1 + the place of the reason."""
    reasons: tuple[str, ...]
    config: AnalysisConfig

    @classmethod
    def of(cls, rows: Long, visit: Codes, visits: Visits, config: AnalysisConfig) -> Sorted:
        """Sort rows; what varies within a participant does not tell measures apart."""
        n = len(rows)
        many = Coded(np.zeros(n, np.int32), (MANY,))
        within = config.within()
        columns = [many if name in within else rows.texts[name] for name in _PLACE]
        measure, names = together(columns)
        keys: list[NDArray[Any]] = [visit, measure]
        if within:
            keys.insert(0, together([rows.texts[name] for name in _TIES])[0])
        order = np.lexsort(keys)
        sorted_rows = rows.take(order)
        lack, reasons = _lack(sorted_rows, visit[order], visits, config)
        return cls(sorted_rows, visit[order], measure[order], tuple(names), visits, lack, reasons, config)

    @property
    def ids(self) -> Coded:
        """Participant of every row."""
        return self.rows.texts["participant_id"]

    def check_single(self) -> None:
        """Whether every participant has one row in every measure, and one for each of what varies within.

        Raises:
            DatasetError: `MANY_ROWS`, naming the first, what tells the rows apart, and the ways out.
        """
        unique, _ = together([self.ids, *(self.rows.texts[name] for name in self.config.within())])
        key = self.measure.astype(np.int64) * (int(unique.max(initial=0)) + 1) + unique
        order = np.argsort(key, kind="stable")
        twice = np.flatnonzero(np.diff(key[order]) == 0)
        if len(twice):
            first = order[twice[0]]
            same = order[key[order] == key[first]]
            raise DatasetError(self._many_rows(same, len(np.unique(self.measure[order[twice]]))))

    def _many_rows(self, same: NDArray[np.intp], n_measures: int) -> Problem:
        texts = {
            name: {column.words[i] for i in column.codes[same]} for name, column in self.rows.texts.items()
        }
        differ = [name for name in ("session_id", "run", "rater", "site", *_TIES) if len(texts[name]) > 1]
        told = "; ".join(f"{name}: {', '.join(sorted(texts[name]))}" for name in dict.fromkeys(differ))
        who = self.ids.words[self.ids.codes[same[0]]]
        name = self.selected(int(self.measure[same[0]]), self._empty()).name
        if not differ and "affected" in self.config.select.level:
            differ, told = ["level"], "several levels are affected"
        by = differ[0] if differ else "session_id"
        ways = (
            f"select one ({by.removesuffix('_id')}: ...), join them (aggregate: {{over: [{by}]}}), or use a "
            "kind that takes repeated rows: mixed, agreement, or roc with the cluster bootstrap"
        )
        if not differ:
            ways = "take the second of them out of the table, or give the scans names of their own (run-)"
        return Problem(
            "MANY_ROWS",
            f"{who} has {len(same)} rows in {name} (so in {n_measures} measures): they are not independent",
            where(self.config, "select"),
            told or "rows that nothing tells apart: two scans of one session in the table",
            "one row per participant",
            ways,
        )

    def _empty(self) -> pd.DataFrame:
        return pd.DataFrame({name: [] for name in FRAME})

    def selected(self, measure: int, frame: pd.DataFrame) -> Selected:
        """A measure with the frame of its rows."""
        region, level, side, segment, metric, statistic = self.names[measure]
        return Selected(metric, statistic, region, side, level, segment, frame)

    def _bounds(self) -> NDArray[np.intp]:
        """Where each measure begins, and the end (measures + 1,)."""
        return np.searchsorted(self.measure, np.arange(len(self.names) + 1))

    def present(self, people: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each participant has a row, and every row of theirs is whole (measures, participants)."""
        place = {who: i for i, who in enumerate(people)}
        column = np.array([place.get(word, -1) for word in self.ids.words])[self.ids.codes]
        fine = np.zeros((len(self.names), len(people) + 1), bool)
        fine[self.measure, column] = True
        fine[self.measure[self.lack != 0], column[self.lack != 0]] = False
        return fine[:, : len(people)]

    def measures(self, people: People, everybody: Sequence[str]) -> Measures:
        """The measures, each made when it is asked for.

        Args:
            people: the clinical data, for the motion of each visit.
            everybody: who might have a row in every measure, sorted.

        Raises:
            DatasetError: `MISSING_VALUES`, where nobody may lack a value.
        """
        if self.config.missing == "error":
            self._refuse_missing(everybody)
        asked = set(everybody)
        expected = np.array([word in asked for word in self.ids.words], bool)
        strangers = tuple(sorted(asked - set(self.ids.words)))
        return Measures(
            self, _Frames.of(self, people), self._bounds(), expected, strangers, self._complete(everybody)
        )

    def _complete(self, everybody: Sequence[str]) -> NDArray[np.bool_] | None:
        """Of every word of the participants: whether they are whole in all measures; None: not asked."""
        if self.config.missing != "complete":
            return None
        whole = dict(zip(everybody, np.atleast_1d(self.present(everybody).all(0)).tolist(), strict=True))
        return np.array([whole.get(word, False) for word in self.ids.words], bool)

    def _refuse_missing(self, everybody: Sequence[str]) -> None:
        missing = ~self.present(everybody)
        if missing.any():
            measure, who = (int(i) for i in np.argwhere(missing)[0])
            name = self.selected(measure, self._empty()).name
            raise DatasetError(
                Problem(
                    "MISSING_VALUES",
                    f"{everybody[who]} has no value, or lacks a covariate, in {name}",
                    where(self.config, "missing"),
                    f"{int(missing.sum())} values of {int(missing.any(0).sum())} participants are missing",
                    "no missing value, as the analysis asks by missing: error",
                    "exclude these people, or set missing to per_measure or complete",
                )
            )

    def who(self, codes: NDArray[Any]) -> tuple[str, ...]:
        """The participants of some codes, each once."""
        return tuple(self.ids.words[code] for code in np.unique(codes))


@dataclass(frozen=True, eq=False)
class Measures(Sequence[Selected]):
    """Measures that are made when they are asked for: a large cohort's frames would not fit in memory."""

    table: Sorted
    frames: _Frames
    bounds: NDArray[np.intp]
    expected: NDArray[np.bool_]
    """Of every word of the participants: whether they might have a row."""
    strangers: tuple[str, ...]
    """Who might have a row and is in none of them."""
    complete: NDArray[np.bool_] | None
    """Of every word of the participants: whether they are whole in all measures; None: not asked."""

    def __len__(self) -> int:
        return len(self.table.names)

    @overload
    def __getitem__(self, index: int) -> Selected: ...
    @overload
    def __getitem__(self, index: slice) -> list[Selected]: ...
    def __getitem__(self, index: int | slice) -> Selected | list[Selected]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        at, absent = self.rows(i)
        unit = self.table.rows.texts["unit"]
        return replace(
            self.table.selected(i, self.frames.frame(at)),
            unit=unit.words[unit.codes[self.bounds[i]]],
            left_out={reason: len(who) for reason, who in absent.items()},
            warnings=tuple(self.frames.warnings(at)),
            absent=absent,
        )

    def account(self) -> Iterator[tuple[dict[str, str], int, dict[str, tuple[str, ...]]]]:
        """Of every measure: its identity, the participants in it, and by reason who was left out."""
        for i, name in enumerate(self.table.names):
            at, absent = self.rows(i)
            yield dict(zip(_PLACE, name, strict=True)), len(np.unique(self.table.ids.codes[at])), absent

    def rows(self, i: int) -> tuple[NDArray[np.intp], dict[str, tuple[str, ...]]]:
        """Rows of measure i, and by reason who was left out of it."""
        table = self.table
        rows = slice(self.bounds[i], self.bounds[i + 1])
        lack, ids = table.lack[rows], table.ids.codes[rows]
        kept = lack == 0
        absent = {table.reasons[r - 1]: table.who(ids[lack == r]) for r in np.unique(lack[~kept])}
        nowhere = self.expected.copy()
        nowhere[ids] = False
        if self.strangers or nowhere.any():
            absent["no row in the table"] = tuple(sorted(table.who(np.flatnonzero(nowhere)) + self.strangers))
        if self.complete is not None:
            out = kept & ~self.complete[ids]
            if out.any():
                absent["lacks a value in another measure"] = table.who(ids[out])
            kept &= ~out
        return np.arange(rows.start, rows.stop)[kept], absent


def _lack(
    rows: Long, visit: Codes, visits: Visits, config: AnalysisConfig
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Of every row, what is missing: a value, then what its visit lacks, then what the row itself lacks."""
    reason = rows.texts["reason"]
    words = [f"no value: {word}" if word else "no value" for word in reason.words]
    lack = np.where(np.isfinite(rows.numbers["value"]), 0, reason.codes + 1).astype(np.int32)
    of_visit = visits.lack[visit]
    lack = np.where((lack == 0) & (of_visit > 0), of_visit + len(words), lack)
    words += visits.reasons
    for name, requirement in required(config).items():
        if name not in OF_ROWS or requirement.may_lack:
            continue
        text = rows.texts.get(name)
        missing = ~np.isfinite(rows.numbers[name]) if text is None else ~text.where(bool)
        words.append(f"no {name}")
        lack = np.where((lack == 0) & missing, len(words), lack)
    return lack.astype(np.int32), tuple(words)


@dataclass(frozen=True, eq=False)
class _Frames:
    """What a frame is made of, for all rows: arrays that are taken from by row."""

    table: Sorted
    words: Mapping[str, Any]
    """Text column of the table -> its words as a pandas array."""
    clinical: Mapping[str, Any]
    """Clinical column -> values of all visits as an array."""
    keys: tuple[Any, ...]
    """Participant, session and run of all visits."""
    motion: NDArray[np.float64]
    groups: Ids | None
    """Group of every visit, where the analysis has groups."""

    @classmethod
    def of(cls, table: Sorted, people: People) -> _Frames:
        visits = table.visits
        group = table.config.group_column() or ""
        return cls(
            table,
            {name: pd.array(table.rows.texts[name].words, dtype="str") for name in _TEXTS},
            {name: _array(values) for name, values in visits.columns.items()},
            tuple(pd.array([key[i] for key in visits.keys], dtype="str") for i in range(len(KEYS))),
            _motion(people, visits),
            _groups(visits, table.config, group) if group in visits.columns else None,
        )

    def frame(self, at: NDArray[np.intp]) -> pd.DataFrame:
        """The frame of some rows."""
        rows, visit = self.table.rows, self.table.visit[at]
        columns: dict[str, Any] = {key: self.keys[i].take(visit) for i, key in enumerate(KEYS)}
        columns |= {name: self.words[name].take(rows.texts[name].codes[at]) for name in _TEXTS}
        columns |= {name: rows.numbers[name][at] for name in ("value", "se", "n_voxels", "snr")}
        columns |= {name: values[visit] for name, values in self.clinical.items()}
        return pd.DataFrame(columns, copy=False)

    def warnings(self, at: NDArray[np.intp]) -> list[str]:
        """Differences of SNR and motion between the groups, in some rows."""
        if self.groups is None:
            return []
        visit = self.table.visit[at]
        at, visit = (part[self.groups[visit] != ""] for part in (at, visit))
        numbers = {"snr": self.table.rows.numbers["snr"][at], MOTION: self.motion[visit]}
        adjusted = {name for name in numbers if name in self.table.config.covariates}
        found = balance.warnings(self.table.ids.codes[at], self.groups[visit], numbers)
        return [
            text + (", adjusted for" if any(text.startswith(f"{name} ") for name in adjusted) else "")
            for text in found
        ]


def _groups(visits: Visits, config: AnalysisConfig, column: str) -> Ids:
    """Group of every visit; `""` for groups that the analysis does not compare."""
    named = required(config)[column].levels
    texts = [str(value) for value in visits.columns[column]]
    return np.array([text if not named or text in named else "" for text in texts], object)


def _array(values: NDArray[Any]) -> Any:
    return values if values.dtype == np.float64 else pd.array(values, dtype="str")


def _motion(people: People, visits: Visits) -> NDArray[np.float64]:
    """Motion of every visit, NaN where it is not known."""
    source = next((one for one in people.sources if one.name == QC and MOTION in one.columns), None)
    if source is None:
        return np.full(len(visits.keys), np.nan)
    texts = source.values(MOTION, visits.keys)
    return np.array([float(text) if text else np.nan for text in texts], np.float64)
