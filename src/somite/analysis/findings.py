"""What was found, in words, before the numbers: one function for each kind of analysis.

A row of a kind that is not here is told plainly: what it is about, its contrast, its estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from somite.analysis.figures import listed
from somite.analysis.results import Result
from somite.analysis.subjects import subject

_CORRELATION = re.compile(r"^\w+\((?P<a>[^,]+), (?P<b>.+)\)$")
_CATEGORY = re.compile(r"^(?P<column>\S+) (?P<a>.+) - (?P<b>.+)$")
_INTERACTION = re.compile(r"^\((?P<a>.+)\) : \((?P<b>.+)\)$")
_CODED = re.compile(r"C\(([^,()]+)(?:, Treatment\('.*?'\))?\)")


@dataclass(frozen=True)
class Finding:
    """The words around the numbers of a row."""

    text: str
    """What was found."""
    name: str | None = None
    """The estimate's name after a colon; None: the value follows `text` directly; "": it is not said."""
    of_metric: bool = False
    """Whether the estimate has the unit of the metric."""
    per: str = ""
    """What stands after its unit: ` per unit of age`."""
    percent: bool = False
    """Whether the estimate, a share, is written in per cent."""
    effect: str | None = None
    """The effect's name; None: as the row has it; "": it is not said."""
    people: str = ""
    """`n = 31/69`."""


@dataclass(frozen=True)
class Said:
    """A row, and whether its corrected p makes it a finding."""

    row: Result
    about: str
    tested: bool
    significant: bool


Words = Callable[[Said], Finding | None]


def finding(row: Result, *, tested: bool, significant: bool) -> Finding:
    """What a row that has an estimate says.

    Args:
        row: the result.
        tested: whether it has a p-value.
        significant: whether its corrected p is below alpha.
    """
    said = Said(row, subject(row), tested, significant)
    words = kinds().get(row.kind)
    found = words(said) if words is not None else None
    if found is None:
        text = f"{said.about}, {row.contrast}" if row.contrast else said.about
        found = Finding(text, row.estimate_name)
    if row.effect_name == row.estimate_name:
        found = replace(found, effect="")
    return found if found.people else replace(found, people=f"n = {row.n_groups or row.n}")


def kinds() -> Mapping[str, Words]:
    """Kind of analysis -> its words."""
    from somite.analysis.findings_prediction import logistic, roc
    from somite.analysis.findings_reliability import agreement, symptomatic_level

    return {
        "compare": compare,
        "correlate": correlate,
        "mixed": mixed,
        "profile": profile,
        "logistic": logistic,
        "roc": roc,
        "agreement": agreement,
        "symptomatic_level": symptomatic_level,
        "reference": reference,
    }


def difference(said: Said, contrast: str, sign: float, of: str = "") -> str:
    """`mean FA of the CC was lower in MS than in control`, of a contrast `MS - control`."""
    first, second = (of + side for side in contrast.split(" - ", 1))
    if not said.significant:
        return f"{said.about} did not differ detectably between {first} and {second}"
    return f"{said.about} was {'lower' if sign < 0 else 'higher'} in {first} than in {second}"


def trend(said: Said, column: str, sign: float) -> str:
    """`mean FA of the CC fell with age`."""
    if not said.significant:
        return f"{said.about} did not change detectably with {column}"
    return f"{said.about} {'fell' if sign < 0 else 'rose'} with {column}"


def plain_terms(text: str) -> str:
    """`C(group):age` -> `group:age`."""
    return _CODED.sub(r"\1", text)


def reference(said: Said) -> Finding:
    """Intervals of a group have the unit of the metric, the z scores of the others none."""
    row = said.row
    text = f"{said.about}, {row.contrast}" if row.contrast else said.about
    covariate = row.estimate_name.removeprefix("effect of ")
    return Finding(
        text,
        row.estimate_name,
        of_metric=not row.estimate_name.startswith("z against"),
        per=f" per unit of {covariate}" if covariate != row.estimate_name else "",
    )


