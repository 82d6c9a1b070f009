"""The parts of the correction: splines, polynomials, belief, prediction, lost slices, groups."""

from __future__ import annotations

import numpy as np
import pytest
from heads import oblique, sphere
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from somite.corrected import polynomial
from somite.correction import believe, estimation, gaps
from somite.correction.estimation import turned
from somite.correction.predict import Kriging
from somite.correction.series import Encoding, Pose, Series, Sites, exponents, slopes, terms
from somite.correction.shells import shells_of
from somite.gradients import Gradients
from somite.sampling import coefficients, sample, sample_slopes


@pytest.mark.parametrize("shape", [(9, 8, 7), (6, 1, 5), (5, 2, 3)])
def test_sampling_is_the_cubic_spline_and_knows_the_field_of_view(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    volume = rng.random(shape).astype(np.float32)
    top = np.array(shape) - 1
    at = rng.uniform(-1, top + 1.0, (2000, 3))
    at[: volume.size] = np.argwhere(np.ones(shape))
    at[:1000] = np.clip(at[:1000], 0, top)
    values, inside = sample(coefficients(volume), at)
    assert np.array_equal(inside > 0, ((at >= -0.05) & (at <= top + 0.05)).all(1))
    assert inside[:1000].all() and not inside[1000:].all()
    expected = map_coordinates(volume.astype(float), at.T, order=3, mode="mirror")
    np.testing.assert_allclose(values[inside > 0], expected[inside > 0], atol=1e-4)
    assert not values[inside == 0].any()


@pytest.mark.parametrize("shape", [(9, 8, 7), (6, 5, 1), (2, 3, 4)])
def test_slopes_of_the_spline_are_its_derivatives(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    spline, top = coefficients(rng.normal(100, 20, shape)), np.array(shape) - 1
    at = rng.uniform(0.02 * (top > 0), np.maximum(top - 0.02, 0), (500, 3))
    values, slopes_found = sample_slopes(spline, at)
    np.testing.assert_allclose(values, sample(spline, at)[0], atol=1e-4)
    for axis in range(3):
        step = 0.01 * (np.arange(3) == axis)
        if shape[axis] == 1:
            assert np.abs(slopes_found[:, axis]).max() < 1e-3
        else:
            rise = sample(spline, at + step)[0].astype(float) - sample(spline, at - step)[0]
            np.testing.assert_allclose(slopes_found[:, axis], rise / 0.02, atol=0.05)


@pytest.mark.parametrize(("degree", "count"), [(0, 0), (1, 3), (2, 9)])
def test_slopes_are_the_derivatives_of_the_terms(degree: int, count: int) -> None:
    rng = np.random.default_rng(0)
    points, powers = rng.uniform(-80, 80, (50, 3)), exponents(degree)
    assert len({tuple(p) for p in powers}) == len(powers) == count
    along = np.array([0.6, -0.48, 0.64])
    up, down = (terms(points + sign * 5 * along, powers).astype(float) for sign in (1, -1))
    np.testing.assert_allclose(slopes(points, powers, along), (up - down) / 10, atol=1e-6)
    if degree == 2:
        np.testing.assert_allclose(terms(points, powers), polynomial(points)[:, 1:], atol=1e-6)


def test_eddy_currents_are_what_is_linear_in_direction() -> None:
    rng = np.random.default_rng(1)
    g = sphere(30)
    design = believe.Design.of(np.full(30, 1000.0), g, np.ones(30), [np.arange(30)])
    sizes = np.array([0.3, 0.2, 0.1])
    odd = g @ rng.normal(0, 1, (3, 3)) / sizes
    even = np.stack([g[:, 0] ** 2, g[:, 1] * g[:, 2], g[:, 2] ** 2], 1) @ rng.normal(0, 1, (3, 3)) / sizes
    noise = rng.normal(0, 0.03, (30, 3)) / sizes
    volumes = np.arange(30)
    believed = believe.eddy_terms(odd + even + noise, sizes, design, volumes)
    kept = believe.eddy_terms(odd + noise, sizes, design, volumes)
    assert ((believed - odd) * sizes).std() < 0.15 * (even * sizes).std()
    assert ((kept - odd) * sizes).std() < 0.06


def drifting() -> tuple[believe.Design, np.ndarray, np.ndarray, np.ndarray]:
    """Design, true path, feigned motion, and what was found, of one b=0 volume and 30 directions."""
    rng = np.random.default_rng(2)
    g = np.vstack([np.zeros(3), sphere(30)])
    weighted = np.arange(1, 31)
    design = believe.Design.of(np.r_[0, np.full(30, 1000.0)], g, np.ones(31), [weighted])
    path = np.cumsum(rng.normal(0, 0.1, (31, 6)), 0)
    path -= path[0]
    feigned = (g**2) @ rng.normal(0, 0.7, (3, 6)) + 0.5 * np.outer(g[:, 0] * g[:, 1], np.ones(6))
    return design, path, feigned, path + feigned


def test_motion_is_what_follows_time_and_not_direction() -> None:
    design, path, feigned, found = drifting()
    breaks = np.array([0, 1])
    believed = believe.motion(found, design, np.zeros((31, 3)), breaks)
    error = (believed - path)[1:]
    kept = believe.motion(path, design, np.zeros((31, 3)), breaks) - path
    assert error.std(0).mean() < 0.3 * feigned[1:].std(0).mean()
    assert kept[1:].std(0).mean() < 0.1
    assert np.array_equal(believed[0], found[0])


def test_a_link_fixes_the_offset_of_a_shell() -> None:
    design, path, feigned, found = drifting()
    link = believe.Link(np.arange(1, 31), -feigned[1:].mean(0), np.full(6, 0.02))
    without, linked = (
        believe.motion(found, design, np.zeros((31, 3)), np.array([0, 1]), links) for links in ([], [link])
    )
    offsets = [np.abs((one - path)[1:].mean(0)).mean() for one in (found, without, linked)]
    assert offsets[2] < 0.1 * offsets[0] and offsets[2] < 0.5 * offsets[1]


def test_a_volume_is_foretold_by_the_others_alone() -> None:
    rng = np.random.default_rng(0)
    g, m = sphere(30), 600
    fibre = rng.standard_normal((m, 3))
    fibre /= np.linalg.norm(fibre, axis=1)[:, None]
    aniso = rng.uniform(0, 1.2e-3, m)
    values = 1000 * np.exp(-1000 * (0.5e-3 + aniso * (g @ fibre.T) ** 2))
    kriging = Kriging.of(values.astype(np.float32), g, [np.empty(0, np.intp), np.arange(30)])
    signal, own, weights = kriging.signal, kriging.own, kriging.without_itself()
    assert not np.diag(weights).any()
    error = np.abs(weights @ values - values) / values
    assert error.mean() < 0.05
    np.testing.assert_allclose(signal, signal.T, rtol=1e-6)
    lost = np.isin(np.arange(30), [3, 8, 20])
    several = kriging.of_lost(lost) @ values[~lost]
    assert (np.abs(several - values[lost]) / values[lost]).mean() < 0.06
    alone = kriging.of_lost(np.arange(30) == 8) @ values[np.arange(30) != 8]
    np.testing.assert_allclose(alone, weights[8:9] @ values, rtol=1e-3)
    assert (np.linalg.eigvalsh(signal) > -1e-6 * np.trace(signal)).all() and (own > 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lost_slices_are_bridged(axis: int) -> None:
    ramp = np.moveaxis(np.tile(np.arange(8.0), (3, 4, 1)), -1, axis)
    lost = np.isin(np.arange(8), [0, 3, 4, 7])
    spoilt = ramp.copy()
    np.moveaxis(spoilt, axis, -1)[..., lost] = -50
    found = np.moveaxis(gaps.bridged(spoilt, lost, axis), axis, -1)
    np.testing.assert_allclose(found[0, 0], [1, 1, 2, 3, 4, 5, 6, 6], atol=1e-6)
    assert np.array_equal(found, np.broadcast_to(found[:1, :1], found.shape))
    for hopeless in (np.zeros(8, bool), np.ones(8, bool)):
        assert np.array_equal(gaps.bridged(spoilt, hopeless, axis), spoilt)


def test_positions_near_a_lost_slice_draw_on_it() -> None:
    lost = np.isin(np.arange(6), [3])
    at = np.zeros((7, 3), np.float32)
    at[:, 1] = [1.9, 2.05, 2.5, 3.0, 3.5, 3.95, 4.2]
    assert gaps.touches(at, lost, 1).tolist() == [False, False, True, True, True, False, False]
    assert not gaps.touches(at, lost, 0).any()


def test_groups_part_by_phase_encoding_unless_small() -> None:
    b = np.array([0, *[1000] * 9, *[2000] * 5, 0], float)
    gradients = Gradients(b, np.tile([1.0, 0, 0], (16, 1)) * (b > 0)[:, None])
    signs = np.ones(16)
    signs[[0, 2, 4, 6, 8, 11]] = -1
    encoding = Encoding(np.zeros(16, np.intp), signs, np.ones(16))
    groups = [g.tolist() for g in estimation.groups_of(gradients, encoding, 50)]
    # One volume of the outer shell would be a part of its own: too few.
    assert groups == [[0, 15], [1, 3, 5, 7, 9], [2, 4, 6, 8], [10, 11, 12, 13, 14]]
    axes = Encoding(np.where(signs > 0, 0, 1), np.ones(16), np.ones(16))
    assert [g.tolist() for g in estimation.groups_of(gradients, axes, 50)] == groups
    same = [g.tolist() for g in estimation.groups_of(gradients, Encoding.unknown(16), 50)]
    assert same == [[0, 15], list(range(1, 10)), list(range(10, 15))]


def test_the_reference_may_be_any_volume() -> None:
    """Motion told relative to another volume leaves the distances between volumes as they are."""
    rng = np.random.default_rng(0)
    pose = Pose.still(4, 0)
    pose.set_vectors(np.arange(4), rng.normal(0, 3, (4, 6)), 40.0)
    centre = np.array([5.0, -3, 20])
    before = pose.transforms(centre)
    pose.refer_to(range(4), pose.rotations[2].copy(), pose.shifts[2].copy())
    after = pose.transforms(centre)
    np.testing.assert_allclose(after[2], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(after @ before[2], before, atol=1e-9)


def test_a_still_series_lies_on_its_own_voxels() -> None:
    grid = oblique((7, 6, 5), (2.0, -2.0, 3.0))
    data = np.random.default_rng(0).random((7, 6, 5, 2)).astype(np.float32)
    encoding = Encoding(np.array([1, 1]), np.array([1.0, -1.0]), np.array([0.05, 0.05]))
    uniform = np.full(grid.shape, 20.0)  # a voxel at this readout time
    series = Series(data, encoding, Sites.of(np.ones(grid.shape, bool), grid), 2, uniform)
    for volume, sign in enumerate(encoding.signs):
        at, factor = series.places(volume, series.frame)
        np.testing.assert_allclose(at - series.sites.voxels, np.tile([0, sign, 0], (210, 1)), atol=1e-4)
        np.testing.assert_allclose(factor, 1, atol=1e-6)


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
