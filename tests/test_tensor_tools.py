"""The tensor by FSL's dtifit: with FSL where it is there, else with a stand-in that behaves like it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from somite import images, tools
from somite.errors import ToolError
from somite.gradients import Gradients, write_fsl
from somite.images import Grid
from somite.interfaces import tensor
from somite.registry import Context

# Axes permuted, oblique, anisotropic; the determinant is positive, so FSL reverses the first axis.
AFFINE = np.array([[0.0, 1.9, 0.3, -40], [-2.0, 0.1, 0.2, 30], [0.1, -0.3, 3.1, -9], [0, 0, 0, 1]])
AFFINES = {"positive": AFFINE, "negative": AFFINE * np.array([-1, 1, 1, 1])}

DTIFIT = f"""#!{sys.executable}
# What FSL's dtifit does, with its arguments, its names of outputs, and vectors in the frame of the bvecs.
import os, sys
import nibabel, numpy as np
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert set(options) == set("-k -o -m -r -b".split()), options
assert os.environ["FSLOUTPUTTYPE"] == "NIFTI"
image = nibabel.load(options["-k"])
mask = nibabel.load(options["-m"]).get_fdata() > 0
b, g = np.loadtxt(options["-b"]), np.loadtxt(options["-r"]).T
design = np.column_stack(
    [-b * f * g[:, i] * g[:, j] for i, j, f in [(0,0,1),(0,1,2),(0,2,2),(1,1,1),(1,2,2),(2,2,1)]]
    + [np.ones_like(b)])
p = np.linalg.pinv(design) @ np.log(np.maximum(image.get_fdata()[mask], 1e-3)).T
values, vectors = np.linalg.eigh(p[[0, 1, 2, 1, 3, 4, 2, 4, 5]].T.reshape(-1, 3, 3))
maps = {{name: np.zeros(p.shape[1]) for name in ("FA", "MD", "MO")}} | {{"S0": np.exp(p[6])}}
for k in (1, 2, 3):
    maps[f"L{{k}}"], maps[f"V{{k}}"] = values[:, 3 - k], vectors[:, :, 3 - k]
for name, inside in maps.items():
    whole = np.zeros(mask.shape + inside.shape[1:], "f4")
    whole[mask] = inside
    nibabel.save(nibabel.Nifti1Image(whole, image.affine), f"{{options['-o']}}_{{name}}.nii")
"""
FAILING = """#!/bin/sh
echo "terminate called after throwing an instance of 'NEWMAT::SingularException'" >&2
exit 134
"""
SILENT = """#!/bin/sh
echo "0 slices processed"
"""


@pytest.fixture
def scan(tmp_path: Path):
    """Makes a scan with noise on a grid of the given affine: the inputs of the step."""

    def make(affine: np.ndarray) -> dict[str, Path]:
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((20, 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        gradients = Gradients(np.r_[0, 0, np.full(20, 1000.0)], np.r_[np.zeros((2, 3)), directions])
        fibre = rng.standard_normal((6, 5, 4, 3))
        fibre /= np.linalg.norm(fibre, axis=-1, keepdims=True)
        signal = 1000 * np.exp(-gradients.bvals * (4e-4 + 1.2e-3 * (fibre @ gradients.bvecs.T) ** 2))
        signal += rng.normal(0, 10, signal.shape)
        grid = Grid((6, 5, 4), affine)
        bval, bvec = write_fsl(gradients, tmp_path / "dwi.bval", tmp_path / "dwi.bvec", affine)
        return {
            "dwi": images.write(tmp_path / "dwi.nii", signal, grid),
            "bval": bval,
            "bvec": bvec,
            "mask": images.write(tmp_path / "mask.nii", rng.random((6, 5, 4)) < 0.8, grid),
        }

    return make


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an executable named dtifit first in PATH, as an FSL of version 6.0.7.4."""

    def install(script: str) -> None:
        (tmp_path / "fsl/bin").mkdir(parents=True)
        (tmp_path / "fsl/etc").mkdir()
        (tmp_path / "fsl/etc/fslversion").write_text("6.0.7.4\n")
        executable = tmp_path / "fsl/bin/dtifit"
        executable.write_text(script)
        executable.chmod(0o755)
        monkeypatch.setenv("PATH", f"{executable.parent}:/usr/bin:/bin")
        monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))

    return install


