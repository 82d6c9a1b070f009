"""Made-up sessions for the tests of pages: a record, its tables, and an archive of pictures."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from somite import record
from somite.errors import Problem
from somite.record import Delivered, Record, StepRecord
from somite.registry import Fact, discover

STEPS = ("load", "denoise", "degibbs", "eddy", "bias", "transfer", "carve", "mask", "tensor", "qc", "roi")
NUMBERS = {
    "denoise": {"noise_sigma_median": 39.4},
    "eddy": {"motion_mean_displacement_mm": 0.3, "outlier_slices": 2.0},
    "tensor": {"volumes_b0": 4.0, "volumes_weighted": 33.0},
    "qc": {"snr_b0": 21.5, "outlier_slices_percent": 0.2},
    "roi": {"segments_expected": 12, "segments_measured": 11},
}
METRICS = {"fa": (0.4, "1"), "md": (1.3, "1e-3 mm2/s"), "ad": (1.9, "1e-3 mm2/s"), "rd": (1.0, "1e-3 mm2/s")}


def png(width: int = 60, height: int = 40, grey: int = 120) -> bytes:
    """A grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([grey]) * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def svg(text: str = "plot") -> bytes:
    """A small SVG."""
    return (
        f'<?xml version="1.0"?>\n<svg width="300pt" height="150pt" viewBox="0 0 300 150" '
        f'xmlns="http://www.w3.org/2000/svg"><text x="9" y="50">{text}</text></svg>'
    ).encode()


def picture(name: str, section: str, files: Sequence[str], pair: str | None = None) -> dict[str, Any]:
    """An entry of the index."""
    about = {"title": f"Title of {name}", "alt": f"What {name} shows", "caption": f"Caption of {name}."}
    return {"name": name, "section": section, **about, "files": list(files), "pair": pair}


INDEX = [
    picture("scheme", "scheme", ["scheme.svg", "scheme.png"]),
    picture("dwi_loaded", "preprocessing", ["dwi_loaded.png"], "dwi_denoised"),
    picture("dwi_denoised", "preprocessing", ["dwi_denoised.png"], "dwi_loaded"),
    picture("fa_segments", "segments", ["fa_segments.png"]),
]
FILES = {
    "scheme.svg": svg(),
    "scheme.png": png(300, 150, 200),
    "dwi_loaded.png": png(400, 200, 60),
    "dwi_denoised.png": png(400, 200, 200),
    "fa_segments.png": png(90, 50),
}


def archive(
    path: Path, index: Sequence[Mapping[str, Any]] = INDEX, files: Mapping[str, bytes] = FILES
) -> Path:
    """An archive of pictures, as the step `pictures` makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("index.json", json.dumps(index))
        for name, data in files.items():
            file.writestr(name, data)
    path.write_bytes(stream.getvalue())
    return path


def segment_rows(region: str = "nerve_root", count: int = 12) -> list[dict[str, object]]:
    """Rows of the long table of segments: the last of them was not measured."""
    rows = []
    for i in range(count):
        for metric, (value, unit) in METRICS.items():
            measured = i < count - 1
            here = value * (1 + i / 10)
            rows.append(
                {
                    "participant_id": "sub-01",
                    "region": region if i % 2 else "disc",
                    "side": "LR"[i % 2],
                    "level": f"L{1 + i // 2}",
                    "segment": "n/a",
                    "metric": metric,
                    "statistic": "mean",
                    "value": f"{here:.6f}" if measured else "n/a",
                    "ci_low": f"{here - 0.02:.6f}" if measured else "n/a",
                    "ci_high": f"{here + 0.02:.6f}" if measured else "n/a",
                    "unit": unit,
                    "n_voxels": 100 + i if measured else 0,
                    "snr": 20 + i if measured else "n/a",
                    "extraction": "label",
                    "weighting": "uniform",
                    "qc_status": "pass" if measured else "fail",
                    "qc_flags": "n/a" if measured else "no_voxels",
                    "reason": "n/a" if measured else "no voxel of its label",
                }
            )
    return rows


QC_ROWS = [
    {"metric": "snr_b0", "value": 21.5, "unit": "1", "warn": 20, "fail": 10, "verdict": "pass"},
    {"metric": "motion_absolute_mean_mm", "value": 3.4, "unit": "mm", "warn": 3, "fail": "n/a"}
    | {"verdict": "warn", "reason": "Mean absolute motion: 3.4 mm, above 3 mm"},
    {"metric": "overall", "verdict": "warn", "reason": "Mean absolute motion: 3.4 mm, above 3 mm"},
]


def tsv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A table; what a row lacks is n/a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(columns)] + ["\t".join(str(row.get(name, "n/a")) for name in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def step_record(name: str, state: str = "run", **config: Any) -> StepRecord:
    """A step that ran with its default options, but for those that are given."""
    options = discover()[name].config(**config).model_dump(mode="json")
    numbers = dict(NUMBERS.get(name, {}))
    return StepRecord(name, state, 1.5, 300.0, config=options, numbers=numbers)  # type: ignore[arg-type]


def session(out: Path, label: str = "sub-01", *, region: str = "nerve_root", **changes: Any) -> Record:
    """A session that is done, with its files and its record in an output dataset."""
    folder = out / label.partition("_")[0] / "dwi"
    files = [
        tsv(folder / f"{label}_desc-segments_stats.tsv", segment_rows(region)),
        tsv(folder / f"{label}_desc-qc_stats.tsv", QC_ROWS),
        archive(folder / f"{label}_pictures.zip"),
        folder / f"{label}_desc-preproc_dwi.bval",
    ]
    files[-1].write_text(" ".join(["0"] * 4 + ["798"] * 16 + ["802"] * 17) + "\n")
    made = Record(
        label=label,
        participant_id=label.partition("_")[0],
        session_id="",
        run="",
        verdict="done",
        warnings=[
            Problem("LOOK", "look at this", "/home/somebody/bids/x.nii", do="look", severity="warning")
        ],
        facts=[Fact("region of motion", "body", "no mask was given")],
        steps=[step_record(name) for name in STEPS],
        inputs={f"{label}/dwi/{label}_dwi.nii.gz": "ab" * 32},
        outputs=[
            Delivered(path.relative_to(out).as_posix(), "00", path.stat().st_size, "11") for path in files
        ],
        software={"somite": "0.1.0", "python": "3.11.7"},
        started="2026-01-01T00:00:00+00:00",
    )
    made = Record(**{**made.__dict__, **changes})
    record.write(made, out)
    return made
