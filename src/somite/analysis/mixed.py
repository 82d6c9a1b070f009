"""Mixed models: levels and sides within patients, visits over time, raters and scanners.

Rows of one person are not independent; here they need not be. One row for each fixed effect, one for each
term of several, one for each random effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import stats

from somite.analysis import design, random_effects
from somite.analysis.design import Design
from somite.analysis.location import is_constant, level_text
from somite.analysis.model import AnalysisConfig, Factor, Requirement, Text
from somite.analysis.random_effects import Fixed, Mixed, NotFitted
from somite.analysis.results import Result, df_text
from somite.analysis.selection import Selected

Array = NDArray[np.float64]
Numbers = dict[str, Any]
FACTORS: tuple[str, ...] = get_args(Factor)
FEW_PEOPLE = 40
"""Below this many people the normal approximation of the fixed effects is warned of."""


class Config(AnalysisConfig):
    """Options of `mixed`."""

    kind: Literal["mixed"] = "mixed"
    fixed: tuple[Text, ...] = Field(min_length=1)
    """Fixed effects: clinical columns, what varies within people (side, level, session_id, rater), and their
    interactions: [group, visit_time, group:visit_time]. Covariates are fixed effects too."""
    repeated: tuple[Factor, ...] = Field(min_length=1)
    """What varies within people: [side, level], [session_id]. All its values are in one model."""
    nested: tuple[Factor, ...] = ()
    """Random intercepts within people, each within the one before: [level] or [level, side]."""
    crossed: tuple[Factor, ...] = ()
    """Random intercepts across people: [rater], [site]."""
    slope: Text | None = None
    """Column whose slope varies between people: visit_time."""
    reference: Mapping[str, Text] = Field(default_factory=dict)
    """Column -> the category that the others are compared with: {group: control}. Default: the first
    sorted."""
    method: Literal["mixed", "cluster_bootstrap"] = "mixed"
    """mixed: random effects as above. cluster_bootstrap: least squares without random effects; the intervals
    draw whole people with replacement, within the categories that people belong to."""
    estimator: Literal["reml", "ml"] = "reml"
    """Restricted maximum likelihood, or maximum likelihood."""
    df: Literal["normal", "between_within"] = "normal"
    """normal: z, as statsmodels has it, too narrow for few people. between_within: Student's t with the
    degrees of freedom of the people for what varies between them, of the rows for what varies within."""
    bootstrap: int = Field(2000, ge=200, le=100_000, description="Samples of the cluster bootstrap")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        terms = (*self.fixed, *self.covariates)
        for term in terms:
            if lacking := [part for part in term.split(":") if part not in terms]:
                raise ValueError(f"fixed: {term} needs {', '.join(lacking)} as an effect of its own")
        names = {part for term in terms for part in term.split(":")}
        for option, used in (("fixed", names), ("nested", self.nested), ("crossed", self.crossed)):
            if other := sorted((set(used) & set(FACTORS)) - set(self.repeated) - {"site", "rater"}):
                raise ValueError(f"{option}: {', '.join(other)} does not vary; add it to repeated")
        if self.slope is not None and self.slope not in terms:
            raise ValueError(f"slope: {self.slope} must be a fixed effect too")
        if self.slope is not None and self.crossed:
            raise ValueError("slope and crossed cannot stand together")
        if self.method == "cluster_bootstrap" and (self.nested or self.crossed or self.slope):
            raise ValueError(
                "method: cluster_bootstrap has no random effects; leave out nested, crossed, slope"
            )
        return self

    @property
    def terms(self) -> tuple[str, ...]:
        """All fixed effects, each once."""
        return tuple(dict.fromkeys((*self.fixed, *self.covariates)))

    def requirements(self) -> tuple[Requirement, ...]:
        """The clinical columns among the fixed effects."""
        names = dict.fromkeys(part for term in self.fixed for part in term.split(":"))
        clinical = [name for name in names if name not in FACTORS and name not in self.covariates]
        own = [Requirement(name, "fixed") for name in clinical]
        return tuple(self._with_reference(one) for one in (*own, *super().requirements()))

    def _with_reference(self, one: Requirement) -> Requirement:
        """The column with the category that the others are compared with, which must occur."""
        if one.name not in self.reference:
            return one
        return replace(one, levels=(self.reference[one.name],), names=f"reference.{one.name}")

    def within(self) -> tuple[Factor, ...]:
        """What varies within people."""
        return self.repeated


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """A row for each fixed effect, term and random effect of each measure."""
    return [row for measure in measures for row in _rows(measure, config)]


def _rows(measure: Selected, config: Config) -> Iterator[Result]:
    frame = measure.frame
    common: Numbers = {"n": measure.n, "n_groups": f"{len(frame)} rows of {measure.n} people"}
    contrast = ", ".join(config.terms)
    if reason := _fault(frame, config):
        yield Result.without(measure, config, reason, contrast=contrast, **common)
        return
    columns = design.covariates(frame, config.terms, config.reference)
    common["formula"] = _formula(columns, config)
    if reason := design.fault(columns.matrix, columns.names):
        yield Result.without(measure, config, reason, contrast=contrast, **common)
        return
    matrix = np.column_stack([np.ones(len(frame)), columns.matrix])
    people = pd.factorize(frame["participant_id"], sort=True)[0]
    values = frame["value"].to_numpy(float)
    if config.method == "cluster_bootstrap":
        random = measure.random(config.seed)
        for numbers in _bootstrapped(values, matrix, people, columns, frame, config, random):
            yield Result.of(measure, config, **common, **numbers, seed=config.seed)
        return
    fitted = _fit(values, matrix, people, frame, config)
    if isinstance(fitted, NotFitted):
        yield Result.without(measure, config, fitted.reason, contrast=contrast, **common)
        return
    common["warnings"] = _warnings(fitted, measure.n, config)
    for numbers in (*_fixed_rows(fitted.fixed, matrix, people, columns, config), *_random_rows(fitted)):
        yield Result.of(measure, config, **common, **numbers)


def _fault(frame: pd.DataFrame, config: Config) -> str:
    if not len(frame):
        return "no values: all are missing or left out"
    if is_constant(frame["value"].to_numpy(float)):
        return "all values are the same"
    n = frame["participant_id"].nunique()
    if n < 3:
        return f"too few people: {n}, and 3 are needed"
    if len(frame) == n and config.method == "mixed":
        return "one row per person: there is nothing within people; take compare or correlate"
    for name in (*config.nested, *config.crossed, *(part for t in config.terms for part in t.split(":"))):
        column = frame[name]
        if design.is_categorical(column) and column.nunique() < 2:
            return f"{name} has one value only: {column.iloc[0] or 'n/a'}"
        reference = config.reference.get(name)
        if reference is not None and reference not in set(design.group_text(column)):
            return f"nobody has {name} {reference}, the reference"
    within = ["participant_id", *config.nested]
    if config.nested and frame.groupby(within, observed=True).ngroups == len(frame):
        return f"one row for each {' and '.join(within)}: nested effects cannot be told from the residual"
    return ""


def _formula(columns: Design, config: Config) -> str:
    parts = ["value ~ 1", *columns.terms]
    if config.method == "mixed":
        slope = f" + {config.slope}" if config.slope else ""
        nested = ["participant_id"]
        parts.append(f"(1{slope} | participant_id)")
        for name in config.nested:
            nested.append(name)
            parts.append(f"(1 | {':'.join(nested)})")
        parts.extend(f"(1 | {name})" for name in config.crossed)
    return " + ".join(parts)


def _fit(
    values: Array, matrix: Array, people: NDArray[np.intp], frame: pd.DataFrame, config: Config
) -> Mixed | NotFitted:
    nested: dict[str, NDArray[np.intp]] = {}
    codes = people
    for name in config.nested:
        own = pd.factorize(frame[name], sort=True)[0]
        codes = np.unique(np.column_stack([codes, own]), axis=0, return_inverse=True)[1].ravel()
        nested[f"{name} within participant"] = codes
    crossed = {str(name): pd.factorize(frame[name], sort=True)[0] for name in config.crossed}
    slope = None if config.slope is None else (config.slope, frame[config.slope].to_numpy(float))
    return random_effects.fit(values, matrix, people, nested, crossed, slope, config.estimator == "reml")


def _warnings(fitted: Mixed, n: int, config: Config) -> list[str]:
    words = list(fitted.notes)
    if fitted.optimiser != random_effects.OPTIMISERS[0]:
        words.append(f"{random_effects.OPTIMISERS[0]} did not converge, {fitted.optimiser} did")
    if config.df == "normal" and n < FEW_PEOPLE:
        words.append(f"{n} people: intervals and p by z are too narrow; df: between_within is not")
    return words


def _fixed_rows(
    fixed: Fixed, matrix: Array, people: NDArray[np.intp], columns: Design, config: Config
) -> Iterator[Numbers]:
    dfs = random_effects.between_within(matrix, people)
    normal = config.df == "normal"
    for i, name in enumerate(columns.names, start=1):
        law: Any = stats.norm() if normal else stats.t(dfs[i])
        estimate, se = float(fixed.estimates[i]), float(fixed.errors[i])
        half = float(law.ppf(1 - config.alpha / 2)) * se
        yield {
            "contrast": name,
            "estimate_name": "fixed effect",
            "estimate": estimate,
            "se": se,
            "ci_low": estimate - half,
            "ci_high": estimate + half,
            "ci_method": f"{'Wald z' if normal else 'Wald t'}, {level_text(config.alpha)}",
            "test": f"mixed model ({config.estimator.upper()}), Wald",
            "statistic_name": "z" if normal else "t",
            "statistic_value": estimate / se,
            "df": "" if normal else df_text(dfs[i]),
            "p": float(2 * law.sf(abs(estimate / se))),
        }
    for term, chosen in _several(columns).items():
        chi2, df, p = fixed.wald([i + 1 for i in chosen])
        yield {
            "contrast": f"{term}: all",
            "estimate_name": "test of all effects of a term",
            "estimate": chi2,
            "test": f"mixed model ({config.estimator.upper()}), Wald",
            "statistic_name": "chi-square",
            "statistic_value": chi2,
            "df": df_text(df),
            "p": p,
        }


def _several(columns: Design) -> dict[str, list[int]]:
    """Terms of several columns."""
    found = {
        term: [i for i, of in enumerate(columns.owners) if of == k] for k, term in enumerate(columns.terms)
    }
    return {term: chosen for term, chosen in found.items() if len(chosen) > 1}


def _random_rows(fitted: Mixed) -> Iterator[Numbers]:
    total = sum(value for name, value in fitted.variances.items() if not name.startswith("slope"))
    for name, variance in fitted.variances.items():
        share = {} if name.startswith("slope") else {"effect_name": "share of the variance"}
        yield {
            "contrast": f"SD of {name}",
            "estimate_name": "SD of a random effect" if name != "residual" else "residual SD",
            "estimate": float(np.sqrt(variance)),
            "ci_method": "none: a variance has no interval here",
            **share,
            **({"effect": variance / total} if share else {}),
            "test": "none",
        }


def _bootstrapped(
    values: Array,
    matrix: Array,
    people: NDArray[np.intp],
    columns: Design,
    frame: pd.DataFrame,
    config: Config,
    random: np.random.Generator,
) -> Iterator[Numbers]:
    estimates = np.linalg.lstsq(matrix, values, rcond=None)[0]
    strata = _strata(frame, people, config)
    drawn = random_effects.cluster_bootstrap(values, matrix, people, strata, config.bootstrap, random)
    ends = np.quantile(drawn, [config.alpha / 2, 1 - config.alpha / 2], axis=0)
    for i, name in enumerate(columns.names, start=1):
        tail = min((drawn[:, i] <= 0).sum(), (drawn[:, i] >= 0).sum())
        yield {
            "contrast": name,
            "estimate_name": "fixed effect",
            "estimate": float(estimates[i]),
            "se": float(drawn[:, i].std(ddof=1)),
            "ci_low": float(ends[0, i]),
            "ci_high": float(ends[1, i]),
            "ci_method": f"percentiles of {len(drawn)} cluster bootstrap samples, {level_text(config.alpha)}",
            "test": "cluster bootstrap",
            "statistic_name": "share of samples on the other side of 0",
            "statistic_value": float(tail / len(drawn)),
            "p": float(min(1.0, 2 * (tail + 1) / (len(drawn) + 1))),
        }


def _strata(frame: pd.DataFrame, people: NDArray[np.intp], config: Config) -> NDArray[np.intp]:
    """Stratum of each person: the categories, among the fixed effects, that do not vary within anybody."""
    names = dict.fromkeys(part for term in config.terms for part in term.split(":"))
    chosen = [
        name
        for name in names
        if design.is_categorical(frame[name]) and frame[name].groupby(people).nunique().max() == 1
    ]
    if not chosen:
        return np.zeros(int(people.max()) + 1, np.intp)
    firsts = frame.groupby(people)[chosen].first()
    return np.asarray(firsts.groupby(chosen).ngroup(), np.intp)
