"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds: that of a person, of a tool, or of an output that may have been edited.

    Raises:
        OSError: as `open`.
        ValueError: it is not UTF-8 text, no JSON, or nested more deeply than can be read.
    """
    return parse_json(path.read_bytes())


def parse_json(raw: bytes) -> Any:
    """What JSON text says, UTF-8 with or without a byte order mark. Raises ValueError as `read_json`."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well, removed when it does not.

    Hidden, so that nothing takes it for a result; the folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.part"
    try:
        yield draft
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def write_atomically(path: Path, text: str) -> Path:
    """Write text so that a reader sees the old file or the new one; returns `path`."""
    with beside(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def write_durably(path: Path, text: str) -> Path:
    """`write_atomically`, and on the disk when it returns, not only in the system's memory."""
    with beside(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too
    finally:
        os.close(folder)
    return path


def remove_drafts(path: Path) -> None:
    """Remove what an interrupted run left of `beside(path)`; drafts of other files may be somebody's."""
    for draft in path.parent.glob(f".{path.name}.*.part"):
        with suppress(FileNotFoundError):
            draft.unlink()


def link_or_copy(source: Path, target: Path) -> Path:
    """The same bytes under a second name: a hard link, or a copy where links cannot be made."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
