"""FSL eddy: its command line, its frames and signs, its outputs, by a stand-in that fails as eddy does."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import install, install_runtime, put_fsl, put_script
from scipy.spatial.transform import Rotation

from somite import containers, images
from somite.corrected import TERMS, Corrected, Outlier, polynomial, rms_mm
from somite.errors import DatasetError, ToolError
from somite.fsl_eddy import (
    EddyOptions,
    acquisition,
    choose_executable,
    common_timing,
    eddy_versions,
    excitations,
    run_fsl_eddy,
)
from somite.fsl_eddy_outputs import sense_of
from somite.gradients import Gradients
from somite.images import Grid
from somite.registry import Context

SHAPE, N = (8, 7, 6), 9
AXES = Rotation.from_euler("xyz", (12, -18, 25), degrees=True).as_matrix()
TIMING = [0.0, 1.5, 0.5, 0.0, 1.5, 0.5]  # two slices at a time, odd order


def grid_of(sign: float = 1.0) -> Grid:
    """An oblique grid whose affine has a determinant of this sign."""
    affine = np.eye(4)
    affine[:3, :3] = AXES @ np.diag([sign * 2.0, 2.5, 3.0])
    affine[:3, 3] = (5, -12, 30)
    return Grid(SHAPE, affine)


def gradients() -> Gradients:
    directions = np.random.default_rng(0).standard_normal((N, 3))
    directions[0] = 0
    directions[1:] /= np.linalg.norm(directions[1:], axis=1, keepdims=True)
    return Gradients(np.r_[0, np.full(N - 1, 1000.0)], directions)


def volumes(direction: str | None = "j-", seconds: float | None = 0.05) -> list[dict[str, Any]]:
    return [{"phase_encoding_direction": direction, "total_readout_time_s": seconds}] * N


def correct(
    folder: Path,
    options: EddyOptions | None = None,
    grid: Grid | None = None,
    given: list[dict[str, Any]] | None = None,
    table: Gradients | None = None,
    **more: Any,
) -> tuple[Corrected, Context]:
    grid = grid or grid_of()
    data = np.random.default_rng(1).uniform(0, 100, (*SHAPE, N)).astype(np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[1:6, 2:6, 1:5] = True
    (folder / "scans of mine").mkdir()
    dwi = images.write(folder / "scans of mine/dwi.nii", data, grid)
    context = Context(folder / "work folder", threads=2)
    context.folder.mkdir()
    made = run_fsl_eddy(
        dwi, table or gradients(), given or volumes(), mask, grid, options or EddyOptions(), context, **more
    )
    assert np.array_equal(made.data, data)
    return made, context


def with_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    put_script(folder / "driver/nvidia-smi", "echo 'GPU 0: made up (UUID: GPU-1)'")
    monkeypatch.setenv("PATH", f"{folder}/driver:/usr/bin:/bin")


# The command line


def test_the_command_line_is_the_documented_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = install("eddy_openmp", tmp_path, monkeypatch)
    _, context = correct(tmp_path, EddyOptions(slm="linear", is_shelled=True))
    (command,) = context.commands
    here = context.folder
    assert shlex.split(command)[0] == str(tool)
    assert set(shlex.split(command)[1:]) == {
        f"--imain={tmp_path}/scans of mine/dwi.nii",
        f"--mask={here}/eddy_mask.nii",
        f"--acqp={here}/acqp.txt",
        f"--index={here}/index.txt",
        f"--bvecs={here}/eddy_in.bvec",
        f"--bvals={here}/eddy_in.bval",
        f"--out={here}/eddy_out",
        "--flm=quadratic",
        "--slm=linear",
        "--ff=10.0",
        "--interp=spline",
        "--resamp=jac",
        "--niter=5",
        "--nvoxhp=1000",
        "--repol",
        "--data_is_shelled",
    }
    assert "threads 2" in (here / "eddy_openmp.log").read_text()
    assert [(fact.name, fact.value) for fact in context.facts] == [
        ("motion within volumes", "not corrected"),
        ("eddy", "eddy_openmp"),
    ]


def test_threads_are_told_to_eddy_cpu_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_cpu", tmp_path, monkeypatch)
    _, context = correct(tmp_path, EddyOptions(repol=False, slice_to_volume=False))
    words = shlex.split(context.commands[0])
    assert "--nthr=2" in words and "--repol" not in words and "--data_is_shelled" not in words
    assert [fact.name for fact in context.facts] == ["eddy"]


@pytest.mark.parametrize(
    ("there", "gpu", "option", "chosen"),
    [
        (("eddy", "eddy_cpu", "eddy_cuda10.2"), False, "auto", "eddy_cpu"),
        (("eddy", "eddy_openmp", "eddy_cuda9.1"), False, "auto", "eddy_openmp"),
        (("eddy",), True, "auto", "eddy"),
        (
            ("eddy", "eddy_cpu", "eddy_cuda8.0", "eddy_cuda10.2", "eddy_cuda9.1"),
            True,
            "auto",
            "eddy_cuda10.2",
        ),
        (("eddy_cpu", "eddy_cuda", "eddy_cuda9.1"), True, "yes", "eddy_cuda"),
        (("eddy_cpu", "eddy_cuda10.2"), True, "no", "eddy_cpu"),
        (("eddy_cpu", "eddy_cuda10.2"), False, "yes", "GPU_MISSING"),
        (("eddy_cpu",), True, "yes", "TOOL_MISSING"),
        (("bet",), False, "auto", "TOOL_MISSING"),
    ],
)
def test_which_eddy_is_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    gpu: bool,
    option: Any,
    chosen: str,
) -> None:
    install(there[0], tmp_path, monkeypatch, "6.0.7.4", *there[1:])
    if gpu:
        with_gpu(monkeypatch, tmp_path)
    if chosen.isupper():
        with pytest.raises(ToolError, match=chosen):
            eddy_versions(EddyOptions(gpu=option))
        return
    executable, on_gpu = choose_executable(option)
    assert executable.name == chosen and on_gpu == chosen.startswith("eddy_cuda")
    # Another executable is another result: it counts in the hash.
    assert eddy_versions(EddyOptions(gpu=option)) == {"FSL": "6.0.7.4", "eddy": chosen}


def test_an_fsl_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_openmp", tmp_path, monkeypatch, "5.0.9")
    with pytest.raises(ToolError, match="TOOL_TOO_OLD") as error:
        eddy_versions(EddyOptions())
    assert error.value.problems[0].found == "5.0.9"


def test_eddy_is_chosen_inside_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nipype would choose by the FSLDIR of this machine, which holds another FSL."""
    monkeypatch.setattr(containers, "_MARKS", ())
    monkeypatch.setenv("SOMITE_CONTAINER_FSL", "")
    folder = install_runtime("apptainer", tmp_path, monkeypatch)
    (folder / "fsl.sif").write_text("an image")
    put_fsl(folder / "fsl.sif.root/fsl", "6.0.7.4", "eddy_cpu", "eddy")
    put_fsl(tmp_path / "old/fsl", "5.0.11", "eddy_openmp")
    monkeypatch.setenv("FSLDIR", str(tmp_path / "old/fsl"))
    containers.use({"fsl": f"apptainer exec {folder}/fsl.sif"})
    versions = eddy_versions(EddyOptions())
    assert versions["FSL"].startswith("6.0.7.4 in apptainer exec fsl.sif (sha256:")
    assert versions["eddy"] == "eddy_cpu"
    field = images.write(tmp_path / "field.nii", np.ones(SHAPE, np.float32), grid_of())
    _, context = correct(tmp_path, field=field)
    (command,) = context.commands
    words = shlex.split(command)
    inside = f"{folder}/fsl.sif.root/fsl"
    assert words[:2] == ["apptainer", "exec"] and f"{inside}/bin/eddy_cpu" in words and "--nthr=2" in words
    for shown in (f"{tmp_path}:{tmp_path}:ro", f"{tmp_path}/scans of mine:{tmp_path}/scans of mine:ro"):
        assert shown in words
    assert f"FSLDIR {inside}" in (context.folder / "eddy_cpu.log").read_text()


