"""Correlations with intervals: Pearson's and Spearman's, whole or partial.

A partial correlation is that of the residuals after both variables were regressed on the covariates; its
degrees of freedom and the variance of Fisher's z are those of n minus the number of covariates (Fisher 1924).
Spearman's is Pearson's of the ranks, partial on the ranks of the covariates that are numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

BLOCK = 4_000_000
"""Numbers of bootstrap samples that are held at one time."""


@dataclass(frozen=True)
class Correlation:
    """A correlation: estimate, interval, t with its degrees of freedom, and two-sided p."""

    r: float
    low: float
    high: float
    t: float
    df: int
    p: float
    bootstrapped: int = 0
    """Bootstrap samples that the interval rests on."""


def partial(columns: Array) -> Array:
    """Correlation of the first two columns given the others.

    Args:
        columns: (..., n, k), k >= 2. Covariates may be collinear.

    Returns:
        (...); NaN where one of the two has no spread of its own.
    """
    centred = columns - columns.mean(axis=-2, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-2, keepdims=True))
    centred = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    cross = np.swapaxes(centred, -1, -2) @ centred / columns.shape[-2]
    pair = cross[..., :2, :2]
    if columns.shape[-1] > 2:
        given = cross[..., :2, 2:]
        pair = pair - given @ np.linalg.pinv(cross[..., 2:, 2:], hermitian=True) @ np.swapaxes(given, -1, -2)
    spread = np.sqrt(np.clip(pair[..., 0, 0], 0, None) * np.clip(pair[..., 1, 1], 0, None))
    ratio = np.full(spread.shape, np.nan)
    np.divide(pair[..., 0, 1], spread, out=ratio, where=spread > 1e-12)
    return np.clip(ratio, -1, 1)


def test(r: float, n: int, given: int) -> tuple[float, int, float]:
    """t, degrees of freedom and two-sided p of a correlation that is partial on `given` columns."""
    df = n - 2 - given
    t = math.copysign(math.inf, r) if abs(r) == 1 else r * math.sqrt(df / (1 - r * r))
    return t, df, float(2 * stats.t.sf(abs(t), df))


def fisher(r: float, n: int, given: int, alpha: float) -> tuple[float, float]:
    """Fisher's interval: tanh(atanh(r) -+ z / sqrt(n - given - 3)); a point where r is -1 or 1."""
    if abs(r) == 1:
        return r, r
    half = float(stats.norm.ppf(1 - alpha / 2)) / math.sqrt(n - given - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def pearson(x: Array, y: Array, given: Array, alpha: float) -> Correlation:
    """Pearson's correlation of x and y (n,) given the columns `given` (n, k), with Fisher's interval."""
    k = given.shape[1]
    r = float(partial(np.column_stack([x, y, given])))
    low, high = fisher(r, len(x), k, alpha)
    t, df, p = test(r, len(x), k)
    return Correlation(r, low, high, t, df, p)


def ranks(columns: Array) -> Array:
    """Ranks within each column of (..., n, k); ties share the middle one."""
    return np.asarray(stats.rankdata(columns, axis=-2), np.float64)


def spearman(
    x: Array, y: Array, given: Array, alpha: float, samples: int, random: np.random.Generator
) -> Correlation:
    """Spearman's correlation with the percentile interval of people drawn with replacement.

    p is from the t approximation, as scipy's. Samples in which a variable has one value only are left out.
    """
    columns = np.column_stack([x, y, given])
    n, k = len(x), given.shape[1]
    r = float(partial(ranks(columns)))
    drawn = bootstrap(columns, samples, random)
    drawn = drawn[np.isfinite(drawn)]
    low, high = (float(end) for end in np.quantile(drawn, [alpha / 2, 1 - alpha / 2]))
    t, df, p = test(r, n, k)
    return Correlation(r, low, high, t, df, p, len(drawn))


def bootstrap(columns: Array, samples: int, random: np.random.Generator) -> Array:
    """Spearman's (partial) correlation in bootstrap samples of the rows of (n, k)."""
    n, k = columns.shape
    at_once = max(1, BLOCK // (n * k))
    parts = []
    for start in range(0, samples, at_once):
        rows = random.integers(0, n, (min(at_once, samples - start), n))
        parts.append(partial(ranks(columns[rows])))
    return np.concatenate(parts)
