"""A marker of an outcome: a measure turned so that the event has the higher scores, and its resamples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from somite.analysis import delong, resampling
from somite.analysis.model import Factor, Requirement, Text
from somite.analysis.outcome import Bools, Floats, Name, OutcomeConfig, chosen, names_of, sizes, two_classes
from somite.analysis.selection import Selected

Direction = Literal["higher", "lower"]


class MarkerConfig(OutcomeConfig):
    """Options of ROC analyses."""

    direction: Literal["auto", "higher", "lower"] | Mapping[Text, Direction] = "auto"
    """Whether people with the event have higher or lower values; by metric: {fa: lower, md: higher}. auto: as
    the data have it, so that no area is below one half, which flatters areas near it; a warning says so."""
    interval: Literal["logit", "plain", "newcombe", "bootstrap"] | None = None
    """Interval of the area. logit: DeLong's variance on the logit scale (default). plain: symmetric, as pROC
    gives it. newcombe: exists for areas of 1 too. bootstrap: the variance over resampled participants, on the
    logit scale (default with `repeated`): percentiles hold the truth too rarely with few participants."""
    repeated: tuple[Factor, ...] = ()
    """What varies within a participant: [level, side] takes all roots of a patient in one curve. Intervals
    and comparisons are then those of the cluster bootstrap."""
    compare: tuple[Name, ...] = ()
    """Measures that differ in nothing else are compared in pairs: [metric] compares fa and md of a place."""
    between: Text | None = None
    """Clinical column: the areas of its groups, different people, are compared in pairs."""
    combine: tuple[Name, ...] = ()
    """Measures that differ in nothing else are combined by logistic regression: [metric] joins fa and md of
    each place. Their area is given as it appears, and after cross-validation."""
    cutoff: Literal["youden", "none"] | float = "youden"
    """Cut-off whose sensitivity and specificity are given: Youden's, a number of your own, or none."""
    prevalence: float | None = Field(
        None, gt=0, lt=1, description="Share of events among the people to whom predictive values apply"
    )
    resamples: int = Field(2000, ge=200, le=100_000, description="Resamples of a bootstrap")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.covariates:
            raise ValueError("covariates: a ROC curve takes none; model them with kind: logistic")
        if self.repeated and self.interval not in (None, "bootstrap"):
            raise ValueError(
                "interval: with `repeated` only bootstrap holds, for rows that depend on each other"
            )
        if self.repeated and (self.combine or self.between):
            raise ValueError("repeated: combine and between take one row per participant; use aggregate")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """The outcome, unless it is a place or visit of the row itself, and the groups of `between`."""
        groups = () if self.between is None else (Requirement(self.between, "between", "groups"),)
        return (*(r for r in super().requirements() if r.name not in self.repeated), *groups)

    def within(self) -> tuple[Factor, ...]:
        """What is repeated."""
        return self.repeated


@dataclass(frozen=True)
class Marker:
    """A measure of people of both outcomes, turned so that the event has the higher scores."""

    measure: Selected
    name: str
    score: Floats
    event: Bools
    sign: int
    """-1 where the score is the value with its sign turned."""
    drawn: resampling.Counts
    """(b, n) Resamples, the same for all markers of the same people."""
    words: tuple[str, ...]

    @property
    def common(self) -> dict[str, Any]:
        """Fields that all its rows share."""
        people = int(self.measure.frame["participant_id"].nunique())
        rows = " rows" if people < len(self.event) else ""
        return {"n": people, "n_groups": sizes(self.event) + rows, "warnings": self.words}


def marker_of(measure: Selected, values: Floats, config: MarkerConfig) -> Marker | str:
    """The marker, or why there is none. `values` (n,) are the scores, in the order of the frame."""
    kept, event, reason = two_classes(measure, values[:, None], config)
    if reason:
        return reason
    few, score = chosen(measure, kept), values[kept]
    auc = delong.placements(score, event).auc
    given = config.direction
    direction = given if isinstance(given, str) else given.get(measure.metric, "auto")
    sign = -1 if direction == "lower" or (direction == "auto" and auc < 0.5) else 1
    words = ("direction from the data: flatters areas near 0.5",) if direction == "auto" else ()
    people = np.unique(few.frame["participant_id"].to_numpy(), return_inverse=True)[1]
    drawn = resampling.draws(people, event, few.random(config.seed), config.resamples)
    return Marker(few, names_of([measure])[0], sign * score, event, sign, drawn, words)


def formula(config: MarkerConfig, *names: str) -> str:
    """The model in words."""
    return f"{config.outcome} = {config.event} ~ {' + '.join(names)}"
