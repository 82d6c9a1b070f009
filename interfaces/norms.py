"""Make reference values from the controls of the cohort: a TSV that can be given to later studies.

The values hold for scans of the same protocol and scanner, and for segments drawn in the same way. Beside
them the same without each control in turn: nobody shall be judged by a norm that holds him.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from somite import clinical as columns
from somite.analysis import exclusions
from somite.analysis.long import Coded, Long, read_long, together
from somite.analysis.model import Cohort
from somite.analysis.outputs import write_json
from somite.analysis.people import KEYS, People, read_people
from somite.errors import Problem
from somite.metrics import MetricName
from somite.norms import NORMS_SCHEMA, NUMBERS, Norm, Sample, build, without_each, write_norms
from somite.registry import Context, StepConfig, step
from somite.segments import dictionary

Table = Annotated[Path, "Segments of all sessions, long, Parquet"]
Clinical = Annotated[Path, "Clinical table, TSV: participants.tsv, phenotype/*.tsv, sub-*_sessions.tsv"]
Quality = Annotated[Path, "Quality numbers of all sessions, wide, TSV"]
Exclusions = Annotated[Path, "Who and what is left out, TSV"]
PLACE = ("region", "side", "level", "segment", "extraction", "metric", "unit")
OWN = "own controls"
"""Source of a norm that was made here."""
NOTE = "controls of a cohort: for the same protocol, scanner and way of drawing"


class Config(StepConfig):
    """How norms are made; who is a control stands in the section `cohort`."""

    adjust: bool = True
    """Whether the values are adjusted linearly for age and sex, where they are known of every control."""
    min_controls: int = Field(5, ge=3)
    """Controls with a value below which a measure gets no reference."""
    metrics: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues", "perfusion_fraction")
    """Metrics that get a reference."""


@dataclass(frozen=True)
class Made:
    """Norms, and the same without each control in turn."""

    norms: list[Norm]
    without: pd.DataFrame
    """A row per measure and control: participant_id, the place, and the numbers of the norm of the others."""
    few: int = 0
    """Measures with too few controls."""
    constant: int = 0
    """Measures whose controls do not vary."""


def values_of_controls(long: Long, people: People, cohort: Cohort) -> pd.DataFrame:
    """A row per measure and control, sessions averaged: the place, participant_id, value, age, male.

    Raises:
        DatasetError: as `People.find`.
    """
    visit, keys = together([long.texts[key] for key in KEYS])
    kept = columns.controls(people, cohort, keys)[visit] & np.isfinite(long.numbers["value"])
    rows, visit = long.take(kept), visit[kept]
    age, male = columns.age_and_sex(people, cohort, keys)
    names = ("participant_id", *PLACE)
    texts = {name: _category(rows.texts[name]) for name in names}
    frame = pd.DataFrame({**texts, "value": rows.numbers["value"], "age": age[visit], "male": male[visit]})
    means = frame.groupby([*PLACE, "participant_id"], observed=True, sort=False)
    return means.agg({"value": "mean", "age": "mean", "male": "first"}).reset_index()


def _category(column: Coded) -> Any:
    return pd.Categorical.from_codes(column.codes, categories=list(column.words))  # type: ignore[call-overload]


def made_of(controls: pd.DataFrame, protocol: str, config: Config) -> Made:
    """Norms of every measure that enough controls have, whose values vary."""
    norms, without, few, constant = [], [], 0, 0
    for place, rows in controls.groupby(list(PLACE), observed=True, sort=False):
        values, age, male = (rows[name].to_numpy(np.float64) for name in ("value", "age", "male"))
        if len(values) < config.min_controls:
            few += 1
            continue
        if not np.ptp(values) > 0:
            constant += 1
            continue
        sample = Sample(values, age, male) if config.adjust else Sample(values)
        names: dict[str, Any] = dict(zip(PLACE, map(str, place), strict=True))
        about = names | build(sample) | {"protocol": protocol, "source": OWN, "note": NOTE}
        norms.append(Norm(**about))
        for who, numbers in zip(rows["participant_id"].astype(str), without_each(sample), strict=True):
            without.append({"participant_id": who, **names, **numbers})
    return Made(norms, _frame(without), few, constant)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows with all columns: numbers that a norm lacks have the default of `Norm`."""
    default = dict(zip(NORMS_NAMES, astuple(Norm("", "", "", "", "")), strict=True))
    names = ("participant_id", *PLACE)
    texts = {name: np.array([row[name] for row in rows], object) for name in names}
    numbers = {name: np.array([row.get(name, default[name]) for row in rows], float) for name in NUMBERS}
    return pd.DataFrame({**texts, **numbers})


