"""The field of a pair is found on phantoms whose field is known, on any axis, grid and thread count."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import install
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation

from somite import images
from somite.columns import Columns, at_centres, at_faces, undistort
from somite.errors import DatasetError, ToolError
from somite.fieldmap import as_if_unmoved, estimate
from somite.fsl_topup import configuration
from somite.gradients import Gradients, write_fsl
from somite.images import Grid
from somite.interfaces import susceptibility
from somite.interfaces.susceptibility import Side, average, find_field, find_sides, pair_of
from somite.registration import about, displacement_mm, region_of
from somite.registry import Context

FINE = 8  # parts of a voxel along phase encoding, in which the phantom is distorted


def oblique(shape: tuple[int, int, int], voxel: tuple[float, ...]) -> Grid:
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", (9, -14, 20), degrees=True).as_matrix()
    affine[:3, :3] = axes @ np.diag(voxel)
    affine[:3, 3] = np.array([4, -9, 21]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


@dataclass(frozen=True)
class Pair:
    """Two images of one object, pushed to opposite sides along `axis`; the field in voxels."""

    one: np.ndarray
    two: np.ndarray
    truth: np.ndarray
    field: np.ndarray
    body: np.ndarray
    grid: Grid
    axis: int

    def error(self, displacement: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(displacement - self.field)[self.body])


def push(fine: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Move the signal of columns (u, v, FINE * n) by a displacement (u, v, n) in voxels; none is lost."""
    n = displacement.shape[2]
    edges = np.arange(FINE * n + 1) / FINE
    pushed = np.empty(displacement.shape)
    for u, v in np.ndindex(*displacement.shape[:2]):
        moved = edges + np.interp(edges, np.arange(n) + 0.5, displacement[u, v])
        total = np.r_[0, np.cumsum(fine[u, v])] / FINE
        pushed[u, v] = np.diff(np.interp(np.arange(n + 1), np.maximum.accumulate(moved), total))
    return pushed


@cache
def pair(
    shape: tuple[int, int, int] = (45, 38, 15),
    voxel: tuple[float, ...] = (2.4, -2.0, 3.5),
    axis: int = 0,
    snr: float = 25,
    factors: tuple[float, float] = (1.0, -1.0),
    movement: tuple[float, ...] | None = None,
) -> Pair:
    """A textured ellipsoid bent by the dipole fields of two cavities: of no family of the estimator's."""
    rng = np.random.default_rng(3)
    grid = oblique(shape, voxel)
    order = [a for a in range(3) if a != axis] + [axis]
    n = tuple(shape[a] for a in order)
    mm = np.abs(np.array(voxel))[order]
    fine_shape = (*n[:2], FINE * n[2])
    steps = mm / np.array([1, 1, FINE])
    u, v, w = np.meshgrid(
        *((np.arange(k) - (k - 1) / 2) * s for k, s in zip(fine_shape, steps, strict=True)), indexing="ij"
    )
    half = np.array(n) * mm / 2
    depth = 1 - np.sqrt((u / half[0] / 0.85) ** 2 + (v / half[1] / 0.85) ** 2 + (w / half[2] / 0.78) ** 2)
    texture = gaussian_filter(rng.standard_normal(fine_shape), 4 / steps)
    signal = np.where(depth > 0, 700 * np.clip(1 + 0.35 * texture / texture.std(), 0.2, 2.5), 0)
    signal[(depth > 0.02) & (depth < 0.1)] *= 2
    signal = gaussian_filter(signal, 1.0 / steps)
    field = np.zeros(n)
    coarse = [(np.arange(k) - (k - 1) / 2) * s for k, s in zip(n, mm, strict=True)]
    cu, cv, cw = np.meshgrid(*coarse, indexing="ij")
    for sign, centre, radius in ((1, (0.1, -0.2, 0.95), 20), (-1, (-0.6, 0.3, -0.7), 15)):
        away = [c - x * h for c, x, h in zip((cu, cv, cw), centre, half, strict=True)]
        r = np.maximum(np.sqrt(sum(a**2 for a in away)), radius)
        field += sign * 1.3 * (3 * (away[1] / r) ** 2 - 1) * (radius / r) ** 3
    field = gaussian_filter(field, 3 / mm)
    clean = signal.reshape(*n, FINE).mean(-1)
    second, second_field = signal, field
    if movement is not None:
        turn = Rotation.from_rotvec(np.deg2rad(movement[3:])).as_matrix()
        second, second_field = (
            affine_transform(
                a,
                np.diag(1 / s) @ turn.T @ np.diag(s),
                (np.array(a.shape) - 1) / 2
                - np.diag(1 / s) @ turn.T @ (np.diag(s) @ (np.array(a.shape) - 1) / 2 + movement[:3]),
                order=3,
                mode="nearest",
            )
            for a, s in ((signal, steps), (field, mm))
        )
    sensitivity = np.exp(0.25 * np.sin(cw / 45) + 0.2 * np.cos(cu / 50))
    made = []
    for columns, b, factor in ((signal, field, factors[0]), (second, second_field, factors[1])):
        pushed = push(columns, factor * b) * sensitivity
        noise = rng.normal(0, 700 / snr, (2, *n))
        made.append(np.hypot(pushed + noise[0], noise[1]))
    back = [np.moveaxis(a, 2, axis).astype(np.float32) for a in (*made, clean, field)]
    return Pair(*back, np.moveaxis(clean > 250, 2, axis), grid, axis)


