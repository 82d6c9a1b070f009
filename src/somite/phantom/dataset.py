"""The phantom as a BIDS dataset: scans, labels and truth of a small cohort, the same bytes for a seed.

Participants are by turns controls and patients; a patient's right L5 root has a lesion. Every participant is
made from (seed, number) alone: the first two of four are the two of two.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

import somite
from somite import gradients
from somite.errors import ConfigError, Problem
from somite.images import Grid
from somite.phantom import lumbar, scheme
from somite.phantom.lumbar import Phantom
from somite.segments import Label, dictionary, field_text, write_table

BIDS_VERSION = "1.10.0"
LABELS, TRUTH = Path("derivatives/labels"), Path("derivatives/truth")
REPETITION_TIME_S = 6.0
ECHO_SPACING_S = 0.00052
_README = """\
A synthetic lumbar spine, made by Somite {version}:
    somite phantom lumbar OUT_DIR --participants {participants} --seed {seed} --snr {snr}

No person was scanned; age and sex are drawn at random. Diffusion series: 4 volumes at b=0 and 33 directions
at b=800 s/mm2, TE 73.7 ms, {noise}.
Levels of the spine are compressed to fit 60 mm: the discs are 12 mm apart.

Nerve roots: FA 0.25 to 0.40 and MD 1.6 to 1.3e-3 mm2/s over the first 15 mm from the dural exit, then
constant. Participants of the group `patient` have a lesion of the right L5 root: FA 0.26 and MD 1.79e-3
mm2/s over its whole length.

derivatives/labels holds the segments on the grid of the series.

derivatives/truth/segments.tsv holds what a fit without noise should find: for each segment, mean and standard
deviation over its pure voxels of the true FA and diffusivities of each voxel. Where a tissue changes along
the segment, as in the first 15 mm of a root, the mean is that of the voxels' values. Noise raises FA: compare
a measurement at finite SNR with a simulation at the same SNR (somite.phantom.lumbar.expected), not with the
truth itself.
{motion}"""
_LABELS_README = """\
Segments of the lumbar phantom on the grid of its diffusion series, as the program that made it knows them.
The files are named as those of a rater would be.

