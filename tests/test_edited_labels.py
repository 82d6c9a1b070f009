"""Transferred labels are delivered, can be edited and given back, and rerun only what rests on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from cohort import FAST, Cohort

from somite.segments import read_label_table

HOME = "derivatives/labels/sub-01/dwi"
DELIVERED = "sub-01/dwi/sub-01_space-dwi_seg-lumbar_desc-transferred_dseg"


@pytest.fixture(scope="module")
def drawn(pristine: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A participant whose labels lie in the space of an anatomical scan, 3 mm off; run."""
    cohort = pristine.copy(tmp_path_factory.mktemp("drawn"))
    for path in cohort.bids.rglob("sub-0[234]*"):
        if path.is_dir():
            shutil.rmtree(path)
    home = cohort.bids / HOME
    (image,) = home.glob("*_dseg.nii.gz")
    labels = nib.load(image)
    shift = np.eye(4)
    shift[2, 3] = 3
    stem = home / "sub-01_space-T2w_seg-lumbar_desc-manual_dseg"
    nib.save(nib.Nifti1Image(np.asarray(labels.dataobj), shift @ labels.affine), f"{stem}.nii.gz")
    image.with_name(image.name.replace(".nii.gz", ".tsv")).rename(f"{stem}.tsv")
    for path in home.glob("*space-dwi*"):
        path.unlink()
    sitk.WriteTransform(
        sitk.TranslationTransform(3, (0.0, 0.0, 3.0)), str(home / "sub-01_from-T2w_to-dwi_mode-image_xfm.txt")
    )
    cohort.set(FAST)
    done = cohort.run("participant")
    assert done.code == 0, done.out + done.err
    return cohort


def steps(cohort: Cohort) -> dict[str, str]:
    content = json.loads((cohort.out / "logs" / "sub-01.json").read_text())
    return {step["step"]: step["state"] for step in content["steps"]}


def test_labels_are_delivered_with_their_table(drawn: Cohort) -> None:
    image = nib.load(drawn.out / f"{DELIVERED}.nii.gz")
    assert (
        image.shape
        == nib.load(drawn.out / "sub-01/dwi/sub-01_space-dwi_model-tensor_param-fa_dwimap.nii.gz").shape
    )
    assert np.issubdtype(image.get_data_dtype(), np.integer)
    given = read_label_table(drawn.bids / HOME / "sub-01_space-T2w_seg-lumbar_desc-manual_dseg.tsv")
    assert read_label_table(drawn.out / f"{DELIVERED}.tsv") == given
    assert json.loads((drawn.out / f"{DELIVERED}.json").read_text())["Description"].startswith("Labels")


def test_edited_labels_go_before_the_drawn_ones_and_rerun_only_what_rests_on_them(
    drawn: Cohort, tmp_path: Path
) -> None:
    cohort = drawn.copy(tmp_path)
    before = (cohort.out / "sub-01/dwi/sub-01_desc-segments_stats.tsv").read_text()
    image = nib.load(cohort.out / f"{DELIVERED}.nii.gz")
    values = np.asarray(image.dataobj).copy()
    most = np.bincount(values[(values > 0) & (values < 100)]).argmax()
    i, j, k = np.argwhere(values == most)[0]
    values[i, j, k] = 0
    home = cohort.bids / HOME
    nib.save(nib.Nifti1Image(values, image.affine, image.header), home / f"{Path(DELIVERED).name}.nii.gz")
    shutil.copy(cohort.out / f"{DELIVERED}.tsv", home)

    done = cohort.run("participant")
    assert done.code == 0, done.out + done.err
    ran = {step for step, state in steps(cohort).items() if state == "run"}
    # The mask holds all labelled voxels, so it is made anew; it comes out the same, and nothing follows.
    assert ran == {"transfer", "carve", "mask", "qc", "profile", "roi", "derived", "pictures"}
    assert (cohort.out / "sub-01/dwi/sub-01_desc-segments_stats.tsv").read_text() != before
    record = json.loads((cohort.out / "logs" / "sub-01.json").read_text())
    assert f"{HOME}/{Path(DELIVERED).name}.nii.gz" in record["inputs"]
