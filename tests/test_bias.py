"""The bias field: found where it is known, one for all volumes, gone from no ratio of signals."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from somite import images
from somite.errors import DatasetError, ToolError
from somite.gradients import Gradients
from somite.images import Grid
from somite.interfaces import bias, tensor
from somite.registry import Context
from somite.tensorfit import design_matrix

SIGMA = 30.0


def shaded(shape: tuple[int, int, int] = (40, 36, 20), seed: int = 0) -> tuple[np.ndarray, ...]:
    """A b=0 image of two tissues under a smooth field: the image, its mask, and the field."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape), indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.85
    blobs = gaussian_filter(rng.standard_normal(shape), [2 if n > 1 else 0 for n in shape])
    tissue = np.where(inside, np.where(blobs > blobs.std(), 1400.0, 800.0), 0)
    field = np.exp(0.35 * x - 0.25 * y * y + 0.2 * z)
    noise = rng.normal(0, SIGMA, (2, *shape))
    return np.hypot(tissue * field + noise[0], noise[1]), inside, field


def error_of(found: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """RMSE of the log field in the mask, both with mean 0."""
    apart = np.log(found[mask].astype(float)) - np.log(truth[mask])
    return float((apart - apart.mean()).std())


def spread(field: np.ndarray, mask: np.ndarray) -> float:
    return float(np.log(field[mask]).std())


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A shaded series of 3 b=0 volumes and 8 directions, on an oblique affine, and its mask."""
    image, inside, field = shaded((28, 26, 12))
    affine = np.diag([2.0, -2.0, 3.0, 1.0])
    affine[:3, :3] = np.linalg.qr(np.eye(3) + 0.2 * np.ones((3, 3)))[0] @ affine[:3, :3]
    grid = Grid(image.shape, affine)
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((8, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    bvals = np.array([5.0, 5.0, 5.0, *[800.0] * 8])
    attenuation = [1.0, 1, 1, *np.exp(-800 * (0.8e-3 + 0.8e-3 * directions[:, 0] ** 2))]
    dwi = np.stack([image * a for a in attenuation], -1).astype(np.float32)
    np.savetxt(tmp_path / "dwi.bval", bvals[None], fmt="%g")
    return {
        "dwi": images.write(tmp_path / "dwi.nii", np.asfortranarray(dwi), grid),
        "bval": tmp_path / "dwi.bval",
        "mask_given": images.write(tmp_path / "mask_given.nii", inside, grid),
        "truth": images.write(tmp_path / "truth.nii", field, grid),
    }


def ran(files: dict[str, Path], folder: Path, **options: object) -> tuple[np.ndarray, np.ndarray, Context]:
    folder.mkdir(exist_ok=True)
    context = Context(folder, threads=2)
    given = {name: path for name, path in files.items() if name != "truth"}
    made, field = bias.run(**given, config=bias.Config(**options), context=context)
    return images.read_float(made)[0], images.read_float(field)[0], context


# N4, built in


@pytest.mark.parametrize("seed", [0, 1])
def test_a_known_field_is_found(seed: int) -> None:
    image, inside, truth = shaded(seed=seed)
    field = bias.n4_field(image, inside)
    assert spread(truth, inside) > 0.15
    assert error_of(field, truth, inside) < 0.035
    assert np.log(field[inside].astype(float)).mean() == pytest.approx(0, abs=1e-6)
    assert np.isfinite(field).all() and (field > 0).all()
    assert field[~inside].max() <= field[inside].max() and field[~inside].min() >= field[inside].min()


def test_an_image_without_shading_is_left_nearly_as_it_is() -> None:
    image, inside, truth = shaded()
    assert spread(bias.n4_field(image / truth, inside), inside) < 0.04


def test_it_agrees_with_simpleitk_s_own_use() -> None:
    image, inside, _ = shaded((24, 22, 12))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50] * 3)
    whole, mask = (sitk.GetImageFromArray(a.T) for a in (image.astype("f4"), inside.astype("u1")))
    corrected = sitk.GetArrayFromImage(n4.Execute(whole, mask)).T
    field = bias.n4_field(image, inside, shrink_factor=1)
    assert error_of(field, (image / corrected).astype(float), inside) < 2e-3


@pytest.mark.parametrize("shape", [(40, 36, 1), (1, 36, 40), (41, 35, 3), (11, 9, 5)])
def test_thin_and_small_images_are_fitted_too(shape: tuple[int, int, int]) -> None:
    image, inside, truth = shaded(shape)
    field = bias.n4_field(image, inside)
    assert field.shape == shape and np.isfinite(field).all() and (field > 0).all()
    assert error_of(field, truth, inside) < 0.5 * spread(truth, inside)


def test_a_scan_stored_the_other_way_round_has_the_same_field() -> None:
    image, inside, _ = shaded((24, 22, 12))
    field = bias.n4_field(image, inside, shrink_factor=1)
    turned = bias.n4_field(image[::-1].transpose(2, 0, 1), inside[::-1].transpose(2, 0, 1), shrink_factor=1)
    assert error_of(turned.transpose(1, 2, 0)[::-1], field.astype(float), inside) < 0.01


def test_the_threads_of_the_process_change_no_bit_and_are_put_back() -> None:
    image, inside, _ = shaded((24, 22, 10))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 3):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(bias.n4_field(image, inside))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((9, 8, 7)), np.ones((9, 8, 7), bool)),
        (np.ones((9, 8, 7)), np.zeros((9, 8, 7), bool)),
        (np.ones((1, 1, 1)), np.ones((1, 1, 1), bool)),
    ],
)
def test_nothing_to_fit_is_said(image: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(DatasetError, match="BIAS_NOT_ESTIMATED"):
        bias.n4_field(image, mask)


def test_voxels_that_are_not_positive_do_no_harm() -> None:
    image, inside, truth = shaded()
    image[inside & (np.random.default_rng(0).random(image.shape) < 0.05)] = 0
    assert error_of(bias.n4_field(image, inside), truth, inside) < 0.06


# The step


def test_fa_and_md_stay_and_only_s0_changes(files: dict[str, Path], tmp_path: Path) -> None:
    unbiased, field, context = ran(files, tmp_path / "work", method="n4")
    data, _ = images.read_float(files["dwi"])
    inside = images.read_float(files["mask_given"])[0] > 0
    np.testing.assert_allclose(unbiased * field[..., None], data, rtol=1e-6)
    bvals = np.loadtxt(files["bval"])
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((8, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    gradients = Gradients(bvals, np.vstack([np.zeros((3, 3)), directions]))
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(gradients))
    maps = [
        tensor.fit_maps(series, inside, gradients, estimate, used=np.ones(11, bool)).maps
        for series in (data, unbiased)
    ]
    np.testing.assert_allclose(maps[1]["fa"], maps[0]["fa"], atol=2e-6)
    np.testing.assert_allclose(maps[1]["md"], maps[0]["md"], rtol=2e-6)
    assert not np.allclose(maps[1]["s0"], maps[0]["s0"], rtol=0.05)
    assert context.numbers["bias_field_p1"] < 0.9 and context.numbers["bias_field_p99"] > 1.1
    truth = images.read_float(files["truth"])[0].astype(float)
    assert error_of(field, truth, inside) < 0.06


def test_without_a_mask_the_body_is_fitted_and_it_is_said(files: dict[str, Path], tmp_path: Path) -> None:
    truth = images.read_float(files["truth"])[0].astype(float)
    inside = images.read_float(files["mask_given"])[0] > 0
    given = {name: path for name, path in files.items() if name != "mask_given"}
    _, field, context = ran(given, tmp_path / "work", method="n4")
    assert error_of(field, truth, inside) < 0.06
    assert [fact.name for fact in context.facts] == ["region of bias"]


def test_none_passes_the_series_on_with_a_field_of_one(files: dict[str, Path], tmp_path: Path) -> None:
    unbiased, field, context = ran(files, tmp_path / "work")
    assert np.array_equal(unbiased, images.read_float(files["dwi"])[0])
    assert (field == 1).all() and field.shape == unbiased.shape[:3]
    assert "bias.method is none" in context.facts[0].reason


def test_a_mask_on_another_grid_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    images.write(files["mask_given"], np.ones((5, 5, 5)), Grid((5, 5, 5), np.eye(4)))
    with pytest.raises(DatasetError, match="MASK_GRID"):
        ran(files, tmp_path / "work", method="n4")


def test_options_are_checked() -> None:
    for wrong in ({"method": "n3"}, {"n4_shrink_factor": 0}, {"n4_levels": 9}, {"shrink": 2}):
        with pytest.raises(ValidationError):
            bias.Config(**wrong)


# MRtrix3's script, run for real; the tool that it calls in turn is a stand-in

STAND_IN_N4 = """
import os, sys
import nibabel as nib, numpy as np
words = sys.argv[1:]
if "--version" in words:
    print("ANTs Version: 2.5.1"); sys.exit(0)
assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
image, mask = (nib.load(words[words.index(flag) + 1]) for flag in ("-i", "-w"))
corrected, field_path = words[words.index("-o") + 1].strip("[]").split(",")
mode = os.environ.get("FAKE_MODE", "")
if mode == "fails":
    print("itk::ERROR: N4 has failed", file=sys.stderr); sys.exit(3)
axes = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
world = np.einsum("ij,j...->i...", image.affine[:3, :3], np.stack(axes))
field = np.exp(0.01 * world[0]) * (0 if mode == "zero" else 3)
data = image.get_fdata()
nib.save(nib.Nifti1Image((data / np.maximum(field, 1e-3)).astype("f4"), image.affine), corrected)
nib.save(nib.Nifti1Image(field.astype("f4"), image.affine), field_path)
"""

STAND_IN_FAST = """
import os, sys
import nibabel as nib, numpy as np
words = sys.argv[1:]
if "-o" not in words:
    sys.exit(1)
image = nib.load(words[-1])
data = image.get_fdata()
field = np.where(data > 0, np.linspace(0.5, 2, data.shape[0])[:, None, None], 0)
name = words[words.index("-o") + 1] + "_bias.nii.gz"
nib.save(nib.Nifti1Image(field.astype("f4"), image.affine), name)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need_tool: Callable[[str], Path]) -> Path:
    """Folder of stand-ins for N4BiasFieldCorrection and fast, in PATH and as $FSLDIR/bin."""
    need_tool("dwibiascorrect")
    folder = tmp_path / "fsl" / "bin"
    folder.mkdir(parents=True)
    (tmp_path / "fsl" / "etc").mkdir()
    (tmp_path / "fsl" / "etc" / "fslversion").write_text("6.0.7.4:1a2b3c\n")
    for name, source in (("N4BiasFieldCorrection", STAND_IN_N4), ("fast", STAND_IN_FAST)):
        (folder / name).write_text(f"#!{sys.executable}\n{source}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI_GZ")
    monkeypatch.delenv("FAKE_MODE", raising=False)
    return folder


