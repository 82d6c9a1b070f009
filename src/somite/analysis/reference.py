"""Reference intervals of a group, and how far the other people lie from them.

The reference is a straight line in the covariates, where there are any, and a spread about it. Intervals of
percentiles and of z scores are exact for normal values: noncentral t for the first (Owen 1968, Technometrics
10:445) and the second (Crawford and Garthwaite 2002, Neuropsychologia 40:1196); the test of one person is
Crawford and Howell's (1998, Clin Neuropsychol 12:482). Nobody has a part in the reference that judges him.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import special, stats

from somite.analysis import balance, design
from somite.analysis.effects import noncentrality_of_t
from somite.analysis.location import is_constant, level_text
from somite.analysis.model import AnalysisConfig, Cohort, Requirement, Text, Texts, controls_of
from somite.analysis.results import Result, df_text
from somite.analysis.selection import Selected

Array = NDArray[np.float64]
Percentile = Annotated[float, Field(gt=0, lt=100)]
CAVEAT = "holds for the same scanner, protocol and way of drawing; no cut-off"
_FEW = 20


class Config(AnalysisConfig):
    """Options of `reference`."""

    kind: Literal["reference"] = "reference"
    group: Text | None = None
    """Clinical column that tells the reference people. Default: that of the controls of the cohort."""
    reference: Texts | None = None
    """Values of `group` of the reference people. Default: those of the controls of the cohort."""
    percentiles: Annotated[tuple[Percentile, ...], Field(min_length=1)] = (2.5, 50.0, 97.5)
    """Percentiles of the reference, above 0 and below 100."""
    method: Literal["normal", "nonparametric"] = "normal"
    """Percentiles: normal: mean and SD, adjusted for the covariates; the row warns where values are not
    normal. nonparametric: ranks, which takes no covariates and needs 39 people for the 2.5th percentile."""
    scored: Literal["others", "all", "none"] = "others"
    """Who gets a row with a z score. all: the reference people too, each against the others of them."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.group is None) != (self.reference is None):
            raise ValueError("give both group and reference, or neither for the controls of the cohort")
        if self.method == "nonparametric" and self.covariates:
            raise ValueError("covariates: method nonparametric takes none")
        return self

    def in_cohort(self, cohort: Cohort) -> Config:
        """With the controls of the cohort, where no group is given."""
        if self.group is not None:
            return self
        group, values = controls_of(cohort, self)
        return self.model_copy(update={"group": group, "reference": values})

    def requirements(self) -> tuple[Requirement, ...]:
        """The group, and the covariates."""
        if self.group is None:
            return super().requirements()
        own = (Requirement(self.group, "group", "groups", self.reference or ()),)
        return (*own, *super().requirements())


@dataclass(frozen=True)
class Line:
    """What is usual: a line in the covariates (k columns) and the spread about it."""

    beta: Array
    """(k + 1,), intercept first."""
    inverse: Array
    """(k + 1, k + 1) inverse of the cross products."""
    sd: float
    df: int
    residuals: Array

    @classmethod
    def fit(cls, values: Array, columns: Array) -> Line:
        """Least squares of values (n,) on an intercept and columns (n, k)."""
        matrix = np.column_stack([np.ones(len(values)), columns])
        q, r = np.linalg.qr(matrix)
        beta = np.linalg.solve(r, q.T @ values)
        residuals = values - matrix @ beta
        root = np.linalg.inv(r)
        df = len(values) - matrix.shape[1]
        return cls(beta, root @ root.T, math.sqrt(float(residuals @ residuals) / df), df, residuals)

    def at(self, columns: Array) -> tuple[float, float]:
        """Usual value of a person with these covariates (k,), and its leverage: variance of it over sd^2."""
        row = np.concatenate([[1.0], columns])
        return float(row @ self.beta), float(row @ self.inverse @ row)


@dataclass(frozen=True)
class Sample:
    """The people of one measure: who is of the reference, and the design of all of them."""

    frame: pd.DataFrame
    reference: NDArray[np.bool_]
    columns: Array
    names: tuple[str, ...]
    formula: str
    typical: Array
    strange: NDArray[np.bool_]
    """Who has a category that no one of the reference has."""
    words: tuple[str, ...] = ()

    @property
    def values(self) -> Array:
        """Of everybody."""
        return self.frame["value"].to_numpy(np.float64)


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """Rows of the reference of each measure, then of the people who are held against it."""
    return [row for measure in measures for row in _rows(measure, config)]


