"""Many sessions at once: a process for each, within the cores and the memory that the run may use.

Every session runs in a process group of its own below a guard. The guard does nothing but wait: when this
process ends, however it ends, or the session does, the guard kills the whole group, tools included, so that
nothing is orphaned (defect 7 of Pydra's pool, which is not used).
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Any

from somite import containers, jit, record, resources
from somite.errors import Problem
from somite.lease import Owner
from somite.record import Record
from somite.registry import discover
from somite.workflows import session
from somite.workflows.engine import Event
from somite.workflows.session import Unit

_INTERRUPTS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}

BASE_GB = 0.4
"""Memory of a session's process beside its data: interpreter and libraries."""


@dataclass(frozen=True)
class After:
    """What was made of a session after its record was written, in its own process."""

    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Told:
    """What a session tells while it runs."""

    label: str
    what: Event | Owner | Record | After


Then = Callable[[Path, str], Sequence[Problem]]
"""Output folder, label -> what went wrong with what is made after the record of a session was written."""


@dataclass(frozen=True)
class Limits:
    """What a run may use."""

    cores: int
    memory_gb: float

    def threads(self, sessions: int) -> int:
        """Cores for each of so many sessions at once."""
        return max(1, self.cores // max(1, min(sessions, self.cores)))


def need_gb(unit: Unit) -> float:
    """Highest declared memory of a session's steps, in GB: multiples of its DWI as float32."""
    copies = max((discover()[node.step].dwi_copies for node in unit.nodes), default=0.0)
    return BASE_GB + copies * unit.dwi_gb


def run(
    units: Sequence[Unit],
    limits: Limits,
    tell: Callable[[Told], None],
    *,
    stop_on_first_failure: bool = False,
    then: Then | None = None,
) -> list[Record]:
    """Run sessions, as many at once as fit; returns their records, in brief, in the order of `units`.

    `then` is called in the process of each session that wrote its own record, and tells `After`.
    A session that needs more memory than the run may use at all is not started: its record says so. On
    KeyboardInterrupt, or SIGTERM turned into it, every process is ended before it is raised again.
    """
    records: dict[str, Record] = {}
    waiting = list(units)
    for unit in [unit for unit in waiting if need_gb(unit) > limits.memory_gb]:
        waiting.remove(unit)
        records[unit.label] = _refuse(unit, limits)
        tell(Told(unit.label, records[unit.label]))
    threads = limits.threads(len(waiting))
    running: dict[Connection, _Running] = {}
    try:
        while waiting or running:
            while (index := _next(waiting, running.values(), limits, threads)) is not None:
                job = _start(waiting.pop(index), threads, then)
                running[job.connection] = job
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job = running[connection]
                told = job.receive()
                if isinstance(told.what, Record):
                    records[told.label] = told.what
                    job.process.join()
                    del running[connection]
                    if stop_on_first_failure and told.what.verdict == "failed":
                        waiting.clear()
                        _end(running.values())
                        running.clear()
                tell(told)
                if not running:
                    break
    except ToldToEnd as end:
        jobs = list(running.values())
        running.clear()
        _end(jobs)
        for job in jobs:
            if job.written() is None:
                _without_steps(job.unit, end.problem, job.step)
        raise
    finally:
        _end(running.values())
    return [records[unit.label] for unit in units if unit.label in records]


@dataclass
class _Running:
    unit: Unit
    process: ForkServerProcess
    connection: Connection
    record_before: tuple[int, int] | None
    """Stamp of the record of an earlier run."""
    step: str = ""
    """That it works on."""

    def receive(self) -> Told:
        """What it tells next; a process that ended without its record gets one."""
        try:
            what: Any = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            what = self.written() or _killed(self.unit, self.process.exitcode, self.step)
        if isinstance(what, Event) and what.state == "started":
            self.step = what.step
        return Told(self.unit.label, what)

    def written(self) -> Record | None:
        """The record that it left, in brief, where it was ended after that: only its page is lost."""
        path = record.path_of(self.unit.out_dir, self.unit.label)
        found = record.read(path) if _stamp(path) != self.record_before else None
        if found is None or any(problem.code == session.UNDELIVERED for problem in found.problems):
            return None
        return found.brief


def _next(waiting: Sequence[Unit], running: Iterable[_Running], limits: Limits, threads: int) -> int | None:
    """The first session that fits beside those that run."""
    units = [job.unit for job in running]
    free_gb = limits.memory_gb - sum(need_gb(unit) for unit in units)
    if (len(units) + 1) * threads > max(limits.cores, threads):
        return None
    return next((i for i, unit in enumerate(waiting) if need_gb(unit) <= free_gb), None)


def _start(unit: Unit, threads: int, then: Then | None) -> _Running:
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_guard, args=(unit, threads, then, there), name=unit.label)
    before = _stamp(record.path_of(unit.out_dir, unit.label))
    with _no_interrupt():
        process.start()
    there.close()
    return _Running(unit, process, here, before)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that it replaced; None where there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


