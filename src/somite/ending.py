"""Why an element of a cluster ended: from what its script and Slurm said, without accounting."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from somite.errors import Problem
from somite.workflows.slurm import ENDED, Task

OUT_OF_MEMORY = "OUT_OF_MEMORY"
VAGUE = frozenset({"SESSION_KILLED", "TERMINATED"})
"""Codes of records that say that something ended the session, not what."""

_AGAIN = "submit again: what is finished is kept"
_SAID = (
    (
        re.compile(r"Exceeded (job|step) memory limit|oom[-_]kill|Out Of Memory", re.IGNORECASE),
        Problem(
            OUT_OF_MEMORY,
            "the job needed more memory than it had asked for",
            do="submit again with --retry-memory 2x",
        ),
    ),
    (
        re.compile(r"DUE TO TIME LIMIT|is told that its time limit is near"),
        Problem("TIME_LIMIT", "the time limit of the job came before the session ended"),
    ),
    (re.compile(r"DUE TO PREEMPTION"), Problem("PREEMPTED", "another job took its place", do=_AGAIN)),
    (re.compile(r"DUE TO NODE FAILURE"), Problem("NODE_FAIL", "its node failed", do=_AGAIN)),
    (
        re.compile(r"CANCELLED AT|is told to end"),
        Problem("CANCELLED", "the job was cancelled", do=_AGAIN),
    ),
)
_STATES = {
    "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "TIMEOUT": "TIME_LIMIT",
    "PREEMPTED": "PREEMPTED",
    "NODE_FAIL": "NODE_FAIL",
    "CANCELLED": "CANCELLED",
}
_OF_CODE = {problem.code: problem for _, problem in _SAID}


@dataclass(frozen=True)
class Log:
    """What the script of an element said, since it began for the last time."""

    path: Path
    text: str
    began: float = 0.0
    """Seconds since 1970, by the clock of its node; 0 where it did not begin."""
    host: str = ""
    status: int | None = None
    """With which it ended; None where it did not say so."""

    def last_step(self, label: str) -> str:
        """The last step of a session that it tells of; empty where there is none."""
        steps = re.findall(rf"^{re.escape(label)}  (\w+) (?:FAILED )?\(", self.text, re.MULTILINE)
        return steps[-1] if steps else ""


def read_log(path: Path) -> Log | None:
    """The log of an element; None where it has not begun."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    begun = list(re.finditer(r"^somite: \S+ began on (\S+) at (\d+):", text, re.MULTILINE))
    if not begun:
        return Log(path, text)
    text = text[begun[-1].start() :]
    ended = re.findall(r"^somite: \S+ ended with status (\d+)$", text, re.MULTILINE)
    return Log(path, text, float(begun[-1][2]), begun[-1][1], int(ended[-1]) if ended else None)


def why(label: str, log: Log | None, task: Task | None, *, cancelled: bool = False) -> Problem | None:
    """Why the element of a session is over; None where nothing tells that it is.

    Args:
        label: the session.
        log: of its element.
        task: what Slurm, or the collector, said of it last.
        cancelled: by `somite cancel`, with all the others.
    """
    if log is not None:
        for pattern, problem in _SAID:
            if pattern.search(log.text):
                return _at(problem, log)
    state = task.state.split()[0] if task is not None else ""
    if state in _STATES:
        return _at(_OF_CODE[_STATES[state]], log)
    if log is not None and log.status is not None:
        return _ended_with(log.status, label, log)
    if cancelled:
        return _at(_OF_CODE["CANCELLED"], log)
    if task is None or state not in ENDED:
        return None
    status, _, number = task.exit_code.partition(":")
    if number not in ("", "0"):
        return _ended_with(128 + int(number), label, log)
    if status not in ("", "0"):
        return _ended_with(int(status), label, log)
    return unknown(label, log)


def unknown(label: str, log: Log | None) -> Problem:
    """Where nothing tells why: how far the session came."""
    step = log.last_step(label) if log is not None else ""
    words = f"unknown, last step {step}" if step else "unknown, before its first step ended"
    return _at(Problem("UNKNOWN", words if log is not None else "unknown, it left no log", do=_AGAIN), log)


def _ended_with(status: int, label: str, log: Log | None) -> Problem:
    step = log.last_step(label) if log is not None else ""
    after = f", last step {step}" if step else ""
    with suppress(ValueError):
        name = signal.Signals(status - 128).name
        return _at(Problem("KILLED", f"the job was ended by {name}{after}", do=_AGAIN), log)
    return _at(Problem("JOB_FAILED", f"the job ended with status {status}{after}", do="read its log"), log)


def _at(problem: Problem, log: Log | None) -> Problem:
    where = "" if log is None else f"logs/slurm/{log.path.name}"
    return Problem(problem.code, problem.what, where, do=problem.do)