# Motion within volumes


def test_motion_within_volumes_is_corrected_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_cuda10.2", tmp_path, monkeypatch)
    with_gpu(monkeypatch, tmp_path)
    _, context = correct(tmp_path, EddyOptions(slice_to_volume_order=2), slice_timing=TIMING)
    words = shlex.split(context.commands[0])
    assert (context.folder / "slspec.txt").read_text() == "0 3\n2 5\n1 4\n"
    for word in (
        "--mporder=2",
        "--s2v_niter=5",
        "--s2v_lambda=1",
        "--s2v_interp=trilinear",
        f"--slspec={context.folder}/slspec.txt",
    ):
        assert word in words
    assert ("motion within volumes", "order 2") in [(fact.name, fact.value) for fact in context.facts]


def test_a_quarter_of_the_excitations_is_the_order_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("eddy_cuda", tmp_path, monkeypatch)
    with_gpu(monkeypatch, tmp_path)
    _, context = correct(tmp_path, slice_timing=[0.0, 0.5, 0.1, 0.6, 0.2, 0.7])
    assert "--mporder=1" in shlex.split(context.commands[0])  # of 6


@pytest.mark.parametrize(
    ("gpu", "timing", "order", "reason"),
    [
        (False, TIMING, 2, "CPU"),
        (True, None, 2, "timing"),
        (True, TIMING[:4], 2, "timing"),
        (True, TIMING, 0, "few excitations"),
        (True, TIMING, 3, "few excitations"),
    ],
)
def test_motion_within_volumes_is_left_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, timing: Any, order: int, reason: str
) -> None:
    install("eddy_cuda10.2" if gpu else "eddy_openmp", tmp_path, monkeypatch)
    if gpu:
        with_gpu(monkeypatch, tmp_path)
    _, context = correct(tmp_path, EddyOptions(slice_to_volume_order=order), slice_timing=timing)
    assert "--mporder" not in context.commands[0]
    (fact,) = [fact for fact in context.facts if fact.name == "motion within volumes"]
    assert fact.value == "not corrected" and reason in fact.reason


