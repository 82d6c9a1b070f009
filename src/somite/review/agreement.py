"""How far two raters agree: Cohen's kappa of their last verdicts on the sessions that both have seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from somite.review.verdicts import Key, Row, latest

CATEGORIES = ("pass", "unsure", "fail")


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its 95 % interval; None where it is not defined, with the reason."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Agreement:
    """Two raters on the sessions that both have seen."""

    raters: tuple[str, str]
    counts: tuple[tuple[int, ...], ...]
    """Sessions: a row per verdict of the first rater, a column per verdict of the second, as `CATEGORIES`."""
    kappa: Kappa
    differ: tuple[Key, ...]
    """Sessions with two verdicts, in the order in which they were first seen."""

    @property
    def sessions(self) -> int:
        """How many sessions both have seen."""
        return sum(map(sum, self.counts))

    @property
    def same(self) -> int:
        """On how many they agree."""
        return sum(self.counts[i][i] for i in range(len(CATEGORIES)))


def between(rows: Iterable[Row]) -> list[Agreement]:
    """The agreement of every two raters who have a session in common, by name."""
    verdicts = {
        key: {rater: row.verdict for rater, row in by_rater.items() if row.verdict}
        for key, by_rater in latest(rows).items()
    }
    raters = sorted({rater for by_rater in verdicts.values() for rater in by_rater})
    found = []
    for first, second in combinations(raters, 2):
        both = {key: (one[first], one[second]) for key, one in verdicts.items() if {first, second} <= {*one}}
        if not both:
            continue
        counts = np.zeros((len(CATEGORIES), len(CATEGORIES)), int)
        for one, other in both.values():
            counts[CATEGORIES.index(one), CATEGORIES.index(other)] += 1
        differ = tuple(key for key, (one, other) in both.items() if one != other)
        table = tuple(tuple(int(n) for n in line) for line in counts)
        found.append(Agreement((first, second), table, kappa(counts), differ))
    return found


def kappa(counts: NDArray[np.int_]) -> Kappa:
    """Cohen's kappa of a table of counts (k, k), its interval from the standard error at large samples.

    Fleiss, Cohen and Everitt: Large sample standard errors of kappa and weighted kappa. Psychological
    Bulletin 72 (1969) 323-327. The interval ends at -1 and 1. Where both raters have given one and the same
    verdict throughout, chance alone would make them agree, and kappa is not defined. The standard error is 0
    where they agree on every session, or where one has given one verdict throughout: no interval is given.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    used = [i for i in range(len(counts)) if counts[i].any() or counts[:, i].any()]
    if len(used) < 2:
        return Kappa(None, None, None, "both gave one and the same verdict throughout")
    if np.trace(counts) == counts.sum():
        return Kappa(1.0, None, None, "they agree throughout")
    if min(np.count_nonzero(counts.sum(0)), np.count_nonzero(counts.sum(1))) == 1:
        return Kappa(0.0, None, None, "one of them gave one verdict throughout")
    result = cohens_kappa(counts[np.ix_(used, used)])
    low, high = np.clip([result.kappa_low, result.kappa_upp], -1, 1)
    return Kappa(float(result.kappa), float(low), float(high))
