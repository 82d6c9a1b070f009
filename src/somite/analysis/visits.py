"""What the clinical data say of every visit, for the columns that one analysis requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.analysis.model import AnalysisConfig, Requirement
from somite.analysis.people import Key, People, Texts, numbers, unlike_numbers
from somite.configs.schema import nearest
from somite.errors import DatasetError, Problem

OF_ROWS = ("session_id", "run", "site", "rater", "region", "side", "level", "segment", "snr", "n_voxels")
"""Columns of every row of the table, which an analysis may name as it names clinical ones."""


@dataclass(frozen=True)
class Visits:
    """Visits and their clinical columns."""

    keys: tuple[Key, ...]
    """Participant, session and run, sorted."""
    columns: dict[str, NDArray[Any]]
    """Name as the analysis writes it -> a value for every visit: float64, or text."""
    lack: NDArray[np.int32]
    """Of every visit: 0 where nothing is missing, else 1 + the place of the reason in `reasons`."""
    reasons: tuple[str, ...]


def required(config: AnalysisConfig) -> dict[str, Requirement]:
    """Name -> the requirement, the first of each name."""
    found: dict[str, Requirement] = {}
    for requirement in config.requirements():
        found.setdefault(requirement.name, requirement)
    return found


def where(config: AnalysisConfig, option: str) -> str:
    """An option of an analysis, for messages: `analyses.l5.group`."""
    return f"analyses.{config.name}.{option}"


def check(people: People, config: AnalysisConfig) -> list[Problem]:
    """What is wrong with the columns and values that an analysis names, without any table of segments."""
    problems: list[Problem] = []
    for name, requirement in required(config).items():
        if name not in OF_ROWS:
            problems += _check_column(people, requirement, config)
    for name, values in config.only.items():
        at = where(config, f"only.{name}")
        try:
            problems += missing_values(name, [v for v in values if v], people.levels(name, at), at)
        except DatasetError as error:
            problems += error.problems
    return problems


def missing_values(column: str, values: Sequence[str], levels: Sequence[str], at: str) -> list[Problem]:
    """The problem of each value that does not occur in a column."""
    many = len(levels) > 20
    problems = []
    for value in values:
        if value in levels:
            continue
        meant = nearest(value, levels)
        problems.append(
            Problem(
                "GROUP_UNKNOWN",
                f"nobody has {value} in the column {column}",
                at,
                value,
                ", ".join([*levels[:20], *(["..."] if many else [])]),
                f"did you mean {meant}?" if meant else "write one of these values",
            )
        )
    return problems


def _check_column(people: People, requirement: Requirement, config: AnalysisConfig) -> list[Problem]:
    at = where(config, requirement.option)
    of_levels = where(config, requirement.names or requirement.option)
    try:
        source, column = people.find(requirement.name, at)
    except DatasetError as error:
        return list(error.problems)
    levels = people.levels(requirement.name, at)
    problems = missing_values(requirement.name, requirement.levels, levels, of_levels)
    if requirement.holds == "numbers" and (strange := unlike_numbers(source.columns[column])):
        problems.append(
            Problem(
                "COLUMN_NOT_NUMBERS",
                f"{requirement.name} does not hold numbers only",
                f"{at}; {source.path}",
                ", ".join(strange[:10]),
                "numbers, or n/a",
                "correct the column, or name another",
            )
        )
    return problems


def visits_of(
    people: People, keys: Sequence[Key], config: AnalysisConfig, members: Sequence[Sequence[Key]] = ()
) -> Visits:
    """The clinical columns of an analysis for visits, and who lacks one.

    Args:
        people: the clinical data.
        keys: the visits.
        config: the analysis.
        members: of each visit, the visits that were joined to it, where sessions were aggregated. Numbers
            are averaged over them; text must be the same in all, or is missing.

    Raises:
        DatasetError: the problems of `check`.
    """
    if problems := check(people, config):
        raise DatasetError.of(problems)
    columns: dict[str, NDArray[Any]] = {}
    lack = np.zeros(len(keys), np.int32)
    reasons: list[str] = []
    known = people.participants
    stranger = np.array([key[0] not in known for key in keys], bool)
    clinical = {name: one for name, one in required(config).items() if name not in OF_ROWS}
    if any(not one.may_lack for one in clinical.values()) and stranger.any():
        reasons.append("not in participants.tsv")
        lack[stranger] = len(reasons)
    for name, requirement in clinical.items():
        at = where(config, requirement.option)
        whole = [people.values(name, group, at) for group in members] if members else []
        texts = np.array([_one(t) for t in whole], object) if members else people.values(name, keys, at)
        columns[name] = _typed(texts, requirement.holds)
        missing = (texts == "") & (lack == 0)
        if missing.any() and not requirement.may_lack:
            reasons.append(f"no {name}")
            lack[missing] = len(reasons)
    return Visits(tuple(keys), columns, lack, tuple(reasons))


def _one(texts: Texts) -> str:
    """One text of several: their mean where they are numbers, else what they all are."""
    there = texts[texts != ""]
    if len(set(there)) <= 1:
        return str(there[0]) if len(there) else ""
    values = numbers(there)
    return "" if values is None else repr(float(values.mean()))


def _typed(texts: Texts, holds: str) -> NDArray[Any]:
    values = None if holds == "groups" else numbers(texts)
    return texts if values is None else values


def chosen(people: People, keys: Sequence[Key], config: AnalysisConfig) -> NDArray[np.bool_]:
    """Which visits are of the people whom `only` names (n,). Raises as `People.find`."""
    kept = np.ones(len(keys), bool)
    for name, values in config.only.items():
        kept &= np.isin(people.values(name, keys, where(config, f"only.{name}")), values)
    return kept
