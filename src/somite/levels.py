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
