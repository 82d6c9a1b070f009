"""Motion, eddy currents, fields and lost slices: undone on phantoms whose truth is known, and the parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates, shift
from scipy.spatial.transform import Rotation

from somite.corrected import polynomial
from somite.correction import believe, corrector, estimation, gaps, slices
from somite.correction.estimation import Acquisition, Estimate, Options
from somite.correction.predict import Kriging
from somite.correction.series import Encoding, Pose, Series, Sites, exponents, slopes, terms
from somite.gradients import Gradients
from somite.images import Grid
from somite.sampling import coefficients, sample, sample_slopes

FINE = 1.5  # mm, of the phantom from which volumes are cut


def oblique(shape: tuple[int, int, int], voxel: tuple[float, ...]) -> Grid:
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", (12, -18, 25), degrees=True).as_matrix()
    affine[:3, :3] = axes @ np.diag(voxel)
    affine[:3, 3] = np.array([5, -12, 30]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def sphere(n: int, seed: int = 0) -> np.ndarray:
    """Directions (n, 3), spread evenly over the half sphere, in random order and sign."""
    rng = np.random.default_rng(seed)
    height = (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    ring = np.sqrt(1 - height**2)
    even = np.column_stack([ring * np.cos(turn), ring * np.sin(turn), height])
    return np.asarray(rng.permutation(even * rng.choice([-1, 1], n)[:, None]))


class Head:
    """An ellipsoid with a rim, ventricles, texture and fibres, on a fine grid along the axes of `grid`."""

    def __init__(self, grid: Grid, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.grid = grid
        self.middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
        self.frame = grid.affine[:3, :3] / grid.voxel_mm
        extent = np.array(grid.shape) * grid.voxel_mm
        self.size = tuple(int(s) for s in np.ceil(extent / FINE) + 12)
        x, y, z = np.meshgrid(*((np.arange(s) - (s - 1) / 2) * FINE for s in self.size), indexing="ij")
        a, b, c = 0.38 * extent[0], 0.42 * extent[1], 0.48 * extent[2]
        shell = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        texture = gaussian_filter(rng.standard_normal(self.size), 2.5)
        texture /= texture.std()
        self.s0 = np.where(shell < 1, 800 * np.exp(0.25 * texture), 0)
        self.s0[(shell > 0.88) & (shell < 1)] *= 1.6
        fluid = np.minimum(np.hypot(x - 9, y / 2.5), np.hypot(x + 9, (y - 4) / 2.5)) < 5 + 0.1 * z
        self.fluid = fluid & (shell < 0.8)
        self.s0[self.fluid] = 2000
        fibre = np.stack([gaussian_filter(rng.standard_normal(self.size), 7) for _ in range(3)], -1)
        self.fibre = np.float32(fibre / np.linalg.norm(fibre, axis=-1, keepdims=True))
        self.s0 = np.float32(self.s0)

    def signal(self, b: float, g: np.ndarray) -> np.ndarray:
        """On the fine grid, of a direction in the tissue's world axes, blurred by the voxel."""
        along = (self.fibre @ np.float32(self.frame.T @ g)) ** 2
        decay = np.where(self.fluid, np.float32(2.8e-3), 0.5e-3 + 0.8e-3 * along)
        return gaussian_filter(self.s0 * np.exp(-b * decay), 0.35 * self.grid.voxel_mm / FINE)

    def look_up(self, signal: np.ndarray, world: np.ndarray) -> np.ndarray:
        at = (world - self.middle) @ self.frame / FINE + (np.array(self.size) - 1) / 2
        return np.asarray(map_coordinates(signal, at.T, order=3, mode="nearest"))


@dataclass(frozen=True)
class Truth:
    """A series, and where its tissue was: r = q + e (eddy(q) + field T), q = R (h - m) + m + t."""

    data: np.ndarray
    still: np.ndarray
    """What each volume would show in the place of the first."""
    gradients: Gradients
    encoding: Encoding
    grid: Grid
    mask: np.ndarray
    rotations: np.ndarray
    shifts: np.ndarray
    eddy: np.ndarray
    """(n, 10) mm along e, the terms of `polynomial` about the middle of the image."""
    lost: np.ndarray
    middle: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def places(self, volume: int, points: np.ndarray) -> np.ndarray:
        """World places of points (m, 3) of the first volume, without a field."""
        rigid = (points - self.middle) @ self.rotations[volume].T + self.middle + self.shifts[volume]
        along = polynomial(rigid - self.middle) @ self.eddy[volume]
        return np.asarray(rigid + along[:, None] * self.encoding.directions(self.grid)[volume])

    def residual_mm(self, found: Estimate | None) -> np.ndarray:
        """Mean distance (n,) over the mask between where tissue was and where it was found to be."""
        voxels = np.argwhere(self.mask)
        points = voxels @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
        errors = []
        for volume in range(self.data.shape[3]):
            placed = points
            if found is not None:
                at, _ = found.series.places(volume, found.series.frame_at(voxels))
                placed = at @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3]
            errors.append(np.linalg.norm(placed - self.places(volume, points), axis=1).mean())
        return np.array(errors)

    def bvec_error_deg(self, gradients: Gradients) -> np.ndarray:
        true = np.einsum("nji,nj->ni", self.rotations, self.gradients.bvecs)
        weighted = true.any(1)
        cosine = np.abs(np.einsum("ni,ni->n", gradients.bvecs, true))[weighted]
        return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))

    def acquired(self, **known: object) -> Acquisition:
        return Acquisition(self.data, self.gradients, self.encoding, self.mask, self.grid, **known)

    def estimate(self, threads: int = 1, **options: object) -> Estimate:
        return estimation.estimate(self.acquired(), Options(**options), threads)


