"""The whole path on real scans: DIPY's packaged brain crop, and in CI the scans beside the checkout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohort import Cohort
from dipy.core.gradients import gradient_table
from dipy.data import get_fnames
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from somite.gradients import read_fsl, write_fsl
from somite.images import grid_of, open_image


def fa_of(dwi: Path) -> np.ndarray:
    """FA by DIPY's OLS: independent of the pipeline, to draw labels on."""
    image = nib.load(dwi)
    stem = dwi.with_name(dwi.name.removesuffix(".nii.gz"))
    gradients = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), image.affine)
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs, b0_threshold=50, atol=0.1)
    data = np.asarray(image.dataobj, np.float64)
    fa = np.asarray(TensorModel(table, fit_method="OLS").fit(np.maximum(data, 1e-4)).fa)
    return np.where(data[..., 0] > 0.3 * np.percentile(data[..., 0], 98), np.nan_to_num(fa), 0)


def draw_labels(dataset: Path) -> None:
    """For each series a label image on its grid: the middle and the upper third of FA in its central part."""
    for dwi in dataset.glob("sub-*/dwi/*_dwi.nii.gz"):
        fa, image = fa_of(dwi), nib.load(dwi)
        inner = np.zeros(fa.shape, bool)
        inner[tuple(slice(n // 5, max(n // 5 + 1, n - n // 5)) for n in fa.shape)] = True
        labels = np.zeros(fa.shape, np.int16)
        low, high = np.percentile(fa[inner & (fa > 0)], (33, 67))
        labels[inner & (fa > low) & (fa <= high)] = 1
        labels[inner & (fa > high)] = 2
        folder = dataset / "derivatives" / "labels" / dwi.relative_to(dataset).parent
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / dwi.name.replace("_dwi.nii.gz", "_space-dwi_dseg")
        nib.save(nib.Nifti1Image(labels, image.affine), stem.with_suffix(".nii.gz"))
        stem.with_suffix(".tsv").write_text(
            "index\tname\tregion\tside\tlevel\tsegment\n1\tmiddle\tmiddle\tn/a\tn/a\tn/a\n"
            "2\thigh\thigh\tn/a\tn/a\tn/a\n"
        )


def check_table(cohort: Cohort) -> pd.DataFrame:
    """The means of the table are those of the delivered FA maps in the label images."""
    table = cohort.table()
    rows = table[(table["metric"] == "fa") & (table["statistic"] == "mean")]
    for labels_path in cohort.bids.glob("derivatives/labels/sub-*/dwi/*_dseg.nii.gz"):
        stem = labels_path.name.removesuffix("_space-dwi_dseg.nii.gz")
        labels = np.asarray(nib.load(labels_path).dataobj)
        fa_path = next(cohort.out.glob(f"sub-*/dwi/{stem}_space-dwi_model-tensor_param-fa_dwimap.nii.gz"))
        fa = np.asarray(nib.load(fa_path).dataobj)
        names = dict(part.split("-") for part in stem.split("_") if not part.startswith("sub"))
        run = "_".join(f"{key}-{value}" for key, value in names.items()) or "n/a"
        here = rows[(rows["participant_id"] == stem.split("_")[0]) & (rows["run"] == run)]
        for index, region in ((1, "middle"), (2, "high")):
            (value,) = here.loc[here["region"] == region, "value"]
            np.testing.assert_allclose(float(value), fa[labels == index].mean(), rtol=1e-5)
    return rows


def test_dipys_brain_crop_written_as_bids(tmp_path: Path) -> None:
    image_path, bval, bvec = get_fnames(name="small_64D")
    cohort = Cohort(tmp_path)
    folder = cohort.bids / "sub-crop" / "dwi"
    folder.mkdir(parents=True)
    (cohort.bids / "dataset_description.json").write_text(
        json.dumps({"Name": "DIPY's small_64D", "BIDSVersion": "1.10.0"})
    )
    image = nib.load(image_path)
    nib.save(image, folder / "sub-crop_dwi.nii.gz")
    (folder / "sub-crop_dwi.json").write_text("{}")
    from somite.gradients import Gradients

    vectors = np.nan_to_num(np.loadtxt(bvec))
    write_fsl(
        Gradients(np.loadtxt(bval), vectors),
        folder / "sub-crop_dwi.bval",
        folder / "sub-crop_dwi.bvec",
        image.affine,
    )
    draw_labels(cohort.bids)
    cohort.set("extends: default\neddy: {method: none}\n")  # 20 mm are too little to tell motion by
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    means = check_table(cohort).set_index("region")["value"].astype(float)
    assert 0.1 < means["middle"] < means["high"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), [("cord-bids", "lumbar"), ("brain-bids", "default")])
def test_real_scans(name: str, config: str, real_data: Path, tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    shutil.copytree(real_data / name, cohort.bids)
    draw_labels(cohort.bids)
    cohort.set(f"extends: {config}\nroi: {{segments: all}}\n")
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    rows = check_table(cohort)
    assert len(rows) == 2 * len(list(cohort.bids.glob("sub-*/dwi/*_dwi.nii.gz")))
    assert rows["value"].astype(float).between(0.05, 1).all()


def cord_of(dwi: Path) -> np.ndarray:
    """The cord (x, y, z): in the middle half of each slice, the 90 voxels brightest in the mean DWI."""
    data = np.asarray(nib.load(dwi).dataobj, np.float64)
    mean = data[..., np.loadtxt(dwi.with_name(dwi.name.replace(".nii.gz", ".bval"))) > 50].mean(3)
    central = np.zeros(mean.shape, bool)
    central[tuple(slice(n // 4, n - n // 4) for n in mean.shape[:2])] = True
    ranked = np.sort(np.where(central, mean, -np.inf).reshape(-1, mean.shape[2]), axis=0)
    return central & (mean >= ranked[-90])


@pytest.mark.slow
def test_a_spinal_cord_by_a_mask_of_its_mean_dwi(real_data: Path, tmp_path: Path) -> None:
    """The whole lumbar path on a cervical cord; no brain is looked for."""
    cohort = Cohort(tmp_path)
    home = cohort.bids / "sub-01" / "dwi"
    home.mkdir(parents=True)
    (cohort.bids / "dataset_description.json").symlink_to(real_data / "cord-bids/dataset_description.json")
    for path in (real_data / "cord-bids/sub-01/dwi").iterdir():
        (home / path.name).symlink_to(path)
    dwi = home / "sub-01_dwi.nii.gz"
    cord = cord_of(dwi)
    assert (cord.sum((0, 1)) == 90).all()
    masks = cohort.bids / "derivatives" / "masks" / "sub-01" / "dwi"
    masks.mkdir(parents=True)
    mask = ndimage.binary_dilation(cord, ndimage.generate_binary_structure(3, 1), iterations=2)
    nib.save(
        nib.Nifti1Image(mask.astype(np.uint8), nib.load(dwi).affine),
        masks / "sub-01_space-dwi_mask.nii.gz",
    )
    cohort.set("extends: lumbar\nmasks: {folder: derivatives/masks}\nmask: {method: given}\n")
    done = cohort.run("participant")
    assert done.code == 0, done.out + done.err
    stem = cohort.out / "sub-01" / "dwi" / "sub-01_space-dwi"
    fa = np.asarray(nib.load(f"{stem}_model-tensor_param-fa_dwimap.nii.gz").dataobj)
    fitted = np.asarray(nib.load(f"{stem}_mask.nii.gz").dataobj) > 0
    assert np.array_equal(fitted, mask)
    medians = np.array([np.median(fa[..., z][cord[..., z]]) for z in range(fa.shape[2])])
    assert ((medians >= 0.55) & (medians <= 0.85)).all(), medians
    record = (cohort.out / "logs" / "sub-01.json").read_text()
    assert not re.search("median_otsu|dwi2mask|\\bbet\\b|brain", record)


@pytest.mark.slow
def test_the_ols_tensor_of_a_real_brain_is_dipys(real_data: Path, tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    shutil.copytree(real_data / "brain-bids", cohort.bids)
    cohort.set(
        "extends: default\ndenoise: {method: none}\neddy: {method: none}\ntensor: {method: ols}\n"
        "runs: {filter: {dir: AP}}\n"
    )
    done = cohort.run("participant", options=("--participant-label", "uih"))
    assert done.code == 0, done.out + done.err
    stem = cohort.out / "sub-uih" / "dwi" / "sub-uih_dir-AP"
    image = open_image(stem.with_name("sub-uih_dir-AP_desc-preproc_dwi.nii.gz"))
    gradients = read_fsl(
        stem.with_name("sub-uih_dir-AP_desc-preproc_dwi.bval"),
        stem.with_name("sub-uih_dir-AP_desc-preproc_dwi.bvec"),
        grid_of(image).affine,
    )
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs, b0_threshold=50, atol=0.1)
    mask = np.asarray(open_image(stem.with_name("sub-uih_dir-AP_space-dwi_mask.nii.gz")).dataobj) > 0
    data = np.asarray(image.dataobj, np.float64)[mask]
    fit = TensorModel(table, fit_method="OLS", min_signal=1e-4).fit(data)
    name = "sub-uih_dir-AP_space-dwi_model-tensor_param-{}_dwimap.nii.gz"
    flagged = np.asarray(open_image(stem.with_name(name.format("nonpositive"))).dataobj)[mask]
    positive = flagged == 0
    assert positive.mean() > 0.9
    ours = {p: np.asarray(open_image(stem.with_name(name.format(p))).dataobj)[mask] for p in ("fa", "md")}
    np.testing.assert_allclose(ours["fa"][positive], fit.fa[positive], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours["md"][positive], fit.md[positive], rtol=1e-6)