def _rows(measure: Selected, config: Config) -> Iterator[Result]:
    name = "/".join(config.reference or ())
    sample = _sample(measure, config)
    if reason := _fault(sample, name):
        yield Result.without(measure, config, reason, contrast=name, n=int(sample.reference.sum()))
        return
    line = Line.fit(sample.values[sample.reference], sample.columns[sample.reference])
    words = [*sample.words, *_not_normal(line)]
    common = {"n": int(sample.reference.sum()), "formula": sample.formula, "contrast": name}
    for numbers in _usual(sample, line, config):
        yield Result.of(measure, config, **(common | numbers))
    for p in config.percentiles:
        ranked = config.method == "nonparametric"
        numbers = _ranked(sample, p, config) if ranked else _normal(sample, line, p, config)
        yield Result.of(measure, config, **(common | {"warnings": words} | numbers))
    if config.scored != "none":
        yield from _people(measure, sample, line, words, config)


def _sample(measure: Selected, config: Config) -> Sample:
    frame = measure.frame.reset_index(drop=True)
    groups = design.group_text(frame[config.group or ""])
    reference = np.isin(groups, config.reference or ())
    strange = np.zeros(len(frame), bool)
    for name in config.covariates:
        if design.is_categorical(frame[name]):
            texts = design.group_text(frame[name])
            strange |= ~np.isin(texts, texts[reference])
    whole = design.covariates(frame[~strange], config.covariates)
    columns = np.full((len(frame), len(whole.names)), np.nan)
    columns[~strange] = whole.matrix
    own = design.covariates(frame[reference], config.covariates)
    told = balance.warnings(
        np.arange(len(frame)),
        np.where(reference, "/".join(config.reference or ()), "others"),
        {"snr": frame["snr"].to_numpy(float)},
    )
    return Sample(
        frame,
        reference,
        columns,
        whole.names,
        f"value ~ {' + '.join(own.terms or ('1',))}",
        own.typical,
        strange,
        tuple(told),
    )


def _fault(sample: Sample, name: str) -> str:
    """Why there is no reference; `""` where there is one."""
    values, columns = sample.values[sample.reference], sample.columns[sample.reference]
    if not len(sample.frame):
        return "no values: all are missing or left out"
    if not len(values):
        return f"nobody of {name} has a value"
    if len(values) < 3 + columns.shape[1]:
        return f"{len(values)} people of {name} are too few: {3 + columns.shape[1]} are needed"
    if is_constant(values):
        return f"all values of {name} are the same"
    return design.fault(columns, sample.names) if columns.shape[1] else ""


def _not_normal(line: Line) -> list[str]:
    if not 3 <= len(line.residuals) <= 5000 or is_constant(line.residuals):
        return []
    p = float(stats.shapiro(line.residuals).pvalue)
    return [f"the reference is not normal: Shapiro-Wilk p = {p:.2g}"] if p < 0.01 else []


def _usual(sample: Sample, line: Line, config: Config) -> Iterator[dict[str, Any]]:
    """Mean at typical covariates, spread, and slopes, each with its interval."""
    level, t = level_text(config.alpha), float(stats.t.ppf(1 - config.alpha / 2, line.df))
    mean, leverage = line.at(sample.typical)
    names = ["mean at typical covariates" if sample.names else "mean"]
    names += [f"effect of {covariate}" for covariate in sample.names]
    values = [mean, *line.beta[1:].tolist()]
    leverages = [leverage, *np.diag(line.inverse)[1:].tolist()]
    lines = []
    for name, value, own in zip(names, values, leverages, strict=True):
        se = line.sd * math.sqrt(own)
        ends = value - t * se, value + t * se
        lines.append(_estimate(name, value, ends, f"Student t, {level}", line) | {"se": se})
    high, low = (
        line.sd * math.sqrt(line.df / float(stats.chi2.ppf(q, line.df))) for q in _tails(config.alpha)
    )
    spread = _estimate(
        "standard deviation between people", line.sd, (low, high), f"chi-square, {level}", line
    )
    yield from (lines[0], spread, *lines[1:])


def _tails(alpha: float) -> tuple[float, float]:
    return alpha / 2, 1 - alpha / 2


def _estimate(name: str, value: float, ends: tuple[float, float], method: str, line: Line) -> dict[str, Any]:
    interval = {"ci_low": ends[0], "ci_high": ends[1], "ci_method": method}
    return {"estimate_name": name, "estimate": value, "df": df_text(line.df), "test": "none", **interval}


def _ordinal(p: float) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    teens = p % 100 in (11, 12, 13)
    return f"{p:g}{'th' if teens or p != int(p) else ends.get(int(p) % 10, 'th')} percentile"


