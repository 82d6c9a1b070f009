"""Whether groups differ in what is no biology: signal-to-noise ratio and motion."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LIMIT = 0.5
"""Hedges g beyond which a difference is said."""


def hedges_g(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Standardised difference of the means of a (n,) and b (m,), pooled SD, corrected for small samples.

    NaN where there is none: fewer than two values in a group; infinite where both do not vary and differ.
    Source: Hedges, J Educ Stat 6:107 (1981), with the approximate correction 1 - 3 / (4 df - 1).
    """
    if len(a) < 2 or len(b) < 2:
        return float("nan")
    df = len(a) + len(b) - 2
    difference = float(a.mean() - b.mean())
    pooled = float(np.sqrt((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / df))
    if pooled <= 1e-12 * max(abs(float(a.mean())), abs(float(b.mean()))):
        return float("nan") if difference == 0 else float(np.copysign(np.inf, difference))
    return (1 - 3 / (4 * df - 1)) * difference / pooled


def warnings(
    participants: NDArray[Any], groups: NDArray[Any], numbers: Mapping[str, NDArray[np.float64]]
) -> list[str]:
    """A warning for each number in which two groups differ by |g| > 0.5.

    Args:
        participants: (n,) who a row is of; the rows of one participant in one group are averaged.
        groups: (n,) group of each row.
        numbers: name -> (n,) values, NaN where there is none.
    """
    found = []
    for name, values in numbers.items():
        for one, other, g in _differences(participants, groups, values):
            if abs(g) > LIMIT:
                found.append(f"{name} differs between the groups: g = {g:.2f} ({one} - {other})")
    return found


def _differences(
    participants: NDArray[Any], groups: NDArray[Any], values: NDArray[np.float64]
) -> list[tuple[str, str, float]]:
    there = np.isfinite(values)
    samples = {}
    for group in sorted(set(groups[there])):
        mine = there & (groups == group)
        samples[str(group)] = _means(participants[mine], values[mine])
    return [(a, b, hedges_g(samples[a], samples[b])) for a, b in combinations(samples, 2)]


def _means(participants: NDArray[Any], values: NDArray[np.float64]) -> NDArray[np.float64]:
    codes, who = pd.factorize(participants)
    if len(who) == len(values):
        return values
    return np.asarray(np.bincount(codes, values) / np.bincount(codes))
