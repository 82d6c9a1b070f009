"""Centrelines: a smooth curve through a label, through weighted points or through a bundle of streamlines.

A principal curve (Hastie and Stuetzle, J Am Stat Assoc 84:502, 1989) in world millimetres. Points are first
put in order by their geodesic distance through the label, so that a curved label is not folded; then the
curve is fitted to them and they are projected onto the curve by turns. The curve is a penalised spline
(Eilers and Marx, Stat Sci 11:89, 1996) whose penalty is on the change of curvature: an arc is not
straightened. The voxel grid enters only in how far the outermost centres lie from where the label ends.

Knows no image, no table and no anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

SMOOTH_MM = 25.0
"""Bends shorter than this are smoothed away: half of a wave of this length is kept."""
_STEP_MM = 0.1
_KNOT_MM = 3.0
_ROUNDS = 12
_WINDOW_MM = 4.5
"""Length over which the cross section at an end is measured."""


class NoCentreline(ValueError):
    """No centreline can be laid; the message is a reason for the table."""


@dataclass(frozen=True)
class Centreline:
    """A curve as points 0.1 mm apart. World RAS mm."""

    points: Floats
    """(n, 3), n >= 2."""
    s: Floats
    """Arc length of each point (n,), mm, ascending; 0 at the first point, or at the origin that was set."""
    tangents: Floats
    """Unit vectors (n, 3) towards larger `s`."""
    _tree: cKDTree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tree", cKDTree(self.points))

    @property
    def length_mm(self) -> float:
        """Arc length from end to end."""
        return float(self.s[-1] - self.s[0])

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Arc length (m,) of the nearest place of the curve to `points` (m, 3), and the distance (m,), mm.

        The curve goes on straight beyond its ends, so arc lengths can lie outside those of the curve.
        """
        _, near = self._tree.query(points)
        along = ((points - self.points[near]) * self.tangents[near]).sum(1)
        inner = (near > 0) & (near < len(self.s) - 1)
        along = np.where(inner, np.clip(along, -_STEP_MM, _STEP_MM), along)
        # At the ends only the way out is straight; the way in is the curve.
        along = np.where(near == 0, np.minimum(along, _STEP_MM), along)
        along = np.where(near == len(self.s) - 1, np.maximum(along, -_STEP_MM), along)
        foot = self.points[near] + along[:, None] * self.tangents[near]
        return self.s[near] + along, np.linalg.norm(points - foot, axis=1)

    def at(self, s: Floats) -> tuple[Floats, Floats]:
        """Points (m, 3) and unit tangents (m, 3) at arc lengths `s` (m,), straight on beyond the ends."""
        inside = np.clip(s, self.s[0], self.s[-1])
        tangents = np.stack([np.interp(inside, self.s, self.tangents[:, k]) for k in range(3)], axis=1)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        points = np.stack([np.interp(inside, self.s, self.points[:, k]) for k in range(3)], axis=1)
        return points + (s - inside)[:, None] * tangents, tangents

    def reversed(self) -> Centreline:
        """The same curve from its last point to its first, which is at 0."""
        return Centreline(self.points[::-1], self.s[-1] - self.s[::-1], -self.tangents[::-1])

    def measured_from(self, s: float) -> Centreline:
        """The same curve with arc lengths counted from where they were `s`."""
        return replace(self, s=self.s - s)


def through_voxels(
    points: Floats, voxel_mm3: float, weights: Floats | None = None, smooth_mm: float = SMOOTH_MM
) -> Centreline:
    """The centreline of a label, or of a map of weights, from end to end, in no particular direction.

    The ends are where the volume near them, over the cross section just inside, says that the label ends,
    and never before its outermost voxel centres. The weights of a map should be 0 to 1: the part of a voxel
    that belongs to the structure.

    Args:
        points: centres of the voxels (m, 3), world mm.
        voxel_mm3: volume of a voxel.
        weights: (m,), above 0; None: 1.
        smooth_mm: bends shorter than this are smoothed away.

    Raises:
        NoCentreline: fewer than 4 voxels, or a label that is not longer than it is wide.
    """
    if len(points) < 4:
        raise NoCentreline(f"{len(points)} voxels are too few for a centreline")
    w = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    order = np.lexsort(points.T)  # the same sums in any storage order
    points, w = points[order], w[order]
    spacing = voxel_mm3 ** (1 / 3)
    curve = _principal_curve(points, w, _geodesic_order(points, spacing), smooth_mm)
    s, distance = curve.project(points)
    # Of a tube that is as long as it is wide the ratio is 2.8, of a ball 3.2, unless the curve winds.
    width = float(np.sqrt(np.average(distance**2, weights=w)))
    extents = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if np.ptp(s) < max(4.5 * width, 2 * spacing) or extents[0] < 1.3 * extents[1]:
        raise NoCentreline("the label is not longer than it is wide")
    low, high = _end(s, w, voxel_mm3, -1.0), _end(s, w, voxel_mm3, 1.0)
    return _stretch(curve, low, high)


def through_bundle(streamlines: Sequence[Floats], smooth_mm: float = SMOOTH_MM) -> Centreline:
    """The centreline of a bundle, as far as a tenth of its streamlines reach at either end.

    Args:
        streamlines: arrays (k, 3), world mm, each in either direction.
        smooth_mm: bends shorter than this are smoothed away.

    Raises:
        NoCentreline: no streamline of at least two points, or none of any length.
    """
    lines = [line for line in map(_even, streamlines) if len(line) > 2]
    if not lines:
        raise NoCentreline("the bundle has no streamline of any length")
    longest = max(lines, key=len)
    guide = _as_curve(longest)
    points = np.concatenate(lines)
    first, _ = guide.project(points)
    curve = _principal_curve(points, np.ones(len(points)), first, smooth_mm)
    s = np.split(curve.project(points)[0], np.cumsum([len(line) for line in lines])[:-1])
    low = float(np.quantile([part.min() for part in s], 0.1))
    high = float(np.quantile([part.max() for part in s], 0.9))
    return _stretch(curve, low, high)


