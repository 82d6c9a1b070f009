"""Plans: what is grouped with what over skeletons of datasets, what holds for all of them, and bad inputs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import skeleton
from skeleton import build, settings

from somite.bids import stem
from somite.dataset.deep import deep_check
from somite.errors import Problem
from somite.plan import Plan, Session, make_plan

COMBINE = ("none", "same_pe", "all_pe")


def problem_of(problems: tuple[Problem, ...], code: str) -> Problem:
    found = [problem for problem in problems if problem.code == code]
    assert len(found) == 1, [str(problem) for problem in problems]
    return found[0]


def only(plan: Plan, label: str = "sub-01") -> Session:
    return {session.label: session for session in plan.sessions}[label]


# Skeletons


def cases() -> list[Any]:
    return [
        pytest.param(name, number, id=f"{name}-{number}")
        for name in skeleton.names()
        for number in range(len(skeleton.load(name).plans))
    ]


@pytest.mark.parametrize(("name", "number"), cases())
def test_skeleton_is_planned_as_its_yaml_says(tmp_path: Path, name: str, number: int) -> None:
    dataset = skeleton.load(name)
    root = build(tmp_path / "data", dataset.files)
    wanted = dataset.plans[number]
    plan = make_plan(
        root,
        settings(**wanted.get("settings", {})),
        wanted.get("participants"),
        wanted.get("ask_sessions"),
    )
    sessions = {session.label: session for session in plan.sessions}
    assert {k: [one.dwi.name for one in s.series] for k, s in sessions.items()} == wanted["sessions"]
    for key, seen in _seen(plan, root).items():
        for label, expected in wanted.get(key, {}).items():
            assert seen[label] == expected, (key, label)
    for path, reason in wanted.get("left_out", {}).items():
        assert {k: v for k, v in _left_out(plan, root).items() if k == path}[path].startswith(reason)
    assert len(plan.left_out) == len(wanted.get("left_out", {}))
    if wanted.get("problems") == {}:
        assert not any(session.problems for session in plan.sessions)


def _seen(plan: Plan, root: Path) -> dict[str, dict[str, Any]]:
    def name(path: Path | None) -> str | None:
        return None if path is None else path.name

    sessions = {session.label: session for session in plan.sessions}
    return {
        "labels": {k: name(s.labels[0].path if s.labels else None) for k, s in sessions.items()},
        "tables": {k: name(s.labels[0].table if s.labels else None) for k, s in sessions.items()},
        "transforms": {k: name(s.labels[0].transform if s.labels else None) for k, s in sessions.items()},
        "masks": {k: name(s.mask) for k, s in sessions.items()},
        "bvals": {k: name(s.series[0].bval) for k, s in sessions.items()},
        "metadata": {k: s.series[0].metadata for k, s in sessions.items()},
        "facts": {k: [fact.name for fact in s.facts] for k, s in sessions.items()},
        "errors": {k: [problem.code for problem in s.errors][:2] for k, s in sessions.items()},
        "problems": {k: [problem.code for problem in s.problems] for k, s in sessions.items()}
        | {"dataset": [problem.code for problem in plan.problems]},
    }


def _left_out(plan: Plan, root: Path) -> dict[str, str]:
    return {fact.name.removeprefix(f"{root}/"): fact.reason for fact in plan.left_out}


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("name", skeleton.names())
def test_what_holds_for_every_plan(tmp_path: Path, name: str, combine: str) -> None:
    root = build(tmp_path / "data", skeleton.load(name).files)
    before = snapshot(root)
    chosen = settings(runs={"combine": combine})
    plan = make_plan(root, chosen)

    assert snapshot(root) == before, "a plan changes nothing"
    assert make_plan(root, chosen) == plan, "a plan is the same each time"
    series = [str(one.dwi.relative_to(root)) for session in plan.sessions for one in session.series]
    left_out = list(_left_out(plan, root))
    there = [
        str(path.relative_to(root))
        for path in root.glob("sub-*/**/*dwi*.nii*")
        if "derivatives" not in path.parts and not path.name.startswith(".")
    ]
    for path in there:
        named = [out for out in left_out if path == out or path.startswith(out + "/")]
        assert series.count(path) + len(named) == 1, f"{path} is in one session, or left out with a reason"
    assert set(series) <= set(there)

    labels = [session.label for session in plan.sessions]
    assert len(set(labels)) == len(labels)
    assert labels == sorted(labels, key=lambda label: label.split("_")[0])
    for session in plan.sessions:
        assert re.fullmatch(r"[0-9A-Za-z+_-]+", session.label)
        assert session.label.startswith(session.folder.removesuffix("/dwi").replace("/", "_"))
        assert session.label.endswith(session.run_label)
        if not session.errors:
            assert all(one.bval and one.bvec and one.n_volumes and one.shells for one in session.series)
    for problem in [*plan.problems, *(p for session in plan.sessions for p in session.problems)]:
        assert problem.what
        assert problem.found
        assert problem.expected
        assert problem.do


def test_plan_does_not_depend_on_where_the_dataset_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = skeleton.load("split_shells").files
    plans = []
    for folder in ("a", "b.c [1]"):
        root = build(tmp_path / folder, files)
        monkeypatch.chdir(tmp_path)
        plan = make_plan(Path(folder), settings(runs={"combine": "same_pe"}))
        assert plan.bids_dir == root
        plans.append([(s.label, [one.dwi.relative_to(root) for one in s.series]) for s in plan.sessions])
    assert plans[0] == plans[1]
    assert plans[0]


# What the records say


def test_a_session_knows_its_scan(tmp_path: Path) -> None:
    sidecar = {
        "EchoTime": 0.07,
        "PhaseEncodingDirection": "j-",
        "SliceTiming": [0, 1, 0.5],
        "PatientName": "Doe^Jane",
        "AcquisitionTime": "10:00",
    }
    series = {"b": [0, 0, *[795, 800, 805] * 2, *[2000] * 7], "json": sidecar, "origin": [1, 2, 3]}
    build(tmp_path, {"sub-01/ses-a/dwi/sub-01_ses-a_acq-x_dwi": series})
    session = only(make_plan(tmp_path, settings()), "sub-01_ses-a_acq-x")
    (one,) = session.series
    assert (session.participant, session.session, session.entities) == ("01", "a", {"acq": "x"})
    assert (session.folder, session.run_label) == ("sub-01/ses-a/dwi", "acq-x")
    assert one.metadata == {k: sidecar[k] for k in ("EchoTime", "PhaseEncodingDirection", "SliceTiming")}
    assert (one.shape, one.n_volumes) == (skeleton.SHAPE, 15)
    assert one.grid is not None
    np.testing.assert_array_equal(one.grid.affine, [[2, 0, 0, 1], [0, 2, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    assert [(s.b, s.volumes, s.directions) for s in one.shells] == [(0, 2, 0), (800, 6, 6), (2000, 7, 7)]


def test_labels_say_their_source_and_rater(tmp_path: Path) -> None:
    build(tmp_path, skeleton.load("plain").files)
    session = only(make_plan(tmp_path, settings()))
    assert (session.roi_source, session.rater) == ("manual", "")
    given = {"roi_source": "nnU-Net 2", "rater": "A. B."}
    session = only(make_plan(tmp_path, settings(labels=given)))
    assert (session.roi_source, session.rater) == ("nnU-Net 2", "A. B.")


def test_one_direction_in_two_storage_orders_is_one_group(tmp_path: Path) -> None:
    """A scan stored back to front has the other polarity along its voxel axis: it is the same direction."""
    build(tmp_path, {"sub-01/dwi/sub-01_run-1_dwi": {"json": {"PhaseEncodingDirection": "j-"}}})
    home = tmp_path / "sub-01" / "dwi"
    image = nib.load(home / "sub-01_run-1_dwi.nii.gz")
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = image.shape[1] - 1
    flipped = nib.Nifti1Image(np.asarray(image.dataobj)[:, ::-1], image.affine @ flip)
    nib.save(flipped, home / "sub-01_run-2_dwi.nii.gz")
    for kind in ("bval", "bvec"):
        shutil.copy(home / f"sub-01_run-1_dwi.{kind}", home / f"sub-01_run-2_dwi.{kind}")
    (home / "sub-01_run-2_dwi.json").write_text('{"PhaseEncodingDirection": "j"}')
    plan = make_plan(tmp_path, settings(runs={"combine": "same_pe"}))
    assert [session.label for session in plan.sessions] == ["sub-01"]
    assert not only(plan).errors


def cohort_files(**odd: Any) -> dict[str, Any]:
    usual = {"json": {"EchoTime": 0.07, "RepetitionTime": 5, "PhaseEncodingDirection": "j-"}}
    files = {f"sub-{n:02d}/dwi/sub-{n:02d}_dwi": usual for n in range(1, 8)}
    return files | {"sub-04/dwi/sub-04_dwi": {**usual, **odd}}


@pytest.mark.parametrize(
    ("odd", "parameter", "usual", "found"),
    [
        ({"voxel": [2.5, 2, 3]}, "voxel (mm)", "2 x 2 x 3", "2.5 x 2 x 3"),
        ({"shape": [6, 4, 3]}, "matrix", "5 x 4 x 3", "6 x 4 x 3"),
        ({"json": {"EchoTime": 0.08}}, "TE (ms)", "70", "80"),
        ({"json": {"EchoTime": 0.07, "RepetitionTime": 6}}, "TR (ms)", "5000", "6000"),
        ({"b": [0, *[1000] * 6]}, "b-values (s/mm2)", "0, 800", "0, 1000"),
        ({"b": [0, *[800] * 8]}, "directions", "6", "8"),
        ({"json": {"PhaseEncodingDirection": "j"}}, "phase encoding", "AP", "PA"),
        ({"json": None}, "TE (ms)", "70", "not known"),
    ],
)
def test_the_odd_one_of_a_cohort_is_named(
    tmp_path: Path, odd: dict[str, Any], parameter: str, usual: str, found: str
) -> None:
    build(tmp_path, cohort_files(**odd))
    table = {deviation.parameter: deviation for deviation in make_plan(tmp_path, settings()).deviations}
    assert len(table) == 7
    assert table[parameter].cells() == (parameter, usual, "6 of 7", f"{found}: sub-04")


def test_a_cohort_of_one_protocol_has_no_odd_one(tmp_path: Path) -> None:
    build(tmp_path, cohort_files())
    table = make_plan(tmp_path, settings()).deviations
    assert {(deviation.cells()[2], deviation.cells()[3]) for deviation in table} == {("7 of 7", "")}


def test_reversed_series_are_compared_among_themselves(tmp_path: Path) -> None:
    files = {}
    for n in range(1, 4):
        files[f"sub-0{n}/dwi/sub-0{n}_dir-AP_dwi"] = {"json": {"EchoTime": 0.07}}
        files[f"sub-0{n}/dwi/sub-0{n}_dir-PA_dwi"] = {"json": {"EchoTime": 0.08 if n == 2 else 0.075}}
    table = {d.parameter: d for d in make_plan(build(tmp_path, files), settings()).deviations}
    assert table["TE (ms), dir-AP"].others == ()
    assert table["TE (ms), dir-PA"].others == (("80", ("sub-02_dir-PA",)),)


def test_shells_of_joined_series_are_put_together(tmp_path: Path) -> None:
    root = build(tmp_path, skeleton.load("split_shells").files)
    table = {d.parameter: d.mode for d in make_plan(root, settings(runs={"combine": "all_pe"})).deviations}
    assert table["b-values (s/mm2)"] == "0, 800, 2000"
    assert table["directions"] == "6, 6"
    assert table["phase encoding"] == "PA + AP"
    alone = settings(runs={"filter": {"acq": "b0"}})
    table = {d.parameter: d.mode for d in make_plan(root, alone).deviations}
    assert (table["b-values (s/mm2)"], table["directions"]) == ("0", "0")


def test_runs_that_nobody_else_has_are_compared_with_the_most(tmp_path: Path) -> None:
    build(tmp_path, {f"sub-0{n}/dwi/sub-0{n}_dwi": {"json": {"EchoTime": 0.07}} for n in (1, 2, 3)})
    build(tmp_path, {"sub-04/dwi/sub-04_run-1_dwi": {"json": {"EchoTime": 0.08}}})
    table = {d.parameter: d for d in make_plan(tmp_path, settings()).deviations}
    assert table["TE (ms)"].cells() == ("TE (ms)", "70", "3 of 4", "80: sub-04_run-1")


# Bad inputs: one participant is bad, the other is planned as if nothing were


GOOD = {
    "sub-02/dwi/sub-02_dwi": None,
    "derivatives/labels/sub-02/dwi/sub-02_space-dwi_dseg": None,
}
SERIES, LABELS = "sub-01/dwi/sub-01_dwi", "derivatives/labels/sub-01/dwi/sub-01_space-dwi_dseg"
HEADER = "index\tname\tregion\tside\tlevel\n"
BAD: dict[str, tuple[Mapping[str, Any], str, dict[str, str]]] = {
    "no bval": ({SERIES: {"without": ["bval"]}}, "NO_BVAL", {"where": "sub-01_dwi.bval"}),
    "no bvec": ({SERIES: {"without": ["bvec"]}}, "NO_BVEC", {"where": "sub-01_dwi.bvec"}),
    "wrong count": (
        {SERIES: None, SERIES + ".bval": "0 800 800 800 800 800\n"},
        "GRADIENT_COUNT",
        {"where": "sub-01_dwi.bval", "found": "6 b-values", "expected": "7 volumes"},
    ),
    "transposed": (
        {SERIES: None, SERIES + ".bvec": "0 0 0\n1 0 0\n0 1 0\n0 0 1\n.6 .8 0\n.6 0 .8\n0 .6 .8\n"},
        "BVEC_TRANSPOSED",
        {"do": "transpose"},
    ),
    "not unit": (
        {SERIES: None, SERIES + ".bvec": "0 2 0 0 1 1 0\n0 0 2 0 1 0 1\n0 0 0 2 0 1 1\n"},
        "BVEC_NOT_UNIT",
        {"found": "length"},
    ),
    "units": ({SERIES: {"b": [0, *[8e8] * 6]}}, "BVAL_UNITS", {"do": "1,000,000"}),
    "wrapped": ({SERIES: {"b": [0, *[-536] * 6]}}, "BVAL_WRAPPED", {"found": "-536"}),
    "not numbers": (
        {SERIES: None, SERIES + ".bval": "0 800 eight\n"},
        "GRADIENT_UNREADABLE",
        {"found": "eight", "where": "line 1"},
    ),
    "no b0": ({SERIES: {"b": [800] * 7}}, "NO_B0", {"found": "800"}),
    "few directions": ({SERIES: {"b": [0, *[800] * 5]}}, "FEW_DIRECTIONS", {"found": "5 distinct"}),
    "sidecar broken": (
        {SERIES: {"json": '{"EchoTime": 0.07,'}},
        "SIDECAR_UNREADABLE",
        {"where": "sub-01_dwi.json", "expected": "JSON object"},
    ),
    "sidecar in ms": (
        {SERIES: {"json": {"EchoTime": 70}}},
        "SIDECAR_INVALID",
        {"where": "EchoTime", "found": "70", "do": "seconds"},
    ),
    "two sidecars": (
        {
            "sub-01/dwi/sub-01_acq-x_dir-AP_dwi": None,
            "sub-01/dwi/sub-01_acq-x_dwi.json": {},
            "sub-01/dwi/sub-01_dir-AP_dwi.json": {},
        },
        "INHERITANCE_AMBIGUOUS",
        {"found": "sub-01_acq-x_dwi.json and sub-01_dir-AP_dwi.json"},
    ),
    "not NIfTI": (
        {SERIES: {"without": ["image"]}, SERIES + ".nii.gz": "a text, no image\n" * 9},
        "IMAGE_UNREADABLE",
        {"where": "sub-01_dwi.nii.gz"},
    ),
    "empty file": (
        {SERIES: {"without": ["image"]}, SERIES + ".nii.gz": ""},
        "IMAGE_UNREADABLE",
        {"where": "sub-01_dwi.nii.gz"},
    ),
    "label grid": (
        {SERIES: None, LABELS: {"voxel": [2, 2, 2]}},
        "LABEL_GRID",
        {"where": "dseg.nii.gz", "found": "2 x 2 x 2 mm", "expected": "2 x 2 x 3 mm", "do": "transform"},
    ),
    "label shifted": ({SERIES: None, LABELS: {"origin": [0, 0, 1]}}, "LABEL_GRID", {"found": "1.00"}),
    "label in T2w space": (
        {SERIES: None, LABELS.replace("space-dwi", "space-T2w"): {"shape": [9, 9, 9]}},
        "ANATOMY_MISSING",
        {"expected": "sub-01_T2w.nii.gz", "do": "from-T2w_to-dwi"},
    ),
    "label 4D": ({SERIES: None, LABELS: {"shape": [5, 4, 3, 2]}}, "LABEL_GRID", {"found": "5 x 4 x 3 x 2"}),
    "label without table": (
        {SERIES: None, LABELS: {"table": None}},
        "LABEL_NO_TABLE",
        {"where": "dseg.nii.gz", "expected": "sub-01_space-dwi_dseg.tsv", "do": "index and name"},
    ),
    "table without index": (
        {SERIES: None, LABELS: {"table": "name\tregion\na\tb\n"}},
        "LABEL_TABLE",
        {"where": "line 1", "expected": "index"},
    ),
    "table with a text for an index": (
        {SERIES: None, LABELS: {"table": HEADER + "one\ta\tnerve_root\tL\tL5\n"}},
        "LABEL_TABLE",
        {"where": "line 2", "found": "one"},
    ),
    "table with an index twice": (
        {SERIES: None, LABELS: {"table": HEADER + "1\ta\tnerve_root\tL\tL5\n1\tb\tnerve_root\tR\tL5\n"}},
        "LABEL_TABLE",
        {"where": "line 3", "found": "1", "expected": "once"},
    ),
    "no region": (
        {SERIES: None, LABELS: {"table": HEADER + "1\ta\tdisc\tmidline\tL4-L5\n"}},
        "NO_REGION",
        {"found": "disc midline L4-L5", "expected": "nerve_root L L5, nerve_root R L5"},
    ),
    "two label images": (
        {SERIES: None, LABELS: None, LABELS.replace("_dseg", "_desc-b_dseg"): None},
        "LABEL_AMBIGUOUS",
        {"found": "sub-01_space-dwi_desc-b_dseg.nii.gz", "do": "labels: filter:"},
    ),
    "label image in two formats": (
        {SERIES: None, LABELS: None, LABELS + ".nii": "a copy"},
        "DUPLICATE_NAME",
        {"found": "sub-01_space-dwi_dseg.nii, sub-01_space-dwi_dseg.nii.gz"},
    ),
    "misfiled": (
        {"sub-01/dwi/sub-07_dwi": None},
        "NAME_FOLDER",
        {"found": "sub-07", "expected": "sub-01"},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_is_named_and_stops_only_its_session(tmp_path: Path, case: str) -> None:
    files, code, texts = BAD[case]
    build(tmp_path, {**GOOD, **files})
    plan = make_plan(tmp_path, settings())
    bad, good = plan.sessions
    assert good.label == "sub-02"
    assert not good.problems
    assert bad.participant == "01"
    problem = problem_of(bad.errors, code)
    for field, text in texts.items():
        assert text in getattr(problem, field), str(problem)
    assert not plan.problems


def edit_image(path: Path, data: np.ndarray | None = None, affine: np.ndarray | None = None) -> None:
    image = nib.load(path)
    voxels = np.asarray(image.dataobj) if data is None else data
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A dataset of two participants without a problem."""
    build(tmp_path, {**GOOD, SERIES: None, LABELS: None})
    assert not any(session.problems for session in make_plan(tmp_path, settings()).sessions)
    return tmp_path


