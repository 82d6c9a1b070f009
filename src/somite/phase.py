"""The phase of a diffusion series: taken off where it is smooth, so that noise stays Gaussian.

Motion and eddy currents give every slice of every volume a phase of its own, which varies smoothly within
the slice. Without it the series is real and alike from volume to volume, which denoising needs; and as its
noise is that of the receiver, magnitudes near the noise are not too high. Knows arrays, no files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from somite.images import FloatArray

CYCLES = 3.5
"""Standard deviation of the low-pass filter, in cycles per field of view. At 2, phases that vary by 3 rad or
more are left in part."""

NOISE_SHARE = 0.02
"""At most this share of the frequencies passes the filter, which matters below 44 voxels: half of the noise
in what passes is taken for phase where there is no signal, and sigma is then found 1 % too low."""


def _low_pass(shape: tuple[int, int]) -> NDArray[np.float32]:
    # A Gaussian of standard deviation c passes the power of pi c^2 frequencies.
    cycles = min(CYCLES, np.sqrt(NOISE_SHARE * shape[0] * shape[1] / np.pi))
    first, second = (np.exp(-0.5 * (np.arange(n) / 2 / cycles) ** 2) for n in shape)
    return np.asarray(first[:, None] * second, np.float32)


def without_smooth_phase(
    magnitude: FloatArray, phase: FloatArray, plane: tuple[int, int] = (0, 1), threads: int = 1
) -> NDArray[np.complex64]:
    """The complex series with the smooth part of each slice's phase taken off.

    Its real part is the signal where the phase is smooth; where it is not, the phase stays.

    Args:
        magnitude: (x, y, z, volumes).
        phase: (x, y, z, volumes), radians, wrapped or not.
        plane: the axes of the acquired slices.
        threads: how many volumes to work on at a time. The result does not depend on it.

    Source: low-pass phase correction as in Eichner et al., NeuroImage 122 (2015) 373.
    """
    out = np.empty(magnitude.shape, np.complex64, order="F")
    kept = _low_pass((magnitude.shape[plane[0]], magnitude.shape[plane[1]]))

    def one(volume: int) -> None:
        series: NDArray[Any] = np.exp(1j * np.asarray(phase[..., volume], np.float32))
        series = np.moveaxis(series * magnitude[..., volume], plane, (-2, -1))
        # By cosines, which go on beyond the border as in a mirror: opposite borders differ in phase.
        smooth = scipy.fft.idctn(scipy.fft.dctn(series, axes=(-2, -1)) * kept, axes=(-2, -1))
        size = np.abs(smooth)
        turn = np.divide(smooth.conj(), size, out=np.ones_like(smooth), where=size > 0)
        out[..., volume] = np.moveaxis(series * turn, (-2, -1), plane)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(magnitude.shape[3])))
    return out