def _even(line: Floats) -> Floats:
    """A streamline at points 0.5 mm apart."""
    steps = np.linalg.norm(np.diff(np.asarray(line, np.float64), axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, along[-1], max(2, round(along[-1] / 0.5) + 1))
    return np.stack([np.interp(at, along, np.asarray(line)[:, k]) for k in range(3)], axis=1)


def _geodesic_order(points: Floats, spacing: float) -> Floats:
    """Distance (m,) through the label from one of its ends; parts of a broken label are bridged."""
    graph = _neighbours(points, spacing)
    start = int(_distances(graph, 0).argmax())
    return _distances(graph, start)


def _distances(graph: csr_array, start: int) -> Floats:
    distances = np.asarray(dijkstra(graph, directed=False, indices=[start]), np.float64)
    return distances.reshape(-1)


def _neighbours(points: Floats, spacing: float) -> csr_array:
    """Voxels that touch (26 neighbours of cubic voxels, the nearest of others), all parts joined."""
    tree = cKDTree(points)
    nearest = np.asarray(tree.query(points, k=2)[0])[:, 1]
    pairs = tree.query_pairs(1.8 * max(spacing, float(np.median(nearest))), output_type="ndarray")
    while True:
        length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
        graph = csr_array((length, (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
        parts, part = connected_components(graph, directed=False)
        if parts == 1:
            return graph
        mine, others = np.flatnonzero(part == 0), np.flatnonzero(part != 0)
        gap, near = map(np.asarray, cKDTree(points[mine]).query(points[others]))
        shortest = int(gap.argmin())
        bridge = [[int(mine[near[shortest]]), int(others[shortest])]]
        pairs = np.concatenate([pairs, bridge])


def _principal_curve(points: Floats, weights: Floats, s: Floats, smooth_mm: float) -> Centreline:
    """Fit a spline to the points at their arc lengths, and project them onto it, by turns."""
    curve = _as_curve(_spline(points, weights, s, smooth_mm))
    for _ in range(_ROUNDS):
        s, _ = curve.project(points)
        curve = _as_curve(_spline(points, weights, s, smooth_mm))
    return curve


def _spline(points: Floats, weights: Floats, s: Floats, smooth_mm: float) -> Floats:
    """Points of the penalised cubic spline of `points` (m, 3) over `s` (m,), 0.1 mm of `s` apart.

    The penalty is on the third derivative, weighed so that half of a wave of `smooth_mm` is kept.
    """
    low, high = float(s.min()), float(s.max())
    if not high > low:
        raise NoCentreline("the label is not longer than it is wide")
    spans = max(3, int(np.ceil((high - low) / _KNOT_MM)))
    knot = (high - low) / spans
    knots = np.arange(-3.0, spans + 4)  # in spans: whole numbers, which rounding leaves alone
    design = BSpline.design_matrix(np.clip((s - low) / knot, 0, spans), knots, 3).toarray()
    differences = np.diff(np.eye(spans + 3), n=3, axis=0)
    density = weights.sum() / (high - low)
    penalty = density * (smooth_mm / (2 * np.pi)) ** 6 / knot**5
    normal = design.T @ (weights[:, None] * design) + penalty * differences.T @ differences
    coefficients = np.linalg.solve(normal, design.T @ (weights[:, None] * points))
    at = np.linspace(0, spans, max(4, int(np.ceil((high - low) / _STEP_MM)) + 1))
    return np.asarray(BSpline.design_matrix(at, knots, 3).toarray() @ coefficients)


def _as_curve(points: Floats) -> Centreline:
    """A curve of points 0.1 mm apart along the polygon `points` (k, 3)."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    s = np.linspace(0.0, along[-1], max(4, int(np.ceil(along[-1] / _STEP_MM)) + 1))
    even = np.stack([np.interp(s, along, points[:, k]) for k in range(3)], axis=1)
    tangents = np.gradient(even, s, axis=0)
    return Centreline(even, s, tangents / np.linalg.norm(tangents, axis=1, keepdims=True))


def _end(s: Floats, weights: Floats, voxel_mm3: float, sign: float) -> float:
    """Arc length where the label ends, in the direction of `sign`, from its voxels at `s` (m,).

    Volume beyond a place near the end, over the cross section before it. On average it is where a tube cut
    across ends, however the voxels lie; a tip that tapers ends at its outermost voxel.
    """
    out, voxel = s * sign, voxel_mm3 ** (1 / 3)
    window = min(_WINDOW_MM, float(np.ptp(out)) / 3)
    last = float(out.max())
    place = last - window

    def volume_beyond(x: float) -> float:
        """A voxel at the border counts by the part of it that lies beyond."""
        return float((weights * np.clip((out - x) / voxel + 0.5, 0, 1)).sum()) * voxel_mm3

    section = (volume_beyond(place - window) - volume_beyond(place)) / window
    by_volume = place + volume_beyond(place) / section if section > 0 else last
    return sign * float(np.clip(by_volume, last, last + 0.75 * voxel))


def _stretch(curve: Centreline, low: float, high: float) -> Centreline:
    """The curve from `low` to `high`, cut or continued straight; `low` becomes 0."""
    s = np.linspace(low, high, max(4, int(np.ceil((high - low) / _STEP_MM)) + 1))
    points, tangents = curve.at(s)
    return Centreline(points, s - low, tangents)
