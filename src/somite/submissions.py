"""What was given to a cluster: a file in `logs/slurm/` for each call of `somite submit`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from somite.files import write_atomically


@dataclass(frozen=True)
class Array:
    """A job array."""

    job: int
    elements: list[list[str]]
    """Labels of the sessions of each element."""
    memory_mb: int
    minutes: int


@dataclass(frozen=True)
class Submission:
    """One call of `somite submit`."""

    stamp: str
    submitted: str
    """ISO time, UTC."""
    work_dir: str
    arrays: list[Array]
    group: int = 0
    """Job of the group level; 0 where there is none."""
    collect: int = 0
    """Job that writes down how the elements ended."""
    cancelled: str = ""
    """When it was cancelled as a whole."""

    @property
    def jobs(self) -> list[int]:
        """Every job, the group level's first."""
        return [job for job in (self.group, *(array.job for array in self.arrays), self.collect) if job]


@dataclass(frozen=True)
class Attempt:
    """The last time that a session was given to the cluster."""

    array: Array
    element: int
    submission: Submission

    @property
    def job(self) -> str:
        """Its element, as Slurm has it: `1234_5`."""
        return f"{self.array.job}_{self.element}"

    def log(self, out_dir: Path) -> Path:
        """What its script said."""
        return folder(out_dir) / f"{self.job}.log"


def folder(out_dir: Path) -> Path:
    """Where submissions, and the logs of their jobs, lie."""
    return out_dir / "logs" / "slurm"


def write(submission: Submission, out_dir: Path) -> Path:
    """Keep a submission; returns the path of its file."""
    path = folder(out_dir) / f"submission-{submission.stamp}.json"
    return write_atomically(path, json.dumps(asdict(submission), indent=1) + "\n")


def read_all(out_dir: Path) -> list[Submission]:
    """The submissions of an output dataset, oldest first."""
    found = []
    for path in sorted(folder(out_dir).glob("submission-*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        arrays = [Array(**array) for array in stored.pop("arrays")]
        found.append(Submission(**stored, arrays=arrays))
    return found


def attempts(submissions: Iterable[Submission]) -> dict[str, Attempt]:
    """Label -> the last time that the session was given to the cluster."""
    return {
        label: Attempt(array, number, submission)
        for submission in submissions
        for array in submission.arrays
        for number, labels in enumerate(array.elements)
        for label in labels
    }


def collected(out_dir: Path, jobs: Iterable[int]) -> dict[str, Mapping[str, str]]:
    """Element -> state, reason and exit code, as the collectors wrote them down."""
    found: dict[str, Mapping[str, str]] = {}
    for job in sorted(set(jobs)):
        try:
            found |= json.loads((folder(out_dir) / f"{job}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            continue
    return found
