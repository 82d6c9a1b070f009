"""Tensor fits against the truth, dipy and dwi2tensor, on an oblique grid; and at the edges of what fits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from pydantic import ValidationError

from somite import images, tensorfit
from somite.errors import DatasetError
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid
from somite.interfaces import tensor
from somite.phantom.scheme import spread
from somite.phantom.tissue import attenuation
from somite.registry import Context
from somite.volumes import lowest_b

OBLIQUE = np.array([[0.0, 1.9, 0.3, -40], [-2.0, 0.1, 0.2, 30], [0.1, -0.3, 3.1, -9], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)


def rotations(n: int, rng: np.random.Generator) -> np.ndarray:
    """Random rotations (n, 3, 3)."""
    q = np.linalg.qr(rng.standard_normal((n, 3, 3)))[0]
    return q * np.linalg.det(q)[:, None, None]


def scheme(
    n_directions: int = 30, shells: tuple[float, ...] = (1000.0,), n_b0: int = 3, seed: int = 0
) -> Gradients:
    """`n_b0` volumes of b=0, then `n_directions` random directions per shell."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n_directions * len(shells), 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    bvals = np.r_[np.zeros(n_b0), np.repeat(shells, n_directions)]
    return Gradients(bvals, np.r_[np.zeros((n_b0, 3)), directions])


class Truth:
    """Random tensors of tissue on a grid: eigenvalues 0.2 to 2.5 um2/ms, S0 500 to 1500, in world axes."""

    def __init__(self, shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        n = int(np.prod(shape))
        values = np.sort(rng.uniform(0.2e-3, 2.5e-3, (n, 3)), 1)[:, ::-1]
        # Apart by 5 %, so that each eigenvector is determined.
        values = values * np.array([1.1, 1.0, 0.9])
        vectors = rotations(n, rng)
        self.shape, self.values = shape, values.reshape(*shape, 3)
        self.vectors = vectors.reshape(*shape, 3, 3)
        self.tensor = np.einsum("...ik,...k,...jk->...ij", self.vectors, self.values, self.vectors)
        self.s0 = rng.uniform(500, 1500, shape)

    def signal(self, gradients: Gradients, sigma: float = 0.0, seed: int = 2) -> np.ndarray:
        g = gradients.bvecs
        s = self.s0[..., None] * np.exp(-gradients.bvals * np.einsum("ni,...ij,nj->...n", g, self.tensor, g))
        noise = np.random.default_rng(seed).normal(0, 1, (2, *s.shape)) * sigma
        return np.hypot(s + noise[0], noise[1])


class Scan:
    """A series on disk, with its gradients and a mask, ready for the step."""

    def __init__(
        self, folder: Path, signal: np.ndarray, gradients: Gradients, mask: np.ndarray | None = None,
        affine: np.ndarray = OBLIQUE,
    ) -> None:  # fmt: skip
        folder.mkdir(exist_ok=True)
        self.folder, self.grid = folder, Grid(signal.shape[:3], affine)
        self.mask = np.ones(signal.shape[:3], bool) if mask is None else mask
        bval, bvec = write_fsl(gradients, folder / "dwi.bval", folder / "dwi.bvec", affine)
        self.inputs = {
            "dwi": images.write(folder / "dwi.nii", signal, self.grid),
            "bval": bval,
            "bvec": bvec,
            "mask": images.write(folder / "mask.nii", self.mask, self.grid),
        }

    def run(self, threads: int = 1, **options) -> tuple[dict[str, np.ndarray], Context]:
        out = self.folder / f"out{len(list(self.folder.glob('out*')))}"
        out.mkdir()
        context = Context(out, threads=threads)
        paths = tensor.run(**self.inputs, config=tensor.Config(**options), context=context)
        assert [p.name for p in paths] == [
            *(f"{name}.nii" for name in tensor.PRODUCTS),
            "bval_used.bval",
            "bvec_used.bvec",
        ]
        return {
            name: images.read_float(p)[0] for name, p in zip(tensor.PRODUCTS, paths[:-2], strict=True)
        }, context


def six(full: np.ndarray) -> np.ndarray:
    """Dxx, Dxy, Dyy, Dxz, Dyz, Dzz of tensors (..., 3, 3)."""
    return np.stack([full[..., i, j] for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))], -1)