def found(pair: Pair, factors: tuple[float, float] = (1.0, -1.0), threads: int = 1, **options: Any):
    return estimate((pair.one, pair.two), factors, pair.grid, pair.axis, threads, **options)


# Columns


def test_columns_keep_the_signal_and_invert_an_independent_distortion() -> None:
    truth = pair(snr=1e6)
    one = undistort(truth.one, truth.field, truth.axis)
    sensitivity = pair(snr=1e6).truth[truth.body].mean()
    before = np.abs(truth.one - truth.truth)[truth.body].mean() / sensitivity
    both = 0.5 * (one + undistort(truth.two, -truth.field, truth.axis))
    ratio = gaussian_filter(both, 6) / gaussian_filter(truth.truth, 6)  # the sensitivity is none of its work
    after = np.abs(both / np.maximum(ratio, 0.1) - truth.truth)[truth.body].mean() / sensitivity
    assert after < 0.04 < 0.15 < before
    inside = np.zeros((4, 5, 20))
    inside[..., 6:14] = 1
    shift = np.sin(np.arange(20) / 4) * np.ones((4, 5, 1))
    assert undistort(inside, shift, 2).sum() == pytest.approx(inside.sum(), rel=1e-6)


def test_a_volume_without_distortion_stays_as_it_is() -> None:
    volume = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    for axis in range(3):
        assert undistort(volume, np.zeros(volume.shape), axis) == pytest.approx(volume, abs=1e-6)
    whole = undistort(volume, np.full(volume.shape, 2.0), 2)
    assert whole[..., :-2] == pytest.approx(volume[..., 2:], abs=1e-6)
    one_thin = volume[:, :1]
    assert undistort(one_thin, np.zeros(one_thin.shape), 1) == pytest.approx(one_thin)


def test_density_is_the_derivative_of_the_signal() -> None:
    rng = np.random.default_rng(0)
    columns = Columns.of(rng.random((3, 2, 12)))
    at = rng.uniform(-0.8, 0.8, (3, 2, 13))
    step = np.zeros((3, 2, 13))
    step[..., 5] = 1e-3
    up, down = (columns.displaced(at + sign * step)[0].astype(float) for sign in (1, -1))
    slope = (up - down)[..., 4] / 2e-3
    assert slope == pytest.approx(columns.displaced(at)[1][..., 5], abs=2e-3)
    assert at_centres(at_faces(np.full((2, 2, 4), 3.0))) == pytest.approx(3)


# Accuracy


