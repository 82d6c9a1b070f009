"""The page of the cohort, `index.html`: whether it is there as it should be, and writing it where it is not.

What it says is made in `cohort_text`, which is imported only then: it draws figures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from somite import fingerprint, record, roll
from somite.record import Record
from somite.report import picture_files
from somite.report.methods import Told
from somite.report.pages import code_digest, is_made_from, write_changed

_SUMMED = ("group/*.tsv", "group/*.parquet", "group/*.json", "group/analyses/*")


def path_of(out_dir: Path) -> Path:
    """Where the page lies."""
    return out_dir / "index.html"


def write(out_dir: Path, records: Sequence[Record], told: Told | None) -> bool:
    """Write the page and its figures unless they are there; whether it was written.

    Args:
        out_dir: the output dataset.
        records: of all sessions.
        told: the methods of those that are done.

    Raises:
        OSError: the page or a figure could not be written.
    """
    page = path_of(out_dir)
    made_from = _made_from(out_dir, records)
    figures = out_dir / "group" / "figures"
    if is_made_from(page, made_from) and picture_files.lie_there(figures):
        return False
    from somite.report.cohort_text import text

    return write_changed(page, text(out_dir, records, told, made_from))


def _made_from(out_dir: Path, records: Sequence[Record]) -> str:
    """Digest of all that the page says: as that of a session's page, and the tables of the group level."""
    digest = hashlib.sha256(code_digest().encode())
    for item in (*records, *record.read_group(out_dir)):
        digest.update(json.dumps(_lasting(item), sort_keys=True).encode())
        digest.update(str((out_dir / f"{item.label}.html").is_file()).encode())
    digest.update(json.dumps(roll.read(out_dir), sort_keys=True).encode())
    digest.update(json.dumps(checksums(out_dir) | _sizes(out_dir), sort_keys=True).encode())
    return digest.hexdigest()


def checksums(out_dir: Path) -> dict[str, str]:
    """SHA-256 of the tables that the page rests on, and of the configuration."""
    paths = sorted({path for pattern in _SUMMED for path in out_dir.glob(pattern) if path.is_file()})
    tables = [path for path in paths if path.suffix in (".tsv", ".parquet") and not path.name.startswith(".")]
    config = out_dir / "code" / "config.yaml"
    return {
        path.relative_to(out_dir).as_posix(): fingerprint.sha256(path)
        for path in [*tables, *([config] if config.is_file() else [])]
    }


def _sizes(out_dir: Path) -> dict[str, str]:
    patterns = ("group/analyses/*.json", "group/*.json", "qc/review.tsv")
    found = [path for pattern in patterns for path in out_dir.glob(pattern)]
    return {path.name: fingerprint.sha256(path) for path in sorted(found)}


def _lasting(item: Record) -> dict[str, Any]:
    """A record without what differs between runs that make the same."""
    known = asdict(item)
    for volatile in ("started", "seconds", "command", "threads"):
        del known[volatile]
    for step in known["steps"]:
        step["state"] = "run" if step["state"] == "cached" else step["state"]
        step["seconds"] = step["peak_mb"] = 0
    return known