def test_dwibiascorrect_gets_the_mean_b0_and_gives_its_field(
    files: dict[str, Path], tmp_path: Path, stand_in: Path
) -> None:
    work = tmp_path / "a work folder"
    unbiased, field, context = ran(files, work, method="dwibiascorrect")
    data, grid = images.read_float(files["dwi"])
    inside = images.read_float(files["mask_given"])[0] > 0
    (command,) = context.commands
    assert command.startswith("dwibiascorrect ants") and "-nthreads 2" in command
    world = (np.indices(grid.shape).T @ grid.affine[:3, :3].T).T[0]
    truth = np.exp(0.01 * world)
    assert error_of(field, truth, inside) < 1e-6
    assert np.log(field[inside].astype(float)).mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(unbiased * field[..., None], data, rtol=1e-6)
    versions = bias._tools(bias.Config(method="dwibiascorrect"))
    assert versions["MRtrix3"].startswith("3.") and versions["N4BiasFieldCorrection"] == "2.5.1"
    assert not list(work.glob("dwibiascorrect-tmp*"))


def test_dwibiascorrect_with_fast_leaves_the_outside_alone(
    files: dict[str, Path], tmp_path: Path, stand_in: Path
) -> None:
    unbiased, field, context = ran(
        files, tmp_path / "work", method="dwibiascorrect", dwibiascorrect_algorithm="fsl"
    )
    inside = images.read_float(files["mask_given"])[0] > 0
    data, _ = images.read_float(files["dwi"])
    assert (field[~inside] == 1).all() and (field > 0).all()
    assert np.array_equal(unbiased[~inside], data[~inside])
    assert spread(field, inside) > 0.2
    assert context.facts[0].name == "bias_field outside the mask"


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [("fails", "TOOL_FAILED", "N4 has failed"), ("zero", "BIAS_NOT_ESTIMATED", "positive nowhere")],
)
def test_dwibiascorrect_that_fails_is_not_believed(
    files: dict[str, Path],
    tmp_path: Path,
    stand_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    code: str,
    words: str,
) -> None:
    monkeypatch.setenv("FAKE_MODE", mode)
    with pytest.raises((ToolError, DatasetError), match=words) as error:
        ran(files, tmp_path / "work", method="dwibiascorrect")
    assert error.value.problems[0].code == code


def test_a_missing_helper_is_said_at_plan_time(stand_in: Path) -> None:
    (stand_in / "N4BiasFieldCorrection").unlink()
    with pytest.raises(ToolError, match="N4BiasFieldCorrection"):
        bias._tools(bias.Config(method="dwibiascorrect"))
    assert bias._tools(bias.Config(method="n4")) == {}
