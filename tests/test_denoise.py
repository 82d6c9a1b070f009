"""Denoising against known truth, against dwidenoise, and at the edges: masked, odd, thin, few."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from somite import images, mppca
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import denoise
from somite.patch2self import patch2self
from somite.phase import without_smooth_phase
from somite.registry import Context

SIGMA = 40.0
OBLIQUE = np.array([[0.0, 1.9, 0.3, -40], [-2.0, 0.1, 0.2, 30], [0.1, -0.3, 3.1, -9], [0, 0, 0, 1]])


def tissue(shape: tuple[int, int, int], n_volumes: int, seed: int = 0) -> np.ndarray:
    """Smoothly turning fibres around a tube of water, S0 about 1000, one b=0 in eight, b=1000 s/mm2."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    directions = rng.standard_normal((n_volumes, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    b = np.where(np.arange(n_volumes) % 8 == 0, 0.0, 1000.0)
    turn = 2 * x + 1.5 * y * z
    fibre = np.stack([np.cos(turn), np.sin(turn) * np.cos(y), np.sin(turn) * np.sin(y)], -1)
    water = x**2 + y**2 < 0.08
    s0 = 1000 * (1 + 0.3 * np.sin(5 * x) * np.cos(4 * y)) * np.where(water, 3, 1)
    along, across = np.where(water, 3e-3, 1.7e-3)[..., None], np.where(water, 3e-3, 0.4e-3)[..., None]
    return (s0[..., None] * np.exp(-b * (across + (along - across) * (fibre @ directions.T) ** 2))).astype(
        "f4"
    )


def noisy(clean: np.ndarray, seed: int = 1) -> np.ndarray:
    """The signal with Gaussian noise of SIGMA: what the estimate of sigma is held against."""
    return clean + np.random.default_rng(seed).normal(0, SIGMA, clean.shape).astype("f4")


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return tissue((22, 19, 14), 32)


@pytest.fixture(scope="module")
def measured(clean: np.ndarray) -> np.ndarray:
    return noisy(clean)


@pytest.mark.parametrize(("n_volumes", "at_most", "tolerance"), [(12, 0.60, 0.02), (32, 0.42, 0.01)])
def test_noise_is_removed_and_its_level_found(n_volumes: int, at_most: float, tolerance: float) -> None:
    clean = tissue((22, 19, 14), n_volumes)
    signal, sigma = mppca.mppca(noisy(clean))
    assert rmse(signal, clean) <= at_most * SIGMA
    assert np.median(sigma) == pytest.approx(SIGMA, rel=tolerance)
    assert sigma.std() < 0.04 * SIGMA


def test_more_volumes_than_voxels_in_a_patch() -> None:
    clean = tissue((10, 9, 8), 60)
    signal, sigma = mppca.mppca(noisy(clean), patch=(3, 3, 3))
    assert rmse(signal, clean) < 0.6 * SIGMA
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.03)


