"""The bootstrap of ROC curves: whole participants are drawn, so that their rows may depend on each other.

A resample is written as how often each row occurs in it. The numbers of all resamples are then counts along
the sorted scores: exact, and the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int32]


def draws(cluster: NDArray[np.intp], positive: Bools, random: np.random.Generator, resamples: int) -> Counts:
    """How often each row (n,) occurs in each resample (b, n), when clusters are drawn with replacement.

    Clusters with positives only, with negatives only and with both are drawn each by themselves, so that
    every resample has both outcomes and, where no cluster has both, as many of each as there were.

    Args:
        cluster: (n,) codes 0, 1, ... of the participants.
        positive: (n,) outcomes.
        random: source of random numbers.
        resamples: b.
    """
    size = int(cluster.max()) + 1
    kind = sum(
        weight * (np.bincount(cluster, side, size) > 0) for weight, side in ((1, positive), (2, ~positive))
    )
    drawn = np.zeros((resamples, size), np.int32)
    for stratum in np.unique(kind):
        members = np.flatnonzero(kind == stratum)
        picks = random.integers(0, len(members), (resamples, len(members)))
        flat = picks + len(members) * np.arange(resamples)[:, None]
        counts = np.bincount(flat.ravel(), minlength=resamples * len(members))
        drawn[:, members] = counts.reshape(resamples, len(members))
    return drawn[:, cluster]


def _along(score: Floats, side: Bools, drawn: Counts) -> tuple[Floats, NDArray[np.int64]]:
    """Distinct scores (k,), and how many rows of `side` have them in each resample (b, k)."""
    values, place = np.unique(score, return_inverse=True)
    counts = np.zeros((len(drawn), len(values)), np.int64)
    for row in np.flatnonzero(side):
        counts[:, place[row]] += drawn[:, row]
    return values, counts


def areas(score: Floats, positive: Bools, drawn: Counts) -> Floats:
    """Area under the ROC curve of each resample (b,); the positives have the higher scores."""
    _, up = _along(score, positive, drawn)
    _, down = _along(score, ~positive, drawn)
    below = np.cumsum(down, axis=1) - down
    wins = (up * (2 * below + down)).sum(1)
    return np.asarray(wins / (2 * up.sum(1) * down.sum(1)))


def youdens(score: Floats, positive: Bools, drawn: Counts) -> tuple[Floats, Floats]:
    """Youden's cut-off and index of each resample (b,); as `cutoff.youden` on the resampled rows."""
    values, up = _along(score, positive, drawn)
    _, down = _along(score, ~positive, drawn)
    index = down.cumsum(1) / down.sum(1, keepdims=True) - up.cumsum(1) / up.sum(1, keepdims=True)
    best = np.round(index, 12).argmax(1)
    each = np.arange(len(drawn))
    present = (up + down) > 0
    later = present & (np.arange(len(values)) > best[:, None])
    following = np.where(later.any(1), later.argmax(1), best)
    nothing = index[each, best] <= 1e-12
    cut = np.where(nothing, -np.inf, (values[best] + values[following]) / 2)
    return cut, np.where(nothing, 0.0, index[each, best])


def rates(score: Floats, positive: Bools, cut: float, drawn: Counts) -> dict[str, Floats]:
    """Sensitivity, specificity, PPV and NPV of a cut-off in each resample (b,); NaN where nobody counts."""
    test = score > cut
    count = {
        (outcome, result): drawn[:, (positive == outcome) & (test == result)].sum(1)
        for outcome in (True, False)
        for result in (True, False)
    }
    true_positive, true_negative = count[True, True], count[False, False]
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": true_positive / (true_positive + count[True, False]),
            "specificity": true_negative / (true_negative + count[False, True]),
            "PPV": true_positive / (true_positive + count[False, True]),
            "NPV": true_negative / (true_negative + count[True, False]),
        }


def percentiles(values: Floats, alpha: float) -> tuple[float, float]:
    """Interval of level 1 - `alpha` of the values that are not NaN; NaN when they are all the same."""
    known = values[~np.isnan(values)]
    if known.size < 2 or known.min() == known.max():
        return float("nan"), float("nan")
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2], method="closest_observation")
    return float(low), float(high)
