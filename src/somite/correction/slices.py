"""Slices that lost signal, found against the prediction of their volume.

A dropped slice shows less than the other volumes foretell, by many standard deviations of what slices
usually do (Andersson et al., NeuroImage 141 (2016) 556).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from somite.correction.series import Float, Float32, Ints, Series
from somite.registration import in_threads
from somite.sampling import coefficients, sample

Mask = NDArray[np.bool_]

SUSPECT, LOST = (2.0, 0.3), (4.0, 0.08)
"""Standard deviations below what is usual, and part of the signal that is missing. A smaller loss does less
harm than its replacement would."""
FEWEST_POINTS = 30
"""Of a slice, for its mean to say anything."""
FEWEST_VOLUMES = 4
"""Of one contrast, for what is usual to be told from what was lost."""
_LEAST_FACTOR = 0.1  # of intensities: where signal piles up beyond, nothing is expected
_PARTS = 3  # of a slice along either axis
_AROUND = 3  # slices to either side that share their spread


def ratios(series: Series, volume: int, expected: Float32) -> Float:
    """Signal of each slice over what is expected of it (s,); NaN where too few points lie in it.

    Args:
        series: the volumes.
        volume: its number.
        expected: (m,) prediction at all sites.
    """
    spline, axis, n_slices = coefficients(series.data[..., volume]), series.slice_axis, series.lost.shape[1]
    at, factor = series.places(volume, series.core)
    hoped_at = expected[series.sites.core] / np.maximum(factor, np.float32(_LEAST_FACTOR))
    below = np.floor(at[:, axis])
    # Between two slices a point speaks for both by its nearness, for each with what that slice alone shows.
    seen, hoped, points = np.zeros(n_slices), np.zeros(n_slices), np.zeros(n_slices)
    for slice_at in (below, below + 1):
        near = 1 - np.abs(at[:, axis] - slice_at)
        on_slice = at.copy()
        on_slice[:, axis] = slice_at
        values, inside = sample(spline, on_slice)
        number = np.clip(slice_at, 0, n_slices - 1).astype(np.intp)
        seen += np.bincount(number, near * inside * values, n_slices)
        hoped += np.bincount(number, near * inside * hoped_at, n_slices)
        points += np.bincount(number, near * inside, n_slices)
    enough = (points >= FEWEST_POINTS) & (hoped > 0)
    found = np.where(enough, seen / np.where(enough, hoped, 1), np.nan)
    middle = np.nanmedian(found) if enough.any() else 1.0
    return np.asarray(found / (middle if middle > 0 else 1.0))


def z_scores(ratio: Float) -> tuple[Float, Float]:
    """How far each slice is off what is usual in its place, in standard deviations, and its loss.

    The spread is that of the volumes at a slice and its neighbours (a single slice has too few volumes to
    tell, and those that lost signal among them), or of all slices where that is larger. 0 where unknown.
    """
    seen = ~np.isnan(ratio).all(0)
    if len(ratio) < FEWEST_VOLUMES or not seen.any():
        return np.zeros(ratio.shape), np.zeros(ratio.shape)
    usual = np.ones(ratio.shape[1])
    usual[seen] = np.nanmedian(ratio[:, seen], 0)
    around = 1.4826 * np.nanmedian(np.abs(ratio[:, seen] - usual[seen]), 0)
    spread = np.ones(ratio.shape[1])
    spread[seen] = np.maximum(median_filter(around, 2 * _AROUND + 1, mode="nearest"), np.median(around))
    z = (ratio - usual) / np.maximum(spread, 1e-6)
    return np.nan_to_num(z), np.nan_to_num(1 - ratio / np.maximum(usual, 1e-6))


def find(
    series: Series, groups: Sequence[Ints], expected: Float32, bounds: Sequence[tuple[float, float]] = (LOST,)
) -> tuple[Mask, Float]:
    """Slices (n, s) that lost signal, and the z-scores (n, s) of all.

    Args:
        series: the volumes in their present place.
        groups: volumes of one contrast.
        expected: (n, m) predictions at all sites.
        bounds: as `LOST`; a slice beyond one of them counts.
    """
    shape = (series.n, series.lost.shape[1])
    lost, scores = np.zeros(shape, bool), np.zeros(shape)
    for volumes in groups:
        ratio = np.array(in_threads(lambda v: ratios(series, int(v), expected[v]), volumes, series.threads))
        scores[volumes], loss = z_scores(ratio)
        lost[volumes] = np.any([(scores[volumes] < -z) & (loss > part) for z, part in bounds], axis=0)
    return lost, scores


def by_parts(series: Series, values: Float32) -> Float32:
    """Means (n, k) of values (n, m) over parts of slices of the reference, times the root of their sites.

    By them slices are foretold: they have little noise, and what foretells single, noisy voxels best draws
    all of them to the mean of the volumes, which in a slice of one bundle looks like a loss.
    """
    voxels = series.sites.voxels
    low, high = voxels.min(0), voxels.max(0)
    part = (voxels - low) * _PARTS // (high - low + 1)
    part[:, series.slice_axis] = voxels[:, series.slice_axis]
    _, number, counts = np.unique(part, axis=0, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(number, row, len(counts)) for row in values])
    return np.asarray(sums / np.sqrt(counts * counts.mean()), np.float32)
