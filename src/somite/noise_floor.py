"""The FA that isotropic tissue shows because of noise: simulated where it is asked for, kept, interpolated.

Noise parts the eigenvalues, and their order makes an anisotropy of it (10.1002/nbm.3427). What it makes
depends on the gradients, on the signal of b=0 over the noise, and on b times the diffusivity. It is simulated
on the nodes of a grid of both logarithms that surround the point asked for, with the same noise at every
node, and its logarithm is interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.tensorfit import (
    PARAMETERS,
    condition,
    design_matrix,
    eigen,
    fit_ols,
    fit_wls,
    fractional_anisotropy,
    largest_b,
)
from somite.volumes import CONDITION_MAX

Float = NDArray[np.float64]

VOXELS = 2000
"""Simulated at each node: the standard error of the mean is about 0.7 % of it."""
_SNR_STEP = math.log(2) / 4
_B_STEP = math.log(2) / 4
"""Of the logarithm of the largest b times the diffusivity."""
SNR_MIN, SNR_MAX = 1.0, 256.0
"""Below, the floor is that of `SNR_MIN`; above `SNR_MAX` it falls as 1 / SNR."""
_SEED = 20240
_MIN_SIGNAL = 1e-4


@dataclass(frozen=True)
class Scheme:
    """The gradients and the fit that a floor belongs to, in a form that can be looked up.

    The frame of the directions does not matter: isotropic tissue looks the same from all sides.
    """

    bvals: tuple[float, ...]
    bvecs: tuple[tuple[float, float, float], ...]
    ols: bool = False
    """Fit by ordinary least squares instead of weighted ones."""

    @classmethod
    def of(cls, gradients: Gradients, *, ols: bool = False) -> Scheme:
        """The scheme of gradients (n,); b-values to 1 s/mm2, directions to 1e-4."""
        vectors = [(float(x), float(y), float(z)) for x, y, z in np.round(gradients.bvecs, 4)]
        return cls(tuple(np.round(gradients.bvals).tolist()), tuple(vectors), ols)

    @property
    def gradients(self) -> Gradients:
        """As arrays."""
        return Gradients(np.array(self.bvals), np.array(self.bvecs).reshape(-1, 3))

    @property
    def determined(self) -> bool:
        """Whether the gradients determine a tensor."""
        return len(self.bvals) >= PARAMETERS and condition(design_matrix(self.gradients)) <= CONDITION_MAX


@lru_cache(maxsize=4)
def _noise(volumes: int) -> NDArray[np.complex64]:
    """Complex noise of unit standard deviation in each channel, (volumes, VOXELS)."""
    draws = np.random.default_rng([_SEED, volumes]).standard_normal((2, volumes, VOXELS), np.float32)
    return np.asarray(draws[0] + 1j * draws[1], np.complex64)


@lru_cache(maxsize=65536)
def _log_floor(scheme: Scheme, snr_node: int, b_node: int) -> float:
    """Logarithm of the mean FA of simulated isotropic voxels at a node of the grid."""
    gradients = scheme.gradients
    signal = math.exp(snr_node * _SNR_STEP) * np.exp(
        -math.exp(b_node * _B_STEP) * gradients.bvals / largest_b(gradients)
    )
    magnitude = np.abs(signal[:, None] + _noise(len(signal))).astype(np.float64)
    log_signal, design = np.log(np.maximum(magnitude, _MIN_SIGNAL)), design_matrix(gradients)
    fitted = fit_ols(log_signal, design) if scheme.ols else fit_wls(log_signal, design)
    return math.log(float(fractional_anisotropy(eigen(fitted[:6])[0]).mean()))


@dataclass(frozen=True)
class NoiseFloor:
    """The floor of one scheme, by SNR and MD, or by the residual of the fit and MD."""

    scheme: Scheme

    def at_snr(self, snr: float, md: float) -> float:
        """See `noise_floor`."""
        return noise_floor(self.scheme, snr, md)

    def at_residual(self, residual: float, md: float) -> float:
        """The floor for the noise that leaves this residual.

        Args:
            residual: root mean square over volumes and voxels of the fit's residual, over S0. The fit takes
                up 7 of as many degrees of freedom as there are volumes.
            md: mm2/s.
        """
        n = len(self.scheme.bvals)
        if n <= PARAMETERS or not residual > 0:
            return math.nan
        return noise_floor(self.scheme, math.sqrt((n - PARAMETERS) / n) / residual, md)


def noise_floor(scheme: Scheme, snr: float, md: float) -> float:
    """Mean FA of isotropic tissue; NaN where SNR or MD is not a number above 0.

    Args:
        scheme: gradients that determine a tensor (`Scheme.determined`).
        snr: signal of the tissue at b=0 over the standard deviation of the noise in each channel.
        md: its diffusivity, mm2/s.
    """
    if not (snr > 0 and md > 0 and math.isfinite(md)):
        return math.nan
    at = math.log(min(max(snr, SNR_MIN), SNR_MAX)) / _SNR_STEP
    b = math.log(md * max(scheme.bvals)) / _B_STEP
    i, j = math.floor(at), math.floor(b)
    value = 0.0
    for down, share in ((i, i + 1 - at), (i + 1, at - i)):
        for left, part in ((j, j + 1 - b), (j + 1, b - j)):
            value += share * part * _log_floor(scheme, down, left) if share * part > 0 else 0.0
    return math.exp(value) * min(SNR_MAX / snr, 1.0)