def bad_of(root: Path, **sections: Any) -> tuple[Problem, ...]:
    plan = make_plan(root, settings(**sections))
    assert not only(plan, "sub-02").problems
    return only(plan).problems


def test_3d_image(good: Path) -> None:
    edit_image(good / f"{SERIES}.nii.gz", np.zeros((5, 4, 3), np.int16))
    problem = problem_of(bad_of(good), "NOT_4D")
    assert problem.found == "5 x 4 x 3"
    assert "four axes" in problem.expected


def test_affine_that_places_nothing(good: Path) -> None:
    content = bytearray(nib.load(good / f"{SERIES}.nii.gz").to_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (good / f"{SERIES}.nii").write_bytes(content)
    (good / f"{SERIES}.nii.gz").unlink()
    assert "affine" in problem_of(bad_of(good), "AFFINE_SINGULAR").found


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_truncated_gzip_is_seen_without_reading_the_voxels(good: Path, kept: float) -> None:
    path = good / f"{SERIES}.nii.gz"
    rng = np.random.default_rng(1)
    edit_image(path, rng.integers(0, 30000, (*skeleton.SHAPE, 7)).astype(np.int16))
    assert not bad_of(good)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    problem = problem_of(bad_of(good), "GZIP_TRUNCATED")
    assert problem.where == str(path)
    assert "cut off" in problem.found


def test_gzip_of_two_members_is_whole(good: Path) -> None:
    """The end of such a file tells the length of its last member only."""
    import gzip

    path = good / f"{SERIES}.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    assert not bad_of(good)


def test_truncated_uncompressed_image(good: Path) -> None:
    content = nib.load(good / f"{SERIES}.nii.gz").to_bytes()
    (good / f"{SERIES}.nii.gz").unlink()
    (good / f"{SERIES}.nii").write_bytes(content[:-10])
    problem = problem_of(bad_of(good), "IMAGE_UNREADABLE")
    assert (problem.found, problem.expected) == (
        f"{len(content) - 10} bytes",
        f"{len(content)} bytes, from its header",
    )


def test_two_files_for_one_image(good: Path) -> None:
    (good / f"{SERIES}.nii").write_bytes(nib.load(good / f"{SERIES}.nii.gz").to_bytes())
    for combine in COMBINE:
        problem = problem_of(bad_of(good, runs={"combine": combine}), "DUPLICATE_NAME")
        assert problem.found == "sub-01_dwi.nii, sub-01_dwi.nii.gz"
        assert "remove the copy" in problem.do


def test_content_that_was_not_fetched(good: Path) -> None:
    path = good / f"{SERIES}.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/absent")
    problem = problem_of(bad_of(good), "UNREADABLE")
    assert problem.found == "a link to a file that is not there"
    assert "datalad get" in problem.do