def scheme(shells: tuple[float, ...], n: int) -> Gradients:
    """Directions of all shells in turn, with a b=0 volume first and after every seven."""
    each = [sphere(n, seed) for seed in range(len(shells))]
    weighted = [(b, directions[i]) for i in range(n) for b, directions in zip(shells, each, strict=True)]
    rows = []
    for number, row in enumerate(weighted):
        if number % 7 == 0:
            rows.append((0.0, np.zeros(3)))
        rows.append(row)
    return Gradients(np.array([b for b, _ in rows]), np.array([g for _, g in rows]))


@cache
def truth_of(
    shape: tuple[int, int, int] = (40, 40, 18),
    shells: tuple[float, ...] = (1000.0,),
    n: int = 24,
    motion: float = 1.0,
    eddy: float = 1.0,
    lost: float = 0.0,
    field_voxels: float = 0.0,
    snr: float = 25,
    seed: int = 0,
) -> Truth:
    """A head that moves along a path in time, with eddy currents that turn round with the gradient.

    Phase encoding runs along i-; with a field, along i in every second pair of volumes.
    """
    rng = np.random.default_rng(seed)
    voxel = tuple(100 / 40 * 40 / shape[0] * np.array([1, -1, 1.4]))
    grid = oblique(shape, voxel)
    head, gradients = Head(grid, seed), scheme(shells, n)
    bvals, bvecs = gradients.bvals, gradients.bvecs
    count = len(bvals)
    signs = np.where(np.arange(count) // 2 % 2, 1.0, -1.0) if field_voxels else np.full(count, -1.0)
    encoding = Encoding(np.zeros(count, np.intp), signs, np.full(count, 0.05))
    path = np.cumsum(rng.normal(0, 1, (count, 6)), 0) * np.array([0.3] * 3 + [0.35] * 3) * motion
    path -= path[0]
    rotations = Rotation.from_rotvec(np.deg2rad(path[:, :3])).as_matrix()
    # Fields linear in the gradient, for each a linear and a smaller quadratic polynomial, no constant.
    mixing = rng.normal(0, 1, (3, 10)) * np.r_[0, [5.0] * 3, [4.0] * 6] * eddy
    coefficients_of = (np.sqrt(bvals / bvals.max())[:, None] * bvecs @ mixing) * signs[:, None]
    points = np.argwhere(np.ones(shape)) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    drop = np.zeros((count, shape[2]), bool)
    drop[:, 3:-3] = rng.random((count, shape[2] - 6)) < lost
    drop[bvals == 0] = False
    truth = Truth(
        np.empty((*shape, count), np.float32, order="F"),
        np.empty((*shape, count), np.float32, order="F"),
        gradients,
        encoding,
        grid,
        head.look_up(head.s0, points).reshape(shape) > 200,
        rotations,
        path[:, 3:],
        coefficients_of,
        drop,
        head.middle,
    )
    directions = encoding.directions(grid)
    for v in range(count):
        signal = head.signal(bvals[v], rotations[v].T @ bvecs[v])
        truth.still[..., v] = head.look_up(signal, points).reshape(shape)
        placed, squeezed = distorted(truth, v, points, directions[v], field_voxels)
        values = (head.look_up(signal, placed) / squeezed).reshape(shape)
        values[..., drop[v]] *= rng.uniform(0.2, 0.6, drop[v].sum())
        noise = rng.normal(0, 800 / snr, (2, *shape))
        truth.data[..., v] = np.hypot(values + noise[0], noise[1])
    return truth


def field_at(truth: Truth, world: np.ndarray, voxels: float) -> np.ndarray:
    """A field that displaces by up to so many voxels, in mm."""
    x, y, z = ((world - truth.middle) / 30).T
    return np.asarray(voxels * truth.grid.voxel_mm[0] * np.exp(-(x**2) - (y - 0.3) ** 2 - z**2))


def distorted(
    truth: Truth, volume: int, places: np.ndarray, along: np.ndarray, field_voxels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Tissue (m, 3) found at places (m, 3), by iteration; and how much its signal is spread there."""

    def tissue_of(q: np.ndarray) -> np.ndarray:
        return (q - truth.middle - truth.shifts[volume]) @ truth.rotations[volume] + truth.middle

    def offset(q: np.ndarray) -> np.ndarray:
        eddy = polynomial(q - truth.middle) @ truth.eddy[volume]
        return np.asarray(eddy + (field_at(truth, tissue_of(q), field_voxels) if field_voxels else 0))

    q = places
    for _ in range(7):
        q = places - offset(q)[:, None] * along
    step = 0.1
    squeezed = 1 + (offset(q + step * along) - offset(q - step * along)) / (2 * step)
    return tissue_of(q), squeezed


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
    volumes = corrector.replace_lost(replaced, found)
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


# Parts


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


@pytest.mark.parametrize(("degree", "count"), [(0, 0), (1, 3), (2, 9), (3, 19)])
def test_slopes_are_the_derivatives_of_the_terms(degree: int, count: int) -> None:
    rng = np.random.default_rng(0)
    points, powers = rng.uniform(-80, 80, (50, 3)), exponents(degree)
    assert len({tuple(p) for p in powers}) == len(powers) == count
    along = np.array([0.6, -0.48, 0.64])
    up, down = (terms(points + sign * 5 * along, powers).astype(float) for sign in (1, -1))
    # The third derivative of a cubic is what central differences miss.
    missed = np.prod(along**powers, 1) * (powers.sum(1) == 3) * 25 / 1e6
    np.testing.assert_allclose(slopes(points, powers, along), (up - down) / 10 - missed, atol=1e-6)
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
