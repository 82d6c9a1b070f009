"""Rician noise, and what a tensor fit of noisy signals gives on average.

Noise raises FA (10.1002/nbm.3427) and, near the noise floor, lowers MD. So a measurement at finite SNR is
compared with the mean of simulated measurements, not with the truth itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.interfaces import tensor
from somite.phantom.tissue import Floats, attenuation
from somite.tensorfit import design_matrix

_BLOCK = 65536
Mixture = tuple[float, float, float]


@dataclass(frozen=True)
class Means:
    """Means over simulated voxels. Diffusivities in mm2/s."""

    fa: float
    md: float
    ad: float
    rd: float


def add_rician(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Turn `signal` (v, n) into the magnitude of itself plus complex Gaussian noise, in place.

    Args:
        signal: true signal, any unit.
        sigma: standard deviation of the real and of the imaginary part, same unit.
        rng: source of the noise.
    """
    for start in range(0, len(signal), _BLOCK):
        block = signal[start : start + _BLOCK]
        real = rng.standard_normal(block.shape, np.float32)
        real *= np.float32(sigma)
        real += block
        imaginary = rng.standard_normal(block.shape, np.float32)
        imaginary *= np.float32(sigma)
        np.hypot(real, imaginary, out=block)


def expected(
    fa: float | Floats,
    md: float | Floats,
    s0_over_sigma: float | Floats,
    gradients: Gradients,
    *,
    method: Literal["ols", "wls", "iwls", "robust"] = "wls",
    mixture: Mixture = (0.0, 0.0, 0.0),
    used: NDArray[np.bool_] | None = None,
    n: int = 20000,
    seed: int = 0,
) -> Means:
    """Mean FA, MD, AD, RD of tensor fits to `n` simulated noisy voxels.

    Arrays stand for the voxels of a region: they are repeated, or thinned out, evenly to `n`. Principal
    directions are uniform on the sphere.

    Args:
        fa: true FA, a number or (k,).
        md: true MD, mm2/s, a number or (k,).
        s0_over_sigma: true signal of that tissue at b=0 over the standard deviation of the noise, a number or
            (k,); infinity for no noise. Not the SNR of nerve, unless the tissue is nerve.
        gradients: the scheme.
        method: of the tensor fit.
        mixture: perfusion, pseudo-diffusion and fat of the tissue (`tissue.attenuation`).
        used: which volumes are fitted (as many as `gradients`); None: all.
        n: number of simulated voxels; the standard error of the mean FA of nerve at SNR 25 is about
            0.05 / sqrt(n).
        seed: of the simulation.
    """
    rng = np.random.default_rng([seed, 3])
    fa, md, ratio = (_repeat(v, n) for v in (fa, md, s0_over_sigma))
    directions = rng.standard_normal((3, n))
    directions /= np.linalg.norm(directions, axis=0)
    signal = attenuation(fa, md, directions, gradients, *mixture)
    noisy = np.isfinite(ratio)
    part = (signal[noisy] * ratio[noisy, None]).astype(np.float32)
    add_rician(part, 1.0, rng)
    signal[noisy] = part
    series = signal.astype(np.float32).reshape(n, 1, 1, -1)
    chosen = np.ones(series.shape[3], np.bool_) if used is None else used
    fitted = Gradients(gradients.bvals[chosen], gradients.bvecs[chosen])
    estimate = tensor.estimate_by(tensor.Config(method=method), design_matrix(fitted))
    maps = tensor.fit_maps(series, np.ones((n, 1, 1), np.bool_), fitted, estimate, used=chosen).maps
    return Means(*(float(maps[name].mean(dtype=np.float64)) for name in ("fa", "md", "ad", "rd")))


def _repeat(values: float | Floats, n: int) -> Floats:
    flat = np.atleast_1d(np.asarray(values, np.float64))
    return flat[np.arange(n) * len(flat) // n]
