"""Compare the affected side with the other, where the clinical table tells which side is affected.

Only in the cohort's tables: whoever draws and measures a session does not know the side.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated

from somite import clinical as columns
from somite.analysis.outputs import write_json
from somite.analysis.people import KEYS, Key, read_people
from somite.analysis.rows import sides_of
from somite.derived import DERIVED, metric_of, ratio
from somite.errors import Problem
from somite.interfaces.derived import Text, by_place, comparison
from somite.interfaces.norms import Clinical
from somite.interfaces.reference import Long
from somite.long_table import SESSION
from somite.measure import Row
from somite.metrics import MetricName, StatisticName
from somite.registry import Context, StepConfig, step
from somite.segments import NA, Segment, dictionary, write_table


class Config(StepConfig):
    """What is compared; the column of the affected side stands in the section `cohort`."""

    metrics: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues")
    """Metrics that are compared."""
    statistics: tuple[StatisticName, ...] = ("mean",)
    """Statistics that are compared."""


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


def of_cohort(rows: Iterable[Text], sides: Mapping[Key, str], config: Config) -> Iterator[Row]:
    """The ratios of every session whose participant has one affected side, in the order of the table.

    Args:
        rows: of the table of segments.
        sides: L or R of the visits that have one: participant, session and run.
        config: what is compared.
    """
    for session, own in groupby(rows, key=lambda row: tuple(row[name] for name in SESSION)):
        if side := sides.get(_visit(session)):
            yield from ratios(own, side, config)


def _visit(session: tuple[str, ...]) -> Key:
    named = dict(zip(SESSION, session, strict=True))
    return tuple("" if named[key] == NA else named[key] for key in KEYS)


def affected_sides(texts: Mapping[Key, str]) -> tuple[dict[Key, str], list[str]]:
    """L or R of the visits that have one affected side, and the words that are no side."""
    found = {visit: sides_of(text) for visit, text in texts.items()}
    strange = sorted({texts[visit] for visit, sides in found.items() if sides is None})
    return {visit: next(iter(s)) for visit, s in found.items() if s and len(s) == 1}, strange


@step(
    makes={
        "affected": "Affected side over the other, all sessions, TSV: columns as of the segments",
        "affected_dictionary": "Its columns, JSON",
    },
    dwi_copies=0,
)
def run(
    segments_table: Long,
    clinical: tuple[Clinical, ...],
    affected_side: Annotated[Path, "The clinical column of the affected side, JSON"],
    config: Config,
    context: Context,
) -> tuple[Path, ...]:
    """Join the affected side with the measures of all sessions.

    Raises:
        DatasetError: the problems of the clinical tables.
    """
    column = columns.read_cohort(affected_side).affected.side
    with segments_table.open(encoding="utf-8", newline="") as lines:
        sessions = (tuple(row[name] for name in SESSION) for row in _rows(lines))
        visits = [_visit(session) for session in dict.fromkeys(sessions)]
    texts = columns.column(read_people(clinical), "affected.side", column, visits)
    sides, strange = affected_sides(dict(zip(visits, map(str, texts), strict=True)))
    context.numbers["participants_with_affected_side"] = float(len({visit[0] for visit in sides}))
    if strange or not sides:
        context.warn(_unknown(column, strange))
    with segments_table.open(encoding="utf-8", newline="") as lines:
        path = write_table(context.folder / "affected.tsv", of_cohort(_rows(lines), sides, config))
    entries = dictionary()
    names = [metric_of(metric, "affected_ratio") for metric in config.metrics]
    entries["metric"]["Levels"] = {name: DERIVED[name] for name in names}
    return path, write_json(context.folder / "affected_dictionary.json", entries)


def _rows(lines: Iterable[str]) -> Iterator[Text]:
    return csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def _unknown(column: str, strange: list[str]) -> Problem:
    return Problem(
        "AFFECTED_SIDE_UNKNOWN",
        f"the clinical table {'holds what is no side' if strange else 'tells no affected side'}",
        where=column,
        found=", ".join(strange) or NA,
        expected="L, R, left, right, both or n/a",
        do="correct the column: without one affected side of a participant there is no ratio",
        severity="warning",
    )
