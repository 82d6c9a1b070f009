"""What was given to a cluster: a file in `logs/slurm/` for each call of `somite submit`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from somite.errors import DatasetError, Problem
from somite.files import read_json, write_atomically
from somite.record import is_label


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
    path = folder(out_dir) / _name(submission.stamp)
    return write_atomically(path, json.dumps(asdict(submission), indent=1) + "\n")


def _name(stamp: str) -> str:
    return f"submission-{stamp}.json"


def read_all(out_dir: Path) -> list[Submission]:
    """The submissions of an output dataset, oldest first.

    Raises:
        DatasetError: `SUBMISSION_UNREADABLE`: sessions may be in the queue that nobody would know of.
    """
    return [_read(path) for path in sorted(folder(out_dir).glob("submission-*.json"))]


def _read(path: Path) -> Submission:
    try:
        stored = read_json(path)
        arrays = [Array(**array) for array in stored.pop("arrays")]
        found = Submission(**stored, arrays=arrays)
        if any(type(job) is not int or job < 0 for job in found.jobs):
            raise ValueError("a job that is no number")
        if not all(is_label(label) for one in arrays for element in one.elements for label in element):
            raise ValueError("an element that is no session")
        if path.name != _name(found.stamp):
            raise ValueError(f"the stamp {found.stamp}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(
            Problem(
                "SUBMISSION_UNREADABLE",
                "what was given to the cluster cannot be read",
                where=str(path),
                found=str(error),
                expected="the file as `somite submit` wrote it",
                do="see with squeue that none of its jobs is left, then remove the file",
            )
        ) from error
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
            found |= read_json(folder(out_dir) / f"{job}.json")
        except (OSError, ValueError, TypeError):
            continue
    return found
