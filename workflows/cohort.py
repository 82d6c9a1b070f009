"""A run over the cohort: the participant level over its sessions, then the group level over their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from somite import progress, record, resources, resources_table, roll
from somite.analysis.model import AnalysisConfig, Cohort
from somite.dataset.sessions import Session
from somite.errors import DatasetError, Problem, ResourceError
from somite.record import Record
from somite.report import cohort_groups, writing
from somite.report.writing import Written
from somite.workflows import analyses, forecast, group, participant, pool
from somite.workflows.group import Member
from somite.workflows.participant import Place
from somite.workflows.pool import Limits
from somite.workflows.session import Unit


def limits(cores: int | None, memory_gb: float | None) -> Limits:
    """What a run may use: what was said, or all cores and nine tenths of the memory."""
    return Limits(cores or resources.cores(), memory_gb or 0.9 * resources.memory_gb())


def run_participants(
    place: Place, may_use: Limits, *, stop_on_first_failure: bool = False
) -> tuple[list[Record], list[Problem]]:
    """Run every session of the plan, and write the page of each when it has ended.

    Returns the records of those that were started or stopped by the plan, and warnings of their pages.

    Raises:
        GraphError, ToolError: as `graph.join`, before anything runs.
    """
    stopped = record_stopped(place)
    if stopped and stop_on_first_failure:
        return stopped, _pages_of(place, stopped)
    units = list(participant.units(place).values())
    roll.add(place.out_dir, {unit.label: unit.recipe for unit in units})
    with_page: dict[str, Sequence[Problem]] = {}
    with pool.interruptible(), progress.view(len(units)) as tell:

        def listen(told: pool.Told) -> None:
            tell(told)
            if isinstance(told.what, pool.After):
                with_page[told.label] = told.what.problems

        ran = pool.run(
            units, may_use, listen, stop_on_first_failure=stop_on_first_failure, then=writing.page_of
        )
    problems = [problem for found in with_page.values() for problem in found]
    without = [item for item in stopped + ran if item.label not in with_page]
    return stopped + ran, problems + _pages_of(place, without)


def _pages_of(place: Place, records: Sequence[Record]) -> list[Problem]:
    """Write the pages of sessions that had no process to do so, or were killed in it."""
    labels = [item.label for item in records]
    return _written(place, writing.pages_of, place.out_dir, labels) if labels else []


def write_pages(place: Place) -> list[Problem]:
    """Write the methods and the page of the cohort, with what there is; returns warnings.

    Raises:
        DatasetError: `RECORD_LEADS_OUT`.
    """
    settings = place.settings
    return _written(
        place, _write_pages, place.out_dir, place.plan.bids_dir, settings.cohort, settings.analyses
    )


def _written(place: Place, write: Callable[..., list[Problem]], *values: object) -> list[Problem]:
    """Warnings of what writes pages, in a process of its own: what it needs of memory goes with it."""
    try:
        problems: list[Problem] = pool.apart(write, *values)
    except ChildProcessError as error:
        return [writing.not_written(place.out_dir, error)]
    return problems


def _write_pages(
    out_dir: Path, bids_dir: Path, cohort: Cohort, analyses: Mapping[str, AnalysisConfig]
) -> list[Problem]:
    pages = Written(problems=cohort_groups.write(out_dir, bids_dir, cohort, analyses))
    records = record.read_all(out_dir)
    told = writing.write_methods(out_dir, records, pages)
    writing.remove_gone(out_dir, records, pages)
    writing.write_cohort(out_dir, records, told, pages)
    return pages.problems


def record_stopped(place: Place) -> list[Record]:
    """Write the records of the sessions that the plan stops; returns them."""
    stopped = [_stopped(session, place) for session in place.plan.sessions if session.errors]
    for item in stopped:
        record.write(item, place.out_dir)
    return stopped


def check_disk(place: Place, may_use: Limits) -> list[Problem]:
    """Warnings where the sessions to run may not fit on the disks of the output and of the work folder.

    Raises:
        ResourceError: `DISK_SPACE`, where they will not, as far as measured sessions tell.
        GraphError, ToolError: as `graph.join`.
    """
    units = list(participant.units(place).values())
    records = read_measured(place, units)
    found = forecast.check_disk(
        forecast.needs(units, records),
        place.out_dir,
        place.work_dir,
        keep=place.settings.keep,
        at_once=may_use.cores,
    )
    if any(problem.severity == "error" for problem in found):
        raise ResourceError.of(found)
    return found


def read_measured(place: Place, units: Sequence[Unit], others: int = 20) -> Iterator[Record]:
    """The records of these sessions, and of some others of the output: one element of an array reads few."""
    own = [record.path_of(place.out_dir, unit.label) for unit in units]
    every = sorted((place.out_dir / "logs").glob("sub-*.json"))
    paths = dict.fromkeys([*own, *every[:others]])
    return (item for item in map(record.read, paths) if item is not None)


def _stopped(session: Session, place: Place) -> Record:
    """The record of a session that its plan stops: nothing else is written for it."""
    identity = participant.identity_of(session, place.settings)
    result = Record(
        label=session.label,
        participant_id=identity["participant_id"],
        session_id=identity["session_id"],
        run=identity["run"],
        verdict="failed",
        problems=list(session.errors),
        failed_step="plan",
        warnings=list(session.warnings),
        facts=list(session.facts),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=place.command,
        job=place.job,
    )
    return record.not_reached(result, place.out_dir)


def run_group(place: Place, may_use: Limits) -> tuple[list[Member], list[Record]]:
    """Make the tables of the sessions that are done, and the status of all; then run the analyses of them.

    Returns the sessions, and the records of the tables and of each analysis.

    Raises:
        GraphError, ToolError: as `graph.join`, before anything runs.
        DatasetError: `NOBODY_DONE`.
    """
    cohort = group.members(place)
    group.write_status(place.out_dir, cohort)
    roll.merge(place.out_dir)
    resources_table.write(place.out_dir, [member.last for member in cohort if member.last is not None])
    if not any(member.verdict == "done" for member in cohort):
        raise DatasetError(
            Problem(
                "NOBODY_DONE",
                "no session is done and kept, so no table is made; tables of an earlier run are left alone",
                where=str(place.out_dir),
                found=group.summary(cohort),
                expected="at least one session that is done with this configuration and not failed in review",
                do="run the participant level first; group/status.tsv says how each session stands",
            )
        )
    made = _run_units([group.unit(place, cohort)], may_use)
    if made[0].verdict == "done":
        analyses.forget(place)
        made += _run_units(analyses.units(place, cohort), may_use)
    return cohort, made


def _run_units(units: Sequence[Unit], may_use: Limits) -> list[Record]:
    """Run what is not a session; returns the records, whole."""
    with pool.interruptible(), progress.view(len(units)) as tell:
        ran = pool.run(units, may_use, tell) if units else []
    return [_whole(item, units[0].out_dir) for item in ran]


def _whole(brief: Record, out_dir: Path) -> Record:
    """The record of which this is told in brief; one that failed may not have been written."""
    return brief if brief.verdict == "failed" else record.read(record.path_of(out_dir, brief.label)) or brief