def test_all_mistakes_of_a_session_are_told_at_once(good: Path) -> None:
    (good / f"{SERIES}.bval").unlink()
    (good / f"{SERIES}.json").write_text("{")
    (good / f"{LABELS}.tsv").unlink()
    edit_image(good / f"{LABELS}.nii.gz", affine=np.eye(4))
    codes = [problem.code for problem in bad_of(good)]
    assert codes == ["SIDECAR_UNREADABLE", "NO_BVAL", "LABEL_NO_TABLE", "LABEL_GRID"]


def test_no_labels_is_a_warning(good: Path) -> None:
    (good / f"{LABELS}.nii.gz").unlink()
    session = only(make_plan(good, settings()))
    assert not session.errors
    problem = problem_of(session.warnings, "NO_LABELS")
    assert "sub-01_space-dwi_dseg.nii.gz" in problem.expected
    assert "maps are made" in problem.what


def test_labels_that_do_not_apply_are_named(good: Path) -> None:
    problem = problem_of(
        only(make_plan(good, settings(labels={"filter": {"desc": "x"}}))).problems, "NO_LABELS"
    )
    assert "sub-01_space-dwi_dseg.nii.gz, none of which applies" in problem.found


def test_no_folder_of_labels(good: Path) -> None:
    plan = make_plan(good, settings(labels={"folder": "elsewhere"}))
    problem = problem_of(plan.problems, "NO_LABELS")
    assert problem.severity == "warning"
    assert problem.where == str(good / "elsewhere")
    assert [s.warnings[0].code for s in plan.sessions] == ["NO_LABELS", "NO_LABELS"]


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ({"masks": {"folder": "elsewhere"}}, "NO_MASKS"),
        ({"labels": {"transforms": "elsewhere"}}, "NO_TRANSFORMS"),
    ],
)
def test_a_folder_that_the_configuration_names_must_be_there(
    good: Path, section: dict[str, Any], code: str
) -> None:
    assert problem_of(make_plan(good, settings(**section)).problems, code).severity == "error"


