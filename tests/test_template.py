"""An atlas comes to the subject: real FA and tracts through a deformation that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from somite import images, itk
from somite.images import Grid
from somite.interfaces import atlas, probabilities, roi, transfer
from somite.position import Image
from somite.registry import Context
from somite.segments import read_label_table
from somite.template import sampled

TRACTS = ("CST_left", "CST_right", "CC")


def known_way(grid: Grid, brain: np.ndarray) -> np.ndarray:
    """Smooth displacements of up to 8 mm and a turn of 5 degrees about the brain: points (x, y, z, 3)."""
    rng = np.random.default_rng(1)
    noise = [ndimage.gaussian_filter(rng.standard_normal(grid.shape), 25 / grid.voxel_mm) for _ in range(3)]
    shift = np.stack(noise, -1)
    shift *= 8 / np.linalg.norm(shift, axis=-1)[brain].max()
    here = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    centre = here[brain].mean(0)
    turn = Rotation.from_rotvec(np.deg2rad(5) * np.array([0.6, -0.48, 0.64])).as_matrix()
    return (here + shift - centre) @ turn.T + centre


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def run(folder: Path, options: dict[str, object], labels: Path, **given: Path) -> tuple[Path, Path, Context]:
    """The transform of the step `atlas`, the labels that `transfer` brings through it, and what was told."""
    context = Context(folder / "atlas")
    context.folder.mkdir()
    transform = atlas.run(**given, config=atlas.Config(**options), context=context)
    table = folder / "table.tsv"
    table.write_text("index\tname\n1\tone\n2\ttwo\n7\tseven\n")
    other = Context(folder / "transfer")
    other.folder.mkdir()
    path, _ = transfer.run(
        (labels,),
        table,
        given["fa"],
        transfer.Config(),
        other,
        atlas_transform=transform,
        within=given["mask"],
    )
    return transform, path, context


@pytest.mark.slow
def test_tracts_come_back_through_a_known_deformation(real_data: Path, tmp_path: Path) -> None:
    fa, grid = images.read_float(real_data / "atlas-test" / "FA.nii.gz")
    masks = {n: images.read_labels(real_data / "atlas-test" / f"{n}.nii.gz")[0] > 0 for n in TRACTS}
    points = known_way(grid, fa > 0.05)
    rng = np.random.default_rng(2)
    moved = sampled(Image(fa, grid), points)
    moved = np.where(moved > 0.02, moved + rng.normal(0, 0.03, moved.shape), 0).clip(0, 1)
    truth = {name: sampled(Image(mask, grid), points) > 0.5 for name, mask in masks.items()}
    probability = np.stack([masks[name] for name in TRACTS], -1).astype(np.float32)
    labels = np.where(masks["CST_left"], 2, masks["CST_right"])
    given = {
        "fa": images.write(tmp_path / "fa.nii", moved, grid),
        "mask": images.write(tmp_path / "mask.nii", ndimage.binary_fill_holes(moved > 0.02), grid),
        "atlas_template": images.write(tmp_path / "template.nii", fa, grid),
        "labels": images.write(tmp_path / "labels.nii", labels.astype(np.int32), grid),
    }
    transform, path, context = run(tmp_path, {}, **given)
    found, _ = images.read_labels(path)
    before = [dice(truth[name], masks[name]) for name in TRACTS]
    after = [dice(truth[name], found == n) for n, name in ((2, "CST_left"), (1, "CST_right"))]
    assert max(before) < 0.8 and min(after) >= 0.9, (before, after)
    assert not context.warnings
    context = Context(tmp_path / "probabilities")
    context.folder.mkdir()
    images_4d = images.write(tmp_path / "prob.nii", probability, grid)
    rows = tmp_path / "tracts.tsv"
    rows.write_text("index\tname\n" + "".join(f"{n}\t{name}\n" for n, name in enumerate(TRACTS, start=1)))
    made, _ = probabilities.run(
        (images_4d,), rows, given["fa"], probabilities.Config(), context, transform=transform
    )
    by_probability, _ = images.read_float(made)
    after = [dice(truth[name], by_probability[..., n] > 0.5) for n, name in enumerate(TRACTS)]
    assert min(after) >= 0.9, after
    points_found = itk.move(itk.read(transform), transfer.points_of(grid)[::97])
    strong = moved.ravel()[::97] > 0.3
    assert np.linalg.norm(points_found - points.reshape(-1, 3)[::97], axis=1)[strong].mean() < 0.7


@pytest.mark.slow
def test_a_template_of_many_comes_nearer_than_by_its_size(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "atlas-test"
    fa, grid = images.read_float(folder / "FA.nii.gz")
    template, template_grid = images.read_float(folder / "MNI_FA_template.nii.gz")
    _, _, context = run(
        tmp_path,
        {},
        fa=images.write(tmp_path / "fa.nii", fa, grid),
        mask=images.write(tmp_path / "mask.nii", ndimage.binary_fill_holes(fa > 0.02), grid),
        atlas_template=folder / "MNI_FA_template.nii.gz",
        labels=images.write(tmp_path / "l.nii", (template > 0.3).astype(np.int32), template_grid),
    )
    assert context.numbers["atlas_correlation"] > context.numbers["atlas_correlation_affine"] + 0.1
    assert not context.warnings


def brain(grid: Grid, shift: float) -> np.ndarray:
    at = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    at = at - (shift, 0, 0)
    inside = np.linalg.norm(at / (1, 1.2, 0.9), axis=-1) < 30
    return inside * (0.15 + 0.6 * (np.linalg.norm(at / (1, 3, 1) - (8, 0, 0), axis=-1) < 6))


GRID = Grid((36, 40, 30), np.array([[-2.0, 0, 0, 35], [0, 2, 0, -39], [0, 0, 2, -29], [0, 0, 0, 1]]))


def synthetic(folder: Path) -> dict[str, Path]:
    fa, template = brain(GRID, 0.0), brain(GRID, 4.0)
    return {
        "fa": images.write(folder / "fa.nii", fa, GRID),
        "mask": images.write(folder / "mask.nii", fa > 0.1, GRID),
        "atlas_template": images.write(folder / "template.nii", template, GRID),
        "labels": images.write(folder / "labels.nii", (template > 0.5).astype(np.int32) * 7, GRID),
    }


def test_labels_follow_the_template_and_stay_on_their_side(tmp_path: Path) -> None:
    given = synthetic(tmp_path)
    _, path, context = run(tmp_path, {"method": "affine"}, **given)
    found, _ = images.read_labels(path)
    assert set(np.unique(found)) == {0, 7}
    assert dice(found == 7, brain(GRID, 0.0) > 0.5) > 0.9
    assert context.numbers["atlas_correlation"] > 0.9


def test_a_template_that_is_not_alike_is_told(tmp_path: Path) -> None:
    given = synthetic(tmp_path)
    noise = np.random.default_rng(0).uniform(0, 1, GRID.shape)
    given["atlas_template"] = images.write(tmp_path / "noise.nii", noise, GRID)
    del given["labels"]
    context = Context(tmp_path)
    atlas.run(**given, config=atlas.Config(method="affine"), context=context)
    assert [warning.code for warning in context.warnings] == ["REGISTRATION_DOUBTFUL"]


def test_probabilities_are_interpolated_linearly_and_kept_on_their_own_grid(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (*GRID.shape, 2)).astype(np.float32)
    given = images.write(tmp_path / "p.nii", values, GRID)
    rows = tmp_path / "p.tsv"
    rows.write_text("index\tname\n1\tone\n2\ttwo\n")
    context = Context(tmp_path)
    path, table = probabilities.run((given,), rows, given, probabilities.Config(), context)
    assert np.array_equal(images.read_float(path)[0], values)
    assert [label.name for label in read_label_table(table)] == ["one", "two"]
    # Random values: some voxels have more than half of both. Tracts cross, so it is said and no more.
    assert [warning.code for warning in context.warnings] == ["LABEL_OVERLAP"]
    per_cent = images.write(tmp_path / "percent.nii", 100 * values, GRID)
    path, _ = probabilities.run((per_cent,), rows, given, probabilities.Config(), context)
    np.testing.assert_allclose(images.read_float(path)[0], values, atol=1e-6)
    assert context.facts[-1].value.startswith("percent")


def test_means_of_real_tracts_are_those_of_scipy(real_data: Path) -> None:
    fa, grid = images.read_float(real_data / "atlas-test" / "FA.nii.gz")
    config = roi.Config(metrics=("fa",), statistics=("mean", "sd"))
    for name in TRACTS:
        mask, _ = images.read_labels(real_data / "atlas-test" / f"{name}.nii.gz")
        inside = transfer.nearest_labels(mask, grid, transfer.points_of(grid)).reshape(grid.shape) > 0
        n = int(inside.sum())
        voxels = dict.fromkeys(("md", "ad", "rd", "s0", "residual", "noise_sigma", "mask"), np.ones(n))
        voxels |= {"fa": fa[inside], "nonpositive": np.zeros(n), "eigenvalues": np.ones((n, 3))}
        rows = {row["statistic"]: row["value"] for row in roi.measure(voxels, config)}
        assert rows["mean"] == pytest.approx(ndimage.mean(fa, mask, 1), abs=1e-6)
        assert rows["sd"] == pytest.approx(ndimage.standard_deviation(fa, mask, 1), abs=1e-4)
