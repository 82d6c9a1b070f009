"""One owner per session: a lock with a heartbeat that the death of its owner does not leave behind.

The file names owner, host and process, and a counter that the owner raises every few seconds. A process of
this host that has ended is known at once; the counter of another host is watched by this process's own
clock, so that clocks that differ or jump do no harm.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from somite.errors import Problem, ResourceError
from somite.files import write_atomically


@dataclass(frozen=True)
class Owner:
    """Who holds a lease."""

    token: str
    host: str
    pid: int
    started: str
    """Start time of the process in clock ticks since boot: a reused process number is another process."""
    beat: int = 0

    @classmethod
    def myself(cls) -> Owner:
        """This process, with a token of its own."""
        return cls(uuid.uuid4().hex, host_id(), os.getpid(), process_start(os.getpid()))

    @property
    def is_dead(self) -> bool:
        """Whether the owner is a process of this host that has ended. Of other hosts nothing is known."""
        return self.host == host_id() and process_start(self.pid) != self.started


def host_id() -> str:
    """Name of this host since it booted: containers of one host differ by their process namespaces."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def process_start(pid: int) -> str:
    """When a process started, or an empty string when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # no /proc, as on macOS: alive or not is all that is known
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "alive"
    return "alive"


def read_owner(path: Path) -> Owner | None:
    """Who holds the lease at `path`, if anybody. A damaged file is held by nobody on no host."""
    try:
        return Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Owner("damaged", "", 0, "")


class Lease:
    """Take with `with Lease(path): ...`; waits while another owner lives.

    Args:
        path: the lease file.
        on_wait: called once with the owner when this process has to wait.
        expire_s: how long the counter of an owner on another host may stand still.
    """

    beat_s = 5.0

    def __init__(
        self, path: Path, *, on_wait: Callable[[Owner], None] | None = None, expire_s: float = 60.0
    ) -> None:
        self.path = path
        self.expire_s = expire_s
        self._on_wait = on_wait
        self._me = Owner.myself()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seen: Owner | None = None
        since = time.monotonic()
        said = False
        while not self._create():
            owner = read_owner(self.path)
            if owner is None:
                continue
            if owner != seen:
                seen, since = owner, time.monotonic()
            stands_still = time.monotonic() - since > self.expire_s
            if owner.is_dead or (stands_still and owner.host != host_id()):
                self._take_from(owner)
                continue
            if self._on_wait is not None and not said:
                self._on_wait(owner)
                said = True
            time.sleep(0.2)
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        owner = read_owner(self.path)
        if owner is not None and owner.token == self._me.token:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that this process is still the owner: it may have been stopped for a long while.

        Raises:
            ResourceError: `LEASE_LOST`.
        """
        owner = read_owner(self.path)
        if owner is None or owner.token != self._me.token:
            raise ResourceError(
                Problem(
                    "LEASE_LOST",
                    "another run took this session over while this process stood still",
                    where=str(self.path),
                    found=f"owner: process {owner.pid} of {owner.host.split('/')[0]}"
                    if owner
                    else "no owner",
                    do="nothing was delivered by this run; look at the other run's result",
                )
            )

    def _create(self) -> bool:
        # Written under another name first, so that nobody reads an empty lease; the link fails if one exists.
        draft = self.path.with_name(f".{self._me.token}.lease")
        draft.write_text(json.dumps(self._me.__dict__))
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._create_exclusively()
        finally:
            draft.unlink()
        return True

    def _create_exclusively(self) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(json.dumps(self._me.__dict__))
        except FileExistsError:
            return False
        return True

    def _take_from(self, owner: Owner) -> None:
        # Only one of several waiting processes gets the rename; it looks again at what it got.
        aside = self.path.with_name(f".{self._me.token}.stale")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        found = read_owner(aside)
        if found is not None and found.token != owner.token:
            self._give_back(aside)  # a new owner came first
        aside.unlink(missing_ok=True)

    def _give_back(self, aside: Path) -> None:
        with suppress(FileExistsError):
            try:
                os.link(aside, self.path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                with self.path.open("x") as file:
                    file.write(aside.read_text())

    def _keep(self) -> None:
        beat = 0
        while not self._ended.wait(self.beat_s):
            beat += 1
            owner = read_owner(self.path)
            if owner is None or owner.token != self._me.token:
                return  # taken over: this process was stopped for longer than the lease lasts
            with suppress(OSError):  # a full disk is the session's to report, not the heartbeat's to die of
                write_atomically(self.path, json.dumps({**self._me.__dict__, "beat": beat}))