def test_mask_on_another_grid(good: Path) -> None:
    build(good, {"masks/sub-01/dwi/sub-01_mask": {"voxel": [1, 1, 1]}, "masks/sub-02/dwi/sub-02_mask": None})
    problem = problem_of(bad_of(good, masks={"folder": "masks"}), "MASK_GRID")
    assert "1 x 1 x 1 mm" in problem.found
    assert problem.severity == "error"


def test_mask_that_must_be_given(good: Path) -> None:
    plan = make_plan(good, settings(mask={"method": "given"}))
    for session in plan.sessions:
        assert problem_of(session.errors, "NO_MASK").expected == f"{session.label}_space-dwi_mask.nii.gz"


def test_transforms_in_a_folder_of_their_own(good: Path) -> None:
    build(
        good,
        {
            "sub-03/dwi/sub-03_dwi": None,
            LABELS.replace("01", "03").replace("space-dwi", "space-T1w"): {"shape": [9, 9, 9]},
            "xfm/sub-03/anat/sub-03_from-T1w_to-dwi_xfm.nii.gz": "a displacement field, read later",
        },
    )
    session = only(make_plan(good, settings(labels={"transforms": "xfm"})), "sub-03")
    assert not session.problems
    assert session.labels[0].transform == good / "xfm/sub-03/anat/sub-03_from-T1w_to-dwi_xfm.nii.gz"


