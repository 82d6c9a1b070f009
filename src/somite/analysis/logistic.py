"""Logistic regression of an outcome on measures, one by one or together, with covariates.

The default fit is Firth's, with intervals and tests of the profile of the penalised likelihood: at 11
against 21 people their coverage is nominal, where Wald's intervals are too wide and plain profile intervals
too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy.stats import norm

from somite.analysis import crossval, cutoff, design, firth
from somite.analysis.location import level_text
from somite.analysis.outcome import (
    DESCRIPTIVE,
    Bools,
    Floats,
    Name,
    OutcomeConfig,
    chosen,
    groups_of,
    names_of,
    sizes,
    together,
    two_classes,
)
from somite.analysis.results import Result
from somite.analysis.selection import Selected

FEW_EVENTS = 10.0
"""Events per variable below which a row is warned of (Peduzzi et al. 1996)."""
_MOST_STEPS = 200
"""Steps of maximum likelihood."""
MUCH_INFLATION = 5.0
"""Variance inflation from which a row is warned of."""


class Config(OutcomeConfig):
    """Options of `logistic`."""

    kind: Literal["logistic"] = "logistic"
    models: Literal["univariable", "multivariable", "both"] = "univariable"
    """univariable: a model for each measure. multivariable: a model of several. Both with the covariates."""
    combine: tuple[Name, ...] = ("metric", "statistic", "region", "side", "level", "segment")
    """Which measures make one multivariable model: those that differ in nothing else. [metric]: a model of
    all metrics for each place. Default: all measures in one."""
    fit: Literal["firth", "ml"] = "firth"
    """Fit of logistic models. firth: Firth's penalised likelihood, which has less bias and exists for
    separated outcomes too. ml: maximum likelihood, with Wald's intervals and tests, as most packages give."""
    per: Literal["sd", "unit"] = "sd"
    """What the odds ratio of a measure is for: a standard deviation over the people in the model, or a unit
    of the measure. Those of covariates are for a unit."""
    calibration: bool = True
    """Rows on the calibration: slope and intercept after cross-validation, and observed against predicted."""
    calibration_groups: int = Field(5, ge=2, le=20, description="Groups of the calibration curve")


@dataclass(frozen=True)
class Model:
    """One model before it is fitted."""

    measure: Selected
    names: tuple[str, ...]
    """(k,) Of the columns: measures, then covariates."""
    columns: Floats
    """(n, k) without the intercept."""
    measured: int
    """How many of the columns are measures."""
    event: Bools
    common: dict[str, Any]
    """Fields that all its rows share."""

    @property
    def design(self) -> Floats:
        """(n, 1 + k) with the intercept."""
        return np.column_stack([np.ones(len(self.columns)), self.columns])


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """Rows of all models: odds ratios, variance inflation, calibration."""
    sets: list[list[Selected]] = []
    if config.models != "multivariable":
        sets += [[measure] for measure in measures]
    if config.models != "univariable":
        groups = groups_of(measures, config.combine)
        sets += [some for some in groups if len(some) > 1 or config.models == "multivariable"]
    return [row for some in sets for row in _rows(some, config)]


def _rows(measures: Sequence[Selected], config: Config) -> Iterator[Result]:
    """All rows of one model of one or several measures."""
    names = names_of(measures)
    joined, values = together(measures)
    kept, event, reason = two_classes(joined, values, config)
    few, values = chosen(joined, kept), values[kept]
    others = design.covariates(few.frame, config.covariates)
    model = Model(
        few,
        (*names, *others.names),
        np.hstack([values, others.matrix]),
        len(names),
        event,
        {
            "n": len(event),
            "n_groups": sizes(event),
            "formula": f"logit P({config.outcome} = {config.event}) ~ {' + '.join((*names, *others.terms))}",
        },
    )
    separated: firth.Separation = "none"
    if reason := reason or design.fault(model.columns, model.names):
        pass
    elif (separated := firth.separation(model.design, event)) != "none" and config.fit == "ml":
        reason = f"{separated} separation: maximum likelihood has no finite estimate; take fit: firth"
    if reason:
        yield Result.without(few, config, reason, contrast=f"OR({', '.join(names)})", **model.common)
        return
    yield from _odds_ratios(model, separated, config)
    if config.calibration:
        yield from _calibration(model, config)


def _odds_ratios(model: Model, separated: firth.Separation, config: Config) -> Iterator[Result]:
    """A row for each column, and for its variance inflation where there are several."""
    from statsmodels.stats.outliers_influence import variance_inflation_factor  # slow to import

    k = len(model.names)
    inflation = [float(variance_inflation_factor(model.design, column)) for column in range(1, k + 1)]
    words = _words(model, separated, inflation)
    coefficients = _firth(model, config.alpha) if config.fit == "firth" else _wald(model, config.alpha)
    if isinstance(coefficients, str):
        contrast = f"OR({', '.join(model.names)})"
        yield Result.without(model.measure, config, coefficients, contrast=contrast, **model.common)
        return
    for column, (name, fields) in enumerate(zip(model.names, coefficients, strict=True)):
        measured = column < model.measured
        step = float(model.columns[:, column].std(ddof=1)) if measured and config.per == "sd" else 1.0
        per = f" per {'SD' if config.per == 'sd' else 'unit'}" if measured else ""
        yield Result.of(
            model.measure,
            config,
            contrast=f"OR({name}{per})",
            warnings=words,
            **_scaled(fields, step),
            **model.common,
        )
    for name, factor in zip(model.names, inflation, strict=True):
        if k > 1:
            yield Result.of(
                model.measure,
                config,
                contrast=f"VIF({name})",
                estimate_name="variance inflation factor",
                estimate=factor,
                ci_method=DESCRIPTIVE,
                **model.common,
            )


