"""What is told while sessions run, as lines for a log and on a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from somite import progress
from somite.errors import Problem
from somite.lease import Owner
from somite.record import Record, StepRecord
from somite.workflows.engine import Event
from somite.workflows.pool import Told

DONE = Record(
    "sub-01", "sub-01", "", "", "done", steps=[StepRecord("load", "run"), StepRecord("roi", "cached")]
)
FAILED = replace(
    DONE, verdict="failed", failed_step="eddy", problems=[Problem("TOOL_FAILED", "eddy failed", found="why")]
)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (Event("load", "run", 1.25), "sub-01  load (1.2 s)"),
        (Event("load", "started"), ""),
        (Event("eddy", "failed", 2.0), "sub-01  eddy FAILED (2.0 s)"),
        (DONE, "sub-01  done: 1 run, 1 cached"),
        (FAILED, "sub-01  failed in eddy: TOOL_FAILED: eddy failed: why"),
        (Owner("t", "h", 42, "1"), "sub-01  waits: process 42 of another run is working on it"),
    ],
)
def test_lines(what: Event | Record | Owner, text: str) -> None:
    assert progress.line(Told("sub-01", what)) == text


def test_on_a_terminal_the_sessions_and_their_steps_are_shown() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.Live(2, console) as tell:
        for what in (Event("load", "started"), Event("load", "run"), DONE, FAILED):
            tell(Told("sub-01", what))
        tell(Told("sub-02", Event("denoise", "started")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed in eddy: TOOL_FAILED" in shown
    assert "sub-02  denoise" in shown
    assert "2/2" in shown


def test_without_a_terminal_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Lines() as tell:
        tell(Told("sub-01", Event("load", "run", 1.0)))
        tell(Told("sub-01", Event("roi", "started")))
    assert capsys.readouterr().out == "sub-01  load (1.0 s)\n"
