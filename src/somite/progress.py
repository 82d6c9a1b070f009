"""What a person sees while sessions run: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from somite.lease import Owner
from somite.record import Record
from somite.stdout import say
from somite.workflows.engine import Event
from somite.workflows.pool import Told


class View(Protocol):
    """Shows what sessions tell."""

    def __call__(self, told: Told) -> None:
        """Show one thing that a session told."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


def line(told: Told) -> str:
    """One plain line for what a session told, or an empty string."""
    match told.what:
        case Event(step, "run", seconds):
            return f"{told.label}  {step} ({seconds:.1f} s)"
        case Event(step, "failed", seconds):
            return f"{told.label}  {step} FAILED ({seconds:.1f} s)"
        case Owner() as owner:
            return f"{told.label}  waits: process {owner.pid} of another run is working on it"
        case Record() as record if record.verdict == "done":
            codes = sorted({warning.code for warning in record.warnings})
            warned = f"; warnings: {', '.join(codes)}" if codes else ""
            return f"{told.label}  done: {record.count('run')} run, {record.count('cached')} cached{warned}"
        case Record() as record:
            step = f" in {record.failed_step}" if record.failed_step else ""
            return f"{told.label}  failed{step}: {record.reason}"
    return ""


class Lines:
    """Plain lines, for logs."""

    def __call__(self, told: Told) -> None:
        """Print a line."""
        if text := line(told):
            say(text)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *ignored: object) -> None:
        """End."""


class Live:
    """A bar for the cohort and a line for each session that runs, for a terminal."""

    def __init__(self, sessions: int, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._cohort = self._progress.add_task("sessions", total=sessions)
        self._running: dict[str, TaskID] = {}
        self._began = time.monotonic()

    def __call__(self, told: Told) -> None:
        """Show it."""
        match told.what:
            case Record() as record:
                if (task := self._running.pop(told.label, None)) is not None:
                    self._progress.remove_task(task)
                self._progress.advance(self._cohort)
                if record.verdict == "failed":
                    self._progress.console.print(Text(line(told), style="red"))
            case Owner():
                self._progress.console.print(Text(line(told)))
            case Event(step, "started"):
                self._show(told.label, f"{told.label}  {step}")

    def _show(self, label: str, text: str) -> None:
        if label not in self._running:
            self._running[label] = self._progress.add_task(text, total=None)
        self._progress.update(self._running[label], description=text)

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        """End."""
        self._progress.stop()


def view(sessions: int) -> View:
    """Live lines where stdout is a terminal, plain lines elsewhere."""
    console = Console()
    return Live(sessions, console) if console.is_terminal else Lines()
