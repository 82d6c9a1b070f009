"""Outputs of runs that were never run: records, tiny images, pictures and quality numbers to be reviewed."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np

from somite import record
from somite.errors import Problem
from somite.quality_table import COLUMNS
from somite.record import Delivered, Record
from somite.segments import Label, Segment, label_table_text

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG of one pixel."""
LABELS = (
    Label(300, "root_right", Segment("nerve_root", "R", "L5")),
    Label(7, "root_left", Segment("nerve_root", "L", "L5")),
)
SHAPE = (24, 24, 12)
# Not along the axes of the world, and with the patient's left at the end of the first axis.
AFFINE = np.array([[-1.9, 0.3, 0, 25], [0.3, 1.9, 0.2, -20], [0, -0.2, 3.9, -30], [0, 0, 0, 1]])
ENDINGS = (
    "desc-preproc_dwi.nii.gz",
    "desc-preproc_dwi.bval",
    "space-dwi_model-tensor_param-fa_dwimap.nii.gz",
    "space-dwi_model-tensor_param-md_dwimap.nii.gz",
    "space-dwi_desc-segments_dseg.nii.gz",
    "space-dwi_desc-segments_dseg.tsv",
    "desc-qc_stats.tsv",
    "pictures.zip",
)


def labels() -> np.ndarray:
    """Two blocks, and one voxel that no table names."""
    data = np.zeros(SHAPE, np.int32)
    data[4:10, 8:16, 3:9] = 300
    data[14:20, 8:16, 3:9] = 7
    data[0, 0, 0] = 9
    return data


def series() -> np.ndarray:
    """(x, y, z, 4): two volumes of b=0, 100 and 120 with a gradient along y, and two of 40."""
    slope = np.linspace(0, 50, SHAPE[1])[None, :, None]
    volumes = [np.full(SHAPE, level) + slope for level in (100.0, 40.0, 120.0, 40.0)]
    return np.stack(volumes, -1)


def write_output(
    out_dir: Path, sessions: int, quality: dict[int, str] | None = None, failed: tuple[int, ...] = ()
) -> list[str]:
    """Write an output dataset of `sessions` sessions; returns their labels.

    Args:
        out_dir: the folder.
        sessions: how many.
        quality: number of a session, from 1 -> verdict of its quality; pass where nothing is said.
        failed: numbers of sessions whose run failed.
    """
    contents = _contents()
    found = []
    for number in range(1, sessions + 1):
        name = f"sub-{number:03d}"
        found.append(name)
        if number in failed:
            problem = Problem("NO_LABELS", "there are no labels", found="nothing")
            _write_record(out_dir, name, [], [problem])
            continue
        folder = out_dir / name / "dwi"
        folder.mkdir(parents=True)
        paths = [folder / f"{name}_{ending}" for ending in ENDINGS]
        for path, ending in zip(paths, ENDINGS, strict=True):
            if ending == "desc-qc_stats.tsv":
                path.write_text(_quality(name, (quality or {}).get(number, "pass")))
            else:
                path.write_bytes(contents[ending])
        _write_record(out_dir, name, [path.relative_to(out_dir).as_posix() for path in paths], [])
    return found


def _write_record(out_dir: Path, name: str, paths: list[str], problems: list[Problem]) -> None:
    outputs = [Delivered(path, "", 0, "") for path in paths]
    verdict = "failed" if problems else "done"
    record.write(Record(name, name, "", "", verdict, problems, outputs=outputs), out_dir)


def _contents() -> dict[str, bytes]:
    fa = np.full(SHAPE, 0.4, np.float32)
    images = {
        ENDINGS[0]: series().astype(np.float32),
        ENDINGS[2]: fa,
        ENDINGS[3]: fa * 2.5e-3,
        ENDINGS[4]: labels(),
    }
    found = {
        ending: gzip.compress(nib.Nifti1Image(data, AFFINE).to_bytes(), 1) for ending, data in images.items()
    }
    found[ENDINGS[1]] = b"0 800 5 800\n"
    found[ENDINGS[5]] = label_table_text(LABELS).encode()
    found[ENDINGS[7]] = pictures()
    return found


def pictures(title: str = "Segments on FA") -> bytes:
    """An archive of three pictures, of which one is missing and two are a pair."""
    index = [
        _picture("noise", "noise", "Noise", None),
        _picture("before", "preprocessing", "Before", None),
        _picture("after", "preprocessing", "After", "before"),
        _picture("segments", "segments", title, None),
        {**_picture("lost", "maps", "Lost", None), "files": ["lost.png"]},
    ]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("index.json", json.dumps(index))
        for name in ("noise", "before", "after", "segments"):
            archive.writestr(f"{name}.png", DOT)
    return held.getvalue()


def _picture(name: str, section: str, title: str, pair: str | None) -> dict[str, object]:
    caption = f"What {name} shows."
    return {
        "name": name,
        "section": section,
        "title": title,
        "alt": f"{title}, in words",
        "caption": caption,
        "files": [f"{name}.png"],
        "pair": pair,
    }


def _quality(name: str, verdict: str) -> str:
    reason = "n/a" if verdict == "pass" else f"snr_b0 {verdict}"
    rows = [
        {"metric": "snr_b0", "value": "2.5", "unit": "1", "verdict": verdict},
        {"metric": "overall", "verdict": verdict, "reason": reason},
    ]
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        full = {"participant_id": name, "protocol": "lumbar", **row}
        lines.append("\t".join(full.get(column, "n/a") for column in COLUMNS))
    return "\n".join(lines) + "\n"
