"""The wide table: one row per session, one column per segment, metric and statistic.

A column is named `metric__statistic__region__side__level__segment__extraction` without the empty parts at the
end. The extraction is empty for label images. No part of a name holds `__`, so that splitting at it gives
the parts back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from somite.derived import DERIVED
from somite.errors import DatasetError
from somite.long_table import SESSION, Key, problem_of
from somite.metrics import METRICS, STATISTICS
from somite.segments import NA, WIDE_SEPARATOR

MEASURE = ("metric", "statistic", "region", "side", "level", "segment", "extraction")
"""The columns that name a column of the wide table, in the order of its name."""
_LABEL = "label"
"""The extraction that a name does not tell."""


def wide_name(measure: Key) -> str:
    """Name of the wide table's column for the values of `MEASURE`."""
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
        labelled = pc.equal(texts[-2], _LABEL)
        texts[-2] = pc.if_else(labelled, "", texts[-2])
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
                raise DatasetError(
                    problem_of("TABLE_UNIT", what, path, unit, f"{known}, as in other sessions")
                )
            self._codes[joined] = len(self._codes)
        if len(set(measures)) < len(measures):
            *twice, _ = next(joined for joined in measures if measures.count(joined) > 1).split("\t")
            what = f"two rows hold {wide_name(tuple(twice))}"
            raise DatasetError(problem_of("TABLE_DUPLICATE", what, path, expected="one row"))
        return np.array([self._codes[joined] for joined in measures], np.intp)

    def measures(self) -> list[Key]:
        """Measures in the order of the columns: by segment, then metric, then statistic."""
        metrics, statistics = [*METRICS, *DERIVED], list[str](STATISTICS)

        def place(measure: Key) -> tuple[object, ...]:
            metric, statistic, region, side, level, segment, extraction = measure
            return (
                (region, level, side, segment, extraction),
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
        words = ({str(name): about.description for name, about in METRICS.items()} | {**DERIVED}).get(
            metric, metric
        )
        where = " ".join(part for part in place if part)
        parts = {name.capitalize(): part for name, part in zip(MEASURE, measure, strict=True) if part}
        return {"Description": f"{words}: {statistic} in {where}", "Units": self.units[measure], **parts}


def _rank(name: str, known: Sequence[str]) -> int:
    return known.index(name) if name in known else len(known)
