"""Derive from the segments of a session what compares them: sides, levels, proximal and distal.

Each is a row of its own, with the columns of the table of segments, so that both can be joined. A segment
without a partner has its row too, with the reason. The ratio of the affected side is not made here: which
side that is, is a clinical fact, and joined with the cohort's table (`affected`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from somite.derived import (
    Kind,
    Value,
    asymmetry,
    difference,
    gradient,
    levels_above,
    metric_of,
    ratio,
    unit_of,
)
from somite.estimates import Estimate
from somite.long_table import SESSION
from somite.measure import Row, not_measured
from somite.metrics import MetricName, StatisticName
from somite.registry import Context, StepConfig, step
from somite.segments import NA, Segment, write_table

Text = Mapping[str, str]
Words = Annotated[tuple[str, ...], Field(min_length=2)]


class Config(StepConfig):
    """What is compared."""

    metrics: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues")
    """Metrics that are compared."""
    statistics: tuple[StatisticName, ...] = ("mean",)
    """Statistics that are compared."""
    orders: tuple[Words, ...] = (
        ("intraspinal", "foraminal_drg", "extraforaminal"),
        ("proximal", "middle", "distal"),
    )
    """Segments from proximal to distal, evenly apart, along which a gradient is taken."""


@dataclass(frozen=True)
class Place:
    """What a row is of, but for its side, level and segment."""

    region: str
    extraction: str
    metric: str
    statistic: str


_SHARED = (*SESSION, "extraction", "weighting", "space", "b_used", "pipeline_version")
Found = dict[Place, dict[Segment, Text]]


def by_place(rows: Iterable[Text], metrics: Container[str], statistics: Container[str]) -> Found:
    """The rows to be compared, in the order of the table."""
    found: Found = {}
    for row in rows:
        if row["metric"] in metrics and row["statistic"] in statistics:
            names = ("region", "side", "level", "segment")
            segment = Segment(*("" if row[name] == NA else row[name] for name in names))
            place = Place(segment.region, row["extraction"], row["metric"], row["statistic"])
            found.setdefault(place, {})[segment] = row
    return found


def value_of(row: Text) -> Value:
    """The measure that a row holds."""
    numbers = (math.nan if row[name] == NA else float(row[name]) for name in ("value", "se", "n_effective"))
    return Value(*numbers)


def sides(segments: Mapping[Segment, Text], place: Place) -> Iterator[Row]:
    """The asymmetry index of each pair of segments."""
    for one in segments:
        if one.side not in ("L", "R"):
            continue
        left, right = (Segment(one.region, side, one.level, one.segment) for side in ("L", "R"))
        if one == right and left in segments:
            continue
        parts = [segments.get(left), segments.get(right)]
        here = Segment(one.region, "", one.level, one.segment)
        yield comparison(place, here, "asymmetry", parts, asymmetry, "no segment on the other side")


def levels(segments: Mapping[Segment, Text], place: Place) -> Iterator[Row]:
    """Difference from and ratio to the next level above, of each segment that has a level."""
    names = dict.fromkeys(one.level for one in segments if one.level)
    above = levels_above(tuple(names))
    for one, row in segments.items():
        if not one.level:
            continue
        upper = Segment(one.region, one.side, above[one.level], one.segment)
        parts = [row, segments.get(upper) if upper.level else None]
        why = "the level above is not in the table"
        yield comparison(place, one, "level_difference", parts, difference, why)
        yield comparison(place, one, "level_ratio", parts, ratio, why)


def gradients(
    segments: Mapping[Segment, Text], place: Place, orders: Sequence[Sequence[str]]
) -> Iterator[Row]:
    """The gradient of each structure that has segments of an order."""
    for order in orders:
        wholes = dict.fromkeys(
            Segment(one.region, one.side, one.level) for one in segments if one.segment in order
        )
        for whole in wholes:
            members = [Segment(whole.region, whole.side, whole.level, name) for name in order]
            parts = [segments.get(one) for one in members]
            absent = ", ".join(one.segment for one in members if one not in segments)
            why = f"{absent} not in the table"
            yield comparison(place, whole, "gradient", parts, _gradient, why)


def comparison(
    place: Place,
    here: Segment,
    kind: Kind,
    parts: Sequence[Text | None],
    function: Callable[..., Estimate],
    absent: str,
) -> Row:
    """One row, or the reason why it has no value.

    Args:
        place: what is compared.
        here: what the row is said of.
        kind: of comparison.
        parts: rows that are compared; None for one that the table lacks.
        function: of their values.
        absent: the reason where one is lacking.
    """
    there = [part for part in parts if part is not None]
    shared = {name: there[0][name] for name in _SHARED if there[0][name] != NA}
    row: Row = {
        **shared,
        **asdict(here),
        "metric": metric_of(place.metric, kind),
        "statistic": place.statistic,
        "unit": unit_of(place.metric, kind),
    }
    if len(there) < len(parts):
        return row | not_measured(absent)
    for part in there:
        if part["value"] == NA:
            return row | not_measured(f"no value of {_name(part)}: {part['reason']}")
    found = function(*map(value_of, there))
    if math.isnan(found.value):
        return row | not_measured("division by 0")
    statuses = [part["qc_status"] for part in there]
    worst = max(statuses, key=("pass", "warn", "fail").index)
    return row | {
        "value": found.value,
        "se": found.se,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "n_voxels": sum(int(part["n_voxels"]) for part in there),
        "qc_status": worst,
        "qc_flags": "" if worst == "pass" else f"parts={worst}",
    }


def _name(row: Text) -> str:
    names = ("region", "side", "level", "segment")
    return " ".join(row[name] for name in names if row[name] != NA)


def _gradient(*values: Value) -> Estimate:
    return gradient(values)


def derive(rows: Sequence[Text], config: Config) -> list[Row]:
    """All rows that follow from those of a session."""
    found: list[Row] = []
    for place, segments in by_place(rows, config.metrics, config.statistics).items():
        found += sides(segments, place)
        found += levels(segments, place)
        found += gradients(segments, place, config.orders)
    return found


@step(makes={"derived": "Comparisons of segments, TSV: columns as of the segments"}, dwi_copies=0.0)
def run(
    segments: Annotated[Path, "Segments of the session, TSV: a row per segment, metric and statistic"],
    config: Config,
    context: Context,
) -> Path:
    """Compare sides, levels, and proximal with distal.

    A session without a segment that could be compared has one row, with the reason.
    """
    with segments.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = derive(rows, config)
    context.numbers["comparisons"] = float(sum("value" in row for row in found))
    if not found:
        shared = {name: rows[0][name] for name in _SHARED if rows and rows[0][name] != NA}
        found = [shared | not_measured("no segment has a side, a level or a neighbour to compare with")]
    return write_table(context.folder / "derived.tsv", found)
