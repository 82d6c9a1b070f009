"""Names, inheritance and the description of a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from somite import bids
from somite.bids import File, Name, build_name, inherited, join_entities, parse_name
from somite.errors import DatasetError


def file(path: str) -> File:
    name = parse_name(Path(path).name)
    assert name is not None
    return File(Path(path), name)


def test_parse_takes_a_name_apart() -> None:
    name = parse_name("sub-01_ses-pre_acq-x2_dir-AP_run-02_dwi.nii.gz")
    assert name == Name({"sub": "01", "ses": "pre", "acq": "x2", "dir": "AP", "run": "02"}, "dwi", ".nii.gz")
    assert name.is_image
    assert parse_name("dwi.bval") == Name({}, "dwi", ".bval")


@pytest.mark.parametrize(
    "filename",
    [
        "sub-01_dwi_old.nii.gz",  # bids2table: a file of suffix `old`
        "sub-01_copy_dwi.nii.gz",  # bids2table: the same as sub-01_dwi
        "sub-01_acq-a_acq-b_dwi.nii.gz",  # bids2table: acq-b
        "sub-01_dwi",
        "sub-01_dwi (1).nii.gz",
        "sub-01_dir-A_P_dwi.nii.gz",
        "sub-_dwi.nii.gz",
        "dataset_description.json",
        "README",
    ],
)
def test_parse_refuses_what_is_no_bids_name(filename: str) -> None:
    assert parse_name(filename) is None


@pytest.mark.parametrize(
    ("entities", "suffix", "extension", "expected"),
    [
        (
            {"param": "fa", "model": "tensor", "space": "dwi", "acq": "x", "ses": "02", "sub": "01"},
            "dwimap",
            ".nii.gz",
            "sub-01_ses-02_acq-x_space-dwi_model-tensor_param-fa_dwimap.nii.gz",
        ),
        (
            {"desc": "smooth", "param": "fa", "model": "tensor", "sub": "01"},
            "dwimap",
            ".json",
            "sub-01_model-tensor_param-fa_desc-smooth_dwimap.json",
        ),
        ({"desc": "preproc", "run": "1", "dir": "AP", "sub": "01"}, "dwi", ".bval",
         "sub-01_dir-AP_run-1_desc-preproc_dwi.bval"),
        ({"sub": "01", "to": "dwi", "mode": "image", "from": "T2w"}, "xfm", ".txt",
         "sub-01_from-T2w_to-dwi_mode-image_xfm.txt"),
        ({"sub": "01", "ses": "", "seg": "lumbar", "desc": "manual", "space": "dwi"}, "dseg", ".tsv",
         "sub-01_space-dwi_seg-lumbar_desc-manual_dseg.tsv"),
        ({}, "dwi", ".json", "dwi.json"),
    ],
)  # fmt: skip
def test_build_orders_the_entities(
    entities: dict[str, str], suffix: str, extension: str, expected: str
) -> None:
    assert build_name(entities, suffix, extension) == expected


@given(
    st.dictionaries(
        st.sampled_from(["sub", "ses", "acq", "dir", "run", "space", "seg", "model", "param", "desc"]),
        st.from_regex(r"[0-9A-Za-z]{1,6}", fullmatch=True),
    )
)
def test_parse_undoes_build(entities: dict[str, str]) -> None:
    name = parse_name(build_name(entities, "dwimap", ".nii.gz"))
    assert name == Name(entities, "dwimap", ".nii.gz")


def test_build_refuses_what_parse_would_not_read() -> None:
    with pytest.raises(ValueError, match="zone is not an entity"):
        join_entities({"sub": "01", "zone": "a"})
    with pytest.raises(ValueError, match="dir-A_P"):
        join_entities({"sub": "01", "dir": "A_P"})


def test_stem_drops_the_whole_extension() -> None:
    assert bids.stem(Path("/a.b/sub-01_dwi.nii.gz")) == "sub-01_dwi"


def test_same_image_sees_through_order_zeros_and_compression() -> None:
    one = file("sub-01_acq-x_run-01_dwi.nii.gz").name.same_image()
    assert one == file("sub-01_run-1_acq-x_dwi.nii").name.same_image()
    assert one != file("sub-01_acq-x_run-10_dwi.nii").name.same_image()
    assert one != file("sub-01_acq-x_dwi.nii.gz").name.same_image()


LEVELS = (
    tuple(map(file, ("dwi.json", "acq-x_dwi.json", "bold.json", "dwi.bval"))),
    tuple(map(file, ("sub-01/sub-01_dwi.json", "sub-01/sub-01_acq-y_dwi.json"))),
    tuple(map(file, ("sub-01/dwi/sub-01_acq-x_dwi.json", "sub-01/dwi/sub-01_acq-x_dir-AP_dwi.nii.gz"))),
)


def test_inheritance_goes_from_the_root_down_and_from_general_to_special() -> None:
    found = inherited(file("sub-01_acq-x_dir-AP_dwi.nii.gz").name, ".json", LEVELS)
    assert [str(f.path) for f in found] == [
        "dwi.json",
        "acq-x_dwi.json",
        "sub-01/sub-01_dwi.json",
        "sub-01/dwi/sub-01_acq-x_dwi.json",
    ]


def test_inheritance_agrees_with_bids2table(tmp_path: Path) -> None:
    """An independent implementation, where it is defined: one file per folder applies."""
    import json

    import bids2table

    (tmp_path / "dataset_description.json").write_text("{}")
    folder = tmp_path / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    contents = {
        tmp_path / "dwi.json": {"a": 0, "b": 0, "c": 0, "d": 0},
        tmp_path / "acq-y_dwi.json": {"a": 9},
        tmp_path / "sub-01" / "sub-01_dwi.json": {"b": 1, "c": 1},
        folder / "sub-01_acq-x_dwi.json": {"c": 2},
    }
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    image = folder / "sub-01_acq-x_dwi.nii.gz"
    levels = [tuple(map(file, map(str, p.glob("*dwi.json")))) for p in (tmp_path, folder.parent, folder)]
    merged: dict[str, int] = {}
    for sidecar in inherited(file(str(image)).name, ".json", levels):
        merged |= json.loads(sidecar.path.read_text())
    assert merged == bids2table.load_bids_metadata(image) == {"a": 0, "b": 1, "c": 2, "d": 0}


def test_inheritance_of_two_equally_special_files_is_refused() -> None:
    levels = [tuple(map(file, ("acq-x_dwi.bval", "dir-AP_dwi.bval")))]
    with pytest.raises(DatasetError) as caught:
        inherited(file("sub-01_acq-x_dir-AP_dwi.nii.gz").name, ".bval", levels)
    (problem,) = caught.value.problems
    assert problem.code == "INHERITANCE_AMBIGUOUS"
    assert "acq-x_dwi.bval and dir-AP_dwi.bval" in problem.found
    assert inherited(file("sub-01_acq-x_dwi.nii.gz").name, ".bval", levels)[-1].path.name == "acq-x_dwi.bval"


def test_description_is_read(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('\ufeff{"Name": "a", "BIDSVersion": "1.10.0"}')
    assert bids.read_description(tmp_path)["Name"] == "a"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no such file"),
        ('{"Name": "a"}', "no field BIDSVersion"),
        ("{", "Expecting"),
        ("[]", "no field Name"),
        ("3", "not iterable"),
    ],
)
def test_description_that_is_not_one(tmp_path: Path, text: str | None, found: str) -> None:
    if text is not None:
        (tmp_path / "dataset_description.json").write_text(text)
    with pytest.raises(DatasetError) as caught:
        bids.read_description(tmp_path)
    (problem,) = caught.value.problems
    assert problem.code == "NOT_BIDS"
    assert found in problem.found
    assert problem.severity == "warning"
