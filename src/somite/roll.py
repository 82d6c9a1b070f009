"""Which sessions an output dataset is to hold, and by which recipe: known before their records are.

Each run leaves a file of its own in `logs/roll/`, so that runs at once, on any machine, take nothing from
each other; the group level makes one of them all.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from somite.files import read_json, write_atomically
from somite.record import is_label


def add(out_dir: Path, recipes: Mapping[str, str]) -> None:
    """Keep which sessions a run is about to do, and by which recipe (label -> recipe)."""
    known = read(out_dir)
    new = {label: recipe for label, recipe in recipes.items() if known.get(label) != recipe}
    if new:
        _write(out_dir, time.time_ns(), new)


def read(out_dir: Path) -> dict[str, str]:
    """Label -> recipe of the last run that was to do the session."""
    while True:
        with suppress(FileNotFoundError):  # one was merged meanwhile: look again
            return _joined(_files(out_dir))


def merge(out_dir: Path) -> None:
    """Make one file of those that are there; what another run adds meanwhile stays beside it."""
    files = _files(out_dir)
    if len(files) > 1:
        _write(out_dir, int(files[-1].name.partition("-")[0]), _joined(files))
        for file in files:
            file.unlink(missing_ok=True)


def _files(out_dir: Path) -> list[Path]:
    """In the order in which they were written."""
    return sorted((out_dir / "logs" / "roll").glob("*-*.json"))


def _joined(files: Iterable[Path]) -> dict[str, str]:
    recipes: dict[str, str] = {}
    for file in files:
        with suppress(ValueError, TypeError):  # damaged: the next run of its sessions writes what it said
            found = dict(read_json(file))
            recipes |= {label: str(recipe) for label, recipe in found.items() if is_label(label)}
    return recipes


def _write(out_dir: Path, nanoseconds: int, recipes: Mapping[str, str]) -> None:
    name = f"{nanoseconds:020d}-{uuid.uuid4().hex}.json"
    write_atomically(out_dir / "logs" / "roll" / name, json.dumps(recipes, indent=1) + "\n")