def fa_of(values: np.ndarray) -> np.ndarray:
    md = values.mean(-1, keepdims=True)
    return np.sqrt(1.5 * ((values - md) ** 2).sum(-1) / (values**2).sum(-1))


@pytest.mark.parametrize("method", ["ols", "wls", "iwls", "robust"])
@pytest.mark.parametrize("shells", [(1000.0,), (700.0, 1400.0)])
def test_noise_free_truth_on_an_oblique_grid(tmp_path: Path, method: str, shells: tuple[float, ...]) -> None:
    truth, gradients = Truth(), scheme(20, shells)
    maps, context = Scan(tmp_path, truth.signal(gradients), gradients).run(method=method)
    np.testing.assert_allclose(maps["tensor"], six(truth.tensor), atol=2e-9)
    np.testing.assert_allclose(maps["eigenvalues"], truth.values, atol=2e-9)
    np.testing.assert_allclose(maps["fa"], fa_of(truth.values), atol=2e-6)
    np.testing.assert_allclose(maps["md"], truth.values.mean(-1), atol=2e-9)
    np.testing.assert_allclose(maps["ad"], truth.values[..., 0], atol=2e-9)
    np.testing.assert_allclose(maps["rd"], truth.values[..., 1:].mean(-1), atol=2e-9)
    np.testing.assert_allclose(maps["s0"], truth.s0, rtol=2e-6)
    vectors = maps["eigenvectors"].reshape(*SHAPE, 3, 3)
    cosines = np.abs(np.einsum("...kx,...xk->...k", vectors, truth.vectors))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(-1)[..., None], -1)
    assert (largest > 0).all()
    assert maps["residual"].max() < 1e-6
    assert not maps["nonpositive"].any()
    assert context.numbers["nonpositive_fraction"] == 0
    assert context.numbers["floored_signal_fraction"] == 0


@pytest.mark.parametrize("method", ["OLS", "WLS"])
def test_equals_dipy(method: str) -> None:
    truth, gradients = Truth((9, 8, 7)), scheme(30, (1000.0, 2000.0))
    signal = truth.signal(gradients, sigma=50).reshape(-1, len(gradients.bvals))
    # Dead volumes, and dead voxels, as masks and dropouts make them.
    signal[:20, 5] = 0
    signal[20:25, 3:40] = 0
    design = tensorfit.design_matrix(gradients)
    log_signal = np.log(np.maximum(signal, 1e-4)).T
    fit = {"OLS": tensorfit.fit_ols, "WLS": tensorfit.fit_wls}[method]
    parameters = fit(log_signal, design)
    values, _ = tensorfit.eigen(parameters[:6] / 2000)
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs, b0_threshold=50)
    theirs = TensorModel(table, fit_method=method, return_S0_hat=True).fit(signal)
    kept = (theirs.evals > 2e-9).all(1) & (values > 0).all(0)
    assert kept.mean() > 0.6
    np.testing.assert_allclose(values.T[kept], theirs.evals[kept], rtol=1e-9)
    np.testing.assert_allclose(tensorfit.fractional_anisotropy(values)[kept], theirs.fa[kept], rtol=1e-9)
    np.testing.assert_allclose(np.exp(parameters[6]), theirs.S0_hat, rtol=1e-8)
    assert np.isfinite(parameters).all()


