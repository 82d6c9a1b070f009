"""The vocabulary of segments, label tables, and the schema of the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from somite import segments
from somite.errors import DatasetError
from somite.segments import Label, Segment, SegmentGroup

ORDER = """participant_id session_id run site protocol region side level segment metric statistic
value se ci_low ci_high unit n_voxels n_effective volume_mm3 weighting extraction space rater roi_source
model b_used snr fat_fraction qc_status qc_flags reason pipeline_version"""


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels_dseg.tsv"
    path.write_bytes(text.encode(encoding))
    return path


def codes_and_places(error: DatasetError) -> list[tuple[str, str]]:
    return [(problem.code, problem.where.rpartition(", ")[2]) for problem in error.problems]


def test_columns_are_those_of_the_data_model_in_order() -> None:
    assert tuple(ORDER.split()) == segments.COLUMNS


def test_dictionary_describes_every_column_and_is_json() -> None:
    entries = json.loads(json.dumps(segments.dictionary()))
    assert tuple(entries) == segments.COLUMNS
    assert all(entry["Description"] for entry in entries.values())
    assert set(entries["metric"]["Levels"]) == set(segments.METRICS)
    assert set(entries["side"]["Levels"]) == {"L", "R", "midline"}
    assert set(entries["unit"]["Levels"]) == {metric.unit for metric in segments.METRICS.values()}
    for column in ("se", "ci_low", "ci_high"):
        assert "independent" in entries[column]["Description"]


def test_a_group_is_every_combination_level_by_level() -> None:
    group = SegmentGroup(region="nerve_root", sides=("L", "R"), levels=("L4", "L5"), segments=("a", "b"))
    found = group.expand()
    assert found[:3] == (
        Segment("nerve_root", "L", "L4", "a"),
        Segment("nerve_root", "L", "L4", "b"),
        Segment("nerve_root", "R", "L4", "a"),
    )
    assert len(set(found)) == 8
    assert SegmentGroup(region="canal").expand() == (Segment("canal", "midline"),)


def test_expand_holds_a_segment_once() -> None:
    both = SegmentGroup(region="CST", sides=("L", "R"))
    assert segments.expand([both, SegmentGroup(region="CST", sides=("R",))]) == both.expand()


@pytest.mark.parametrize(
    "options",
    [
        {"region": ""},
        {"region": "disc", "side": ["L"]},
        {"region": "disc", "sides": ["left"]},
        {"region": "disc", "sides": []},
        {"region": "nerve__root"},
        {"region": "disc_"},
        {"region": "disc", "levels": ["L4\tL5"]},
    ],
)
def test_a_group_that_names_no_segment_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SegmentGroup.model_validate(options)


def test_label_table_with_all_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "index\tname\tcolor\tregion\tside\tlevel\tsegment\n"
        "0\tbackground\t#000\tn/a\tn/a\tn/a\tn/a\n"
        "7\troot one\t#fff\tnerve_root\tL\tL5\tforaminal_drg\n"
        "3\tcanal\tn/a\tcanal\tmidline\tn/a\t\n",
    )
    assert segments.read_label_table(path) == (
        Label(7, "root one", Segment("nerve_root", "L", "L5", "foraminal_drg")),
        Label(3, "canal", Segment("canal", "midline", "", "")),
    )


def test_without_a_region_the_name_is_the_region_and_no_side_is_guessed(tmp_path: Path) -> None:
    path = write(tmp_path, "index\tname\n1\tCST_R\n2\tCST_L\n")
    assert [label.segment for label in segments.read_label_table(path)] == [
        Segment("CST_R"),
        Segment("CST_L"),
    ]


def test_label_table_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    path = write(tmp_path, "index\tname\tside\r\n1\tcanal \tmidline\r\n\r\n", "utf-8-sig")
    assert segments.read_label_table(path) == (Label(1, "canal", Segment("canal", "midline")),)


def test_labels_of_one_segment_are_joined(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "index\tname\tregion\tside\n5\ta\tdisc\tmidline\n2\tb\tcanal\tmidline\n9\tc\tdisc\tmidline\n",
    )
    assert segments.by_segment(segments.read_label_table(path)) == {
        Segment("disc", "midline"): (5, 9),
        Segment("canal", "midline"): (2,),
    }


@pytest.mark.parametrize(
    ("text", "places", "words"),
    [
        ("", ["line 1", "line 1"], "no column index"),
        ("index,name\n1,a\n", ["line 1", "line 1"], "no column name"),
        ("index\tlabel\n1\ta\n", ["line 1"], "no column name"),
        ("index\tname\tname\n1\ta\tb\n", ["line 1"], "twice"),
        ("index\tname\n1.0\ta\n", ["line 2"], "not a whole number"),
        ("index\tname\n-1\ta\n", ["line 2"], "not a whole number"),
        ("index\tname\n\u0661\ta\n", ["line 2"], "not a whole number"),
        ("index\tname\nn/a\ta\n", ["line 2"], "not a whole number"),
        ("index\tname\n1\ta\n\n1\tb\n", ["line 4"], "given twice"),
        ("index\tname\n1\tn/a\n", ["line 2"], "no name"),
        ("index\tname\tside\n1\ta\tleft\n2\tb\tl\n3\tc\tR\n", ["line 2", "line 3"], "side"),
        ("index\tname\n1\ta\tb\n2\n", ["line 2", "line 3"], "one field per column"),
        ("index\tname\n1\ta__b\n", ["line 2"], "singly"),
        ("index\tname\tlevel\n1\ta\tL5_\n", ["line 2"], "level"),
        ("index\tname\tside\nx\ty_\tz\n", ["line 2"] * 3, "side"),
    ],
)
def test_every_mistake_of_a_label_table_is_named_with_its_line(
    tmp_path: Path, text: str, places: list[str], words: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DatasetError) as caught:
        segments.read_label_table(path)
    assert codes_and_places(caught.value) == [("LABEL_TABLE", place) for place in places]
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_label_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"LABEL_TABLE.*cannot be read"):
        segments.read_label_table(tmp_path / "absent.tsv")
    with pytest.raises(DatasetError, match=r"LABEL_TABLE.*cannot be read"):
        segments.read_label_table(write(tmp_path, "index\tname\n1\tm\u00fcscle\n", "latin-1"))


def test_numbers_are_short_and_tell_all_float32_apart() -> None:
    bits = np.random.default_rng(0).integers(0, 2**31 - 2**23, 2000, dtype=np.int64).astype(np.int32)
    for value in bits.view(np.float32):
        text = segments.field_text(value)
        assert np.float32(text) == value
        assert segments.field_text(float(text)) == text
    assert [segments.field_text(v) for v in (0.25, 1 / 3, -0.0, 12, np.int64(3))] == [
        "0.25",
        "0.333333333",
        "0",
        "12",
        "3",
    ]


@pytest.mark.parametrize("absent", ["", " ", None, float("nan"), np.float32("nan")])
def test_what_is_absent_is_written_as_bids_does(absent: object) -> None:
    assert segments.field_text(absent) == "n/a"


def test_write_table(tmp_path: Path) -> None:
    path = segments.write_table(tmp_path / "t.tsv", [{"region": "psoas\tmajor\n", "value": 0.5}, {}])
    lines = path.read_bytes().decode().split("\n")
    assert lines[0] == "\t".join(segments.COLUMNS)
    first = dict(zip(segments.COLUMNS, lines[1].split("\t"), strict=True))
    assert (first.pop("region"), first.pop("value")) == ("psoas major", "0.5")
    assert set(first.values()) == {"n/a"}
    assert lines[2].split("\t") == ["n/a"] * len(segments.COLUMNS)
    assert lines[3:] == [""]


def test_write_table_refuses_a_column_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="volume"):
        segments.write_table(tmp_path / "t.tsv", [{"volume": 1.0}])
