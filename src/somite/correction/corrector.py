"""The series without motion and distortion, and what was found of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from somite.corrected import Corrected, Outlier, polynomial
from somite.correction import slices
from somite.correction.estimation import Acquisition, Estimate, Mask, Options, estimate
from somite.correction.gaps import touches
from somite.correction.predict import Kriging
from somite.correction.series import Float, Frame, Series
from somite.registration import displacement_mm, in_threads, region_of


def correct(acquisition: Acquisition, options: Options, threads: int = 1) -> Corrected:
    """The series without motion and distortion, and what was found; arguments as those of `estimate`."""
    with threadpool_limits(1):  # sums must not depend on how many threads BLAS takes
        return _corrected(estimate(acquisition, options, threads))


def _corrected(found: Estimate) -> Corrected:
    series, replaces = found.series, found.options.replace_lost
    kriging = kriging_of(found) if series.lost.any() and replaces else None
    series.splines = []  # of the smoothed volumes: as large as the series that is made now
    corrected = resampled(found)
    replaced = np.zeros(series.n, bool) if kriging is None else replace_lost(corrected, found, kriging)
    outliers = [
        Outlier(int(v), int(s), float(found.scores[v, s]), int(replaced[v]))
        for v, s in np.argwhere(series.lost)
    ]
    motion, distortion = motion_table(found), distortion_table(found)
    return Corrected(corrected, found.gradients, motion, outliers, distortion, found.searched)


def motion_table(found: Estimate) -> Float:
    """(n, 7): shift in mm, rotation vector in degrees, mean displacement over the region in mm.

    World RAS+ axes, about the centre of the region: where the body was when the volume was acquired,
    relative to the first b=0 volume. A constant eddy current along phase encoding is part of the shift.
    """
    region = region_of(found.acquisition.mask, found.acquisition.grid)
    transforms = found.pose.transforms(found.series.sites.centre)
    rotations = Rotation.from_matrix(transforms[:, :3, :3]).as_rotvec()
    shifts = transforms[:, :3, :3] @ region.centre + transforms[:, :3, 3] - region.centre
    moved = [displacement_mm(transform, region) for transform in transforms]
    return np.column_stack([shifts, np.rad2deg(rotations), moved])


def distortion_table(found: Estimate) -> Float:
    """(n, 11) as `Corrected.distortion`: about the centre of the image, towards higher voxel indices."""
    series = found.series
    sites, grid = series.sites, series.sites.grid
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    points = sites.points[sites.core] + sites.centre - middle
    along = series.core.values.astype(np.float64) @ series.pose.distortion.T * series.encoding.signs
    coefficients_of = np.linalg.lstsq(polynomial(points), along, rcond=None)[0].T
    return np.column_stack([coefficients_of, np.sqrt((along**2).mean(0))])


def resampled(found: Estimate) -> NDArray[np.float32]:
    """The series (x, y, z, n) in the place of the first b=0 volume, as `Series.placed`."""
    series = found.series
    out = np.empty(series.data.shape, np.float32, order="F")

    def one(volume: int) -> None:
        out[..., volume] = series.placed(volume)

    in_threads(one, range(series.n), series.threads)
    return out


def kriging_of(found: Estimate) -> Kriging:
    """How the volumes foretell each other, told by the means of parts of slices."""
    means = slices.by_parts(found.series, found.series.values_of(found.groups))
    return Kriging.of(means, found.gradients.bvecs, found.groups)


def replace_lost(corrected: NDArray[np.float32], found: Estimate, kriging: Kriging) -> Mask:
    """Put the prediction where a volume drew on a lost slice, in place; returns the volumes (n,) with one.

    Foretold are all volumes that lost a voxel from those that did not. A volume of b=0 without another has
    no prediction, and keeps what it has.
    """
    series, replaced = found.series, np.zeros(found.series.n, bool)
    for z, frame in enumerate(series.slabs):
        slab = corrected[:, :, z].reshape(-1, series.n)
        lost = _lost_at(series, frame)
        for pattern in np.unique(lost[lost.any(1)], axis=0):
            weights = kriging.of_lost(pattern)
            foretold = pattern.copy()
            foretold[pattern] = weights.any(1)
            here = np.flatnonzero((lost == pattern).all(1))
            values = slab[np.ix_(here, ~pattern)] @ weights[weights.any(1)].T
            slab[np.ix_(here, foretold)] = np.maximum(values, 0)
            replaced |= foretold
        corrected[:, :, z] = slab.reshape(corrected[:, :, z].shape)
    return replaced


def _lost_at(series: Series, frame: Frame) -> Mask:
    """Which volumes (m, n) drew on a lost slice at the points of a frame."""
    lost = np.zeros((len(frame.points), series.n), bool)
    for volume in map(int, np.flatnonzero(series.lost.any(1))):
        at, _ = series.places(volume, frame)
        lost[:, volume] = touches(at, series.lost[volume], series.slice_axis)
    return lost