def test_transform_that_is_none(good: Path) -> None:
    build(
        good,
        {
            "sub-03/dwi/sub-03_dwi": None,
            LABELS.replace("01", "03").replace("space-dwi", "space-T1w"): {"shape": [9, 9, 9]},
            LABELS.replace("01", "03").replace("space-dwi_dseg", "from-T1w_to-dwi_xfm.mat"): "1 0 0 0\n",
        },
    )
    session = only(make_plan(good, settings()), "sub-03")
    assert "FSL" in problem_of(session.errors, "TRANSFORM_UNREADABLE").do
    assert not only(make_plan(good, settings())).problems


def test_labels_in_another_storage_order_lie_on_the_grid(good: Path) -> None:
    path = good / f"{LABELS}.nii.gz"
    image = nib.load(path)
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "L"))), path)
    assert nib.load(path).shape != image.shape
    assert not bad_of(good)


def test_labels_of_another_space_on_the_same_grid_are_taken_with_a_fact(good: Path) -> None:
    for end in (".nii.gz", ".tsv"):
        home = good / f"{LABELS}{end}"
        home.rename(str(home).replace("space-dwi", "space-T2w"))
    session = only(make_plan(good, settings()))
    assert not session.problems
    (fact,) = session.facts
    assert "the grids are the same" in fact.reason


