"""Files of a dataset, the same bytes at any time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

import somite
from somite.images import Grid
from somite.phantom.scan import phase_axis
from somite.segments import Label, dictionary, field_text

BIDS_VERSION = "1.10.0"
REPETITION_TIME_S = 6.0
ECHO_SPACING_S = 0.00052
_SCANNER = {
    "Modality": "MR",
    "MagneticFieldStrength": 3,
    "Manufacturer": "Somite",
    "ManufacturersModelName": "phantom",
    "SoftwareVersions": somite.__version__,
}


def write_image(path: Path, data: NDArray[Any], grid: Grid, tr_s: float = 0.0) -> Path:
    """Write `.nii.gz` stored as int16, the same bytes at any time; returns `path`.

    Integers are stored as they are, other numbers with a scale and offset that use the whole range.
    """
    image = nib.Nifti1Image(data, grid.affine)
    image.set_data_dtype(np.int16)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((*grid.voxel_mm, tr_s))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(igzip.compress(image.to_bytes(), 1, mtime=0))
    return path


def write_signal(path: Path, data: NDArray[np.float32], grid: Grid, noisy: bool, tr_s: float = 0.0) -> Path:
    """Write an image of the scanner; with noise as whole numbers, whose rounding drowns in it.

    Without noise rounding would shift the FA of dark tissue.
    """
    whole = noisy and data.max() < np.iinfo(np.int16).max
    stored: NDArray[Any] = np.rint(data).astype(np.int16) if whole else data
    return write_image(path, stored, grid, tr_s)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sidecar or a dictionary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as BIDS writes one."""
    lines = ["\t".join(header), *("\t".join(field_text(value) for value in row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_labels(stem: Path, image: NDArray[np.int16], grid: Grid, table: Iterable[Label]) -> None:
    """Write a label image and its table, `stem` and `.nii.gz` or `.tsv`."""
    write_image(stem.with_name(f"{stem.name}.nii.gz"), image, grid)
    write_tsv(
        stem.with_name(f"{stem.name}.tsv"),
        ("index", "name", "region", "side", "level", "segment"),
        [
            (m.index, m.name, m.segment.region, m.segment.side, m.segment.level, m.segment.segment)
            for m in table
        ],
    )


def about_labels(description: str, resolution: str, source: str) -> dict[str, Any]:
    """Sidecar of a label image on the grid of `source`, a path within the raw dataset."""
    return {
        "Description": description,
        "Manual": False,
        "Resolution": resolution,
        "SpatialReference": f"bids:raw:{source}",
        "Sources": [f"bids:raw:{source}"],
        **{name: dictionary()[name] for name in ("region", "side", "level", "segment")},
    }


def description(name: str, kind: str, command: str, raw: str = "") -> dict[str, Any]:
    """`dataset_description.json`; `raw` is the way to the dataset that a derivative comes from."""
    generated = {"Name": "Somite", "Version": somite.__version__, "Description": command}
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "License": "CC0",
        "Authors": ["Somite"],
        "GeneratedBy": [generated],
    } | ({"DatasetLinks": {"raw": raw}, "SourceDatasets": [{"URL": raw}]} if raw else {})


def sidecar(grid: Grid, te_ms: float, reverse: bool = False) -> dict[str, Any]:
    """Sidecar of the series: echo-planar imaging, phase encoding from anterior to posterior.

    The phase-encoding axis is the stored axis nearest to it, so that it holds for any grid.

    Args:
        grid: of the image.
        te_ms: echo time.
        reverse: phase encoding from posterior to anterior instead.
    """
    axis, sign = phase_axis(grid)
    slices = grid.shape[2]
    order = [*range(0, slices, 2), *range(1, slices, 2)]
    times = np.empty(slices)
    times[order] = np.arange(slices) * REPETITION_TIME_S / slices
    return _SCANNER | {
        "PulseSequenceType": "EPI",
        "PulseSequenceDetails": "simulated",
        "ScanningSequence": "EP",
        "MRAcquisitionType": "2D",
        "NonlinearGradientCorrection": False,
        "EchoTime": te_ms / 1000,
        "RepetitionTime": REPETITION_TIME_S,
        "FlipAngle": 90,
        "PhaseEncodingDirection": "ijk"[axis] + ("" if (sign > 0) != reverse else "-"),
        "EffectiveEchoSpacing": ECHO_SPACING_S,
        "TotalReadoutTime": round(ECHO_SPACING_S * (grid.shape[axis] - 1), 6),
        "SliceTiming": [round(float(t), 4) for t in times],
    }


def anatomical_sidecar(te_ms: float, tr_ms: float) -> dict[str, Any]:
    """Sidecar of a turbo spin echo."""
    return _SCANNER | {
        "PulseSequenceType": "TSE",
        "PulseSequenceDetails": "simulated",
        "ScanningSequence": "SE",
        "MRAcquisitionType": "2D",
        "NonlinearGradientCorrection": False,
        "EchoTime": te_ms / 1000,
        "RepetitionTime": tr_ms / 1000,
        "FlipAngle": 90,
    }
