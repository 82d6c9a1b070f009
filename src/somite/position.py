"""How well two images of other contrast agree, the one laid on the other in some position.

World RAS+ mm. Knows arrays, no files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.images import Grid
from somite.registration import Binning, mutual_information, region_of, scattered, smooth
from somite.sampling import coefficients, sample, sample_slopes

Float = NDArray[np.float64]
Volume = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Image:
    """Voxels (x, y, z) and where they lie."""

    data: Volume
    grid: Grid


@dataclass(frozen=True)
class Aligned:
    """Where the points of the fixed image lie in the moving one, and how good that is."""

    grid: Grid
    """Of the fixed image."""
    transform: Float
    """(4, 4), T."""
    axis: int = 0
    """Voxel axis of the fixed grid along which the displacement is."""
    displacement: NDArray[np.float32] | None = None
    """(x, y, z) mm, e; None for 0."""
    information: float = 0.0
    """Nats, at the finest level."""
    at_start: float = 0.0
    """That of the headers alone."""
    nearby: float = 0.0
    """The largest of six shifts by 10 mm from where it ended: a peak stands out from it."""
    overlap: float = 0.0
    """Fraction of the fixed image's mask that lies in the moving image."""
    moved_mm: float = 0.0
    """Mean distance that the transform moves the mask by."""
    lead: float = math.inf
    """Nats that it has more than its nearest rival, a position elsewhere that was followed as far, at the
    points that both have in the moving image; infinity without a rival."""
    rival_mm: float = 0.0
    """How far that rival lies from it."""

    def points(self) -> Float:
        """(x, y, z, 3) world mm in the moving image of every voxel of the fixed grid."""
        at = np.moveaxis(np.indices(self.grid.shape), 0, -1) @ self.grid.affine[:3, :3].T
        at = at + self.grid.affine[:3, 3]
        if self.displacement is not None:
            at += self.displacement[..., None] * self.grid.axes[:, self.axis]
        return np.asarray(at @ self.transform[:3, :3].T + self.transform[:3, 3])


class Comparison:
    """The fixed image's bins at its points, and the moving image as a spline, both smoothed alike."""

    def __init__(
        self, fixed: Image, moving: Image, mask: NDArray[np.bool_], fwhm_mm: float, most: int
    ) -> None:
        self.region = region_of(mask, fixed.grid, most)
        voxel_mm = float(np.prod(fixed.grid.voxel_mm) ** (1 / 3))
        # Between the voxels, where noise has no peak at no motion (Thevenaz et al., IEEE TIP 2008).
        at = self.region.points + scattered(self.region.points) * voxel_mm
        to_fixed, top = self.region.to_voxels, np.array(fixed.grid.shape) - 1
        voxels = np.clip(at @ to_fixed[:3, :3].T + to_fixed[:3, 3], 0, top)
        self.points = np.asarray(voxels @ fixed.grid.affine[:3, :3].T + fixed.grid.affine[:3, 3])
        values = sample(coefficients(smooth(fixed.data, fwhm_mm, fixed.grid)), voxels)[0]
        self.n_bins = int(np.clip(np.sqrt(len(values)) / 2, 8, 48))
        scaled = Binning.of(values, self.n_bins).scale(values)
        self.bins = np.clip(scaled, 0, self.n_bins - 1).astype(np.intp)
        blurred = smooth(moving.data, fwhm_mm, moving.grid)
        self.binning = Binning.of(blurred, self.n_bins)
        self.spline = coefficients(blurred)
        self.to_moving = np.linalg.inv(moving.grid.affine)
        self.top = np.array(moving.grid.shape) - 1

    def information(
        self, points: Float, transform: Float, rows: NDArray[np.intp] | slice = slice(None)
    ) -> tuple[float, Float]:
        """Mutual information, nats, of points (n, 3) through a transform; its slope (n, 3) per moving voxel.

        Beyond the edge of the moving image its nearest value stands. `rows`: which of the points these are.
        """
        matrix = self.to_moving @ transform
        wanted = points @ matrix[:3, :3].T + matrix[:3, 3]
        held = np.clip(wanted, 0, self.top)
        values, slopes = sample_slopes(self.spline, held)
        scaled, last = self.binning.scale(values), self.n_bins - 1
        found, pull = mutual_information(self.bins[rows], np.clip(scaled, 0, last - 1e-6), self.n_bins)
        pull = pull * self.binning.per_unit * ((scaled > 0) & (scaled < last))
        return found, np.asarray((held == wanted) * slopes * pull[:, None], np.float64)

    def inside(self, points: Float, transform: Float) -> NDArray[np.bool_]:
        """Which of points (n, 3) a transform takes into the moving image."""
        matrix = self.to_moving @ transform
        wanted = points @ matrix[:3, :3].T + matrix[:3, 3]
        return np.asarray(((wanted >= -0.5) & (wanted <= self.top + 0.5)).all(1))

    def overlap(self, transform: Float) -> float:
        """Fraction of the points that a transform takes into the moving image."""
        return float(self.inside(self.points, transform).mean())

    def displaced(self, found: Aligned) -> Float:
        """The points (n, 3), with the displacement that was found."""
        if found.displacement is None:
            return self.points
        shift = found.displacement[tuple(self.region.voxels.T)].astype(np.float64)
        return np.asarray(self.points + shift[:, None] * found.grid.axes[:, found.axis])

    def within(self, found: Aligned, chosen: NDArray[np.bool_] | None = None) -> float:
        """Mutual information at the points (n,) chosen, by default those that lie in the moving image.

        Beyond its edge there is nothing to agree with: counted in, what lies there draws the body inwards.
        """
        points = self.displaced(found)
        if chosen is None:
            chosen = self.inside(points, found.transform)
        return self.information(points[chosen], found.transform, np.flatnonzero(chosen))[0]