class _no_interrupt:
    """Hold signals back while a process is started: half of a start cannot be undone."""

    def __enter__(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)

    def __exit__(self, *error: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


def _end(running: Iterable[_Running]) -> None:
    jobs = list(running)
    for job in jobs:
        if job.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(job.process.pid, signal.SIGTERM)
    for job in jobs:
        job.process.join(3)
        if job.process.is_alive():
            job.process.kill()
            job.process.join()


def _guard(unit: Unit, threads: int, then: Then | None, connection: Connection) -> None:
    """Fork the session's process and wait for its end, or for the end of the process that asked for it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive, alive_end = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(alive)
        code = 1
        try:
            os.setpgid(0, 0)
            die_with_parent()
            _work(unit, threads, then, connection)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(alive_end)
    connection.close()
    with suppress(OSError):
        os.setpgid(worker, worker)

    _adopt_orphans()

    def stop(*_: object) -> None:
        _kill_all(worker)
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    parent = multiprocessing.parent_process()
    assert parent is not None
    select.select([alive, parent.sentinel], [], [])
    status = _kill_all(worker)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _kill_all(worker: int) -> int:
    """End the session's process, if it has not ended, and all that it started; returns its wait status.

    A tool may leave the session's process group, as container runtimes do: such orphans come to this
    process, which kills until none is left.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    while orphans := _children_of(os.getpid()):
        for orphan in orphans:
            with suppress(ProcessLookupError, PermissionError, ChildProcessError):
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)
    return status


def _children_of(parent: int) -> list[int]:
    """Process numbers of the children of a process (Linux; elsewhere none are known)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # After the name in brackets: state, number of the parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _adopt_orphans() -> None:
    """Linux: what the session started becomes a child of this process when the session ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Linux: this process ends with the one that started it, as a session with its guard."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(unit: Unit, threads: int, then: Then | None, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resources.set_threads(threads)
    containers.use(unit.containers)
    jit.keep_in(unit.work_dir / "numba")
    with open_log(unit.out_dir, unit.label) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO, force=True)
        ended = session.run(unit, listen=connection.send, on_wait=connection.send)
        if then is not None:
            connection.send(After(tuple(then(unit.out_dir, unit.label))))
        connection.send(ended.brief)
    connection.close()


def open_log(out_dir: Path, label: str) -> IO[str]:
    """The log of a session, new and empty: a link of its name is removed, not followed."""
    log = out_dir / "logs" / f"{label}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return log.open("x", encoding="utf-8")


def apart(call: Callable[..., Any], *values: Any) -> Any:
    """What a call returns, made in a process forked from the server: its memory goes with it.

    Raises:
        ChildProcessError: the process ended before the call did.
        Exception: that of the call.
    """
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(call, values, there))
    with _no_interrupt():
        process.start()
    there.close()
    try:
        answer = here.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(f"its process ended before (exit status {process.exitcode})") from None
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(call: Callable[..., Any], values: Sequence[Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    try:
        answer = call(*values)
    except Exception as error:
        answer = error
    connection.send(answer)


def _killed(unit: Unit, exit_code: int | None, step: str) -> Record:
    found, do = f"exit status {exit_code}", "read its log, then run again"
    with suppress(ValueError):
        number = signal.Signals(256 - (exit_code or 0))  # the guard passes -N on as 256 - N
        found = f"ended by {number.name}"
        if number == signal.SIGKILL:
            do = "out of memory is the usual cause: give more memory or fewer cores, then run again"
    return _without_steps(
        unit,
        Problem(
            "SESSION_KILLED",
            "the process of this session ended before its record was written",
            where=str(unit.out_dir / "logs" / f"{unit.label}.txt"),
            found=found,
            do=do,
        ),
        step,
    )


def _refuse(unit: Unit, limits: Limits) -> Record:
    return _without_steps(
        unit,
        Problem(
            "MEMORY",
            "the session needs more memory than this run may use; it was not started",
            found=f"{need_gb(unit):.1f} GB needed",
            expected=f"at most {limits.memory_gb:.1f} GB",
            do="raise --mem-gb, or run it on a machine with more memory",
        ),
    )


def _without_steps(unit: Unit, problem: Problem, failed_step: str = "") -> Record:
    """The record of a session that cannot write its own."""
    blank = replace(session.blank_record(unit, "failed", [problem]), failed_step=failed_step)
    result = record.not_reached(blank, unit.out_dir)
    with suppress(OSError):  # the run goes on with the others, and its last line counts this one
        record.write(result, unit.out_dir)
    return result


class ToldToEnd(KeyboardInterrupt):
    """An interruption that is not a person's at the keyboard: the records of what it ended tell of it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def problem(self) -> Problem:
        """For the record of a session that was running."""
        if self.number == signal.SIGUSR1:
            return Problem(
                "TIME_LIMIT",
                "the time limit of the job came before the session ended",
                do="raise cluster: time_h, then submit again: what is finished is kept",
            )
        return Problem(
            "TERMINATED",
            "the run was told to end before the session did (SIGTERM)",
            do="run again: what is finished is kept",
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM interrupt, and SIGUSR1, by which the script of a job says that its time limit is near."""

    def end(number: int, _: object) -> None:
        raise ToldToEnd(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