def _words(model: Model, separated: firth.Separation, inflation: Sequence[float]) -> list[str]:
    words = []
    if separated != "none":
        words.append(f"{separated} separation: the outcome is told without error, for some or all people")
    events = min(int(model.event.sum()), int((~model.event).sum()))
    if events < FEW_EVENTS * len(model.names):
        words.append(f"{events / len(model.names):.3g} events per variable, fewer than {FEW_EVENTS:g}")
    words += [
        f"the variance of {name} is inflated {factor:.3g} times by the other variables"
        for name, factor in zip(model.names, inflation, strict=True)
        if factor >= MUCH_INFLATION
    ]
    return words


Coefficient = dict[str, Any]
"""Fields of a Result on the scale of the logit, for a unit of the variable."""


def _firth(model: Model, alpha: float) -> list[Coefficient] | str:
    """A row for each column, or why there is none."""
    fitted = firth.fit(model.design, model.event)
    if not fitted.converged:
        return "the fit of the penalised likelihood did not converge"
    rows: list[Coefficient] = []
    for column in range(1, len(model.names) + 1):
        found = firth.profile(model.design, model.event, column, alpha=alpha)
        rows.append(
            {
                "estimate": float(fitted.coefficients[column]),
                "se": float(np.sqrt(fitted.covariance[column, column])),
                "ci_low": found.low,
                "ci_high": found.high,
                "ci_method": f"profile penalised likelihood (Firth), {level_text(alpha)}",
                "test": "penalised likelihood ratio test (Firth)",
                "statistic_name": "chi2",
                "statistic_value": found.statistic,
                "df": "1",
                "p": found.p,
            }
        )
    return rows


def _wald(model: Model, alpha: float) -> list[Coefficient] | str:
    """A row for each column, or why there is none."""
    from statsmodels.discrete.discrete_model import Logit  # two seconds that planning does not need

    logit = Logit(model.event.astype(float), model.design)
    fitted = logit.fit(method="newton", maxiter=_MOST_STEPS, disp=0, warn_convergence=False)
    if not fitted.mle_retvals["converged"]:
        return f"the fit of maximum likelihood did not converge in {_MOST_STEPS} steps"
    ends = fitted.conf_int(alpha)
    return [
        {
            "estimate": float(fitted.params[column]),
            "se": float(fitted.bse[column]),
            "ci_low": float(ends[column, 0]),
            "ci_high": float(ends[column, 1]),
            "ci_method": f"Wald, maximum likelihood, {level_text(alpha)}",
            "test": "Wald test, maximum likelihood",
            "statistic_name": "z",
            "statistic_value": float(fitted.tvalues[column]),
            "df": "",
            "p": float(fitted.pvalues[column]),
        }
        for column in range(1, len(model.names) + 1)
    ]


def _scaled(row: Coefficient, step: float) -> dict[str, Any]:
    """The odds ratio for a step of the variable; the effect is its logarithm for a unit."""
    ratio = float(np.exp(row["estimate"] * step))
    return row | {
        "estimate_name": "odds ratio",
        "estimate": ratio,
        "se": ratio * row["se"] * step,
        "ci_low": float(np.exp(row["ci_low"] * step)),
        "ci_high": float(np.exp(row["ci_high"] * step)),
        "effect_name": "log odds ratio per unit",
        "effect": row["estimate"],
        "effect_ci_low": row["ci_low"],
        "effect_ci_high": row["ci_high"],
    }


def _calibration(model: Model, config: Config) -> Iterator[Result]:
    """Slope and intercept after cross-validation, and observed against predicted in groups."""
    smaller = min(int(model.event.sum()), int((~model.event).sum()))
    if smaller < config.folds:
        reason = f"too few people of one outcome for {config.folds} folds: {smaller}"
        yield Result.without(model.measure, config, reason, contrast="calibration", **model.common)
        return
    found = crossval.validate(
        model.design,
        model.event,
        model.measure.random(config.seed),
        config.folds,
        config.repeats,
    )
    how = f"Wald, cross-validated {config.repeats} times in {config.folds} folds, {level_text(config.alpha)}"
    z = float(norm.ppf(1 - config.alpha / 2))
    for name, value, variance in (
        ("calibration slope", found.slope, found.slope_variance),
        ("calibration intercept", found.intercept, found.intercept_variance),
    ):
        half = z * float(np.sqrt(variance))
        yield Result.of(
            model.measure,
            config,
            contrast=name,
            estimate_name=name,
            estimate=value,
            se=half / z,
            ci_low=value - half,
            ci_high=value + half,
            ci_method=how,
            seed=config.seed,
            **model.common,
        )
    yield from _curve(model, found.probabilities, config)


def _curve(model: Model, probabilities: Floats, config: Config) -> Iterator[Result]:
    """Share of events in groups of people by their cross-validated probability, the lowest first."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), config.calibration_groups)
    for number, people in enumerate((part for part in parts if part.size), start=1):
        share = cutoff.rate(int(model.event[people].sum()), len(people), config.alpha)
        yield Result.of(
            model.measure,
            config,
            contrast=f"calibration group {number} of {len(parts)}",
            estimate_name="share of events",
            estimate=share.value,
            ci_low=share.low,
            ci_high=share.high,
            ci_method=f"Wilson, {level_text(config.alpha)}",
            effect_name="mean predicted probability, cross-validated",
            effect=float(probabilities[people].mean()),
            seed=config.seed,
            **(model.common | {"n": len(people), "n_groups": sizes(model.event[people])}),
        )
