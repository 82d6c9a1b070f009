"""The perfusion fraction against the truth, with and without b-values that tell it; and fat-fraction maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from somite import images, registry
from somite.errors import DatasetError
from somite.gradients import Gradients, write_fsl
from somite.images import Grid
from somite.interfaces import fat_fraction, perfusion
from somite.phantom.noise import add_rician
from somite.phantom.scheme import spread
from somite.phantom.tissue import attenuation
from somite.registry import Context

OBLIQUE = np.array([[0.0, 2.9, 0.3, -40], [-3.0, 0.1, 0.2, 30], [0.1, -0.3, 6.1, -9], [0, 0, 0, 1]])
SHAPE = (9, 8, 7)


def thigh(n_b0: int = 2, shells: tuple[tuple[int, float], ...] = ((12, 200.0), (30, 600.0))) -> Gradients:
    bvals = np.concatenate([np.zeros(n_b0), *(np.full(n, b) for n, b in shells)])
    return Gradients(bvals, np.concatenate([np.zeros((n_b0, 3)), *(spread(n) for n, _ in shells)]))


def estimated(
    folder: Path, f: np.ndarray, gradients: Gradients, snr: float = np.inf
) -> tuple[np.ndarray, Context]:
    """Map of the step for perfusion fractions f (x, y, z); the first slice lies outside the mask."""
    rng = np.random.default_rng(4)
    directions = rng.standard_normal((3, f.size))
    directions /= np.linalg.norm(directions, axis=0)
    tissue = attenuation(np.full(f.size, 0.233), np.full(f.size, 1.46e-3), directions, gradients)
    flat = f.ravel()[:, None]
    signal = ((1 - flat) * tissue + flat * np.exp(-gradients.bvals * 29.7e-3)).astype(np.float32)
    if np.isfinite(snr):
        add_rician(signal, 1 / snr, rng)
    grid, mask = Grid(SHAPE, OBLIQUE), np.ones(SHAPE, np.uint8)
    mask[:, :, 0] = 0
    bval, bvec = write_fsl(gradients, folder / "dwi.bval", folder / "dwi.bvec", OBLIQUE)
    context = Context(folder)
    made = registry.discover()["perfusion"](
        perfusion.Config(method="segmented"),
        context,
        dwi=images.write(folder / "dwi.nii", signal.reshape(*SHAPE, -1), grid),
        bval=bval,
        bvec=bvec,
        mask=images.write(folder / "mask.nii", mask, grid),
    )
    return np.array(images.read_float(made["perfusion_fraction"])[0]), context


def test_the_truth_comes_back(tmp_path: Path) -> None:
    f = np.random.default_rng(5).uniform(0, 0.3, SHAPE)
    found, context = estimated(tmp_path, f, thigh())
    np.testing.assert_allclose(found[:, :, 1:], f[:, :, 1:], atol=3e-3)
    assert not found[:, :, 0].any()
    assert not context.warnings
    assert context.numbers["perfusion_fraction_median"] == pytest.approx(np.median(f[:, :, 1:]), abs=3e-3)


def test_noise_does_not_make_a_perfusion(tmp_path: Path) -> None:
    found, _ = estimated(tmp_path, np.zeros(SHAPE), thigh(4), snr=40)
    inside = found[:, :, 1:]
    assert abs(inside.mean()) < 0.01
    assert (inside < 0).mean() > 0.3
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "gradients", [thigh(shells=((15, 500.0),)), thigh(0), thigh(shells=((12, 500.0), (12, 600.0)))]
)
def test_b_values_that_do_not_tell_it(tmp_path: Path, gradients: Gradients) -> None:
    found, context = estimated(tmp_path, np.full(SHAPE, 0.1), gradients)
    assert (found == -1).all()
    assert [warning.code for warning in context.warnings] == ["PERFUSION_UNDETERMINED"]
    assert "not determined" in context.facts[0].value


FINE = np.array([[1.5, 0, 0, -50], [0, 1.5, 0, -20], [0, 0, 2.0, -25], [0, 0, 0, 1.0]])


def transferred(
    folder: Path, data: np.ndarray, affine: np.ndarray, transform: Path | None = None
) -> tuple[np.ndarray, Context]:
    dwi = images.write(folder / "dwi.nii", np.ones((*SHAPE, 2), np.float32), Grid(SHAPE, OBLIQUE))
    shape = (data.shape[0], data.shape[1], data.shape[2])
    given = images.write(folder / "fat.nii", data.astype(np.float32), Grid(shape, affine))
    context = Context(folder)
    more = {} if transform is None else {"labels_transform": transform}
    step = registry.discover()["fat_fraction"]
    made = step(fat_fraction.Config(), context, fat_given=given, dwi=dwi, **more)
    return np.array(images.read_float(made["fat_fraction"])[0]), context


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3][:, None, None, None]


def ramp(points: np.ndarray) -> np.ndarray:
    return np.asarray(0.3 + 0.002 * points[0] - 0.003 * points[1] + 0.001 * points[2])


def test_a_map_on_another_grid_is_interpolated_in_world_space(tmp_path: Path) -> None:
    shape = (15, 50, 45)
    data = ramp(world(FINE, shape))
    found, context = transferred(tmp_path, data, FINE)
    known = found >= 0
    np.testing.assert_allclose(found[known], ramp(world(OBLIQUE, SHAPE))[known], atol=2e-3)
    assert 0.3 < known.mean() < 1
    assert context.numbers["fat_map_covers_fraction"] == pytest.approx(known.mean())
    percent, context = transferred(tmp_path, data * 100, FINE)
    np.testing.assert_allclose(percent, found, atol=1e-5)
    assert context.facts[0].value == "in percent"


def test_a_transform_moves_the_map(tmp_path: Path) -> None:
    shape = (60, 50, 45)
    path = tmp_path / "shift.txt"
    sitk.WriteTransform(sitk.TranslationTransform(3, (-4.0, 0.0, 0.0)), str(path))  # LPS: +4 mm in RAS x
    found, _ = transferred(tmp_path, ramp(world(FINE, shape)), FINE, path)
    points = world(OBLIQUE, SHAPE)
    points[0] += 4
    np.testing.assert_allclose(found[4, 4, 3], ramp(points)[4, 4, 3], atol=2e-3)


def test_a_map_elsewhere_is_refused(tmp_path: Path) -> None:
    away = FINE.copy()
    away[0, 3] = 5000
    with pytest.raises(DatasetError, match="FAT_MAP: the fat-fraction map does not reach"):
        transferred(tmp_path, np.ones((5, 5, 5)), away)