def test_fa_of_the_rest_equals_dipy_too(tmp_path: Path) -> None:
    truth, gradients = Truth(), scheme(12)
    signal = truth.signal(gradients, sigma=400).astype("f4")
    maps, context = Scan(tmp_path, signal, gradients).run()
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs, b0_threshold=50)
    theirs = TensorModel(table, fit_method="WLS").fit(signal.astype("f8"))
    flagged = maps["nonpositive"] > 0
    assert 0.05 < flagged.mean() < 0.95
    np.testing.assert_allclose(maps["fa"], theirs.fa, atol=2e-5)
    np.testing.assert_allclose(context.numbers["nonpositive_fraction"], flagged.mean())
    np.testing.assert_array_equal(flagged, (maps["eigenvalues"] < 1e-9).any(-1))
    assert maps["fa"].max() <= 1
    # The diffusivities keep what was fitted: they average to no bias.
    assert maps["eigenvalues"].min() < -1e-5
    np.testing.assert_allclose(maps["md"], maps["eigenvalues"].mean(-1), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "iterations"),
    # Version 3.0.3 takes `-iter 1` for 0; the single reweighting, wls, is held against dipy's.
    [({"method": "ols"}, 0), ({"method": "iwls", "iterations": 1}, 2), ({"method": "iwls"}, 3)],
)
def test_agrees_with_dwi2tensor_in_world_axes(
    need_tool, tmp_path: Path, options: dict, iterations: int
) -> None:
    command = need_tool("dwi2tensor")
    gradients = scheme(25, (1000.0,))
    scan = Scan(tmp_path, Truth().signal(gradients, sigma=15), gradients)
    maps, _ = scan.run(**options)
    out, files = tmp_path / "mrtrix.nii", {name: str(path) for name, path in scan.inputs.items()}
    arguments = ["-quiet", "-ols", "-iter", str(iterations), "-fslgrad", files["bvec"], files["bval"]]
    subprocess.run([command, *arguments, files["dwi"], str(out)], check=True)
    theirs = images.read_float(out)[0][..., [0, 3, 1, 4, 5, 2]]
    np.testing.assert_allclose(maps["tensor"], theirs, atol=1e-9)


def test_the_number_of_threads_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor, "BLOCK_VALUES", 100)  # several blocks
    gradients = scheme(15)
    mask = np.random.default_rng(0).random((9, 11, 7)) < 0.8
    scan = Scan(tmp_path, Truth((9, 11, 7)).signal(gradients, sigma=30), gradients, mask)
    for method in ("wls", "robust"):
        one, _ = scan.run(threads=1, method=method)
        for threads in (2, 8):
            other, _ = scan.run(threads=threads, method=method)
            assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_reorientation_gives_the_same_result(tmp_path: Path) -> None:
    truth, gradients = Truth((6, 5, 4)), scheme(20)
    signal = truth.signal(gradients, sigma=20)
    mask = np.random.default_rng(1).random((6, 5, 4)) < 0.7
    here, _ = Scan(tmp_path / "a", signal, gradients, mask).run()
    # The same scan stored with its axes in another order, one of them reversed: a reflected affine.
    affine = OBLIQUE[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 1] * 5
    affine[:3, 1] *= -1
    turned = signal.transpose(2, 0, 1, 3)[:, ::-1]
    there, _ = Scan(tmp_path / "b", turned, gradients, mask.transpose(2, 0, 1)[:, ::-1], affine).run()
    for name, values in there.items():
        back = np.moveaxis(values[:, ::-1], (0, 1, 2), (2, 0, 1))
        np.testing.assert_allclose(back, here[name], rtol=1e-4, atol=1e-6 if name == "eigenvectors" else 1e-9)


def test_outside_the_mask_is_zero(tmp_path: Path) -> None:
    gradients = scheme(10)
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 1:4, 3] = True
    maps, context = Scan(tmp_path, Truth().signal(gradients), gradients, mask).run()
    for values in maps.values():
        assert not values[~mask].any()
    assert (maps["s0"][mask] > 0).all()
    assert context.numbers["voxels_fitted"] == mask.sum()


