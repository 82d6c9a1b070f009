"""Names of levels along the spine, and which of them speak of a transitional anatomy.

Names are taken as they are given: nothing is ever renumbered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

_REGIONS = (("C", 7), ("T", 12), ("L", 5), ("S", 5))
VERTEBRAE: tuple[str, ...] = tuple(f"{letter}{k}" for letter, n in _REGIONS for k in range(1, n + 1))
"""The vertebrae of most people, from the head down."""
NERVES: frozenset[str] = frozenset((*VERTEBRAE, "C8"))
DISCS: frozenset[str] = frozenset(f"{a}-{b}" for a, b in pairwise(VERTEBRAE))
_FORM = re.compile(r"[CTLS]\d{1,2}(-[CTLS]\d{1,2})?")


def transitional(levels: Iterable[str]) -> tuple[str, ...]:
    """Levels of a spine with more or fewer vertebrae than usual, in their order: L6, L5-L6, T13, L4-S1."""
    return tuple(
        level for level in dict.fromkeys(levels) if _FORM.fullmatch(level) and level not in NERVES | DISCS
    )


def unknown(levels: Iterable[str]) -> tuple[str, ...]:
    """Names that are not of the form of a vertebra (L5) or of a disc (L4-L5), in their order."""
    return tuple(level for level in dict.fromkeys(levels) if level and not _FORM.fullmatch(level))


def rank(level: str) -> float | None:
    """Place of a vertebra, nerve or disc from the head down; None for a name that says nothing of it.

    L6 and T13 lie after L5 and T12; a disc lies after its upper vertebra.
    """
    if not _FORM.fullmatch(level):
        return None
    upper, _, lower = level.partition("-")
    return 100.0 * "CTLS".index(upper[0]) + int(upper[1:]) + (0.5 if lower else 0.0)


def passed_over(disc: str, present: Iterable[str]) -> tuple[str, ...]:
    """Levels among those present that lie between the two vertebrae of a disc's name: L6 and L5-L6 of L5-S1.

    Such a name is not that of the vertebrae that the disc lies between. C8 is a nerve of every spine.
    """
    ends = _ends(disc)
    if ends is None or ends[0] == ends[1]:
        return ()

    def between(level: str) -> bool:
        own = _ends(level)
        if own is None or level in (disc, "C8"):
            return False
        return ends[0] <= own[0] and own[1] <= ends[1] and level not in disc.split("-")

    return tuple(filter(between, dict.fromkeys(present)))


def _ends(level: str) -> tuple[float, float] | None:
    """Places of the upper and the lower vertebra of a disc; of a vertebra, its own twice."""
    upper, _, lower = level.partition("-")
    first, last = rank(upper), rank(lower or upper)
    return None if first is None or last is None else (first, last)