def plain_mppca(data: np.ndarray, edge: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """MP-PCA written out from the papers: one patch after the other, by singular values."""
    exact = np.result_type(data, "f8")
    signal, sigma, weights = np.zeros(data.shape, exact), *np.zeros((2, *data.shape[:3]))
    starts = [sorted({*range(0, n - edge + 1, stride), n - edge}) for n in data.shape[:3]]
    for corner in itertools.product(*starts):
        here = tuple(slice(c, c + edge) for c in corner)
        left, values, right = np.linalg.svd(
            data[here].reshape(edge**3, -1).astype(exact), full_matrices=False
        )
        variances = values[::-1] ** 2
        small, large = sorted((edge**3, data.shape[3]))
        for p in range(1, small + 1):
            spread = (variances[p - 1] - variances[0]) / 4 / np.sqrt(p / (large - small + p))
            if spread <= variances[:p].mean():
                n_noise, found = p, np.sqrt(variances[:p].sum() / p / (large - small + p))
        values[small - n_noise :] = 0
        weight = 1 / (1 + small - n_noise)
        signal[here] += weight * ((left * values) @ right).reshape(edge, edge, edge, -1)
        sigma[here] += weight * found
        weights[here] += weight
    return signal / weights[..., None], sigma / weights


@pytest.mark.parametrize(("n_volumes", "edge", "stride"), [(16, 3, 2), (40, 3, 1), (14, 5, 3)])
def test_equals_the_papers_written_out(n_volumes: int, edge: int, stride: int) -> None:
    data = noisy(tissue((8, 10, 7), n_volumes))
    signal, sigma = mppca.mppca(data, (edge,) * 3, stride, precision="float64")
    plain_signal, plain_sigma = plain_mppca(data, edge, stride)
    np.testing.assert_allclose(signal, plain_signal, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(sigma, plain_sigma, rtol=1e-5)


def test_empty_voxels_tell_nothing_of_the_noise() -> None:
    rng = np.random.default_rng(0)
    patches = rng.normal(0, 3, (200, 125, 40))
    patches[:, 15:] = 0
    eigenvalues = np.linalg.eigvalsh(patches.transpose(0, 2, 1) @ patches)
    count, sigma = mppca.noise_components(eigenvalues, np.full(200, 15), 40)
    assert np.median(count) == 40
    assert sigma.mean() == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("only_noise", [False, True])
def test_the_number_of_threads_changes_no_bit(measured: np.ndarray, only_noise: bool) -> None:
    data = measured[:15, :11, :9]
    before = data.copy()
    one = mppca.mppca(data, threads=1, only_noise=only_noise)
    for threads in (2, 8):
        other = mppca.mppca(data, threads=threads, only_noise=only_noise)
        assert one[0].tobytes() == other[0].tobytes()
        assert one[1].tobytes() == other[1].tobytes()
    assert np.array_equal(data, before)


def test_batches_change_nothing_beyond_rounding(
    measured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = measured[:12, :11, :9]
    whole = mppca.mppca(data)
    monkeypatch.setattr(mppca, "BATCH_VALUES", 3 * 125 * data.shape[3])
    for a, b in zip(whole, mppca.mppca(data), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("shape", [(7, 6, 5), (12, 9, 1), (1, 1, 13), (4, 3, 4), (8, 2, 9)])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_every_voxel_is_covered(shape: tuple[int, int, int], stride: int) -> None:
    data = noisy(tissue(shape, 16))
    signal, sigma = mppca.mppca(data, mppca.patch_shape(shape, 5), stride)
    assert np.isfinite(signal).all()
    assert (sigma > 0).all()
    # A voxel that no patch covered would come back as it was.
    assert (signal != data).any(3).all()


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((96, 96, 48), (5, 5, 5)),
        ((80, 60, 1), (11, 11, 1)),
        ((1, 40, 40), (1, 11, 11)),
        ((40, 42, 2), (8, 8, 2)),
        ((6, 40, 1), (6, 21, 1)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_patch_keeps_its_number_of_voxels_in_a_thin_image(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    assert mppca.patch_shape(shape, 5) == patch


def test_masked_data_stay_zero_and_do_not_bias_their_border(clean: np.ndarray, measured: np.ndarray) -> None:
    x, y, z = np.indices(clean.shape[:3])
    inside = (x - 11) ** 2 + (y - 9) ** 2 + (z - 7) ** 2 < 60
    inside[0, 0, 0] = True  # a voxel on its own
    data = np.where(inside[..., None], measured, 0).astype("f4")
    signal, sigma = mppca.mppca(data)
    assert np.isfinite(signal).all()
    assert not signal[~inside].any()
    assert not sigma[~inside].any()
    assert np.array_equal(signal[0, 0, 0], data[0, 0, 0])
    inside[0, 0, 0] = False
    eroded = inside & np.roll(inside, 2, 0) & np.roll(inside, -2, 0) & np.roll(inside, 2, 1)
    border = inside & ~eroded
    assert np.median(sigma[border]) == pytest.approx(SIGMA, rel=0.03)
    assert rmse(signal[inside], clean[inside]) < 0.6 * SIGMA


def test_wide_patches_of_masked_data_stay_zero() -> None:
    data = noisy(tissue((9, 9, 9), 40))
    data[:4] = 0
    signal, sigma = mppca.mppca(data, patch=(3, 3, 3))
    assert not signal[:4].any()
    assert not sigma[:4].any()
    assert np.median(sigma[4:]) == pytest.approx(SIGMA, rel=0.06)


def test_an_empty_series_is_returned_empty() -> None:
    signal, sigma = mppca.mppca(np.zeros((6, 6, 6, 8), "f4"))
    assert not signal.any()
    assert not sigma.any()


def test_a_single_volume_comes_back_as_it_was(measured: np.ndarray) -> None:
    data = measured[..., :1]
    signal, sigma = mppca.mppca(data)
    assert np.array_equal(signal, data)
    assert not sigma.any()


def test_data_without_noise_are_kept() -> None:
    clean = tissue((9, 9, 9), 20)
    signal, sigma = mppca.mppca(clean, precision="float64")
    np.testing.assert_allclose(signal, clean, atol=2)
    assert sigma.max() < 2


def test_reorientation_gives_the_same_result(measured: np.ndarray) -> None:
    data = measured[:15, :13, :11]  # patches at stride 2 end at both borders
    signal, sigma = mppca.mppca(data)
    turned = data.transpose(2, 0, 1, 3)[::-1, :, ::-1]
    signal_turned, sigma_turned = mppca.mppca(turned)
    np.testing.assert_allclose(
        signal_turned[::-1, :, ::-1].transpose(1, 2, 0, 3), signal, rtol=1e-3, atol=0.5
    )
    np.testing.assert_allclose(sigma_turned[::-1, :, ::-1].transpose(1, 2, 0), sigma, rtol=1e-3)


def test_float64_serves_where_float32_does_not() -> None:
    clean = tissue((9, 9, 9), 40)
    data = clean + np.random.default_rng(0).normal(0, 0.3, clean.shape).astype("f4")
    _, sigma = mppca.mppca(data, precision="float64")
    assert np.median(sigma) == pytest.approx(0.3, rel=0.03)


def test_agrees_with_dwidenoise_and_is_no_worse(
    need_tool, clean: np.ndarray, measured: np.ndarray, tmp_path: Path
) -> None:
    need_tool("dwidenoise")
    dwi = images.write(tmp_path / "dwi.nii", measured, Grid(measured.shape[:3], OBLIQUE))
    results = {}
    for method in ("mppca", "dwidenoise"):
        (tmp_path / method).mkdir()
        context = Context(tmp_path / method, threads=2)
        paths = denoise.run(dwi, denoise.Config(method=method), context)
        results[method] = [images.read_float(path)[0] for path in paths]
        assert images.read_float(paths[0])[1].matches(Grid(measured.shape[:3], OBLIQUE), 1e-3)
    assert any("-extent 5,5,5" in line for line in context.commands)
    assert denoise._tools(denoise.Config(method="dwidenoise"))["dwidenoise"]
    ours, theirs = results["mppca"], results["dwidenoise"]
    assert rmse(ours[0], clean) <= 0.95 * rmse(theirs[0], clean)
    # The known difference: dwidenoise does not count the degrees of freedom of the signal.
    assert np.median(ours[1]) == pytest.approx(np.median(theirs[1]), rel=0.03)


def test_without_denoising_the_data_pass_and_the_noise_is_still_found(
    measured: np.ndarray, tmp_path: Path
) -> None:
    data = measured[:12, :12, :9]
    dwi = images.write(tmp_path / "dwi.nii", data, Grid(data.shape[:3], OBLIQUE))
    (tmp_path / "out").mkdir()
    context = Context(tmp_path / "out")
    same, sigma = denoise.run(dwi, denoise.Config(method="none"), context)
    assert same.read_bytes() == dwi.read_bytes()
    assert same.parent == tmp_path / "out"
    assert context.numbers["noise_sigma_median"] == pytest.approx(SIGMA, rel=0.02)
    assert [fact.name for fact in context.facts] == ["dwi_denoised"]
    assert images.read_float(sigma)[0].shape == data.shape[:3]


def test_tissue_near_the_noise_floor_keeps_its_signal_and_its_noise() -> None:
    """Muscle at a long echo time: magnitudes of a signal of 2 sigma are 10 % too high."""
    truth = np.full((14, 14, 10, 30), 2 * SIGMA, np.float32)
    truth[..., :4] = 8 * SIGMA
    noise = np.random.default_rng(3).normal(0, SIGMA, (2, *truth.shape))
    signal, spread = mppca.mppca(np.hypot(truth + noise[0], noise[1]).astype(np.float32))
    off, sigma = denoise.true_noise(signal, spread, off_floor=True, threads=2)
    kept, _ = denoise.true_noise(signal, spread, off_floor=False, threads=1)
    assert np.median(spread) < 0.95 * SIGMA
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.02)
    assert kept[..., 4:].mean() > 1.08 * 2 * SIGMA
    assert off[..., 4:].mean() == pytest.approx(2 * SIGMA, rel=0.02)
    assert off[..., :4].mean() == pytest.approx(8 * SIGMA, rel=0.01)
    assert off.min() > 0


def test_the_floor_is_not_taken_off_single_magnitudes() -> None:
    with pytest.raises(ValueError, match="noise_floor is koay with method none"):
        denoise.Config(method="none", noise_floor="koay")


# Complex series


def phases(shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    """A phase of its own, smooth, for every slice of every volume."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x - y * y])
    return np.einsum("txy,tzv->xyzv", terms, rng.normal(0, 0.6, (5, *shape[2:])))


def received(clean: np.ndarray, sigma: float, seed: int = 6) -> np.ndarray:
    """What the receiver gives of a signal: with phase, and noise of `sigma` in both channels."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, sigma, (2, *clean.shape))
    return clean * np.exp(1j * phases(clean.shape)) + noise[0] + 1j * noise[1]


@pytest.fixture(scope="module")
def low() -> np.ndarray:
    """Tissue whose diffusion-weighted signals are 0.5 to 2.5 sigma."""
    return 0.15 * tissue((26, 24, 10), 32)


def test_a_complex_series_equals_the_papers_written_out() -> None:
    data = received(tissue((7, 6, 6), 12), SIGMA).astype("c8")
    signal, sigma = mppca.mppca(data, (3, 3, 3), 2, precision="float64")
    plain_signal, plain_sigma = plain_mppca(data, 3, 2)
    np.testing.assert_allclose(signal, plain_signal, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(sigma, plain_sigma / np.sqrt(2), rtol=1e-5)


def test_a_complex_series_is_denoised_as_a_real_one_of_the_same_noise() -> None:
    clean = tissue((44, 42, 8), 24)
    data = received(clean, SIGMA)
    before = data.astype("c8")
    flat = without_smooth_phase(np.abs(data), np.angle(data))
    signal, sigma = mppca.mppca(flat, threads=2)
    assert signal.dtype == np.complex64
    assert rmse(np.abs(signal), clean) <= 1.1 * rmse(mppca.mppca(noisy(clean))[0], clean)
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.02)
    assert np.array_equal(before, data.astype("c8"))
    again, other = mppca.mppca(flat, threads=1)
    assert again.tobytes() == signal.tobytes()
    assert other.tobytes() == sigma.tobytes()
    same, only = mppca.mppca(flat, only_noise=True)
    assert same is flat
    np.testing.assert_allclose(only, sigma, rtol=1e-3)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (2, 0)])
def test_a_smooth_phase_is_taken_off_in_any_plane(
    plane: tuple[int, int], wrapped: bool, clean: np.ndarray
) -> None:
    phase = phases(clean.shape)
    given = np.angle(np.exp(1j * phase)) if wrapped else phase
    turned = [np.moveaxis(a, (0, 1), plane).astype("f4") for a in (clean, given)]
    flat = without_smooth_phase(*turned, plane, threads=2)
    np.testing.assert_allclose(np.abs(flat), turned[0], rtol=1e-5)
    assert np.median(np.abs(np.angle(flat))) < 0.15
    assert flat.tobytes() == without_smooth_phase(*turned, plane).tobytes()


def test_at_low_signal_the_phase_removes_the_floor_and_more_noise(low: np.ndarray, tmp_path: Path) -> None:
    data = received(low, SIGMA)
    grid = Grid(low.shape[:3], OBLIQUE)
    dwi = images.write(tmp_path / "dwi.nii", np.abs(data).astype("f4"), grid)
    phase = images.write(tmp_path / "phase.nii", np.angle(data).astype("f4"), grid)
    error, bias, weighted = {}, {}, np.arange(32) % 8 > 0
    for floor in ("keep", "koay", "phase"):
        (tmp_path / floor).mkdir()
        context = Context(tmp_path / floor, threads=2)
        given = {"phase": phase} if floor == "phase" else {}
        config = denoise.Config(noise_floor="keep" if floor == "keep" else "koay")
        signal, sigma = (images.read_float(p)[0] for p in denoise.run(dwi, config, context, **given))
        error[floor] = rmse(signal[..., weighted], low[..., weighted]) / SIGMA
        bias[floor] = (signal - low)[..., weighted].mean() / SIGMA
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.02)
    assert context.numbers["noise_sigma_median"] == pytest.approx(SIGMA, rel=0.02)
    assert signal.min() >= 0
    assert error["phase"] < 0.65 * error["keep"]
    assert error["phase"] < 0.9 * error["koay"]
    assert abs(bias["phase"]) < 0.15 < bias["keep"]
    assert [(fact.name, fact.value) for fact in context.facts] == [("denoise.noise_floor", "keep")]


def test_with_a_phase_and_no_denoising_the_noise_is_that_of_the_receiver(
    low: np.ndarray, tmp_path: Path
) -> None:
    data = received(low, SIGMA)
    grid = Grid(low.shape[:3], OBLIQUE)
    dwi = images.write(tmp_path / "dwi.nii", np.abs(data).astype("f4"), grid)
    phase = images.write(tmp_path / "phase.nii", np.angle(data).astype("f4"), grid)
    (tmp_path / "out").mkdir()
    same, sigma = denoise.run(dwi, denoise.Config(method="none"), Context(tmp_path / "out"), phase=phase)
    assert same.read_bytes() == dwi.read_bytes()
    assert np.median(images.read_float(sigma)[0]) == pytest.approx(SIGMA, rel=0.02)


def test_a_phase_that_is_not_one_is_refused(tmp_path: Path) -> None:
    grid, shape = Grid((6, 5, 4), OBLIQUE), (6, 5, 4, 3)
    stored = images.write(tmp_path / "stored.nii", np.full(shape, 4095, "f4"), grid)
    with pytest.raises(DatasetError, match="PHASE_NOT_RADIANS"):
        denoise.read_phase(stored, shape, grid)
    with pytest.raises(DatasetError, match="PHASE_GRID"):
        denoise.read_phase(stored, (6, 5, 4, 2), grid)
    with pytest.raises(DatasetError, match="PHASE_GRID"):
        denoise.read_phase(stored, shape, Grid((6, 5, 4), np.eye(4)))


# Patch2Self


def test_patch2self_is_the_regression_of_each_volume_on_the_others(measured: np.ndarray) -> None:
    data = measured[:11, :12, :9].copy()
    data[:3] = 0  # as after masking
    is_b0 = np.arange(32) % 8 == 0
    voxels = data.reshape(-1, 32).astype("f8")
    expected = np.empty_like(voxels)
    for kind in (is_b0, ~is_b0):
        for volume in np.flatnonzero(kind):
            others = np.c_[np.ones(len(voxels)), voxels[:, kind & (np.arange(32) != volume)]]
            expected[:, volume] = others @ np.linalg.lstsq(others, voxels[:, volume], rcond=None)[0]
    result = patch2self(np.asfortranarray(data), is_b0)
    np.testing.assert_allclose(result, expected.reshape(data.shape), rtol=1e-4, atol=0.01)
    assert np.array_equal(patch2self(data, is_b0), result)


def test_patch2self_keeps_what_it_cannot_predict() -> None:
    data = np.zeros((5, 4, 3, 7), "f4")
    assert np.array_equal(patch2self(data, np.zeros(7, bool)), data)
    data = noisy(tissue((5, 4, 3), 1))
    assert np.array_equal(patch2self(data, np.ones(1, bool)), data)
    twins = np.repeat(noisy(tissue((9, 8, 7), 1)), 5, 3)
    np.testing.assert_allclose(patch2self(twins, np.zeros(5, bool)), twins, rtol=1e-4)


def test_patch2self_as_a_step(tmp_path: Path) -> None:
    data = tissue((14, 13, 9), 40)
    data = noisy(data[..., :1] * np.random.default_rng(0).uniform(0.2, 0.9, 40).astype("f4"))
    dwi = images.write(tmp_path / "dwi.nii", data, Grid(data.shape[:3], OBLIQUE))
    bval = tmp_path / "dwi.bval"
    np.savetxt(bval, [[0] + [1000] * 39])
    context = Context(tmp_path, threads=2)
    signal, sigma = (
        images.read_float(p)[0]
        for p in denoise.run(dwi, denoise.Config(method="patch2self"), context, bval=bval, phase=dwi)
    )
    assert np.array_equal(signal[..., 0], data[..., 0])
    np.testing.assert_array_equal(signal, patch2self(data, np.arange(40) == 0))
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.02)
    assert [fact.name for fact in context.facts] == ["volume 0 of dwi_denoised"]
    assert [problem.code for problem in context.warnings] == ["DENOISE_PHASE_UNUSED"]
    with pytest.raises(DatasetError, match="DENOISE_NO_BVAL"):
        denoise.run(dwi, denoise.Config(method="patch2self"), context)


# The step


def test_a_single_slice_with_few_volumes_runs_and_says_so(tmp_path: Path) -> None:
    data = noisy(tissue((20, 18, 1), 7))
    dwi = images.write(tmp_path / "dwi.nii", data, Grid((20, 18, 1), OBLIQUE))
    context = Context(tmp_path)
    signal, sigma = (images.read_float(p)[0] for p in denoise.run(dwi, denoise.Config(), context))
    assert signal.shape == data.shape
    assert sigma.shape == data.shape[:3]
    assert np.median(sigma) == pytest.approx(SIGMA, rel=0.2)
    assert [problem.code for problem in context.warnings] == ["DENOISE_FEW_VOLUMES"]
    assert [(f.name, f.value) for f in context.facts] == [("denoise.patch_voxels", "11x11x1")]


def test_a_real_cord_of_seven_volumes(real_data: Path, tmp_path: Path) -> None:
    dwi = real_data / "cord-bids/sub-02/dwi/sub-02_dwi.nii.gz"
    signal, sigma = (
        images.read_float(p)[0] for p in denoise.run(dwi, denoise.Config(), Context(tmp_path, threads=2))
    )
    before, _ = images.read_float(dwi)
    assert np.isfinite(signal).all()
    assert np.isfinite(sigma).all()
    removed = signal - before
    assert 0.1 < removed.std() / np.median(sigma) < 1.5
    # What was removed is noise: it does not follow the anatomy.
    assert abs(np.corrcoef(removed[..., 0].ravel(), before[..., 0].ravel())[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [({"patch_voxels": 4}, "odd"), ({"patch_voxels": 3, "stride_voxels": 4}, "left out")],
)
def test_options_that_cannot_be(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        denoise.Config(**options)
