"""How each session of an output dataset stands: from its record, and from what a cluster was given.

Slurm is asked where it can be; where it cannot, the logs of the elements and the leases of their sessions
tell what waits and what runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from somite import ending, record, roll, submissions
from somite.ending import Log
from somite.errors import Problem, in_one_line
from somite.record import Record
from somite.submissions import Attempt, Submission
from somite.workflows import slurm
from somite.workflows.slurm import ENDED, Task

SIGN_OF_LIFE_S = 180
"""A lease, renewed every few seconds, or a log that is older than this is nobody's."""
_CLOCKS_S = 60
"""Clocks of two nodes may differ by this much."""


@dataclass(frozen=True)
class Standing:
    """How a session stands."""

    verdict: str
    """`done`, `failed`, `outdated`, `not finished`, `queued`, `running`."""
    reason: str = ""
    code: str = ""
    """Of the problem for which it failed."""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs on the cluster."""
        return self.verdict in ("queued", "running")


@dataclass(frozen=True)
class Cluster:
    """What is known of the jobs of an output dataset."""

    out_dir: Path
    submissions: list[Submission] = field(default_factory=list)
    tasks: Mapping[str, Task] | None = None
    """From Slurm; None where it cannot be asked from here."""
    ended: Mapping[str, Task] = field(default_factory=dict)
    """From the collectors."""

    def task(self, job: str) -> Task | None:
        """The last word on a job or an element."""
        now = (self.tasks or {}).get(job)
        return self.ended.get(job, now) if now is None or now.state in ENDED else now


def look(out_dir: Path) -> Cluster:
    """Ask Slurm and the collectors."""
    given = submissions.read_all(out_dir)
    jobs = [job for submission in given for job in submission.jobs]
    ended = {
        name: Task(task.get("state", ""), task.get("reason", ""), task.get("exit_code", ""))
        for name, task in submissions.collected(out_dir, jobs).items()
    }
    tasks = slurm.queue(jobs)
    # The exit code tells which signal ended an element.
    failed = {name for name, task in (tasks or {}).items() if task.state == "FAILED"} - set(ended)
    for array in sorted({int(name.partition("_")[0]) for name in failed if "_" in name}):
        ended |= slurm.endings(array)
    return Cluster(out_dir, given, tasks, ended)


def of_sessions(cluster: Cluster, records: Mapping[str, Record]) -> dict[str, Standing]:
    """Label -> how it stands, of every session that has a record or was to be run."""
    expected = roll.read(cluster.out_dir)
    given = submissions.attempts(cluster.submissions)
    found = {}
    for label in sorted({*records, *expected, *given}):
        item, attempt = records.get(label), given.get(label)
        standing = None if attempt is None else _on_cluster(label, attempt, item, cluster)
        found[label] = standing or _by_record(item, expected.get(label))
    return found


def _by_record(item: Record | None, recipe: str | None) -> Standing:
    """From its record and the recipe that the last run was to follow."""
    if item is None:
        return Standing("not finished", "the run that was to do it ended before: give the same command again")
    if item.verdict == "done" and recipe is not None and recipe != item.recipe:
        return Standing("outdated", "the last run was to do it with other options, and ended before")
    return Standing(item.verdict, item.reason, item.problems[0].code if item.problems else "")


def _on_cluster(label: str, attempt: Attempt, item: Record | None, cluster: Cluster) -> Standing | None:
    """How its last attempt stands; None where the record says it all."""
    if item is not None and item.job != attempt.job and item.started > attempt.submission.submitted:
        return None  # run since then without the cluster
    task = cluster.task(attempt.job)
    if task is not None and task.state == "PENDING":
        return Standing("queued", _job(attempt, task.reason))
    log = ending.read_log(attempt.log(cluster.out_dir))
    if item is not None and _is_of(item, attempt, log):
        return None if item.verdict == "done" else _explained(label, item, attempt, log, task)
    if task is not None and task.state not in ENDED:
        return _running(label, attempt, log, task)
    if cluster.tasks is None and task is None and (live := _by_signs(label, attempt, log)) is not None:
        return live
    cause = ending.why(label, log, task, cancelled=bool(attempt.submission.cancelled))
    return _failed(cause or ending.unknown(label, log))


def _is_of(item: Record, attempt: Attempt, log: Log | None) -> bool:
    """Whether a record was written by this attempt, since it began for the last time."""
    if item.job != attempt.job:
        return False
    with suppress(ValueError):
        return log is None or datetime.fromisoformat(item.started).timestamp() >= log.began - _CLOCKS_S
    return True


def _explained(label: str, item: Record, attempt: Attempt, log: Log | None, task: Task | None) -> Standing:
    """The reason in the record; where that knows only that it was killed, that of the log or of Slurm."""
    if not item.problems or item.problems[0].code not in ending.VAGUE:
        return _by_record(item, None)
    cause = ending.why(label, log, task, cancelled=bool(attempt.submission.cancelled))
    if cause is None or cause.code in ("UNKNOWN", "JOB_FAILED", "KILLED"):
        return _by_record(item, None)
    return _failed(replace(cause, found=f"in {item.failed_step}" if item.failed_step else ""))


def _failed(problem: Problem) -> Standing:
    return Standing("failed", in_one_line([problem]), problem.code)


def _running(label: str, attempt: Attempt, log: Log | None, task: Task | None) -> Standing:
    together = attempt.array.elements[attempt.element]
    if len(together) > 1 and not _lease(label, attempt).exists():
        return Standing("queued", _job(attempt, "its element runs other sessions"))
    step = log.last_step(label) if log is not None else ""
    words = [f"on {log.host}"] if log is not None and log.host else []
    words += [f"last step {step}"] if step else []
    words += [task.state] if task is not None and task.state != "RUNNING" else []
    return Standing("running", _job(attempt, ", ".join(words)))


def _by_signs(label: str, attempt: Attempt, log: Log | None) -> Standing | None:
    """Where Slurm cannot be asked: whether it waits or runs, by its log and its lease."""
    if attempt.submission.cancelled or (log is not None and ending.why(label, log, None) is not None):
        return None
    if log is None:
        return Standing("queued", _job(attempt, "Slurm cannot be asked from here"))
    files = (log.path, _lease(label, attempt))
    over = log.began and time.time() > log.began + 60 * attempt.array.minutes + SIGN_OF_LIFE_S
    if over or all(time.time() - _changed(path) > SIGN_OF_LIFE_S for path in files):
        return None
    return _running(label, attempt, log, None)


def _job(attempt: Attempt, words: str) -> str:
    return f"job {attempt.job}" + (f": {words}" if words else "")


def _lease(label: str, attempt: Attempt) -> Path:
    return Path(attempt.submission.work_dir) / label / "lease.json"


def _changed(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def of_group(cluster: Cluster) -> Standing | None:
    """How the job of the group level stands; None where none was given to the cluster."""
    job = next((item.group for item in reversed(cluster.submissions) if item.group), 0)
    if not job:
        return None
    task = cluster.task(str(job))
    item = record.read(record.path_of(cluster.out_dir, "group"))
    if task is not None and task.state not in ENDED:
        return Standing("queued" if task.state == "PENDING" else "running", f"job {job}: {task.reason}")
    log = submissions.folder(cluster.out_dir) / f"group-{job}.log"
    if item is None:
        return Standing("not run", f"job {job}" + (f": read {log}" if log.exists() else ""))
    return Standing(item.verdict, item.reason)