Labels 1 to 54 are voxels that lie wholly in one segment. Voxels that a segment shares with something else
carry its label + 100, of the region `partial_volume`, which no protocol measures. The canal and the muscles
are labelled in slabs of 8 mm at the levels of the discs. The zones of a root, from the dural exit along its
centreline: intraspinal 0 to 10 mm, foraminal_drg to 20 mm, extraforaminal to 30 mm.
"""
_MOTION = """
The body moves during the series. derivatives/truth/sub-XX_motion.tsv has, for each volume, the first three
rows of the affine in world millimetres (RAS+) that takes the body from its place in the first volume to that
in this one. Labels and truth are those of the first volume.
"""


@dataclass(frozen=True)
class Person:
    """A made-up participant."""

    name: str
    seeds: tuple[int, int]
    patient: bool
    age: int
    sex: str

    @classmethod
    def number(cls, number: int, seed: int) -> Person:
        """The participant `number`, counted from 1."""
        rng = np.random.default_rng([seed, number, 4])
        return cls(
            name=f"sub-{number:02d}",
            seeds=(seed, number),
            patient=number % 2 == 0,
            age=int(rng.integers(30, 66)),
            sex="FM"[int(rng.integers(2))],
        )


def write_dataset(
    out_dir: Path,
    participants: int = 4,
    seed: int = 1,
    snr: float = 25.0,
    *,
    protocol: str = "lumbar",
    grid: Grid | None = None,
    motion_mm: float = 0.0,
    motion_deg: float = 0.0,
) -> Path:
    """Write the dataset; returns `out_dir`. It appears whole or not at all.

    Args:
        out_dir: a folder that does not exist, or an empty one.
        participants: at least 1.
        seed: at least 0.
        snr: signal of nerve at b=0 over the standard deviation of the noise; infinity for none.
        protocol: `lumbar`.
        grid: where the voxels lie; default 96 x 96 x 40 of 1.5 mm (`lumbar.lumbar_grid`).
        motion_mm: largest shift of the body along an axis during the series.
        motion_deg: largest turn of the body about an axis.

    Raises:
        ConfigError: every one of `PROTOCOL`, `PARTICIPANTS`, `SEED`, `SNR`, `MOTION` and `OUT_DIR_NOT_EMPTY`
            that applies.
    """
    _check(out_dir, participants, seed, snr, protocol, motion_mm, motion_deg)
    grid = grid or lumbar.lumbar_grid()
    people = [Person.number(number, seed) for number in range(1, participants + 1)]
    moves = motion_mm > 0 or motion_deg > 0
    draft = out_dir.absolute().parent / f".{out_dir.name}.{uuid.uuid4().hex[:12]}"
    draft.mkdir(parents=True)
    try:
        about = {"participants": participants, "seed": seed, "snr": f"{snr:g}"}
        _write_top(draft, people, about, moves)
        truth: list[dict[str, object]] = []
        for person in people:
            still = None if not moves else (motion_mm, motion_deg)
            phantom = _make(person, snr, grid, still)
            _write_scan(draft / person.name / "dwi", person.name, phantom)
            _write_labels(draft / LABELS / person.name / "dwi", person.name, phantom)
            truth.extend(_truth_rows(person.name, phantom))
            if moves:
                _write_motion(draft / TRUTH / f"{person.name}_motion.tsv", phantom.motion)
        write_table(draft / TRUTH / "segments.tsv", truth)
        draft.rename(out_dir)
    finally:
        rmtree(draft, ignore_errors=True)
    return out_dir


def _check(
    out_dir: Path,
    participants: int,
    seed: int,
    snr: float,
    protocol: str,
    motion_mm: float,
    motion_deg: float,
) -> None:
    occupied = out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir()))
    sizes = f"{motion_mm:g} mm, {motion_deg:g} degrees"
    steady = min(motion_mm, motion_deg) >= 0 and math.isfinite(motion_mm + motion_deg)
    checks: list[tuple[bool, str, str, object, str]] = [
        (protocol == "lumbar", "PROTOCOL", "there is no phantom of this protocol", protocol, "lumbar"),
        (participants >= 1, "PARTICIPANTS", "there is nobody to make", participants, "at least 1"),
        (seed >= 0, "SEED", "the seed is below 0", seed, "0, 1, 2, ..."),
        (snr > 0, "SNR", "the SNR is not above 0", f"{snr:g}", "above 0, or inf"),
        (steady, "MOTION", "the motion is not a size", sizes, "0 or above"),
        (not occupied, "OUT_DIR_NOT_EMPTY", "the folder is not empty", out_dir, "a new or an empty folder"),
    ]
    problems = [
        Problem(code, what, found=str(found), expected=expected)
        for fine, code, what, found, expected in checks
        if not fine
    ]
    if problems:
        raise ConfigError.of(problems)


def _make(person: Person, snr: float, grid: Grid, motion: tuple[float, float] | None) -> Phantom:
    table = scheme.lumbar()
    moved = None if motion is None else lumbar.drift(len(table.bvals), person.seeds, *motion)
    return lumbar.make_lumbar(
        person.seeds, snr, grid=grid, gradients=table, patient=person.patient, motion=moved
    )


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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    lines = ["\t".join(header), *("\t".join(field_text(value) for value in row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _description(name: str, kind: str, raw: str = "") -> dict[str, Any]:
    generated = {"Name": "Somite", "Version": somite.__version__, "Description": "somite phantom lumbar"}
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "License": "CC0",
        "Authors": ["Somite"],
        "GeneratedBy": [generated],
    } | ({"DatasetLinks": {"raw": raw}, "SourceDatasets": [{"URL": raw}]} if raw else {})


def _write_top(root: Path, people: Sequence[Person], about: Mapping[str, object], moves: bool) -> None:
    _write_json(root / "dataset_description.json", _description("Somite lumbar phantom", "raw"))
    noise = "without noise" if about["snr"] == "inf" else f"SNR {about['snr']} in nerve at b=0, Rician noise"
    text = _README.format(version=somite.__version__, noise=noise, motion=_MOTION if moves else "", **about)
    (root / "README").write_text(text, encoding="utf-8")
    _write_tsv(
        root / "participants.tsv",
        ("participant_id", "age", "sex", "group"),
        [(p.name, p.age, p.sex, "patient" if p.patient else "control") for p in people],
    )
    _write_json(root / "participants.json", _PARTICIPANTS)
    labels = _description("Somite lumbar phantom: segments", "derivative", "../..")
    _write_json(root / LABELS / "dataset_description.json", labels)
    (root / LABELS / "README").write_text(_LABELS_README, encoding="utf-8")
    # Tables alone, of names that BIDS does not know. Without a dataset_description.json the validator lets a
    # folder of derivatives be; with one, its --recursive mode would read no .bidsignore there.
    _write_json(root / TRUTH / "segments.json", dictionary())


_PARTICIPANTS = {
    "age": {"Description": "Age, made up", "Units": "year"},
    "sex": {"Description": "Sex, made up", "Levels": {"F": "female", "M": "male"}},
    "group": {
        "Description": "Group of the participant",
        "Levels": {"control": "no lesion", "patient": "lesion of the right L5 root"},
    },
}


def _write_scan(folder: Path, participant: str, phantom: Phantom) -> None:
    stem = f"{participant}_dwi"
    # Rounding to whole numbers drowns in the noise; without noise it would shift the FA of dark tissue.
    whole = phantom.sigma > 0 and phantom.dwi.max() < np.iinfo(np.int16).max
    series: NDArray[Any] = np.rint(phantom.dwi).astype(np.int16) if whole else phantom.dwi
    write_image(folder / f"{stem}.nii.gz", series, phantom.grid, REPETITION_TIME_S)
    gradients.write_fsl(
        phantom.gradients, folder / f"{stem}.bval", folder / f"{stem}.bvec", phantom.grid.affine
    )
    _write_json(folder / f"{stem}.json", sidecar(phantom.grid))


def sidecar(grid: Grid) -> dict[str, Any]:
    """Sidecar of the series: echo-planar imaging, phase encoding from anterior to posterior.

    The phase-encoding axis is the stored axis nearest to it, so that it holds for any grid.
    """
    toward = -grid.affine[1, :3] / grid.voxel_mm
    axis = int(np.abs(toward).argmax())
    slices = grid.shape[2]
    order = [*range(0, slices, 2), *range(1, slices, 2)]
    times = np.empty(slices)
    times[order] = np.arange(slices) * REPETITION_TIME_S / slices
    return {
        "Modality": "MR",
        "MagneticFieldStrength": 3,
        "Manufacturer": "Somite",
        "ManufacturersModelName": "phantom",
        "SoftwareVersions": somite.__version__,
        "PulseSequenceType": "EPI",
        "PulseSequenceDetails": "simulated",
        "ScanningSequence": "EP",
        "MRAcquisitionType": "2D",
        "NonlinearGradientCorrection": False,
        "EchoTime": scheme.TE_MS / 1000,
        "RepetitionTime": REPETITION_TIME_S,
        "FlipAngle": 90,
        "PhaseEncodingDirection": "ijk"[axis] + ("" if toward[axis] > 0 else "-"),
        "EffectiveEchoSpacing": ECHO_SPACING_S,
        "TotalReadoutTime": round(ECHO_SPACING_S * (grid.shape[axis] - 1), 6),
        "SliceTiming": [round(float(t), 4) for t in times],
    }


def _write_labels(folder: Path, participant: str, phantom: Phantom) -> None:
    stem = f"{participant}_space-dwi_seg-lumbar_desc-manual_dseg"
    write_image(folder / f"{stem}.nii.gz", phantom.labels, phantom.grid)
    source = f"{participant}/dwi/{participant}_dwi.nii.gz"
    about = {
        "Description": "Segments of the phantom, drawn by the program that made it and named as a rater's "
        "would be: 1 to 54 are voxels wholly in one segment, 101 to 154 those that it shares",
        "Manual": False,
        "Resolution": "that of the diffusion series",
        "SpatialReference": f"bids:raw:{source}",
        "Sources": [f"bids:raw:{source}"],
        **{name: dictionary()[name] for name in ("region", "side", "level", "segment")},
    }
    _write_json(folder / f"{stem}.json", about)
    _write_tsv(
        folder / f"{stem}.tsv",
        ("index", "name", "region", "side", "level", "segment"),
        [_label_row(label) for label in phantom.label_table],
    )


def _label_row(label: Label) -> tuple[object, ...]:
    s = label.segment
    return (label.index, label.name, s.region, s.side, s.level, s.segment)


def _truth_rows(participant: str, phantom: Phantom) -> Iterable[dict[str, object]]:
    about = {
        "participant_id": participant,
        "site": "phantom",
        "protocol": "lumbar",
        "rater": "phantom",
        "roi_source": "phantom",
        "model": "truth",
        "pipeline_version": somite.__version__,
    }
    return (about | row for row in lumbar.truth_rows(phantom))


def _write_motion(path: Path, motion: NDArray[np.float64]) -> None:
    header = ["volume", *(f"m{i}{j}" for i in range(3) for j in range(4))]
    _write_tsv(path, header, [(n, *affine[:3].ravel().tolist()) for n, affine in enumerate(motion)])
