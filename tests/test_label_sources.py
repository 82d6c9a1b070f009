"""What the values of label images mean: published numberings, names by the user's rules, probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from somite import images
from somite.errors import DatasetError
from somite.images import Grid
from somite.label_sources import itksnap, nnunet
from somite.label_sources.naming import NameRule, name_labels, segment_of, without_rule
from somite.label_sources.overlap import check_overlap
from somite.label_sources.probseg import read_probabilities
from somite.label_sources.shipped import SHIPPED, about, read_shipped
from somite.segments import Label, Segment, SegmentGroup, expand, label_table_text, read_label_table

GRID = Grid((4, 3, 2), np.diag([2.0, 2.0, 3.0, 1.0]))
SNAP = """\
################################################
# ITK-SnAP Label Description File
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "root L5 left near"
    7     0  255    0     0.50  1  0    "Scar, old"
"""
RULE = NameRule(
    name="root (?P<level>L[3-5]|S1) (?P<side>left|right) (?P<segment>near|mid|far)", region="nerve_root"
)


def codes(error: pytest.ExceptionInfo[DatasetError]) -> list[str]:
    return [problem.code for problem in error.value.problems]


def at(name: str, index: int) -> Segment:
    (label,) = [label for label in read_shipped(name) if label.index == index]  # type: ignore[arg-type]
    return label.segment


@pytest.mark.parametrize(
    ("source", "index", "segment"),
    [
        # TotalSpineSeg: 94, 95, 100 and 2 as in its README; disc_L5_S is that of L5 and the sacrum.
        ("totalspineseg", 94, Segment("disc", "midline", "L3-L4")),
        ("totalspineseg", 95, Segment("disc", "midline", "L4-L5")),
        ("totalspineseg", 100, Segment("disc", "midline", "L5-S1")),
        ("totalspineseg", 96, Segment("disc", "midline", "L5-L6")),
        ("totalspineseg", 71, Segment("disc", "midline", "C7-T1")),
        ("totalspineseg", 91, Segment("disc", "midline", "T12-L1")),
        ("totalspineseg", 2, Segment("canal", "midline")),
        ("totalspineseg", 32, Segment("vertebra", "midline", "T12")),
        ("totalspineseg", 45, Segment("vertebra", "midline", "L5")),
        ("totalspineseg", 46, Segment("vertebra", "midline", "L6")),
        ("totalsegmentator_mr", 40, Segment("gluteus_maximus", "L")),
        ("totalsegmentator_mr", 41, Segment("gluteus_maximus", "R")),
        ("totalsegmentator_mr", 2, Segment("kidney", "R")),
        ("totalsegmentator_mr", 1, Segment("spleen")),
        ("totalsegmentator_mr", 50, Segment("brain")),
        ("totalsegmentator_thigh", 8, Segment("sartorius", "R")),
        ("totalsegmentator_thigh", 18, Segment("triceps_brachii")),
        # Odd is left in the thigh and right in the abdomen, and right again in the brain.
        ("musclemap_thigh", 17, Segment("biceps_femoris_long", "L")),
        ("musclemap_thigh", 22, Segment("adductor_magnus", "R")),
        ("musclemap_abdomen", 1, Segment("multifidus", "R")),
        ("musclemap_abdomen", 6, Segment("psoas_major", "L")),
        ("jhu_icbm_dti_81", 7, Segment("CST", "R")),
        ("jhu_icbm_dti_81", 8, Segment("CST", "L")),
        ("jhu_icbm_dti_81", 1, Segment("MCP", "midline")),
        ("jhu_icbm_dti_81", 19, Segment("PLIC", "R")),
        ("jhu_icbm_dti_81", 26, Segment("SCR", "L")),
        ("jhu_icbm_dti_81", 45, Segment("uncinate", "R")),
        ("jhu_tracts", 3, Segment("CST", "L")),
    ],
)
def test_published_numberings(source: str, index: int, segment: Segment) -> None:
    assert at(source, index) == segment


@pytest.mark.parametrize("source", SHIPPED)
def test_every_numbering_is_whole_and_says_where_it_is_from(source: str) -> None:
    labels = read_shipped(source)  # type: ignore[arg-type]
    segments = {label.segment for label in labels}
    assert len(segments) == len(labels)
    other = {"L": "R", "R": "L"}
    assert all(
        Segment(s.region, other[s.side], s.level, s.segment) in segments for s in segments if s.side in other
    )
    sides = {"left": "L", "right": "R", " L": "L", " R": "R"}
    for label in labels:  # the side in the table is that of the source's own name, where that holds one
        for ending, side in sides.items():
            if label.name.endswith(ending):
                assert label.segment.side == side
    assert all("@" in file for file in about(source)["Files"])  # type: ignore[arg-type]


def test_the_numbers_of_labels_are_those_of_the_sources() -> None:
    counts = {name: len(read_shipped(name)) for name in SHIPPED}
    assert counts == {
        "totalspineseg": 53,
        "totalsegmentator_mr": 50,
        "totalsegmentator_thigh": 18,
        "musclemap_thigh": 28,
        "musclemap_abdomen": 8,
        "jhu_icbm_dti_81": 48,
        "jhu_tracts": 20,
    }


def test_the_protocols_regions_are_in_the_numberings() -> None:
    thigh = {label.segment.region for label in read_shipped("musclemap_thigh")}
    assert thigh >= {
        "gracilis",
        "rectus_femoris",
        "vastus_lateralis",
        "vastus_medialis",
        "vastus_intermedius",
    }
    assert thigh >= {"adductor_magnus", "adductor_longus", "semitendinosus", "semimembranosus", "sartorius"}
    assert "biceps_femoris_long" in thigh
    brain = {label.segment.region for label in read_shipped("jhu_icbm_dti_81")}
    assert brain >= {"CST", "CP", "PLIC", "SCR", "BCC", "cingulum", "SLF", "uncinate"}
    assert brain >= {"SCP", "MCP", "ICP", "GCC", "SCC"}


def test_a_table_reads_back(tmp_path: Path) -> None:
    labels = (Label(1, "a b", Segment("disc", "midline", "L4-L5", "np")), Label(9, "x", Segment("x")))
    path = tmp_path / "t.tsv"
    path.write_text(label_table_text(labels))
    assert read_label_table(path) == labels
    assert path.read_text().splitlines()[2] == "9\tx\tx\tn/a\tn/a\tn/a"


@pytest.mark.parametrize(
    ("near", "mid", "far"),
    [("near", "mid", "far"), ("Proximal", "Mid", "Distal"), ("Iz", "N", "Ez"), ("iz", "n", "ez")],
)
def test_the_zones_of_a_root_have_one_name_each(tmp_path: Path, near: str, mid: str, far: str) -> None:
    path = tmp_path / "t.tsv"
    rows = [f"{i}\tx\tnerve_root\t{zone}" for i, zone in enumerate((near, mid, far), start=1)]
    path.write_text("\n".join(["index\tname\tregion\tsegment", *rows, "4\tx\tgracilis\tproximal"]))
    zones = ["intraspinal", "foraminal_drg", "extraforaminal"]
    assert [label.segment.segment for label in read_label_table(path)] == [*zones, "proximal"]
    group = SegmentGroup(region="nerve_root", segments=(near, mid, far))
    assert [segment.segment for segment in expand([group])] == zones


def test_label_descriptions_of_itksnap(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeff" + SNAP.replace("\n", "\r\n"), encoding="utf-8")
    assert itksnap.read_names(path) == {1: "root L5 left near", 7: "Scar, old"}


@pytest.mark.parametrize(
    ("line", "found"),
    [('1 0 0 0 1 1 1 "again"', "1"), ("8 0 0 0 1 1 1 bare", "8 0"), ('9 0 0 0 1 1 1 " "', "9 0")],
)
def test_mistakes_in_label_descriptions(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(SNAP + line + "\n")
    with pytest.raises(DatasetError) as error:
        itksnap.read_names(path)
    (problem,) = error.value.problems
    assert (problem.code, problem.where) == ("LABEL_TABLE", f"{path}, line 8")
    assert problem.found.startswith(found)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "drg_left": 1, "drg_right": 2, "both": [1, 2], "ignore": 3},
        {"0": "background", "1": "drg_left", "2": "drg_right"},
    ],
)
def test_integers_of_nnunet(tmp_path: Path, labels: dict[str, object]) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": labels}))
    assert nnunet.read_names(path) == {1: "drg_left", 2: "drg_right"}


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"labels": {"a": 1, "b": 1}}', '{"labels": {"a": "one"}}']
)
def test_mistakes_in_dataset_json(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(DatasetError) as error:
        nnunet.read_names(path)
    assert codes(error) == ["LABEL_TABLE"]


def test_names_become_segments_by_rules_and_no_side_is_guessed() -> None:
    disc = NameRule(
        name="disc_(?P<upper>L.)_(?P<lower>..?)", region="disc", side="midline", level=r"\g<upper>-\g<lower>"
    )
    rules = (RULE, disc)
    assert segment_of("root S1 right far", rules) == Segment("nerve_root", "R", "S1", "extraforaminal")
    assert segment_of("disc_L4_L5", rules) == Segment("disc", "midline", "L4-L5")
    assert segment_of("gracilis left", rules) == Segment("gracilis left")
    labels = name_labels({3: "root L5 left mid", 5: "gracilis_L"}, rules, "x")
    assert labels[0] == Label(3, "root L5 left mid", Segment("nerve_root", "L", "L5", "foraminal_drg"))
    assert labels[1].segment == Segment("gracilis_L")
    assert without_rule(labels, rules) == ("gracilis_L",)


def test_a_name_that_makes_no_segment_is_an_error() -> None:
    rules = (NameRule(name="(?P<region>[a-z]+) (?P<side>.*)"),)
    with pytest.raises(DatasetError) as error:
        name_labels({1: "gracilis sinister", 2: "bad__name", 3: "sartorius Left"}, rules, "x.txt")
    assert codes(error) == ["LABEL_NAME"] * 2
    assert "sinister" in error.value.problems[0].found and "label 2" in error.value.problems[1].found


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"name": "(", "region": "x"}, "not a regular expression"),
        ({"name": "x"}, "no region"),
        ({"name": "(?P<levl>L5)", "region": "x"}, "levl"),
        ({"name": "x", "region": "x", "level": r"\g<up>"}, "no group up"),
        ({"name": "(?P<side>L|R)", "region": "x", "side": "L"}, "both as an option and by a group: side"),
    ],
)
def test_mistakes_in_rules(rule: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NameRule(**rule)


def volume(path: Path, data: np.ndarray, grid: Grid = GRID) -> Path:
    return images.write(path, data.astype(np.float32), grid)


def two() -> np.ndarray:
    data = np.zeros((*GRID.shape, 2), np.float32)
    data[0, :, :, 0], data[1, :, :, 0] = 1.0, 0.4
    data[1, :, :, 1], data[2, :, :, 1] = 0.6, 0.25
    return data


PROBS = (Label(2, "right", Segment("CST", "R")), Label(1, "left", Segment("CST", "L")))


def test_probabilities_in_one_image_and_in_an_image_for_each(tmp_path: Path) -> None:
    one = volume(tmp_path / "sub-01_probseg.nii", two())
    found = read_probabilities([one], PROBS)
    assert found.grid.matches(GRID) and not found.percent
    assert found.labels == (Label(1, "right", Segment("CST", "R")), Label(2, "left", Segment("CST", "L")))
    np.testing.assert_array_equal(found.data, two()[..., ::-1])
    each = [
        volume(tmp_path / f"sub-01_label-{name}_probseg.nii", two()[..., i])
        for i, name in enumerate(("left", "right"))
    ]
    again = read_probabilities(each, PROBS)
    np.testing.assert_array_equal(again.data, found.data)
    assert again.labels == found.labels
    percent = read_probabilities([volume(tmp_path / "percent_probseg.nii", 100 * two())], PROBS)
    np.testing.assert_allclose(percent.data, found.data, rtol=1e-6)
    assert percent.percent


def test_what_is_wrong_with_probabilities(tmp_path: Path) -> None:
    def of(data: np.ndarray, labels: tuple[Label, ...] = PROBS) -> list[str]:
        with pytest.raises(DatasetError) as error:
            read_probabilities([volume(tmp_path / "p.nii", data)], labels)
        return codes(error)

    assert of(two() * 255) == ["PROB_RANGE"] * 2
    assert of(np.where(two() == 0.25, np.nan, two())) == ["PROB_RANGE"]
    assert of(two(), PROBS[:1]) == ["PROB_VOLUMES"]
    assert of(two(), (*PROBS, Label(3, "third", Segment("x")))) == ["PROB_VOLUMES"]
    shifted = Grid(GRID.shape, GRID.affine + np.array([[0, 0, 0, 1.0]] + [[0.0] * 4] * 3))
    paths = [
        volume(tmp_path / "label-left_probseg.nii", two()[..., 0]),
        volume(tmp_path / "label-right_probseg.nii", two()[..., 1], shifted),
    ]
    with pytest.raises(DatasetError) as error:
        read_probabilities(paths, PROBS)
    assert codes(error) == ["PROB_GRID"]


def test_labels_that_claim_one_voxel_overlap() -> None:
    one, other = np.zeros(GRID.shape, np.int32), np.zeros(GRID.shape, np.int32)
    one[0], other[1] = 3, 5
    assert check_overlap({"roots": one, "discs": other}, "x") == []
    other[0, 0, 0] = 5
    (problem,) = check_overlap({"roots": one, "discs": other}, "x")
    assert (problem.code, problem.severity) == ("LABEL_OVERLAP", "error")
    assert problem.found == "roots and discs: 1 voxels"
