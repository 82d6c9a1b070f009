"""What can go wrong, for a person to read and a program to match.

SomiteError                 every error that Somite raises on purpose; carries its Problems
├── ConfigError             the YAML, or an option of the command line
├── DatasetError            the input dataset: files, headers, gradients, labels
├── GraphError              steps that cannot be joined: a product missing, made twice, or circular
├── ResourceError           memory, disk, or a lock that this run may not take
└── ToolError               a command-line tool: not found, a wrong version, or a failed run

Problems are collected and raised together. Tests match their codes, people read their words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, where, what was found, what was expected, what to do."""

    code: str
    """Stable, upper case, for tests and programs: `BVEC_TRANSPOSED`."""
    what: str
    """One sentence without its full stop."""
    where: str = ""
    """The file, with its line or key path where there is one."""
    found: str = ""
    expected: str = ""
    do: str = ""
    """What the person can do about it."""
    severity: Severity = "error"

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.what}"]
        for name, text in (
            ("in", self.where.replace("\n", "\\n")),  # a path, which may hold anything
            ("found", self.found),
            ("expected", self.expected),
            ("do", self.do),
        ):
            if text:
                lines.append(f"    {name + ':':<10}{text}")
        return visible("\n".join(lines))


def visible(text: str) -> str:
    """Text of files and tools for a terminal: control characters as `\\x1b`, but tabs and ends of lines."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def in_one_line(problems: Iterable[Problem]) -> str:
    """Problems for a cell of a table: code, what, where and what was found."""
    texts = (
        f"{p.code}: {p.what}" + (f" ({p.where})" if p.where else "") + (f": {p.found}" if p.found else "")
        for p in problems
    )
    return visible("; ".join(texts).replace("\n", " | ").replace("\t", " "))


class SomiteError(Exception):
    """Every error that Somite raises on purpose. `problems` is never empty."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems: tuple[Problem, ...] = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> Self:
        """One error of many problems."""
        return cls(*problems)


class ConfigError(SomiteError):
    """The YAML, or an option of the command line, is not valid."""


class DatasetError(SomiteError):
    """The input dataset cannot be used as it is."""


class GraphError(SomiteError):
    """The steps of a workflow cannot be joined."""


class ResourceError(SomiteError):
    """Memory, disk, or a lock that this run may not take."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that there is no room left, on the disk or in the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def file_error(error: OSError) -> Problem:
    """The problem of a file or folder that could not be read or written."""
    if is_disk_full(error):
        return Problem(
            "DISK_FULL",
            "the disk or the quota is full; what is finished is kept, and nothing half-written",
            where=str(error.filename or ""),
            found=error.strerror or str(error),
            do="make room (`somite cache prune`, another --work-dir, keep: final), then run again",
        )
    return Problem(
        "FILE_ERROR",
        "a file could not be read or written",
        where=str(error.filename or ""),
        found=error.strerror or str(error),
        expected="a file or folder that can be used, and room to write",
        do="look at the path, the permissions and the free space of the disk, then run again",
    )


class ToolError(SomiteError):
    """A command-line tool was not found, has a wrong version, or failed.

    Raise it with the command line in `where` and the end of its stderr in `found`.
    """
