"""Compare every measure with its reference values: a z-score per reference, with what it is worth.

A table of its own: a score without its source and its caveat would mislead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from somite.clinical import Person, age_of, male_of, read_clinical
from somite.interfaces.norms import Clinical, Long, read_means
from somite.long_table import SESSION
from somite.metrics import METRICS
from somite.norms import Norm, chosen, read_norms, score, shipped
from somite.registry import Context, StepConfig, step
from somite.segments import SCHEMA, Column, write_table


class Config(StepConfig):
    """Which references, and what age and sex are called."""

    shipped: bool = True
    """Whether the published values that come with Somite are compared with."""
    age_column: str = "age"
    """Column of participants.tsv with the age in years."""
    sex_column: str = "sex"
    """Column of participants.tsv with the sex: M, F."""


PUBLISHED = "published values of another protocol: not portable, no cut-off"
OTHER = "reference of another protocol: not portable, no cut-off"
OWN = "same protocol by name: holds only for the same scanner and way of drawing"

_PLACE = ("region", "side", "level", "segment", "extraction", "metric", "statistic", "value", "unit")
_KNOWN = {column.name: column for column in SCHEMA}
REFERENCE_SCHEMA: tuple[Column, ...] = (
    *(_KNOWN[name] for name in (*SESSION, *_PLACE)),
    Column(
        "reference_mean",
        "number",
        "Mean of the reference, for this age and sex if it is adjusted",
        "see unit",
    ),
    Column("reference_sd", "number", "Standard deviation between the people of the reference", "see unit"),
    Column("reference_n", "number", "People of the reference"),
    Column("z", "number", "value minus reference_mean, over reference_sd"),
    Column(
        "z_prediction",
        "number",
        "Normal deviate of where a new person's value lies in the prediction interval of the reference",
    ),
    Column("reference_protocol", "text", "Protocol of the reference"),
    Column("source", "text", "DOI or address of the reference"),
    Column("note", "text", "What the reference says of itself"),
    Column("caveat", "text", "What the score is worth"),
    *(_KNOWN[name] for name in ("qc_status", "reason", "pipeline_version")),
)


def caveat_of(norm: Norm, protocol: str) -> str:
    """What a score of this reference is worth for a scan of this protocol."""
    if norm.portable == "yes":
        return ""
    if norm.protocol == protocol and norm.source == "own controls":
        return OWN
    return OTHER if norm.source == "own controls" else PUBLISHED


def scores(
    rows: Iterator[Mapping[str, object]],
    norms: tuple[Norm, ...],
    people: Mapping[str, Person],
    config: Config,
) -> Iterator[dict[str, object]]:
    """A row for each measure and reference of it."""
    for row in rows:
        texts = {name: str(row[name]) for name in (*SESSION, *_PLACE)}
        person = people.get(texts["participant_id"])
        for norm in chosen(norms, texts):
            age, male = age_of(person, config.age_column), male_of(person, config.sex_column)
            shared = {name: row[name] for name in (*SESSION, *_PLACE, "qc_status", "pipeline_version")}
            own = {
                "reference_sd": norm.sd,
                "reference_n": norm.n,
                "reference_protocol": norm.protocol,
                "source": norm.source,
                "note": norm.note,
                "caveat": caveat_of(norm, texts["protocol"]),
            }
            if norm.unit != row["unit"]:
                yield shared | own | {"reason": f"the reference is in {norm.unit}"}
                continue
            found = score(float(str(row["value"])), norm, age, male)
            yield {
                **shared,
                **own,
                "reference_mean": found.expected,
                "z": found.z,
                "z_prediction": found.z_prediction,
                "reason": found.reason,
            }


@step(makes={"reference": "Measures beside their reference values, with z-scores, TSV"}, dwi_copies=0.0)
def run(
    segments_table: Long,
    config: Config,
    context: Context,
    norms_given: Annotated[Path, "Reference values, TSV or YAML"] | None = None,
    clinical: Clinical | None = None,
) -> Path:
    """Score the means of all sessions.

    Raises:
        DatasetError: `NORMS`, `CLINICAL_TABLE`.
    """
    given = () if norms_given is None else read_norms(norms_given)
    norms = (*given, *(shipped() if config.shipped else ()))
    people = {} if clinical is None else read_clinical(clinical)
    table = read_means(segments_table, tuple(METRICS))
    rows = (dict(zip(table.columns, values, strict=True)) for values in table.itertuples(index=False))
    found = list(scores(rows, norms, people, config))
    context.numbers["scores"] = float(len(found))
    return write_table(context.folder / "reference.tsv", found, REFERENCE_SCHEMA)
