"""What the tables of the cohort need of its clinical data: who is a control, age, sex, the affected side.

They are joined when tables are made, and never reach the steps that measure: those who draw and measure
stay blind to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.analysis.model import Affected, Cohort
from somite.analysis.people import Key, People, Texts
from somite.analysis.visits import missing_values
from somite.errors import DatasetError, Problem

Float = NDArray[np.float64]
DEFAULTS = {"age": Cohort().age, "sex": Cohort().sex, "affected.side": Affected().side}
"""Option of the cohort -> the name that its column has where nobody gave another. It may be absent."""


def column(people: People, option: str, name: str, visits: Sequence[Key]) -> Texts:
    """A clinical column, a text for every visit; `""` for all where nobody named it and no file has it.

    Raises:
        DatasetError: as `People.find`.
    """
    if not has(people, option, name):
        return np.full(len(visits), "", object)
    return people.values(name, visits, f"cohort.{option}")


def has(people: People, option: str, name: str) -> bool:
    """Whether there is a column, which only one of the default's name may lack. Raises as `People.find`."""
    try:
        people.find(name, f"cohort.{option}")
    except DatasetError as error:
        if name == DEFAULTS[option] and error.problems[0].code == "COLUMN_UNKNOWN":
            return False
        raise
    return True


def controls(people: People, cohort: Cohort, visits: Sequence[Key]) -> NDArray[np.bool_]:
    """Which visits are of controls (n,); nobody's where none are declared. Raises as `People.find`."""
    kept = np.full(len(visits), bool(cohort.controls))
    for name, words in cohort.controls.items():
        kept &= np.isin(people.values(name, visits, f"cohort.controls.{name}"), words)
    return kept


def ages(texts: Iterable[str]) -> Float:
    """Ages in years; NaN where it is not a number. `89+`, as BIDS writes great age, is 89."""
    return np.array([_age(text.strip().removesuffix("+")) for text in texts], np.float64)


def _age(text: str) -> float:
    try:
        years = float(text)
    except ValueError:
        return np.nan
    return years if np.isfinite(years) else np.nan


_SEXES = {"m": 1.0, "male": 1.0, "f": 0.0, "female": 0.0}


def male(texts: Iterable[str]) -> Float:
    """1 for male, 0 for female, NaN for other words and none."""
    return np.array([_SEXES.get(text.strip().lower(), np.nan) for text in texts], np.float64)


def age_and_sex(people: People, cohort: Cohort, visits: Sequence[Key]) -> tuple[Float, Float]:
    """Age in years, and 1 for male, of every visit; NaN where it is not known. Raises as `People.find`."""
    return (
        ages(column(people, "age", cohort.age, visits)),
        male(column(people, "sex", cohort.sex, visits)),
    )


def read_cohort(path: Path) -> Cohort:
    """The options of the cohort, as `cohort_text` wrote them."""
    return Cohort.model_validate_json(path.read_text(encoding="utf-8"))


def cohort_text(cohort: Cohort, *options: str) -> str:
    """Some options of the cohort as JSON, for a step that needs these."""
    return cohort.model_dump_json(include=set(options))


def declares(cohort: Cohort) -> bool:
    """Whether the configuration names clinical columns or norms: then what it names must be there."""
    default = Cohort()
    options = ("controls", "norms", "age", "sex", "affected")
    return any(getattr(cohort, name) != getattr(default, name) for name in options)


def check(people: People, cohort: Cohort) -> list[Problem]:
    """What is wrong with the clinical columns and values that the cohort names."""
    if not declares(cohort):
        return []
    problems = [
        problem for name, words in cohort.controls.items() for problem in _values(people, name, words)
    ]
    needed = {"affected.side": cohort.affected.side}
    if cohort.controls or cohort.norms is not None:
        needed |= {"age": cohort.age, "sex": cohort.sex}
    for option, name in needed.items():
        try:
            has(people, option, name)
        except DatasetError as error:
            problems += error.problems
    return problems


def _values(people: People, name: str, words: Sequence[str]) -> list[Problem]:
    at = f"cohort.controls.{name}"
    try:
        return missing_values(name, words, people.levels(name, at), at)
    except DatasetError as error:
        return list(error.problems)
