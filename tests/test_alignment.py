"""Registration across contrasts: the way through the body is known, on grids stored in any way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from spine import PHASE_AXIS, Spine, spine
from threadpoolctl import threadpool_limits

from somite.alignment import align
from somite.body import body_mask
from somite.images import Grid
from somite.position import Aligned, Image


def way(found: Aligned, points: np.ndarray) -> np.ndarray:
    """Where points (n, 3) of the fixed image lie in the moving one."""
    inverse = np.linalg.inv(found.grid.affine)
    voxels = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    to = np.moveaxis(found.points(), -1, 0)
    return np.stack([map_coordinates(one, voxels, order=1, mode="nearest") for one in to], -1)


def across_mm(body: Spine, found: Aligned) -> np.ndarray:
    """Mean distance (8,) of each root's centreline from where it is, perpendicular to it."""
    errors = []
    for points, tangents in body.centrelines:
        apart = way(found, body.distorted(points)) - body.in_t2w(points)
        along = tangents @ body.movement[:3, :3].T
        errors.append(np.linalg.norm(apart - (apart * along).sum(1)[:, None] * along, axis=1).mean())
    return np.array(errors)


def aligned(body: Spine, axis: int | None = None, **options: object) -> Aligned:
    return align(Image(body.b0, body.grid), Image(body.t2w, body.t2w_grid), body_mask(body.b0), "rigid", axis)


@pytest.mark.parametrize("axes", ["LPS", pytest.param("PSR", marks=pytest.mark.slow)])
def test_a_t2w_image_is_found_again(axes: str) -> None:
    body = spine(axes=axes)
    found = aligned(body)
    assert across_mm(body, found).max() < 0.3
    assert found.information > found.at_start and found.information > 1.03 * found.nearby
    assert found.overlap > 0.95 and found.moved_mm == pytest.approx(5.2, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_distortion_is_undone_along_phase_encoding(seed: int) -> None:
    body = spine(1.0, seed)
    stiff, bent = aligned(body), aligned(body, PHASE_AXIS)
    assert stiff.displacement is None and across_mm(body, stiff).max() > 1.8
    assert across_mm(body, bent).max() < 1.0


def small(seed: int = 0) -> tuple[Image, Image]:
    """Two balls and a bar of other brightness, of 24 mm; the second lies 3 mm off."""
    affine = np.diag([1.5, -2.0, 2.5, 1.0])
    affine[:3, 3] = (-12, 16, -11)
    grid = Grid((17, 17, 10), affine)
    at = np.moveaxis(np.indices(grid.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]

    def drawn(points: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
        shapes = [
            np.linalg.norm(points / (1, 1.2, 1.3), axis=-1) < 11,
            np.linalg.norm(points - (4, 3, 1), axis=-1) < 4,
            (np.abs(points - (-4, -2, 2)) < (2, 5, 3)).all(-1),
        ]
        image = np.zeros(points.shape[:-1])
        for shape, value in zip(shapes, values, strict=True):
            image[shape] = value
        return image

    noise = np.random.default_rng(seed).normal(0, 3, (2, *grid.shape))
    one, two = drawn(at, (100, 200, 50)) + noise[0], drawn(at - (2, -1, 2), (150, 30, 250)) + noise[1]
    return Image(one, grid), Image(two, grid)


def test_results_do_not_depend_on_threads() -> None:
    fixed, moving = small()
    mask = fixed.data > 30
    results = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            results.append(align(fixed, moving, mask, "affine", 1, 5.0))
    first = results[0]
    for other in results[1:]:
        assert np.array_equal(first.transform, other.transform)
        assert first.displacement is not None and np.array_equal(first.displacement, other.displacement)


def test_a_shift_of_a_small_image_is_found_between_contrasts() -> None:
    fixed, moving = small()
    found = align(fixed, moving, fixed.data > 30, reach_mm=5.0)
    centre = found.transform @ (0, 0, 0, 1)
    np.testing.assert_allclose(centre[:3], (2, -1, 2), atol=0.5)


def test_a_stretch_is_found_by_an_affine_transform() -> None:
    body = spine()
    stretch = np.array([[1.06, 0.03, 0, 0], [0.03, 0.95, 0, 0], [0, 0, 1.03, 0], [0, 0, 0, 1]])
    wide = Grid(body.t2w_grid.shape, stretch @ body.t2w_grid.affine)
    found = align(Image(body.b0, body.grid), Image(body.t2w, wide), body_mask(body.b0), "affine")
    points = np.concatenate([points for points, _ in body.centrelines])
    error = np.linalg.norm(way(found, points) - body.in_t2w(points) @ stretch[:3, :3].T, axis=1)
    assert error.mean() < 0.6


def test_one_slice_moves_in_its_plane_only() -> None:
    fixed, moving = small()
    grid = Grid((17, 17, 1), fixed.grid.affine)
    one, two = (Image(image.data[:, :, 5:6], grid) for image in (fixed, moving))
    found = align(one, two, one.data > 30, reach_mm=5.0)
    np.testing.assert_allclose(found.transform[2], (0, 0, 1, 0), atol=1e-9)
