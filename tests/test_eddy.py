"""Motion: found and undone on phantoms whose motion is known, the same on any affine and thread count."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import oblique
from limbs import Phantom, phantom
from scipy.ndimage import shift
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from somite import images, quality
from somite.body import body_mask
from somite.corrected import DISTORTION, MOTION, OUTLIERS, Corrected, Outlier
from somite.correction import corrector
from somite.correction.estimation import Acquisition, Options
from somite.correction.series import Encoding
from somite.errors import DatasetError
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid
from somite.interfaces import eddy
from somite.registration import (
    displacement_mm,
    region_of,
    small_parameters,
)
from somite.registry import Context
from somite.segments import Column


def names(schema: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(column.name for column in schema)


def direction_error_deg(found: Gradients, truth: Phantom) -> np.ndarray:
    true = np.einsum("nji,nj->ni", truth.transforms[:, :3, :3], truth.gradients.bvecs)
    weighted = truth.gradients.bvecs.any(1)
    cosine = np.einsum("ni,ni->n", found.bvecs[weighted], true[weighted])
    return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


def correct(truth: Phantom, threads: int = 1, slice_axis: int = 2) -> tuple[Corrected, np.ndarray]:
    """What the corrector finds without eddy currents, and its motion as transforms (n, 4, 4)."""
    unknown = Encoding.unknown(truth.data.shape[3])
    series = Acquisition(truth.data, truth.gradients, unknown, truth.inside, truth.grid)
    found = corrector.correct(series, Options(degree=0, find_lost=False, slice_axis=slice_axis), threads)
    return found, transforms_of(found, truth)


def transforms_of(found: Corrected, truth: Phantom) -> np.ndarray:
    centre = region_of(truth.inside, truth.grid).centre
    transforms = np.tile(np.eye(4), (len(found.motion), 1, 1))
    transforms[:, :3, :3] = Rotation.from_rotvec(np.deg2rad(found.motion[:, 3:6])).as_matrix()
    transforms[:, :3, 3] = found.motion[:, :3] + centre - transforms[:, :3, :3] @ centre
    return transforms


# Accuracy


def test_known_motion_is_found_on_an_oblique_affine() -> None:
    truth = phantom()
    before = truth.error_mm(np.tile(np.eye(4), (16, 1, 1)))
    found, transforms = correct(truth)
    error = truth.error_mm(transforms)
    assert before.mean() > 1.5
    assert error.mean() < 0.4 and error.max() < 0.9
    assert error[-1] < 0.1  # the other b=0 volume
    assert direction_error_deg(found.gradients, truth).mean() < 0.5
    apart_before = truth.data[truth.inside][:, [0, -1]].std(1).mean()
    assert found.data[truth.inside][:, [0, -1]].std(1).mean() < 0.5 * apart_before
    np.testing.assert_allclose(found.data[..., 0], truth.data[..., 0], atol=1e-5 * truth.data.max())
    assert not found.motion[0].any() and not found.distortion.any() and not found.outliers
    # The true motion, but for the estimate's own error.
    np.testing.assert_allclose(found.motion[:, 6].mean(), before.mean(), atol=0.3)


def test_a_scan_without_motion_stays_where_it_is() -> None:
    truth = phantom(motion=0.0)
    found, transforms = correct(truth)
    assert truth.error_mm(transforms).mean() < 0.2
    assert direction_error_deg(found.gradients, truth).mean() < 0.2


def test_a_single_slice_moves_within_its_plane_only() -> None:
    truth = phantom(shape=(56, 48, 1), voxel=(2.0, 2.0, 5.0), snr=30)
    _, transforms = correct(truth)
    error = truth.error_mm(transforms)
    assert error.mean() < 0.3 < truth.error_mm(np.tile(np.eye(4), (16, 1, 1))).mean()
    normal = truth.grid.affine[:3, 2] / 5.0
    for transform in transforms:
        np.testing.assert_allclose(transform[:3, :3] @ normal, normal, atol=1e-9)
        moved = transform[:3, :3] @ truth.grid.affine[:3, 3] + transform[:3, 3] - truth.grid.affine[:3, 3]
        assert abs(moved @ normal) < 1e-9


def test_few_slices_few_directions_and_noise_leave_the_answer_bounded() -> None:
    """Motion through the plane can hardly be seen in 4 slices at an SNR of 3: it must not be invented."""
    truth = phantom(shape=(40, 36, 4), voxel=(2.5, 2.5, 5.0), n=6, snr=8, motion=0.4)
    _, transforms = correct(truth)
    region = region_of(truth.inside, truth.grid)
    errors = np.array(
        [
            small_parameters(np.linalg.inv(true) @ found, region)
            for true, found in zip(truth.transforms, transforms, strict=True)
        ]
    )
    in_plane, through = errors[:, 3:5], errors[:, 5]
    assert np.abs(in_plane).mean() < 0.3
    assert np.abs(through).mean() < 0.6
    assert truth.error_mm(transforms).mean() < 1.0


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    with threadpool_limits(1):  # those of BLAS
        one, _ = correct(truth, 1)
    with threadpool_limits(2):
        three, _ = correct(truth, 3)
    assert np.array_equal(one.data, three.data) and np.array_equal(one.motion, three.motion)
    assert np.array_equal(one.gradients.bvecs, three.gradients.bvecs)


def test_the_same_scan_stored_otherwise_gives_the_same_motion() -> None:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    affine = truth.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * 23
    affine[:3, 0] *= -1
    stored = Grid((6, 24, 22), affine[:, [2, 0, 1, 3]])
    turned = Phantom(
        np.asfortranarray(truth.data[::-1].transpose(2, 0, 1, 3)),
        truth.gradients,
        truth.transforms,
        truth.inside[::-1].transpose(2, 0, 1),
        stored,
    )
    found, transforms = correct(truth)
    found_turned, transforms_turned = correct(turned, slice_axis=0)
    between = displacement_mm
    region = region_of(truth.inside, truth.grid)
    apart = [
        between(np.linalg.inv(a) @ b, region) for a, b in zip(transforms, transforms_turned, strict=True)
    ]
    # The sample of points and the path of the optimiser differ, the answer hardly.
    assert np.mean(apart) < 0.05
    np.testing.assert_allclose(found.gradients.bvecs, found_turned.gradients.bvecs, atol=5e-3)


# The step


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    bval, bvec = write_fsl(truth.gradients, tmp_path / "a.bval", tmp_path / "a.bvec", truth.grid.affine)
    known = {"phase_encoding_direction": "j-", "total_readout_time_s": 0.05}
    (tmp_path / "scan.json").write_text(json.dumps({"volumes": [{"series": 0} | known] * 9, "series": []}))
    dwi = images.write(tmp_path / "dwi.nii", truth.data, truth.grid)
    return {"dwi": dwi, "bval": bval, "bvec": bvec, "scan": tmp_path / "scan.json"}


def step(folder: Path, files: dict[str, Path], **options: object) -> tuple[dict[str, Path], Context]:
    context = Context(folder / "work folder", threads=2)
    context.folder.mkdir()
    made = eddy.run(**files, config=eddy.Config(**options), context=context)
    names = ("dwi", "bvec", "motion", "outliers", "distortion")
    return dict(zip(names, made, strict=True)), context


def facts(context: Context) -> dict[str, str]:
    return {fact.name: fact.value for fact in context.facts}


def read_table(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    with path.open() as file:
        header, *rows = csv.reader(file, delimiter="\t")
    return tuple(header), np.array([[cell.replace("n/a", "nan") for cell in row] for row in rows], float)


def test_none_passes_the_series_through(tmp_path: Path, files) -> None:
    made, context = step(tmp_path, files, method="none")
    assert np.array_equal(images.read_float(made["dwi"])[0], images.read_float(files["dwi"])[0])
    np.testing.assert_allclose(np.loadtxt(made["bvec"]), np.loadtxt(files["bvec"]), atol=1e-9)
    header, rows = read_table(made["motion"])
    assert header == names(MOTION)
    assert np.array_equal(rows[:, 0], np.arange(9)) and not rows[:, 1:8].any()
    assert np.isnan(rows[:, 8:]).all()  # nobody looked for lost slices
    assert read_table(made["outliers"])[0] == names(OUTLIERS)
    header, rows = read_table(made["distortion"])
    assert header == names(DISTORTION) and not rows[:, 1:].any()
    assert not context.numbers


def add_field(folder: Path, files: dict[str, Path], voxels: float) -> None:
    """A field that displaces every volume by so many voxels, along -j as it is encoded."""
    data, grid = images.read_float(files["dwi"])
    field = np.full(data.shape[:3], voxels / 0.05, np.float32)
    files["field"] = images.write(folder / "field.nii", field, grid)


@pytest.mark.parametrize("method", ["none", "rigid"])
def test_a_field_is_undone_whatever_the_method(method: str, tmp_path: Path, files) -> None:
    plain, _ = step(tmp_path, files, method=method)
    add_field(tmp_path, files, 2.0)
    (tmp_path / "with").mkdir()
    made, _ = step(tmp_path / "with", files, method=method)
    expected, found = (images.read_float(one["dwi"])[0] for one in (plain, made))
    # Signal that belongs at j is found at j - 2: encoded along j-.
    apart = np.abs(found[:, 4:-2] - expected[:, 2:-4])
    assert np.median(apart) < 0.01 * expected.max()
    if method == "none":
        assert not read_table(made["motion"])[1][:, 1:8].any()


@pytest.mark.parametrize(
    ("key", "code"),
    [("phase_encoding_direction", "NO_PHASE_ENCODING"), ("total_readout_time_s", "NO_READOUT_TIME")],
)
def test_a_field_is_not_left_out_of_volumes_of_which_too_little_is_known(
    key: str, code: str, tmp_path: Path, files
) -> None:
    add_field(tmp_path, files, 2.0)
    about = json.loads(files["scan"].read_text())
    about["volumes"][3][key] = None
    files["scan"].write_text(json.dumps(about))
    with pytest.raises(DatasetError, match=code):
        step(tmp_path, files)


def test_a_field_in_voxels_needs_no_readout_time(tmp_path: Path, files) -> None:
    about = json.loads(files["scan"].read_text())
    for volume in about["volumes"]:
        volume["total_readout_time_s"] = None
    files["scan"].write_text(json.dumps(about))
    data, grid = images.read_float(files["dwi"])
    files["field"] = images.write(tmp_path / "f.nii", np.full(data.shape[:3], 2.0, np.float32), grid)
    made, _ = step(tmp_path, files, method="none")
    found = images.read_float(made["dwi"])[0]
    assert np.median(np.abs(found[:, 4:-2] - data[:, 2:-4])) < 0.01 * data.max()


def test_a_field_on_another_grid_is_an_error(tmp_path: Path, files) -> None:
    grid = oblique((5, 5, 5), (2, 2, 2))
    files["field"] = images.write(tmp_path / "f.nii", np.zeros(grid.shape, np.float32), grid)
    with pytest.raises(DatasetError, match="FIELD_GRID"):
        step(tmp_path, files, method="rigid")


@pytest.mark.parametrize("method", ["rigid", "builtin"])
def test_the_step_writes_its_motion_and_turned_directions(method: str, tmp_path: Path, files) -> None:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    made, context = step(tmp_path, files, method=method)
    data, grid = images.read_float(made["dwi"])
    found = read_fsl(files["bval"], made["bvec"], grid.affine)
    as_acquired = direction_error_deg(truth.gradients, truth)
    assert direction_error_deg(found, truth).mean() < 0.6 * as_acquired.mean()
    rows = read_table(made["motion"])[1]
    assert not rows[0, 1:8].any() and rows[:, 7].max() > 1
    of_b0 = truth.gradients.bvals == 0
    assert np.isnan(rows[of_b0, 8:]).all() and (rows[~of_b0, 9] == data.shape[2]).all()
    assert {"lost slices": "not looked for in volumes 0, 8"}.items() <= facts(context).items()
    assert context.numbers["motion_mean_displacement_mm"] == pytest.approx(rows[:, 7].mean(), abs=1e-4)
    # The columns describe the transform: applied to the directions, they give those that were written.
    turn = Rotation.from_rotvec(np.deg2rad(rows[:, 4:7])).as_matrix()
    expected = np.einsum("nji,nj->ni", turn, truth.gradients.bvecs)
    np.testing.assert_allclose(found.bvecs, expected, atol=1e-5)
    assert context.facts[0].value == "body"
    assert data.shape == truth.data.shape
    distortion = read_table(made["distortion"])[1]
    assert distortion[:, 1:].any() == (method == "builtin")
    assert not distortion[0, 1:].any()  # of a b=0 volume there is none


def test_few_weighted_volumes_are_looked_at_for_linear_eddy_currents_only(tmp_path: Path, files) -> None:
    made, context = step(tmp_path, files)
    assert {"eddy currents": "linear"}.items() <= facts(context).items()
    quadratic = [n for n in names(DISTORTION)[1:-1] if len(n) == 4]
    header, rows = read_table(made["distortion"])
    np.testing.assert_allclose(rows[:, [header.index(n) for n in quadratic]], 0, atol=1e-3)


def test_no_eddy_currents_are_looked_for_where_the_phase_encoding_is_not_known(tmp_path: Path, files) -> None:
    about = json.loads(files["scan"].read_text())
    for volume in about["volumes"]:
        volume["phase_encoding_direction"] = None
    files["scan"].write_text(json.dumps(about))
    made, context = step(tmp_path, files)
    assert not read_table(made["distortion"])[1][:, 1:].any()
    assert {"eddy currents": "not corrected"}.items() <= facts(context).items()


def test_a_mask_given_is_the_region_of_motion(tmp_path: Path, files) -> None:
    """A limb outside of it, that moves on its own, does not disturb the motion found inside."""
    whole = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    one = whole.inside.copy()
    one[whole.inside.shape[0] // 2 :] = False
    truth = replace(whole, inside=one)
    data, rng = whole.data.copy(), np.random.default_rng(0)
    beyond = slice(whole.inside.shape[0] // 2, None)
    for volume in range(1, data.shape[3]):
        data[beyond, ..., volume] = shift(data[beyond, ..., volume], rng.normal(0, 1, 3), mode="nearest")
    files["dwi"] = images.write(tmp_path / "half.nii", data, truth.grid)
    errors = []
    for number, mask in enumerate((whole.inside, one)):
        files["mask_given"] = images.write(tmp_path / "mine.nii", mask, truth.grid)
        (tmp_path / str(number)).mkdir()
        made, context = step(tmp_path / str(number), files, method="rigid")
        assert context.facts[0].value == "mine.nii"
        motion = read_table(made["motion"])[1][:, 1:8]
        centre = region_of(mask, truth.grid).centre
        transforms = np.tile(np.eye(4), (len(motion), 1, 1))
        transforms[:, :3, :3] = Rotation.from_rotvec(np.deg2rad(motion[:, 3:6])).as_matrix()
        transforms[:, :3, 3] = motion[:, :3] + centre - transforms[:, :3, :3] @ centre
        errors.append(truth.error_mm(transforms).mean())
    assert errors[1] < 0.6 * errors[0]


def test_a_mask_without_a_voxel_is_an_error(tmp_path: Path, files) -> None:
    data, grid = images.read_float(files["dwi"])
    files["mask_given"] = images.write(tmp_path / "m.nii", np.zeros(data.shape[:3], bool), grid)
    with pytest.raises(DatasetError, match="MASK_EMPTY"):
        step(tmp_path, files)


def test_a_series_without_b0_is_an_error(tmp_path: Path, files) -> None:
    files["bval"] = tmp_path / "all.bval"
    files["bval"].write_text(" ".join(["1000"] * 9) + "\n")
    vectors = np.loadtxt(files["bvec"])
    vectors[:, ~vectors.any(0)] = [[1], [0], [0]]
    np.savetxt(files["bvec"], vectors)
    with pytest.raises(DatasetError, match="NO_B0"):
        step(tmp_path, files)


def test_a_series_of_b0_alone_is_aligned(tmp_path: Path, files) -> None:
    files["bval"].write_text(" ".join(["0"] * 9) + "\n")
    made, _ = step(tmp_path, files)
    assert not read_table(made["distortion"])[1][:, 1:].any()
    assert np.isfinite(images.read_float(made["dwi"])[0]).all()


def test_a_mask_on_another_grid_is_an_error(tmp_path: Path, files) -> None:
    files["mask_given"] = images.write(
        tmp_path / "m.nii", np.ones((5, 5, 5), bool), oblique((5, 5, 5), (2, 2, 2))
    )
    with pytest.raises(DatasetError, match="MASK_GRID"):
        step(tmp_path, files)


def test_real_reversed_scans_agree_better_after_correction(real_data: Path) -> None:
    """Volumes of neighbouring directions of a real scan agree better once aligned."""
    folder = real_data / "brain-bids/sub-uih/dwi"
    data, grid = images.read_float(folder / "sub-uih_dir-AP_dwi.nii.gz")
    stem = folder / "sub-uih_dir-AP_dwi"
    gradients = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    mask = body_mask(data[..., 0])
    series = Acquisition(data, gradients, Encoding.unknown(data.shape[3]), mask, grid)
    found = corrector.correct(series, Options(degree=0))
    assert 0.02 < found.motion[:, 6].max() < 3
    is_b0 = gradients.is_b0()
    pairs = quality.neighbours(gradients, is_b0)
    before, after = (
        quality.neighbour_correlation(quality.Series(one, mask), pairs) for one in (data, found.data)
    )
    assert 1 - after < 0.97 * (1 - before)


def test_only_slices_that_cross_the_region_are_counted(tmp_path: Path) -> None:
    still = eddy.as_it_is(np.zeros((1, 1, 5, 3), np.float32), Gradients(np.zeros(3), np.zeros((3, 3))))
    outliers = [Outlier(1, 0, -9.0, 1), Outlier(1, 2, -9.0, 1), Outlier(2, 3, -9.0, 1)]
    found = replace(still, outliers=outliers, searched=np.array([False, True, True]))
    crossed = np.array([False, True, True, True, False])
    rows = read_table(eddy.write_motion(tmp_path / "motion.tsv", found, crossed))[1]
    np.testing.assert_array_equal(rows[:, 8:], [[np.nan, np.nan], [1, 3], [1, 3]])


@pytest.mark.parametrize(("rotation_deg", "warned"), [(5.0, False), (33.0, True)])
def test_motion_that_no_body_makes_is_doubted(rotation_deg: float, warned: bool, tmp_path: Path) -> None:
    context = Context(tmp_path)
    gradients = Gradients(np.zeros(3), np.zeros((3, 3)))
    found = eddy.as_it_is(np.zeros((1, 1, 1, 3), np.float32), gradients)
    found.motion[2, 4] = rotation_deg
    eddy._tell(found, True, context)
    assert [problem.code for problem in context.warnings] == ["MOTION_LARGE"] * warned
    assert context.numbers["motion_max_rotation_deg"] == rotation_deg
