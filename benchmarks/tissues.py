"""Tissue at 1 mm for series that move: a head, and two thighs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

FIELD_OF_VIEW_MM = np.array([192, 192, 96])
MARGIN = 8
FINE = tuple(int(n) for n in FIELD_OF_VIEW_MM + 2 * MARGIN)
"""Points of 1 mm that the tissue is drawn on."""
WHITE = 750.0
"""Signal of white matter and of muscle at b=0, that the signal-to-noise ratio is counted by."""


@dataclass(frozen=True)
class Anatomy:
    """Tissue on a grid of 1 mm."""

    s0: Float32
    fluid: Bools
    grey: Bools
    rim: Bools
    """Scalp, or fat: isotropic."""
    fibrous: Bools
    """White matter, or muscle."""
    first: Float32
    """(m, 3) directions of the fibrous tissue."""
    second: Float32
    """(x, y, z, 3) crossing fibres."""
    share: Float32
    spread: Float32
    diffusivities: tuple[float, float, float, float]
    """Of both fibres: across, and what is added along; um2/ms."""
    bias: Float32

    def signal(self, b: float, direction: Float) -> Float32:
        """Signal without noise at a b-value in s/mm2."""
        if b == 0:
            return self.s0
        k, g = np.float32(b * 1e-3), direction.astype(np.float32)
        signal = np.zeros(FINE, np.float32)
        signal[self.fluid], signal[self.rim] = np.exp(-3.0 * k), np.exp(-0.9 * k)
        signal[self.grey] = np.exp(-k * (0.75 + 0.15 * (self.second[self.grey] @ g) ** 2))
        across, along, across2, along2 = self.diffusivities
        one, two = (self.first @ g) ** 2, (self.second[self.fibrous] @ g) ** 2
        signal[self.fibrous] = self.share * np.exp(-k * (across * self.spread + along * one)) + (
            1 - self.share
        ) * np.exp(-k * (across2 * self.spread + along2 * two))
        return signal * self.s0


def _axes() -> list[Float32]:
    axes = [(np.arange(n) - (n - 1) / 2).astype(np.float32) for n in FINE]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _smooth(rng: np.random.Generator, sigma: float) -> Float32:
    noise = gaussian_filter(rng.standard_normal(FINE).astype(np.float32), sigma, truncate=3)
    return np.asarray(noise / noise.std())


def _directions(rng: np.random.Generator, towards: int, weight: Float32 | float) -> Float32:
    fibres = np.stack([_smooth(rng, 9.0) for _ in range(3)], -1)
    fibres[..., towards] += weight
    return np.asarray(fibres / np.linalg.norm(fibres, axis=-1, keepdims=True))


def head(rng: np.random.Generator) -> Anatomy:
    """Crossing white matter, cortex, deep nuclei, sulci, ventricles, skull and scalp."""
    x, y, z = _axes()
    rho = np.sqrt((x / 66) ** 2 + (y / 80) ** 2 + ((z + 4) / 46) ** 2)
    depth, brain = (1 - rho) * 60, rho < 1
    sulci = (np.abs(_smooth(rng, 6.0)) < 0.18) & (depth < 18)
    ventricles, nuclei = np.zeros((2, *FINE), bool)
    for side in (-1, 1):
        middle = side * (9 + 0.004 * y**2)
        ventricles |= ((x - middle) / 6) ** 2 + (y / 34) ** 2 + ((z - 4 - 0.003 * y**2) / 9) ** 2 < 1
        nuclei |= ((x - side * 22) / 9) ** 2 + ((y - 2) / 16) ** 2 + (z / 9) ** 2 < 1
    fluid = brain & (sulci | (depth < 2.0) | ventricles)
    near = distance_transform_edt(~(fluid & ~ventricles)) < 3.2
    grey = brain & ~fluid & ((near & (depth < 24)) | nuclei)
    white = brain & ~fluid & ~grey
    callosum = np.exp(-((x / 20) ** 2 + ((z - 14) / 8) ** 2)).astype(np.float32)
    first = _directions(rng, 0, 6 * callosum)[white]
    second = _directions(rng, 0, 0.0)
    share = np.clip(0.8 + 0.25 * _smooth(rng, 8.0) + callosum, 0.4, 1)[white]
    spread = np.clip(1.0 + 0.15 * _smooth(rng, 5.0), 0.6, 1.4)[white]
    skull, scalp = (rho > 1.0) & (rho < 1.08), (rho >= 1.08) & (rho < 1.17)
    s0 = np.select([fluid, grey, white, scalp, skull], [2000.0, 1000.0, WHITE, 350.0, 15.0])
    s0 = (s0.astype(np.float32) * (1 + 0.06 * _smooth(rng, 2.0))).astype(np.float32)
    bias = np.exp(0.18 * _smooth(rng, 40.0))
    return Anatomy(
        s0, fluid, grey, scalp | skull, white, first, second, share, spread, (0.35, 1.35, 0.4, 1.2), bias
    )


def limbs(rng: np.random.Generator) -> Anatomy:
    """Two thighs: muscle along the limb with septa, bone, a vessel and fat; they end outside the image."""
    x, y, z = _axes()
    muscle, rim, bone, fluid, septa = np.zeros((5, *FINE), bool)
    for side in (-1, 1):
        away = np.hypot(x - side * (44 + 0.05 * z), y + 3 * side)
        radius = 40 + 0.04 * z + 0 * y
        muscle |= away < radius - 5
        rim |= (away >= radius - 5) & (away < radius)
        bone |= np.hypot(x - side * (46 + 0.05 * z), y - 4) < 8
        fluid |= np.hypot(x - side * (30 + 0.05 * z), y - 12 - 2 * np.sin(z / 15)) < 3.5
        septa |= (away < radius - 5) & (np.abs(y - 10 * side - 5 * np.sin(z / 18 + x / 12)) < 0.8)
    fluid, rim = fluid & muscle, rim | (bone & muscle)
    muscle &= ~fluid & ~bone
    first = _directions(rng, 2, 2.5)[muscle]
    second = _directions(rng, 2, 2.5)
    s0 = np.select([fluid, bone, septa & muscle, muscle, rim], [2000.0, 60.0, 300.0, WHITE, 250.0])
    s0 = (s0.astype(np.float32) * (1 + 0.06 * _smooth(rng, 2.0))).astype(np.float32)
    ones = np.ones(len(first), np.float32)
    bias, grey = np.exp(0.18 * _smooth(rng, 40.0)), np.zeros(FINE, bool)
    return Anatomy(s0, fluid, grey, rim, muscle, first, second, ones, ones, (1.2, 0.7, 1.2, 0.7), bias)


@lru_cache(maxsize=1)
def drawn(seed: int, limbs_not_head: bool) -> tuple[Anatomy, np.random.Generator]:
    """The tissue of a seed, and the generator as it is after it: copy it before drawing from it."""
    rng = np.random.default_rng(seed)
    return (limbs if limbs_not_head else head)(rng), rng
