"""Curved tubes: roots and bundles of fibres, whose places are told by arc length along the centreline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from somite.phantom.anatomy import Diffusion, Pieces, Shape
from somite.phantom.tissue import Floats

STEP_MM = 0.1
"""Between the samples of a centreline, about."""


@dataclass(frozen=True)
class Tube:
    """A tube as samples of its centreline. Lengths in mm, any right-handed frame."""

    s: Floats
    """Arc length (k,), from 0."""
    points: Floats
    """(k, 3)"""
    tangents: Floats
    """Unit vectors (k, 3), towards larger arc length."""
    radii: Floats
    """(k,)"""
    tree: cKDTree = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", cKDTree(self.points))

    def nearest(self, points: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Nearest sample of the centreline to `points` (3, m), and which points lie inside the tube.

        The ends are flat. The sample of a point that is not inside is of no meaning.
        """
        reach = float(self.radii.max())
        distance, index = self.tree.query(points.T, distance_upper_bound=reach + STEP_MM)
        found = np.isfinite(distance)
        index = np.where(found, index, 0)
        inside = found & (distance <= self.radii[index])
        for end, outward in ((0, -1.0), (-1, 1.0)):
            beyond = (points.T - self.points[end]) @ self.tangents[end] * outward > 0
            at_end = index == (0 if end == 0 else len(self.s) - 1)
            inside &= ~(beyond & at_end)
        return index, inside

    def shape(self, borders: Sequence[float], pieces: Sequence[int]) -> Shape:
        """The shape of the tube: piece n from arc length `borders[n]` on, ascending from 0."""
        of_part = np.asarray(pieces)

        def paint(points: Floats) -> Pieces:
            index, inside = self.nearest(points)
            part = np.searchsorted(borders, self.s[index], side="right") - 1
            return np.where(inside, of_part[part], 0).astype(np.int16)

        margin = self.radii.max()
        low, high = self.points.min(axis=0) - margin, self.points.max(axis=0) + margin
        return Shape(tuple(low), tuple(high), paint)


def along(tube: Tube, values: Callable[[Floats], tuple[Floats, Floats]]) -> Diffusion:
    """Diffusion of a tube whose fibres run along it: `values` gives FA and MD (mm2/s) at arc lengths."""

    def diffusion(points: Floats) -> tuple[Floats, Floats, Floats]:
        index, _ = tube.nearest(points)
        fa, md = values(tube.s[index])
        return fa, md, tube.tangents[index].T

    return diffusion


def uniform(fa: float, md: float) -> Callable[[Floats], tuple[Floats, Floats]]:
    """FA and MD (mm2/s) that are the same at all arc lengths."""

    def values(s_mm: Floats) -> tuple[Floats, Floats]:
        return np.full_like(s_mm, fa), np.full_like(s_mm, md)

    return values


def through(points: Sequence[Sequence[float]], radius_mm: float) -> Tube:
    """A tube of constant radius along the cubic spline through points (k, 3), by their chords."""
    knots = np.asarray(points, np.float64)
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    spline = CubicSpline(chord, knots)
    at = np.linspace(0.0, chord[-1], int(np.ceil(chord[-1] / STEP_MM)) + 1)
    line, slope = spline(at), spline(at, 1)
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    tangents = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    return Tube(s, line, tangents, np.full(len(s), radius_mm))
