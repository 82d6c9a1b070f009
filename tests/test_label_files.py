"""What may lie in the folder of labels: several label images, probabilities, landmarks, a fat map."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import skeleton
from cohort import Cohort
from skeleton import build, settings

from somite import images
from somite.dataset.sessions import LabelImage
from somite.interfaces.transfer import read_routes
from somite.label_sources.combining import combined, renumber
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid
from somite.plan import Session, deep_check, make_plan
from somite.segments import Label, Segment, label_table_text, read_label_table
from somite.workflows.given import given_files, given_texts

HOME = "derivatives/labels/sub-01/dwi/sub-01"
ROOTS, DISCS = f"{HOME}_space-dwi_seg-roots_dseg", f"{HOME}_space-dwi_seg-discs_dseg"
HEADER = ("index", "name", "region", "side", "level", "segment")
DISC_ROWS = (HEADER, (2, "disc", "disc", "midline", "L4-L5", "n/a"))


def plan(root: Path, deep: bool = False, **sections: Any) -> Session:
    made = make_plan(root, settings(**{"roi": {"segments": "all"}, **sections}))
    (session,) = (deep_check(made, 1) if deep else made).sessions
    return session


def dataset(root: Path, **files: object) -> Path:
    return build(root, {"sub-01/dwi/sub-01_dwi": {"json": {}}, **files})


def codes(session: Session) -> list[str]:
    return [problem.code for problem in session.errors]


def put(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def save(root: Path, name: str, data: np.ndarray) -> None:
    path = root / f"{name}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1])), path)


def test_values_that_collide_are_renumbered() -> None:
    one = (Label(1, "a", Segment("a")), Label(5, "b", Segment("b")))
    other = (Label(5, "c", Segment("c")), Label(3, "d", Segment("d")), Label(1, "e", Segment("e")))
    values = renumber([one, other])
    assert values == [{}, {5: 6, 1: 7}]
    assert [label.index for label in combined([one, other], values)] == [1, 5, 6, 3, 7]


def test_images_of_different_seg_are_one_labelling(tmp_path: Path) -> None:
    root = dataset(tmp_path, **{ROOTS: {}, DISCS: {"table": DISC_ROWS}})
    session = plan(root)
    assert not session.problems and len(session.labels) == 2
    assert [image.path.name for image in session.labels] == [
        "sub-01_space-dwi_seg-discs_dseg.nii.gz",
        "sub-01_space-dwi_seg-roots_dseg.nii.gz",
    ]
    assert [(label.index, label.segment.region) for label in session.label_rows] == [
        (2, "disc"),
        (1, "nerve_root"),
        (3, "nerve_root"),
    ]
    assert session.labels[1].values == {2: 3} and session.label_entities == {}
    assert session.facts[-1].name == "label images"
    wanted = {"segments": [{"region": "disc", "levels": ["L4-L5"]}, *skeleton.SEGMENTS]}
    assert not plan(root, roi=wanted).problems
    wanted["segments"].append({"region": "canal"})
    assert [problem.code for problem in plan(root, roi=wanted).problems] == ["REGION_MISSING"]


def test_images_that_claim_a_voxel_are_found_by_the_deep_check(tmp_path: Path) -> None:
    root = dataset(tmp_path, **{ROOTS: {}, DISCS: {"table": DISC_ROWS}})
    one, other = np.zeros(skeleton.SHAPE, np.int16), np.zeros(skeleton.SHAPE, np.int16)
    one[0], one[4], other[1] = 1, 2, 2
    save(root, ROOTS, one)
    save(root, DISCS, other)
    assert codes(plan(root, deep=True)) == []
    other[0, 0, 0] = 2
    save(root, DISCS, other)
    assert codes(plan(root, deep=True)) == ["LABEL_OVERLAP"]


def test_each_seg_has_a_source_of_its_own(tmp_path: Path) -> None:
    root = dataset(tmp_path, **{ROOTS: {}, DISCS: {"table": None}})
    assert codes(plan(root)) == ["LABEL_NO_TABLE"]
    session = plan(root, labels={"source": {"discs": "totalspineseg"}})
    assert not session.errors
    assert [image.source for image in session.labels] == ["totalspineseg", "bids"]
    assert session.roi_source == "totalspineseg"


def test_delivered_labels_go_before_the_images_that_they_are_made_of(tmp_path: Path) -> None:
    edited = f"{HOME}_space-dwi_desc-transferred_dseg"
    root = dataset(tmp_path, **{ROOTS: {}, DISCS: {"table": DISC_ROWS}, edited: {}})
    session = plan(root)
    assert [image.path.name for image in session.labels] == [f"{Path(edited).name}.nii.gz"]
    assert "seg-roots" in session.facts[0].reason


def test_each_image_is_told_its_own_transform(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tfm", tmp_path / "b.tfm"]
    images_of = (LabelImage(tmp_path / "1.nii", transform=paths[1]), LabelImage(tmp_path / "2.nii"))
    images_of += (LabelImage(tmp_path / "3.nii", transform=paths[0], values={1: 4}),)
    session = Session("01", None, {}, labels=(*images_of, LabelImage(tmp_path / "4", anatomy=tmp_path)))
    routes = read_routes(put(tmp_path, "routes.json", given_texts(session)["label_routes"]))
    given = given_files(session)["labels_transform"]
    assert [None if one.transform is None else given[one.transform] for one in routes] == [
        paths[1],
        None,
        paths[0],
        None,
    ]
    assert [one.by_anatomy for one in routes] == [False, False, False, True]
    assert routes[2].values == {1: 4}


def test_two_anatomical_images_are_an_error(tmp_path: Path) -> None:
    other = {"shape": [9, 8, 7], "voxel": [1, 1, 1]}
    files = {
        f"{HOME}_space-T2w_seg-roots_dseg": other,
        f"{HOME}_space-T1w_seg-discs_dseg": {"table": DISC_ROWS, **other},
    }
    root = dataset(tmp_path, **files)
    for suffix in ("T1w", "T2w"):
        put(root, f"sub-01/anat/sub-01_{suffix}.nii.gz", "")
        nib.save(
            nib.Nifti1Image(np.ones((9, 8, 7), np.float32), np.eye(4)),
            root / f"sub-01/anat/sub-01_{suffix}.nii.gz",
        )
    assert codes(plan(root)) == ["LABEL_SPACES"]
    session = plan(root, labels={"filter": {"space": "T2w"}})
    assert not session.errors and session.anatomy == root / "sub-01/anat/sub-01_T2w.nii.gz"


PROB = f"{HOME}_space-dwi_probseg"
PROB_ROWS = "index\tname\tregion\tside\n1\tleft\tCST\tL\n2\tright\tCST\tR\n"


def test_probability_images_in_one_file_or_in_one_for_each_label(tmp_path: Path) -> None:
    root = dataset(tmp_path / "four")
    save(root, PROB, np.zeros((*skeleton.SHAPE, 2), np.float32))
    assert codes(plan(root)) == ["LABEL_NO_TABLE"]
    put(root, f"{PROB}.tsv", PROB_ROWS)
    found = plan(root).probabilities
    assert found is not None and [path.name for path in found.images] == ["sub-01_space-dwi_probseg.nii.gz"]
    root = dataset(tmp_path / "three")
    put(root, "derivatives/labels/probseg.tsv", PROB_ROWS)
    for name in ("left", "right"):
        save(root, f"{HOME}_space-dwi_label-{name}_probseg", np.zeros(skeleton.SHAPE, np.float32))
    found = plan(root).probabilities
    assert found is not None and len(found.images) == 2
    assert [label.segment.side for label in found.rows] == ["L", "R"]
    save(root, f"{HOME}_space-dwi_label-left_desc-b_probseg", np.zeros(skeleton.SHAPE, np.float32))
    assert codes(plan(root)) == ["LABEL_AMBIGUOUS"]


def test_landmarks_and_fat_lie_beside_the_labels(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    marks = put(root, f"{HOME}_landmarks.tsv", "x\ty\tz\tregion\tside\tlevel\n1\t2\t3\tnerve_root\tL\tL5\n")
    save(root, f"{HOME}_FF", np.zeros(skeleton.SHAPE, np.float32))
    session = plan(root)
    assert (session.landmarks, session.fat) == (marks, root / f"{HOME}_FF.nii.gz")
    marks.write_text("x\ty\tz\n1\t2\t3\n")
    assert codes(plan(root)) == ["LANDMARK_TABLE"]


@pytest.fixture(scope="module")
def lumbar(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Labels drawn on a T2w image in two files, probabilities, landmarks and a fat map; run."""
    root = tmp_path_factory.mktemp("lumbar")
    write_dataset(root / "bids", participants=1, grid=lumbar_grid(4.5), labels="anatomy")
    cohort = Cohort(root)
    home = cohort.bids / "derivatives/labels/sub-01/anat"
    (image,) = home.glob("*_dseg.nii.gz")
    table = read_label_table(image.with_name(image.name.replace(".nii.gz", ".tsv")))
    values, grid = images.read_labels(image)
    kinds = {
        "roots": [label for label in table if label.segment.region in ("nerve_root", "drg")],
        "rest": [label for label in table if label.segment.region not in ("nerve_root", "drg")],
    }
    for path in home.glob("*_dseg.*"):
        path.unlink()
    for kind, labels in kinds.items():
        # Both count from 1.
        own = np.zeros(values.shape, np.int32)
        rows = []
        for n, label in enumerate(labels, start=1):
            own[values == label.index] = n
            rows.append(Label(n, label.name, label.segment))
        stem = f"sub-01_space-T2w_seg-{kind}_desc-manual_dseg"
        nib.save(nib.Nifti1Image(own.astype(np.int16), grid.affine), home / f"{stem}.nii.gz")
        (home / f"{stem}.tsv").write_text(label_table_text(rows))
    dwi = images.grid_of(images.open_image(cohort.bids / "sub-01/dwi/sub-01_dwi.nii.gz"))
    middle = tuple(slice(n // 2 - 2, n // 2 + 2) for n in dwi.shape)
    weights = np.zeros((*dwi.shape, 1), np.float32)
    weights[middle] = 0.8
    images.write(home / "sub-01_space-dwi_probseg.nii.gz", weights, dwi)
    (home / "sub-01_space-dwi_probseg.tsv").write_text("index\tname\tregion\n1\tcord\tcord\n")
    images.write(home / "sub-01_space-dwi_FF.nii.gz", np.full(dwi.shape, 4.0, np.float32), dwi)
    shutil.copy(cohort.bids / "derivatives/truth/sub-01_landmarks.tsv", home)
    cohort.set("extends: lumbar\neddy: {method: none}\nroi: {segments: all}\ncarve: {roots: {}}\n")
    done = cohort.run("participant")
    assert done.code == 0, done.out + done.err
    return cohort


def table_of(cohort: Cohort, name: str) -> pd.DataFrame:
    path = cohort.out / "sub-01" / "dwi" / f"sub-01_{name}.tsv"
    return pd.read_csv(path, sep="\t", keep_default_na=False)


def test_two_images_and_probabilities_reach_the_table(lumbar: Cohort) -> None:
    rows = table_of(lumbar, "desc-segments_stats")
    assert {"nerve_root", "disc", "canal"} <= set(rows[rows.extraction == "label"].region)
    means = rows[(rows.metric == "fa") & (rows.statistic == "mean")]
    (weighted,) = means[means.extraction == "prob"].to_dict("records")
    assert (weighted["region"], weighted["weighting"], weighted["n_voxels"]) == ("cord", "probability", 64)
    fat = means[means.value != "n/a"].fat_fraction.astype(float)
    assert len(fat) > 5 and np.allclose(fat, 0.04)
    profiles = table_of(lumbar, "desc-profiles_stats")
    assert set(profiles[profiles.extraction == "prob"].node) == set(range(100))
    delivered = read_label_table(lumbar.out / "sub-01/dwi/sub-01_space-dwi_desc-transferred_dseg.tsv")
    assert len({label.index for label in delivered}) == len(delivered)
    assert {label.segment.region for label in delivered} >= {"nerve_root", "disc", "canal"}


def test_the_transform_of_the_anatomy_is_named_after_it(lumbar: Cohort) -> None:
    assert (lumbar.out / "sub-01/dwi/sub-01_from-T2w_to-dwi_mode-image_xfm.h5").is_file()


def test_landmarks_reach_zones_and_profiles(lumbar: Cohort, tmp_path: Path) -> None:
    """Moved to where no root is, they are told as the reason for both, of every root."""
    cohort = lumbar.copy(tmp_path)
    path = cohort.bids / "derivatives/labels/sub-01/anat/sub-01_landmarks.tsv"
    marks = pd.read_csv(path, sep="\t")
    marks["y"] += 40
    marks.to_csv(path, sep="\t", index=False)
    done = cohort.run("participant")
    assert done.code == 0, done.out + done.err
    for before, name in ((0, "desc-profiles_stats"), (1, "space-dwi_desc-segments_dseg")):
        rows = table_of(cohort, name)
        roots = rows[(rows.region == "nerve_root") & (rows.get("extraction", "label") == "label")]
        assert roots.reason.str.contains("the landmark lies").all(), before
        was = table_of(lumbar, name)
        assert not was.reason.str.contains("the landmark lies").all()
