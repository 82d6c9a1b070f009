"""Compare groups of people, or sides, visits or places within people.

The test is the one that the configuration declares: none is chosen by looking at the data. Two groups or
conditions give one row; more give a row for the test of all and a row for each pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import model_validator

from somite.analysis import ancova, design, location
from somite.analysis.location import Numbers
from somite.analysis.model import AnalysisConfig, Factor, FamilyPart, Requirement, Text
from somite.analysis.results import Result, counted
from somite.analysis.selection import Selected

Array = NDArray[np.float64]
Test = Literal["welch", "student", "mann_whitney", "anova", "kruskal", "paired_t", "wilcoxon"]
PAIRED_TESTS = ("paired_t", "wilcoxon")
RANK_TESTS = ("mann_whitney", "kruskal", "wilcoxon")
TWO_AT_MOST = ("student", "mann_whitney")


class Config(AnalysisConfig):
    """Options of `compare`."""

    kind: Literal["compare"] = "compare"
    group: Text | None = None
    """Clinical column that holds the groups. Either this or `paired`."""
    paired: Factor | None = None
    """What is compared within each person: side (L and R, or affected and unaffected), session_id (before and
    after), level, segment, rater. Either this or `group`."""
    groups: tuple[Text, ...] = ()
    """The groups, or the values of `paired`, that are compared: differences are the first minus the second.
    Default: all that occur, sorted."""
    test: Test | None = None
    """Of two groups: welch (default), student, mann_whitney. Of more: welch, anova or kruskal, and each pair
    by Welch's, Student's or Mann-Whitney's test. Of pairs: paired_t (default), wilcoxon. With covariates:
    analysis of covariance, with HC3 standard errors for welch and classical ones for student and anova."""
    means: bool | None = None
    """A row with the mean of each group, adjusted where there are covariates. Default: with covariates."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.group is None) == (self.paired is None):
            raise ValueError("give either group (a clinical column) or paired (side, session_id, ...)")
        if self.test is not None and (self.test in PAIRED_TESTS) != (self.paired is not None):
            fitting = "paired_t, wilcoxon" if self.paired else "welch, student, mann_whitney, anova, kruskal"
            raise ValueError(f"test: {self.test} does not fit; here it can be {fitting}")
        if self.covariates and (self.paired or self.test in RANK_TESTS):
            raise ValueError(
                "covariates need test: welch, student or anova of groups; within people take kind: mixed"
            )
        if len(set(self.groups)) != len(self.groups) or len(self.groups) == 1:
            raise ValueError("groups: name at least two, each once, or none for all")
        if self.test in TWO_AT_MOST and len(self.groups) > 2:
            raise ValueError(f"test: {self.test} is of two groups; of more: welch, anova or kruskal")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """The covariates, and the column of the groups."""
        own = (
            ()
            if self.group is None
            else (Requirement(self.group, "group", "groups", self.groups, names="groups"),)
        )
        return (*own, *super().requirements())

    def within(self) -> tuple[Factor, ...]:
        """What is paired."""
        return () if self.paired is None else (self.paired,)

    def family_by(self, contrasts: Collection[str]) -> tuple[FamilyPart, ...]:
        """Each contrast by itself, where three groups or conditions make three pairs: each is a question."""
        return ("contrast",) if sum(" - " in contrast for contrast in contrasts) > 2 else ()

    def group_column(self) -> str | None:
        """The column of the groups."""
        return self.group


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """A row for each measure and contrast."""
    compare = _compare_groups if config.paired is None else _compare_pairs
    return [row for measure in measures for row in compare(measure, config)]


def _compare_groups(measure: Selected, config: Config) -> Iterator[Result]:
    assert config.group is not None
    labels = design.group_text(measure.frame[config.group])
    groups = config.groups or tuple(sorted(set(labels)))
    if config.groups:  # others are not looked at
        kept = np.isin(labels, groups)
        measure = replace(measure, frame=measure.frame[kept])
        labels = labels[kept]
    values = measure.frame["value"].to_numpy(float)
    samples = {group: values[labels == group] for group in groups}
    sizes = {"n": len(values), "n_groups": _sizes(samples.values())}
    contrast = _contrast(groups, config.group)
    if reason := _fault(samples, config.group) or _too_many(groups, config):
        yield Result.without(measure, config, reason, contrast=contrast, **sizes)
        return
    if config.covariates:
        yield from _adjusted(measure, labels, groups, config)
        return
    for text, some, numbers in _tests(samples, config):
        chosen = [samples[group] for group in some]
        yield Result.of(
            measure,
            config,
            contrast=text,
            n=sum(map(len, chosen)),
            n_groups=_sizes(chosen),
            formula=f"value ~ C({config.group})",
            **numbers,
        )


def _sizes(samples: object) -> str:
    return "/".join(str(len(sample)) for sample in samples)  # type: ignore[attr-defined]


def _contrast(groups: Sequence[str], of: str) -> str:
    return " - ".join(groups) if len(groups) == 2 else f"{of}: {', '.join(groups)}" if groups else of


def _fault(samples: dict[str, Array], column: str) -> str:
    """Why nothing can be compared; `""` where it can."""
    if not any(len(sample) for sample in samples.values()):
        return "no values: all are missing or left out"
    if len(samples) < 2:
        return f"all are of one group: {column} is {', '.join(samples)}"
    for group, sample in samples.items():
        if len(sample) < 2:
            words = "nobody" if not len(sample) else "one person only"
            return f"{words} of {column} {group} has a value"
    if location.is_constant(np.concatenate(list(samples.values()))):
        return "all values are the same"
    constant = [group for group, sample in samples.items() if location.is_constant(sample)]
    if constant:
        return f"all values of {column} {', '.join(constant)} are the same: their spread is not known"
    return ""