def test_excitations_follow_time_and_need_equal_groups() -> None:
    assert excitations([0.3, 0.1, 0.2, 0.0]) == [[3], [1], [2], [0]]
    assert excitations([0.0, 0.1, 0.00004, 0.1]) == [[0, 2], [1, 3]]
    assert excitations([0.0, 0.0, 0.1]) is None
    assert excitations([0.0, 0.0, 0.0]) is None


def test_timing_counts_where_all_series_share_it() -> None:
    one, other = {"slice_timing_s": [0.0, 1.0]}, {"slice_timing_s": [1.0, 0.0]}
    assert common_timing([one, one]) == [0.0, 1.0]
    assert common_timing([one, other]) is None and common_timing([one, {}]) is None
    assert common_timing([{"slice_timing_s": None}]) is None and common_timing([]) is None


# The field


def test_the_field_is_named_without_its_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_cpu", tmp_path, monkeypatch)
    field = images.write(tmp_path / "field.nii", np.ones(SHAPE, np.float32), grid_of())
    _, context = correct(tmp_path, field=field)
    assert f"--field={tmp_path}/field" in shlex.split(context.commands[0])
    assert not context.warnings


def test_a_field_in_voxels_or_elsewhere_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_cpu", tmp_path, monkeypatch)
    field = images.write(tmp_path / "field.nii", np.ones((8, 7, 5), np.float32), Grid((8, 7, 5), np.eye(4)))
    with pytest.raises(DatasetError) as error:
        correct(tmp_path, given=volumes(seconds=None), field=field)
    assert [problem.code for problem in error.value.problems] == ["FIELD_IN_VOXELS", "FIELD_GRID"]


def test_a_field_of_another_volume_than_the_first_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("eddy_cpu", tmp_path, monkeypatch)
    field = images.write(tmp_path / "field.nii", np.ones(SHAPE, np.float32), grid_of())
    table = Gradients(np.roll(gradients().bvals, 2), np.roll(gradients().bvecs, 2, axis=0))
    _, context = correct(tmp_path, table=table, field=field)
    (warning,) = context.warnings
    assert warning.code == "FIELD_SPACE" and "volume 2" in warning.found


# Signs and frames


def test_acquisition_rows_are_shared_and_the_first_axis_follows_fsl() -> None:
    known = [
        {"phase_encoding_direction": d, "total_readout_time_s": t}
        for d, t in (("i", 0.05), ("j-", 0.05), ("i", 0.05), ("i", 0.04))
    ]
    rows, index = acquisition(known, np.diag([2.0, 2, 2, 1]))
    assert rows == [[-1, 0, 0, 0.05], [0, -1, 0, 0.05], [-1, 0, 0, 0.04]] and index == [1, 2, 1, 3]
    assert acquisition(known, np.diag([-2.0, 2, 2, 1]))[0][0] == [1, 0, 0, 0.05]