NORMS_NAMES = tuple(column.name for column in NORMS_SCHEMA)


@step(
    makes={
        "norms": "Reference values of the cohort's controls, TSV",
        "norms_dictionary": "Their columns, JSON",
        "norms_without_each": "The same without each control in turn, Parquet",
    },
    dwi_copies=0.0,
)
def run(
    segments_parquet: Table,
    clinical: tuple[Clinical, ...],
    controls: Annotated[Path, "Who the controls are, and the columns of age and sex, JSON"],
    protocol: Annotated[Path, "Name of the protocol, text"],
    config: Config,
    context: Context,
    qc_wide: Quality | None = None,
    exclusion_list: Exclusions | None = None,
) -> tuple[Path, ...]:
    """Mean, SD and n of the controls for each measure, without whom and what the cohort excludes.

    Raises:
        DatasetError: the problems of the clinical tables and of the list of exclusions.
    """
    people, cohort = read_people(clinical, qc_wide), columns.read_cohort(controls)
    listed = exclusions.read_list(exclusion_list) if exclusion_list is not None else ()
    long, _ = exclusions.apply(
        read_long(segments_parquet, config.metrics, ["mean"]), people, cohort.exclude, listed
    )
    rows = values_of_controls(long, people, cohort)
    made = made_of(rows, protocol.read_text(encoding="utf-8"), config)
    _tell(made, rows, cohort, config, context)
    without = context.folder / "norms_without_each.parquet"
    made.without.to_parquet(without, index=False)
    return (
        write_norms(context.folder / "norms.tsv", made.norms),
        write_json(context.folder / "norms_dictionary.json", dictionary(NORMS_SCHEMA)),
        without,
    )


def _tell(made: Made, rows: pd.DataFrame, cohort: Cohort, config: Config, context: Context) -> None:
    adjusted = {
        "age": sum(math.isfinite(norm.age_mean) for norm in made.norms),
        "sex": sum(math.isfinite(norm.male_share) for norm in made.norms),
    }
    context.numbers |= {
        "norms": float(len(made.norms)),
        "controls": float(rows["participant_id"].nunique()),
        "measures_with_too_few_controls": float(made.few),
        "measures_without_spread": float(made.constant),
    } | {f"norms_adjusted_for_{name}": float(n) for name, n in adjusted.items()}
    for name, n in adjusted.items():
        if config.adjust and n < len(made.norms):
            what = f"{len(made.norms) - n} of {len(made.norms)} norms not adjusted for {name}"
            why = f"{getattr(cohort, name)} is not known of every control, or does not vary, or they are few"
            context.infer("norms", what, why)
    if not made.norms:
        who = ", ".join(f"{name} {'/'.join(words)}" for name, words in cohort.controls.items())
        context.warn(
            Problem(
                "NORMS_NONE",
                "no measure has enough controls for reference values",
                where="cohort.controls",
                found=f"{made.few} measures of fewer than {config.min_controls} controls, "
                f"{made.constant} whose controls do not vary",
                expected=f"at least {config.min_controls} people with {who} and a value",
                do="correct cohort.controls, or lower norms.min_controls",
                severity="warning",
            )
        )