def run(inputs: dict[str, Path], folder: Path, **options) -> tuple[dict[str, np.ndarray], Context]:
    folder.mkdir()
    context = Context(folder)
    paths = tensor.run(**inputs, config=tensor.Config(**options), context=context)
    return {
        name: images.read_float(p)[0] for name, p in zip(tensor.PRODUCTS, paths[:-2], strict=True)
    }, context


def same_maps(inputs: dict[str, Path], folder: Path, atol: float) -> Context:
    """dtifit's maps are the built-in OLS's, in the same axes."""
    theirs, context = run(inputs, folder / "dtifit", method="dtifit")
    ours, _ = run(inputs, folder / "ols", method="ols")
    for name in ("tensor", "fa", "md", "ad", "rd", "eigenvalues"):
        np.testing.assert_allclose(theirs[name], ours[name], atol=atol * (1 if name == "fa" else 1e-3))
    np.testing.assert_allclose(theirs["s0"], ours["s0"], rtol=atol)
    np.testing.assert_allclose(theirs["residual"], ours["residual"], atol=atol)
    first = np.einsum("...i,...i", theirs["eigenvectors"][..., :3], ours["eigenvectors"][..., :3])
    inside = ours["md"] != 0
    assert np.median(np.abs(first[inside])) > 1 - 1e-5
    return context


@pytest.mark.parametrize("sign", AFFINES)
def test_dtifit_is_turned_into_world_axes(scan, stand_in, tmp_path: Path, sign: str) -> None:
    stand_in(DTIFIT)
    context = same_maps(scan(AFFINES[sign]), tmp_path, 1e-5)
    (command,) = context.commands
    assert command.startswith("dtifit -k ")
    assert tensor._tools(tensor.Config(method="dtifit")) == {"dtifit": "6.0.7.4"}


def test_dtifit_gets_the_chosen_volumes_only(scan, stand_in, tmp_path: Path) -> None:
    stand_in(DTIFIT)
    inputs = scan(AFFINE)
    bvals = np.loadtxt(inputs["bval"])
    bvals[-2:] = 3000
    np.savetxt(inputs["bval"], bvals[None], fmt="%g")
    theirs, _ = run(inputs, tmp_path / "dtifit", method="dtifit", b_max_s_per_mm2=1500)
    ours, _ = run(inputs, tmp_path / "ols", method="ols", b_max_s_per_mm2=1500)
    np.testing.assert_allclose(theirs["fa"], ours["fa"], atol=1e-5)


def test_the_real_dtifit_agrees(need_tool, scan, tmp_path: Path) -> None:
    need_tool("dtifit")
    same_maps(scan(AFFINE), tmp_path, 1e-4)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [(FAILING, "TOOL_FAILED", "SingularException"), (SILENT, "TOOL_OUTPUT_MISSING", "dtifit_L1.nii: absent")],
)
def test_a_failing_dtifit_is_an_error(
    scan, stand_in, tmp_path: Path, script: str, code: str, words: str
) -> None:
    stand_in(script)
    with pytest.raises(ToolError) as caught:
        run(scan(AFFINE), tmp_path / "out", method="dtifit")
    (problem,) = caught.value.problems
    assert problem.code == code
    assert words in problem.found
    assert problem.where.startswith("dtifit -k ")
    assert not list((tmp_path / "out").glob("fa.nii"))


def test_without_fsl_the_plan_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        tensor._tools(tensor.Config(method="dtifit"))
    assert tensor._tools(tensor.Config(method="wls")) == {}
    assert tools.FSL.install
