"""The tables of the cohort's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from somite.analysis.figures import p_text
from somite.errors import Problem
from somite.record import Record
from somite.report.analysis_files import Analysis
from somite.report.cohort_data import Member
from somite.report.cohort_review import REVIEW_COLUMNS, Review
from somite.report.distributions import Outlier
from somite.report.pages import base_names
from somite.report.session_tables import value_of
from somite.report.tables import Cell, Column, Table, number_cell

MOST_OUTLIERS = 400
MOST_RESULTS = 300
_KEY_NUMBERS = (
    ("snr_b0", "SNR", "", 3),
    ("motion_absolute_mean_mm", "Motion", "mm", 2),
    ("outlier_slices_percent", "Lost slices", "%", 2),
    ("residual_percent", "Residual", "%", 2),
    ("ndc_corrected", "NDC", "", 3),
)


def sessions(found: Sequence[Member], group_column: str, review: Review) -> Table:
    """Every session: how it stands, its quality, what raters said, key numbers, and its page."""
    reviewed = any(review.rows(member) for member in found)
    values = [_quality_values(member) for member in found]
    there = [key for key in _KEY_NUMBERS if any(key[0] in some for some in values)]
    columns = [
        Column("label", "Session", limit=50),
        *(
            [Column("group", group_column or "Group", choose=True, limit=30)]
            if any(m.group for m in found)
            else []
        ),
        Column("verdict", "Run", "verdict", choose=True, help="How the processing ended"),
        Column("judged", "Quality", "verdict", choose=True, help="Worst verdict of the quality numbers"),
        Column("reason", "Why", limit=90),
        *(REVIEW_COLUMNS if reviewed else ()),
        *(Column(key, title, "number", unit) for key, title, unit, _ in there),
        Column("segments", "Segments", "number", help="Measured, of those expected"),
        Column("warnings", "Warnings", limit=60),
    ]
    records = []
    for member, some in zip(found, values, strict=True):
        judged, why = member.judged
        reasons = [base_names(member.reason), why if judged not in ("", "pass") else ""]
        records.append(
            {
                "label": Cell(member.label, href=member.page),
                "group": Cell(member.group),
                "verdict": Cell(member.verdict),
                "judged": Cell(judged),
                **review.cells(member),
                **{key: number_cell(some.get(key), digits) for key, _, _, digits in there},
                "segments": _segments(member.last),
                "reason": Cell("; ".join(filter(None, reasons))),
                "warnings": Cell(_codes(member.last)),
            }
        )
    return Table("sessions-table", "Sessions of the cohort", columns, records)


def _quality_values(member: Member) -> Mapping[str, float]:
    return {
        row["metric"]: value
        for row in member.quality
        if row.get("metric") and math.isfinite(value := value_of(row.get("value")))
    }


def _segments(last: Record | None) -> Cell:
    steps = (last.steps or last.before) if last else ()
    for step in steps:
        if "segments_expected" in step.numbers:
            measured = step.numbers.get("segments_measured", 0)
            return Cell(f"{measured:g} of {step.numbers['segments_expected']:g}", f"{measured:g}")
    return Cell()


def _codes(last: Record | None) -> str:
    return ", ".join(sorted({warning.code for warning in last.warnings})) if last else ""


def outliers(found: Sequence[Outlier], pages: Mapping[str, str]) -> Table | None:
    """Who stands apart in which quality number, by which rule."""
    if not found:
        return None
    columns = [
        Column("session", "Session", limit=50),
        Column("number", "Number", choose=True, limit=80),
        Column("value", "Value", "number"),
        Column("unit", "Unit"),
        Column("verdict", "By the limits", "verdict", choose=True),
        Column("z", "Modified z", "number"),
        Column("words", "Why it stands apart", limit=160),
    ]
    records = [
        {
            "session": Cell(one.label, href=pages.get(one.label, "")),
            "number": Cell(one.spread.title),
            "value": number_cell(float(one.spread.values[one.index])),
            "unit": Cell(one.spread.unit),
            "verdict": Cell(one.spread.verdicts[one.index]),
            "z": number_cell(float(one.spread.z[one.index]), 2),
            "words": Cell(one.words),
        }
        for one in found[:MOST_OUTLIERS]
    ]
    return Table("outliers-table", "Sessions that stand apart", columns, records)


def troubles(found: Sequence[Member]) -> Table | None:
    """Sessions that are not done: a row for every problem, with what can be done about it."""
    rows: list[tuple[Member, Problem | None]] = []
    for member in found:
        if member.verdict == "done":
            continue
        problems = member.last.problems if member.last is not None and member.verdict == "failed" else []
        rows += [(member, problem) for problem in problems] or [(member, None)]
    if not rows:
        return None
    columns = [
        Column("session", "Session", limit=50),
        Column("verdict", "Stands", "verdict", choose=True),
        Column("step", "Step", choose=True),
        Column("code", "Problem", choose=True, limit=40),
        Column("what", "What", limit=300),
        Column("do", "What to do", limit=300),
    ]
    return Table("troubles-table", "Sessions that are not done", columns, [_trouble(*row) for row in rows])


_TO_DO = {
    "not finished": "run the participant level again: it goes on where it stopped",
    "outdated": "run the participant level again",
    "not run": "run the participant level",
}


def _trouble(member: Member, problem: Problem | None) -> dict[str, Cell]:
    row = {"session": Cell(member.label, href=member.page), "verdict": Cell(member.verdict)}
    row["step"] = Cell(member.last.failed_step if member.last else "")
    if problem is None:
        return row | {"what": Cell(base_names(member.reason)), "do": Cell(_TO_DO.get(member.verdict, ""))}
    found = f" (found: {problem.found})" if problem.found else ""
    where = f" in {base_names(problem.where)}" if problem.where else ""
    return row | {
        "code": Cell(problem.code),
        "what": Cell(f"{problem.what}{where}{base_names(found)}"),
        "do": Cell(base_names(problem.do)),
    }


def results(analysis: Analysis) -> Table | None:
    """The rows of an analysis: estimate, effect, p raw and corrected, family."""
    if not analysis.rows:
        return None
    columns = [
        Column("place", "Where", limit=60),
        Column("metric", "Measure", choose=True),
        Column("contrast", "Contrast", limit=60),
        Column("n", "n"),
        Column("name", "Estimate of", choose=True, limit=50),
        Column("estimate", "Estimate (interval)", "number"),
        Column("effect", "Effect (interval)", "number"),
        Column("p", "p raw", "number"),
        Column("corrected", "p corrected", "number"),
        Column("family", "Family (tests), correction", limit=60),
        Column("notes", "Notes", limit=80),
    ]
    records = []
    for row in analysis.rows[:MOST_RESULTS]:
        size = f" ({row.text('family_size')})" if row.text("family") else ""
        own = row.text("corrected_for")
        family = (
            f"{row.text('family')}{size}, {row.text('correction')}"
            if size
            else own and f"by the test, for {own}"
        )
        records.append(
            {
                "place": Cell(row.place or "all"),
                "metric": Cell(row.text("metric")),
                "contrast": Cell(row.text("contrast")),
                "n": Cell(row.text("n_groups") or row.text("n")),
                "name": Cell(row.text("estimate_name")),
                "estimate": _interval(row.number("estimate"), row.number("ci_low"), row.number("ci_high")),
                "effect": _interval(
                    *(row.number(key) for key in ("effect", "effect_ci_low", "effect_ci_high"))
                ),
                "p": _p(row.number("p")),
                "corrected": _p(row.number("p_adjusted")),
                "family": Cell(family),
                "notes": Cell(
                    "; ".join(filter(None, [row.text("reason"), row.text("warnings").replace(";", "; ")]))
                ),
            }
        )
    return Table(f"results-{analysis.name}", f"Results of {analysis.name}", columns, records)


def _interval(value: float, low: float, high: float) -> Cell:
    note = (
        ""
        if math.isnan(low) or math.isnan(high)
        else f" ({number_cell(low).text} to {number_cell(high).text})"
    )
    return number_cell(value, 3, note)


def _p(p: float) -> Cell:
    return Cell() if math.isnan(p) else Cell(p_text(p).removeprefix("= "), f"{p:.9g}")


def software(records: Sequence[Record]) -> Table | None:
    """Packages and tools with their versions, and how many sessions had which."""
    counts: dict[tuple[str, str], int] = {}
    for item in records:
        own = dict(item.software)
        for step in item.steps or item.before:
            own = {**step.versions, **own}
        for pair in own.items():
            counts[pair] = counts.get(pair, 0) + 1
    if not counts:
        return None
    columns = [Column("name", "Software"), Column("version", "Version"), Column("n", "Sessions", "number")]
    order = sorted(counts, key=lambda pair: (pair[0] != "somite", pair[0].lower(), pair[1]))
    rows = [
        {"name": Cell(name), "version": Cell(version), "n": Cell(str(counts[name, version]))}
        for name, version in order
    ]
    return Table("software-table", "Software", columns, rows, tools=False)


def checksums(files: Mapping[str, str]) -> Table | None:
    """Tables and configuration with their SHA-256."""
    if not files:
        return None
    columns = [Column("file", "File", limit=100), Column("sha256", "SHA-256", limit=64)]
    rows = [{"file": Cell(name), "sha256": Cell(digest)} for name, digest in files.items()]
    return Table("checksums-table", "Tables and configuration", columns, rows, tools=False)
