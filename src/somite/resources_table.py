"""The cohort's table of resources: time, memory and disk of each step of each session."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from somite.files import write_atomically
from somite.record import Record, StepRecord

COLUMNS = {
    "participant_id": "Participant",
    "session_id": "Session, or n/a",
    "run": "What tells this group of series from others of the session, or n/a",
    "step": "Step of the pipeline",
    "state": "In the last run: run, cached, failed, not reached. Figures are of the run that made the result",
    "seconds": "Time that the step took, s",
    "cpu_seconds": "Time of all cores, of the step and the tools that it ran, s",
    "threads": "Cores that the session might use in its last run",
    "peak_memory_mb": "Highest resident memory while the step ran, interpreter and libraries included, MB",
    "disk_mb": "Size of what the step made in the work folder, MB",
    "dwi_gb": "Size of the session's diffusion series as 32-bit floating point, GB",
}


def write(out_dir: Path, records: Iterable[Record]) -> Path:
    """Write `group/resources.tsv`, a row per session and step, with its dictionary; returns its path."""
    rows = [_row(item, step) for item in records for step in item.steps]
    lines = ["\t".join(COLUMNS), *("\t".join(map(str, row)) for row in rows)]
    path = write_atomically(out_dir / "group" / "resources.tsv", "\n".join(lines) + "\n")
    words = {name: {"Description": text} for name, text in COLUMNS.items()}
    write_atomically(path.with_suffix(".json"), json.dumps(words, indent=2) + "\n")
    return path


def _row(item: Record, step: StepRecord) -> tuple[object, ...]:
    return (
        item.participant_id,
        item.session_id or "n/a",
        item.run or "n/a",
        step.step,
        step.state,
        step.seconds,
        step.cpu_seconds,
        item.threads,
        step.peak_mb,
        step.disk_mb,
        round(item.dwi_gb, 6),
    )
