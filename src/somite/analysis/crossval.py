"""Cross-validation of a logistic model: predictions for people whom the model has not seen.

The fit is always Firth's, which exists in every fold, also where the outcomes in it are separated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from somite.analysis import delong, firth

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def folds(outcome: Bools, count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Fold 0 ... count - 1 of each of n people at random, the outcomes (n,) spread evenly over the folds."""
    fold = np.empty(len(outcome), np.intp)
    start = 0
    for side in (outcome, ~outcome):
        members = random.permutation(np.flatnonzero(side))
        fold[members] = (start + np.arange(len(members))) % count
        start += len(members)
    return fold


def predictions(design: Floats, outcome: Bools, fold: NDArray[np.intp]) -> Floats:
    """Linear predictor (n,) of each person from Firth's fit to all but the people of the same fold."""
    eta = np.empty(len(outcome))
    for one in np.unique(fold):
        held = fold == one
        eta[held] = design[held] @ firth.fit(design[~held], outcome[~held]).coefficients
    return eta


@dataclass(frozen=True)
class Validated:
    """A model's performance on people whom it has not seen; means over the repeats."""

    auc: float
    auc_variance: float
    slope: float
    slope_variance: float
    intercept: float
    intercept_variance: float
    probabilities: Floats
    """(n,) Mean over the repeats."""


def validate(
    design: Floats,
    outcome: Bools,
    random: np.random.Generator,
    count: int = 5,
    repeats: int = 20,
) -> Validated:
    """Repeated stratified cross-validation.

    The area is the mean over the folds of the area within the fold: scores of different folds come from
    different models and are not ranked against each other. Its variance is that of the influence curve
    (LeDell et al. 2015, doi:10.1214/15-EJS1035). Slope and intercept of the calibration are those of the
    outcome on the linear predictor, the intercept with the slope held at 1.

    Args:
        design: (n, p) with a column of ones.
        outcome: (n,), at least `count` of each.
        random, count, repeats: of the folds.
    """
    results, probabilities = [], []
    for _ in range(repeats):
        fold = folds(outcome, count, random)
        eta = predictions(design, outcome, fold)
        auc, variance = _area(eta, outcome, fold)
        line = firth.fit(np.column_stack([np.ones(len(eta)), eta]), outcome)
        shift, shift_variance = _intercept(eta, outcome)
        slope, slope_variance = line.coefficients[1], line.covariance[1, 1]
        results.append((auc, variance, slope, slope_variance, shift, shift_variance))
        probabilities.append(expit(eta))
    auc, variance, slope, slope_variance, shift, shift_variance = map(float, np.mean(results, axis=0))
    mean = np.mean(probabilities, axis=0)
    return Validated(auc, variance, slope, slope_variance, shift, shift_variance, mean)


def _area(eta: Floats, outcome: Bools, fold: NDArray[np.intp]) -> tuple[float, float]:
    """Mean area within the folds, and the variance of it from all placements together."""
    areas, up, down = [], [], []
    for one in np.unique(fold):
        held = fold == one
        placed = delong.placements(eta[held], outcome[held])
        areas.append(placed.auc)
        up.append(placed.positive - placed.auc)
        down.append(placed.negative - placed.auc)
    above, below = np.concatenate(up), np.concatenate(down)
    variance = (above**2).mean() / len(above) + (below**2).mean() / len(below)
    return float(np.mean(areas)), float(variance)


def _intercept(eta: Floats, outcome: Bools) -> tuple[float, float]:
    """Shift of the linear predictor that makes as many events expected as there are, and its variance."""
    shift = 0.0
    for _ in range(50):
        probability = expit(eta + shift)
        information = float((probability * (1 - probability)).sum())
        step = float(np.clip((outcome.sum() - probability.sum()) / max(information, 1e-12), -2, 2))
        shift += step
        if abs(step) < 1e-10:
            break
    return shift, 1 / max(information, 1e-12)
