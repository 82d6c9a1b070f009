"""Rigid registration: resampling, least squares, mutual information."""

from __future__ import annotations

import numpy as np
import pytest
from heads import oblique
from limbs import phantom
from scipy.spatial.transform import Rotation

from somite.images import Grid
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
