"""Tables of a page: columns and cells. `macros.html.j2` writes them, `page.js` sorts and filters them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from somite.report.pages import number

Kind = Literal["text", "number", "verdict"]


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    kind: Kind = "text"
    unit: str = ""
    help: str = ""
    """Said where the pointer rests on its head."""
    choose: bool = False
    """Its values can be chosen from a list; for columns of few values."""
    limit: int = 60
    """Longer texts are cut, with the whole in the title."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell."""

    text: str = ""
    sort: str | None = None
    """What it is sorted by, where that is not its text."""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its head; sorted and filtered by the page where `tools` is set."""

    id: str
    caption: str
    columns: Sequence[Column]
    records: Sequence[Mapping[str, Cell]]
    tools: bool = True
    row_headers: bool = True
    """The first cell of a row names the row."""

    @property
    def rows(self) -> Iterator[list[tuple[Column, Cell]]]:
        """Cells beside their columns, row by row; a cell that is not given is empty."""
        for record in self.records:
            yield [(column, record.get(column.key, Cell())) for column in self.columns]


def number_cell(value: float | None, digits: int = 3, note: str = "") -> Cell:
    """A number, sorted by its whole value; `note` follows it: an interval, say. Empty where there is none."""
    if value is None or not math.isfinite(value):
        return Cell()
    return Cell(f"{number(value, digits)}{note}", f"{value:.9g}")
