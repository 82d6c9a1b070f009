"""A result: one tidy row of one test or estimate, and what its columns mean.

A number that is not there is NaN, written `n/a`, and `reason` says why. What is known only when all analyses
have run (adjusted p-values, versions, the sentence) is added by `somite.analysis.outputs`, not here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from somite.analysis.model import AnalysisConfig
    from somite.analysis.selection import Selected

NAN = math.nan


@dataclass(frozen=True)
class Result:
    """One row. The identity of what was tested, the question, the numbers, and the words on them."""

    analysis: str
    kind: str
    region: str = ""
    side: str = ""
    level: str = ""
    segment: str = ""
    metric: str = ""
    statistic: str = ""
    contrast: str = ""
    """What is compared or related: `patient - control`, `L - R`, `r(fa, odi)`, `OR(fa per SD)`."""
    n: int = 0
    """People in the estimate."""
    n_groups: str = ""
    """People by group, in the order of the contrast: `31/69`."""
    estimate_name: str = ""
    """`mean difference`, `Pearson r`, `AUC`."""
    estimate: float = NAN
    se: float = NAN
    ci_low: float = NAN
    ci_high: float = NAN
    ci_method: str = ""
    """How the interval was made, with its level: `Welch t, 95 %`."""
    effect_name: str = ""
    """`Hedges g`."""
    effect: float = NAN
    effect_ci_low: float = NAN
    effect_ci_high: float = NAN
    test: str = ""
    """`Welch t test`."""
    statistic_name: str = ""
    """`t`, `F`, `U`, `z`."""
    statistic_value: float = NAN
    df: str = ""
    """Degrees of freedom as text: `57.3`, `2, 97`."""
    p: float = NAN
    """Two-sided unless `test` says otherwise; uncorrected unless `corrected_for` says otherwise."""
    corrected_for: str = ""
    """What p is corrected for as the test gives it: `the clusters of the profile`. Such a row is in no
    family."""
    formula: str = ""
    """The exact model: `value ~ C(group) + age`."""
    covariates: str = ""
    """Joined by `;`."""
    warnings: str = ""
    """Joined by `;`."""
    reason: str = ""
    """Why there is no number; empty where there is one."""
    seed: int | None = None
    """Of the random numbers; None where none were drawn."""

    @classmethod
    def of(cls, measure: Selected, config: AnalysisConfig, **numbers: Any) -> Result:
        """A row on one measure: identity, covariates and warnings are taken from it.

        Args:
            measure: what was tested. Its warnings come first, `warnings` of `numbers` (a text, or a sequence
                of texts) after them.
            config: the analysis.
            numbers: the other fields. Identity fields given here win: a row on several measures names them.
        """
        own = numbers.pop("warnings", ())
        words = [*measure.warnings, *([own] if isinstance(own, str) else own)]
        row: dict[str, Any] = {
            "analysis": config.name,
            "kind": config.kind,
            **measure.identity,
            "n": measure.n,
            "covariates": ";".join(config.covariates),
            "warnings": joined(words),
        }
        return cls(**(row | numbers))

    @classmethod
    def without(cls, measure: Selected, config: AnalysisConfig, reason: str, **numbers: Any) -> Result:
        """A row that has no number, and why; where nobody is left, who was left out for what."""
        if measure.left_out and measure.frame.empty:
            reason += f" ({', '.join(f'{why}: {n}' for why, n in measure.left_out.items())})"
        return cls.of(measure, config, reason=reason, **numbers)


def joined(words: Sequence[str]) -> str:
    """Words joined by `;`, each once."""
    return ";".join(dict.fromkeys(word for word in words if word))


def counted(n: int, noun: str) -> str:
    """`1 participant`, `3 participants`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def df_text(*df: float) -> str:
    """Degrees of freedom for the column `df`: whole ones without a point, others with four digits."""
    return ", ".join(f"{x:.0f}" if float(x).is_integer() else f"{x:.6g}" for x in df)


@dataclass(frozen=True)
class Column:
    """A column of the results."""

    kind: Literal["text", "number", "count"]
    description: str
    units: str = ""


_OF_ESTIMATE = "that of the metric for a difference, 1 for a ratio or correlation"
COLUMNS: Mapping[str, Column] = {
    "analysis": Column("text", "Name of the analysis in the configuration"),
    "kind": Column("text", "Kind of the analysis"),
    "region": Column("text", "Structure; * where the row rests on several"),
    "side": Column(
        "text", "L, R, midline; affected and unaffected by the clinical table; mean(L,R) where aggregated"
    ),
    "level": Column("text", "Level of the spine; * where the row rests on several"),
    "segment": Column("text", "Part of the structure; n/a for the whole"),
    "metric": Column("text", "What was measured, as in the table of segments"),
    "statistic": Column("text", "How the voxels were summed up, as in the table of segments"),
    "contrast": Column("text", "What is compared or related, in the direction of the estimate"),
    "n": Column("count", "People in the estimate"),
    "n_groups": Column("text", "People by group, in the order of the contrast"),
    "estimate_name": Column("text", "What the estimate is"),
    "estimate": Column("number", "The estimate", _OF_ESTIMATE),
    "se": Column("number", "Standard error of the estimate", _OF_ESTIMATE),
    "ci_low": Column("number", "Lower end of the interval of the estimate", _OF_ESTIMATE),
    "ci_high": Column("number", "Upper end of the interval of the estimate", _OF_ESTIMATE),
    "ci_method": Column("text", "How the interval was made, and its level"),
    "effect_name": Column("text", "What the effect size is"),
    "effect": Column("number", "Effect size", "1"),
    "effect_ci_low": Column("number", "Lower end of the interval of the effect size", "1"),
    "effect_ci_high": Column("number", "Upper end of the interval of the effect size", "1"),
    "test": Column("text", "Test that gives p"),
    "statistic_name": Column("text", "Symbol of the test statistic"),
    "statistic_value": Column("number", "Test statistic", "1"),
    "df": Column("text", "Degrees of freedom"),
    "p": Column(
        "number", "p-value, two-sided unless the test says otherwise, not corrected for the family", "1"
    ),
    "corrected_for": Column(
        "text", "What p is corrected for as the test gives it; such a row is in no family; n/a for nothing"
    ),
    "formula": Column("text", "The exact model"),
    "covariates": Column("text", "Covariates, joined by ;"),
    "warnings": Column("text", "What to mind when reading the row, joined by ;"),
    "reason": Column("text", "Why there is no number; n/a where there is one"),
    "seed": Column("count", "Seed of the random numbers; n/a where none were drawn"),
}
"""Field of `Result` -> what the column means, in the order of the table."""

assert tuple(COLUMNS) == tuple(field.name for field in fields(Result))
