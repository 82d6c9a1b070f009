"""Profiles along a nerve or tract: where two groups, two conditions or a score make a difference.

Each node gets its own test; neighbouring nodes beyond a threshold form clusters, whose p is corrected for all
clusters that the profile could have had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import stats

from somite.analysis import design, effects, location, permutation
from somite.analysis.location import level_text
from somite.analysis.model import AnalysisConfig, Factor, Requirement, Table, Text
from somite.analysis.permutation import Found, Scheme
from somite.analysis.results import Result, counted, df_text
from somite.analysis.selection import Selected

Array = NDArray[np.float64]
Numbers = dict[str, Any]


class Config(AnalysisConfig):
    """Options of `profile`."""

    kind: Literal["profile"] = "profile"
    nodes: Literal["profiles", "segments"] = "profiles"
    """Where the nodes stand. profiles: in the table of profiles (`group/profiles.parquet`), as segments
    `node_0`, `node_1`, ...; segments: segments of the table of segments are the nodes."""
    along: Factor = "segment"
    """What the nodes are: segment, level."""
    order: tuple[Text, ...] = ()
    """The nodes from one end to the other. Default: all, sorted, numbers in the names by their value."""
    group: Text | None = None
    """Clinical column of two groups. One of group, paired and column."""
    paired: Factor | None = None
    """What is compared within each person: side, session_id. One of group, paired and column."""
    column: Text | None = None
    """Clinical column of numbers that the profile may go with. One of group, paired and column."""
    groups: tuple[Text, ...] = ()
    """The two groups or conditions: differences are the first minus the second. Default: the two that occur,
    sorted."""
    test: Literal["welch", "student"] | None = None
    """Of two groups. Default: welch; with covariates student, the only one there."""
    gaps: Literal["people", "nodes"] = "people"
    """Whom a missing node costs. people: whoever lacks a node is left out; nodes: a node that anybody lacks
    is left out."""
    threshold_p: float = Field(
        0.05, gt=0, lt=0.5, description="Two-sided pointwise p below which a node may be in a cluster"
    )
    cluster_size: Literal["mass", "length"] = "mass"
    """What makes a cluster large: the sum of |t|, or the number of nodes."""
    node_p: Literal["parametric", "permutation", "max_t"] = "parametric"
    """p of the nodes. parametric: of t; permutation: pointwise; max_t: corrected for all nodes of the
    profile."""
    permutations: int = Field(10_000, ge=99, le=1_000_000, description="Random permutations")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(x is not None for x in (self.group, self.paired, self.column)) != 1:
            raise ValueError("give one of group (a clinical column), paired (side, ...), column (a score)")
        if self.paired == self.along:
            raise ValueError(f"paired: {self.paired} is what the profile runs along")
        if self.covariates and (self.paired or self.test == "welch"):
            raise ValueError("covariates need test: student of groups, or column")
        if self.groups and len(set(self.groups)) != 2:
            raise ValueError("groups: name two")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """The covariates, and the column of the groups or the score."""
        own: tuple[Requirement, ...] = ()
        if self.group is not None:
            own = (Requirement(self.group, "group", "groups", self.groups, names="groups"),)
        if self.column is not None:
            own = (Requirement(self.column, "column", "numbers"),)
        return (*own, *super().requirements())

    def within(self) -> tuple[Factor, ...]:
        """The nodes, and what is paired."""
        return (self.along,) if self.paired is None else (self.along, self.paired)

    def table(self) -> Table:
        """The table of the nodes."""
        return self.nodes

    def group_column(self) -> str | None:
        """The column of the groups."""
        return self.group


@dataclass(frozen=True)
class Profiles:
    """Values (n, nodes) of whole people and the numbers that belong to the people."""

    values: Array
    nodes: tuple[str, ...]
    joined: NDArray[np.bool_]
    """(nodes,) whether a node is neighbour of the one before."""
    people: pd.DataFrame
    """One row per person: the clinical columns."""
    notes: tuple[str, ...]


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """For each measure: a row per node, and a row per cluster."""
    return [row for measure in measures for row in _rows(measure, config)]


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts `node_2` before `node_10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def gather(frame: pd.DataFrame, config: Config, conditions: tuple[str, ...] = ()) -> Profiles:
    """Profiles of the people in a frame; of two conditions, of the differences first - second."""
    if conditions:
        halves = [_wide(frame[frame[str(config.paired)] == c], config) for c in conditions]
        both = sorted(set(halves[0].columns) | set(halves[1].columns), key=natural)
        people = halves[0].index.union(halves[1].index)
        first, second = (half.reindex(index=people, columns=both) for half in halves)
        table = first - second
    else:
        table = _wide(frame, config)
    order = list(config.order) or sorted(table.columns, key=natural)
    table = table.reindex(columns=order)
    whole = table.dropna(axis="columns" if config.gaps == "nodes" else "index")
    position = np.array([order.index(node) for node in whole.columns], int)
    joined = np.diff(position, prepend=-2) == 1
    lost_people, lost_nodes = len(table) - len(whole), len(order) - whole.shape[1]
    notes = []
    if lost_people:
        notes.append(f"left out, as they lack a node: {counted(lost_people, 'participant')}")
    if lost_nodes:
        notes.append(f"left out, as somebody lacks them: {counted(lost_nodes, 'node')}")
    rows = frame.drop_duplicates("participant_id").set_index("participant_id").loc[whole.index]
    return Profiles(whole.to_numpy(float), tuple(whole.columns), joined, rows, tuple(notes))


def _wide(frame: pd.DataFrame, config: Config) -> pd.DataFrame:
    return frame.pivot(index="participant_id", columns=config.along, values="value")


@dataclass(frozen=True)
class Question:
    """What is asked of the profiles: names of the two sides, or of the score, and the numbers of people."""

    contrast: str
    formula: str
    n_groups: str
    first: NDArray[np.bool_] | None = None
    """(n,) who is of the first group."""


def _rows(measure: Selected, config: Config) -> Iterator[Result]:
    frame = measure.frame
    names = config.groups
    if config.column is None and not names and len(frame):
        names = tuple(sorted(set(design.group_text(frame[str(config.group or config.paired)]))))
    contrast = " - ".join(names) if config.column is None else f"slope of {config.column}"
    if reason := _fault(frame, names, config):
        yield Result.without(measure, config, reason, contrast=contrast)
        return
    if config.group is not None:
        frame = frame[np.isin(design.group_text(frame[config.group]), names)]
    profiles = gather(frame, config, names if config.paired else ())
    question = _question(profiles, names, contrast, config)
    common: Numbers = {
        "contrast": contrast,
        "n": len(profiles.values),
        "n_groups": question.n_groups,
        "formula": question.formula,
        "warnings": profiles.notes,
    }
    given = design.covariates(profiles.people, config.covariates)
    if reason := _profile_fault(profiles, question, given, config):
        yield Result.without(measure, config, reason, **common)
        return
    scheme, df = _scheme(profiles, question, given, config, measure.random(config.seed))
    threshold = float(stats.t.ppf(1 - config.threshold_p / 2, df))
    found = permutation.run(scheme, threshold, profiles.joined, config.cluster_size == "length")
    common["seed"] = None if found.exact else config.seed
    for i, node in enumerate(profiles.nodes):
        numbers = _node(profiles.values[:, i], question, profiles, given, config)
        numbers |= _node_p(found, i, config)
        yield Result.of(measure, config, **common, **{config.along: node}, **numbers)
    for place, numbers in _cluster_rows(found, profiles.nodes, threshold, config):
        yield Result.of(
            measure, config, **(common | {config.along: place, "contrast": f"cluster: {contrast}"} | numbers)
        )


def _fault(frame: pd.DataFrame, names: tuple[str, ...], config: Config) -> str:
    if not len(frame):
        return "no values: all are missing or left out"
    if config.column is None and len(names) == 1:
        return f"all are of one group: {config.group or config.paired} is {names[0]}"
    if config.column is None and len(names) != 2:
        return f"two are compared, but there are {len(names)}: {', '.join(names)}; name two in groups"
    if config.column is not None and location.is_constant(frame[config.column].to_numpy(float)):
        return f"all values of {config.column} are the same"
    return ""


def _question(profiles: Profiles, names: tuple[str, ...], contrast: str, config: Config) -> Question:
    covariates = design.covariates(profiles.people, config.covariates).terms
    if config.paired is not None:
        return Question(contrast, f"{contrast} ~ 1", f"{len(profiles.values)} pairs")
    if config.column is not None:
        return Question(contrast, " + ".join((f"value ~ {config.column}", *covariates)), "")
    labels = design.group_text(profiles.people[str(config.group)])
    first = np.asarray(labels == names[0], bool)
    sizes = f"{int(first.sum())}/{int((~first).sum())}"
    return Question(contrast, " + ".join((f"value ~ C({config.group})", *covariates)), sizes, first)


def _profile_fault(profiles: Profiles, question: Question, given: design.Design, config: Config) -> str:
    n, nodes = profiles.values.shape
    if not nodes:
        return "no node that everybody has; take gaps: people"
    if not n:
        return "nobody has all nodes; take gaps: nodes"
    if question.first is not None and min(question.first.sum(), (~question.first).sum()) < 2:
        return f"fewer than two people in a group: {question.n_groups}"
    if n < 4:
        return f"too few people: {n}, and 4 are needed"
    residuals = profiles.values if config.paired else profiles.values - profiles.values.mean(axis=0)
    flat = [node for node, column in zip(profiles.nodes, residuals.T, strict=True) if not np.ptp(column)]
    if flat:
        return f"all values are the same at {', '.join(flat[:5])}"
    if config.paired is not None:
        return ""
    names = (question.contrast, *given.names)
    return design.fault(np.column_stack([_interest(profiles, question, config), given.matrix]), names)


def _interest(profiles: Profiles, question: Question, config: Config) -> Array:
    if question.first is not None:
        return question.first.astype(float)
    return profiles.people[str(config.column)].to_numpy(float)


def _scheme(
    profiles: Profiles,
    question: Question,
    given: design.Design,
    config: Config,
    random: np.random.Generator,
) -> tuple[Scheme, int]:
    values, count = profiles.values, config.permutations
    if config.paired is not None:
        return permutation.one_sample(values, count, random), len(values) - 1
    if question.first is not None and not config.covariates:
        welch = config.test != "student"
        return permutation.two_groups(values, question.first, welch, count, random), len(values) - 2
    x = _interest(profiles, question, config)
    df = len(values) - 2 - given.matrix.shape[1]
    return permutation.regression(values, x, given.matrix, count, random), df


def _node(
    values: Array, question: Question, profiles: Profiles, given: design.Design, config: Config
) -> Numbers:
    """Estimate, interval and parametric test of one node."""
    if config.paired is not None:
        return location.paired_t(values, np.zeros_like(values), config.alpha)
    if question.first is not None and not config.covariates:
        a, b = values[question.first], values[~question.first]
        if location.is_constant(a) or location.is_constant(b):
            return {"reason": "all values of a group are the same: their spread is not known"}
        return location.t_test(a, b, config.alpha, equal_variances=config.test == "student")
    return _slope(values, _interest(profiles, question, config), given, question, config)


def _slope(values: Array, x: Array, given: design.Design, question: Question, config: Config) -> Numbers:
    """Least squares: the coefficient of x beside the covariates."""
    columns = np.column_stack([x, np.ones(len(x)), given.matrix])
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    df = len(x) - columns.shape[1]
    sd = float(np.sqrt(((values - columns @ coefficients) ** 2).sum() / df))
    scale = float(np.sqrt(np.linalg.inv(columns.T @ columns)[0, 0]))
    estimate, se = float(coefficients[0]), sd * scale
    half = float(stats.t.ppf(1 - config.alpha / 2, df)) * se
    effect = {}
    if question.first is not None:
        effect = effects.g_from_t("Hedges g (residual SD)", estimate / se, df, scale, config.alpha).fields
    return {
        "estimate_name": "slope" if question.first is None else "adjusted mean difference",
        "estimate": estimate,
        "se": se,
        "ci_low": estimate - half,
        "ci_high": estimate + half,
        "ci_method": f"Student t, {level_text(config.alpha)}",
        **effect,
        "test": "least squares, t test",
        "statistic_name": "t",
        "statistic_value": estimate / se,
        "df": df_text(df),
        "p": float(2 * stats.t.sf(abs(estimate / se), df)),
    }


def _words(found: Found) -> str:
    return f"all {found.count}" if found.exact else f"{found.count}"


def _node_p(found: Found, node: int, config: Config) -> Numbers:
    if config.node_p == "permutation":
        return {"test": f"pointwise permutation, {_words(found)}", "p": float(found.p_node[node])}
    if config.node_p == "max_t":
        test = f"permutation of the largest t of the profile, {_words(found)}"
        return {"test": test, "p": float(found.p_max[node]), "corrected_for": "all nodes of the profile"}
    return {}


def _cluster_rows(
    found: Found, nodes: tuple[str, ...], threshold: float, config: Config
) -> Iterator[tuple[str, Numbers]]:
    words = f"cluster {config.cluster_size} permutation, {_words(found)}, |t| > {threshold:.4g}"
    test = {
        "test": words,
        "estimate_name": f"cluster {config.cluster_size}",
        "corrected_for": "all clusters of the profile",
    }
    if not found.clusters:
        reason = f"no node beyond the threshold |t| > {threshold:.4g}: no cluster"
        yield "*", {**test, "reason": reason}
    for cluster, p in zip(found.clusters, found.p_cluster, strict=True):
        ends = nodes[cluster.first], nodes[cluster.last]
        size = cluster.mass if config.cluster_size == "mass" else float(cluster.last - cluster.first + 1)
        yield (
            f"{ends[0]}..{ends[1]}" if ends[0] != ends[1] else ends[0],
            {
                **test,
                "estimate": size,
                "statistic_name": "cluster " + config.cluster_size,
                "statistic_value": size * cluster.sign,
                "p": p,
            },
        )
