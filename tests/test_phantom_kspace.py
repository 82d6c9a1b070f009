"""A phantom whose k-space ends rings as a scanner's image does, and unringing brings it back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from somite.gibbs import unring
from somite.images import Grid
from somite.phantom import kspace, make, protocol, scheme
from somite.phantom.lumbar import lumbar_grid
from somite.phantom.paint import Shift
from somite.phantom.scan import Scan

LUMBAR = protocol.find("lumbar")


def centres(grid: Grid) -> np.ndarray:
    return np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("axes", ["LAS", "PSR"])
def test_a_finer_grid_covers_the_same_field_of_view(axes: str, times: int) -> None:
    grid = lumbar_grid((3.1, 2.9, 6.0), axes, (10.0, -5.0, 20.0), (31.0, 40.0, 24.0))
    fine = kspace.finer(grid, times)
    nx, ny, nz = grid.shape
    means = centres(fine).reshape(nx, times, ny, times, nz, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(means, centres(grid), atol=1e-9)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("shape", [(12, 9, 2), (7, 1, 1)])
def test_what_k_space_holds_is_seen_as_it_is(shape: tuple[int, int, int], times: int) -> None:
    def waves(nx: int, ny: int, along: float) -> np.ndarray:
        x, y = (np.arange(n) / n * 2 * np.pi + along * 2 * np.pi / n for n in (nx, ny))
        slow = 3 + np.cos(2 * x + 0.3)[:, None] + (np.cos(y - 1) if shape[1] > 2 else 0 * y)
        return np.asarray(slow[..., None] * np.arange(1, shape[2] + 1), np.float32)

    fine = waves(shape[0] * times, shape[1] * times, 0.0)
    # The centre of a voxel lies (times - 1) / 2 finer voxels beyond that of its first finer one.
    expected = waves(shape[0], shape[1], (times - 1) / 2 / times)
    np.testing.assert_allclose(kspace.acquired(fine, times), expected, atol=1e-5)


def test_an_edge_overshoots_by_nine_per_cent_within_the_slice_only() -> None:
    fine = np.zeros((4 * 64, 4 * 3, 5), np.float32)
    fine[4 * 16 : 4 * 48, :, 2] = 100
    # Gibbs: the integral of sin(x) / x to pi, over pi / 2; seen where the voxels meet its peak.
    seen = np.concatenate([kspace.acquired(np.roll(fine, s, axis=0), 4)[:, 1, 2] for s in range(4)])
    assert seen.max() == pytest.approx(109, abs=1)
    outer = kspace.acquired(fine, 4)[..., [0, 1, 3, 4]]
    assert np.abs(outer).max() < 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_in_finer_voxels_is_the_same_shift(axis: int) -> None:
    i, j, k = np.indices((5, 4, 3), float)
    shift = Shift.of(0.01 * i + 0.02 * j + 0.03 * k, axis)
    fine = shift.finer((5, 4, 3), 2)
    i, j, k = np.meshgrid(np.arange(10) / 2 - 0.25, np.arange(8) / 2 - 0.25, np.arange(3.0), indexing="ij")
    unit = 1 if axis == 2 else 2
    np.testing.assert_allclose(fine.centre.reshape(10, 8, 3), unit * (0.01 * i + 0.02 * j + 0.03 * k))
    np.testing.assert_allclose(fine.density, shift.density[0])


def test_unringing_brings_the_body_back() -> None:
    """And takes from a phantom that does not ring: what is not there cannot be taken off."""
    grid = lumbar_grid(2.0, field_of_view_mm=(96.0, 120.0, 12.0))
    made = {
        rings: make.make(
            LUMBAR, 1, math.inf, grid=grid, gradients=scheme.shells(1), faults=Scan(ringing=rings)
        )
        for rings in (False, True)
    }
    true = made[False].s0
    pure = (made[False].whole > 0) & (made[False].whole < 100)
    away = {
        (rings, off): np.sqrt(
            ((unring(one.dwi)[..., 0] if off else one.dwi[..., 0]) - true)[pure].astype(float) ** 2
        ).mean()
        for rings, one in made.items()
        for off in (False, True)
    }
    assert away[False, False] < 1e-3
    assert away[True, True] < 0.6 * away[True, False]
    assert away[False, True] > 1.0
    assert (made[True].labels == made[False].labels).all() and repr(made[True].truth) == repr(
        made[False].truth
    )
    np.testing.assert_array_equal(made[True].s0, true)
