"""Masks: which one wins, what it covers, and that no labelled voxel is ever left out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes import install, put_script
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from somite import images
from somite.body import body_mask, otsu_threshold
from somite.errors import DatasetError, ToolError
from somite.images import Grid
from somite.interfaces import mask
from somite.phantom.lumbar import lumbar_grid, make_lumbar
from somite.registry import Context

SHAPE = (30, 34, 9)
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", (10, 25, -30), degrees=True).as_matrix() @ np.diag([2, -2, 5])
GRID = Grid(SHAPE, AFFINE)


def two_legs(noise: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Two bodies of unequal size with a marrow cavity each, bright fluid in one, in noise; and the truth."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    one, two = np.hypot(x - 8, y - 12), np.hypot(x - 22, y - 22)
    truth = ((one < 7) | (two < 5)) & (z >= 0)
    image = np.where(truth, 600.0, 0.0)
    image[one < 4] = 0
    image[(two < 2) & (z > 3)] = 6000
    rng = np.random.default_rng(0)
    noisy = np.hypot(image + rng.normal(0, noise, SHAPE), rng.normal(0, noise, SHAPE))
    return noisy.astype(np.float32), truth


@pytest.fixture
def scan(tmp_path: Path):
    image, truth = two_legs()
    dwi = np.stack([image, image * 0.4, image * 0.3, image], 3)
    np.savetxt(tmp_path / "b", [[0, 1000, 1000, 5]], fmt="%g")
    return {"dwi": images.write(tmp_path / "dwi.nii", dwi, GRID), "bval": tmp_path / "b"}, truth


def context(folder: Path, name: str = "work folder") -> Context:
    (folder / name).mkdir()
    return Context(folder / name)


def voxels(path: Path) -> np.ndarray:
    data, grid = images.read_float(path)
    assert grid.matches(GRID, 1e-3)
    assert set(np.unique(data)) <= {0, 1}
    return data > 0


def test_body_keeps_both_legs_fills_cavities_and_ignores_bright_fluid() -> None:
    image, truth = two_legs()
    found = body_mask(image)
    assert found[truth].mean() > 0.99
    assert found[8, 12].all() and found[22, 22].all()
    two_voxels_off = ~binary_dilation(truth, np.ones((3, 3, 1)), 2)
    assert not found[two_voxels_off].any()


def test_body_drops_a_speck_and_works_on_one_slice() -> None:
    image, truth = two_legs()
    image[26:29, 3:6, 4] = 700
    assert not body_mask(image)[26:29, 3:6].any()
    single = body_mask(image[..., :1])
    assert single[..., 0][truth[..., 0]].all()
    assert (single[..., 0] == truth[..., 0]).mean() > 0.9


def test_otsu_parts_two_classes_like_an_exhaustive_search() -> None:
    rng = np.random.default_rng(1)
    values = np.r_[rng.normal(10, 2, 4000), rng.normal(30, 4, 1500)]
    candidates = np.linspace(5, 40, 400)

    def within(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return low.var() * low.size + (high.var() * high.size if high.size else 0.0)

    best = candidates[np.argmin([within(t) for t in candidates])]
    assert abs(otsu_threshold(values) - best) < 1.0


@pytest.mark.parametrize("fluid", [1.5, 6.0])
def test_a_brain_in_bright_fluid_is_found_whole(fluid: float) -> None:
    rng = np.random.default_rng(0)
    away = [(axis - 19.5) / 16 for axis in np.ogrid[:40, :40, :40]]
    depth = 1 - np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2)
    image = np.where(depth > 0.2, 1000.0, np.where(depth > 0, 1000.0 * fluid, 0.0))
    image[..., :12] = np.where(depth[..., :12] > 0.2, 1000.0, image[..., :12])
    image[..., :8] = 0  # cut, so that the fluid does not close below
    found = mask.median_otsu_mask(np.hypot(image + rng.normal(0, 20, image.shape), 20))
    assert found[(depth > 0.2) & (image > 0)].mean() > 0.99
    assert not found[depth < -0.15].any()


@pytest.mark.parametrize("method", ["auto", "body", "median_otsu"])
def test_methods_make_a_mask_of_the_mean_b0(tmp_path: Path, scan, method: str) -> None:
    files, truth = scan
    work = context(tmp_path)
    found = voxels(mask.run(**files, config=mask.Config(method=method), context=work))
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7
    assert work.numbers["mask_voxels"] == found.sum()
    assert [fact.value for fact in work.facts] == (["body"] if method == "auto" else [])


@pytest.mark.parametrize("method", ["auto", "given", "bet", "median_otsu"])
def test_a_given_mask_wins_over_every_method_and_says_so(tmp_path: Path, scan, method: str) -> None:
    files, _ = scan
    given = np.zeros(SHAPE, bool)
    given[3:9, 4:8, 2:5] = True
    path = images.write(tmp_path / "mine.nii", given, GRID)
    work = context(tmp_path)
    found = voxels(mask.run(**files, mask_given=path, config=mask.Config(method=method), context=work))
    assert np.array_equal(found, given)
    (fact,) = work.facts
    assert fact.value == "mine.nii" and method in fact.reason


def test_a_given_mask_stored_otherwise_is_put_in_order(tmp_path: Path, scan) -> None:
    files, _ = scan
    given = np.random.default_rng(0).random(SHAPE) < 0.3
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    stored = Grid((SHAPE[1], SHAPE[0], SHAPE[2]), (AFFINE @ flip)[:, [1, 0, 2, 3]])
    path = images.write(tmp_path / "mine.nii", given[::-1].transpose(1, 0, 2), stored)
    found = voxels(mask.run(**files, mask_given=path, config=mask.Config(), context=context(tmp_path)))
    assert np.array_equal(found, given)


@pytest.mark.parametrize("method", ["body", "given"])
def test_no_labelled_voxel_is_left_out(tmp_path: Path, scan, method: str) -> None:
    files, _ = scan
    labels = np.zeros(SHAPE, np.int32)
    labels[8, 8:14, 3] = 4
    labels[0, 0:3, 0] = 7
    optional = {"labels_dwi": images.write(tmp_path / "labels.nii", labels, GRID)}
    if method == "given":
        inside = np.zeros(SHAPE, bool)
        inside[8, 8:14, 3] = True
        optional["mask_given"] = images.write(tmp_path / "mine.nii", inside, GRID)
    work = context(tmp_path)
    found = voxels(mask.run(**files, **optional, config=mask.Config(method=method), context=work))
    assert found[labels > 0].all()
    (warning,) = work.warnings
    assert warning.code == "MASK_CUTS_LABEL" and warning.severity == "warning"
    assert warning.found.startswith("3 of 9")


def test_labels_inside_the_mask_raise_no_warning(tmp_path: Path, scan) -> None:
    files, truth = scan
    labels = np.where(body_mask(two_legs()[0]) & truth, 2, 0).astype(np.int32)
    path = images.write(tmp_path / "labels.nii", labels, GRID)
    work = context(tmp_path)
    mask.run(**files, labels_dwi=path, config=mask.Config(method="body"), context=work)
    assert not work.warnings


@pytest.mark.parametrize(
    ("fault", "code"), [("blank", "MASK_EMPTY"), ("grid", "MASK_GRID"), ("none", "MASK_NOT_GIVEN")]
)
def test_faults_have_codes_and_leave_nothing(tmp_path: Path, scan, fault: str, code: str) -> None:
    files, _ = scan
    grid = Grid(SHAPE, AFFINE + 0.1) if fault == "grid" else GRID
    path = images.write(tmp_path / "mine.nii", np.zeros(SHAPE, bool), grid)
    given = {} if fault == "none" else {"mask_given": path}
    work = context(tmp_path)
    with pytest.raises(DatasetError) as error:
        mask.run(**files, **given, config=mask.Config(method="given"), context=work)
    (problem,) = error.value.problems
    assert problem.code == code and problem.where and problem.do
    assert not list(work.folder.iterdir())


# FSL bet, by its stand-in


def test_bet_is_called_versioned_and_recorded(tmp_path: Path, scan, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = scan
    install("bet", tmp_path, monkeypatch)
    config = mask.Config(method="bet", bet_fraction=0.4)
    assert mask._tools(config) == {"FSL": "6.0.7.4"} and mask._tools(mask.Config()) == {}
    work = context(tmp_path)
    found = voxels(mask.run(**files, config=config, context=work))
    assert 0.45 < found.mean() < 0.55
    (command,) = work.commands
    assert command.startswith("bet ") and "-m" in command and "-f 0.40" in command


@pytest.mark.parametrize(
    ("mode", "code"),
    [("quiet", "TOOL_OUTPUT_MISSING"), ("words", "TOOL_FAILED"), ("blank", "MASK_EMPTY")],
)
def test_bet_that_fails_while_ending_with_0_is_not_believed(
    tmp_path: Path, scan, monkeypatch: pytest.MonkeyPatch, mode: str, code: str
) -> None:
    files, _ = scan
    install("bet", tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_MODE", mode)
    with pytest.raises((ToolError, DatasetError), match=code):
        mask.run(**files, config=mask.Config(method="bet", bet_fraction=0.4), context=context(tmp_path))


def test_bet_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        mask._tools(mask.Config(method="bet"))


# MRtrix3 dwi2mask, the real one


def test_the_real_dwi2mask_serves_and_does_not_need_directions(tmp_path: Path, scan, need_tool) -> None:
    tool = need_tool("dwi2mask")
    files, _ = scan
    # A head, which it is made for: of the legs it takes the bright fluid only.
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    truth = x**2 + y**2 + (z / 1.5) ** 2 < 0.6
    noise = np.random.default_rng(0).normal(0, 15, (2, *SHAPE, 4))
    dwi = np.hypot(truth[..., None] * np.array([600, 250, 200, 600]) + noise[0], noise[1])
    files["dwi"] = images.write(tmp_path / "head.nii", dwi, GRID)
    np.savetxt(files["bval"], [[0, 1000, 1000, 40]], fmt="%g")  # which MRtrix3 by itself takes for a shell
    config = mask.Config(method="dwi2mask")
    assert mask._tools(config)["MRtrix3"].startswith("3.")
    work = context(tmp_path, "work folder & more")
    found = voxels(mask.run(**files, config=config, context=work))
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95
    (command,) = work.commands
    assert command.startswith("dwi2mask ") and "-nthreads 1" in command
    # The same from its own command line, with directions of all sorts.
    np.savetxt(tmp_path / "v", [[0, 0.6, 0, 0], [0, 0.8, 0, 0], [0, 0, 1, 0]])
    np.savetxt(tmp_path / "b0", [[0, 1000, 1000, 0]], fmt="%g")
    call = [tool, "-quiet", files["dwi"], tmp_path / "its.nii", "-fslgrad", tmp_path / "v", tmp_path / "b0"]
    subprocess.run(call, check=True)
    assert np.array_equal(found, voxels(tmp_path / "its.nii"))


def test_dwi2mask_is_an_algorithm_of_many_from_3_1_on() -> None:
    for version, command in (("3.0.3", "dwi2mask"), ("3.0.4 in docker run", "dwi2mask"), ("3.1.0", "legacy")):
        assert mask.dwi2mask_command(version).split()[-1] == command


@pytest.mark.parametrize(("body", "code"), [("exit 1", "TOOL_FAILED"), ("true", "TOOL_OUTPUT_MISSING")])
def test_dwi2mask_that_fails_is_not_believed(
    tmp_path: Path, scan, monkeypatch: pytest.MonkeyPatch, body: str, code: str
) -> None:
    files, _ = scan
    says = 'if [ "$1" = --version ]; then echo "== dwi2mask 3.1.0 =="; exit; fi'
    put_script(tmp_path / "bin/dwi2mask", f"{says}\necho 'dwi2mask: [ERROR] no b=0' >&2; {body}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with pytest.raises(ToolError, match=code) as error:
        mask.run(**files, config=mask.Config(method="dwi2mask"), context=context(tmp_path))
    assert error.value.problems[0].where.startswith("dwi2mask legacy ")


@pytest.mark.parametrize("snr", [10.0, 25.0, np.inf])
def test_muscle_far_darker_than_fluid_is_body(snr: float) -> None:
    """At a long echo time CSF is fifteen times brighter than muscle: no labels are there to mend the mask."""
    phantom = make_lumbar(1, snr, grid=lumbar_grid(3.0))
    made = body_mask(phantom.dwi[..., phantom.gradients.is_b0()].mean(3))
    for label in phantom.label_table:
        here = phantom.labels == label.index
        if label.segment.region != "partial_volume" and here.any():
            assert made[here].mean() > 0.95, label.name
    assert made.mean() < 0.8
