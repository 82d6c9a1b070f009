"""Correlate measures with clinical columns, the left side with the right, or measures with each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from somite.analysis import correlations, design
from somite.analysis.location import is_constant, level_text
from somite.analysis.model import AnalysisConfig, Factor, Requirement, Texts
from somite.analysis.results import Result
from somite.analysis.selection import IDENTITY, MANY, Selected

Array = NDArray[np.float64]
SIDES = ("L", "R")


class Config(AnalysisConfig):
    """Options of `correlate`."""

    kind: Literal["correlate"] = "correlate"
    columns: Texts | None = None
    """Columns that every measure is correlated with: clinical scores, quality numbers. Either this or
    `between`."""
    between: Literal["sides", "measures"] | None = None
    """sides: the left of every bilateral place with its right. measures: every two of the selected measures.
    Either this or `columns`."""
    matrix: bool = True
    """With sides: also the left of every place with the right of every other of the same metric and
    statistic: the whole interhemispheric matrix."""
    method: Literal["pearson", "spearman"] = "pearson"
    """Pearson's r with Fisher's interval, or Spearman's with the bootstrap's. With covariates: partial."""
    bootstrap: int = Field(2000, ge=200, le=100_000, description="Bootstrap samples of Spearman's interval")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.columns is None) == (self.between is None):
            raise ValueError("give either columns (clinical scores) or between (sides, measures)")
        if both := sorted(set(self.columns or ()) & set(self.covariates)):
            raise ValueError(f"{', '.join(both)} cannot be a covariate of its own correlation")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """The covariates, and the columns to correlate with."""
        own = tuple(Requirement(name, "columns", "numbers") for name in self.columns or ())
        return (*own, *super().requirements())

    def within(self) -> tuple[Factor, ...]:
        """Both sides are in one measure, where they are correlated."""
        return ("side",) if self.between == "sides" else ()


@dataclass(frozen=True)
class Pair:
    """Two variables of the same people, in columns x and y of a frame with the covariates."""

    measure: Selected
    """Identity of the row."""
    frame: pd.DataFrame
    names: tuple[str, str]
    lacking: str = ""
    """Why there are no two variables."""


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """A row for each pair of variables."""
    return [_row(pair, config) for pair in _pairs(measures, config)]


def _pairs(measures: Sequence[Selected], config: Config) -> Iterator[Pair]:
    if config.columns is not None:
        for measure in measures:
            for name in config.columns:
                frame = measure.frame.assign(x=measure.frame["value"], y=measure.frame[name])
                yield Pair(measure, frame, (measure.metric, name))
    elif config.between == "measures":
        for a, b in combinations(measures, 2):
            yield _joined(a, a.frame, b, b.frame, (a.name, b.name))
    else:
        yield from _sides(measures, config.matrix)


def _sides(measures: Sequence[Selected], matrix: bool) -> Iterator[Pair]:
    halves = [{side: m.frame[m.frame["side"] == side] for side in SIDES} for m in measures]
    for i, (a, left) in enumerate(zip(measures, halves, strict=True)):
        if len(a.frame) and not all(len(half) for half in left.values()):
            sides = ", ".join(sorted(set(a.frame["side"]) - {""})) or "none"
            yield Pair(a, a.frame, SIDES, f"not on both sides: the sides are {sides}")
            continue
        for j, (b, right) in enumerate(zip(measures, halves, strict=True)):
            if i == j:
                yield _joined(a, left["L"], a, right["R"], SIDES)
            elif matrix and (a.metric, a.statistic) == (b.metric, b.statistic) and len(right["R"]):
                names = _place(a, "L"), _place(b, "R")
                yield _joined(a, left["L"], b, right["R"], names)


def _place(measure: Selected, side: str) -> str:
    return " ".join(part for part in (measure.region, side, measure.level, measure.segment) if part)


def _joined(
    a: Selected, first: pd.DataFrame, b: Selected, second: pd.DataFrame, names: tuple[str, str]
) -> Pair:
    """The values of two measures of the same people; what they do not share in their identity is `*`."""
    other = second[["participant_id", "value"]].rename(columns={"value": "y"})
    frame = first.rename(columns={"value": "x"}).merge(other, on="participant_id")
    changed: dict[str, Any] = {name: MANY for name in IDENTITY if getattr(a, name) != getattr(b, name)}
    warnings = tuple(dict.fromkeys((*a.warnings, *b.warnings)))
    return Pair(replace(a, **changed, frame=frame, warnings=warnings), frame, names)


def _row(pair: Pair, config: Config) -> Result:
    a, b = pair.names
    label = "r" if config.method == "pearson" else "rho"
    given = design.covariates(pair.frame, config.covariates)
    formula = f"{label}({a}, {b}" + (f" | {' + '.join(given.terms)})" if given.terms else ")")
    common: dict[str, Any] = {"contrast": f"{label}({a}, {b})", "formula": formula, "n": len(pair.frame)}
    if reason := pair.lacking or _fault(pair, given):
        return Result.without(pair.measure, config, reason, **common)
    x, y = (pair.frame[name].to_numpy(float) for name in ("x", "y"))
    if config.method == "pearson":
        found = correlations.pearson(x, y, given.matrix, config.alpha)
        interval = "Fisher z"
    else:
        random = pair.measure.random(config.seed)
        found = correlations.spearman(x, y, given.matrix, config.alpha, config.bootstrap, random)
        interval = f"percentiles of {found.bootstrapped} bootstrap samples"
        common["seed"] = config.seed
    if not np.isfinite(found.r):
        reason = "the covariates explain one of the two exactly"
        return Result.without(pair.measure, config, reason, **common)
    return Result.of(pair.measure, config, **common, **_numbers(found, config, interval))


def _fault(pair: Pair, given: design.Design) -> str:
    n, k = len(pair.frame), given.matrix.shape[1]
    if not n:
        return "no values: all are missing or left out"
    if n < k + 4:
        given_k = f" given {k} columns of covariates" if k else ""
        return f"too few people: {n}, and a correlation{given_k} needs {k + 4}"
    for column, name in zip(("x", "y"), pair.names, strict=True):
        if design.is_categorical(pair.frame[column]):
            return f"{name} does not hold numbers only"
        if is_constant(pair.frame[column].to_numpy(float)):
            return f"all values of {name} are the same"
    return design.fault(given.matrix, given.names)


def _numbers(found: correlations.Correlation, config: Config, interval: str) -> dict[str, Any]:
    name = {"pearson": "Pearson r", "spearman": "Spearman rho"}[config.method]
    if config.covariates:
        name = f"partial {name}"
    warnings = ["the two are the same but for scale: no interval"] if abs(found.r) == 1 else []
    return {
        "estimate_name": name,
        "estimate": found.r,
        "ci_low": found.low,
        "ci_high": found.high,
        "ci_method": f"{interval}, {level_text(config.alpha)}",
        "effect_name": name,
        "effect": found.r,
        "effect_ci_low": found.low,
        "effect_ci_high": found.high,
        "test": f"t test of {name}",
        "statistic_name": "t",
        "statistic_value": found.t,
        "df": str(found.df),
        "p": found.p,
        "warnings": warnings,
    }
