"""Profiles along a curve: values of voxels assigned to nodes by arc length, never by slice.

A voxel at arc length s counts at a node at p with the weight max(0, 1 - |s - p| / width), a hat that falls to
0 at the neighbouring nodes, times its weight across the section. In the middle of a profile a linear trend
along the curve is not biased by this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.centreline import Centreline
from somite.images import Grid
from somite.segments import METRICS, SCHEMA, Column, Label, Segment, field_text

Row = dict[str, object]
Floats = NDArray[np.float64]
_RADIUS_WINDOW_MM = 3.0


@dataclass(frozen=True)
class Nodes:
    """Weights of voxels at nodes, and what follows from them alone."""

    weights: Floats
    """(n voxels, k nodes), at least 0."""

    @property
    def n_voxels(self) -> NDArray[np.intp]:
        """Voxels with a weight above 0 at each node (k,)."""
        return np.asarray((self.weights > 0).sum(0))

    @property
    def total(self) -> Floats:
        """Sum of the weights at each node (k,)."""
        return np.asarray(self.weights.sum(0))

    def mean(self, values: Floats) -> tuple[Floats, Floats]:
        """Weighted mean (k,) of values (n,), and its standard error; NaN where there is none.

        The error takes the voxels as independent: the weighted standard deviation over the square root of the
        effective number (sum w)^2 / sum w^2, less one for the mean (Kish, Survey Sampling, 1965).
        """
        total = np.where(self.total > 0, self.total, np.nan)
        mean = self.weights.T @ values / total
        spread = (self.weights * (values[:, None] - mean) ** 2).sum(0) / total
        effective = total**2 / np.where(self.total > 0, (self.weights**2).sum(0), np.nan)
        few = ~(effective > 1 + 1e-9)
        return mean, np.where(few, np.nan, np.sqrt(spread / np.where(few, 1.0, effective - 1)))


def hats(s: Floats, nodes: Floats, width_mm: float) -> Floats:
    """Weights (n, k) along the curve of voxels at arc lengths `s` (n,) at nodes (k,), mm."""
    return np.maximum(0.0, 1.0 - np.abs(s[:, None] - nodes) / width_mm)


def central(s: Floats, distance: Floats, fraction: float) -> Floats:
    """Weights (n,) across the section of a label: a Gaussian of the distance from the centreline.

    Its standard deviation is `fraction` of the label's radius there, sqrt(2 <distance^2>) over the voxels
    within 3 mm along the curve: that of a round section filled evenly. Voxels at the border, which share
    their volume with what lies outside, weigh little.

    Args:
        s: arc lengths (n,), mm.
        distance: from the centreline (n,), mm.
        fraction: of the radius.
    """
    near = np.abs(s[:, None] - s) <= _RADIUS_WINDOW_MM
    radius = np.sqrt(2 * (near @ distance**2) / near.sum(1))
    weights: Floats = np.exp(-0.5 * (distance / np.maximum(fraction * radius, 1e-3)) ** 2)
    return weights


@dataclass(frozen=True)
class Scan:
    """The maps on one grid: metric -> values (x, y, z), and where they are fitted."""

    maps: Mapping[str, NDArray[np.float32]]
    fitted: NDArray[np.bool_]
    grid: Grid


def expected_roots(table: Sequence[Label], regions: Sequence[str]) -> list[Segment]:
    """Roots of the table, left and right of every one: a side without a label is a gap to be told."""
    found = [label.segment for label in table if label.segment.region in regions]
    roots = []
    for one in found:
        sides = ("L", "R") if one.side in ("L", "R") else (one.side,)
        roots += [Segment(one.region, side, one.level) for side in sides]
    return list(dict.fromkeys(roots))


def orient(curve: Centreline) -> Centreline:
    """A tract's centreline from its inferior, posterior or left end, whichever tells its ends apart best."""
    way = curve.points[-1] - curve.points[0]
    return curve if way[np.abs(way).argmax()] >= 0 else curve.reversed()


_IDENTITY = ("participant_id", "session_id", "run")
_SHARED = {column.name: column for column in SCHEMA}
SCHEMA_OF_PROFILES = (
    *(_SHARED[name] for name in (*_IDENTITY, "region", "side", "level", "segment", "extraction")),
    Column(
        "weighting",
        "text",
        "How voxels count across the section",
        levels={
            "central": "by a Gaussian of the distance from the centreline of the label",
            "gaussian": "streamlines by their Mahalanobis distance from the core of the bundle",
            "probability": "by the probability",
            "uniform": "all alike",
        },
    ),
    Column("node", "count", "Place along the curve, counted from 0"),
    Column("position_mm", "number", "Arc length from the dural exit, or from the first end of a tract", "mm"),
    Column("position_frac", "number", "The same over the length of the whole curve", "1"),
    _SHARED["metric"],
    Column("value", "number", "Weighted mean at the node; the column unit tells its unit"),
    Column("se", "number", "Standard error of the value"),
    _SHARED["unit"],
    Column("n_voxels", "count", "Voxels that count at the node"),
    Column("weight", "number", "Sum of their weights", "1"),
    _SHARED["reason"],
)
COLUMNS = tuple(column.name for column in SCHEMA_OF_PROFILES)
"""Columns of the table of profiles, in order."""


def write_profiles(path: Path, rows: Sequence[Row], identity: Mapping[str, str]) -> Path:
    """Write rows as TSV; a column that a row lacks is `n/a`."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        whole = {name: identity.get(name, "") for name in _IDENTITY} | row
        whole["unit"] = METRICS[row["metric"]].unit  # type: ignore[index]
        lines.append("\t".join(field_text(whole.get(name)) for name in COLUMNS))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path
