"""Volumes with slices that are lost: bridged for smoothing, and left out where values are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


def bridged(volume: NDArray[np.floating[Any]], lost: Mask, axis: int) -> Float32:
    """The volume with its lost slices (s,) along an axis drawn from the nearest good ones, if any."""
    good = np.flatnonzero(~lost)
    if not lost.any() or not len(good):
        return np.asarray(volume, np.float32)
    at = np.arange(len(lost), dtype=np.float64)
    upper = np.minimum(np.searchsorted(good, at), len(good) - 1)
    lower = np.maximum(upper - (good[upper] > at), 0)
    below, above = good[lower], good[upper]
    share = np.where(above > below, (at - below) / np.maximum(above - below, 1), 0).astype(np.float32)
    values = np.moveaxis(np.asarray(volume, np.float32), axis, -1)
    return np.moveaxis(values[..., below] * (1 - share) + values[..., above] * share, -1, axis)


def touches(at: Float32, lost: Mask, axis: int) -> Mask:
    """Which positions (m, 3) in voxels draw on a lost slice (s,) along an axis."""
    below = np.clip(np.floor(at[:, axis]).astype(np.intp), 0, len(lost) - 1)
    above = np.clip(below + 1, 0, len(lost) - 1)
    share = at[:, axis] - below
    return np.asarray((lost[below] & (share < 0.9)) | (lost[above] & (share > 0.1)))