def _too_many(groups: Sequence[str], config: Config) -> str:
    if config.test in TWO_AT_MOST and len(groups) > 2:
        return f"{len(groups)} groups, but test: {config.test} is of two; name two in groups, or take another"
    return ""


def _tests(samples: dict[str, Array], config: Config) -> Iterator[tuple[str, Sequence[str], Numbers]]:
    """Contrast, groups and numbers of each row."""
    groups, test, alpha = tuple(samples), config.test or "welch", config.alpha
    if len(groups) > 2 or test in ("anova", "kruskal"):
        chosen = list(samples.values())
        together = (
            location.kruskal(chosen)
            if test == "kruskal"
            else location.several(chosen, alpha, equal_variances=test == "anova")
        )
        yield f"{config.group}: {', '.join(groups)}", groups, together
    for a, b in combinations(groups, 2):
        x, y = samples[a], samples[b]
        if test in RANK_TESTS:
            yield f"{a} - {b}", (a, b), location.mann_whitney(x, y, alpha)
        else:
            same = test in ("student", "anova")
            yield f"{a} - {b}", (a, b), location.t_test(x, y, alpha, equal_variances=same)
    if config.means:
        for group in groups:
            yield f"mean of {group}", (group,), location.mean(samples[group], alpha)


def _adjusted(
    measure: Selected, labels: NDArray[np.object_], groups: Sequence[str], config: Config
) -> Iterator[Result]:
    frame = measure.frame
    columns = design.covariates(frame, config.covariates)
    names = (*(f"{config.group} {group}" for group in groups[1:]), *columns.names)
    dummies = np.column_stack([labels == group for group in groups[1:]]).astype(float)
    sizes = [int((labels == group).sum()) for group in groups]
    common = {
        "n": len(frame),
        "n_groups": "/".join(map(str, sizes)),
        "formula": " + ".join((f"value ~ C({config.group})", *columns.terms)),
    }
    if reason := design.fault(np.hstack([dummies, columns.matrix]), names):
        yield Result.without(measure, config, reason, contrast=_contrast(groups, str(config.group)), **common)
        return
    values = frame["value"].to_numpy(float)
    fitted = ancova.fit(values, labels, groups, columns, config.test in (None, "welch"))
    if fitted.residual_free:
        reason = "the groups and covariates explain every value exactly"
        yield Result.without(measure, config, reason, contrast=_contrast(groups, str(config.group)), **common)
        return
    for text, numbers in _adjusted_tests(fitted, config):
        yield Result.of(measure, config, contrast=text, **common, **numbers)


def _adjusted_tests(fitted: ancova.Fit, config: Config) -> Iterator[tuple[str, Numbers]]:
    groups, alpha = fitted.groups, config.alpha
    if len(groups) > 2 or config.test == "anova":
        yield f"{config.group}: {', '.join(groups)}", ancova.all_groups(fitted, alpha)
    for a, b in combinations(groups, 2):
        yield f"{a} - {b}", ancova.difference(fitted, a, b, alpha)
    if config.means is not False:
        for group in groups:
            yield f"mean of {group}", ancova.adjusted_mean(fitted, group, alpha)


def _compare_pairs(measure: Selected, config: Config) -> Iterator[Result]:
    assert config.paired is not None
    table = pairs(measure.frame, config.paired)
    conditions = config.groups or tuple(sorted(table.columns))
    if len(conditions) < 2:
        only = f"{config.paired} is {', '.join(conditions)} only" if conditions else "all are missing"
        reason = f"nothing to pair: {only}"
        yield Result.without(measure, config, reason, contrast=config.paired)
        return
    for a, b in combinations(conditions, 2):
        yield _pair(measure, table.reindex(columns=[a, b]).dropna(how="all"), config)
    if config.means:
        for condition in conditions:
            yield _mean_of(measure, table.reindex(columns=[condition])[condition].dropna(), config)


def pairs(frame: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Values by participant (rows) and value of the factor (columns); NaN where there is none."""
    return frame.pivot(index="participant_id", columns=factor, values="value")


def _pair(measure: Selected, table: pd.DataFrame, config: Config) -> Result:
    a, b = table.columns
    whole = table.dropna()
    first, second = whole[a].to_numpy(float), whole[b].to_numpy(float)
    lacking = len(table) - len(whole)
    warnings = (
        [f"left out, as they have only one of {a} and {b}: {counted(lacking, 'participant')}"]
        if lacking
        else []
    )
    common = {
        "contrast": f"{a} - {b}",
        "n": len(whole),
        "n_groups": f"{len(whole)} pairs",
        "warnings": warnings,
        "formula": f"{a} - {b} ~ 1",
    }
    if reason := _pair_fault(first, second):
        return Result.without(measure, config, reason, **common)
    test = location.wilcoxon if config.test == "wilcoxon" else location.paired_t
    return Result.of(measure, config, **common, **test(first, second, config.alpha))


def _pair_fault(first: Array, second: Array) -> str:
    if len(first) < 3:
        return f"too few pairs: {len(first)}, and 3 are needed"
    differences = first - second
    if not np.abs(differences).max():
        return "both of every pair are the same"
    if np.ptp(differences) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()):
        return "the difference is the same in every pair: its spread is not known"
    return ""


def _mean_of(measure: Selected, values: pd.Series, config: Config) -> Result:
    numbers = values.to_numpy(float)
    common = {"contrast": f"mean of {values.name}", "n": len(numbers), "n_groups": str(len(numbers))}
    if len(numbers) < 2:
        return Result.without(measure, config, "fewer than two values", **common)
    return Result.of(measure, config, **common, **location.mean(numbers, config.alpha))