@pytest.mark.parametrize("axis", [0, 1])
def test_a_dipole_field_is_found_on_an_oblique_odd_anisotropic_grid(axis: int) -> None:
    truth = pair(axis=axis)
    result = found(truth)
    error, before = truth.error(result.displacement), np.abs(truth.field)[truth.body]
    assert before.mean() > 0.14
    assert error.mean() < 0.03
    assert np.percentile(error, 99) < 0.12
    assert displacement_mm(result.movement, region_of(truth.body, truth.grid)) < 0.25


@pytest.mark.parametrize("snr", [10, 30])
def test_the_smoothness_follows_the_noise(snr: float) -> None:
    truth = pair(snr=snr)
    error = truth.error(found(truth).displacement)
    assert error.mean() < {10: 0.045, 30: 0.022}[snr]


def test_a_noisier_pair_gets_a_smoother_field() -> None:
    assert found(pair(snr=10)).smoothness > 1.5 * found(pair(snr=30)).smoothness


def test_neither_the_unit_of_intensity_nor_a_factor_between_the_images_matters() -> None:
    truth = pair()
    plain = found(truth)
    scaled = found(replace(truth, one=truth.one * 1e-4, two=truth.two * 1.2e-4))
    assert np.abs(scaled.displacement - plain.displacement)[truth.body].mean() < 0.02
    assert scaled.undistorted.mean() == pytest.approx(1.1e-4 * plain.undistorted.mean(), rel=0.02)


def test_readout_times_that_differ_push_the_sides_differently() -> None:
    factors = (0.6, -1.4)
    truth = pair(factors=factors)
    assert truth.error(found(truth, factors).displacement).mean() < 0.03
    reverse = pair(factors=(-1.0, 1.0))
    assert reverse.error(found(reverse, (-1.0, 1.0)).displacement).mean() < 0.03


def test_a_movement_between_the_images_is_found_along() -> None:
    """Across phase encoding: along it, a shift is not told from a constant field."""
    # Axes of the columns: u, v, w; phase encoding is w, voxel axis i. Voxel axes j and k are u and v.
    truth = pair(shape=(45, 38, 20), voxel=(2.4, 2.0, 3.0), movement=(1.2, -0.9, 0.0, 0.6, -0.5, 1.0))
    still, moved = found(truth, move=False), found(truth)
    apart = [truth.error(r.displacement).mean() for r in (still, moved)]
    assert apart[1] < 0.05 < 0.1 < apart[0]
    centre = truth.grid.affine @ np.r_[(np.array(truth.grid.shape) - 1) / 2, 1]
    axes = truth.grid.affine[:3, :3] / truth.grid.voxel_mm
    shift = (moved.movement @ centre - centre)[:3] @ axes
    assert shift[[1, 2]] == pytest.approx([1.2, -0.9], abs=0.25)
    turn = Rotation.from_matrix(axes.T @ moved.movement[:3, :3] @ axes).as_rotvec(degrees=True)
    # Axes (w, u, v) are a cyclic order of (u, v, w): rotations keep their sense.
    assert turn == pytest.approx([1.0, 0.6, -0.5], abs=0.35)


