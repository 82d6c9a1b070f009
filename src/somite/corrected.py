"""What a corrector of motion and eddy currents gives back, whichever it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients

Float = NDArray[np.float64]


class Outlier(NamedTuple):
    """A slice that lost signal, or gained some, against what was expected of it."""

    volume: int
    slice: int
    """Index along the axis of the slices, from 0."""
    z: float
    """By how many standard deviations its mean is off; negative where signal was lost."""
    replaced: int
    """1 where the corrected series holds its prediction instead."""


OUTLIER_COLUMNS = Outlier._fields

TERMS = ("1", "x", "y", "z", "xx", "yy", "zz", "xy", "xz", "yz")
"""Terms of the polynomial of distortion, in the order of its coefficients."""

DISTORTION_COLUMNS = ("volume", *(f"c_{term}" for term in TERMS), "rms_mm")

SCALE_MM = 100.0
"""Coordinates of the polynomial are counted in this length, so that coefficients are mm at 100 mm."""


@dataclass(frozen=True)
class Corrected:
    """A corrected series with all that was found on the way."""

    data: NDArray[np.float32]
    """(x, y, z, n)."""
    gradients: Gradients
    """Turned with the volumes."""
    motion: Float
    """(n, 7): shift in mm, rotation vector in degrees, displacement in mm; world RAS+ axes."""
    outliers: list[Outlier]
    distortion: Float
    """(n, 11): the coefficients of `TERMS` in mm, then the root mean square over the mask in mm; see
    `polynomial`. Zeros where a volume has no eddy currents."""
    searched: NDArray[np.bool_]
    """(n,) whether lost slices were looked for in the volume."""


def polynomial(points: Float) -> Float:
    """The terms (m, 10) at points (m, 3), mm in world RAS+ axes from the centre of the image.

    Displacement along phase encoding, in mm, is this times a volume's coefficients: positive where the signal
    of a point is found at a higher index of the phase-encoding voxel axis than the point itself.
    """
    x, y, z = (points / SCALE_MM).T
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], 1)


def rms_mm(coefficients: Float, points: Float) -> Float:
    """Root mean square (n,) over points (m, 3) of the displacement of coefficients (n, 10), mm."""
    terms = polynomial(points)
    squares = np.einsum("ni,ij,nj->n", coefficients, terms.T @ terms / len(terms), coefficients)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))
