"""Numbers that tell how good a diffusion series is: pure functions on arrays.

A voxel is a place of the mask; volumes are looked at one at a time, so that the memory is that of a few. Does
not know files, limits or verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import chdtri

from somite.gradients import Gradients
from somite.registration import Region, about, displacement_mm
from somite.tensorfit import design_matrix, largest_b

Float = NDArray[np.float64]
Volumes = NDArray[np.intp]


@dataclass(frozen=True)
class Series:
    """A series seen through a mask."""

    data: NDArray[np.floating[Any]]
    """(x, y, z, n)."""
    mask: NDArray[np.bool_]
    """(x, y, z), m voxels inside."""

    @cached_property
    def _where(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.mask.ravel(order="F"))

    def volume(self, index: int) -> Float:
        """The signal of one volume in the mask, (m,)."""
        return np.asarray(self.data[..., index].ravel(order="F")[self._where], np.float64)

    def mean(self, volumes: Volumes) -> Float:
        """Mean signal (m,) over some volumes."""
        return np.asarray(sum(self.volume(int(v)) for v in volumes) / max(len(volumes), 1))

    def deviation(self, volumes: Volumes) -> Float:
        """Standard deviation (m,) over some volumes, at least two; n - 1."""
        mean = self.mean(volumes)
        squares = sum((self.volume(int(v)) - mean) ** 2 for v in volumes)
        return np.sqrt(np.asarray(squares) / (len(volumes) - 1))


def shells(levels: Iterable[int], bvals: Float, is_b0: NDArray[np.bool_]) -> dict[int, Volumes]:
    """b-value of each shell in s/mm2 -> its volumes: every weighted volume goes to the nearest level."""
    weighted = np.flatnonzero(~is_b0)
    known = np.array([level for level in levels if level > 0], np.float64)
    if not len(known) or not len(weighted):
        return {}
    nearest = np.abs(bvals[weighted, None] - known).argmin(1)
    return {int(b): weighted[nearest == i] for i, b in enumerate(known) if (nearest == i).any()}


def median_ratio(signal: Float, noise: Float) -> float:
    """Median over voxels of signal over noise, both (m,); NaN where no voxel has noise."""
    known = noise > 0
    return float(np.median(signal[known] / noise[known])) if known.any() else np.nan


def repeated_snr(mean: Float, deviation: Float, n: int) -> float:
    """Median over voxels of the mean of n repeated volumes over their standard deviation.

    The deviation of few volumes is mostly too small: n (2, 3) give 0.67 (0.83) of it in the median. That is
    taken off, for normal noise.
    """
    return median_ratio(mean, deviation) * float(np.sqrt(chdtri(n - 1, 0.5) / (n - 1)))


def predicted_deviation(tensor: Float, s0: Float, gradients: Gradients, volumes: Volumes) -> Float:
    """Standard deviation (m,) over the volumes of a shell of the signal that the tensor predicts; n - 1.

    Args:
        tensor: (6, m) Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in mm2/s, world axes.
        s0: (m,) signal at b=0.
        gradients: of all volumes, world axes.
        volumes: those of the shell, at least two.
    """
    chosen = Gradients(gradients.bvals[volumes], gradients.bvecs[volumes])
    total, squares = np.zeros_like(s0), np.zeros_like(s0)
    for row in design_matrix(chosen)[:, :6] * largest_b(chosen):
        attenuation = np.exp(np.clip(row @ tensor, -80, 80))
        total += attenuation
        squares += attenuation**2
    n = len(volumes)
    return np.asarray(s0 * np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1)))


def neighbours(gradients: Gradients, is_b0: NDArray[np.bool_]) -> Mapping[int, int]:
    """Weighted volume -> the one nearest to it in q-space, opposite directions being the same."""
    weighted = np.flatnonzero(~is_b0)
    if len(weighted) < 2:
        return {}
    q = np.sqrt(gradients.bvals[weighted])[:, None] * gradients.bvecs[weighted]
    apart = np.minimum(*(np.linalg.norm(q[:, None] - sign * q, axis=2) for sign in (1, -1)))
    np.fill_diagonal(apart, np.inf)
    # Rounded, so that of equal ones the first is taken in any frame.
    nearest = np.round(apart, 6).argmin(1)
    return {int(v): int(weighted[near]) for v, near in zip(weighted, nearest, strict=True)}


def neighbour_correlation(series: Series, pairs: Mapping[int, int]) -> float:
    """Neighbouring DWI correlation: the mean over volumes of Pearson's r with the nearest; NaN without pairs.

    Source: Yeh et al., NeuroImage 202 (2019) 116131.
    """
    known: dict[frozenset[int], float] = {}
    for pair in {frozenset(pair) for pair in pairs.items()}:
        one, other = (_centred(series.volume(v)) for v in sorted(pair))
        norm = np.sqrt((one @ one) * (other @ other))
        known[pair] = float(one @ other / norm) if norm > 0 else np.nan
    return float(np.mean([known[frozenset(pair)] for pair in pairs.items()])) if pairs else np.nan


def _centred(values: Float) -> Float:
    return np.asarray(values - values.mean())


def relative_displacements(shifts_mm: Float, rotations_deg: Float, region: Region) -> Float:
    """Mean displacement over the region from each volume to the next, (n - 1,), mm.

    Args:
        shifts_mm: (n, 3) and
        rotations_deg: (n, 3), rotation vectors about the centre of the region, world RAS+ axes.
        region: whose points are displaced.
    """
    poses = [
        about(region.centre, Rotation.from_rotvec(turn, degrees=True).as_matrix(), shift)
        for shift, turn in zip(shifts_mm, rotations_deg, strict=True)
    ]
    return np.array([displacement_mm(np.linalg.inv(a) @ b, region) for a, b in pairwise(poses)])