def compare(said: Said) -> Finding | None:
    """Differences of two, tests of all groups, means."""
    row = said.row
    if row.contrast.startswith("mean of "):
        adjusted = f", adjusted for {_covariates(row)}," if row.covariates else ""
        return Finding(
            f"in {row.contrast.removeprefix('mean of ')}, {said.about}{adjusted} was", of_metric=True
        )
    if not said.tested:
        return None
    if ": " in row.contrast and "squared" in row.estimate_name:
        column, groups = row.contrast.split(": ", 1)
        differed = "differed" if said.significant else "did not differ detectably"
        text = f"{said.about} {differed} between the groups of {column} ({groups}){_given(row)}"
        return Finding(text, row.estimate_name)
    if " - " not in row.contrast:
        return None
    text = difference(said, row.contrast, row.estimate) + _given(row)
    return Finding(text, row.estimate_name, of_metric=True)


def _covariates(row: Result) -> str:
    return listed(row.covariates.split(";"))


def _given(row: Result) -> str:
    return f", adjusted for {_covariates(row)}" if row.covariates else ""


def correlate(said: Said) -> Finding | None:
    """Correlations with columns, of the sides, of measures."""
    row = said.row
    names = _CORRELATION.match(row.contrast)
    if names is None or not said.tested:
        return None
    a, b = names["a"], names["b"]
    given = f", given {_covariates(row)}," if row.covariates else ""
    word = "negatively" if row.estimate < 0 else "positively"
    if a == row.metric and said.significant:
        text = f"{said.about} was {word} correlated with {b}{given.rstrip(',')}"
    elif a == row.metric:
        text = f"no correlation of {said.about} with {b}{given} was detected"
    else:
        a, b = ("left", "right") if (a, b) == ("L", "R") else (a, b)
        text = f"{said.about}: {a} and {b} were {word} correlated{given.rstrip(',')}"
        if not said.significant:
            text = f"{said.about}: no correlation of {a} and {b}{given} was detected"
    return Finding(text, row.estimate_name)


def mixed(said: Said) -> Finding | None:
    """Fixed effects, terms of several, random effects."""
    row = said.row
    if row.contrast.startswith("SD of "):
        return _random(said, row.contrast.removeprefix("SD of "))
    if row.contrast.endswith(": all"):
        term = plain_terms(row.contrast.removesuffix(": all"))
        if ":" in term:
            did = "depended" if said.significant else "did not depend detectably"
            return Finding(
                f"the effects of {listed(term.split(':'))} on {said.about} {did} on each other", ""
            )
        differed = "differed" if said.significant else "did not differ detectably"
        return Finding(f"{said.about} {differed} between the values of {term}", "")
    return _fixed(said) if row.estimate_name == "fixed effect" else None


def _random(said: Said, name: str) -> Finding:
    per = f" per unit of {name.removeprefix('slope of ')}" if name.startswith("slope of ") else ""
    whose = {"participant": "between participants", "residual": "of the residuals"}.get(name, f"of {name}")
    text = f"in the mixed model of {said.about}, the SD {whose} was"
    return Finding(text, of_metric=True, per=per)


def _fixed(said: Said) -> Finding:
    row = said.row
    both = _INTERACTION.match(row.contrast)
    if both is not None:
        did = "depended" if said.significant else "did not depend detectably"
        text = f"the effects of {both['a']} and {both['b']} on {said.about} {did} on each other"
        return Finding(text, "interaction", of_metric=True)
    category = _CATEGORY.match(row.contrast)
    if category is not None:
        text = difference(
            said,
            f"{category['a']} - {category['b']}",
            row.estimate,
            f"{category['column'].removesuffix('_id')} ",
        )
        return Finding(text, "difference by the model", of_metric=True)
    text = trend(said, row.contrast, row.estimate)
    return Finding(text, "slope by the model", of_metric=True, per=f" per unit of {row.contrast}")


def profile(said: Said) -> Finding | None:
    """Nodes and clusters."""
    row = said.row
    of_cluster = row.contrast.startswith("cluster: ")
    contrast = row.contrast.removeprefix("cluster: ")
    sign = row.statistic_value if of_cluster else row.estimate
    column = contrast.removeprefix("slope of ")
    if column != contrast:
        text = trend(said, column, sign)
    elif " - " in contrast:
        text = difference(said, contrast, sign)
    else:
        return None
    text += "" if of_cluster else _given(row)
    per = f" per unit of {column}" if column != contrast and not of_cluster else ""
    return Finding(text, row.estimate_name, of_metric=not of_cluster, per=per)
