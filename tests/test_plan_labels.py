"""Which source the plan takes for the labels of a session, and what their voxels show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import skeleton
from skeleton import build, settings

from somite.errors import Problem
from somite.plan import Session, deep_check, make_plan
from somite.segments import Segment, carries

HOME = "derivatives/labels/sub-01/dwi"
IMAGE = f"{HOME}/sub-01_space-dwi_dseg"
SNAP = '0 0 0 0 0 0 0 "Clear Label"\n1 1 1 1 1 1 1 "root L5 left"\n2 1 1 1 1 1 1 "root L5 right"\n'
RULES = [{"name": "root (?P<level>L5) (?P<side>left|right)", "region": "nerve_root"}]
NNUNET = {"labels": {"background": 0, "root L5 left": 1, "root L5 right": 2}}
BOTH = (Segment("nerve_root", "L", "L5"), Segment("nerve_root", "R", "L5"))


def plan(root: Path, deep: bool = False, **sections: Any) -> Session:
    made = make_plan(root, settings(**sections))
    (session,) = (deep_check(made, 1) if deep else made).sessions
    return session


def dataset(root: Path, table: object = None, **files: object) -> Path:
    given = {name.replace("__", "."): content for name, content in files.items()}
    return build(root, {"sub-01/dwi/sub-01_dwi": {"json": {}}, IMAGE: {"table": table}, **given})


def put(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)


def problem_of(problems: tuple[Problem, ...], code: str) -> Problem:
    (problem,) = [problem for problem in problems if problem.code == code]
    return problem


@pytest.mark.parametrize("name", [f"{IMAGE}.txt", f"{IMAGE}.label", "derivatives/labels/dseg.txt"])
def test_label_descriptions_beside_the_labels_or_above(tmp_path: Path, name: str) -> None:
    put(dataset(tmp_path), name, SNAP)
    session = plan(tmp_path, labels={"names": RULES})
    assert not session.errors and session.labels[0].table is None
    assert tuple(label.segment for label in session.label_rows) == BOTH
    (fact,) = session.facts
    assert fact.value == f"itksnap, {Path(name).name}"


@pytest.mark.parametrize("folder", [HOME, "derivatives/labels/sub-01", "derivatives/labels"])
def test_dataset_json_beside_the_labels_or_above(tmp_path: Path, folder: str) -> None:
    put(dataset(tmp_path), f"{folder}/dataset.json", json.dumps(NNUNET))
    session = plan(tmp_path, labels={"source": "nnunet", "names": RULES})
    assert not session.errors and session.labels[0].source == "nnunet"
    assert tuple(label.segment for label in session.label_rows) == BOTH


def test_a_table_goes_before_other_sources(tmp_path: Path) -> None:
    put(dataset(tmp_path, skeleton.TABLE), f"{IMAGE}.txt", SNAP.replace("left", "wrong"))
    session = plan(tmp_path, labels={"names": RULES})
    assert (session.labels[0].source, session.labels[0].table) == ("bids", tmp_path / f"{IMAGE}.tsv")
    assert session.facts == ()
    session = plan(tmp_path, labels={"source": "itksnap"}, roi={"segments": "all"})
    assert session.labels[0].source == "itksnap"


def test_names_without_a_rule_are_told(tmp_path: Path) -> None:
    put(dataset(tmp_path), f"{IMAGE}.txt", SNAP)
    session = plan(tmp_path, roi={"segments": "all"})
    assert [label.segment for label in session.label_rows] == [
        Segment("root L5 left"),
        Segment("root L5 right"),
    ]
    assert session.facts[-1].value == "root L5 left, root L5 right"
    problem = problem_of(plan(tmp_path).errors, "NO_REGION")
    assert "root L5 left" in problem.found


def test_a_file_elsewhere_is_named(tmp_path: Path) -> None:
    put(dataset(tmp_path), "model.json", json.dumps(NNUNET))
    session = plan(tmp_path, labels={"table": "model.json", "names": RULES})
    assert session.labels[0].source == "nnunet" and not session.errors
    problem = problem_of(plan(tmp_path, labels={"table": "absent.json"}).errors, "UNREADABLE")
    assert problem.where == str(tmp_path / "absent.json")


def test_without_any_source_all_of_them_are_named(tmp_path: Path) -> None:
    dataset(tmp_path)
    problem = problem_of(plan(tmp_path).errors, "LABEL_NO_TABLE")
    for word in ("dseg.tsv", "dseg.txt", "dataset.json"):
        assert word in problem.expected
    assert "totalspineseg" in problem.do and "jhu_icbm_dti_81" in problem.do
    problem = problem_of(plan(tmp_path, labels={"source": "itksnap"}).errors, "LABEL_NO_TABLE")
    assert "ITK-SNAP" in problem.expected and "dataset.json" not in problem.expected


def write_voxels(root: Path, *, mirrored: bool = False, **places: tuple[int, int, int]) -> None:
    """A label image of one voxel for each `v<value>`, on the grid of the series about x = 0."""
    data = np.zeros(skeleton.SHAPE, np.int16)
    for name, place in places.items():
        data[place] = int(name[1:])
    affine = np.diag([2.0, 2, 3, 1])
    path = root / f"{IMAGE}.nii.gz"
    nib.save(nib.Nifti1Image(data[::-1] if mirrored else data, affine), path)


LUMBAR = [
    {"region": "disc", "levels": ["L4-L5"], "segments": ["np", "af_anterior"]},
    {"region": "canal", "levels": ["L4-L5"]},
]


def test_the_numbering_of_a_tool_carries_what_is_cut_from_its_labels(tmp_path: Path) -> None:
    """Nucleus and annulus are cut from a disc, and the canal at a level from the whole canal."""
    dataset(tmp_path)
    write_voxels(tmp_path, v95=(2, 2, 1), v2=(2, 0, 1))
    given = {"labels": {"source": "totalspineseg"}, "roi": {"segments": LUMBAR}}
    session = plan(tmp_path, deep=True, **given)
    assert session.problems == ()
    assert (session.labels[0].source, session.roi_source) == ("totalspineseg", "totalspineseg")
    write_voxels(tmp_path, v94=(2, 2, 1), v2=(2, 0, 1))
    problem = problem_of(plan(tmp_path, deep=True, **given).warnings, "REGION_MISSING")
    assert problem.found == "no label for disc midline L4-L5 np, disc midline L4-L5 af_anterior"
    muscle = [{"region": "multifidus", "sides": ["L"]}, *LUMBAR]
    session = plan(tmp_path, labels=given["labels"], roi={"segments": muscle})
    assert problem_of(session.warnings, "REGION_MISSING").found == "no label for multifidus L"


def test_an_image_of_another_version_of_the_tool_is_an_error(tmp_path: Path) -> None:
    """Before, TotalSpineSeg called the disc L4-L5 203 and the canal 201."""
    dataset(tmp_path)
    write_voxels(tmp_path, v203=(2, 2, 1), v201=(2, 0, 1))
    session = plan(tmp_path, deep=True, labels={"source": "totalspineseg"}, roi={"segments": "all"})
    problem = problem_of(session.errors, "LABEL_VALUE")
    assert problem.found == "201, 203" and "version" in problem.do


def test_swapped_sides_are_an_error_of_the_deep_check(tmp_path: Path) -> None:
    dataset(tmp_path, skeleton.TABLE)
    write_voxels(tmp_path, v1=(0, 2, 1), v2=(4, 2, 1))
    assert plan(tmp_path, deep=True).problems == ()
    write_voxels(tmp_path, mirrored=True, v1=(0, 2, 1), v2=(4, 2, 1))
    problem = problem_of(plan(tmp_path, deep=True).errors, "LABEL_SIDES")
    assert "nerve_root L L5 (label 1) at x = 8.0 mm" in problem.found
    assert "nerve_root R L5 (label 2) at x = 0.0 mm" in problem.found


def test_odd_is_left_in_the_thigh_and_right_in_the_abdomen(tmp_path: Path) -> None:
    """One image, two numberings: which of them it has is seen from where its labels lie."""
    dataset(tmp_path)
    write_voxels(tmp_path, v1=(0, 2, 1), v2=(4, 2, 1))
    everything = {"segments": "all"}
    thigh = plan(tmp_path, deep=True, labels={"source": "musclemap_thigh"}, roi=everything)
    assert thigh.problems == ()
    abdomen = plan(tmp_path, deep=True, labels={"source": "musclemap_abdomen"}, roi=everything)
    assert [problem.code for problem in abdomen.errors] == ["LABEL_SIDES"]


def test_transferred_labels_go_before_those_in_another_space_and_bring_their_table(tmp_path: Path) -> None:
    t2w = "derivatives/labels/sub-01/dwi/sub-01_space-T2w_seg-lumbar_desc-manual_dseg"
    build(tmp_path, {"sub-01/dwi/sub-01_dwi": {"json": {}}, t2w: {"table": None}})
    put(tmp_path, f"{t2w}.txt", SNAP)
    given = {"source": "itksnap", "names": RULES}
    before = plan(tmp_path, labels=given)
    assert before.labels[0].path == tmp_path / f"{t2w}.nii.gz" and before.labels[0].source == "itksnap"
    edited = f"{HOME}/sub-01_space-dwi_seg-lumbar_desc-transferred_dseg"
    build(tmp_path, {edited: {}})
    after = plan(tmp_path, labels=given)
    assert after.labels[0].path == tmp_path / f"{edited}.nii.gz" and after.labels[0].transform is None
    assert (after.labels[0].source, after.label_entities["seg"]) == ("bids", "lumbar")
    assert [label.segment for label in after.label_rows] == [label.segment for label in before.label_rows]


def test_a_wider_label_carries_a_part_but_never_a_side() -> None:
    whole = [Segment("multifidus", "R"), Segment("disc", "midline", "L4-L5")]
    assert carries(whole, Segment("multifidus", "R", "L4-L5"))
    assert carries(whole, Segment("disc", "midline", "L4-L5", "np"))
    assert not carries(whole, Segment("multifidus", "L", "L4-L5"))
    assert not carries([Segment("multifidus")], Segment("multifidus", "R"))
    assert not carries([Segment("multifidus", "midline")], Segment("multifidus", "R"))
    assert not carries(whole, Segment("disc", "midline", "L5-S1", "np"))
    assert not carries([Segment("disc", "midline", "L4-L5", "np")], Segment("disc", "midline", "L4-L5"))
