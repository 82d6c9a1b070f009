"""The work folder: how large its caches are, and clearing what is no longer of use while others run."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from somite import record, roll
from somite.lease import Lease, Owner, read_owner

DAY_S = 86_400.0
LEASE = "lease.json"
_ENTRY = re.compile(r"(workflow-pruned-)*(python|workflow)-[0-9a-f]+")


@dataclass(frozen=True)
class Entry:
    """The result of one step, in a folder of its own."""

    path: Path
    bytes: int
    used_at: float
    """When a run last made or used it, seconds since 1970."""


@dataclass(frozen=True)
class Cache:
    """The cache of a session, of the group level or of an analysis."""

    label: str
    entries: tuple[Entry, ...]
    in_use: bool
    """Whether a run that lives, as far as is known, works on it."""

    @property
    def bytes(self) -> int:
        """Size of all entries."""
        return sum(entry.bytes for entry in self.entries)


@dataclass(frozen=True)
class Pruned:
    """What was removed of a cache, or why nothing was."""

    label: str
    entries: int = 0
    bytes: int = 0
    busy: str = ""
    """Who works on it; empty where nobody does."""


def read(work_dir: Path) -> Iterator[Cache]:
    """The caches of a work folder, by label. Folders that vanish meanwhile are left out."""
    for folder in _folders(work_dir):
        owner = read_owner(folder / LEASE)
        yield Cache(folder.name, tuple(_entries(folder)), owner is not None and not owner.is_dead)


def _folders(work_dir: Path) -> list[Path]:
    """Those of the caches. A link may lead to somebody's folder of that name, so none is followed."""
    found = (path for path in work_dir.glob("*/cache") if path.is_dir())
    return sorted(path.parent for path in found if not (path.is_symlink() or path.parent.is_symlink()))


def _entries(folder: Path) -> Iterator[Entry]:
    """The results in a cache: what Pydra named. A work folder given by mistake holds none."""
    for path in sorted((folder / "cache").glob("*")):
        with suppress(FileNotFoundError):
            if _ENTRY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
                yield Entry(path, sum(sizes), path.stat().st_mtime)


def older_than(days: float) -> Callable[[str, Entry], bool]:
    """Chooses entries that no run has made or used for so many days."""
    before = time.time() - days * DAY_S
    return lambda label, entry: entry.used_at < before  # noqa: ARG005


def unused_by(out_dir: Path) -> Callable[[str, Entry], bool]:
    """Chooses entries that are not behind the results of an output dataset.

    Kept are those of the last record of each session, and those made since, by a run that has not ended.
    """

    def is_unused(label: str, entry: Entry) -> bool:
        path = record.path_of(out_dir, label)
        last = record.read(path)
        if last is None:
            return label not in expected
        kept = {step.entry for step in (*last.steps, *last.before)}
        return entry.path.name not in kept and entry.used_at < path.stat().st_mtime

    expected = roll.read(out_dir)
    return is_unused


def prune(work_dir: Path, choose: Callable[[str, Entry], bool], *, dry: bool = False) -> Iterator[Pruned]:
    """Remove the entries that `choose(label, entry)` names, cache by cache, each under its lease.

    A cache that a run works on is left alone. An entry is moved out of the way before it is removed, so that
    an interruption leaves nothing that could be taken for a result.

    Args:
        work_dir: the work folder.
        choose: which entries go.
        dry: say what would go, and remove nothing.
    """
    for folder in _folders(work_dir):
        try:
            with Lease(folder / LEASE, on_wait=_give_up):
                gone = [entry for entry in _entries(folder) if choose(folder.name, entry)]
                for entry in () if dry else gone:
                    _remove(entry.path)
            yield Pruned(folder.name, len(gone), sum(entry.bytes for entry in gone))
        except _BusyError as busy:
            yield Pruned(folder.name, busy=str(busy))


class _BusyError(Exception):
    """Another run works on a cache."""


def _give_up(owner: Owner) -> None:
    raise _BusyError(f"process {owner.pid} of {owner.host.split('/')[0]}")


def _remove(path: Path) -> None:
    aside = path.with_name(f"workflow-pruned-{path.name}")  # a name that every run sweeps away
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def size_text(size: float) -> str:
    """`1.2 GB`, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
