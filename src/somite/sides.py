"""Left and right of labels against world coordinates: RAS+, so that the right of the body is at larger x.

The side of a label comes from its table and nowhere else. Here it is held against where its voxels lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from somite.errors import Problem
from somite.images import Grid
from somite.segments import Label, Segment

_MIDLINE_REACH_MM = 20.0
"""How far above or below midline structures a label may lie and still be held against them."""
_MOST_TOLD = 3


@dataclass(frozen=True)
class Place:
    """A segment in an image: its labels, and the world positions (n, 3) of its voxels in mm."""

    segment: Segment
    indices: tuple[int, ...]
    points: NDArray[np.float64]

    @property
    def x(self) -> float:
        """Of its centroid, mm."""
        return float(self.points[:, 0].mean())

    def __str__(self) -> str:
        labels = ", ".join(map(str, self.indices))
        return f"{self.segment} (label {labels}) at x = {self.x:.1f} mm"


@dataclass(frozen=True)
class Reference:
    """What a segment is held against, and how far on its own side of that it lies; below 0: on the other."""

    words: str
    distance_mm: float
    firm: bool = True
    """Whether it is anatomy, rather than where the field of view lies."""


def places(values: NDArray[np.int32], grid: Grid, labels: Iterable[Label]) -> dict[Segment, Place]:
    """Where the segments of a label image (i, j, k) lie; those without a voxel are left out.

    Several labels may be one segment: their voxels are taken together.
    """
    where = np.flatnonzero(values)
    found = values.reshape(-1)[where]
    order = np.argsort(found, kind="stable")
    where, found = where[order], found[order]
    together: dict[Segment, list[int]] = {}
    for label in labels:
        together.setdefault(label.segment, []).append(label.index)
    placed = {}
    for segment, indices in together.items():
        spans = [slice(*np.searchsorted(found, (index, index + 1))) for index in indices]
        voxels = np.concatenate([where[span] for span in spans])
        if voxels.size:
            ijk = np.stack(np.unravel_index(voxels, values.shape), 1)[:, :3]
            points = ijk @ grid.affine[:3, :3].T + grid.affine[:3, 3]
            placed[segment] = Place(segment, tuple(indices), points)
    return placed


def check_sides(values: NDArray[np.int32], grid: Grid, labels: Iterable[Label], where: str) -> list[Problem]:
    """What is wrong with the sides of a label image, in its own space.

    A right segment lies wrong where its centroid is left of that of its left counterpart (same region,
    level and segment), or left of the midline structures of its level: those of the table with that level,
    else those at its own height, which make a pair that is in order only doubtful. A midline that bends is
    followed from height to height. What lies wrong by less than half a voxel could be either, and is only
    doubtful. So is a segment without counterpart and midline that lies on the wrong side of the field and of
    the scanner: a field of view may lie off-centre.

    Args:
        values: label image (i, j, k).
        grid: its grid.
        labels: its table.
        where: the file, for the message.

    Returns:
        At most one `LABEL_SIDES`, an error, and one `LABEL_SIDE_DOUBTFUL`, a warning.
    """
    placed = places(values, grid, labels)
    margin = 0.5 * float(np.abs(grid.affine[0, :3]).max())
    wrong: list[str] = []
    doubtful: list[str] = []
    for place in placed.values():
        if place.segment.side not in ("L", "R"):
            continue
        references = _references(place, placed, grid)
        worst = min(references, key=lambda reference: reference.distance_mm)
        if worst.distance_mm < 0:
            is_wrong = worst.firm and worst.distance_mm < -margin
            (wrong if is_wrong else doubtful).append(f"{place}; {worst.words}")
    return [*_told("LABEL_SIDES", wrong, where), *_told("LABEL_SIDE_DOUBTFUL", doubtful, where)]


def _references(place: Place, placed: dict[Segment, Place], grid: Grid) -> list[Reference]:
    sign = 1.0 if place.segment.side == "R" else -1.0
    other = placed.get(replace(place.segment, side="L" if place.segment.side == "R" else "R"))
    found = [] if other is None else [Reference(f"its counterpart {other}", sign * (place.x - other.x))]
    midline = _midline(place, [one for one in placed.values() if one.segment.side == "midline"])
    if midline is not None:
        words, x, is_same_level = midline
        # In a head that lies askew, structures of other heights are no midline: a pair in order knows better.
        firm = is_same_level or not found or found[0].distance_mm < 0
        there = f"the midline there ({words}) at x = {x:.1f} mm"
        found.append(Reference(there, sign * (place.x - x), firm))
    if found:
        return found
    centre = float((grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3])[0])
    words = f"without counterpart or midline structure, in a field of view about x = {centre:.1f} mm"
    return [Reference(words, max(sign * (place.x - centre), sign * place.x), firm=False)]


def _midline(place: Place, structures: Sequence[Place]) -> tuple[str, float, bool] | None:
    """Which midline structures a segment is held against, their x at its height in mm, if of its level."""
    level = place.segment.level
    same = [one for one in structures if level and one.segment.level == level]
    chosen = same or list(structures)
    if not chosen:
        return None
    points = np.concatenate([one.points for one in chosen])
    heights, x = _course(points[:, 2], points[:, 0])
    z = place.points[:, 2]
    # A structure of the same level serves at any height; another only near to where it is.
    reach = np.inf if same else _MIDLINE_REACH_MM
    if ((z >= heights[0] - reach) & (z <= heights[-1] + reach)).mean() < 0.5:
        return None
    words = ", ".join(str(one.segment) for one in chosen[:3]) + (", ..." if len(chosen) > 3 else "")
    return words, float(np.interp(z, heights, x).mean()), bool(same)


def _course(
    z: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean x of the points at each height, in steps of 4 mm; heights ascending."""
    _, which = np.unique(np.floor(z / 4), return_inverse=True)
    n = np.bincount(which)
    return np.bincount(which, z) / n, np.bincount(which, x) / n


def _told(code: str, facts: Sequence[str], where: str) -> list[Problem]:
    if not facts:
        return []
    error = code == "LABEL_SIDES"
    more = f"; and {len(facts) - _MOST_TOLD} more" if len(facts) > _MOST_TOLD else ""
    return [
        Problem(
            code,
            "labels lie on the other side of the body than their table says"
            if error
            else "labels may lie on the other side of the body than their table says",
            where=where,
            found=" | ".join(facts[:_MOST_TOLD]) + more,
            expected="in world coordinates (RAS+) the right of the body at larger x than the left, and the "
            "midline between them",
            do="find out which is wrong, and correct it: the column side of the table, or the orientation in "
            "the header of the image"
            if error
            else "look at them; nothing is wrong if the field of view lies off-centre",
            severity="error" if error else "warning",
        )
    ]
