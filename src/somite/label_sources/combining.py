"""Several label images of one session as one labelling: values that two of them use are renumbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from somite.segments import Label


def renumber(tables: Sequence[Sequence[Label]]) -> list[dict[int, int]]:
    """For each table, its own values -> values of all together, where they differ.

    A value is kept unless a table before has it; the others follow the largest of all.
    """
    taken: set[int] = set()
    last = max((label.index for table in tables for label in table), default=0)
    found = []
    for table in tables:
        moved = {}
        for label in table:
            if label.index in taken:
                last += 1
                moved[label.index] = last
        taken |= {label.index for label in table}
        found.append(moved)
    return found


def combined(tables: Sequence[Sequence[Label]], values: Sequence[Mapping[int, int]]) -> tuple[Label, ...]:
    """The rows of all tables, with the values of `renumber`."""
    return tuple(
        replace(label, index=own.get(label.index, label.index))
        for table, own in zip(tables, values, strict=True)
        for label in table
    )
