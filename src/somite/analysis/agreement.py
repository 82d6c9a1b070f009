"""How well repeated measurements agree: raters, sessions, scanners or runs of the same people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from somite.analysis import reliability
from somite.analysis.compare import pairs
from somite.analysis.location import is_constant, level_text, paired_t
from somite.analysis.model import AnalysisConfig, Factor, Text
from somite.analysis.reliability import Estimate, Icc
from somite.analysis.results import Result, counted, df_text
from somite.analysis.selection import Selected

Array = NDArray[np.float64]
Form = Literal["ICC(1,1)", "ICC(2,1)", "ICC(3,1)", "ICC(1,k)", "ICC(2,k)", "ICC(3,k)"]
FORMS: tuple[Form, ...] = ("ICC(1,1)", "ICC(2,1)", "ICC(3,1)", "ICC(1,k)", "ICC(2,k)", "ICC(3,k)")


class Config(AnalysisConfig):
    """Options of `agreement`."""

    kind: Literal["agreement"] = "agreement"
    repeated: Factor
    """What is repeated: rater, session_id, site (scanner), run."""
    of: tuple[Text, ...] = ()
    """Which of its values are compared. Default: all that occur. Only people with all of them count."""
    icc: tuple[Form, ...] = FORMS
    """Forms of the intraclass correlation, as Shrout and Fleiss name them."""
    limits_sd: float = Field(
        1.96, gt=0, le=4, description="Limits of agreement: bias -+ this many SD of the differences"
    )
    limits_interval: Literal["exact", "bland_altman_1986"] = "exact"
    """Intervals of the limits: exact by noncentral t, or as Bland and Altman had them, too narrow outwards
    for few people."""

    def within(self) -> tuple[Factor, ...]:
        """What is repeated."""
        return (self.repeated,)


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """For each measure: rows of the ICCs, of the errors of measurement, and of each pair's limits."""
    return [row for measure in measures for row in _rows(measure, config)]


def _rows(measure: Selected, config: Config) -> Iterator[Result]:
    table = pairs(measure.frame, config.repeated)
    table = table.reindex(columns=list(config.of) or sorted(table.columns)).dropna(how="all")
    whole = table.dropna()
    names = [str(name) for name in whole.columns]
    lacking = len(table) - len(whole)
    common: dict[str, Any] = {
        "contrast": f"{config.repeated}: {', '.join(names)}",
        "n": len(whole),
        "n_groups": f"{len(whole)} people, {len(names)} repeats",
        "warnings": [f"left out, as they lack a repeat: {counted(lacking, 'participant')}"]
        if lacking
        else [],
    }
    values = whole.to_numpy(float)
    if reason := _fault(whole, values, config.repeated):
        yield Result.without(measure, config, reason, **common)
        return
    for numbers in (*_correlations(values, config), *_errors(values, config)):
        yield Result.of(measure, config, **(common | numbers))
    for a, b in combinations(range(len(names)), 2):
        contrast = {"contrast": f"{names[a]} - {names[b]}", "formula": f"{names[a]} - {names[b]} ~ 1"}
        for numbers in _limits(values[:, a], values[:, b], config):
            warnings = [*common["warnings"], *numbers.pop("warnings", ())]
            yield Result.of(measure, config, **(common | contrast | numbers | {"warnings": warnings}))


def _fault(table: pd.DataFrame, values: Array, repeated: str) -> str:
    """Why agreement cannot be judged; `""` where it can."""
    n, k = values.shape
    if k < 2:
        only = f": {repeated} is {table.columns[0]} only" if k else ", no values"
        return f"nothing is repeated{only}"
    if n < 3:
        return f"too few people with all {k} repeats: {n}, and 3 are needed"
    return "all values are the same" if is_constant(values.ravel()) else ""


def _correlations(values: Array, config: Config) -> Iterator[dict[str, Any]]:
    squares = reliability.squares(values)
    reason = ""
    if squares.people <= 1e-20 * np.abs(values).max() ** 2:
        reason = "the means of all people are the same"
    elif squares.error <= 1e-20 * np.abs(values).max() ** 2:
        reason = "the repeats agree exactly, but for an offset: there is no error to compare people with"
    if reason:
        yield from ({"estimate_name": form, "reason": reason} for form in config.icc)
        return
    found = {icc.form: icc for icc in reliability.iccs(values, config.alpha)}
    yield from (_icc(found[form], config) for form in config.icc)


def _icc(icc: Icc, config: Config) -> dict[str, Any]:
    return {
        "estimate_name": f"{icc.form}, {icc.meaning}",
        "estimate": icc.value,
        "ci_low": icc.low,
        "ci_high": icc.high,
        "ci_method": f"Shrout and Fleiss, {level_text(config.alpha)}",
        "effect_name": icc.form,
        "effect": icc.value,
        "effect_ci_low": icc.low,
        "effect_ci_high": icc.high,
        "test": "F test of ICC = 0, one-sided",
        "statistic_name": "F",
        "statistic_value": icc.f,
        "df": df_text(icc.df1, icc.df2),
        "p": icc.p,
        "formula": "value ~ person" + ("" if icc.form.startswith("ICC(1") else f" + {config.repeated}"),
    }


def _errors(values: Array, config: Config) -> Iterator[dict[str, Any]]:
    alpha = config.alpha
    sem = reliability.standard_error_of_measurement(values, alpha)
    if sem.value <= 1e-12 * np.abs(values).max():
        yield {"estimate_name": "standard error of measurement", "reason": "the repeats are all the same"}
        return
    yield _estimate("standard error of measurement", sem, "chi-square", alpha)
    mdd = reliability.minimal_detectable_difference(values, alpha)
    yield _estimate("minimal detectable difference", mdd, "chi-square", alpha)
    if (values > 0).all():
        cv = reliability.within_subject_cv(values, alpha)
        yield _estimate("within-subject coefficient of variation", cv, "chi-square", alpha)
    else:
        reason = "a coefficient of variation needs values above 0"
        yield {"estimate_name": "within-subject coefficient of variation", "reason": reason}


def _estimate(name: str, estimate: Estimate, method: str, alpha: float) -> dict[str, Any]:
    return {
        "estimate_name": name,
        "estimate": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "ci_method": f"{method}, {level_text(alpha)}",
        "df": df_text(estimate.df),
        "test": "none",
    }


def _limits(first: Array, second: Array, config: Config) -> Iterator[dict[str, Any]]:
    differences = first - second
    if np.ptp(differences) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()):
        reason = f"the difference is {differences[0]:.6g} in every person: its spread is not known"
        yield {"estimate_name": "Bland-Altman bias", "reason": reason}
        return
    alpha, exact = config.alpha, config.limits_interval == "exact"
    found = reliability.bland_altman(first, second, alpha, config.limits_sd, exact)
    bias = paired_t(first, second, alpha) | {"estimate_name": "Bland-Altman bias"}
    if found.trend_p < alpha:
        bias["warnings"] = [
            f"the difference changes with the mean: r = {found.trend_r:.2f}, p = {found.trend_p:.2g}"
        ]
    yield bias
    method = "noncentral t (Carkeet 2015)" if exact else "Bland and Altman 1986"
    for name, limit in (("lower", found.lower), ("upper", found.upper)):
        sign = "-" if name == "lower" else "+"
        words = f"{name} limit of agreement (bias {sign} {config.limits_sd:g} SD)"
        yield _estimate(words, limit, method, alpha)