def _normal(sample: Sample, line: Line, p: float, config: Config) -> dict[str, Any]:
    """Percentile of a normal distribution at typical covariates."""
    mean, leverage = line.at(sample.typical)
    root, z = math.sqrt(leverage), float(special.ndtri(p / 100))
    low, high = (
        mean + root * line.sd * float(stats.nct.ppf(q, line.df, z / root)) for q in _tails(config.alpha)
    )
    method = f"noncentral t, {level_text(config.alpha)}"
    return _estimate(_ordinal(p), mean + z * line.sd, (low, high), method, line)


def _ranked(sample: Sample, p: float, config: Config) -> dict[str, Any]:
    """Percentile by ranks p (n + 1), its interval between two values by the binomial distribution."""
    values, share = sample.values[sample.reference], p / 100
    name, n = _ordinal(p), len(values)
    rank = share * (n + 1)
    if not 1 <= rank <= n:
        fewest = math.ceil(1 / min(share, 1 - share) - 1 - 1e-9)
        return {"estimate_name": name, "reason": f"{n} people are too few: by ranks it needs {fewest}"}
    found: Any = stats.quantile_test(values, p=share).confidence_interval(1 - config.alpha)
    ends = {"ci_low": float(found.low), "ci_high": float(found.high)}
    method = f"order statistics, at least {level_text(config.alpha)}"
    if not np.isfinite(list(ends.values())).all():
        ends, method = {}, f"none: {n} people are too few for an interval by ranks"
    estimate = float(np.quantile(values, share, method="weibull"))
    return {"estimate_name": name, "estimate": estimate, "test": "none", "ci_method": method, **ends}


def _people(
    measure: Selected, sample: Sample, line: Line, words: Sequence[str], config: Config
) -> Iterator[Result]:
    """A row for each person who is held against the reference."""
    groups = design.group_text(sample.frame[config.group or ""])
    name = "/".join(config.reference or ())
    for i, who in enumerate(sample.frame["participant_id"]):
        own = bool(sample.reference[i])
        if own and config.scored == "others":
            continue
        common = {"contrast": f"{who}: {groups[i]}", "n": 1, "formula": sample.formula}
        if sample.strange[i]:
            reason = f"nobody of {name} has the same category of a covariate"
            yield Result.without(measure, config, reason, **common)
            continue
        others = sample.reference.copy()
        others[i] = False
        if own and others.sum() < 3 + sample.columns.shape[1]:
            yield Result.without(measure, config, f"too few others of {name}", **common)
            continue
        held = Line.fit(sample.values[others], sample.columns[others]) if own else line
        told = [CAVEAT, *words, *_beyond(sample, i, others)]
        told += [f"a reference of {others.sum()} people"] if others.sum() < _FEW else []
        numbers = score(float(sample.values[i]), sample.columns[i], held, name, config.alpha)
        size = {"n_groups": f"1/{others.sum()}", "warnings": told}
        yield Result.of(measure, config, **(common | size | numbers))


def score(value: float, columns: Array, line: Line, name: str, alpha: float) -> dict[str, Any]:
    """z of one person against a reference, its interval, its test, and the share of people below."""
    usual, leverage = line.at(columns)
    root = math.sqrt(leverage)
    z = (value - usual) / line.sd
    low, high = (root * end for end in noncentrality_of_t(z / root, line.df, alpha))
    t = z / math.sqrt(1 + leverage)
    return {
        "estimate_name": f"z against {name}",
        "estimate": z,
        "ci_low": low,
        "ci_high": high,
        "ci_method": f"Crawford and Garthwaite noncentral t, {level_text(alpha)}",
        "effect_name": f"share of {name} below",
        "effect": float(special.stdtr(line.df, t)),
        "effect_ci_low": float(special.ndtr(low)),
        "effect_ci_high": float(special.ndtr(high)),
        "test": "Crawford-Howell t test",
        "statistic_name": "t",
        "statistic_value": t,
        "df": df_text(line.df),
        "p": 2 * float(special.stdtr(line.df, -abs(t))),
    }


def _beyond(sample: Sample, i: int, others: NDArray[np.bool_]) -> list[str]:
    """Covariates of a person that lie beyond those of the reference."""
    found = []
    for name, column in zip(sample.names, sample.columns.T, strict=True):
        low, high = column[others].min(), column[others].max()
        if not low <= column[i] <= high:
            found.append(f"{name} {column[i]:g} lies beyond the reference's {low:g} to {high:g}")
    return found