def test_robust_fit_withstands_dropouts() -> None:
    gradients, truth = scheme(42, n_b0=6), Truth((20, 20, 10))
    design, fa = tensorfit.design_matrix(gradients), fa_of(truth.values).ravel()
    signal = truth.signal(gradients, sigma=30).reshape(-1, 48).T
    rng = np.random.default_rng(5)
    dropped = rng.random(signal.shape) < 0.05

    def error(parameters: np.ndarray) -> float:
        values = tensorfit.eigen(parameters[:6])[0]
        return float(np.sqrt(((tensorfit.fractional_anisotropy(values) - fa) ** 2).mean()))

    intact = error(tensorfit.fit_wls(np.log(signal), design))
    damaged = np.log(np.where(dropped, signal * rng.uniform(0.1, 0.6, signal.shape), signal))
    robust, outlier = tensorfit.fit_robust(damaged, design, 3)
    assert error(tensorfit.fit_wls(damaged, design)) > 2 * intact
    assert error(robust) < 1.35 * intact
    assert outlier[dropped].mean() > 0.6
    assert outlier[~dropped].mean() < 0.02
    # Without outliers it costs little.
    assert error(tensorfit.fit_robust(np.log(signal), design, 3)[0]) < 1.1 * intact


def test_robust_fit_of_hardly_more_volumes_than_parameters(tmp_path: Path) -> None:
    gradients = scheme(6, n_b0=1)
    truth = Truth()
    maps, context = Scan(tmp_path, truth.signal(gradients), gradients).run(method="robust")
    np.testing.assert_allclose(maps["md"], truth.values.mean(-1), rtol=1e-3)
    assert [problem.code for problem in context.warnings] == ["ROBUST_FEW_VOLUMES"]
    assert context.numbers["outlier_signal_fraction"] == 0


def test_robust_fit_never_leaves_a_voxel_without_a_tensor() -> None:
    gradients = scheme(8, n_b0=1)
    design = tensorfit.design_matrix(gradients)
    signal = Truth().signal(gradients, sigma=200).reshape(-1, 9).T
    signal[0] *= 0.01  # the one b=0 volume is lost: S0 must come from somewhere
    parameters, _ = tensorfit.fit_robust(np.log(np.maximum(signal, 1e-4)), design, 5)
    assert np.isfinite(parameters).all()


def test_dead_voxels_in_the_mask_give_finite_flagged_maps(tmp_path: Path) -> None:
    gradients = scheme(10)
    signal = Truth().signal(gradients)
    signal[0, 0, 0] = 0
    signal[1, 0, 0, 3:] = 0
    signal[2, 0, 0, :3] = 0
    signal[3, 0, 0] = 1  # log 0: no residual at all
    signal[4:] *= np.random.default_rng(0).random(signal[4:].shape) < 0.6
    for method in ("ols", "wls", "iwls", "robust"):
        maps, context = Scan(tmp_path / method, signal, gradients).run(method=method)
        assert all(np.isfinite(values).all() for values in maps.values())
        assert maps["fa"].min() >= 0
        assert maps["fa"].max() <= 1
        assert maps["nonpositive"][0, 0, 0] == 1
        assert context.numbers["floored_signal_fraction"] == pytest.approx((signal == 0).mean())


def test_small_units_are_not_floored(tmp_path: Path) -> None:
    truth, gradients = Truth(), scheme(12)
    truth.s0 *= 1e-5
    scan = Scan(tmp_path, truth.signal(gradients), gradients)
    maps, context = scan.run()
    np.testing.assert_allclose(maps["md"], truth.values.mean(-1), rtol=1e-4)
    assert context.numbers["floored_signal_fraction"] == 0
    floored, context = scan.run(min_signal=1.0)
    assert context.numbers["floored_signal_fraction"] == 1
    np.testing.assert_allclose(floored["s0"], 1, rtol=1e-6)


