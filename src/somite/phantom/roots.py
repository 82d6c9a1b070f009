"""One nerve root: a curved tube from the dural exit through the foramen, with the bulge of its ganglion.

Arc length s runs along the centreline from the dural exit, where s = 0. Zones and diffusion depend on s only:
FA rises from 0.25 to 0.40 and MD falls from 1.6 to 1.3e-3 mm2/s over the first 15 mm, then both are constant
(10.1186/s12891-015-0576-4). The part of the nerve inside the dural sac is not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from somite.phantom.tissue import Floats
from somite.phantom.tube import STEP_MM, Tube

ZONES: dict[str, tuple[float, float]] = {
    "intraspinal": (0.0, 10.0),
    "foraminal_drg": (10.0, 20.0),
    "extraforaminal": (20.0, 30.0),
}
"""Zone -> first and last arc length, mm. The intraspinal zone is the lateral recess, outside the dura."""
LENGTH_MM = 30.0
RADIUS_MM = 2.5
RAMP_MM = 15.0
DRG_CENTRE_MM = 15.0
DRG_LENGTH_MM = 9.0


def profile(s_mm: Floats) -> tuple[Floats, Floats]:
    """FA and MD (mm2/s) of a healthy root at arc lengths `s_mm` from the dural exit."""
    ramp = np.clip(s_mm / RAMP_MM, 0.0, 1.0)
    return 0.25 + 0.15 * ramp, 1.6e-3 - 0.3e-3 * ramp


def zone_means(zone: str) -> tuple[float, float]:
    """FA and MD (mm2/s) of a healthy root, averaged along a zone."""
    fa, md = profile(np.linspace(*ZONES[zone], 101))
    return float(fa.mean()), float(md.mean())


def radius(s_mm: Floats, drg_diameter_mm: float) -> Floats:
    """Radius at arc lengths `s_mm`, mm: that of the nerve, and a smooth bulge where the ganglion lies."""
    offset = np.clip((s_mm - DRG_CENTRE_MM) / (DRG_LENGTH_MM / 2), -1.0, 1.0)
    return RADIUS_MM + (drg_diameter_mm / 2 - RADIUS_MM) * np.cos(offset * np.pi / 2) ** 2


def grow(
    start: Sequence[float],
    first: Sequence[float],
    last: Sequence[float],
    drg_diameter_mm: float,
) -> Tube:
    """A root from `start` whose direction turns evenly from `first` to `last` (vectors of any length)."""
    s = np.arange(0.0, LENGTH_MM + STEP_MM / 2, STEP_MM)
    part = (s / LENGTH_MM)[:, None]
    a, b = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (first, last))
    tangents = (1.0 - part) * a + part * b
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    steps = 0.5 * (tangents[1:] + tangents[:-1]) * STEP_MM
    points = np.asarray(start, np.float64) + np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return Tube(s, points, tangents, radius(s, drg_diameter_mm))
