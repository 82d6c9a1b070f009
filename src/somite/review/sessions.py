"""The sessions to be looked at: from the records of an output dataset, the doubtful ones first."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from somite import record
from somite.errors import DatasetError
from somite.files import parse_json
from somite.interfaces.qc_table import Row, read_qc
from somite.record import Record
from somite.report import picture_files
from somite.review.paths import Refused, inside
from somite.review.verdicts import Key
from somite.segments import NA

PICTURES = "_pictures.zip"
QUALITY = "_desc-qc_stats.tsv"
SECTIONS = ("segments", "maps", "preprocessing", "motion", "profiles", "noise", "scheme")
"""Sections of the pictures: what decides on a session first."""
_DOUBT = ("fail", "warn", "", "pass")


@dataclass(frozen=True)
class Entry:
    """A session of the list."""

    label: str
    key: Key
    ended: str
    """How its last run ended: done or failed."""
    reason: str
    """Why the run failed, or what its quality numbers say."""
    quality: str
    """Verdict of its quality numbers: pass, warn, fail, or nothing."""


def entries(out_dir: Path) -> list[Entry]:
    """Every session that has a record, by label."""
    return [_entry(one, out_dir) for one in record.read_all(out_dir)]


def in_order(found: Iterable[Entry], reviewed: Collection[Key]) -> list[Entry]:
    """What the rater has not seen first; among these what failed its quality limits, then what came near.

    Sessions whose run failed have little to show and are in no table: they come last.
    """
    return sorted(
        found,
        key=lambda one: (one.key in reviewed, one.ended == "failed", _DOUBT.index(one.quality), one.label),
    )


def _entry(one: Record, out_dir: Path) -> Entry:
    key = (one.participant_id, one.session_id, one.run)
    if one.verdict == "failed":
        return Entry(one.label, key, one.verdict, one.reason, "")
    overall = [row for row in quality_rows(one, out_dir) if row["metric"] == "overall"]
    verdict = overall[0]["verdict"] if overall else ""
    reason = overall[0]["reason"] if overall else ""
    known = verdict if verdict in _DOUBT else ""
    return Entry(one.label, key, one.verdict, "" if reason == NA else reason, known)


def file_of(one: Record, out_dir: Path, *endings: str) -> Path | None:
    """The delivered file whose name ends so, where there is one inside the output: the first ending wins."""
    for ending in endings:
        for item in one.outputs:
            if item.path.endswith(ending):
                try:
                    return inside(out_dir, item.path)
                except Refused:
                    return None
    return None


def quality_rows(one: Record, out_dir: Path) -> Sequence[Row]:
    """The quality numbers of a session; none where there is no table, or none that can be read."""
    path = file_of(one, out_dir, QUALITY)
    try:
        return read_qc(path) if path is not None else ()
    except DatasetError:
        return ()


def pictures(one: Record, out_dir: Path) -> list[dict[str, Any]]:
    """The pictures of a session as its `index.json` lists them, in the order in which they matter.

    Empty where there is no archive, or none that can be read.
    """
    path = file_of(one, out_dir, PICTURES)
    if path is None:
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            index = parse_json(picture_files.member(archive, "index.json"))
            there = set(archive.namelist())
        listed = [{**item, "shown": _shown(item["files"], there)} for item in index]
        return sorted(listed, key=lambda item: _rank(str(item["section"])))
    except picture_files.FAULTS:
        return []


def picture(one: Record, out_dir: Path, name: str) -> bytes | None:
    """The bytes of a file of the archive; None where it has no such file."""
    path = file_of(one, out_dir, PICTURES)
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return picture_files.member(archive, name)
    except picture_files.FAULTS:
        return None


def _rank(section: str) -> int:
    return SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)


def _shown(files: Sequence[str], there: Collection[str]) -> str | None:
    """The file of a picture that a browser shows: lines rather than points where there are both."""
    for ending in (".svg", ".png"):
        for name in files:
            if name.endswith(ending) and name in there:
                return str(name)
    return None