def test_a_turn_of_the_body_leaves_its_distortion_along_the_scanner() -> None:
    """A blob that is displaced by 3 voxels along j, whatever the turn of the body that it is part of."""
    grid = oblique((30, 34, 28), (2.0, 2.0, 2.0))
    to_world = grid.affine
    middle = to_world[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + to_world[:3, 3]
    turn = Rotation.from_rotvec(np.deg2rad([8.0, -5.0, 10.0])).as_matrix()
    movement = about(middle, turn, np.array([1.0, -0.5, 0.8]))
    blob, displaced = np.array([12.0, 14.0, 11.0]), np.array([0.0, 3.0, 0.0])

    def image(voxel: np.ndarray) -> np.ndarray:
        away = np.moveaxis(np.indices(grid.shape), 0, -1) - voxel
        return np.asarray(1000 * np.exp(-(away**2).sum(-1) / (2 * 2.0**2)), np.float32)

    world = movement[:3, :3] @ (to_world[:3, :3] @ blob + to_world[:3, 3]) + movement[:3, 3]
    there = np.linalg.solve(to_world[:3, :3], world - to_world[:3, 3])
    shift = np.full(grid.shape, 3.0, np.float32)
    found = as_if_unmoved(image(there + displaced), movement, shift, grid, 1)
    expected = image(blob + displaced)
    assert np.abs(found - expected).max() < 0.02 * 1000


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    truth = pair()
    one, three = found(truth), found(truth, threads=3)
    assert np.array_equal(one.displacement, three.displacement)
    assert np.array_equal(one.undistorted, three.undistorted) and np.array_equal(one.movement, three.movement)


def test_the_same_pair_stored_otherwise_gives_the_same_field() -> None:
    truth = pair()
    affine = truth.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (truth.grid.shape[0] - 1)
    affine[:3, 0] *= -1
    stored = Grid((15, 45, 38), affine[:, [2, 0, 1, 3]])
    turned = replace(
        truth,
        one=truth.one[::-1].transpose(2, 0, 1),
        two=truth.two[::-1].transpose(2, 0, 1),
        grid=stored,
        axis=1,
    )
    again = found(turned, (-1.0, 1.0)).displacement.transpose(1, 2, 0)[::-1]
    assert np.abs(again - found(truth).displacement)[truth.body].mean() < 0.02


@pytest.mark.parametrize("shape", [(40, 36, 1), (9, 8, 3), (24, 1, 5)])
def test_few_voxels_and_single_slices_give_finite_fields(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.random(shape), 1) * 100
    for axis in range(3):
        result = estimate((volume, volume[::1]), (1.0, -1.0), oblique(shape, (2.0, 2.0, 4.0)), axis)
        assert np.isfinite(result.displacement).all() and np.abs(result.displacement).max() < 0.5
    dark = estimate((volume * 0, volume * 0), (1.0, -1.0), oblique(shape, (2.0, 2.0, 4.0)), 0)
    assert not dark.displacement.any() and not dark.undistorted.any()


def test_real_reversed_scans_agree_after_correction(real_data: Path) -> None:
    folder = real_data / "brain-bids/sub-uih/dwi"
    (ap, grid), (pa, _) = (images.read_float(folder / f"sub-uih_dir-{d}_dwi.nii.gz") for d in ("AP", "PA"))
    ap, pa = ap[..., 0], pa[..., 0]
    result = estimate((ap, pa), (-1.0, 1.0), grid, 1)
    body = result.undistorted > 0.3 * np.percentile(result.undistorted, 99)
    after = [undistort(ap, -result.displacement, 1), undistort(pa, result.displacement, 1)]
    assert np.corrcoef(ap[body], pa[body])[0, 1] < 0.9
    assert np.corrcoef(after[0][body], after[1][body])[0, 1] > 0.96


# Sides


def test_volumes_of_one_direction_are_averaged_where_they_lie_on_the_first() -> None:
    truth = pair()
    region = region_of(truth.body, truth.grid)
    from somite.registration import resample, small_motion

    moved = resample(truth.one, small_motion(np.array([0.5, -0.4, 0.3, 1.0, 0.8, -1.2]), region), truth.grid)[
        0
    ]
    mean = average(Side("i", 0.05, (truth.one, moved)), truth.grid)
    inner = truth.body
    assert np.abs(mean - truth.one)[inner].mean() < 0.5 * np.abs(0.5 * (moved - truth.one))[inner].mean()
    assert np.array_equal(average(Side("i", None, (truth.one,)), truth.grid), truth.one)


def test_sides_are_told_by_direction_and_readout_time() -> None:
    data = np.arange(5.0)[None, None, None]
    about = [{"phase_encoding_direction": d, "total_readout_time_s": t} for d, t in
             (("j", 0.05), ("j", 0.05), ("j-", 0.05), ("j", 0.04), ("i", 0.05))]  # fmt: skip
    sides = find_sides(data, np.ones(5, bool), about, [Side("j-", 0.05, (data[..., 0],))])
    assert [(s.direction, s.readout_s, len(s.volumes)) for s in sides] == [
        ("j", 0.05, 2), ("j-", 0.05, 2), ("j", 0.04, 1), ("i", 0.05, 1)
    ]  # fmt: skip
    assert pair_of(sides, "here") == (sides[0], sides[1])
    with pytest.raises(DatasetError, match="NO_OPPOSED_PE"):
        pair_of([sides[0], sides[2], sides[3]], "here")
    with pytest.raises(DatasetError, match="READOUT_ONE_SIDED"):
        pair_of([sides[0], Side("j-", None, ())], "here")
    about[0]["phase_encoding_direction"] = None
    with pytest.raises(DatasetError, match="NO_PHASE_ENCODING"):
        find_sides(data, np.ones(5, bool), about)


def test_the_step_pushes_each_side_by_its_own_readout_time() -> None:
    truth = pair(factors=(0.6, -1.4))
    sides = Side("i", 0.03, (truth.one,)), Side("i-", 0.07, (truth.two,))
    assert truth.error(find_field(sides, truth.grid).displacement).mean() < 0.03


# The step


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """A series of one direction, and a file of the other that is stored in another order."""
    truth = pair()
    dwi = images.write(tmp_path / "dwi.nii", np.stack([truth.one, truth.one * 0.5], -1), truth.grid)
    table = Gradients(np.array([0.0, 800]), np.array([[0, 0, 0], [0, 0, 1.0]]))
    bval, bvec = write_fsl(table, tmp_path / "a.bval", tmp_path / "a.bvec", truth.grid.affine)
    affine = truth.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (truth.grid.shape[0] - 1)
    affine[:3, 0] *= -1
    stored = Grid((15, 45, 38), affine[:, [2, 0, 1, 3]])
    volumes = np.stack([truth.two * 0, truth.two[::-1].transpose(2, 0, 1).reshape(15, 45, 38)][1:] * 1, -1)
    opposed = images.write(tmp_path / "pa.nii", np.concatenate([volumes * 0, volumes], 3), stored)
    scan = {"volumes": [{"phase_encoding_direction": "i", "total_readout_time_s": 0.04}] * 2}
    # `i-` of the series is `j` of the file, whose axis is turned round.
    one = {"name": "pa", "phase_encoding_direction": "j", "total_readout_time_s": 0.04, "b0_volumes": [1]}
    (tmp_path / "scan.json").write_text(json.dumps(scan))
    (tmp_path / "pairing.json").write_text(json.dumps({"opposed": [one]}))
    return {
        "dwi": dwi,
        "bval": bval,
        "bvec": bvec,
        "scan": tmp_path / "scan.json",
        "pairing": tmp_path / "pairing.json",
        "opposed": (opposed,),
    }


def run(folder: Path, files: dict[str, Any], **options: Any) -> tuple[np.ndarray, np.ndarray, Context]:
    context = Context(folder / "work folder", threads=2)
    context.folder.mkdir()
    made = susceptibility.run(**files, config=susceptibility.Config(**options), context=context)
    (field, grid), (b0, _) = (images.read_float(path) for path in made)
    assert grid.matches(pair().grid)
    return field, b0, context


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    for entry in content.get("opposed", content.get("volumes")):
        entry.update(values)
    path.write_text(json.dumps(content))


def test_the_field_is_in_hz_where_readout_times_are_known(tmp_path: Path, files) -> None:
    field, b0, context = run(tmp_path, files)
    truth = pair()
    assert truth.error(field * 0.04).mean() < 0.05
    assert np.corrcoef(b0[truth.body], truth.truth[truth.body])[0, 1] > 0.8
    assert context.numbers["distortion_mean_mm"] == pytest.approx(
        2.4 * np.abs(truth.field)[truth.body].mean(), rel=0.15
    )
    assert context.numbers["pair_movement_mm"] < 0.25
    assert not [fact for fact in context.facts if fact.name == "unit of the field"]


def test_the_field_is_in_voxels_where_they_are_not(tmp_path: Path, files) -> None:
    edit(files["scan"], total_readout_time_s=None)
    edit(files["pairing"], total_readout_time_s=None)
    field, _, context = run(tmp_path, files)
    assert pair().error(field).mean() < 0.05
    (fact,) = [fact for fact in context.facts if fact.name == "unit of the field"]
    assert fact.value == "voxels of displacement"


def test_the_series_itself_may_hold_both_directions(tmp_path: Path, files) -> None:
    truth = pair()
    files["dwi"] = images.write(tmp_path / "both.nii", np.stack([truth.one, truth.two], -1), truth.grid)
    files["bval"].write_text("0 0\n")
    scan = json.loads(files["scan"].read_text())
    scan["volumes"][1] = scan["volumes"][1] | {"phase_encoding_direction": "i-"}
    files["scan"].write_text(json.dumps(scan))
    files["pairing"].write_text('{"opposed": []}')
    files["opposed"] = None
    assert truth.error(run(tmp_path, files)[0] * 0.04).mean() < 0.05


def test_none_makes_no_field(tmp_path: Path, files) -> None:
    field, b0, _ = run(tmp_path, files, method="none")
    assert not field.any() and np.array_equal(b0, pair().one)


def test_an_opposed_image_that_does_not_fit_is_an_error(tmp_path: Path, files) -> None:
    edit(files["pairing"], b0_volumes=[2])
    with pytest.raises(DatasetError, match="OPPOSED_VOLUMES"):
        run(tmp_path, files)
    other = images.write(tmp_path / "o.nii", np.ones((6, 6, 6)), oblique((6, 6, 6), (2.0, 2.0, 2.0)))
    (tmp_path / "again").mkdir()
    with pytest.raises(DatasetError, match="OPPOSED_GRID"):
        run(tmp_path / "again", files | {"opposed": (other,)})


# FSL topup, by its stand-in


def topup(folder: Path, files, monkeypatch: pytest.MonkeyPatch, mode: str = ""):
    install("topup", folder, monkeypatch)
    monkeypatch.setenv("FAKE_MODE", mode)
    return run(folder, files, method="topup")


def test_topup_gets_its_files_and_gives_its_field(
    tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch
) -> None:
    field, b0, context = topup(tmp_path, files, monkeypatch)
    assert (field == 12.5).all()
    assert b0 == pytest.approx(0.5 * (pair().one + pair().two), rel=1e-5)
    (command,) = context.commands
    assert command.startswith("topup --config=b02b0_1.cnf --datain=") and "--fout=" in command
    # Negative determinant: the first axis stays as it is.
    assert np.linalg.det(pair().grid.affine) < 0
    rows = np.loadtxt(context.folder / "topup_acqp.txt")
    assert rows.tolist() == [[1, 0, 0, 0.04], [-1, 0, 0, 0.04]]
    assert susceptibility._fsl_tools(susceptibility.Config(method="topup")) == {"FSL": "6.0.7.4"}
    assert susceptibility._fsl_tools(susceptibility.Config()) == {}
    assert configuration((4, 6, 8)) == "b02b0.cnf"


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("late", "TOOL_FAILED"),
        ("quiet", "TOOL_OUTPUT_MISSING"),
        ("garbage", "TOOL_OUTPUT_UNREADABLE"),
        ("short", "TOOL_OUTPUT_UNREADABLE"),
        ("nan", "TOOL_OUTPUT_UNREADABLE"),
    ],
)
def test_topup_that_fails_is_not_believed(
    tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch, mode: str, code: str
) -> None:
    with pytest.raises(ToolError, match=code):
        topup(tmp_path, files, monkeypatch, mode)


def test_topup_that_is_not_there_is_said_at_plan_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        susceptibility._fsl_tools(susceptibility.Config(method="topup"))
