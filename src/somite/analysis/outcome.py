"""What `logistic` and `roc` share: an outcome of two values, and several measures of the same people."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from somite.analysis import design
from somite.analysis.location import is_constant
from somite.analysis.model import AnalysisConfig, Requirement, Text
from somite.analysis.results import counted
from somite.analysis.selection import IDENTITY, MANY, Selected

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Name = Literal["metric", "statistic", "region", "side", "level", "segment"]
"""A part of a measure's identity."""
DESCRIPTIVE = "none: descriptive"
"""For the column ci_method of a number that has no interval."""


class OutcomeConfig(AnalysisConfig):
    """Options of the kinds that predict an outcome of two values."""

    outcome: Text
    """Column of the outcome: diagnosis, weakness."""
    event: Text
    """The value of it whose probability is modelled: ALS, 1. The others are what it is told from."""
    other: Text | None = None
    """The value that it is told from. Default: the only other one; of three or more it must be named."""
    folds: int = Field(5, ge=2, le=20, description="Parts of the cross-validation")
    repeats: int = Field(
        20, ge=1, le=1000, description="How often the cross-validation is repeated, with other parts"
    )

    def requirements(self) -> tuple[Requirement, ...]:
        """The covariates, and the outcome."""
        levels = (self.event,) if self.other is None else (self.event, self.other)
        own = Requirement(self.outcome, "outcome", "groups", levels, names="event")
        return (own, *super().requirements())


def two_classes(measure: Selected, values: Floats, config: OutcomeConfig) -> tuple[Bools, Bools, str]:
    """Which rows have one of the two outcomes (n,), which of those the event (m,), and a reason or "".

    The reason says why nothing can be done: nobody, one class, a constant among the values (n, k).
    """
    labels = design.group_text(measure.frame[config.outcome])
    others = {config.other} if config.other is not None else set(labels) - {config.event}
    kept = np.isin(labels, [config.event, *others])
    event = np.asarray(labels[kept] == config.event, np.bool_)
    return kept, event, _fault(values[kept], event, sorted(map(str, others)), config)


def _fault(values: Floats, event: Bools, others: Sequence[str], config: OutcomeConfig) -> str:
    if not len(event):
        return "no values: all are missing or left out"
    if len(others) > 1:
        return f"{config.outcome} has several other values ({', '.join(others)}): name one in `other`"
    if event.all() and not others:
        return f"one class: everybody with a value has {config.outcome} {config.event}"
    for side, word in ((event, config.event), (~event, " ".join(others))):
        if not side.any():
            return f"one class: nobody with a value has {config.outcome} {word}"
    if any(is_constant(column) for column in values.T):
        return "all values are the same"
    return ""


def chosen(measure: Selected, kept: Bools) -> Selected:
    """The measure with some of its rows (n,)."""
    return with_frame(measure, measure.frame[kept])


def sizes(event: Bools) -> str:
    """People with and without the event: `31/69`."""
    return f"{int(event.sum())}/{int((~event).sum())}"


def with_frame(measure: Selected, frame: pd.DataFrame, warnings: Sequence[str] = ()) -> Selected:
    """The measure with another frame, and further warnings."""
    names: Any = measure.identity
    return Selected(
        **names,
        frame=frame.reset_index(drop=True),
        unit=measure.unit,
        left_out=measure.left_out,
        warnings=(*measure.warnings, *warnings),
    )


def groups_of(measures: Sequence[Selected], vary: Iterable[Name]) -> list[list[Selected]]:
    """Measures that differ in nothing but the parts of the identity named, each group in its order."""
    free = set(vary)
    found: dict[Hashable, list[Selected]] = {}
    for measure in measures:
        key = tuple(text for name, text in measure.identity.items() if name not in free)
        found.setdefault(key, []).append(measure)
    return list(found.values())


def names_of(measures: Sequence[Selected]) -> list[str]:
    """Short names: what tells the measures apart (`fa`, `L5 fa`); the metric where there is one only."""
    telling = [
        name for name in IDENTITY[2:] + IDENTITY[:2] if len({getattr(m, name) for m in measures}) > 1
    ] or ["metric"]
    return [" ".join(getattr(m, name) for name in telling if getattr(m, name)) for m in measures]


def together(measures: Sequence[Selected]) -> tuple[Selected, Floats]:
    """Several measures of the same people as one: those who have them all, and their values (n, k).

    The identity is `*` where the measures differ; `value` of the frame is that of the first.
    """
    keys = [
        "participant_id",
        *(name for name in ("region", "side", "level", "segment") if _varies(measures, name)),
    ]
    values = [m.frame.set_index(keys)["value"] for m in measures]
    shared = pd.concat(values, axis=1, join="inner", keys=range(len(values)))
    frame = measures[0].frame.set_index(keys, drop=False).loc[shared.index]
    everyone = {person for m in measures for person in m.frame["participant_id"]}
    lacking = len(everyone - set(frame["participant_id"]))
    words = []
    if lacking:
        words = [f"left out, as they lack one of the measures: {counted(lacking, 'participant')}"]
    identity: dict[str, Any] = {
        name: measures[0].identity[name] if len({getattr(m, name) for m in measures}) == 1 else MANY
        for name in IDENTITY
    }
    left_out = {reason: n for m in measures for reason, n in m.left_out.items()}
    warnings = tuple(dict.fromkeys([*(w for m in measures for w in m.warnings), *words]))
    one = Selected(
        **identity,
        frame=frame.reset_index(drop=True),
        unit=measures[0].unit,
        left_out=left_out,
        warnings=warnings,
    )
    return one, shared.to_numpy(float)


def _varies(measures: Sequence[Selected], name: str) -> bool:
    """Whether a place varies within each of the measures, so that it tells the rows of a person apart."""
    return all(getattr(m, name) == MANY for m in measures)
