"""Volumes with slices that are lost: bridged for smoothing, and left out where values are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

AXIS = 2
"""Voxel axis along which slices lie."""


def bridged(volume: NDArray[np.floating[Any]], lost: Mask) -> Float32:
    """The volume with its lost slices (s,) drawn from the nearest good ones, linearly; as it is without any."""
    good = np.flatnonzero(~lost)
    if not len(good):
        return np.asarray(volume, np.float32)
    at = np.arange(len(lost), dtype=np.float64)
    upper = np.minimum(np.searchsorted(good, at), len(good) - 1)
    lower = np.maximum(upper - (good[upper] > at), 0)
    below, above = good[lower], good[upper]
    share = np.where(above > below, (at - below) / np.maximum(above - below, 1), 0).astype(np.float32)
    values = np.asarray(volume, np.float32)
    return values[..., below] * (1 - share) + values[..., above] * share


def touches(at: Float32, lost: Mask) -> Mask:
    """Which positions (m, 3) in voxels draw on a lost slice (s,)."""
    below = np.clip(np.floor(at[:, AXIS]).astype(np.intp), 0, len(lost) - 1)
    above = np.clip(below + 1, 0, len(lost) - 1)
    share = at[:, AXIS] - below
    return np.asarray((lost[below] & (share < 0.9)) | (lost[above] & (share > 0.1)))
