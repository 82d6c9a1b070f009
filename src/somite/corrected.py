"""What a corrector of motion and eddy currents gives back, whichever it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.segments import Column

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


_AXIS = "of world RAS+ axes"
MOTION = (
    Column("volume", "count", "Volume, counted from 0"),
    *(Column(f"trans_{a}_mm", "number", f"Shift along {a} {_AXIS}", "mm") for a in "xyz"),
    *(Column(f"rot_{a}_deg", "number", f"Rotation vector about {a} {_AXIS}", "deg") for a in "xyz"),
    Column("displacement_mm", "number", "Mean displacement over the region of motion", "mm"),
    Column("lost_slices", "count", "Slices that lost signal; n/a where nobody looked"),
    Column("slices", "count", "Slices that were looked at; n/a where nobody looked"),
)
"""Columns of the table of motion, a row for each volume."""

OUTLIERS = (
    Column("volume", "count", "Volume, counted from 0"),
    Column("slice", "count", "Slice along the axis of the slices, counted from 0"),
    Column("z", "number", "Standard deviations by which its mean is off; negative: lost signal", "1"),
    Column("replaced", "count", "1 where the corrected series holds its prediction instead, else 0"),
)
"""Columns of the table of slices that lost signal."""

TERMS = ("1", "x", "y", "z", "xx", "yy", "zz", "xy", "xz", "yz")
"""Terms of the polynomial of distortion, in the order of its coefficients."""

SCALE_MM = 100.0
"""Coordinates of the polynomial are counted in this length, so that coefficients are mm at 100 mm."""

DISTORTION = (
    Column("volume", "count", "Volume, counted from 0"),
    *(
        Column(
            f"c_{term}",
            "number",
            f"Eddy-current displacement along phase encoding, coefficient of {term}; coordinates in units of "
            f"{SCALE_MM:g} mm from the centre of the image, world RAS+ axes",
            "mm",
        )
        for term in TERMS
    ),
    Column("rms_mm", "number", "Root mean square of the displacement over the region of motion", "mm"),
)
"""Columns of the table of eddy-current distortion, a row for each volume."""


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