def test_wild_extrapolation_to_b0_stays_finite(tmp_path: Path) -> None:
    gradients = scheme(12, (1000.0, 1020.0), n_b0=0)
    signal = Truth().signal(gradients)
    signal[..., 12:] = 0
    maps, _ = Scan(tmp_path, signal, gradients).run(method="ols")
    assert all(np.isfinite(values).all() for values in maps.values())


def test_residual_is_the_noise_over_s0(tmp_path: Path) -> None:
    gradients, truth = scheme(60), Truth((12, 12, 8))
    truth.s0[:] = 1000
    maps, _ = Scan(tmp_path, truth.signal(gradients, sigma=20), gradients).run()
    # 7 of 63 degrees of freedom go into the fit.
    assert np.median(maps["residual"]) == pytest.approx(0.02 * np.sqrt(56 / 63), rel=0.03)


def test_shells_are_chosen(tmp_path: Path) -> None:
    truth, gradients = Truth(), scheme(15, (200.0, 600.0, 2000.0))
    signal = truth.signal(gradients)
    signal[..., gradients.bvals == 0] *= 1.3  # perfusion, gone at b=200
    signal[..., gradients.bvals == 2000] *= 1.5  # the noise floor
    rounded = Gradients(np.where(gradients.bvals == 200, 199.0, gradients.bvals), gradients.bvecs)
    scan = Scan(tmp_path, signal, rounded)
    maps, context = scan.run(b_min_s_per_mm2=200, b_max_s_per_mm2=1000)
    np.testing.assert_allclose(maps["md"], truth.values.mean(-1), rtol=5e-3)
    np.testing.assert_allclose(maps["s0"], truth.s0, rtol=5e-3)
    assert {fact.name: fact.value for fact in context.facts} == {
        "tensor.volumes": "30 of 48, b = 200, 600 s/mm2",
        "s0": "extrapolated to b=0",
    }
    whole, _ = scan.run()
    assert np.median(np.abs(whole["md"] / truth.values.mean(-1) - 1)) > 0.02


def test_low_b_volumes_keep_their_b(tmp_path: Path) -> None:
    gradients = scheme(20, n_b0=2)
    bvals, bvecs = gradients.bvals.copy(), gradients.bvecs.copy()
    bvals[:2], bvecs[:2] = 30, [[1, 0, 0], [0, 1, 0]]
    gradients, truth = Gradients(bvals, bvecs), Truth()
    maps, context = Scan(tmp_path, truth.signal(gradients), gradients).run(method="ols")
    np.testing.assert_allclose(maps["s0"], truth.s0, rtol=1e-5)
    assert context.numbers["volumes_b0"] == 2
    assert context.numbers["volumes_weighted"] == 20


def on_a_cone(n: int) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.sin(0.7) * np.cos(turn), np.sin(0.7) * np.sin(turn), np.full(n, np.cos(0.7))], 1)


@pytest.mark.parametrize(
    ("gradients", "options"),
    [
        (scheme(5), {}),
        (Gradients(np.r_[0.0, np.full(12, 1000.0)], np.r_[np.zeros((1, 3)), on_a_cone(12)]), {}),
        (scheme(12, n_b0=0), {}),
        (scheme(12), {"b_min_s_per_mm2": 500}),
        (scheme(12), {"b_min_s_per_mm2": 3000}),
        (Gradients(np.zeros(8), np.zeros((8, 3))), {}),
    ],
    ids=["five directions", "a cone", "one shell, no b0", "b0 not used", "nothing used", "no diffusion"],
)
def test_gradients_that_determine_no_tensor(tmp_path: Path, gradients: Gradients, options: dict) -> None:
    signal = np.ones((2, 2, 2, len(gradients.bvals)), "f4")
    with pytest.raises(DatasetError) as caught:
        Scan(tmp_path, signal, gradients).run(**options)
    (problem,) = caught.value.problems
    assert problem.code == "DESIGN_RANK"
    assert "at least 6 directions" in problem.expected
    assert not list((tmp_path / "out0").iterdir())