def test_phase_encoding_and_readout_are_needed() -> None:
    with pytest.raises(DatasetError) as error:
        acquisition(volumes(None, None), np.eye(4))
    assert [p.code for p in error.value.problems] == ["NO_PHASE_ENCODING", "NO_READOUT_TIME"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("mode", ["", "back"])
def test_motion_is_where_the_body_was_in_world_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: float, mode: str
) -> None:
    """Whichever way round eddy gives it: its rotated directions tell."""
    install("eddy_openmp", tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_MODE", mode)
    grid = grid_of(sign)
    made, _ = correct(tmp_path, grid=grid)
    # 1.5 mm along FSL's first axis: the voxel axis, reversed where the determinant is positive.
    along = -sign * grid.affine[:3, 0] / 2.0
    np.testing.assert_allclose(made.motion[1:, :3], np.tile(1.5 * along, (N - 1, 1)), atol=1e-6)
    np.testing.assert_allclose(made.motion[:, 6], np.arange(N) * 0.1, atol=1e-9)
    # The directions are those before, turned by the inverse of the motion: as the body saw them.
    turned = Rotation.from_rotvec(made.motion[:, 3:6], degrees=True).inv().apply(gradients().bvecs)
    np.testing.assert_allclose(made.gradients.bvecs, turned, atol=1e-7)
    assert np.rad2deg(np.arccos(np.sum(turned[1:] * gradients().bvecs[1:], 1))).max() > 1.5
    np.testing.assert_allclose(np.linalg.norm(made.motion[1:, 3:6], axis=1), 2.0, atol=1e-6)


def test_without_rotation_the_sense_stays() -> None:
    before = gradients().bvecs.T
    assert sense_of(np.zeros((N, 3)), before, before) == 1.0


FIELD = np.array([0.1, -0.2, 0.05, 1e-3, -2e-3, 5e-4, 3e-3, -1e-3, 2e-3, 1.5])
"""Of the stand-in, Hz: x, y, z, x2, y2, z2, xy, xz, yz, 1."""


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-", "k", "k-"])
def test_the_eddy_current_field_becomes_a_displacement_in_world_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: float, direction: str
) -> None:
    install("eddy_openmp", tmp_path, monkeypatch)
    grid = grid_of(sign)
    made, _ = correct(tmp_path, grid=grid, given=volumes(direction, 0.04))
    voxels = np.argwhere(np.ones(SHAPE))
    # As FSL has it: voxel numbers, the first counted from the other end, in mm from the centre of the image.
    centred = voxels - (np.array(SHAPE) - 1) / 2
    x, y, z = (centred * [-sign, 1, 1] * [2.0, 2.5, 3.0]).T
    terms = np.stack([x, y, z, x * x, y * y, z * z, x * y, x * z, y * z, np.ones_like(x)], 1)
    shift_voxels = (terms @ FIELD) * 0.04 * (-1 if direction.endswith("-") else 1)
    expected = shift_voxels * [2.0, 2.5, 3.0]["ijk".index(direction[0])]
    points = centred @ grid.affine[:3, :3].T
    assert made.distortion.shape == (N, 11) and not made.distortion[0].any()
    for row in made.distortion[1:]:
        np.testing.assert_allclose(polynomial(points) @ row[:10], expected, atol=1e-5)
    mask = np.zeros(SHAPE, bool)
    mask[1:6, 2:6, 1:5] = True
    inside = expected[mask[tuple(voxels.T)]]
    np.testing.assert_allclose(made.distortion[1:, 10], np.sqrt((inside**2).mean()), rtol=1e-5)


def test_coefficients_are_mm_at_100_mm() -> None:
    points = np.array([[100.0, 0, 0], [0, -100, 0], [0, 100, 100], [50, 0, 0]])
    one = dict(zip(TERMS, polynomial(points).T, strict=True))
    assert one["1"].tolist() == [1] * 4 and one["x"].tolist() == [1, 0, 0, 0.5]
    assert one["y"].tolist() == [0, -1, 1, 0] and one["yz"].tolist() == [0, 0, 1, 0]
    assert one["xx"].tolist() == [1, 0, 0, 0.25]
    assert rms_mm(np.eye(10)[[0, 1]], points).tolist() == [1.0, np.sqrt(1.25 / 4)]


# Outputs


def test_outliers_are_read_with_their_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_openmp", tmp_path, monkeypatch)
    made, _ = correct(tmp_path)
    assert made.outliers == [Outlier(volume=2, slice=3, z=-6.25, replaced=1)]


def test_without_repol_there_is_no_outlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_openmp", tmp_path, monkeypatch)
    assert correct(tmp_path, replace(EddyOptions(), repol=False))[0].outliers == []


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("late", "TOOL_FAILED", "line 39 of what it said"),
        ("crash", "TOOL_FAILED", "SIGSEGV"),
        ("quiet", "TOOL_OUTPUT_MISSING", "eddy_out.nii.gz"),
        ("empty", "TOOL_OUTPUT_MISSING", "empty"),
        ("garbage", "TOOL_OUTPUT_UNREADABLE", "eddy_out.nii.gz"),
        ("short", "TOOL_OUTPUT_UNREADABLE", "8 x 7 x 6 x 8"),
        ("nan", "TOOL_OUTPUT_UNREADABLE", "eddy_rotated_bvecs"),
        ("linear", "TOOL_OUTPUT_UNREADABLE", "9 x 10"),
        ("words", "TOOL_OUTPUT_UNREADABLE", "eddy_outlier_map"),
    ],
)
def test_eddy_that_fails_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, code: str, words: str
) -> None:
    install("eddy_openmp", tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_MODE", mode)
    with pytest.raises(ToolError) as error:
        correct(tmp_path)
    (problem,) = error.value.problems
    assert problem.code == code and words in str(problem) and "--imain" in problem.where


def test_eddy_refuses_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("eddy_openmp", tmp_path, monkeypatch)
    with pytest.raises(ToolError, match="EDDY::: --acqp"):
        correct(tmp_path, given=volumes(seconds=0.001))


def test_fsl_that_is_not_there_is_said_at_plan_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        eddy_versions(EddyOptions())
