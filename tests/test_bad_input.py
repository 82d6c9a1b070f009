"""A cohort in which every participant but one has something wrong: each is told apart, and stops alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohort import FAST, Cohort


@dataclass
class Scan:
    """The files of one participant, to be damaged."""

    name: str
    bids: Path

    def file(self, extension: str) -> Path:
        return self.bids / self.name / "dwi" / f"{self.name}_dwi{extension}"

    def label(self, extension: str) -> Path:
        stem = f"{self.name}_space-dwi_seg-lumbar_desc-manual_dseg{extension}"
        return self.bids / "derivatives" / "labels" / self.name / "dwi" / stem

    def edit_text(self, extension: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        path = self.file(extension)
        np.savetxt(path, change(np.loadtxt(path, ndmin=2)), fmt="%.6g")

    def edit_image(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        image = nib.load(self.file(".nii.gz"))
        data = change(np.asarray(image.dataobj).astype(np.float32))
        nib.save(nib.Nifti1Image(data, image.affine), self.file(".nii.gz"))


def volume(index: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[..., index] = value
        return data

    return change


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: rows * factor


def truncate(scan: Scan) -> None:
    path = scan.file(".nii.gz")
    path.write_bytes(path.read_bytes()[:-5000])


def other_grid(scan: Scan) -> None:
    image = nib.load(scan.label(".nii.gz"))
    affine = image.affine.copy()
    affine[:3, 3] += 20
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), scan.label(".nii.gz"))


def other_regions(scan: Scan) -> None:
    path = scan.label(".tsv")
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    table["region"] = "kidney"
    table.to_csv(path, sep="\t", index=False)


def twice(scan: Scan) -> None:
    image = nib.load(scan.file(".nii.gz"))
    nib.save(image, scan.file(".nii"))


def no_b0(scan: Scan) -> None:
    scan.edit_text(".bval", lambda bvals: np.where(bvals < 50, 800, bvals))
    scan.edit_text(".bvec", lambda rows: np.where((rows == 0).all(0), [[1], [0], [0]], rows))


def few_directions(scan: Scan) -> None:
    directions = np.eye(3)[:, np.arange(37) % 3]
    scan.edit_text(".bvec", lambda rows: np.where((rows == 0).all(0), 0, directions))


# Participant -> what is done to it, the code of the problem, and a word of its message.
DAMAGE: dict[str, tuple[Callable[[Scan], object], str, str]] = {
    "nobval": (lambda s: s.file(".bval").unlink(), "NO_BVAL", "bval"),
    "nobvec": (lambda s: s.file(".bvec").unlink(), "NO_BVEC", "bvec"),
    "count": (lambda s: s.edit_text(".bval", lambda b: b[:, :-1]), "GRADIENT_COUNT", "36"),
    "transposed": (lambda s: s.edit_text(".bvec", np.transpose), "BVEC_TRANSPOSED", "bvec"),
    "notunit": (lambda s: s.edit_text(".bvec", scaled(0.5)), "BVEC_NOT_UNIT", "0.5"),
    "units": (lambda s: s.edit_text(".bval", scaled(1e6)), "BVAL_UNITS", "s/m2"),
    "wrapped": (lambda s: s.edit_text(".bval", scaled(-1)), "BVAL_WRAPPED", "-800"),
    "nob0": (no_b0, "NO_B0", "without diffusion weighting"),
    "few": (few_directions, "FEW_DIRECTIONS", "3"),
    "nan": (lambda s: s.edit_image(volume(7, np.nan)), "NONFINITE_VOLUME", "7"),
    "empty": (lambda s: s.edit_image(volume(9, 0)), "EMPTY_VOLUME", "9"),
    "truncated": (truncate, "GZIP_TRUNCATED", "truncated"),
    "3d": (lambda s: s.edit_image(lambda data: data[..., 0]), "NOT_4D", "3"),
    "grid": (other_grid, "LABEL_GRID", "grid"),
    "notable": (lambda s: s.label(".tsv").unlink(), "LABEL_NO_TABLE", "table"),
    "noregion": (other_regions, "NO_REGION", "kidney"),
    "twice": (twice, "DUPLICATE_NAME", "twice"),
}


@pytest.fixture(scope="module")
def damaged(pristine: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, str]:
    """The cohort after a run of both levels, and what the run printed."""
    cohort = Cohort(tmp_path_factory.mktemp("damaged"))
    cohort.set(FAST)
    shutil.copytree(pristine.bids, cohort.bids, ignore=shutil.ignore_patterns("sub-0[2-4]", "participants.*"))
    whole = Scan("sub-01", cohort.bids)
    for name, (damage, _, _) in DAMAGE.items():
        scan = Scan(f"sub-{name}", cohort.bids)
        scan.file("").parent.mkdir(parents=True)
        scan.label("").parent.mkdir(parents=True)
        for extension in (".nii.gz", ".bval", ".bvec", ".json"):
            shutil.copy(whole.file(extension), scan.file(extension))
        for extension in (".nii.gz", ".tsv"):
            shutil.copy(whole.label(extension), scan.label(extension))
        damage(scan)
    done = cohort.run()
    assert done.code == 1, done.err
    return cohort, done.out


@pytest.mark.parametrize("name", DAMAGE)
def test_each_is_named_with_its_reason_and_nothing_is_written_for_it(
    name: str, damaged: tuple[Cohort, str]
) -> None:
    cohort, _ = damaged
    _, code, word = DAMAGE[name]
    row = cohort.table("status").set_index("participant_id").loc[f"sub-{name}"]
    assert row["verdict"] == "failed"
    assert code in row["reason"]
    assert word in row["reason"]
    assert not (cohort.out / f"sub-{name}").exists()


def test_the_one_that_is_well_is_done_and_alone_in_the_table(damaged: tuple[Cohort, str]) -> None:
    cohort, said = damaged
    assert set(cohort.table()["participant_id"]) == {"sub-01"}
    assert said.splitlines()[-1].startswith(f"sessions: 1 done, {len(DAMAGE)} failed")
