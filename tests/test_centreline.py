"""Centrelines of thin, curved, oblique labels: sub-voxel, in any storage order, as long as the label."""

from __future__ import annotations

import numpy as np
import pytest
from roots_on_grid import ORIENTATIONS, draw, grid_of

from somite.centreline import Centreline, NoCentreline, through_bundle, through_voxels
from somite.images import Grid
from somite.rootline import points_of


def tube(
    radius: float, bend_mm: float, length: float, voxel: tuple[float, ...], seed: int = 0
) -> tuple[np.ndarray, float]:
    """Centres of the voxels in a tube along an arc on a randomly turned grid, and their volume."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    half = (length + 4 * radius) / 2 + 2
    counts = [int(2 * half / v) for v in voxel]
    index = np.indices(counts).reshape(3, -1).T * np.array(voxel) - half + rng.uniform(0, 1, 3)
    p = index @ turn.T
    angle = np.arctan2(p[:, 0], bend_mm + p[:, 1])
    off = np.hypot(np.hypot(p[:, 0], bend_mm + p[:, 1]) - bend_mm, p[:, 2])
    inside = (off <= radius) & (np.abs(angle * bend_mm) <= length / 2)
    return p[inside], float(np.prod(voxel))


BALL = np.argwhere(((np.indices((9, 9, 9)) - 4) ** 2).sum(0) <= 16).astype(float)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("voxel", [1.5, 2.0])
def test_arc_length_along_a_root_is_the_true_one(orientation: str, voxel: float) -> None:
    grid = grid_of(orientation, voxel)
    drawn, _, _ = draw(grid)
    for one in drawn:
        if one.s[one.mask].max() < 29:  # leaves the field
            continue
        curve = through_voxels(points_of(one.mask, grid), grid.voxel_mm3)
        s, distance = curve.project(one.points)
        s = s if s[-1] > s[0] else -s
        along = s[20:-20] - one.root.s[20:-20]
        assert np.abs(along - np.median(along)).max() < 0.25
        assert distance[20:-20].mean() < 0.35


def test_lengths_are_right_on_average_and_no_end_shrinks() -> None:
    errors = []
    for seed in range(24):
        points, volume = tube(2.5, 60.0, 30.0, (1.5, 1.5, 1.5), seed)
        errors.append(through_voxels(points, volume).length_mm - 30.0)
    assert abs(np.mean(errors)) < 0.35
    assert min(errors) > -1.0  # half a millimetre at each end
    assert max(errors) < 1.5


@pytest.mark.parametrize(
    ("radius", "voxel"), [(1.5, (1.5, 1.5, 1.5)), (1.5, (1, 1, 3.0)), (2.5, (3, 3, 3.0))]
)
def test_thin_roots_and_coarse_voxels(radius: float, voxel: tuple[float, ...]) -> None:
    for seed in range(6):
        points, volume = tube(radius, 50.0, 30.0, voxel, seed)
        curve = through_voxels(points, volume)
        assert curve.length_mm == pytest.approx(30, abs=1.5 * max(voxel))
        # The true arc: its points lie 50 mm from the axis of the bend.
        off = np.hypot(np.hypot(curve.points[:, 0], 50 + curve.points[:, 1]) - 50, curve.points[:, 2])
        assert off.mean() < 0.25 * max(voxel)


def test_an_arc_is_not_straightened() -> None:
    points, volume = tube(2.0, 20.0, 50.0, (1.0, 1.0, 1.0))  # more than a third of a circle
    curve = through_voxels(points, volume)
    radius = np.hypot(curve.points[:, 0], 20 + curve.points[:, 1])
    assert radius.mean() == pytest.approx(20, abs=0.2)
    assert curve.length_mm == pytest.approx(50, abs=1.0)


def test_the_order_in_which_voxels_are_stored_changes_nothing() -> None:
    points, volume = tube(2.5, 60.0, 30.0, (1.5, 1.5, 1.5))
    one = through_voxels(points, volume)
    two = through_voxels(np.random.default_rng(0).permutation(points), volume)
    np.testing.assert_array_equal(one.points, two.points)


def test_a_broken_label_is_bridged() -> None:
    points, volume = tube(2.0, 60.0, 30.0, (1.5, 1.5, 1.5))
    x = points[:, 0]
    curve = through_voxels(points[(x < -1.5) | (x > 2.5)], volume)
    assert curve.length_mm == pytest.approx(30, abs=1.6)


def test_weights_move_the_curve() -> None:
    grid = Grid((30, 8, 8), np.diag([1.0, 1, 1, 1]))
    points = points_of(np.ones(grid.shape, bool), grid)
    weights = np.exp(-0.5 * ((points[:, 1] - 2) ** 2 + (points[:, 2] - 5) ** 2) / 0.8)
    curve = through_voxels(points, 1.0, weights)
    np.testing.assert_allclose(curve.points[50:-50, 1:].mean(0), (2, 5), atol=0.1)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (np.zeros((0, 3)), "0 voxels are too few"),
        (np.eye(3), "3 voxels are too few"),
        (BALL, "not longer than it is wide"),
    ],
)
def test_no_centreline_has_a_reason(points: np.ndarray, why: str) -> None:
    with pytest.raises(NoCentreline, match=why):
        through_voxels(points, 1.0)


def test_a_bundle_of_streamlines_in_either_direction() -> None:
    rng = np.random.default_rng(0)
    lines = []
    for k in range(20):
        angle = np.linspace(-0.3, 0.3, 40)
        line = np.stack([50 * np.sin(angle), 50 * np.cos(angle), 0 * angle], axis=1)
        line += rng.normal(0, 1, 3) * [0, 1, 1]  # side by side
        lines.append(line[::-1] if k % 2 else line)
    curve = through_bundle(lines)
    assert curve.length_mm == pytest.approx(30, abs=1.0)
    assert np.hypot(curve.points[:, 0], curve.points[:, 1]).mean() == pytest.approx(50, abs=0.6)
    with pytest.raises(NoCentreline, match="no streamline"):
        through_bundle([])


def test_projection_and_position_are_inverse_also_beyond_the_ends() -> None:
    points, volume = tube(2.5, 60.0, 30.0, (1.5, 1.5, 1.5))
    curve: Centreline = through_voxels(points, volume).measured_from(4.0)
    s = np.linspace(curve.s[0] - 5, curve.s[-1] + 5, 50)
    back, distance = curve.project(curve.at(s)[0])
    np.testing.assert_allclose(back, s, atol=0.01)
    np.testing.assert_allclose(distance, 0, atol=0.01)
    assert curve.s[0] == -4.0
    np.testing.assert_allclose(curve.reversed().points, curve.points[::-1])
