"""The output as a BIDS derivative dataset: files that appear whole, each image with its sidecar."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isal import igzip

from somite import __version__
from somite.files import beside, write_atomically
from somite.segments import Column

BIDS_VERSION = "1.11.0"

# What BIDS has no names for yet: BEP016 maps, tables and reports; and a field map without a magnitude image.
BIDSIGNORE = """\
*_dwimap.nii.gz
*_dwimap.json
*_desc-preproc_dwi.bval
*_desc-preproc_dwi.bvec
*_dwiref.nii.gz
*_dwiref.json
*_fieldmap.nii.gz
*_fieldmap.json
*_stats.tsv
*_stats.json
*_motion.*
*_outliers.*
*_distortion.*
*_tractogram.trk
*_desc-tracts_probseg.*
figures
/group
/qc
/index.html
/sub-*.html
"""


@dataclass(frozen=True)
class Derivative:
    """What a product is called in the output, after the entities of its series."""

    suffix: str
    entities: Mapping[str, str] = field(default_factory=dict)
    extension: str = ".nii.gz"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the sidecar of an image: description and units."""
    columns: Sequence[Column] = ()
    """Of a table: their descriptions go into the sidecar."""
    told: Mapping[str, str] = field(default_factory=dict)
    """Key of the sidecar -> name of a fact whose value stands there instead, where the step inferred it."""
    folder: str = ""
    """Folder of the session that it goes into, where that is not the one of its series."""


def compress(source: Path, target: Path) -> Path:
    """Compress a file with gzip, level 1, without name or time: equal input gives equal bytes."""
    with (
        beside(target) as draft,
        source.open("rb") as read,
        draft.open("wb") as file,
        igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as write,
    ):
        shutil.copyfileobj(read, write, 1 << 22)
    return target


def place(source: Path, target: Path) -> Path:
    """Put a product at its final name: compressed where the name ends in `.gz`, copied otherwise."""
    if target.suffix == ".gz" and source.suffix != ".gz":
        return compress(source, target)
    with beside(target) as draft:
        shutil.copyfile(source, draft)
    return target


def write_sidecar(file: Path, metadata: Mapping[str, Any]) -> Path:
    """Write the JSON beside an image or a table; returns its path."""
    return write_atomically(sidecar_of(file), json.dumps(metadata, indent=2) + "\n")


def write_dataset_files(out_dir: Path, bids_dir: Path, *, command: str, config: str) -> None:
    """Write what makes a folder a BIDS derivative dataset, and the effective configuration.

    Args:
        out_dir: the output dataset.
        bids_dir: the input dataset, linked by a relative path as `raw`.
        command: the command line that was called.
        config: the effective configuration as YAML.
    """
    description = {
        "Name": "Somite derivatives",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "see the input dataset",
        "GeneratedBy": [
            {
                "Name": "somite",
                "Version": __version__,
                "Description": f"Segment-level diffusion tensor measures. Called as: {command}",
            }
        ],
        "SourceDatasets": [{"URL": _relative(bids_dir, out_dir)}],
        "DatasetLinks": {"raw": _relative(bids_dir, out_dir)},
    }
    _write_changed(out_dir / "dataset_description.json", json.dumps(description, indent=2) + "\n")
    _write_changed(out_dir / ".bidsignore", BIDSIGNORE)
    _write_changed(out_dir / "code" / "config.yaml", config)
    _write_changed(
        out_dir / "README.md",
        "# Somite derivatives\n\n"
        "`index.html` is the page of the cohort, its figures lie in `group/figures/`; `sub-*.html` are the\n"
        "pages of the sessions: open them in a browser. Their pictures lie in `figures/` of each session,\n"
        "the text of the methods in `group/methods.md` and `.bib`.\n\n"
        "Diffusion tensor maps and segment tables. `group/segments.tsv` holds a row per segment, metric and\n"
        "statistic; `group/segments.json` says what its columns mean. `group/qc.tsv` holds the quality\n"
        "numbers of each session with their verdicts, `group/qc_wide.tsv` a row per session, and\n"
        "`group/qc.json` says what they mean; `group/status.tsv` has a row per session. `group/derived.tsv`\n"
        "holds differences of sides, levels and parts, `group/sensitivity.parquet` the measures without\n"
        "borders, `group/profiles.parquet` profiles along nerves and tracts, `group/reference.tsv` z-scores\n"
        "against norms, `group/norms.tsv` those of the controls, `group/affected.tsv` the affected\n"
        "side over the other, `group/analyses/` the results of analyses.\n"
        "`qc/review.tsv` holds the verdicts of those who looked at the sessions (`somite review`).\n"
        "`code/config.yaml` is the configuration that was used, `logs/` holds the record of each session:\n"
        "versions, checksums, times, and what was inferred.\n",
    )


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def sidecar_of(file: Path) -> Path:
    """The JSON beside an image or a table."""
    return file.with_name(file.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".tsv") + ".json")


def remove(paths: Iterable[Path]) -> None:
    """Remove files that an earlier run delivered and this one does not, with their sidecars."""
    for path in paths:
        path.unlink(missing_ok=True)
        # The sidecar of a label image serves its table too.
        shares = path.suffix == ".tsv" and path.with_suffix(".nii.gz").is_file()
        if path.name.endswith((".nii", ".nii.gz", ".tsv")) and not shares:
            sidecar_of(path).unlink(missing_ok=True)
