"""The page of a session: what went in, what was done, what came out, and what to look at.

It is made from the record and the delivered files alone, so that it can be made again at any time. Times of
day, and what came from the cache, are not in it: a run that changes nothing leaves the page as it is.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from somite.record import Record, StepRecord
from somite.report import methods, picture_files, session_tables
from somite.report.acquisition import Acquisition, acquisition_of
from somite.report.pages import PAGE_LIMIT_BYTES, code_digest, is_made_from, number, render, write_changed
from somite.report.picture_files import Archive, Shown

_HEADINGS = {
    "scheme": "Gradient scheme",
    "preprocessing": "Preprocessing, before and after",
    "motion": "Motion and lost slices",
    "noise": "Noise and residual",
    "maps": "Maps",
    "segments": "Segments",
    "profiles": "Profiles",
}


@dataclass(frozen=True)
class Part:
    """A section of the page that shows pictures."""

    id: str
    heading: str
    pictures: Sequence[tuple[Shown, Shown | None]]


def path_of(out_dir: Path, label: str) -> Path:
    """Where the page of a session lies."""
    return out_dir / f"{label}.html"


def write(out_dir: Path, record: Record) -> bool:
    """Unpack the pictures of a session and write its page, unless both are there; whether it was written.

    Raises:
        OSError: the page or a picture could not be written.
    """
    page = path_of(out_dir, record.label)
    made_from = _made_from(out_dir, record)
    if is_made_from(page, made_from) and _pictures_lie(out_dir, record):
        return False
    return write_changed(page, text(out_dir, record, made_from))


def text(out_dir: Path, record: Record, made_from: str = "") -> str:
    """The page as HTML; the pictures are unpacked on the way."""
    archive_path = delivered(out_dir, record, "_pictures.zip")
    archive = Archive(fault="this session has no pictures: it was made without them, or did not come so far")
    folder = out_dir / "figures"
    if archive_path is not None:
        archive, folder = picture_files.read_archive(archive_path), picture_files.folder_of(archive_path)
        if not archive.fault:
            picture_files.unpack(archive, folder, record.label)
    values = _values(out_dir, record)
    bare = render(
        "session.html.j2", made_from=made_from, parts=_parts(archive, 0, ""), archive=archive, **values
    )
    room = PAGE_LIMIT_BYTES - len(bare.encode()) - 1000
    parts = _parts(archive, room, _relative(folder, out_dir))
    return render("session.html.j2", made_from=made_from, parts=parts, archive=archive, **values)


def remove(out_dir: Path, label: str) -> None:
    """Remove the page of a session that is gone, and its pictures."""
    path_of(out_dir, label).unlink(missing_ok=True)
    for listing in out_dir.glob(f"sub-*/**/figures/{glob.escape(label)}_pictures.json"):
        picture_files.remove(listing)


def delivered(out_dir: Path, record: Record, ending: str) -> Path | None:
    """The delivered file whose name ends so, or None where the session has none."""
    return next((out_dir / item.path for item in record.outputs if item.path.endswith(ending)), None)


def _relative(path: Path, out_dir: Path) -> str:
    return path.relative_to(out_dir).as_posix() if path.is_relative_to(out_dir) else path.name


def _made_from(out_dir: Path, record: Record) -> str:
    """Digest of all that the page says: the record but for what differs between equal runs, and the files."""
    known = asdict(record)
    for volatile in ("started", "seconds", "command", "threads"):
        del known[volatile]
    for step in known["steps"]:
        step["state"] = "run" if step["state"] == "cached" else step["state"]
    known["on disk"] = [_size(out_dir / item.path) for item in record.outputs]
    known["pages"] = code_digest()
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _pictures_lie(out_dir: Path, record: Record) -> bool:
    """Whether the pictures that were unpacked are still there."""
    archive = delivered(out_dir, record, "_pictures.zip")
    if archive is None or not archive.is_file():
        return True
    folder = picture_files.folder_of(archive)
    return picture_files.is_unpacked(folder, record.label)


def _parts(archive: Archive, room: int, folder: str) -> list[Part]:
    """The pictures by section, in the order of the page; those of a section that is not known come last."""
    held = picture_files.shown(archive, room, folder)
    partner = {picture.name: picture.pair for picture in archive.pictures}
    named = [picture.section for picture in archive.pictures]
    sections = [*picture_files.SECTIONS, *sorted(set(named) - set(picture_files.SECTIONS))]
    found = []
    for section in sections:
        items = [held[picture.name] for picture in archive.pictures if picture.section == section]
        pictures = picture_files.pairs(items, partner)
        heading = _HEADINGS.get(section, section or "More pictures")
        found.append(Part(section or "more", heading, pictures))
    return found


def _values(out_dir: Path, record: Record) -> dict[str, Any]:
    """What the template says beside the pictures."""
    steps = record.steps or record.before
    here = acquisition_of(
        delivered(out_dir, record, "_desc-preproc_dwi.bval"), delivered(out_dir, record, "_mask.nii.gz")
    )
    qc = session_tables.read(delivered(out_dir, record, "_desc-qc_stats.tsv"))
    segments = session_tables.read(delivered(out_dir, record, "_desc-segments_stats.tsv"))
    told = methods.tell([record], {record.label: here}) if steps else None
    return {
        "title": record.label,
        "record": record,
        "earlier": record.verdict == "failed" and bool(record.outputs),
        "acquisition": here,
        "qc": session_tables.quality(qc),
        "qc_verdict": session_tables.overall(qc),
        "tiles": _tiles(steps, here, record),
        "segments": session_tables.segments(segments),
        "lack": {"qc": qc.lack, "segments": segments.lack},
        "facts": session_tables.facts(record.facts),
        "steps": session_tables.steps(record.steps, record.before),
        "inputs": session_tables.checksums(record.inputs),
        "versions": session_tables.versions(record.software, steps),
        "commands": [command for step in steps for command in step.commands],
        "methods": told,
    }


def _tiles(steps: Sequence[StepRecord], here: Acquisition, record: Record) -> list[tuple[str, str, str]]:
    """Name, value and unit of the numbers that are looked at first; those that there are."""
    numbers: Mapping[str, float] = {key: value for step in steps for key, value in step.numbers.items()}
    wanted = (
        ("SNR at b=0", "snr_b0", "", 3),
        ("Mean motion", "motion_absolute_mean_mm", "mm", 2),
        ("Outlier slices", "outlier_slices_percent", "%", 2),
        ("Residual of the fit", "residual_percent", "% of S0", 2),
        ("Volume of the mask", "mask_volume_ml", "ml", 3),
    )
    tiles = [("Volumes", str(here.n_volumes), "")] if here.n_volumes else []
    tiles += [
        (name, number(numbers[key], digits), unit) for name, key, unit, digits in wanted if key in numbers
    ]
    if "segments_expected" in numbers:
        measured, expected = numbers.get("segments_measured", 0), numbers["segments_expected"]
        tiles.append(("Segments measured", f"{measured:g} of {expected:g}", ""))
    return [*tiles, ("Warnings", str(len(record.warnings)), "")]
