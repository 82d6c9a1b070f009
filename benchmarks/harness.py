"""Time functions and commands against peers in the same run: ratios hold where seconds do not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THREADS = 2
"""Given to ours and to every peer that can use them."""


@dataclass(frozen=True)
class Row:
    """One figure of ours beside a peer's. Smaller is better."""

    benchmark: str
    case: str
    """What was measured, on what."""
    unit: str
    ours: float
    peer_name: str = ""
    peer: float | None = None
    at_most: float | None = None
    """The goal: for the ratio where there is a peer, else for the figure itself."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or without the peer that it speaks of."""
        value = self.ratio if self.peer_name else self.ours
        return None if self.at_most is None or value is None else bool(value <= self.at_most)


def best_seconds(calls: Mapping[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Shortest time of each call over `repeats` rounds, taken in turns so that all see the same machine."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def command(*words: object) -> Callable[[], object]:
    """A call that runs a command and raises when it fails."""
    return lambda: subprocess.run([str(word) for word in words], check=True, capture_output=True)


def absent(tools: Iterable[str]) -> list[str]:
    """Which of the commands are not installed."""
    return [tool for tool in tools if shutil.which(tool) is None]


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": str(os.cpu_count()),
        "processor": models[0] if models else platform.machine(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for JSON, with the ratio and whether the goal is met."""
    return [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows]


def as_markdown(rows: Sequence[Row]) -> str:
    """Rows as Markdown, a table per benchmark."""
    lines = ["# Benchmarks", "", "; ".join(f"{k} {v}" for k, v in machine().items()), ""]
    lines += ["Smaller is better. A goal is for the ratio, or for our figure where there is no peer.", ""]
    for name in dict.fromkeys(row.benchmark for row in rows):
        lines += [f"## {name}", "", "| case | unit | ours | peer | peer's | ratio | goal | met |"]
        lines += ["|---|---|--:|---|--:|--:|--:|---|"]
        lines += [_line(row) for row in rows if row.benchmark == name]
        lines.append("")
    return "\n".join(lines)


def _line(row: Row) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    met = {True: "yes", False: "NO", None: ""}[row.met]
    goal = "" if row.at_most is None else f"<= {number(row.at_most)}"
    case = f"{row.case} ({row.note})" if row.note else row.case
    figures = (number(row.ours), row.peer_name, number(row.peer), number(row.ratio), goal, met)
    return f"| {case} | {row.unit} | {' | '.join(figures)} |"
