"""Plain text for a person: what a plan found and what would run, how a cohort stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from somite import record, standing
from somite.errors import Problem
from somite.record import Record

# `somite status` answers at once: what a plan or a run needs is imported when it is shown.
if TYPE_CHECKING:
    from somite.dataset.sessions import Session
    from somite.submissions import Submission
    from somite.workflows.group import Member
    from somite.workflows.participant import Place
    from somite.workflows.submission import Sending


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
    from somite.workflows import participant, session

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
    from somite.workflows.group import summary

    return f"{summary(members)}; {record.tally(records)}"


def status(out_dir: Path) -> tuple[list[str], bool]:
    """How sessions and analyses of an output stand, by records and cluster; and whether one is not done."""
    records = {item.label: item.brief for item in record.each(out_dir)}
    known = standing.look(out_dir)
    found = standing.of_sessions(known, records)
    rows = [("session", "verdict", "steps", "seconds", "peak MB", "warnings", "reason")]
    for label, stands in found.items():
        item, verdict, reason = records.get(label), stands.verdict, stands.reason
        if item is None or stands.is_live:
            rows.append((label, verdict, "", "", "", "", reason))
            continue
        steps = f"{item.count('run')} run, {item.count('cached')} cached"
        seconds = f"{sum(step.seconds for step in item.steps):.1f}"
        rows.append((label, verdict, steps, seconds, f"{item.peak_mb:.0f}", str(len(item.warnings)), reason))
    counts = Counter(stands.verdict for stands in found.values())
    done, live = counts["done"], {name: counts[name] for name in ("running", "queued") if counts[name]}
    words = "".join(f"{count} {name}, " for name, count in live.items())
    group, waiting = _group(out_dir)
    tables = standing.of_group(known)
    if tables is not None and (tables.is_live or not group):
        group = ["", f"group level: {tables.verdict}" + (f": {tables.reason}" if tables.reason else "")]
    told = f"sessions: {done} done, {words}{len(found) - done - sum(live.values())} not"
    return [*columns(rows), told, *group], done < len(found) or waiting > 0


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
    from somite.configs.document import parse

    try:
        tree, _ = parse((out_dir / "code" / "config.yaml").read_bytes(), "config.yaml")
        return [] if tree is None else list(tree.children()["analyses"].children())
    except (OSError, KeyError):
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


def scripts(sending: Sending) -> Iterator[str]:
    """The scripts, the list and the calls of sbatch that `somite submit` would make."""
    from somite.workflows import submission

    for name, text in submission.files(sending).items():
        if name == submission.CONFIG:
            continue
        yield f"# ---- {sending.folder / name}"
        yield text.rstrip()
    yield "# ---- calls; JOB stands for the numbers that sbatch gives"
    yield from submission.calls(sending)


def sent(sending: Sending, made: Submission | None) -> Iterator[str]:
    """What was given to the cluster."""
    live = Counter(stands.verdict for stands in sending.standings.values() if stands.is_live)
    for label in sending.short_of_memory:
        yield f"{label}  ended for want of memory, and gets no more now: --retry-memory 2x doubles it"
    yield from failures([member for member in sending.cohort if member.label not in sending.units])
    for array in made.arrays if made else ():
        yield (
            f"array {array.job}: {len(array.elements)} elements, "
            f"{sum(map(len, array.elements))} sessions, {array.memory_mb / 1024:.1f} GiB and "
            f"{array.minutes / 60:.1f} h each"
        )
    if made is not None and made.group:
        yield f"group level: job {made.group}"
    if made is not None:
        yield f"scripts: {sending.folder}"
    waiting = "".join(f", {count} {name} already" for name, count in sorted(live.items()))
    yield f"sessions: {len(sending.labels)} sent, {_done(sending)} done{waiting}"


def _done(sending: Sending) -> int:
    return sum(member.is_finished for member in sending.cohort)
