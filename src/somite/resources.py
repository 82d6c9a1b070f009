"""Threads and memory of a step."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_THREADS = "SOMITE_THREADS"


def threads() -> int:
    """How many cores a step may use: what `set_threads` said, or 1."""
    return max(1, int(os.environ.get(_THREADS, "1")))


def set_threads(count: int) -> None:
    """Let the steps of this process, and of those that it starts, use `count` cores."""
    os.environ[_THREADS] = str(count)


def cores() -> int:
    """Cores that this process may use: the affinity that a scheduler set counts."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def memory_gb() -> float:
    """Memory of this machine, or of the container's limit where there is one, in GB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 1e9)
    return total


def cpu_seconds() -> float:
    """Time of all cores that this process has used so far, and the tools that it ran and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@dataclass
class Peak:
    """Highest resident memory, in MB, of this process and of the tools that it ran."""

    megabytes: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the highest resident memory within the block."""
    peak = Peak()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: start the high-water mark anew
    children_before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    try:
        yield peak
    finally:
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        kilobytes = max(_high_water_kb(), children if children > children_before else 0)
        peak.megabytes = kilobytes / 1024


def _high_water_kb() -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // 1024 if sys.platform == "darwin" else used
