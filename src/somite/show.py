"""Plain text for a person: what a plan found and what would run, how a cohort stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from somite import record
from somite.dataset.sessions import Session
from somite.errors import Problem
from somite.record import Record
from somite.workflows import participant, session
from somite.workflows.group import Member, summary
from somite.workflows.participant import Place


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def problems(found: Iterable[Problem]) -> Iterator[str]:
    """Each problem, indented below its severity."""
    for problem in found:
        head, *rest = str(problem).splitlines()
        yield f"  {problem.severity} {head}"
        yield from (f"  {line}" for line in rest)


def plan(place: Place) -> Iterator[str]:
    """What would run in each session and why, what is wrong, and how the protocol varies over the cohort."""
    units = participant.units(place)
    yield from problems(place.plan.problems)
    yield from (f"left out: {fact.name}: {fact.reason}" for fact in place.plan.left_out)
    counted = {"run": 0, "cached": 0}
    for item in place.plan.sessions:
        yield f"{item.label}  ({grouping(item)})"
        yield from problems(item.problems)
        if (unit := units.get(item.label)) is None:
            yield "  would not run"
            continue
        traces = session.look(unit)
        last = record.read(record.path_of(place.out_dir, unit.label))
        reasons = session.why(traces, last)
        cached = [t.node.step for t in traces if t.state == "cached"]
        counted["cached"] += len(cached)
        counted["run"] += len(reasons)
        if cached:
            yield f"  cached: {', '.join(cached)}"
        yield from (f"  runs:   {step}: {'; '.join(why)}" for step, why in reasons.items())
    yield ""
    yield from deviations(place)
    wrong = sum(bool(item.errors) for item in place.plan.sessions)
    yield (
        f"sessions: {len(place.plan.sessions) - wrong} to run, {wrong} with errors; "
        f"steps: {counted['run']} to run, {counted['cached']} cached"
    )


def grouping(item: Session) -> str:
    """Which series a session is made of."""
    names = ", ".join(series.dwi.name for series in item.series)
    volumes = sum(series.n_volumes for series in item.series)
    labels = ", ".join(image.path.name for image in item.labels) or "no label image"
    if item.atlas is not None and item.atlas.labels is not None:
        labels = f"labels of the atlas {item.atlas.labels.name}"
    return f"{names}: {volumes} volumes; {labels}"


def deviations(place: Place) -> Iterator[str]:
    """The protocol of the cohort and the sessions that differ from it."""
    table = place.plan.deviations
    if not table:
        return
    yield "protocol of the cohort (most frequent value, and who differs):"
    rows = [("", "parameter", "most", "sessions", "others")]
    for item in table:
        rows.append(("", *item.cells()))
    yield from columns(rows)
    yield ""


def cohort(place: Place, members: Sequence[Member], made: Sequence[Record]) -> Iterator[str]:
    """Where the tables and the results lie, who is missing from them, and what is wrong with an analysis."""
    yield from failures(members)
    for item in made:
        if item.verdict == "failed":
            yield f"{item.label}  failed"
            yield from problems(item.problems)
            continue
        yield from problems(warning for warning in item.warnings if warning.code == "ANALYSIS_GAPS")
        yield from (f"  {place.out_dir / delivered.path}" for delivered in item.outputs)
    if made[0].verdict != "failed":
        yield f"  {place.out_dir / 'group' / 'status.tsv'}"


def failures(members: Sequence[Member]) -> Iterator[str]:
    """Sessions that are not done, with the reason."""
    for member in members:
        if member.verdict != "done":
            yield f"{member.label}  {member.verdict}: {member.reason}"


def totals(members: Sequence[Member], records: Sequence[Record]) -> str:
    """The last line of a run."""
    return f"{summary(members)}; {record.tally(records)}"


def status(out_dir: Path) -> tuple[list[str], bool]:
    """How sessions and analyses of an output stand, by their records; and whether one is not done."""
    records = {item.label: item for item in record.read_all(out_dir)}
    roll = record.read_roll(out_dir)
    rows = [("session", "verdict", "steps", "seconds", "peak MB", "warnings", "reason")]
    done = 0
    for label in sorted({*records, *roll}):
        item = records.get(label)
        verdict, reason = _stands(item, roll.get(label))
        done += verdict == "done"
        if item is None:
            rows.append((label, verdict, "", "", "", "", reason))
            continue
        steps = f"{item.count('run')} run, {item.count('cached')} cached"
        seconds = f"{sum(step.seconds for step in item.steps):.1f}"
        rows.append((label, verdict, steps, seconds, f"{item.peak_mb:.0f}", str(len(item.warnings)), reason))
    unfinished = len(rows) - 1 - done
    group, waiting = _group(out_dir)
    lines = [*columns(rows), f"sessions: {done} done, {unfinished} not", *group]
    return lines, unfinished + waiting > 0


def _group(out_dir: Path) -> tuple[list[str], int]:
    """How the tables of the cohort and the analyses stand, and how many are not done."""
    records = {item.label: item for item in record.read_group(out_dir)}
    table = records.get(record.GROUP)
    declared = [record.ANALYSIS + name for name in _declared(out_dir)]
    labels = [record.GROUP] * (table is not None) + sorted({*declared, *records} - {record.GROUP})
    if table is None and not records:
        return [], 0
    rows = [("group level", "verdict", "rows", "warnings", "reason")]
    for label in labels:
        item = records.get(label)
        verdict, reason = _analysis_stands(item, table)
        name = "tables" if label == record.GROUP else label.removeprefix(record.ANALYSIS)
        numbers = item.steps[0].numbers if item is not None and item.steps else {}
        count = f"{numbers['rows']:.0f}" if "rows" in numbers else ""
        warnings = "" if item is None else str(len(item.warnings))
        rows.append((name, verdict, count, warnings, reason))
    waiting = sum(row[1] != "done" for row in rows[1:])
    told = f"group level: {len(labels) - waiting} done, {waiting} not"
    return ["", *columns(rows), told], waiting


def _declared(out_dir: Path) -> list[str]:
    """The analyses of the configuration of the last run."""
    try:
        found = YAML(typ="safe").load((out_dir / "code" / "config.yaml").read_text(encoding="utf-8"))
        return list(found["analyses"])
    except (OSError, YAMLError, KeyError, TypeError):
        return []


def _analysis_stands(item: Record | None, table: Record | None) -> tuple[str, str]:
    """Verdict and reason of an analysis, or of the tables themselves."""
    if item is None:
        return "not run", "the group level has not come to it"
    if item.verdict != "done" or table is None or item is table:
        return item.verdict, item.reason
    if table.verdict != "done":
        return "outdated", "the tables could not be made anew"
    now = {Path(made.path).name: made.sha256 for made in table.outputs}
    changed = [name for name, digest in item.inputs.items() if now.get(name, digest) != digest]
    if changed:
        return "outdated", f"{', '.join(changed)} changed since: run the group level again"
    return "done", ""


def _stands(item: Record | None, recipe: str | None) -> tuple[str, str]:
    """Verdict and reason of a session, from its record and the recipe that the last run was to follow."""
    if item is None:
        return "not finished", "the run that was to do it ended before: give the same command again"
    if item.verdict == "done" and recipe is not None and recipe != item.recipe:
        return "outdated", "the last run was to do it with other options, and ended before"
    return item.verdict, item.reason
