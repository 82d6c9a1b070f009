"""Distributions of quality numbers over a cohort, and who stands apart in them, by two rules.

By the limits of the configuration, as each session was judged; and by a rule that needs none: the modified
z score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993), 0.6745 (x - median) / MAD, beyond
3.5 in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.quality_table import METRICS
from somite.report.session_tables import value_of

Z_LIMIT = 3.5
FEWEST = 8
"""Sessions that the robust rule needs: of fewer, nobody stands apart."""
RULE = (
    f"modified z score beyond ±{Z_LIMIT:g}: 0.6745 times the distance from the median, over the median "
    f"absolute deviation (Iglewicz and Hoaglin 1993), of at least {FEWEST} sessions"
)


@dataclass(frozen=True)
class Spread:
    """A quality number over the sessions that have it."""

    name: str
    """`snr_b0`, `snr_shell_b1000`."""
    title: str
    unit: str
    """`""` where there is none."""
    labels: Sequence[str]
    """Sessions (n,)."""
    values: NDArray[np.float64]
    """(n,) finite."""
    verdicts: Sequence[str]
    """(n,) pass, warn, fail or `""` by the limits."""
    warn: Sequence[float]
    """Limits of warnings that occur: one, unless sessions were judged by different ones."""
    fail: Sequence[float]
    description: str = ""

    @property
    def z(self) -> NDArray[np.float64]:
        """Modified z scores (n,); NaN where there are none."""
        return modified_z(self.values)

    @property
    def apart(self) -> NDArray[np.bool_]:
        """Who stands apart by the robust rule (n,)."""
        return np.asarray(np.abs(np.nan_to_num(self.z)) > Z_LIMIT)


@dataclass(frozen=True)
class Outlier:
    """A session that stands apart in a number."""

    spread: Spread
    index: int

    @property
    def label(self) -> str:
        """The session."""
        return self.spread.labels[self.index]

    @property
    def words(self) -> str:
        """By which rule, in words."""
        verdict, z = self.spread.verdicts[self.index], float(self.spread.z[self.index])
        limits = {"fail": self.spread.fail, "warn": self.spread.warn}.get(verdict, ())
        unit = f" {self.spread.unit}" if self.spread.unit else ""
        found = []
        if verdict in ("warn", "fail"):
            bounds = " or ".join(f"{limit:g}{unit}" for limit in limits) or "not kept"
            found.append(f"{verdict}s by the limit ({bounds})")
        if self.spread.apart[self.index]:
            found.append(f"{'above' if z > 0 else 'below'} most sessions (modified z {z:+.1f})")
        return "; ".join(found)


def modified_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Modified z scores (n,); NaN for fewer than `FEWEST` values, or where half of them are the same."""
    if len(values) < FEWEST:
        return np.full(len(values), np.nan)
    median = np.median(values)
    deviation = float(np.median(np.abs(values - median)))
    if deviation <= 1e-12 * max(abs(float(median)), 1e-300):
        return np.full(len(values), np.nan)
    return np.asarray(0.6745 * (values - median) / deviation)


def name_of(row: Mapping[str, str]) -> str:
    """Name of a quality number of a session's table: `snr_shell_b1000`."""
    shell = row.get("b_s_per_mm2", "n/a")
    return row["metric"] + (f"_b{shell}" if shell not in ("", "n/a", None) else "")


def spreads(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Spread]:
    """Every quality number over the sessions.

    Args:
        tables: session -> the rows of its table of quality numbers.
    """
    found: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for label, rows in tables.items():
        for row in rows:
            if row.get("metric") not in (None, "overall") and math.isfinite(value_of(row.get("value"))):
                found.setdefault(name_of(row), []).append((label, row))
    order = {name: i for i, name in enumerate(METRICS)}
    names = sorted(found, key=lambda name: (order.get(found[name][0][1]["metric"], len(order)), name))
    return [_spread(name, found[name]) for name in names]


def _spread(name: str, rows: Sequence[tuple[str, Mapping[str, str]]]) -> Spread:
    first = rows[0][1]
    metric = METRICS.get(first["metric"])
    shell = name.removeprefix(first["metric"]).removeprefix("_b")
    unit = first.get("unit", "")
    return Spread(
        name,
        (metric.long_name if metric else first["metric"]) + (f", b = {shell} s/mm²" if shell else ""),
        "" if unit in ("1", "n/a", "") else unit,
        [label for label, _ in rows],
        np.array([value_of(row["value"]) for _, row in rows]),
        [verdict if (verdict := row.get("verdict", "")) != "n/a" else "" for _, row in rows],
        _limits(rows, "warn"),
        _limits(rows, "fail"),
        metric.description if metric else "",
    )


def _limits(rows: Sequence[tuple[str, Mapping[str, str]]], key: str) -> list[float]:
    limits = {value_of(row.get(key)) for _, row in rows}
    return sorted(limit for limit in limits if math.isfinite(limit))


def outliers(found: Sequence[Spread]) -> list[Outlier]:
    """Who stands apart in which number, by either rule, in the order of the numbers, the farthest first."""
    every = []
    for spread in found:
        apart = spread.apart | np.isin(spread.verdicts, ("warn", "fail"))
        distance = np.abs(spread.values - np.median(spread.values))
        who = sorted((int(i) for i in np.flatnonzero(apart)), key=lambda i: (-distance[i], spread.labels[i]))
        every += [Outlier(spread, i) for i in who]
    return every
