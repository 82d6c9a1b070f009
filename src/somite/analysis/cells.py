"""The measured levels and sides of people as a table of cells, and which of them were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from somite.analysis import design, ranking
from somite.analysis.model import Affected
from somite.analysis.ranking import FEWEST, Bools, Floats
from somite.analysis.rows import levels_of, sides_of
from somite.analysis.selection import Selected


@dataclass(frozen=True)
class Cells:
    """The measured levels and sides of all people, and which of them were recorded."""

    people: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]
    """(level, side), sorted."""
    values: Floats
    """(people, cells), NaN where not measured."""
    recorded: Bools
    """(people, cells)"""
    reference: Bools
    """(people,)"""

    @property
    def usual(self) -> Bools | None:
        """Who has nothing recorded (people,), and so stands in for the healthy; None where they are few."""
        without: Bools = np.asarray(~self.recorded.any(axis=1), np.bool_)
        return without if without.sum() > FEWEST else None


@dataclass(frozen=True)
class Evidence:
    """z of all cells of the patients who have a recorded one, and their ranks."""

    measure: Selected
    cells: Cells
    z: Floats
    """(people, cells)"""
    patients: tuple[int, ...]
    """Rows of the people with a recorded cell that has a z, and at least one other."""
    ranks: tuple[ranking.Rank, ...]
    words: tuple[str, ...]


def cells_of(
    frame: pd.DataFrame, names: Affected, group: str | None = None, reference: Sequence[str] = ()
) -> Cells:
    """The frame of one measure as a table of people and cells.

    Args:
        frame: of the measure, with the clinical columns.
        names: columns of the recorded side and level.
        group: column that tells the reference people, if there are any.
        reference: its values of them.
    """
    wide = frame.pivot(index="participant_id", columns=["level", "side"], values="value").sort_index(axis=1)
    once = frame.drop_duplicates("participant_id").set_index("participant_id").loc[wide.index]
    pairs: Any = wide.columns
    cells = tuple((str(level), str(side)) for level, side in pairs)
    recorded = np.zeros(wide.shape, bool)
    texts = zip(once[names.level], once[names.side], strict=True)
    for person, (level_word, side_word) in enumerate(texts):
        levels, sides = levels_of(text_of(level_word)), sides_of(text_of(side_word)) or set()
        if levels or sides:
            recorded[person] = [
                (not levels or level in levels) and (not sides or side in sides) for level, side in cells
            ]
    norm = np.zeros(len(wide), bool)
    if group is not None:
        norm = np.asarray(np.isin(design.group_text(once[group]), list(reference)), np.bool_)
    return Cells(tuple(map(str, wide.index)), cells, wide.to_numpy(float), recorded, norm)


def text_of(word: object) -> str:
    """A clinical field as text; `""` where there is none."""
    return word if isinstance(word, str) else ""


def opposite(cells: Sequence[tuple[str, str]]) -> Any:
    """Place of each cell's other side, -1 where there is none."""
    place = {cell: i for i, cell in enumerate(cells)}
    swap = {"L": "R", "R": "L"}
    return np.array([place.get((level, swap.get(side, "")), -1) for level, side in cells], np.intp)


def combined(scored: Sequence[tuple[Cells, Floats]]) -> tuple[Cells, Floats]:
    """Mean z over the metrics of the people and cells that all of them have."""
    people = sorted(set.intersection(*(set(cells.people) for cells, _ in scored)))
    cells = sorted(set.intersection(*(set(cells.cells) for cells, _ in scored)))
    parts = [
        z[np.ix_([c.people.index(p) for p in people], [c.cells.index(cell) for cell in cells])]
        for c, z in scored
    ]
    first = scored[0][0]
    rows = [first.people.index(person) for person in people]
    columns = [first.cells.index(cell) for cell in cells]
    both = np.ix_(rows, columns)
    whole = Cells(
        tuple(people), tuple(cells), first.values[both], first.recorded[both], first.reference[rows]
    )
    return whole, np.mean(parts, axis=0)
