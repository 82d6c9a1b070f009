"""What a row of results is about, in words: `mean FA of the left L5 nerve root (foraminal drg)`."""

from __future__ import annotations

from somite.analysis.results import Result
from somite.analysis.selection import MANY

_METRICS = {
    "fa": "FA",
    "md": "MD",
    "ad": "AD",
    "rd": "RD",
    "s0": "S0",
    "fa_of_mean_eigenvalues": "FA of the mean eigenvalues",
    MANY: "several metrics",
}
_SIDES = {"L": "left", "R": "right"}
_NAMELESS = ("", MANY)


def place(row: Result) -> str:
    """`the left L5 nerve root (foraminal drg)`."""
    side = "" if row.side in _NAMELESS else _SIDES.get(row.side, row.side)
    level = "" if row.level in _NAMELESS else row.level
    region = "several regions" if row.region in _NAMELESS else row.region.replace("_", " ")
    article = "" if row.region in _NAMELESS else "the"
    words = " ".join(part for part in (article, side, level, region) if part)
    if row.segment in _NAMELESS:
        return words
    return f"{words} ({row.segment.replace('_', ' ').replace('..', ' to ')})"


def named(name: str) -> str:
    """A name of a measure with its metric as people write it: `L5 fa` -> `L5 FA`."""
    return " ".join(_METRICS.get(word, word) for word in name.split(" "))


def measured(row: Result) -> str:
    """`mean FA`, `SD of MD`."""
    if row.metric in (MANY, "fa_of_mean_eigenvalues"):
        return _METRICS[row.metric]
    metric = _METRICS.get(row.metric, row.metric.replace("_", " "))
    if row.statistic in ("sd", "iqr"):
        return f"{row.statistic.upper()} of {metric}"
    statistic = "" if row.statistic in _NAMELESS else row.statistic
    return f"{statistic} {metric}".strip()


def subject(row: Result) -> str:
    """What was measured, and where."""
    return f"{measured(row)} of {place(row)}"
