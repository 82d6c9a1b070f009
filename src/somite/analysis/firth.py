"""Logistic regression by Firth's penalised likelihood, with intervals and tests from its profile.

Firth (1993, doi:10.1093/biomet/80.1.27) adds half the logarithm of the determinant of the information to the
log-likelihood: the first-order bias of the coefficients goes, and they stay finite where the outcomes are
separated. Intervals and tests rest on the profile of the penalised likelihood (Heinze and Schemper 2002,
doi:10.1002/sim.1047). Neither that nor the profile of the plain likelihood is in statsmodels, scipy or
scikit-learn; without the penalty the coefficients are those of statsmodels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, linprog
from scipy.special import expit, log_expit
from scipy.stats import chi2

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Separation = Literal["none", "quasi-complete", "complete"]

_MOST_STEPS = 500
_LONGEST_STEP = 5.0
"""Of a coefficient per root mean square of its column, in one iteration."""
_STILL = 1e-10
"""A step or a score below which the maximum is reached."""
_FARTHEST = 1e4
"""Where a profile that has not come down is taken never to do so, per root mean square of the column."""
_DEEP = 1e6
"""Depth below the maximum at which the likelihood is cut: far away it is minus infinity in floating point."""
_SURE = 18.0
"""Linear predictor beyond which a fitted probability is 0 or 1: without the penalty, a sign of separation."""


@dataclass(frozen=True)
class Fit:
    """A fitted model: coefficients (p,), their covariance (p, p) and the (penalised) log-likelihood."""

    coefficients: Floats
    covariance: Floats
    log_likelihood: float
    converged: bool

    def probabilities(self, design: Floats) -> Floats:
        """Fitted probability of the outcome (n,) for the rows of a design (n, p)."""
        return np.asarray(expit(design @ self.coefficients))


@dataclass(frozen=True)
class Profile:
    """One coefficient: interval and test from the profile of the likelihood. An end may be infinite."""

    low: float
    high: float
    statistic: float
    """Twice the difference of the log-likelihoods with the coefficient free and at zero; chi-square, 1 df."""
    p: float


def fit(design: Floats, outcome: Bools, penalised: bool = True) -> Fit:
    """Coefficients of P(outcome) = 1 / (1 + exp(-design @ coefficients)).

    Args:
        design: (n, p) of full column rank, a column of ones for the intercept among the columns.
        outcome: (n,).
        penalised: with Firth's penalty. Without it separated outcomes have no finite coefficients, and
            `converged` is False.

    Raises:
        ValueError: the columns of `design` are linearly dependent.
    """
    return _Likelihood(design, outcome, penalised).maximum()


def profile(
    design: Floats, outcome: Bools, column: int, penalised: bool = True, alpha: float = 0.05
) -> Profile:
    """Interval of level 1 - `alpha` and test of the coefficient of one column, from the profile.

    Raises:
        ValueError: the columns of `design` are linearly dependent.
    """
    likelihood = _Likelihood(design, outcome, penalised)
    best = likelihood.maximum()
    centre = float(best.coefficients[column])
    drop = float(chi2.ppf(1 - alpha, 1)) / 2
    spread = float(np.sqrt(best.covariance[column, column]))
    along = best.covariance[:, column] / spread**2

    def at(value: float) -> float:
        start = best.coefficients + along * (value - centre)
        return likelihood.maximum({column: value}, start).log_likelihood - best.log_likelihood

    def above(value: float) -> float:
        return max(at(value) + drop, -_DEEP)

    farthest = _FARTHEST / float(likelihood.scale[column])
    low, high = (_crossing(above, centre, sign * 2 * spread, farthest) for sign in (-1, 1))
    statistic = max(0.0, -2 * at(0.0))
    return Profile(low, high, statistic, float(chi2.sf(statistic, 1)))


def separation(design: Floats, outcome: Bools) -> Separation:
    """Whether some combination of the columns tells the outcomes apart: no finite maximum of the likelihood.

    complete: every outcome lies strictly on its own side of a plane; quasi-complete: some lie on the plane
    (Albert and Anderson 1984). By linear programming (Konis 2007): among coefficients between -1 and 1 that
    put no outcome on the wrong side, those that push the outcomes farthest.
    """
    pushed = np.where(outcome, 1.0, -1.0)[:, None] * (design / _root_mean_square(design))
    n, p = pushed.shape
    farthest: Any = linprog(-pushed.sum(0), A_ub=-pushed, b_ub=np.zeros(n), bounds=(-1, 1))
    if farthest.fun > -1e-7:
        return "none"
    margin: Any = linprog(
        np.append(np.zeros(p), -1.0),
        A_ub=np.column_stack([-pushed, np.ones(n)]),
        b_ub=np.zeros(n),
        bounds=[(-1, 1)] * p + [(None, None)],
    )
    return "complete" if margin.fun < -1e-7 else "quasi-complete"


def _root_mean_square(design: Floats) -> Floats:
    scale = np.sqrt(np.mean(design**2, axis=0))
    scale[scale == 0] = 1.0
    return np.asarray(scale)


def _crossing(above: Callable[[float], float], centre: float, step: float, farthest: float) -> float:
    """Where a function that is positive at `centre` turns negative, in the direction of `step`."""
    inner, outer = centre, centre + step
    while above(outer) > 0:
        if abs(step) > farthest:
            return float(np.copysign(np.inf, step))
        step *= 2
        inner, outer = outer, centre + step
    return float(brentq(above, inner, outer, xtol=1e-9 * abs(step), rtol=1e-10))


class _Likelihood:
    """The (penalised) likelihood of one data set. Works on columns of unit root mean square."""

    def __init__(self, design: Floats, outcome: Bools, penalised: bool) -> None:
        self.scale = _root_mean_square(design)
        self._x = design / self.scale
        if np.linalg.matrix_rank(self._x) < self._x.shape[1]:
            raise ValueError("the columns of the design are linearly dependent")
        self._y = np.asarray(outcome, np.float64)
        self._sign = 2 * self._y - 1
        self._penalised = penalised

    def maximum(self, held: Mapping[int, float] | None = None, start: Floats | None = None) -> Fit:
        """The maximum, with the coefficients in `held` (column -> value) kept; Newton with halved steps."""
        beta = np.zeros(len(self.scale)) if start is None else start * self.scale
        held = held or {}
        for column, value in held.items():
            beta[column] = value * self.scale[column]
        free = np.array([column for column in range(len(beta)) if column not in held], np.intp)
        height, score, root = self._at(beta)
        converged = free.size == 0
        for _ in range(_MOST_STEPS):
            if converged:
                break
            step = np.zeros_like(beta)
            step[free] = np.linalg.lstsq(root[:, free].T @ root[:, free], score[free], rcond=None)[0]
            if not np.isfinite(height) or not np.isfinite(step).all():
                break
            step *= min(1.0, _LONGEST_STEP / max(float(np.abs(step).max()), _STILL))
            while (there := self._at(beta + step))[0] < height and np.abs(step).max() > _STILL:
                step /= 2
            beta, (height, score, root) = beta + step, there
            converged = float(np.abs(step).max()) < _STILL or float(np.abs(score[free]).max()) < _STILL
        sure = not self._penalised and float(np.abs(self._x @ beta).max()) > _SURE
        covariance = np.linalg.pinv(root.T @ root) / np.outer(self.scale, self.scale)
        return Fit(beta / self.scale, covariance, height, bool(converged and not sure))

    def _at(self, beta: Floats) -> tuple[float, Floats, Floats]:
        """(Penalised) log-likelihood, its gradient (p,), a triangular root (p, p) of the information."""
        eta = self._x @ beta
        probability = expit(eta)
        weight = np.sqrt(probability * expit(-eta))
        q, root = np.linalg.qr(weight[:, None] * self._x)
        height = float(log_expit(self._sign * eta).sum())
        residual = self._y - probability
        if self._penalised:
            with np.errstate(divide="ignore"):
                height += float(np.log(np.abs(np.diag(root)) * self.scale).sum())
            residual = residual + (q**2).sum(1) * (0.5 - probability)
        return height, self._x.T @ residual, root