def test_a_missing_region_is_a_warning(good: Path) -> None:
    roi = {"segments": [*skeleton.SEGMENTS, {"region": "disc", "levels": ["L1-L2", "L4-L5"]}]}
    session = only(make_plan(good, settings(roi=roi)))
    assert not session.errors
    problem = problem_of(session.warnings, "REGION_MISSING")
    assert problem.found == "no label for disc midline L1-L2, disc midline L4-L5"
    assert "2 of the 4 segments" in problem.what


def test_many_missing_regions_are_summed_up(good: Path) -> None:
    for levels, end in (
        (20, "disc midline L7 and 12 more"),
        (9, "L7 and 1 more"),
        (8, "L6, disc midline L7"),
    ):
        discs = {"region": "disc", "levels": [f"L{n}" for n in range(levels)]}
        plan = make_plan(good, settings(roi={"segments": [*skeleton.SEGMENTS, discs]}))
        assert problem_of(only(plan).warnings, "REGION_MISSING").found.endswith(end)


def test_all_segments_of_a_table(good: Path) -> None:
    everything = settings(roi={"segments": "all"})
    assert not only(make_plan(good, everything)).problems
    (good / f"{LABELS}.tsv").write_text(HEADER + "0\tbackground\tn/a\tn/a\tn/a\n")
    assert problem_of(only(make_plan(good, everything)).errors, "NO_REGION").found == "no label"


def test_series_on_two_grids_are_not_joined(good: Path) -> None:
    build(good, {"sub-01/dwi/sub-01_acq-fine_dwi": {"voxel": [1, 1, 1]}})
    problem = problem_of(bad_of(good, runs={"combine": "all_pe"}), "SERIES_GRID")
    assert "1 x 1 x 1 mm" in problem.expected + problem.found
    alone = only(make_plan(good, settings()), "sub-01_acq-fine")
    assert [p.code for p in alone.errors] == ["LABEL_GRID"], "the labels are those of the other series"


def test_what_an_unreadable_series_would_add_is_not_missed(good: Path) -> None:
    build(good, {"sub-01/dwi/sub-01_acq-b0_dwi": {"b": [0, 0]}, SERIES: {"b": [800] * 6}})
    assert not bad_of(good, runs={"combine": "all_pe"})
    (good / "sub-01/dwi/sub-01_acq-b0_dwi.nii.gz").write_text("not an image, nor compressed")
    assert [problem.code for problem in bad_of(good, runs={"combine": "all_pe"})] == ["IMAGE_UNREADABLE"]


def test_series_of_two_echo_times_are_joined_with_a_warning(good: Path) -> None:
    (good / f"{SERIES}.json").write_text('{"EchoTime": 0.07}')
    build(good, {"sub-01/dwi/sub-01_acq-late_dwi": {"json": {"EchoTime": 0.08}}})
    problem = problem_of(bad_of(good, runs={"combine": "all_pe"}), "SERIES_ECHO_TIME")
    assert problem.severity == "warning"
    assert "70 ms" in problem.found
    assert "80 ms" in problem.found


# The dataset as a whole


def test_participant_that_is_not_there(good: Path) -> None:
    build(good, {"sub-patient07/dwi/sub-patient07_dwi": None})
    plan = make_plan(good, settings(), ["sub-02", "patient7", "x"])
    near, far = plan.problems
    assert (near.code, near.found, near.severity) == ("NO_SUCH_PARTICIPANT", "sub-patient7", "error")
    assert near.do == "did you mean sub-patient07?"
    assert far.found == "sub-x"
    assert "sub-01, sub-02, sub-patient07" in far.expected
    assert [session.label for session in plan.sessions] == ["sub-02"]