def test_inputs_that_do_not_belong_together(tmp_path: Path) -> None:
    gradients = scheme(10)
    signal = Truth().signal(gradients)
    scan = Scan(tmp_path, signal, gradients)
    shifted = Grid(SHAPE, OBLIQUE + np.eye(4)[:, [3, 0, 1, 2]] * 0.5)
    scan.inputs["mask"] = images.write(tmp_path / "m.nii", scan.mask, shifted)
    scan.inputs["bval"].write_text("0 0 0 1000\n")
    with pytest.raises(DatasetError) as caught:
        scan.run()
    assert [problem.code for problem in caught.value.problems] == ["MASK_GRID", "GRADIENT_COUNT"]
    scan = Scan(tmp_path / "empty", signal, gradients, np.zeros(SHAPE, bool))
    with pytest.raises(DatasetError, match="MASK_EMPTY"):
        scan.run()


def test_one_slice_of_odd_size(tmp_path: Path) -> None:
    gradients, truth = scheme(6, n_b0=1), Truth((11, 3, 1))
    maps, _ = Scan(tmp_path, truth.signal(gradients), gradients).run()
    assert maps["fa"].shape == (11, 3, 1)
    np.testing.assert_allclose(maps["tensor"], six(truth.tensor), atol=1e-8)


def test_eigenvalues_of_isotropic_and_negative_tensors() -> None:
    tensors = np.array([[1e-3, 0, 1e-3, 0, 0, 1e-3], [0] * 6, [-1e-3, 0, -1e-3, 0, 0, -2e-3]]).T
    values, vectors = tensorfit.eigen(tensors)
    np.testing.assert_allclose(values.T, [[1e-3] * 3, [0] * 3, [-1e-3, -1e-3, -2e-3]])
    np.testing.assert_allclose(tensorfit.fractional_anisotropy(values), 0, atol=1e-7)
    assert np.isfinite(vectors).all()


def test_eigenvalues_equal_lapack() -> None:
    tensors = np.random.default_rng(0).standard_normal((6, 5000))
    tensors[:, :500] *= np.array([[1], [1e-9], [1], [1e-7], [0], [1]])  # nearly diagonal
    tensors[:, 500:600] = 1  # of rank 1
    rows, columns = np.tril_indices(3)
    full = np.zeros((5000, 3, 3))
    full[:, rows, columns] = full[:, columns, rows] = tensors.T
    values, vectors = tensorfit.eigen(tensors)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(full)[:, ::-1].T, atol=1e-13)
    frames = vectors.reshape(3, 3, -1)
    np.testing.assert_allclose(tensorfit.from_eigenpairs(values, frames), tensors, atol=1e-13)
    np.testing.assert_allclose(np.einsum("kiv,liv->vkl", frames, frames), [np.eye(3)] * 5000, atol=1e-13)


def test_real_brain_equals_dipy(real_data: Path, tmp_path: Path) -> None:
    stem = real_data / "brain-bids/sub-uih/dwi/sub-uih_dir-AP_dwi"
    dwi, bval, bvec = (stem.with_name(stem.name + end) for end in (".nii.gz", ".bval", ".bvec"))
    signal, grid = images.read_float(dwi)
    inside = signal[..., 0] > 0.2 * np.percentile(signal[..., 0], 99)
    context = Context(tmp_path, threads=2)
    mask = images.write(tmp_path / "mask.nii", inside, grid)
    paths = tensor.run(dwi, bval, bvec, mask, tensor.Config(method="ols"), context)
    ours = {name: images.read_float(p)[0] for name, p in zip(tensor.PRODUCTS, paths[:-2], strict=True)}
    gradients = read_fsl(bval, bvec, grid.affine)
    table = gradient_table(gradients.bvals, bvecs=gradients.bvecs)
    theirs = TensorModel(table, fit_method="OLS").fit(signal.astype("f8"), mask=inside)
    positive = inside & (theirs.evals > 2e-9).all(-1)
    assert positive.sum() > 10_000
    np.testing.assert_allclose(ours["fa"][positive], theirs.fa[positive], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours["eigenvalues"][positive], theirs.evals[positive], rtol=1e-6)


