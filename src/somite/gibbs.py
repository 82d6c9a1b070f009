"""Gibbs ringing taken off by local sub-voxel shifts, of full and of partial Fourier acquisitions.

The k-space of an image ends sharply, so an edge rings with a period of two voxels. Where the image is
sampled at the zeros of the ringing, nothing of it is seen: for each voxel, and each axis of the plane, the
shift is looked for at which a window beside the voxel varies least, and the value is interpolated back from
there (Kellner et al., Magn Reson Med 76 (2016) 1574). After partial Fourier the frequencies of which one
side was measured are first brought back to their full size. Knows arrays; no images, sidecars or files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.special
from numpy.typing import NDArray

from somite.images import FloatArray
from somite.jit import compiled

Float32 = NDArray[np.float32]

SHIFTS = 20
"""Shifts tried to either side, up to half a voxel."""

TERMS = 8
"""Terms of the expansion of a shift; the first that is left out is 7e-6 of the highest frequency."""


@cache
def _filters(n: int) -> NDArray[np.complex64]:
    """Spectra (TERMS, n // 2 + 1) whose sum, weighted by Chebyshev polynomials of s, shifts a line by s.

    Jacobi and Anger: exp(iks) = J_0(k / 2) + 2 sum_m i^m J_m(k / 2) T_m(2s), for |s| <= 1/2 voxel.
    """
    half = np.pi * scipy.fft.rfftfreq(n)  # k / 2
    order = np.arange(TERMS)[:, None]
    return np.asarray(np.where(order > 0, 2, 1) * 1j**order * scipy.special.jv(order, half), np.complex64)


@cache
def _polynomials() -> Float32:
    """Chebyshev polynomials (SHIFTS + 1, TERMS) of the shifts 0 to half a voxel."""
    angle = np.arccos(np.linspace(0, 1, SHIFTS + 1))
    return np.asarray(np.cos(angle[:, None] * np.arange(TERMS)), np.float32)


def unring_lines(lines: Float32) -> Float32:
    """Take the ringing off lines (lines, n), each periodic."""
    n = lines.shape[1]
    if n < 2:
        return lines
    spectrum = scipy.fft.rfft(lines, axis=1)
    terms = scipy.fft.irfft(spectrum * _filters(n)[:, None], n, axis=2)
    out = np.empty(lines.shape, np.float32)
    _shift_to_least_variation(terms, _polynomials(), out)
    return out


@compiled
def _shift_to_least_variation(terms: Any, polynomials: Any, out: Any) -> None:
    """Value of each voxel of lines (lines, n), from the shift at which a window beside it varies least.

    The windows are the three differences between the first and the fourth neighbour on either side. As
    every window serves two voxels, the best shift is found per window, and then the better window per voxel.

    Args:
        terms: (TERMS, lines, n): the line shifted by s is their sum weighted by T_m(2s).
        polynomials: (shifts, TERMS) T_m(2s) for s from 0 to half a voxel.
        out: (lines, n).
    """
    _, n_lines, n = terms.shape
    steps = np.empty((TERMS, n + 2), np.float32)
    forward = np.empty(n + 2, np.float32)
    backward = np.empty(n + 2, np.float32)
    least = np.empty(n, np.float32)
    best = np.empty(n, np.int32)
    for line in range(n_lines):
        for m in range(TERMS):
            for x in range(n + 2):
                steps[m, x] = terms[m, line, (x + 1) % n] - terms[m, line, x % n]
        least[:] = np.inf
        best[:] = 0
        for shift in range(len(polynomials)):
            t = polynomials[shift]
            for x in range(n + 2):
                even = t[0] * steps[0, x] + t[2] * steps[2, x] + t[4] * steps[4, x] + t[6] * steps[6, x]
                odd = t[1] * steps[1, x] + t[3] * steps[3, x] + t[5] * steps[5, x] + t[7] * steps[7, x]
                forward[x] = abs(even + odd)
                backward[x] = abs(even - odd)
            for x in range(n):
                ahead = forward[x] + forward[x + 1] + forward[x + 2]
                behind = backward[x] + backward[x + 1] + backward[x + 2]
                if ahead < least[x]:
                    least[x] = ahead
                    best[x] = shift
                if behind < least[x]:
                    least[x] = behind
                    best[x] = -shift
        for x in range(n):
            left, right = (x - 4) % n, (x + 1) % n
            shift = best[left] if least[left] <= least[right] else best[right]
            neighbour = (x - 1) % n if shift > 0 else (x + 1) % n
            here, there = np.float32(0), np.float32(0)
            for m in range(TERMS):
                weight = polynomials[abs(shift), m]
                if shift < 0 and m % 2 == 1:
                    weight = -weight
                here += weight * terms[m, line, x]
                there += weight * terms[m, line, neighbour]
            share = np.float32(abs(shift)) / np.float32(2 * SHIFTS)
            out[line, x] = here + share * (there - here)


@cache
def _shares(shape: tuple[int, int]) -> tuple[Float32, Float32]:
    """The parts of each frequency (n, m // 2 + 1) of a plane that are unrung along its axes 0 and 1.

    What varies along one axis alone goes to that axis as a whole (Kellner et al., on two dimensions).
    """
    first, second = (
        1 + np.cos(2 * np.pi * k)
        for k in (scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.rfftfreq(shape[1]))
    )
    total = first + second
    along_0 = np.divide(second, total, out=np.full(total.shape, 0.5), where=total > 1e-9)
    return np.asarray(along_0, np.float32), np.asarray(1 - along_0, np.float32)


@cache
def _gain(shape: tuple[int, int], axis: int, fraction: float) -> Float32:
    """What the frequencies (n, m // 2 + 1) of a plane are multiplied by after partial Fourier.

    Of k-space, `fraction` was measured along `axis`: beyond fraction - 1/2 cycles per voxel one side only,
    zeros were put in for the other. Where the phase of the image varies slowly, its magnitude then holds
    the half of these frequencies (Lee et al., Magn Reson Med 86 (2021) 2733, on the convolution kernel);
    twice that is the image of a full k-space, which rings with one period.
    """
    k = np.abs(scipy.fft.fftfreq(shape[axis])) if axis == 0 else scipy.fft.rfftfreq(shape[axis])
    # At half a cycle per voxel there is one sample for both sides: nothing tells whether it was measured.
    halved = (k > fraction - 0.5 + 1e-6) & (k < 0.5)
    gain = np.where(halved, 2, 1).astype(np.float32)
    return gain[:, None] if axis == 0 else gain[None]


@dataclass(frozen=True)
class Cut:
    """A k-space that was measured in part along one axis, and filled with zeros."""

    axis: int
    """Of the array."""
    fraction: float
    """Measured, above 0.5 and up to 1."""


def unring_plane(plane: Float32, cut: Cut | None = None) -> Float32:
    """Take the ringing off an image (n, m) along both axes. `cut`: of its k-space, along axis 0 or 1."""
    shape = (plane.shape[0], plane.shape[1])
    spectrum = scipy.fft.rfft2(plane)
    if cut is not None:
        spectrum *= _gain(shape, cut.axis, cut.fraction)
    first, second = (scipy.fft.irfft2(spectrum * share, shape) for share in _shares(shape))
    return np.asarray(unring_lines(np.ascontiguousarray(first.T)).T + unring_lines(second), np.float32)


def unring(
    data: Float32, plane: tuple[int, int] = (0, 1), cut: Cut | None = None, threads: int = 1
) -> Float32:
    """Take the ringing off every plane of a series; the same to the bit for any number of threads.

    What lies outside the plane is left alone: an acquisition in slices does not ring across them.

    Args:
        data: (x, y, z, volumes), finite, neither resampled nor interpolated since its acquisition.
        plane: the two of the first three axes along which k-space was sampled.
        cut: of partial Fourier, along an axis of the plane.
        threads: how many planes to work on at a time.
    """
    # The axis that is first in memory comes last.
    planes = np.moveaxis(data, plane, (-1, -2))
    within = None if cut is None else Cut(1 if cut.axis == plane[0] else 0, cut.fraction)
    out = np.empty_like(data, subok=False)
    results = np.moveaxis(out, plane, (-1, -2))

    def one(at: tuple[int, ...]) -> None:
        results[at] = unring_plane(np.ascontiguousarray(planes[at]), within)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, np.ndindex(*planes.shape[:2])))
    return out


def mean_power(data: FloatArray, axis: int) -> NDArray[np.float64]:
    """Mean power (n // 2 + 1) of a series (x, y, z, volumes) at each frequency along an axis."""
    spectrum = np.abs(scipy.fft.rfft(np.asarray(data, np.float32), axis=axis)) ** 2
    others = tuple(other for other in range(data.ndim) if other != axis)
    return np.asarray(spectrum.mean(others, np.float64))


def power_drop(power: NDArray[np.float64], n: int, fraction: float) -> float | None:
    """By what factor the power drops where partial Fourier would have cut k-space, beside its steady fall.

    About 1 without a cut, or where the scanner has filled in what was not measured (by homodyne detection,
    POCS); up to 4 where it has put zeros. None where there are too few frequencies to tell.

    Args:
        power: (n // 2 + 1) mean power at each frequency.
        n: length of the axis.
        fraction: of k-space that would have been measured.
    """
    k, cut = scipy.fft.rfftfreq(n), fraction - 0.5
    near = (np.abs(k - cut) < 0.1) & (k > 0) & (k < 0.5) & (power > 0)
    beyond = k[near] > cut + 1e-6
    if min(beyond.sum(), (~beyond).sum()) < 4:
        return None
    design = np.stack([np.ones(near.sum()), np.log(k[near]), beyond], 1)
    fitted = np.linalg.lstsq(design, np.log(power[near]))[0]
    return float(np.exp(-fitted[2]))


def outer_power(power: NDArray[np.float64], n: int) -> float | None:
    """Power at the outermost tenth of the frequencies over that at a third; None where they are too few.

    An object with edges has about 0.1. Next to nothing is there when the scanner has interpolated the image.
    """
    k = scipy.fft.rfftfreq(n)
    outer, inner = power[k > 0.45], power[(k > 0.15) & (k < 0.2)]
    if min(len(outer), len(inner)) < 2 or not inner.mean() > 0:
        return None
    return float(outer.mean() / inner.mean())
