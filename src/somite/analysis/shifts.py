"""Hodges-Lehmann shifts of one or two samples, with the intervals that belong to the rank tests.

The estimate is the median of all pairwise differences (two samples) or of all pairwise means (one sample),
the interval's ends are order statistics of them (Hollander, Wolfe and Chicken 2014, sections 3.2, 3.3, 4.2,
4.3). They are found by counting, n log n, without ever writing n * n numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from somite.jit import compiled

Array = NDArray[np.float64]
Count = Callable[[float], int]

EXACT_BELOW = 50
"""Group size below which the order statistics come from the exact distribution of the rank sum."""


@dataclass(frozen=True)
class Shift:
    """Hodges-Lehmann estimate and its interval, in the unit of the values."""

    value: float
    low: float
    high: float
    method: str


@compiled
def _at_most(first: Array, second: Array, limit: float) -> int:
    """How many differences first[i] - second[j] are at most `limit`; both sorted."""
    count = 0
    j = 0
    for i in range(len(first)):  # the smallest j with first[i] - second[j] <= limit grows with i
        while j < len(second) and first[i] - second[j] > limit:
            j += 1
        count += len(second) - j
    return count


def _kth(count: Count, low: float, high: float, rank: int) -> float:
    """The smallest number at which `count` reaches `rank` (from 1), by bisection down to neighbours."""
    if count(low) >= rank:
        return low
    while True:
        middle = low + (high - low) / 2
        if middle in (low, high) or high - low <= 1e-15 * max(abs(low), abs(high)):
            return high
        if count(middle) >= rank:
            high = middle
        else:
            low = middle


def _shift(count: Count, ends: tuple[float, float], total: int, rank: int, method: str) -> Shift:
    """The median, the `rank`-th from below and from above, of `total` numbers between `ends`."""
    middle = [_kth(count, *ends, k) for k in sorted({(total + 1) // 2, total // 2 + 1})]
    low, high = (_kth(count, *ends, k) for k in (rank, total + 1 - rank))
    return Shift(sum(middle) / len(middle), low, high, method)


@cache
def _rank_sum_counts(n1: int, n2: int) -> tuple[int, ...]:
    """Number of orders in which U is 0, 1, ...: coefficients of the Gaussian binomial, in whole numbers."""
    counts = [1] + [0] * (n1 * n2)
    for i in range(1, n1 + 1):
        for u in range(n1 * n2, n2 + i - 1, -1):
            counts[u] -= counts[u - n2 - i]
        for u in range(i, n1 * n2 + 1):
            counts[u] += counts[u - i]
    return tuple(counts)


@cache
def _signed_rank_counts(n: int) -> tuple[int, ...]:
    """Number of sets of 1..n whose sum is 0, 1, ..."""
    counts = [1] + [0] * (n * (n + 1) // 2)
    for i in range(1, n + 1):
        for w in range(len(counts) - 1, i - 1, -1):
            counts[w] += counts[w - i]
    return tuple(counts)


def _exact_rank(counts: tuple[int, ...], alpha: float) -> int:
    """The smallest sum whose cumulative probability reaches alpha / 2, at least 1, as R's wilcox.test."""
    below, total = 0, sum(counts)
    for value, count in enumerate(counts):
        below += count
        if below >= alpha / 2 * total:
            return max(value, 1)
    raise AssertionError("probabilities sum to one")


def _normal_rank(mean: float, sd: float, alpha: float) -> int:
    """The same from the normal approximation (Campbell and Gardner 1988, BMJ 296:1454)."""
    return max(round(mean - stats.norm.ppf(1 - alpha / 2) * sd), 1)


def two_samples(first: Array, second: Array, alpha: float) -> Shift:
    """Median of all differences first - second, with the interval that belongs to Mann-Whitney's test."""
    a, b = np.sort(first), np.sort(second)
    n1, n2 = len(a), len(b)
    exact = max(n1, n2) < EXACT_BELOW
    if exact:
        rank = _exact_rank(_rank_sum_counts(n1, n2), alpha)
    else:
        rank = _normal_rank(n1 * n2 / 2, math.sqrt(n1 * n2 * (n1 + n2 + 1) / 12), alpha)
    ends = (float(a[0] - b[-1]), float(a[-1] - b[0]))
    return _shift(lambda limit: int(_at_most(a, b, limit)), ends, n1 * n2, rank, _method(exact))


def one_sample(values: Array, alpha: float) -> Shift:
    """Median of all means of two (each with itself too), with the interval of Wilcoxon's signed ranks."""
    a = np.sort(values)
    n = len(a)
    negative = -a[::-1]

    def count(limit: float) -> int:  # (i, j) and (j, i) are one pair, (i, i) counts once
        return (int(_at_most(a, negative, 2 * limit)) + int((a <= limit).sum())) // 2

    exact = n < EXACT_BELOW
    if exact:
        rank = _exact_rank(_signed_rank_counts(n), alpha)
    else:
        rank = _normal_rank(n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24), alpha)
    return _shift(count, (float(a[0]), float(a[-1])), n * (n + 1) // 2, rank, _method(exact))


def _method(exact: bool) -> str:
    return "Hodges-Lehmann, " + ("exact ranks" if exact else "normal approximation of the ranks")
