"""Make reference values from the controls of the cohort: a TSV that can be given to later studies.

The values hold for scans of the same protocol and scanner, and for segments drawn in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from somite.clinical import Person, age_of, male_of, read_clinical
from somite.errors import Problem
from somite.metrics import MetricName
from somite.norms import Norm, Sample, build, write_norms
from somite.registry import Context, StepConfig, step
from somite.segments import NA

Long = Annotated[Path, "Segments of all sessions, long, TSV"]
Clinical = Annotated[Path, "Clinical columns, TSV as participants.tsv"]
PLACE = ("region", "side", "level", "segment", "extraction", "metric", "protocol", "unit")


class Config(StepConfig):
    """Who is a control, and what age and sex are called."""

    group_column: str = "group"
    """Column of participants.tsv that tells controls from patients."""
    control: str = "control"
    """What it says of a control."""
    age_column: str = "age"
    """Column of participants.tsv with the age in years."""
    sex_column: str = "sex"
    """Column of participants.tsv with the sex: M, F."""
    adjust: bool = True
    """Whether the values are adjusted linearly for age and sex, where they are known of every control."""
    min_controls: int = Field(5, ge=3)
    """Controls with a value below which a measure gets no reference."""
    metrics: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues", "perfusion_fraction")
    """Metrics that get a reference."""


def read_means(path: Path, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Rows of the long table with a mean of one of the metrics; texts as text, empty for `n/a`."""
    texts = ["participant_id", "session_id", "run", "site", "rater", "roi_source", "model"]
    columns = [*texts, *PLACE, "statistic", "value", "qc_status", "pipeline_version"]
    table = pd.read_csv(
        path,
        sep="\t",
        usecols=columns,
        dtype={name: str for name in columns if name != "value"},
        na_values={"value": [NA]},
        keep_default_na=False,
        quoting=3,
    )
    table = table[(table["statistic"] == "mean") & table["metric"].isin(metrics) & table["value"].notna()]
    return table.replace({name: {NA: ""} for name in columns if name != "value"})


def norms_of(table: pd.DataFrame, people: dict[str, Person], config: Config) -> tuple[list[Norm], int]:
    """References of every measure that enough controls have, and how many measures had too few.

    Args:
        table: as of `read_means`; rows whose qc_status is `fail` are left out, several sessions of a person
            are averaged.
        people: clinical columns.
        config: see there.
    """
    controls = [name for name, one in people.items() if one.get(config.group_column) == config.control]
    kept = table[table["participant_id"].isin(controls) & (table["qc_status"] != "fail")]
    norms, few = [], 0
    for place, rows in kept.groupby(list(PLACE), sort=False):
        means = rows.groupby("participant_id")["value"].mean()
        if len(means) < config.min_controls:
            few += 1
            continue
        persons = [people[str(name)] for name in means.index]
        age = np.array([age_of(person, config.age_column) for person in persons])
        male = np.array([male_of(person, config.sex_column) for person in persons])
        values = means.to_numpy(np.float64)
        sample = Sample(values, age, male) if config.adjust else Sample(values)
        names = dict(zip(PLACE, map(str, place), strict=True))
        note = "controls of a cohort: for the same protocol, scanner and way of drawing"
        norms.append(Norm(**names, **build(sample), source="own controls", note=note))  # type: ignore[arg-type]
    return norms, few


@step(makes={"norms": "Reference values of the cohort's controls, TSV"}, dwi_copies=0.0)
def run(segments_table: Long, clinical: Clinical, config: Config, context: Context) -> Path:
    """Mean, SD and n of the controls for each measure.

    Raises:
        DatasetError: `CLINICAL_TABLE`.
    """
    people = read_clinical(clinical)
    norms, few = norms_of(read_means(segments_table, config.metrics), people, config)
    context.numbers |= {"norms": float(len(norms)), "measures_with_too_few_controls": float(few)}
    adjusted = sum(np.isfinite(norm.age_mean) or np.isfinite(norm.male_share) for norm in norms)
    context.numbers["norms_adjusted"] = float(adjusted)
    if config.adjust and adjusted < len(norms):
        context.infer("norms", "not adjusted", "age or sex is not known of every control, or does not vary")
    if not norms:
        context.warn(
            Problem(
                "NORMS_NONE",
                "no measure has enough controls for reference values",
                where=str(clinical),
                found=f"{few} measures of fewer than {config.min_controls} controls",
                expected=f"{config.group_column} {config.control} in the clinical table",
                do="give norms.group_column and norms.control as the table has them",
                severity="warning",
            )
        )
    return write_norms(context.folder / "norms.tsv", norms)
