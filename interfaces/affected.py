"""Compare the affected side with the other, where the clinical table tells which side is affected.

Only in the cohort's tables: whoever draws and measures a session does not know the side.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from somite.clinical import Person, read_clinical
from somite.derived import ratio
from somite.errors import Problem
from somite.interfaces.derived import Text, by_place, comparison
from somite.interfaces.norms import Clinical, Long
from somite.long_table import SESSION
from somite.measure import Row
from somite.metrics import MetricName, StatisticName
from somite.registry import Context, StepConfig, step
from somite.segments import Segment, write_table


class Config(StepConfig):
    """What is compared, and where the affected side stands."""

    side_column: str = "affected_side"
    """Column of the clinical table with the affected side: L or R; other words make no ratio."""
    metrics: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues")
    """Metrics that are compared."""
    statistics: tuple[StatisticName, ...] = ("mean",)
    """Statistics that are compared."""


_SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}


def affected_side(person: Person | None, column: str) -> str:
    """L or R; an empty string where the table tells neither, such as for both sides."""
    return _SIDES.get((person or {}).get(column, "").upper(), "")


def ratios(rows: Iterable[Text], affected: str, config: Config) -> Iterator[Row]:
    """Affected over unaffected side for each pair of segments of a session.

    Args:
        rows: of the table of segments, of one session.
        affected: L or R.
        config: what is compared.
    """
    for place, segments in by_place(rows, config.metrics, config.statistics).items():
        for one in dict.fromkeys(
            Segment(s.region, "", s.level, s.segment) for s in segments if s.side in ("L", "R")
        ):
            order = (affected, "R" if affected == "L" else "L")
            parts = [segments.get(Segment(one.region, side, one.level, one.segment)) for side in order]
            yield comparison(place, one, "affected_ratio", parts, ratio, "no segment on the other side")


def of_cohort(rows: Iterable[Text], people: Mapping[str, Person], config: Config) -> Iterator[Row]:
    """The ratios of every session whose participant has an affected side, in the order of the table."""
    for session, own in groupby(rows, key=lambda row: tuple(row[name] for name in SESSION)):
        side = affected_side(people.get(session[0]), config.side_column)
        if side:
            yield from ratios(own, side, config)


@step(
    makes={"affected": "Affected side over the other, all sessions, TSV: columns as of the segments"},
    dwi_copies=0,
)
def run(segments_table: Long, clinical: Clinical, config: Config, context: Context) -> Path:
    """Join the affected side with the measures of all sessions.

    Raises:
        DatasetError: `CLINICAL_TABLE`.
    """
    people = read_clinical(clinical)
    known = [name for name, person in people.items() if affected_side(person, config.side_column)]
    context.numbers["participants_with_affected_side"] = float(len(known))
    if not known:
        context.warn(
            Problem(
                "AFFECTED_SIDE_UNKNOWN",
                "the clinical table tells no affected side",
                where=str(clinical),
                expected=f"L or R in the column {config.side_column}",
                do="add the column, or leave it so: no ratio of the affected side is made",
                severity="warning",
            )
        )
    with segments_table.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return write_table(context.folder / "affected.tsv", of_cohort(rows, people, config))
