"""Whole sessions through the command line: time, memory, and what the engine adds to its steps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import THREADS, Row

from somite import record
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

NAME = "session"
SMALL, SMALL_MM = 12, 9.0
"""Sessions, and voxels so large that their steps take no time: what is left is the engine."""


def rows() -> list[Row]:
    """Rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        return [*_whole(Path(scratch) / "whole"), *_overhead(Path(scratch) / "small")]


def _run(folder: Path, *options: str) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "somite", "run", str(folder / "bids"), str(folder / "out")]
    subprocess.run([*command, "participant", "-c", "lumbar", *options], check=True, capture_output=True)
    return time.perf_counter() - begin


def _start_up() -> float:
    """Time to start Python with all that a run imports."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import somite.workflows.preload, somite.show"], check=True)
    return time.perf_counter() - begin


def _whole(folder: Path) -> list[Row]:
    folder.mkdir()
    write_dataset(folder / "bids", participants=1)
    seconds = _run(folder, "--n-procs", str(THREADS))
    (found,) = record.read_all(folder / "out")
    steps = ", ".join(f"{step.step} {step.seconds:.1f}" for step in found.steps if step.seconds >= 0.1)
    return [
        Row(NAME, "lumbar phantom, 96x96x40x37, one session", "s", seconds, note=steps),
        Row(NAME, "the same, peak memory of its process", "GB", found.peak_mb / 1024),
    ]


def _overhead(folder: Path) -> list[Row]:
    folder.mkdir()
    write_dataset(folder / "bids", participants=SMALL, grid=lumbar_grid(SMALL_MM))
    start_up = min(_start_up() for _ in range(3))
    first = _run(folder, "--n-procs", "1")
    found = record.read_all(folder / "out")
    steps = sum(len(item.steps) for item in found)
    work = sum(step.seconds for item in found for step in item.steps)
    again = min(_run(folder, "--n-procs", "1") for _ in range(3))
    return [
        Row(
            NAME,
            f"engine, per session and step, {SMALL} sessions of {steps // SMALL} steps",
            "ms",
            1000 * (first - start_up - work) / steps,
            at_most=150,
            note="process, cache, checksums, delivery, record; steps themselves not counted",
        ),
        Row(
            NAME,
            f"a run of {SMALL} sessions that executes nothing, beyond start-up",
            "s",
            again - start_up,
            at_most=3,
        ),
        Row(NAME, "start-up: interpreter and libraries", "s", start_up),
    ]
