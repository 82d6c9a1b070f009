"""Motion, eddy currents, fields and lost slices: undone on phantoms whose truth is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from heads import Truth, field_at, scheme, truth_of
from scipy.ndimage import gaussian_filter, shift
from scipy.spatial.transform import Rotation

from somite.corrected import polynomial
from somite.correction import corrector, estimation, slices
from somite.correction.estimation import Acquisition, Estimate, Options
from somite.correction.series import Encoding, Series, Sites
from somite.images import Grid


@cache
def one_shell() -> tuple[Truth, Estimate]:
    truth = truth_of()
    return truth, truth.estimate()


@cache
def with_lost() -> tuple[Truth, Estimate]:
    truth = truth_of(shape=(28, 28, 16), n=28, lost=0.05, seed=2)
    return truth, truth.estimate()


# The whole


def test_motion_and_eddy_currents_are_found() -> None:
    truth, found = one_shell()
    before, after = truth.residual_mm(None), truth.residual_mm(found)
    assert before.mean() > 2
    assert after.mean() < 0.37 and after.max() < 0.85
    assert after[found.groups[0]].max() < 0.1
    assert found.series.lost.mean() <= 0.01


def test_directions_turn_with_the_body() -> None:
    truth, found = one_shell()
    turned = estimation.turned(truth.gradients, found.pose)
    assert truth.bvec_error_deg(truth.gradients).mean() > 1
    assert truth.bvec_error_deg(turned).mean() < 0.3
    assert np.array_equal(turned.bvals, truth.gradients.bvals)


def test_tables_tell_the_true_motion_and_distortion() -> None:
    truth, found = one_shell()
    points = np.argwhere(truth.mask) @ truth.grid.affine[:3, :3].T + truth.grid.affine[:3, 3] - truth.middle
    table = corrector.distortion_table(found)
    # Towards higher indices; a constant is part of the motion.
    true, known = (
        polynomial(points) @ c.T for c in (truth.eddy * truth.encoding.signs[:, None], table[:, :10])
    )
    np.testing.assert_allclose(table[:, 10], np.sqrt((known**2).mean(0)), rtol=0.02, atol=1e-6)
    weighted = truth.gradients.bvals > 0
    apart, before = ((d - d.mean(0)).std(0)[weighted].mean() for d in (known - true, true))
    motion = corrector.motion_table(found)
    rigid = (points @ truth.rotations.transpose(0, 2, 1) + truth.shifts[:, None]) - points
    moved = np.linalg.norm(rigid, axis=-1).mean(1)
    turn = motion[:, 3:6] - Rotation.from_matrix(truth.rotations).as_rotvec(degrees=True)
    assert apart < 0.25 * before
    assert np.abs(motion[:, 6] - moved).mean() < 0.3 < 0.2 * moved.mean()
    assert np.abs(turn).mean() < 0.2
    assert not motion[0].any() and not table[~weighted].any()


def test_two_shells() -> None:
    truth = truth_of(shape=(32, 32, 14), shells=(1000.0, 2000.0), n=12, seed=3)
    found = truth.estimate()
    assert [truth.gradients.bvals[g][0] for g in found.groups] == [0, 1000, 2000]
    before, after = truth.residual_mm(None), truth.residual_mm(found)
    assert after.mean() < 0.55 and after.mean() < before.mean() / 3
    assert after[found.groups[0]].mean() < 0.1
    turned = estimation.turned(truth.gradients, found.pose)
    assert truth.bvec_error_deg(turned).mean() < 0.5 < truth.bvec_error_deg(truth.gradients).mean()


def test_more_rounds_would_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = with_lost()
    monkeypatch.setattr(estimation, "_WIDTHS", (*estimation._WIDTHS, *[estimation._WIDTHS[-1]] * 2))
    longer = truth.estimate()
    assert truth.residual_mm(longer).mean() < 1.1 * truth.residual_mm(found).mean()


def corrected(truth: Truth, threads: int = 1, moving: bool = True, **known: object) -> corrector.Corrected:
    return corrector.correct(truth.acquired(**known), Options(moving=moving), threads)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    truth = truth_of(shape=(22, 22, 12), n=8, lost=0.1, seed=4)
    one, three = corrected(truth, 1), corrected(truth, 3)
    assert one.outliers == three.outliers and one.outliers
    for a, b in ((one.data, three.data), (one.motion, three.motion), (one.distortion, three.distortion)):
        assert np.array_equal(a, b)
    assert np.array_equal(one.gradients.bvecs, three.gradients.bvecs)


def test_a_single_slice_with_eddy_currents_is_finite() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((32, 32, 1), np.diag([3.0, 3.0, 5.0, 1.0]))
    gradients = scheme((1000.0,), 13)
    n = len(gradients.bvals)
    disc = np.hypot(*(np.indices((32, 32)) - 15.5)) < 12
    data = np.where(disc, 500.0, 0)[..., None, None] + rng.normal(0, 10, (32, 32, 1, n))
    encoding = Encoding(np.ones(n, np.intp), np.ones(n), np.full(n, 0.05))
    found = corrector.correct(Acquisition(data, gradients, encoding, disc[..., None], grid), Options())
    assert np.isfinite(found.data).all() and np.isfinite(found.distortion).all()
    assert np.abs(found.motion[:, 2]).max() < 1e-6


# A field


@pytest.mark.parametrize("moving", [False, True])
def test_a_field_is_undone_in_both_phase_encodings(moving: bool) -> None:
    truth = truth_of((28, 28, 12), n=16, motion=moving, eddy=moving, field_voxels=2.0, snr=100, seed=5)
    points = np.argwhere(np.ones(truth.grid.shape)) @ truth.grid.affine[:3, :3].T + truth.grid.affine[:3, 3]
    voxels = field_at(truth, points, 2.0).reshape(truth.grid.shape) / truth.grid.voxel_mm[0]
    found = corrected(truth, field=voxels / 0.05, moving=moving)
    without = corrected(truth, moving=False)
    inner = truth.mask.copy()
    inner[..., [0, 1, -2, -1]] = False
    before, after = (np.abs(one.data - truth.still)[inner].mean(0) for one in (without, found))
    for sign in (-1, 1):
        own = truth.encoding.signs == sign
        assert after[own].mean() < (0.5 if moving else 0.3) * before[own].mean()
    if not moving:
        assert not found.motion.any() and not found.distortion.any() and not found.outliers
        assert np.array_equal(found.gradients.bvecs, truth.gradients.bvecs)


# Lost slices


def test_lost_slices_are_found_and_hardly_any_other() -> None:
    truth, found = with_lost()
    lost = found.series.lost
    assert truth.lost.sum() >= 10
    assert lost[truth.lost].mean() >= 0.9
    assert lost[~truth.lost].mean() <= 0.01
    assert (found.scores[lost] < 0).all()


def test_many_lost_slices_do_not_hide_each_other() -> None:
    truth = truth_of(shape=(28, 28, 16), n=18, lost=0.15, seed=2)
    lost = truth.estimate().series.lost
    assert truth.lost.sum() >= 20
    assert lost[truth.lost].mean() >= 0.9
    assert lost[~truth.lost].mean() <= 0.01


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_a_lost_slice_shows_wherever_between_slices_the_tissue_lay(share: float) -> None:
    rng = np.random.default_rng(0)
    grid = Grid((20, 20, 12), np.diag([2.0, 2.0, 4.0, 1.0]))
    tissue = gaussian_filter(1000 + 4000 * rng.standard_normal(grid.shape), 2)
    moved = shift(tissue, (0, 0, share), mode="nearest")
    moved[..., 5] *= 0.6
    mask = np.ones(grid.shape, bool)
    series = Series(moved[..., None], Encoding.unknown(1), Sites.of(mask, grid), 0)
    series.pose.shifts[0, 2] = share * 4
    found = slices.ratios(series, 0, tissue[tuple(series.sites.voxels.T)].astype(np.float32))
    expected = np.where(np.arange(12) == 5, 0.6, 1.0)
    np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=0.03)


def test_lost_slices_are_replaced_by_what_they_would_have_shown() -> None:
    truth, found = with_lost()
    plain = corrector.resampled(found)
    replaced = plain.copy(order="F")
    volumes = corrector.replace_lost(replaced, found, corrector.kriging_of(found))
    assert np.array_equal(volumes, found.series.lost.any(1))
    np.testing.assert_array_equal(plain[..., ~volumes], replaced[..., ~volumes])
    voxels = np.argwhere(truth.mask)
    points = voxels @ truth.grid.affine[:3, :3].T + truth.grid.affine[:3, 3]
    before, after = [], []
    for volume in np.flatnonzero(truth.lost.any(1)):
        at = (truth.places(volume, points) - truth.grid.affine[:3, 3]) @ np.linalg.inv(
            truth.grid.affine[:3, :3]
        ).T
        nearest = np.clip(np.rint(at[:, 2]).astype(int), 0, truth.grid.shape[2] - 1)
        here = tuple(voxels[truth.lost[volume, nearest]].T)
        for errors, data in ((before, plain), (after, replaced)):
            errors.append(np.abs(data[..., volume] - truth.still[..., volume])[here])
    # The median: at the body's edge interpolation errs whether or not a slice was lost.
    first, last = (np.median(np.concatenate(errors)) for errors in (before, after))
    assert last < 0.5 * first


def test_lost_slices_are_listed() -> None:
    truth = truth_of(shape=(22, 22, 12), n=8, lost=0.1, seed=5)
    found = corrected(truth)
    assert {(one.volume, one.slice) for one in found.outliers} == set(map(tuple, np.argwhere(truth.lost)))
    assert all(one.z < -4 and one.replaced == 1 for one in found.outliers)
    assert len(found.outliers) == len({(one.volume, one.slice) for one in found.outliers})
    assert not truth.estimate(find_lost=False).series.lost.any()


def test_lost_slices_are_listed_along_whichever_axis_they_lie() -> None:
    truth = truth_of(shape=(22, 22, 12), n=8, lost=0.1, seed=5)
    order = [2, 0, 1]
    grid = Grid((12, 22, 22), truth.grid.affine[:, [*order, 3]])
    axes = np.array([order.index(axis) for axis in truth.encoding.axes])
    encoding = Encoding(axes, truth.encoding.signs, truth.encoding.readouts)
    data, mask = np.asfortranarray(truth.data.transpose(*order, 3)), truth.mask.transpose(order)
    stored = Acquisition(data, truth.gradients, encoding, mask, grid)
    found = corrector.correct(stored, Options(slice_axis=0))
    assert {(one.volume, one.slice) for one in found.outliers} == set(map(tuple, np.argwhere(truth.lost)))


def test_lost_slices_can_be_left_as_they_are() -> None:
    truth = truth_of(shape=(22, 22, 12), n=8, lost=0.1, seed=5)
    kept = corrector.correct(truth.acquired(), Options(replace_lost=False))
    assert {(one.volume, one.slice) for one in kept.outliers} == set(map(tuple, np.argwhere(truth.lost)))
    assert not any(one.replaced for one in kept.outliers)
    plain = corrector.resampled(truth.estimate())
    np.testing.assert_array_equal(kept.data, plain)


def test_volumes_in_which_nobody_looked_for_lost_slices_are_told() -> None:
    truth = truth_of(shape=(22, 22, 12), n=8, lost=0.1, seed=5)
    found = corrected(truth)
    is_b0 = truth.gradients.is_b0()
    assert 0 < is_b0.sum() < 4
    np.testing.assert_array_equal(found.searched, ~is_b0)
    assert not truth.estimate(find_lost=False).searched.any()
