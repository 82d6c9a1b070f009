"""Coverage of intervals and false positives of tests, of simulated studies of the sizes of two real ones.

The figure is how far the share is from nominal; the goal is the width of the 99.9 % binomial band around it.
Intervals that theory says fall short with few people are listed without a goal.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Row

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from simulated import ALPHA, SIZES, TRIALS, Trial, area_at, band, rates

NAME = "coverage"
REPETITIONS = 5000
WITHOUT_GOAL = ("AUC, plain DeLong",)
"""Anticonservative at every size here; pROC's, for comparison with it."""


def rows() -> list[Row]:
    """Rows of this benchmark."""
    found = []
    for sizes in SIZES:
        for trial in TRIALS.values():
            found += _rows(trial, sizes, "", goals=True)
        for auc in (0.5, 0.9, 0.95):
            found += _rows(area_at(auc), sizes, f" at {auc:g}", goals=False)
    return found


def _rows(trial: Trial, sizes: tuple[int, int], at: str, *, goals: bool) -> list[Row]:
    shares = rates(trial, sizes, REPETITIONS)
    people = f"{sizes[0]}/{sizes[1]}"
    covered = [
        _row(f"coverage: {name}{at}, {people}", share, 1 - ALPHA, goals and name not in WITHOUT_GOAL)
        for name, share in shares.coverage.items()
    ]
    if not goals:
        return covered
    return covered + [
        _row(f"false positives: {name}, {people}", share, ALPHA, True)
        for name, share in shares.rejections.items()
    ]


def _row(case: str, share: float, nominal: float, goal: bool) -> Row:
    low, high = band(nominal, REPETITIONS)
    reach = max(nominal - low, high - nominal)
    return Row(
        NAME,
        case,
        f"distance from {nominal:g}",
        abs(share - nominal),
        at_most=reach if goal else None,
        note=f"{share:.4f}",
    )
