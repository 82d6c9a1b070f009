"""The image that labels were drawn on is found by its name, or it is said what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from somite import images
from somite.bids import File, parse_name
from somite.dataset.anatomy import find_anatomy
from somite.dataset.index import Dataset, Visit, read_dataset, visits
from somite.images import Grid

GRID = Grid((4, 5, 3), np.eye(4))


def put(root: Path, *paths: str, shape: tuple[int, ...] = GRID.shape) -> Dataset:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        images.write(root / path, np.zeros(shape, np.float32), GRID)
    return read_dataset(root)


def labels(root: Path, name: str = "sub-01_ses-a_space-T2w_seg-roots_dseg.nii.gz") -> tuple[File, Visit]:
    dataset = put(root, f"sub-01/ses-a/anat/{name}")
    parsed = parse_name(name)
    assert parsed is not None
    return File(root / "sub-01/ses-a/anat" / name, parsed), visits(dataset, "01")[0]


def test_the_t2w_of_the_session_is_taken(tmp_path: Path) -> None:
    image, own = labels(tmp_path / "labels")
    dataset = put(
        tmp_path / "raw",
        "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_acq-fast_T2w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-0/anat/sub-01_ses-0_T2w.nii.gz",
    )
    path, problems, facts = find_anatomy(image, own, dataset)
    assert path == tmp_path / "raw/sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz"
    assert not problems and facts[0].value == "sub-01_ses-a_T2w.nii.gz"


def test_entities_of_the_label_image_choose_the_scan(tmp_path: Path) -> None:
    image, own = labels(tmp_path / "labels", "sub-01_ses-a_acq-fast_run-1_space-T2w_dseg.nii.gz")
    names = ("acq-fast_run-01", "acq-fast_run-02", "acq-slow_run-01")
    dataset = put(tmp_path / "raw", *(f"sub-01/ses-a/anat/sub-01_ses-a_{n}_T2w.nii.gz" for n in names))
    path, _, _ = find_anatomy(image, own, dataset)
    assert path is not None and path.name == "sub-01_ses-a_acq-fast_run-01_T2w.nii.gz"


def test_one_beside_the_labels_will_do(tmp_path: Path) -> None:
    put(tmp_path / "labels", "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz")
    image, own = labels(tmp_path / "labels")
    path, problems, _ = find_anatomy(image, own, None)
    assert path is not None and path.name == "sub-01_ses-a_T2w.nii.gz" and not problems


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        ((), GRID.shape),
        (("run-1_T2w", "run-2_T2w"), GRID.shape),
        (("T2w",), (4, 5, 3, 2)),
        (("T1w",), GRID.shape),
    ],
)
def test_none_or_several_or_4d_is_told(
    tmp_path: Path, names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    image, own = labels(tmp_path / "labels")
    paths = [f"sub-01/ses-a/anat/sub-01_ses-a_{name}.nii.gz" for name in names]
    dataset = put(tmp_path / "raw", *paths, shape=shape) if paths else None
    path, (problem,), _ = find_anatomy(image, own, dataset)
    assert path is None and problem.code == "ANATOMY_MISSING"
    assert "sub-01_ses-a_T2w.nii.gz" in problem.expected and "from-T2w_to-dwi" in problem.do
