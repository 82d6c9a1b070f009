"""Statistics of voxels that count by a weight: a fibre density, a probability, a half at a border.

Standard errors and intervals rest on the effective number of voxels, (sum w)^2 / sum w^2 (Kish, Survey
Sampling, 1965); as those of `somite.estimates` they take the voxels as independent. With equal weights
the mean, the standard deviation, the median and their standard errors are those of `somite.estimates`,
but that of the median, whose quantiles are interpolated here.

Samples are ascending, their weights (n,) above 0 and in the same order.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from somite.estimates import MCKEAN_SCHRADER_Z, UPPER, Estimate, Vector, fa_of


def effective_number(w: Vector) -> float:
    """How many equal weights would tell as much: (sum w)^2 / sum w^2; 0 without weights."""
    return float(w.sum() ** 2 / (w**2).sum()) if w.size else 0.0


def mean(x: Vector, w: Vector) -> Estimate:
    """Weighted mean; its standard error is the weighted standard deviation over the root of the number."""
    n = effective_number(w)
    value = _mean(x, w)
    if n <= 1:
        return Estimate(value)
    return around(value, _sd(x, w) / math.sqrt(n), n)


def around(value: float, se: float, n: float) -> Estimate:
    """The interval of Student's t with n - 1 degrees of freedom, n > 1 not necessarily whole."""
    half = float(special.stdtrit(n - 1, UPPER)) * se
    return Estimate(value, se, value - half, value + half)


def _mean(x: Vector, w: Vector) -> float:
    return float((w * x).sum() / w.sum())


def _sd(x: Vector, w: Vector) -> float:
    """Weighted standard deviation, without bias for weights that tell reliability."""
    total = w.sum()
    return math.sqrt(float((w * (x - _mean(x, w)) ** 2).sum() / (total - (w**2).sum() / total)))


def sd(x: Vector, w: Vector) -> Estimate:
    """Weighted standard deviation, with the chi-square interval of normal data."""
    n = effective_number(w)
    if n <= 1:
        return Estimate(math.nan)
    value, root = _sd(x, w), math.sqrt(n - 1)
    low, high = special.chdtri(n - 1, (1 - UPPER, UPPER))
    return Estimate(value, value / (math.sqrt(2) * root), value * root / low**0.5, value * root / high**0.5)


def quantile(x: Vector, w: Vector, q: float) -> float:
    """The q-quantile: linear between the values, each at the middle of its own share of the weight."""
    middle = (np.cumsum(w) - w / 2) / w.sum()
    return float(np.interp(q, middle, x))


def quantile_se(x: Vector, w: Vector, q: float) -> float:
    """Standard error of the q-quantile: McKean and Schrader's gap, between quantiles instead of ranks.

    The gap is taken over the part of it that lies within the middles of the first and the last share.
    """
    n, total = effective_number(w), w.sum()
    spread = math.sqrt(q * (1 - q) / n)
    low = max(q - MCKEAN_SCHRADER_Z * spread, float(w[0] / 2 / total))
    high = min(q + MCKEAN_SCHRADER_Z * spread, float(1 - w[-1] / 2 / total))
    return (quantile(x, w, high) - quantile(x, w, low)) * spread / (high - low) if high > low else math.nan


def median(x: Vector, w: Vector) -> Estimate:
    """Weighted median; the interval runs between the quantiles 1.96 standard errors of the rank away.

    Below 6 effective voxels there is no interval.
    """
    n, value = effective_number(w), quantile(x, w, 0.5)
    if n <= 1:
        return Estimate(value)
    se, half = quantile_se(x, w, 0.5), float(special.ndtri(UPPER)) / 2 / math.sqrt(n)
    if n < 6:
        return Estimate(value, se)
    return Estimate(value, se, quantile(x, w, 0.5 - half), quantile(x, w, 0.5 + half))


def iqr(x: Vector, w: Vector) -> Estimate:
    """Weighted third minus first quartile; the quartiles' correlation is the asymptotic 1/3."""
    n = effective_number(w)
    if n <= 1:
        return Estimate(math.nan)
    below, above = quantile_se(x, w, 0.25), quantile_se(x, w, 0.75)
    se = math.sqrt(below**2 + above**2 - 2 / 3 * below * above)
    found = around(quantile(x, w, 0.75) - quantile(x, w, 0.25), se, n)
    return Estimate(found.value, found.se, max(found.ci_low, 0.0), found.ci_high)


def fraction(marked: Vector, w: Vector) -> Estimate:
    """Weighted fraction of marks (n,) of 0 or 1, with Wilson's interval (J Am Stat Assoc 22:209, 1927)."""
    n, p = effective_number(w), _mean(marked, w)
    z2 = float(special.ndtri(UPPER)) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Estimate(p, math.sqrt(p * (1 - p) / n), max(middle - half, 0.0), min(middle + half, 1.0))


def fa_of_mean_eigenvalues(eigenvalues: Vector, w: Vector) -> Estimate:
    """FA of the weighted mean of eigenvalues (n, 3), each rank averaged; errors by the delta method."""
    # Ascending products: the sum must not depend on the order of the voxels.
    centre = np.sort(w[:, None] * eigenvalues, axis=0).sum(0) / np.sort(w).sum()
    value, n = float(fa_of(centre)), effective_number(np.sort(w))
    total, size = np.maximum(centre, 0).sum(), (np.maximum(centre, 0) ** 2).sum()
    if n <= 1 or value == 0:
        return Estimate(value)
    slope = total / (2 * value * size) * (total * np.maximum(centre, 0) / size - 1) * (centre > 0)
    influence = (eigenvalues - centre) @ slope
    order = np.lexsort((w, influence))
    return around(value, _sd(influence[order], w[order]) / math.sqrt(n), n)
