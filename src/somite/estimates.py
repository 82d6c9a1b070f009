"""Statistics of a sample of voxels, each with its standard error and 95 % interval.

The voxels are taken as independent, which denoising, resampling and the point-spread function of the scan
make optimistic. Samples are ascending: the order statistics want it, and a sum then does not depend on the
order in which an image stores its voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its standard error and 95 % interval; NaN where there is none.

    The errors take the voxels as independent samples.
    """

    value: float
    se: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan


_LEVEL = 0.95
UPPER = (1 + _LEVEL) / 2
MCKEAN_SCHRADER_Z = float(special.ndtri(0.995))


def _around(value: float, se: float, n: int) -> Estimate:
    """The interval of Student's t with n - 1 degrees of freedom."""
    half = float(special.stdtrit(n - 1, UPPER)) * se
    return Estimate(value, se, value - half, value + half)


def mean(x: Vector) -> Estimate:
    """Mean of ascending values (n,), its standard error, and the interval of Student's t."""
    if x.size < 2:
        return Estimate(float(x.mean()))
    return _around(float(x.mean()), float(x.std(ddof=1)) / math.sqrt(x.size), x.size)


def sd(x: Vector) -> Estimate:
    """Standard deviation (n - 1) of ascending values (n,), with the chi-square interval of normal data."""
    if x.size < 2:
        return Estimate(math.nan)
    n, value = x.size, float(x.std(ddof=1))
    low, high = special.chdtri(n - 1, (1 - UPPER, UPPER))
    root = math.sqrt(n - 1)
    return Estimate(value, value / (math.sqrt(2) * root), value * root / low**0.5, value * root / high**0.5)


def quantile_se(x: Vector, q: float) -> float:
    """Standard error of the q-quantile of ascending values (n,): McKean and Schrader's, for any quantile.

    The gap between the order statistics that lie z = 2.576 standard errors of the binomial rank below and
    above the quantile, over 2 z (McKean and Schrader, Commun Stat Simul Comput 13:751, 1984). Where the
    sample is too small to reach that far, the gap is taken over the ranks that it does span.
    """
    n = x.size
    spread = math.sqrt(n * q * (1 - q))
    centre, half = n * q + 0.5, MCKEAN_SCHRADER_Z * spread
    low, high = round(centre - half), round(centre + half)
    if low >= 1 and high <= n:
        return float(x[high - 1] - x[low - 1]) / (2 * MCKEAN_SCHRADER_Z)
    low, high = max(low, 1), min(high, n)
    return float(x[high - 1] - x[low - 1]) * spread / (high - low)


def median(x: Vector) -> Estimate:
    """Median of ascending values (n,), with McKean and Schrader's standard error.

    The interval runs between the k-th value from below and from above, k as large as the binomial
    distribution allows at 95 %; below 6 values there is none.
    """
    if x.size < 2:
        return Estimate(float(np.median(x)))
    value, se = float(np.median(x)), quantile_se(x, 0.5)
    k = _rank_of_median(x.size)
    return Estimate(value, se, float(x[k - 1]), float(x[-k])) if k else Estimate(value, se)


def _rank_of_median(n: int) -> int:
    """Largest k for which the k-th values from below and above hold the median with 95 %; 0 for none."""
    k = math.ceil(special.bdtrik(1 - UPPER, n, 0.5))
    while k > 0 and special.bdtr(k - 1, n, 0.5) > 1 - UPPER:
        k -= 1
    return k


def iqr(x: Vector) -> Estimate:
    """Interquartile range of ascending values (n,), its quartiles interpolated linearly.

    The quartiles' standard errors are McKean and Schrader's, their correlation the asymptotic 1/3; the
    interval is that of Student's t, cut at 0.
    """
    if x.size < 2:
        return Estimate(math.nan)
    first, third = np.quantile(x, (0.25, 0.75))
    below, above = quantile_se(x, 0.25), quantile_se(x, 0.75)
    around = _around(float(third - first), math.sqrt(below**2 + above**2 - 2 / 3 * below * above), x.size)
    return Estimate(around.value, around.se, max(around.ci_low, 0.0), around.ci_high)


def fa_of(eigenvalues: Vector) -> Vector:
    """Fractional anisotropy (...,) of eigenvalues (..., 3), those below 0 taken as 0; 0 where none is above.

    Source: Basser and Pierpaoli, J Magn Reson B 111:209 (1996).
    """
    physical = np.maximum(eigenvalues, 0)
    deviation = physical - physical.mean(-1, keepdims=True)
    size = (physical**2).sum(-1)
    ratio = np.divide((deviation**2).sum(-1), size, out=np.zeros_like(size), where=size > 0)
    return np.asarray(np.sqrt(1.5 * ratio))


def fa_of_mean_eigenvalues(eigenvalues: Vector) -> Estimate:
    """FA of the mean of eigenvalues (n, 3), each rank averaged; errors by the jackknife over voxels."""
    n = len(eigenvalues)
    total = np.sort(eigenvalues, axis=0).sum(0)  # sorted: the sum must not depend on the order of the voxels
    value = float(fa_of(total / n))
    if n < 2:
        return Estimate(value)
    without = np.sort(fa_of((total - eigenvalues) / (n - 1)))
    return _around(value, math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum())), n)
