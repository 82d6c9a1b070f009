"""What an analysis left in `group/analyses`: its results, who was left out, and its data where they are kept.

Never raises for what is wrong with a file: what is missing is told in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from somite.analysis.selection import IDENTITY, MANY
from somite.files import read_json
from somite.report import session_tables
from somite.report.session_tables import value_of
from somite.wide_table import wide_name

NA = "n/a"
NO_DATA = "the data of this analysis were not kept; write `data: long` in its section of the YAML"


class Lack(Exception):
    """Why something cannot be drawn."""


@dataclass(frozen=True)
class Row:
    """A row of the results."""

    texts: Mapping[str, str]

    def text(self, name: str) -> str:
        """A text; `""` for n/a."""
        found = self.texts.get(name) or ""
        return "" if found == NA else found

    def number(self, name: str) -> float:
        """A number; NaN for n/a."""
        return value_of(self.texts.get(name))

    @property
    def identity(self) -> tuple[str, ...]:
        """Metric, statistic, region, side, level, segment."""
        return tuple(self.text(name) for name in IDENTITY)

    @property
    def place(self) -> str:
        """Region, side, level and segment in words."""
        return " ".join(word for word in self.identity[2:] if word not in ("", MANY))

    @property
    def has_interval(self) -> bool:
        """Whether it has an estimate with both ends of an interval."""
        return all(math.isfinite(self.number(name)) for name in ("estimate", "ci_low", "ci_high"))


@dataclass(frozen=True)
class Analysis:
    """An analysis as it lies on disk."""

    name: str
    rows: Sequence[Row]
    lack: str
    """Why there are no rows."""
    flow: Sequence[Mapping[str, str]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the analysis was: Options, Formulas, Inputs, Versions, TableSHA256."""
    data: pd.DataFrame | None = None

    @property
    def kind(self) -> str:
        """Kind of the analysis."""
        return str(self.options.get("kind") or (self.rows[0].text("kind") if self.rows else ""))

    @property
    def options(self) -> Mapping[str, Any]:
        """Its options in the YAML, defaults included."""
        found = self.about.get("Options", {})
        return found if isinstance(found, dict) else {}

    @property
    def alpha(self) -> float:
        """Below it a corrected p is called a finding."""
        return value_of(str(self.options.get("alpha", 0.05)))

    def values(self, row: Row) -> pd.DataFrame:
        """The data of the measure of a row: columns `value`, those that vary, and the clinical ones.

        Raises:
            Lack: they were not kept, or the measure is not among them.
        """
        if self.data is None:
            raise Lack(NO_DATA)
        if "value" in self.data and "metric" in self.data:
            found = self.data
            for name, text in zip(IDENTITY, row.identity, strict=True):
                if text != MANY and name in found:
                    found = found[found[name].fillna("") == text]
            found = found.assign(value=pd.to_numeric(found["value"], errors="coerce"))
        else:
            column = wide_name(tuple("" if text == MANY else text for text in row.identity))
            if column not in self.data:
                raise Lack(f"the data have no column {column}")
            found = self.data.assign(value=pd.to_numeric(self.data[column], errors="coerce"))
        found = found[found["value"].notna()]
        if found.empty:
            raise Lack("the data have no value of this measure")
        return found


def read(folder: Path) -> list[Analysis]:
    """Every analysis of `group/analyses`, by name."""
    names = sorted(path.stem for path in folder.glob("*.tsv") if "." not in path.stem)
    return [_read(folder, name) for name in names]


def _read(folder: Path, name: str) -> Analysis:
    table = session_tables.read(folder / f"{name}.tsv")
    flow = folder / f"{name}.flow.tsv"
    return Analysis(
        name,
        [Row(row) for row in table.rows],
        table.lack or ("" if table.rows else "The analysis has no rows."),
        session_tables.read(flow).rows if flow.is_file() else (),
        _about(folder / f"{name}.json"),
        _data(folder / f"{name}.data.tsv"),
    )


def _about(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path).get("Analysis", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _data(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path, sep="\t", dtype=str, na_values=[NA, ""], keep_default_na=False, quoting=3)
    except (OSError, ValueError):
        return None
