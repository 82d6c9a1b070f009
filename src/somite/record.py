"""The record of a session's run: what ran, on what, with which result. One JSON file in `logs/`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from somite.errors import DatasetError, Problem, in_one_line
from somite.files import read_json, write_atomically
from somite.registry import Fact

GONE = "its result is no longer in the work folder"

State = Literal["run", "cached", "failed", "not reached"]
Verdict = Literal["done", "failed"]


@dataclass(frozen=True)
class StepRecord:
    """One step of a session."""

    step: str
    state: State
    seconds: float = 0.0
    peak_mb: float = 0.0
    code: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)
    """Need -> SHA-256 of its files."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Product -> SHA-256."""
    commands: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    """Of this process and of the tools that it ran, over all cores."""
    disk_mb: float = 0.0
    """Of what it made, in the work folder."""
    entry: str = ""
    """Name of its folder in the cache."""


@dataclass(frozen=True)
class Delivered:
    """A file of the output."""

    path: str
    """Relative to the output dataset."""
    sha256: str
    size: int
    source: str
    """SHA-256 of the product that it was made from."""

    @property
    def is_inside(self) -> bool:
        """Whether its path stays in the output: a record is a file that anybody may have edited."""
        path = PurePosixPath(self.path)
        return not path.is_absolute() and path.name != "" and ".." not in path.parts


@dataclass(frozen=True)
class Record:
    """One run of one session. The newest is in `logs/<label>.json`."""

    label: str
    participant_id: str
    session_id: str
    run: str
    verdict: Verdict
    problems: list[Problem] = field(default_factory=list)
    """Why it failed; empty when it is done."""
    failed_step: str = ""
    warnings: list[Problem] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    before: list[StepRecord] = field(default_factory=list)
    """Steps of the last run that came to them, where this one did not."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Input file, relative to the dataset it came from -> SHA-256."""
    outputs: list[Delivered] = field(default_factory=list)
    recipe: str = ""
    """Digest of the steps' options: sessions of one table must have the same."""
    seconds: float = 0.0
    started: str = ""
    command: str = ""
    job: str = ""
    """Job and element of the cluster that ran it: `1234_5`."""
    software: dict[str, str] = field(default_factory=dict)
    processor: str = ""
    processor_flags: str = ""
    """What it can do with numbers: results are the same to the bit only where it is the same."""
    threads: int = 1
    dwi_gb: float = 0.0
    """Size of its series as float32."""

    def count(self, state: State) -> int:
        """How many steps ended in this state."""
        return sum(step.state == state for step in self.steps)

    @property
    def peak_mb(self) -> float:
        """Highest memory of its steps, whenever they ran."""
        return max((step.peak_mb for step in self.steps), default=0.0)

    @property
    def brief(self) -> Record:
        """How it ended and what its steps took, without what they read and made: for those who hold many."""
        steps = [
            StepRecord(
                step.step,
                step.state,
                step.seconds,
                step.peak_mb,
                cpu_seconds=step.cpu_seconds,
                disk_mb=step.disk_mb,
            )
            for step in self.steps
        ]
        return replace(self, steps=steps, before=[], inputs={}, outputs=[], facts=[], software={})

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return in_one_line(self.problems)


def is_label(text: str) -> bool:
    """Whether a text may be the label of a session: it becomes the name of files."""
    return re.fullmatch(r"sub-[0-9A-Za-z+]+(_[0-9A-Za-z]+-[0-9A-Za-z+]+)*", text) is not None


def path_of(out_dir: Path, label: str) -> Path:
    """Where the record of a session lies."""
    return out_dir / "logs" / f"{label}.json"


def write(record: Record, out_dir: Path) -> Path:
    """Write a record whole; returns its path."""
    return write_atomically(path_of(out_dir, record.label), json.dumps(asdict(record), indent=1) + "\n")


def read(path: Path) -> Record | None:
    """The record at `path`, or None where there is none that can be read, or that of another label.

    Raises:
        DatasetError: `RECORD_LEADS_OUT`, it names files that do not lie in the output.
    """
    try:
        stored = read_json(path)
        stored["problems"] = [Problem(**item) for item in stored["problems"]]
        stored["warnings"] = [Problem(**item) for item in stored["warnings"]]
        stored["facts"] = [Fact(**item) for item in stored["facts"]]
        for steps in ("steps", "before"):
            stored[steps] = [StepRecord(**item) for item in stored[steps]]
        stored["outputs"] = [Delivered(**item) for item in stored["outputs"]]
        found = Record(**stored)
        outside = [item.path for item in found.outputs if not item.is_inside]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if outside:
        raise DatasetError(_leads_out(path, outside))
    return found if found.label == path.stem else None


def _leads_out(path: Path, outside: Sequence[str]) -> Problem:
    return Problem(
        "RECORD_LEADS_OUT",
        "the record of a session names files that do not lie in the output, so nothing is done with it",
        where=str(path),
        found=", ".join(outside),
        expected="paths relative to the output, without ..",
        do="find out who changed it; remove it, and its session runs again",
    )


def not_reached(result: Record, out_dir: Path) -> Record:
    """A record of a session that no step was run for: what is known of the last run stays known."""
    last = read(path_of(out_dir, result.label))
    if last is None:
        return result
    return replace(result, outputs=last.outputs, before=last.steps or last.before)


def each(out_dir: Path) -> Iterator[Record]:
    """The record of every session of an output dataset, by label, one at a time."""
    found = (read(path) for path in sorted((out_dir / "logs").glob("sub-*.json")))
    return (record for record in found if record is not None)


def read_all(out_dir: Path) -> list[Record]:
    """The records of all sessions of an output dataset, by label."""
    return list(each(out_dir))


GROUP, ANALYSIS = "group", "analysis-"
"""Label of the tables of the cohort, and how those of analyses begin."""


def read_group(out_dir: Path) -> list[Record]:
    """The record of the tables of the cohort, if there is one, then that of every analysis, by name."""
    paths = [path_of(out_dir, GROUP), *sorted((out_dir / "logs").glob(f"{ANALYSIS}*.json"))]
    return [found for found in map(read, paths) if found is not None]


def tally(records: Iterable[Record]) -> str:
    """`steps: 12 run, 30 cached, 0 failed` over several records."""
    states = Counter(step.state for record in records for step in record.steps)
    return f"steps: {states['run']} run, {states['cached']} cached, {states['failed']} failed"


def differences(before: Sequence[StepRecord], now: StepRecord) -> list[str]:
    """Why a step would run again: what differs from the record of its last run, in words."""
    last = next((step for step in before if step.step == now.step), None)
    if last is None or last.state in ("failed", "not reached"):
        return ["not run before"] if last is None else ["did not end well before"]
    reasons = []
    for option in sorted(set(last.config) | set(now.config)):
        old, new = last.config.get(option, "(absent)"), now.config.get(option, "(absent)")
        if old != new:
            reasons.append(f"option {now.step}.{option}: {_short(old)} -> {_short(new)}")
    for need, sums in now.inputs.items():
        if last.inputs.get(need) != sums:
            reasons.append(f"input {need} changed")
    for name in sorted(set(last.versions) | set(now.versions)):
        old, new = last.versions.get(name, "absent"), now.versions.get(name, "absent")
        if old != new:
            reasons.append(f"version of {name}: {old} -> {new}")
    if last.code != now.code:
        reasons.append(f"code of step {now.step} changed")
    return reasons or [GONE]


def _short(value: object, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
