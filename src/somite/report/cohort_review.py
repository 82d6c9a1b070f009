"""What raters said of the sessions, on the page of the cohort: their last verdicts, notes and agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from somite.errors import DatasetError, in_one_line
from somite.report.cohort_data import Member
from somite.report.tables import Cell, Column, Table, number_cell
from somite.review import agreement, verdicts
from somite.review.agreement import CATEGORIES, Agreement
from somite.review.verdicts import Key, Row

MOST_ROWS = 400


@dataclass(frozen=True)
class Review:
    """The verdicts on an output dataset."""

    latest: Mapping[Key, Mapping[str, Row]] = field(default_factory=dict)
    """Session -> rater -> that rater's last row."""
    pairs: Sequence[Agreement] = ()
    lack: str = ""
    """Why the verdicts cannot be read."""

    def rows(self, member: Member) -> list[Row]:
        """Last rows on a session that have a verdict or a note, by rater."""
        key = (member.participant_id, member.session_id, member.run)
        found = self.latest.get(key, {})
        return [found[rater] for rater in sorted(found) if found[rater].verdict or found[rater].note]

    def cells(self, member: Member) -> dict[str, Cell]:
        """The cells of a session: the verdict, or `differ`, and what each rater said."""
        rows = self.rows(member)
        given = {row.verdict for row in rows if row.verdict}
        one = next(iter(given), "") if len(given) < 2 else "differ"
        return {"review": Cell(one), "raters": Cell("; ".join(map(_said, rows)))}


REVIEW_COLUMNS = (
    Column("review", "Review", "verdict", choose=True, help="What the raters said; differ: not the same"),
    Column("raters", "By rater", limit=120, help="Last verdict of each rater, with the note"),
)


def read(out_dir: Path) -> Review:
    """The verdicts; without any where nobody has reviewed, with the reason where they cannot be read."""
    try:
        rows = verdicts.read(out_dir)
    except (DatasetError, OSError) as error:
        problems = in_one_line(error.problems) if isinstance(error, DatasetError) else type(error).__name__
        return Review(lack=f"qc/review.tsv cannot be read: {problems}")
    return Review(verdicts.latest(rows), agreement.between(rows))


def _said(row: Row) -> str:
    return f"{row.rater}: {row.verdict or 'no verdict'}" + (f" ({row.note})" if row.note else "")


def raters(review: Review, found: Sequence[Member]) -> Table | None:
    """How many sessions of each verdict every rater has, and has still to look at."""
    counts: dict[str, Counter[str]] = {}
    for member in found:
        for row in review.rows(member):
            counts.setdefault(row.rater, Counter())[row.verdict] += 1
    if not counts:
        return None
    columns = [
        Column("rater", "Rater", limit=50),
        *(Column(name, name.capitalize(), "number") for name in CATEGORIES),
        Column("without", "Without a verdict", "number", help="Of the sessions on this page"),
    ]
    records = [
        {
            "rater": Cell(rater),
            **{name: Cell(str(some[name])) for name in CATEGORIES},
            "without": Cell(str(len(found) - sum(some[name] for name in CATEGORIES))),
        }
        for rater, some in sorted(counts.items())
    ]
    return Table("raters-table", "Raters", columns, records, tools=False)


def kappas(review: Review) -> Table | None:
    """The agreement of every two raters."""
    if not review.pairs:
        return None
    columns = [
        Column("pair", "Raters", limit=100),
        Column("sessions", "Sessions of both", "number"),
        Column("same", "Same verdict", "number"),
        Column("kappa", "Cohen's kappa", "number", help="With its 95 % interval"),
        Column("reason", "Remark", limit=120),
    ]
    records = []
    for pair in review.pairs:
        low, high = pair.kappa.low, pair.kappa.high
        interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        records.append(
            {
                "pair": Cell(" and ".join(pair.raters)),
                "sessions": Cell(str(pair.sessions)),
                "same": Cell(str(pair.same)),
                "kappa": number_cell(pair.kappa.value, 2, interval),
                "reason": Cell(pair.kappa.reason),
            }
        )
    return Table("agreement-table", "Agreement of the raters", columns, records, tools=False)


def noted(review: Review, found: Sequence[Member]) -> Table | None:
    """Every verdict that is not pass, or that has a note."""
    rows = [(m, row) for m in found for row in review.rows(m) if row.verdict != "pass" or row.note]
    if not rows:
        return None
    columns = [
        Column("session", "Session", limit=50),
        Column("rater", "Rater", choose=True, limit=50),
        Column("verdict", "Verdict", "verdict", choose=True),
        Column("note", "Note", limit=300),
        Column("time", "Time (UTC)"),
    ]
    records = [
        {
            "session": Cell(member.label, href=member.page),
            "rater": Cell(row.rater),
            "verdict": Cell(row.verdict),
            "note": Cell(row.note),
            "time": Cell(row.time.removesuffix("+00:00")),
        }
        for member, row in rows[:MOST_ROWS]
    ]
    title = "Sessions that a rater did not pass, or said something of"
    if len(rows) > MOST_ROWS:
        title += f": {MOST_ROWS} of {len(rows)}, all are in qc/review.tsv"
    return Table("noted-table", title, columns, records)
