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

Z_LOST = 4.0
LEAST_LOSS = 0.08
"""Part of the signal: a smaller loss does less harm than its replacement would."""
FEWEST_POINTS = 30
"""Of a slice, for its mean to say anything."""
_AROUND = 3  # slices to either side that share their spread
_NEAR = 0.3  # voxels: points nearer than this to the middle of a slice speak for it


def ratios(series: Series, volume: int, expected: Float32) -> Float:
    """Signal of each slice over what is expected of it (s,); NaN where too few points lie in it.

    Args:
        series: the volumes.
        volume: its number.
        expected: (m,) prediction at all sites.
    """
    spline = coefficients(np.asarray(series.data[..., volume], np.float32))
    at, factor = series.places(volume, series.core)
    values, inside = sample(spline, at)
    values *= factor
    nearest = np.rint(at[:, series.slice_axis]).astype(np.intp)
    near = (np.abs(at[:, series.slice_axis] - nearest) < _NEAR) & (inside > 0)
    n_slices = series.lost.shape[1]
    seen, hoped, points = (
        np.bincount(nearest[near], w, n_slices)
        for w in (values[near], expected[series.sites.core][near], np.ones(int(near.sum())))
    )
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
    if len(ratio) < 4 or not seen.any():
        return np.zeros(ratio.shape), np.zeros(ratio.shape)
    usual = np.ones(ratio.shape[1])
    usual[seen] = np.nanmedian(ratio[:, seen], 0)
    around = 1.4826 * np.nanmedian(np.abs(ratio[:, seen] - usual[seen]), 0)
    spread = np.ones(ratio.shape[1])
    spread[seen] = np.maximum(median_filter(around, 2 * _AROUND + 1, mode="nearest"), np.median(around))
    z = (ratio - usual) / np.maximum(spread, 1e-6)
    return np.nan_to_num(z), np.nan_to_num(1 - ratio / np.maximum(usual, 1e-6))


def find(series: Series, groups: Sequence[Ints], expected: Sequence[Float32]) -> tuple[Mask, Float]:
    """Slices (n, s) that lost signal, and the z-scores (n, s) of all.

    Args:
        series: the volumes in their present place.
        groups: volumes of one contrast.
        expected: for each group, predictions (v, m) at all sites.
    """
    shape = (series.n, series.lost.shape[1])
    lost, scores = np.zeros(shape, bool), np.zeros(shape)
    for volumes, wanted in zip(groups, expected, strict=True):
        pairs = list(zip(volumes, wanted, strict=True))
        ratio = np.array(
            in_threads(lambda pair: ratios(series, int(pair[0]), pair[1]), pairs, series.threads)
        )
        scores[volumes], loss = z_scores(ratio)
        lost[volumes] = (scores[volumes] < -Z_LOST) & (loss > LEAST_LOSS)
    return lost, scores
