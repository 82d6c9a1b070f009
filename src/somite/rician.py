"""The noise floor of magnitude images: what noise adds to a signal near it, and how to take it off again.

The magnitude of a complex signal A with Gaussian noise of standard deviation sigma in each channel follows
the Rice distribution. With t = A / sigma, its mean and variance in units of sigma and sigma^2 are

    m(t) = sqrt(pi / 2) exp(-t^2 / 4) [(1 + t^2 / 2) I0(t^2 / 4) + (t^2 / 2) I1(t^2 / 4)]
    v(t) = 2 + t^2 - m(t)^2

Source: Koay and Basser, J Magn Reson 179 (2006) 317, equations 5 to 9 for one coil.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive

from somite.images import FloatArray

_FAR = 8.0
"""From this magnitude over sigma on, A = sqrt(M^2 - sigma^2) and a variance of sigma^2, to 1e-3 of sigma."""
_STEP = 1e-4
"""Step of the tables over the magnitude: near the floor the signal rises with the root of the distance."""


def mean(t: FloatArray) -> NDArray[np.float64]:
    """Mean magnitude over sigma, of signals t over sigma."""
    x = np.square(t) / 4
    return np.asarray(np.sqrt(np.pi / 2) * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x)))


def variance(t: FloatArray) -> NDArray[np.float64]:
    """Variance of the magnitude over sigma squared: 0.43 without signal, towards 1 for a large one."""
    return np.asarray(2 + np.square(t) - mean(t) ** 2)


def _tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Signal and variance over the magnitude, all over sigma, at multiples of `_STEP`."""
    t = np.linspace(0, _FAR + 1, 90001) ** 2 / (_FAR + 1)  # denser near the floor
    at = np.arange(0, _FAR + _STEP, _STEP)
    found = np.interp(at, mean(t), t)
    return found.astype(np.float32), variance(found).astype(np.float32)


_SIGNAL, _VARIANCE = _tables()


def _ratio(magnitude: FloatArray, sigma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Magnitude over sigma, at most `_FAR`; `_FAR` where sigma is 0."""
    scale = np.divide(1, sigma, out=np.full(sigma.shape, np.inf, np.float32), where=sigma > 0)
    with np.errstate(invalid="ignore"):
        ratio = np.asarray(magnitude, np.float32) * scale[..., None]
    return np.asarray(np.clip(np.nan_to_num(ratio, nan=_FAR, posinf=_FAR), 0, _FAR), np.float32)


def _look_up(table: NDArray[np.float32], ratio: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(table[(ratio * np.float32(1 / _STEP) + np.float32(0.5)).astype(np.int32)])


def signal(magnitude: FloatArray, sigma: FloatArray) -> NDArray[np.float32]:
    """The signals A whose mean magnitudes are given; 0 where one is not above the floor of 1.25 sigma.

    Args:
        magnitude: (..., n) mean magnitudes, such as those that denoising estimates.
        sigma: (...) standard deviation of the noise; where it is 0 the magnitude is the signal.
    """
    spread = np.asarray(sigma, np.float32)
    ratio = _ratio(magnitude, spread)
    near = _look_up(_SIGNAL, ratio) * spread[..., None]
    far = np.sqrt(np.maximum(np.square(magnitude) - np.square(spread)[..., None], 0))
    return np.where(ratio < _FAR, near, far).astype(np.float32, copy=False)


def noise(magnitude: FloatArray, spread: FloatArray, rounds: int = 5) -> NDArray[np.float32]:
    """Sigma of the complex channels, from the standard deviation that magnitudes show.

    Near the floor magnitudes spread less than sigma. sigma^2 = spread^2 / mean of v(t) over the volumes, a
    fixed point that a few rounds reach.

    Args:
        magnitude: (..., n) mean magnitudes of n volumes.
        spread: (...) standard deviation of the magnitudes about their means.
        rounds: of the fixed point.
    """
    shown = np.asarray(spread, np.float32)
    sigma = shown
    for _ in range(rounds):
        sigma = shown / np.sqrt(_look_up(_VARIANCE, _ratio(magnitude, sigma)).mean(-1, dtype=np.float32))
    return sigma
