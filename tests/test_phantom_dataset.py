"""The phantom as a BIDS dataset: valid, complete, the same bytes for a seed, and never half written."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from somite import gradients, images
from somite.errors import ConfigError
from somite.phantom import bids_files, lumbar, person_files, scheme
from somite.phantom.dataset import write_dataset
from somite.phantom.scan import Scan, drift
from somite.segments import read_label_table

# Column for column the data model of the long table.
COLUMNS = (
    *("participant_id", "session_id", "run", "site", "protocol", "region", "side", "level", "segment"),
    *(
        "metric",
        "statistic",
        "value",
        "se",
        "ci_low",
        "ci_high",
        "unit",
        "n_voxels",
        "n_effective",
        "volume_mm3",
    ),
    *("weighting", "extraction", "space", "rater", "roi_source", "model", "b_used", "snr", "fat_fraction"),
    *("qc_status", "qc_flags", "reason", "pipeline_version"),
)
COARSE = lumbar.lumbar_grid(3.0)
LABELS = "derivatives/labels/{0}/dwi/{0}_space-dwi_seg-lumbar_desc-manual_dseg"
# Recommendations that a phantom cannot follow without making things up: coils, institutions, HED tags.
ACCEPTED = {
    "JSON_KEY_RECOMMENDED",
    "SIDECAR_KEY_RECOMMENDED",
    "TOO_FEW_AUTHORS",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("phantom") / "cohort", 3, 1, 25.0, grid=COARSE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def validate(tool: Path, folder: Path, *options: str) -> tuple[set[str], set[str]]:
    """Codes of the errors and of the warnings that the BIDS validator finds."""
    done = subprocess.run(
        [tool, folder, "--format", "json", *options], capture_output=True, text=True, timeout=120
    )
    report = json.loads(done.stdout)
    reports = [report, *report.get("derivativesSummary", {}).values()]
    found = [issue for part in reports for issue in part["issues"]["issues"]]
    codes = [{i["code"] for i in found if i["severity"] == severity} for severity in ("error", "warning")]
    return codes[0], codes[1]


def test_the_bids_validator_passes_it_and_its_derivatives(
    cohort: Path, need_tool: Callable[[str], Path]
) -> None:
    tool = need_tool("bids-validator-deno")
    for options in ((), ("--recursive",)):
        errors, warnings = validate(tool, cohort, *options)
        assert errors == set()
        assert warnings <= ACCEPTED


def test_the_bids_validator_is_asked_the_right_question(
    tmp_path: Path, need_tool: Callable[[str], Path]
) -> None:
    tool = need_tool("bids-validator-deno")
    wrong = write_dataset(tmp_path / "wrong", 1, grid=COARSE)
    (wrong / "sub-01/dwi/sub-01_dwi.bval").unlink()
    (wrong / "derivatives/labels/stray.tsv").write_text("a\n1\n")
    errors = validate(tool, wrong)[0]
    assert errors
    assert "NOT_INCLUDED" not in errors
    assert "NOT_INCLUDED" in validate(tool, wrong, "--recursive")[0]


def test_same_seed_same_bytes(cohort: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", 3, 1, 25.0, grid=COARSE)
    assert contents(again) == contents(cohort)
    other = write_dataset(tmp_path / "other", 1, 2, 25.0, grid=COARSE)
    image = "sub-01/dwi/sub-01_dwi.nii.gz"
    assert (other / image).read_bytes() != (cohort / image).read_bytes()


def test_a_participant_does_not_depend_on_how_many_there_are(cohort: Path, tmp_path: Path) -> None:
    one = contents(write_dataset(tmp_path / "one", 1, 1, 25.0, grid=COARSE))
    many = contents(cohort)
    names = [name for name in one if "sub-01" in name]
    assert len(names) == 9
    assert all(one[name] == many[name] for name in names)


def test_files_hold_what_was_made(cohort: Path) -> None:
    phantom = lumbar.make_lumbar((1, 2), 25.0, grid=COARSE, patient=True)
    stem = cohort / "sub-02/dwi/sub-02_dwi"
    series, grid = images.read_float(stem.with_name("sub-02_dwi.nii.gz"))
    assert grid.matches(phantom.grid, 1e-3)
    assert np.abs(series - phantom.dwi).max() <= 0.501
    header = nib.load(stem.with_name("sub-02_dwi.nii.gz")).header
    assert header.get_zooms()[3] == 6.0
    assert header.get_xyzt_units() == ("mm", "sec")
    table = gradients.read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    assert (table.bvals == phantom.gradients.bvals).all()
    assert table.bvecs == pytest.approx(phantom.gradients.bvecs, abs=1e-6)
    labels, label_grid = images.read_labels(cohort / f"{LABELS.format('sub-02')}.nii.gz")
    assert label_grid.matches(grid, 1e-3)
    assert (labels == phantom.labels).all()
    assert read_label_table(cohort / f"{LABELS.format('sub-02')}.tsv") == phantom.label_table


@pytest.mark.parametrize(("snr", "error"), [(math.inf, 0.05), (0.1, 2.0)])
def test_no_signal_is_lost_in_storage(snr: float, error: float, tmp_path: Path) -> None:
    """Without noise rounding must not show, and with much noise nothing may wrap around."""
    folder = write_dataset(tmp_path / "one", 1, 1, snr, grid=COARSE)
    series, _ = images.read_float(folder / "sub-01/dwi/sub-01_dwi.nii.gz")
    phantom = lumbar.make_lumbar((1, 1), snr, grid=COARSE)
    assert np.abs(series - phantom.dwi).max() < error
    assert nib.load(folder / "sub-01/dwi/sub-01_dwi.nii.gz").get_data_dtype() == np.int16


def test_fields_without_a_value_are_written_as_bids_writes_them(cohort: Path) -> None:
    for path in cohort.rglob("*.tsv"):
        for line in path.read_text().splitlines():
            assert all(line.split("\t")), path


def test_sidecar_says_what_the_pipeline_needs(cohort: Path) -> None:
    sidecar = json.loads((cohort / "sub-01/dwi/sub-01_dwi.json").read_text())
    assert sidecar["EchoTime"] == pytest.approx(scheme.TE_MS / 1000)
    assert sidecar["RepetitionTime"] == 6.0
    assert sidecar["PhaseEncodingDirection"] == "j-"
    assert sidecar["TotalReadoutTime"] == pytest.approx(0.00052 * 47)
    assert sorted(sidecar["SliceTiming"]) == pytest.approx(np.arange(20) * 0.3)


@pytest.mark.parametrize(("axes", "direction"), [("LAS", "j-"), ("RPI", "j"), ("PSR", "i"), ("SLA", "k-")])
def test_phase_encoding_is_anterior_to_posterior_on_any_grid(axes: str, direction: str) -> None:
    grid = lumbar.lumbar_grid(3.0, axes=axes, tilt_deg=(10.0, 5.0, -8.0))
    assert bids_files.sidecar(grid, scheme.TE_MS)["PhaseEncodingDirection"] == direction


def test_participants_are_by_turns_controls_and_patients(cohort: Path) -> None:
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    assert list(people.participant_id) == ["sub-01", "sub-02", "sub-03"]
    assert list(people.group) == ["control", "patient", "control"]
    assert people.age.between(18, 90).all()
    assert set(people.sex) <= {"F", "M"}
    described = json.loads((cohort / "participants.json").read_text())
    assert set(described) == set(people.columns) - {"participant_id"}


def test_truth_is_a_long_table_of_every_segment_and_metric(tmp_path: Path) -> None:
    grid = lumbar.lumbar_grid(field_of_view_mm=(108.0, 96.0, 60.0))
    folder = write_dataset(tmp_path / "fine", 2, 5, math.inf, grid=grid)
    table = pd.read_csv(folder / "derivatives/truth/segments.tsv", sep="\t", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * 54 * (5 + 4)
    assert not table.duplicated(
        ["participant_id", "region", "side", "level", "segment", "metric", "statistic"]
    ).any()
    means = table[table.statistic == "mean"].set_index(
        ["participant_id", "region", "side", "level", "segment", "metric"]
    )

    def value(participant: str, segment: tuple[str, str, str, str], metric: str) -> float:
        row = means.loc[(participant, *segment, metric)]
        assert row.unit == ("1" if metric.startswith("fa") else "1e-3 mm2/s")
        assert row.n_voxels >= 3
        assert row.volume_mm3 == pytest.approx(row.n_voxels * 1.5**3)
        return float(row.value)

    drg = ("nerve_root", "R", "L5", "foraminal_drg")
    assert value("sub-02", drg, "fa") == pytest.approx(0.26)
    assert value("sub-02", drg, "md") == pytest.approx(1.79)
    assert value("sub-02", drg, "fa_of_mean_eigenvalues") == pytest.approx(0.26)
    assert value("sub-01", drg, "fa") == pytest.approx(0.391, abs=0.003)
    outer = ("nerve_root", "L", "S1", "extraforaminal")
    assert [value("sub-01", outer, m) for m in ("ad", "rd")] == pytest.approx([1.935, 0.982], abs=0.001)
    assert value("sub-01", ("canal", "midline", "L3-L4", "n/a"), "md") == pytest.approx(2.72)


def test_motion_is_recorded_with_the_truth(tmp_path: Path) -> None:
    grid = lumbar.lumbar_grid(4.0, field_of_view_mm=(80.0, 80.0, 24.0))
    folder = write_dataset(tmp_path / "moving", 1, 1, math.inf, grid=grid, faults=Scan(2.0, 1.0))
    table = pd.read_csv(folder / "derivatives/truth/sub-01_motion.tsv", sep="\t")
    affines = table.drop(columns="volume").to_numpy().reshape(37, 3, 4)
    assert affines == pytest.approx(drift(37, (1, 1), 2.0, 1.0)[:, :3], abs=1e-7)
    series, _ = images.read_float(folder / "sub-01/dwi/sub-01_dwi.nii.gz")
    phantom = lumbar.make_lumbar((1, 1), math.inf, grid=grid)
    assert np.abs(series[..., 0] - phantom.dwi[..., 0]).max() <= 0.501
    assert np.abs(series[..., 27] - phantom.dwi[..., 27]).max() > 200
    assert "moves during the series" in (folder / "README").read_text()


def test_every_mistake_is_named_and_nothing_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError) as raised:
        write_dataset(out, 0, -1, 0.0, protocol="knee", faults=Scan(motion_mm=-1.0))
    codes = {problem.code for problem in raised.value.problems}
    assert codes == {"PROTOCOL", "PARTICIPANTS", "SEED", "SNR", "SCAN", "OUT_DIR_NOT_EMPTY"}
    assert contents(tmp_path) == {"out/mine.txt": b"keep"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_dataset(tmp_path / "out", 1, grid=COARSE)
    assert (tmp_path / "out/participants.tsv").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(person_files, "_write_labels", full)
    with pytest.raises(OSError, match="No space"):
        write_dataset(tmp_path / "out", 1, grid=COARSE)
    assert list(tmp_path.iterdir()) == []
