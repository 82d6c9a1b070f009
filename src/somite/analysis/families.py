"""Correction for multiple comparisons: which tests belong together, and their adjusted p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.analysis.model import AnalysisConfig, Family, FamilyPart
from somite.analysis.results import Result
from somite.errors import ConfigError, Problem

METHODS: Mapping[str, str] = {
    "fdr_bh": "FDR, Benjamini-Hochberg",
    "fdr_by": "FDR, Benjamini-Yekutieli",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "none": "none",
}

NO_FAMILY = "none"
"""The family of a row whose p its own test has corrected."""


@dataclass(frozen=True)
class Adjusted:
    """What the family of a row says of it."""

    p_adjusted: float
    """NaN where the row has no p; p itself where the test has corrected it already."""
    correction: str
    family: str
    """NO_FAMILY where p was corrected already."""
    family_size: int
    """Tests in the family; rows without p do not count, nor do those whose p was corrected already."""


def name_of(row: Result, family: Family, by: Sequence[FamilyPart]) -> str:
    """The family of a row, split by some columns: `primary`, `primary [metric=fa]`."""
    if row.corrected_for:
        return NO_FAMILY
    parts = [f"{name}={getattr(row, name) or 'n/a'}" for name in by]
    return (family.name or row.analysis) + (f" [{', '.join(parts)}]" if parts else "")


def splits(
    rows: Sequence[Result], configs: Mapping[str, AnalysisConfig]
) -> dict[str, tuple[FamilyPart, ...]]:
    """Name of each analysis -> what splits its family: as declared; of a family without a name, by default
    as the kind has it, and of one with a name nothing."""
    found: dict[str, tuple[FamilyPart, ...]] = {}
    for name, config in configs.items():
        if config.family.by is not None:
            found[name] = config.family.by
        elif config.family.name:
            found[name] = ()
        else:
            found[name] = config.family_by({row.contrast for row in rows if row.analysis == name})
    return found


def check(configs: Sequence[AnalysisConfig]) -> list[Problem]:
    """Families whose analyses do not agree on how they are corrected: `FAMILY_DIFFERS`."""
    problems = []
    for name in dict.fromkeys(config.family.name for config in configs if config.family.name):
        mates = [config for config in configs if config.family.name == name]
        if len({(config.family.method, config.family.by or ()) for config in mates}) > 1:
            told = "; ".join(f"{c.name}: {c.family.method}, by {list(c.family.by or ())}" for c in mates)
            problems.append(
                Problem(
                    "FAMILY_DIFFERS",
                    f"the analyses of the family {name} are corrected differently",
                    ", ".join(f"analyses.{config.name}.family" for config in mates),
                    told,
                    "the same method and by in all of them",
                    "write the same, or give the families different names",
                )
            )
    return problems


def adjust(rows: Sequence[Result], configs: Mapping[str, AnalysisConfig]) -> list[Adjusted]:
    """Adjusted p-values, in the order of the rows.

    Args:
        rows: of all analyses that may share a family.
        configs: name of the analysis -> its options.

    Raises:
        ConfigError: the problems of `check`.
    """
    if problems := check(list(configs.values())):
        raise ConfigError.of(problems)
    by = splits(rows, configs)
    names = [name_of(row, configs[row.analysis].family, by[row.analysis]) for row in rows]
    p = np.array([row.p for row in rows], float)
    adjusted = np.full(len(rows), np.nan)
    size = dict.fromkeys(names, 0)
    place: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if rows[i].corrected_for:
            adjusted[i] = p[i]
        elif np.isfinite(p[i]):
            place.setdefault(name, []).append(i)
    for name, at in place.items():
        adjusted[at] = corrected(p[at], configs[rows[at[0]].analysis].family.method)
        size[name] = len(at)
    return [
        Adjusted(
            float(q),
            correction(row, configs[row.analysis].family),
            name,
            0 if row.corrected_for else size[name],
        )
        for row, name, q in zip(rows, names, adjusted, strict=True)
    ]


def correction(row: Result, family: Family) -> str:
    """How the p of a row is corrected, in words."""
    if row.corrected_for:
        return f"by its own test, for {row.corrected_for}"
    return METHODS[family.method]


def corrected(p: NDArray[np.float64], method: str) -> list[float]:
    """Adjusted p-values of one family (n,)."""
    if method == "none":
        return [float(x) for x in p]
    from statsmodels.stats.multitest import multipletests  # two seconds that planning does not need

    return [float(x) for x in multipletests(p, method=method)[1]]
