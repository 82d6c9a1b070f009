"""Groups compared with covariates: adjusted differences, adjusted means, and the test of all groups.

Ordinary least squares of statsmodels. The intervals and tests are classical, or have the standard errors of
HC3 (MacKinnon and White 1985), which do not take the groups' variances as equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.analysis import effects
from somite.analysis.design import Design
from somite.analysis.location import Numbers, level_text, share
from somite.analysis.results import df_text

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted model: value ~ groups + covariates. Parameters: a mean per group, then the covariates."""

    model: Any
    classical: Any
    groups: tuple[str, ...]
    typical: Array
    robust: bool

    @property
    def residual_free(self) -> bool:
        """Whether nothing but rounding is left of the values."""
        return bool(self.classical.ssr <= 1e-20 * max(self.classical.uncentered_tss, 1e-300))

    def contrast(self, first: str, second: str) -> Array:
        """Weights of the parameters in first - second."""
        weights = np.zeros(len(self.model.params))
        weights[self.groups.index(first)] += 1
        weights[self.groups.index(second)] -= 1
        return weights


def fit(
    values: Array, labels: NDArray[np.object_], groups: Sequence[str], design: Design, robust: bool
) -> Fit:
    """Least squares with one mean per group and common slopes of the covariates.

    Args:
        values: (n,).
        labels: (n,) group of each.
        groups: the groups, each with somebody in it.
        design: covariates, checked by `design.fault` together with the groups.
        robust: HC3 standard errors.
    """
    from statsmodels.regression.linear_model import OLS  # a second that planning does not need

    means = np.column_stack([labels == group for group in groups]).astype(float)
    classical = OLS(values, np.hstack([means, design.matrix])).fit()
    model = classical.get_robustcov_results("HC3", use_t=True) if robust else classical
    return Fit(model, classical, tuple(groups), design.typical, robust)


def difference(fitted: Fit, first: str, second: str, alpha: float) -> Numbers:
    """Adjusted difference first - second; Hedges' g by the residual SD."""
    weights = fitted.contrast(first, second)
    found = fitted.model.t_test(weights)
    plain = fitted.classical.t_test(weights)
    df = float(fitted.classical.df_resid)
    scale = _number(plain.sd) / float(np.sqrt(fitted.classical.scale))
    effect = effects.g_from_t("Hedges g (residual SD)", _number(plain.tvalue), df, scale, alpha)
    return {
        **_estimate(found, "adjusted mean difference", fitted, alpha),
        **effect.fields,
        "test": f"analysis of covariance{_errors(fitted)}, t test",
        "statistic_name": "t",
        "statistic_value": _number(found.tvalue),
        "df": df_text(df),
        "p": _number(found.pvalue),
    }


def adjusted_mean(fitted: Fit, group: str, alpha: float) -> Numbers:
    """Mean that the model gives a group at the typical values of the covariates; no test."""
    weights = np.zeros(len(fitted.model.params))
    weights[fitted.groups.index(group)] = 1
    weights[len(fitted.groups) :] = fitted.typical
    found = fitted.model.t_test(weights)
    return {**_estimate(found, "adjusted mean", fitted, alpha), "test": "none"}


def all_groups(fitted: Fit, alpha: float) -> Numbers:
    """The test that all adjusted means are equal; partial omega squared."""
    first, *others = fitted.groups
    weights = np.array([fitted.contrast(first, other) for other in others])
    found = fitted.model.f_test(weights)
    df1, df2 = float(len(others)), float(fitted.classical.df_resid)
    plain = float(np.squeeze(fitted.classical.f_test(weights).fvalue))
    effect = effects.omega_squared(plain, df1, df2, alpha)
    return {
        **share(effect, f"noncentral F, {level_text(alpha)}"),
        "estimate_name": "partial omega squared",
        "effect_name": "partial omega squared",
        "test": f"analysis of covariance{_errors(fitted)}, F test",
        "statistic_name": "F",
        "statistic_value": float(np.squeeze(found.fvalue)),
        "df": df_text(df1, df2),
        "p": float(np.squeeze(found.pvalue)),
    }


def _errors(fitted: Fit) -> str:
    return " (HC3)" if fitted.robust else ""


def _number(value: Any) -> float:
    return float(np.squeeze(value))


def _estimate(found: Any, name: str, fitted: Fit, alpha: float) -> Numbers:
    low, high = np.squeeze(found.conf_int(alpha))
    return {
        "estimate_name": name,
        "estimate": _number(found.effect),
        "se": _number(found.sd),
        "ci_low": float(low),
        "ci_high": float(high),
        "ci_method": f"Student t{_errors(fitted)}, {level_text(alpha)}",
    }
