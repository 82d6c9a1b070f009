"""Which images tell the distortion of a session: found by direction, told as facts, problems as warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from skeleton import SEGMENTS, build, image_bytes

from somite.configs.model import settings_model
from somite.plan import Session, make_plan
from somite.registry import discover
from somite.workflows import participant

J = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}
J_MINUS = J | {"PhaseEncodingDirection": "j-"}
AP, PA = "sub-01/dwi/sub-01_dir-AP_dwi", "sub-01/dwi/sub-01_dir-PA_dwi"
EPI = "sub-01/fmap/sub-01_dir-PA_epi"


def settings(**sections: Any) -> Any:
    steps = discover()
    names = ("load", "mask", "roi", "susceptibility", "tensor")
    sections = {"roi": {"segments": SEGMENTS}, **sections}
    return settings_model({name: steps[name] for name in names})(protocol="test", **sections)


def planned(root: Path, files: dict[str, Any], **sections: Any) -> dict[str, Session]:
    """Label -> session; `*_epi` is an image of the given sidecar, 3D unless its value has `volumes`."""
    build(root, {name: content for name, content in files.items() if not name.endswith("_epi")})
    for name, content in files.items():
        if name.endswith("_epi"):
            content = dict(content)
            shape = content.pop("shape", (5, 4, 3))
            path = root / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes(tuple(shape), (2, 2, 3), (0, 0, 0), ".nii.gz"))
            (root / f"{name}.json").write_text(json.dumps(content))
    return {session.label: session for session in make_plan(root, settings(**sections)).sessions}


def fact(session: Session) -> tuple[str, str]:
    (found,) = [fact for fact in session.facts if fact.name == "susceptibility correction"]
    return found.value, found.reason


def codes(session: Session) -> list[str]:
    return [problem.code for problem in session.problems if problem.code != "NO_LABELS"]


def test_another_series_of_the_opposite_direction_serves(tmp_path: Path) -> None:
    sessions = planned(tmp_path, {AP: {"json": J_MINUS}, PA: {"json": J, "b": (0, 0, 800, 800, 800, 800)}})
    (image,) = sessions["sub-01_dir-AP"].opposed or ()
    assert image.path.name == "sub-01_dir-PA_dwi.nii.gz" and image.b0_volumes == (0, 1)
    assert (image.phase_encoding_direction, image.total_readout_time_s) == ("j", 0.05)
    (back,) = sessions["sub-01_dir-PA"].opposed or ()
    assert back.path.name == "sub-01_dir-AP_dwi.nii.gz" and back.b0_volumes == (0,)
    assert fact(sessions["sub-01_dir-AP"])[0] == "sub-01_dir-PA_dwi.nii.gz"
    assert codes(sessions["sub-01_dir-AP"]) == []


def test_a_group_of_both_directions_needs_nothing_else(tmp_path: Path) -> None:
    files = {AP: {"json": J_MINUS}, PA: {"json": J}}
    session = planned(tmp_path / "a", files, runs={"combine": "all_pe"})["sub-01"]
    assert session.opposed == () and "itself" in fact(session)[1] and codes(session) == []
    without = planned(tmp_path / "b", files, runs={"combine": "all_pe"}, susceptibility={"method": "none"})[
        "sub-01"
    ]
    assert without.opposed is None and codes(without) == ["SERIES_PE_OPPOSED"]
    assert not [f for f in without.facts if f.name == "susceptibility correction"]


@pytest.mark.parametrize(
    ("links", "dwi", "words"),
    [
        ({"IntendedFor": ["dwi/sub-01_dir-AP_dwi.nii.gz"]}, {}, "IntendedFor names"),
        ({"IntendedFor": "bids::sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"}, {}, "IntendedFor names"),
        ({"B0FieldIdentifier": "pepolar0"}, {"B0FieldSource": "pepolar0"}, "B0FieldSource"),
        ({}, {}, "the only ones"),
    ],
)
def test_field_maps_belong_to_a_series_by_their_links(
    tmp_path: Path, links: dict[str, Any], dwi: dict[str, Any], words: str
) -> None:
    session = planned(tmp_path, {AP: {"json": J_MINUS | dwi}, EPI: J | links})["sub-01_dir-AP"]
    (image,) = session.opposed or ()
    assert image.path.name == "sub-01_dir-PA_epi.nii.gz" and image.b0_volumes == (0,)
    assert words in fact(session)[1] and codes(session) == []
    # What links images names persons: it is not kept.
    assert not {"IntendedFor", "B0FieldSource"} & set(session.series[0].metadata)


def test_a_field_map_of_another_series_does_not_serve(tmp_path: Path) -> None:
    epi = J | {"IntendedFor": ["dwi/sub-01_acq-other_dwi.nii.gz"]}
    session = planned(tmp_path, {AP: {"json": J_MINUS}, EPI: epi})["sub-01_dir-AP"]
    assert session.opposed is None and fact(session)[0] == "none" and codes(session) == []


def test_an_image_of_the_same_direction_does_not_serve(tmp_path: Path) -> None:
    session = planned(tmp_path, {AP: {"json": J_MINUS}, EPI: J_MINUS})["sub-01_dir-AP"]
    assert session.opposed is None and fact(session)[0] == "none"


def test_a_field_map_of_several_volumes_is_all_b0_unless_b_values_say_otherwise(tmp_path: Path) -> None:
    files = {AP: {"json": J_MINUS}, EPI: J | {"shape": (5, 4, 3, 3)}}
    session = planned(tmp_path / "a", files)["sub-01_dir-AP"]
    assert [image.b0_volumes for image in session.opposed or ()] == [(0, 1, 2)]
    session = planned(tmp_path / "b", files | {f"{EPI}.bval": "0 800 0\n"})["sub-01_dir-AP"]
    assert [image.b0_volumes for image in session.opposed or ()] == [(0, 2)]


def test_nothing_to_pair_is_a_fact(tmp_path: Path) -> None:
    session = planned(tmp_path, {AP: {"json": J_MINUS}})["sub-01_dir-AP"]
    assert session.opposed is None and fact(session)[0] == "none" and codes(session) == []


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({AP: {"json": J_MINUS}, PA: {"json": {"TotalReadoutTime": 0.05}}}, "PAIR_PE_UNKNOWN"),
        ({AP: {}, PA: {"json": J}}, "PAIR_PE_UNKNOWN"),
        ({AP: {"json": J_MINUS}, PA: {"json": {"PhaseEncodingDirection": "j"}}}, "READOUT_ONE_SIDED"),
        ({AP: {"json": J_MINUS}, PA: {"json": J, "voxel": (2, 2, 4)}}, "OPPOSED_GRID"),
        ({AP: {"json": J_MINUS}, EPI: {**J, "shape": (5, 4, 4)}}, "OPPOSED_GRID"),
    ],
)
def test_a_pair_that_cannot_be_used_is_a_warning(tmp_path: Path, files: dict[str, Any], code: str) -> None:
    session = planned(tmp_path, files)["sub-01_dir-AP"]
    (problem,) = [p for p in session.problems if p.code == code]
    assert problem.severity == "warning" and "not corrected" in problem.what and problem.do
    assert session.opposed is None and not session.errors


def test_without_readout_times_the_field_is_in_voxels_and_says_so(tmp_path: Path) -> None:
    directions = ({"PhaseEncodingDirection": "j-"}, {"PhaseEncodingDirection": "j"})
    session = planned(tmp_path, {AP: {"json": directions[0]}, PA: {"json": directions[1]}})["sub-01_dir-AP"]
    assert codes(session) == ["READOUT_UNKNOWN"]
    assert [image.total_readout_time_s for image in session.opposed or ()] == [None]


def test_the_unit_gives_the_files_and_what_they_are(tmp_path: Path) -> None:
    root = tmp_path / "data"
    planned(root, {AP: {"json": J_MINUS}, EPI: J})
    chosen = settings()
    place = participant.Place(make_plan(root, chosen), chosen, tmp_path / "out", tmp_path / "work")
    (session,) = place.plan.sessions
    unit = participant._unit(session, place, lambda _: ())
    assert [path.name for path in unit.files["opposed"] or ()] == ["sub-01_dir-PA_epi.nii.gz"]  # type: ignore[union-attr]
    assert json.loads(str(unit.texts["pairing"])) == {
        "opposed": [
            {
                "name": "sub-01_dir-PA_epi",
                "phase_encoding_direction": "j",
                "total_readout_time_s": 0.05,
                "b0_volumes": [0],
            }
        ]
    }
