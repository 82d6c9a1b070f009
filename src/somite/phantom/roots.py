"""One nerve root: a curved tube from the dural exit through the foramen, with the bulge of its ganglion.

Arc length s runs along the centreline from the dural exit, where s = 0. Zones and diffusion depend on s only:
FA rises from 0.25 to 0.40 and MD falls from 1.6 to 1.3e-3 mm2/s over the first 15 mm, then both are constant
(10.1186/s12891-015-0576-4). The part of the nerve inside the dural sac is not modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from somite.phantom.tissue import Floats

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
LESION_FA, LESION_MD = 0.26, 1.79e-3
_STEP_MM = 0.1


def profile(s_mm: Floats) -> tuple[Floats, Floats]:
    """FA and MD (mm2/s) of a healthy root at arc lengths `s_mm` from the dural exit."""
    ramp = np.clip(s_mm / RAMP_MM, 0.0, 1.0)
    return 0.25 + 0.15 * ramp, 1.6e-3 - 0.3e-3 * ramp


def radius(s_mm: Floats, drg_diameter_mm: float) -> Floats:
    """Radius at arc lengths `s_mm`, mm: that of the nerve, and a smooth bulge where the ganglion lies."""
    offset = np.clip((s_mm - DRG_CENTRE_MM) / (DRG_LENGTH_MM / 2), -1.0, 1.0)
    return RADIUS_MM + (drg_diameter_mm / 2 - RADIUS_MM) * np.cos(offset * np.pi / 2) ** 2


@dataclass(frozen=True)
class Root:
    """A root as samples of its centreline, 0.1 mm apart. Lengths in mm, any right-handed frame."""

    s: Floats
    """Arc length (k,)."""
    points: Floats
    """(k, 3)"""
    tangents: Floats
    """Unit vectors (k, 3), away from the dural exit."""
    radii: Floats
    """(k,)"""
    lesion: bool = False
    """Whether the whole root has FA 0.26 and MD 1.79e-3 mm2/s, as under a herniated disc."""
    tree: cKDTree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.points))

    def nearest(self, points: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Nearest sample of the centreline to `points` (3, m), and which points lie inside the root.

        The ends are flat. The sample of a point that is not inside is of no meaning.
        """
        reach = float(self.radii.max())
        distance, index = self.tree.query(points.T, distance_upper_bound=reach + _STEP_MM)
        found = np.isfinite(distance)
        index = np.where(found, index, 0)
        inside = found & (distance <= self.radii[index])
        for end, outward in ((0, -1.0), (-1, 1.0)):
            beyond = (points.T - self.points[end]) @ self.tangents[end] * outward > 0
            at_end = index == (0 if end == 0 else len(self.s) - 1)
            inside &= ~(beyond & at_end)
        return index, inside

    def diffusion(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """FA (m,), MD (m,) in mm2/s and principal directions (3, m) at `points` (3, m) inside the root."""
        index, _ = self.nearest(points)
        fa, md = profile(self.s[index])
        if self.lesion:
            fa, md = np.full_like(fa, LESION_FA), np.full_like(md, LESION_MD)
        return fa, md, self.tangents[index].T


def grow(
    start: Sequence[float],
    first: Sequence[float],
    last: Sequence[float],
    drg_diameter_mm: float,
    lesion: bool = False,
) -> Root:
    """A root from `start` whose direction turns evenly from `first` to `last` (vectors of any length)."""
    s = np.arange(0.0, LENGTH_MM + _STEP_MM / 2, _STEP_MM)
    part = (s / LENGTH_MM)[:, None]
    a, b = (np.asarray(v, np.float64) / np.linalg.norm(v) for v in (first, last))
    tangents = (1.0 - part) * a + part * b
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    steps = 0.5 * (tangents[1:] + tangents[:-1]) * _STEP_MM
    points = np.asarray(start, np.float64) + np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    return Root(s, points, tangents, radius(s, drg_diameter_mm), lesion)
