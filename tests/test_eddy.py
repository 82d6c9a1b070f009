"""Motion: found and undone on phantoms whose motion is known, the same on any affine and thread count."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from somite import images
from somite.body import body_mask
from somite.corrected import DISTORTION_COLUMNS, OUTLIER_COLUMNS, Corrected
from somite.correction import believe, corrector
from somite.correction.estimation import Acquisition, Options, turned
from somite.correction.series import Encoding, Pose
from somite.correction.shells import shells_of
from somite.errors import DatasetError
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid
from somite.interfaces import eddy
from somite.registration import (
    LeastSquares,
    align_by_information,
    displacement_mm,
    mutual_information,
    region_of,
    resample,
    small_motion,
    small_parameters,
)
from somite.registry import Context

FINE = 1.25  # mm, of the phantom from which volumes are cut


def oblique(shape: tuple[int, int, int], voxel: tuple[float, ...]) -> Grid:
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", (12, -18, 25), degrees=True).as_matrix()
    affine[:3, :3] = axes @ np.diag(voxel)
    affine[:3, 3] = np.array([5, -12, 30]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


@dataclass(frozen=True)
class Phantom:
    data: np.ndarray
    gradients: Gradients
    transforms: np.ndarray
    """Truth: from a point of the first volume to where its tissue was."""
    inside: np.ndarray
    grid: Grid

    def error_mm(self, transforms: np.ndarray) -> np.ndarray:
        points = np.argwhere(self.inside) @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
        both = [
            points @ t[:, :3, :3].transpose(0, 2, 1) + t[:, None, :3, 3]
            for t in (transforms, self.transforms)
        ]
        return np.asarray(np.linalg.norm(both[0] - both[1], axis=-1).mean(1))


@cache
def phantom(
    shape: tuple[int, int, int] = (40, 36, 14),
    voxel: tuple[float, ...] = (2.5, -2.5, 3.5),
    motion: float = 1.0,
    n: int = 14,
    snr: float = 20,
    seed: int = 0,
) -> Phantom:
    """Two limbs with changing fibre directions, a bone, fluid and a septum, moving as one."""
    rng = np.random.default_rng(seed)
    grid = oblique(shape, voxel)
    size = tuple(int(s) for s in np.ceil(np.array(shape) * np.abs(voxel) / FINE) + 24)
    axes = [(np.arange(s) - (s - 1) / 2) * FINE for s in size]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    texture = gaussian_filter(rng.standard_normal(size), 3)
    width = axes[0][-1]
    body = (
        np.minimum(
            np.hypot(x - width / 2.3, y) / (width * 0.33), np.hypot(x + width / 2.3, y + 4) / (width * 0.3)
        )
        < 1
    )
    s0 = np.where(body, 800 * (1 + 3 * texture), 0)
    s0[body & (np.hypot(x - width / 2, y) < 5)] = 60
    s0[body & (np.hypot(x + width / 2, y - 6) < 4 + np.sin(z / 7))] = 2500
    s0[body & (np.abs(y - 6 * np.sin(z / 11)) < 2)] *= 0.4
    fibre = np.stack([gaussian_filter(rng.standard_normal(size), 10) for _ in range(3)], -1)
    fibre /= np.linalg.norm(fibre, axis=-1, keepdims=True)
    frame = grid.affine[:3, :3] / np.abs(voxel)
    centre = grid.affine[:3, :3] @ (np.array(shape) - 1) / 2 + grid.affine[:3, 3]
    directions = rng.standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    bvals = np.r_[0, np.tile([800.0], n), 0]
    bvecs = np.r_[np.zeros((1, 3)), directions, np.zeros((1, 3))]
    steps = np.cumsum(rng.normal(0, 0.6, (n + 2, 6)), 0)
    steps = motion * (steps - steps[0])
    if shape[2] == 1:
        steps[:, [0, 1, 5]] = 0
    data, transforms = [], []
    for step, b, g in zip(steps, bvals, bvecs, strict=True):
        rotation = frame @ Rotation.from_rotvec(np.deg2rad(step[:3])).as_matrix() @ frame.T
        transform = np.eye(4)
        transform[:3, :3] = rotation
        transform[:3, 3] = centre + frame @ step[3:] - rotation @ centre
        seen = frame.T @ rotation.T @ g
        signal = s0 * np.exp(-b * (1.2e-3 + 0.6e-3 * (fibre @ seen) ** 2))
        signal = gaussian_filter(signal, 0.4 * np.abs(voxel) / FINE)
        where = np.argwhere(np.ones(shape)) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        tissue = (where - transform[:3, 3]) @ rotation
        fine = ((tissue - centre) @ frame) / FINE + (np.array(size) - 1) / 2
        data.append(map_coordinates(signal, fine.T, order=3, mode="nearest").reshape(shape))
        transforms.append(transform)
    clean = np.stack(data, -1)
    noise = rng.normal(0, 800 / snr, (2, *clean.shape))
    noisy = np.hypot(clean + noise[0], noise[1]).astype(np.float32)
    return Phantom(
        np.asfortranarray(noisy), Gradients(bvals, bvecs), np.array(transforms), clean[..., 0] > 200, grid
    )


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
    assert np.abs(errors[:, 3:5]).mean() < 0.3
    assert truth.error_mm(transforms).mean() < 1.0


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    (one, _), (three, _) = correct(truth, 1), correct(truth, 3)
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


# Parts


def test_resampling_by_whole_voxels_is_exact_and_knows_its_edge() -> None:
    rng = np.random.default_rng(0)
    grid = oblique((9, 8, 7), (2.0, 2.0, 3.0))
    volume = rng.random(grid.shape).astype(np.float32)
    step = np.eye(4)
    step[:3, 3] = grid.affine[:3, 1] * 2
    moved, inside = resample(volume, step, grid)
    np.testing.assert_allclose(moved[:, :-2], volume[:, 2:], atol=1e-5)
    assert inside[:, :-2].all() and not inside[:, -2:].any()
    np.testing.assert_allclose(moved[:, -1], volume[:, -1], atol=1e-5)
    same, whole = resample(volume, np.eye(4), grid)
    assert np.array_equal(same, volume) and whole.all()


def test_resampling_does_not_undershoot() -> None:
    grid = oblique((12, 12, 6), (2.0, 2.0, 3.0))
    volume = np.zeros(grid.shape, np.float32)
    volume[4:8, 4:8] = 100
    step = np.eye(4)
    step[:3, 3] = grid.affine[:3, 0] * 0.5
    assert resample(volume, step, grid)[0].min() == 0


def test_small_parameters_invert_small_motion() -> None:
    truth = phantom(n=6)
    region = region_of(truth.inside, truth.grid)
    parameters = np.array([1.0, -2.0, 0.5, 0.3, -0.7, 2.0])
    np.testing.assert_allclose(
        small_parameters(small_motion(parameters, region), region), parameters, atol=1e-9
    )


def test_least_squares_finds_a_motion_of_many_voxels() -> None:
    truth = phantom(n=6)
    region = region_of(truth.inside, truth.grid)
    turn = Rotation.from_rotvec([0.03, -0.05, 0.08]).as_matrix()
    known = np.eye(4)
    known[:3, :3] = turn
    known[:3, 3] = region.centre + np.array([3, -2, 1]) - turn @ region.centre
    moved, _ = resample(truth.data[..., 0], np.linalg.inv(known), truth.grid)
    found = np.eye(4)
    for width in (8.0, 3.0):
        squares = LeastSquares(truth.data[..., 0], np.ones(truth.inside.shape, bool), region, width)
        found = squares.align(moved, found)
    assert displacement_mm(known, region) > 3
    assert displacement_mm(np.linalg.inv(known) @ found, region) < 0.05


def test_mutual_information_joins_images_of_opposite_contrast() -> None:
    truth = phantom(n=6)
    region = region_of(truth.inside, truth.grid)
    fixed = truth.data[..., 0]
    known = np.eye(4)
    known[:3, 3] = (1.0, -1.5, 0.7)
    moving, _ = resample(2000 - 0.5 * fixed, np.linalg.inv(known), truth.grid)
    found = align_by_information(fixed, moving, region, 2.0)
    assert displacement_mm(np.linalg.inv(known) @ found.transform, region) < 0.25


@pytest.mark.parametrize("shift_mm", [0.0, 0.25])
def test_mutual_information_tells_a_part_of_a_voxel_where_the_body_fills_the_field(shift_mm: float) -> None:
    truth = phantom(shape=(32, 30, 8), voxel=(3.0, 3.0, 5.0), n=6)
    whole = truth.data[..., 0]
    cut = Grid((20, 18, 6), truth.grid.affine @ translation(6, 6, 1))
    window = (slice(6, 26), slice(6, 24), slice(1, 7))
    known = np.eye(4)
    known[:3, 3] = np.array([0.4, -0.6, 1.0]) * shift_mm
    rng = np.random.default_rng(0)
    moved = resample(whole, np.linalg.inv(known), truth.grid)[0]
    fixed, moving = (v[window] + rng.normal(0, 8, cut.shape) for v in (whole, 2000 - 0.5 * moved))
    region = region_of(np.ones(cut.shape, bool), cut)
    found = align_by_information(fixed, moving, region, 2.0)
    assert displacement_mm(np.linalg.inv(known) @ found.transform, region) < 0.12


def translation(*voxels: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def test_mutual_information_of_a_histogram_and_its_slope() -> None:
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 8, 3000)
    values = np.clip(bins + rng.normal(0, 0.5, 3000), 0, 6.99)
    information, slope = mutual_information(bins, values, 8)
    shuffled, _ = mutual_information(rng.permutation(bins), values, 8)
    assert shuffled < 0.05 < 1.0 < information < np.log(8)
    step = rng.normal(0, 1e-5, 3000)
    inside = (values > 0.01) & (values < 6.98)
    step *= inside
    up, down = (mutual_information(bins, values + sign * step, 8)[0] for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx(slope @ step, rel=1e-3)


def test_shells_part_at_gaps_and_small_ones_join() -> None:
    b = np.array([0, 995, 1000, 5, 1005, 2000, 1010, 2010, 1995, 2005, 3000, 0.0])
    shells = shells_of(b, b < 50)
    assert [s.tolist() for s in shells] == [[1, 2, 4, 6], [5, 7, 8, 9, 10]]


def test_gradients_turn_against_the_body() -> None:
    quarter = Pose.still(1, 0)
    quarter.rotations[0] = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    seen = turned(Gradients(np.array([1000.0]), np.array([[0, 1.0, 0]])), quarter)
    np.testing.assert_allclose(seen.bvecs, [[1, 0, 0]], atol=1e-12)


def test_motion_that_follows_the_directions_is_distrusted_and_true_motion_is_not() -> None:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((30, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    feigned = 0.5 * np.outer(
        directions[:, 0] ** 2 - directions[:, 1] * directions[:, 2], [1, -1, 0.5, 0, 2, 1]
    )
    drift = np.outer(np.linspace(0, 3, 30), [1, 0.5, 0, 1, 0, -1])
    jitter = rng.normal(0, 0.05, (30, 6))
    believed = without_contrast(feigned + drift + jitter, directions)
    # The mean over a shell is not for it to judge.
    error = believed - drift
    assert (error - error.mean(0)).std() < 0.3 * feigned.std()
    kept = without_contrast(drift + jitter, directions)
    assert (kept - drift - jitter).std() < jitter.std()
    # Fewer volumes than functions of direction: little can be told.
    few = without_contrast(feigned[:5], directions[:5])
    assert np.isfinite(few).all() and np.abs(few).max() <= np.abs(feigned[:5]).max()


def without_contrast(motion: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """What is believed of the motion of one shell, where the phase encoding is not known."""
    n = len(motion)
    design = believe.Design.of(np.full(n, 1000.0), directions, np.ones(n), [np.arange(n)])
    return believe.motion(motion, design, np.zeros((n, 3)), np.array([0]))


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


def read_table(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    with path.open() as file:
        header, *rows = csv.reader(file, delimiter="\t")
    return tuple(header), np.array(rows, float)


def test_none_passes_the_series_through(tmp_path: Path, files) -> None:
    made, context = step(tmp_path, files, method="none")
    assert np.array_equal(images.read_float(made["dwi"])[0], images.read_float(files["dwi"])[0])
    np.testing.assert_allclose(np.loadtxt(made["bvec"]), np.loadtxt(files["bvec"]), atol=1e-9)
    header, rows = read_table(made["motion"])
    assert header == eddy.MOTION_COLUMNS
    assert np.array_equal(rows[:, 0], np.arange(9)) and not rows[:, 1:].any()
    assert read_table(made["outliers"])[0] == OUTLIER_COLUMNS
    header, rows = read_table(made["distortion"])
    assert header == DISTORTION_COLUMNS and not rows[:, 1:].any()
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
        assert not read_table(made["motion"])[1][:, 1:].any()


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
    assert not rows[0, 1:].any() and rows[:, 7].max() > 1
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
    assert {"eddy currents": "linear"}.items() <= {fact.name: fact.value for fact in context.facts}.items()
    quadratic = [n for n in DISTORTION_COLUMNS[1:-1] if len(n) == 4]
    header, rows = read_table(made["distortion"])
    np.testing.assert_allclose(rows[:, [header.index(n) for n in quadratic]], 0, atol=1e-3)


def test_no_eddy_currents_are_looked_for_where_the_phase_encoding_is_not_known(tmp_path: Path, files) -> None:
    about = json.loads(files["scan"].read_text())
    for volume in about["volumes"]:
        volume["phase_encoding_direction"] = None
    files["scan"].write_text(json.dumps(about))
    made, context = step(tmp_path, files)
    assert not read_table(made["distortion"])[1][:, 1:].any()
    assert {"eddy currents": "not corrected"}.items() <= {f.name: f.value for f in context.facts}.items()


def test_a_mask_given_is_the_region_of_motion(tmp_path: Path, files) -> None:
    truth = phantom(shape=(24, 22, 6), voxel=(4.0, 4.0, 6.0), n=7)
    files["mask_given"] = images.write(tmp_path / "mine.nii", truth.inside, truth.grid)
    assert step(tmp_path, files, method="rigid")[1].facts[0].value == "mine.nii"


def test_a_mask_on_another_grid_is_an_error(tmp_path: Path, files) -> None:
    files["mask_given"] = images.write(
        tmp_path / "m.nii", np.ones((5, 5, 5), bool), oblique((5, 5, 5), (2, 2, 2))
    )
    with pytest.raises(DatasetError, match="MASK_GRID"):
        step(tmp_path, files)


def test_real_reversed_scans_agree_better_after_correction(real_data: Path) -> None:
    """Volumes of a real scan differ less from their neighbours once aligned, and stay where they are."""
    folder = real_data / "brain-bids/sub-uih/dwi"
    data, grid = images.read_float(folder / "sub-uih_dir-AP_dwi.nii.gz")
    stem = folder / "sub-uih_dir-AP_dwi"
    gradients = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    mask = body_mask(data[..., 0])
    series = Acquisition(data, gradients, Encoding.unknown(data.shape[3]), mask, grid)
    found = corrector.correct(series, Options(degree=0))
    assert 0.02 < found.motion[:, 6].max() < 3
    assert np.linalg.norm(found.gradients.bvecs[1:], axis=1) == pytest.approx(1)


@pytest.mark.parametrize(("rotation_deg", "warned"), [(5.0, False), (33.0, True)])
def test_motion_that_no_body_makes_is_doubted(rotation_deg: float, warned: bool, tmp_path: Path) -> None:
    context = Context(tmp_path)
    gradients = Gradients(np.zeros(3), np.zeros((3, 3)))
    found = eddy.as_it_is(np.zeros((1, 1, 1, 3), np.float32), gradients)
    found.motion[2, 4] = rotation_deg
    eddy._tell(found, context)
    assert [problem.code for problem in context.warnings] == ["MOTION_LARGE"] * warned
    assert context.numbers["motion_max_rotation_deg"] == rotation_deg