def test_session_that_is_not_there(tmp_path: Path) -> None:
    build(tmp_path, skeleton.load("sessions").files)
    plan = make_plan(tmp_path, settings(), None, ["ses-2"])
    problem = problem_of(plan.problems, "NO_SUCH_SESSION")
    assert problem.found == "ses-2"
    assert problem.do == "did you mean ses-02?"
    assert plan.sessions == ()


def test_session_that_one_participant_lacks(tmp_path: Path) -> None:
    build(tmp_path, skeleton.load("sessions").files)
    plan = make_plan(tmp_path, settings(), ["01", "03"], ["02"])
    problem = problem_of(plan.problems, "NO_SUCH_SESSION")
    assert (problem.found, problem.severity) == ("sub-03", "warning")


def test_session_asked_for_where_there_are_none(good: Path) -> None:
    problem = problem_of(make_plan(good, settings(), None, ["01"]).problems, "NO_SUCH_SESSION")
    assert "no session has a name" in problem.expected


def test_no_diffusion_series(tmp_path: Path) -> None:
    build(tmp_path, {"sub-01/anat/": None, "sub-02/dwi/": None})
    problem = problem_of(
        tuple(p for p in make_plan(tmp_path, settings()).problems if p.code == "NO_DWI"), "NO_DWI"
    )
    assert (problem.severity, problem.found) == ("error", "sub-01, sub-02")


def test_sessions_without_diffusion_series_are_named(tmp_path: Path) -> None:
    build(tmp_path, skeleton.load("sessions").files)
    problem = problem_of(make_plan(tmp_path, settings()).problems, "NO_DWI")
    assert (problem.severity, problem.found) == ("warning", "sub-02_ses-02, sub-03")


def test_filter_that_leaves_nothing(good: Path) -> None:
    problem = problem_of(make_plan(good, settings(runs={"filter": {"acq": "x"}})).problems, "NO_DWI")
    assert "left out: sub-01/dwi/sub-01_dwi.nii.gz" in problem.found
    assert "filter" in problem.do


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    absent = problem_of(make_plan(tmp_path / "absent", settings()).problems, "NOT_BIDS")
    assert absent.found == "no such folder"
    empty = problem_of(make_plan(tmp_path, settings()).problems, "NOT_BIDS")
    assert empty.found == "no folder sub-*"
    assert (absent.severity, empty.severity) == ("error", "error")
    (tmp_path / "file").touch()
    assert problem_of(make_plan(tmp_path / "file", settings()).problems, "NOT_BIDS").severity == "error"


def test_dataset_without_description_is_planned_with_a_warning(good: Path) -> None:
    (good / "dataset_description.json").unlink()
    plan = make_plan(good, settings())
    assert problem_of(plan.problems, "NOT_BIDS").severity == "warning"
    assert len(plan.sessions) == 2


def test_names_that_are_not_of_bids_are_told(tmp_path: Path) -> None:
    build(tmp_path, skeleton.load("odd_names").files)
    problem = problem_of(make_plan(tmp_path, settings()).problems[1:], "NAME_NOT_BIDS")
    assert problem.severity == "warning"
    for name in ("sub-04_b", "sub-01_copy_dwi.nii.gz", "sub-01_dwi_old.nii.gz", "ses-a_b"):
        assert name in problem.found


UNPRIVILEGED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from skeleton import settings
from somite.plan import make_plan
chosen = settings()
root = Path(sys.argv[1])
make_plan(root, chosen)  # all modules are loaded while they may be read
for path in sys.argv[3:]:
    os.chmod(root / path, 0)
if os.geteuid() == 0:
    os.seteuid(65534)  # root may read everything