def test_options_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="no volume would be left"):
        tensor.Config(b_min_s_per_mm2=800, b_max_s_per_mm2=700)


def muscle(bvals: np.ndarray, bvecs: np.ndarray, f: float = 0.11) -> np.ndarray:
    """Signal (6, 6, 5, n) of muscle of FA 0.233 and MD 1.46, with perfusion: D* 29.7, in 1e-3 mm2/s."""
    directions = np.random.default_rng(3).standard_normal((3, 180))
    directions /= np.linalg.norm(directions, axis=0)
    tissue = attenuation(np.full(180, 0.233), np.full(180, 1.46e-3), directions, Gradients(bvals, bvecs))
    blood = np.exp(-bvals * 29.7e-3)
    return np.asarray(1000 * ((1 - f) * tissue + f * blood)).reshape(6, 6, 5, -1)


def test_perfusion_inflates_md_and_auto_leaves_it_out(tmp_path: Path) -> None:
    """The figures are those of a calculation of their own: MD 1.46 -> 1.69, FA 0.233 -> 0.202."""
    first, second, third = spread(12), spread(15), spread(30)
    two = Gradients(np.r_[0.0, np.full(15, 500.0)], np.r_[np.zeros((1, 3)), second])
    maps, context = Scan(tmp_path / "two", muscle(two.bvals, two.bvecs), two).run(b_min_s_per_mm2="auto")
    assert maps["md"].mean() == pytest.approx(1.69e-3, abs=0.005e-3)
    assert maps["fa"].mean() == pytest.approx(0.202, abs=1e-3)
    assert [warning.code for warning in context.warnings] == ["PERFUSION_IN_FIT"]
    assert {fact.name: fact.value for fact in context.facts} == {"tensor.b_min_s_per_mm2": "0"}
    bvals = np.r_[0.0, np.full(12, 200.0), np.full(30, 600.0)]
    three = Gradients(bvals, np.r_[np.zeros((1, 3)), first, third])
    maps, context = Scan(tmp_path / "three", muscle(three.bvals, three.bvecs), three).run(
        b_min_s_per_mm2="auto"
    )
    np.testing.assert_allclose(maps["md"], 1.46e-3, rtol=5e-3)
    np.testing.assert_allclose(maps["fa"], 0.233, atol=1e-3)
    assert not context.warnings
    assert np.loadtxt(context.folder / "bval_used.bval").tolist() == bvals[1:].tolist()
    assert np.loadtxt(context.folder / "bvec_used.bvec").shape == (3, 42)


@pytest.mark.parametrize(
    ("bvals", "b_max", "lowest"),
    [
        ([0, 200, 600], None, 200),
        ([0, 199, 601], None, 200),
        ([0, 400, 500], None, 0),
        ([0, 150, 600], None, 0),
        ([0, 500], None, 0),
        ([0, 200, 600], 300, 0),
        ([0, 500, 1000], None, 200),
    ],
)
def test_when_auto_leaves_out_low_b(bvals: list[float], b_max: float | None, lowest: float) -> None:
    directions = [np.zeros((1, 3)) if b == 0 else spread(15) for b in bvals]
    each = np.concatenate([np.full(len(d), b) for b, d in zip(bvals, directions, strict=True)])
    gradients = Gradients(each.astype(float), np.concatenate(directions))
    assert lowest_b("auto", b_max, gradients) == lowest
    assert lowest_b(37.0, b_max, gradients) == 37
