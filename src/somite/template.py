"""A template brought to a subject: affine by mutual information, then diffeomorphic by local correlation.

World RAS+ mm. One thread, so that results do not depend on their number. Knows arrays, no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from threadpoolctl import threadpool_limits

from somite.alignment import align
from somite.position import Aligned, Image

Float = NDArray[np.float64]

_RADIUS_VOXELS = 4
_SIGMA_VOXELS = 3.0
"""Of the correlation's window, and of the smoothing of its steps. Narrower ones follow noise: on a real FA
map, the way to a template then differs by 1.5 and not 0.8 mm once the subject is deformed in a known way."""


@dataclass(frozen=True)
class Warped:
    """Where the points of the subject lie in the template, and how alike both are."""

    points: Float
    """(x, y, z, 3) world mm in the template, of every voxel of the subject's grid."""
    correlation: float
    """Of the subject and the warped template in the mask."""
    correlation_affine: float
    """The same by the affine part alone."""
    affine: Aligned


def sampled(image: Image, points: Float) -> NDArray[np.float32]:
    """Values of an image at world points (..., 3) by linear interpolation; 0 outside."""
    inverse = np.linalg.inv(image.grid.affine)
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    data: NDArray[np.float32] = np.asarray(image.data, np.float32)
    return np.asarray(map_coordinates(data, np.moveaxis(voxels, -1, 0), order=1), np.float32)


def warp(
    subject: Image,
    template: Image,
    mask: NDArray[np.bool_],
    iterations: tuple[int, ...] = (40, 40, 20),
    reach_mm: float = 20.0,
) -> Warped:
    """Affine, then symmetric diffeomorphic registration of a template to a subject, both FA for instance.

    Args:
        subject: the fixed image.
        template: the moving image.
        mask: (x, y, z) of the subject, the brain.
        iterations: of the deformation from the coarsest level to the finest; empty: affine only.
        reach_mm: of the search for a start, see `align`.

    Source: Avants et al., Med Image Anal 12 (2008) 26 (SyN), by dipy.
    """
    affine = align(subject, template, mask, "affine", None, reach_mm)
    points = affine.points()
    before = _correlation(subject, template, points, mask)
    if not iterations:
        return Warped(points, before, before, affine)
    with threadpool_limits(1):
        mapping = _diffeomorphic(subject, template, affine.transform, iterations)
        start = np.moveaxis(np.indices(subject.grid.shape), 0, -1) @ subject.grid.affine[:3, :3].T
        world = (start + subject.grid.affine[:3, 3]).reshape(-1, 3)
        points = np.asarray(mapping.transform_points(world), np.float64).reshape(points.shape)
    return Warped(points, _correlation(subject, template, points, mask), before, affine)


def _diffeomorphic(subject: Image, template: Image, affine: Float, iterations: tuple[int, ...]) -> Any:
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    metric = CCMetric(3, sigma_diff=_SIGMA_VOXELS, radius=_RADIUS_VOXELS)
    syn = SymmetricDiffeomorphicRegistration(metric=metric, level_iters=list(iterations))
    syn.verbosity = 0
    return syn.optimize(
        np.asarray(subject.data, np.float64),
        np.asarray(template.data, np.float64),
        static_grid2world=subject.grid.affine,
        moving_grid2world=template.grid.affine,
        prealign=affine,
    )


def _correlation(subject: Image, template: Image, points: Float, mask: NDArray[np.bool_]) -> float:
    inside = mask if mask.any() else np.ones_like(mask)
    pair = np.asarray(subject.data)[inside], sampled(template, points[inside])
    return float(np.corrcoef(*pair)[0, 1]) if pair[0].std() and pair[1].std() else 0.0