plan = make_plan(root, chosen)
print(json.dumps({
    "dataset": [str(problem) for problem in plan.problems],
    **{session.label: [str(problem) for problem in session.errors] for session in plan.sessions},
}))
"""


CLOSED = {
    "01": ("sub-01/dwi/sub-01_dwi.nii.gz", "the diffusion series"),
    "02": ("sub-02/dwi/sub-02_dwi.bval", "the gradient file"),
    "03": ("sub-03/dwi/sub-03_dwi.json", "the sidecar"),
    "04": ("derivatives/labels/sub-04/dwi/sub-04_space-dwi_dseg.nii.gz", "the label image"),
    "05": ("derivatives/labels/sub-05/dwi/sub-05_space-dwi_dseg.tsv", "the label table"),
    "06": ("sub-06/dwi", "the folder"),
    "07": ("sub-07", "the folder"),
    "08": ("derivatives/labels/sub-08/dwi", "the folder"),
}


def planned_without_permission(paths: list[str]) -> tuple[Path, dict[str, list[str]]]:
    """The root of a dataset some of whose paths are closed, and its problems as text: of each session."""
    with tempfile.TemporaryDirectory() as scratch:  # pytest's own folder is closed to others
        root = Path(scratch) / "data"
        Path(scratch).chmod(0o755)
        for label in (*CLOSED, "09"):
            series, labels = SERIES.replace("01", label), LABELS.replace("01", label)
            build(root, {series: {"json": {}}, labels: None})
        try:
            ran = subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, str(root), str(Path(__file__).parent), *paths],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            for path in paths:
                (root / path).chmod(0o755)
    assert ran.returncode == 0, ran.stderr
    return root, json.loads(ran.stdout)


@pytest.fixture(scope="module")
def closed() -> tuple[Path, dict[str, list[str]]]:
    """Also under root, which gives up its rights for this."""
    return planned_without_permission([path for path, _ in CLOSED.values()])


@pytest.mark.parametrize("label", CLOSED)
def test_missing_permission(closed: tuple[Path, dict[str, list[str]]], label: str) -> None:
    root, found = closed
    path, what = CLOSED[label]
    (text,) = found[f"sub-{label}"]
    assert text.startswith(f"UNREADABLE: {what} may not be read")
    assert str(root / path) in text
    assert "permission denied" in text


def test_missing_permission_stops_nobody_else(closed: tuple[Path, dict[str, list[str]]]) -> None:
    _, found = closed
    assert found["dataset"] == []
    assert found["sub-09"] == []


def test_dataset_that_may_not_be_read() -> None:
    root, found = planned_without_permission(["."])
    (text,) = found["dataset"]
    assert text.startswith("UNREADABLE: the folder may not be read")
    assert str(root) in text
    assert list(found) == ["dataset"]


# What only the voxels show


def deep(root: Path, **sections: Any) -> Plan:
    return deep_check(make_plan(root, settings(**sections)), threads=2)


def test_deep_check_of_a_good_dataset_changes_nothing(good: Path) -> None:
    plan = make_plan(good, settings())
    assert deep_check(plan, threads=2) == plan


@pytest.mark.parametrize(
    ("value", "code", "found"),
    [(np.nan, "NONFINITE_VOLUME", "volume 2"), (7.0, "EMPTY_VOLUME", "7 throughout volume 2")],
)
def test_deep_check_of_volumes(good: Path, value: float, code: str, found: str) -> None:
    path = good / f"{SERIES}.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj).astype(np.float32)
    voxels[..., 2] = value
    edit_image(path, voxels)
    assert not bad_of(good)
    plan = deep(good)
    assert found in problem_of(only(plan).errors, code).found
    assert not only(plan, "sub-02").problems


def test_deep_check_of_a_damaged_gzip(good: Path) -> None:
    path = good / f"{SERIES}.nii.gz"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum
    path.write_bytes(content)
    assert not bad_of(good)
    assert problem_of(only(deep(good)).errors, "IMAGE_UNREADABLE").where == str(path)


def test_deep_check_tells_a_problem_once(good: Path) -> None:
    path = good / f"{SERIES}.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    plan = make_plan(good, settings())
    assert deep_check(plan, 1) == plan


def test_deep_check_tells_a_truncated_label_image_once(good: Path) -> None:
    content = nib.load(good / f"{LABELS}.nii.gz").to_bytes()
    (good / f"{LABELS}.nii").write_bytes(content[:-10])
    (good / f"{LABELS}.nii.gz").unlink()
    assert [problem.code for problem in bad_of(good)] == ["IMAGE_UNREADABLE"]
    assert only(deep(good)).problems == bad_of(good)


def test_deep_check_of_labels(good: Path) -> None:
    path = good / f"{LABELS}.nii.gz"
    voxels = np.zeros(skeleton.SHAPE, np.uint8)
    edit_image(path, voxels)
    assert problem_of(only(deep(good)).errors, "NO_REGION").where == str(path)
    voxels[0, 0, 0], voxels[1, 0, 0] = 2, 9
    edit_image(path, voxels)
    session = only(deep(good))
    assert not session.errors
    assert problem_of(session.warnings, "REGION_MISSING").found == "no label for nerve_root L L5"
    assert problem_of(session.warnings, "LABEL_VALUE").found == "9"
    assert only(deep(good, roi={"segments": "all"})).warnings == session.warnings
    edit_image(path, voxels + 0.5)
    assert problem_of(only(deep(good)).errors, "LABEL_NOT_INTEGER").where == str(path)


def test_real_scans_are_planned_without_an_error(real_data: Path) -> None:
    for name, n_sessions in (("brain-bids", 5), ("cord-bids", 2)):
        plan = deep_check(make_plan(real_data / name, settings()), 2)
        assert len(plan.sessions) == n_sessions
        assert [session.label for session in plan.sessions if session.errors] == []
    pairs = make_plan(real_data / "brain-bids", settings(runs={"combine": "all_pe"}))
    assert [(s.label, len(s.series)) for s in pairs.sessions] == [
        ("sub-canon", 2),
        ("sub-philips", 1),
        ("sub-uih", 2),
    ]
    # The echo times of the UIH pair differ by 0.8 ms.
    assert {s.label for s in pairs.sessions if "SERIES_ECHO_TIME" in [p.code for p in s.warnings]} == {
        "sub-uih"
    }
    assert [stem(one.dwi) for one in only(pairs, "sub-uih").series] == [
        "sub-uih_dir-AP_dwi",
        "sub-uih_dir-PA_dwi",
    ]
    assert replace(pairs, sessions=()).problems
