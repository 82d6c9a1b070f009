"""Compare every measure with its reference values: a z-score per reference, with what it is worth.

A table of its own: a score without its source and its caveat would mislead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from somite.analysis.outputs import write_json
from somite.analysis.people import KEYS, read_people
from somite.clinical import age_and_sex, read_cohort
from somite.errors import DatasetError, Problem
from somite.interfaces.norms import OWN as OWN_SOURCE
from somite.interfaces.norms import PLACE, Clinical
from somite.long_table import SESSION
from somite.metrics import METRICS
from somite.norms import NUMBERS, Norm, chosen, read_norms, scores, shipped
from somite.registry import Context, StepConfig, step
from somite.segments import NA, SCHEMA, Column, dictionary, write_table

Long = Annotated[Path, "Segments of all sessions, long, TSV"]


class Config(StepConfig):
    """Which references; those of the user and of the cohort's controls stand in the section `cohort`."""

    shipped: bool = True
    """Whether the published values that come with Somite are compared with."""


COHORT = "controls of this cohort: no cut-off, and holds only for their scanner and way of drawing"
WITHOUT = "; a control, held against the others"
PUBLISHED = "published values of another protocol: not portable, no cut-off"
OTHER = "reference of another protocol: not portable, no cut-off"
OWN = "same protocol by name: holds only for the same scanner and way of drawing"

_MATCHED = ("region", "side", "level", "segment", "extraction", "metric", "statistic")
_PLACE = (*_MATCHED, "value", "unit")
_SHARED = (*SESSION, *_PLACE, "qc_status", "pipeline_version")
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


def read_means(path: Path) -> pd.DataFrame:
    """Rows of the long table with a mean of a metric; texts as text, empty for `n/a`."""
    columns = [name for name in _SHARED if name != "value"]
    table = pd.read_csv(
        path,
        sep="\t",
        usecols=list(_SHARED),
        dtype=dict.fromkeys(columns, str),
        na_values={"value": [NA]},
        keep_default_na=False,
        quoting=3,
    )
    table = table[(table["statistic"] == "mean") & table["metric"].isin(METRICS) & table["value"].notna()]
    return table.replace({name: {NA: ""} for name in columns}).reset_index(drop=True)


def caveat_of(norm: Norm, protocol: str) -> str:
    """What a score of this reference is worth for a scan of this protocol."""
    if norm.portable == "yes":
        return ""
    if norm.protocol == protocol and norm.source == OWN_SOURCE:
        return OWN
    return OTHER if norm.source == OWN_SOURCE else PUBLISHED


@dataclass(frozen=True)
class References:
    """All that measures are compared with."""

    others: tuple[Norm, ...] = ()
    """Given and published."""
    own: tuple[Norm, ...] = ()
    """Of the cohort's controls."""
    without: pd.DataFrame | None = None
    """For each control, the norms of the other controls; see `norms.Made`."""

    def check(self) -> None:
        """Refuse a given table that was made from this very cohort: its people would judge themselves.

        Raises:
            DatasetError: `NORMS_CIRCULAR`.
        """
        numbers = {_short(norm) for norm in self.own}
        same = [norm for norm in self.others if _short(norm) in numbers]
        if same:
            raise DatasetError(
                Problem(
                    "NORMS_CIRCULAR",
                    "the reference values that are given were made from this cohort's own controls",
                    where="cohort.norms",
                    found=f"{len(same)} values of group/norms.tsv, as {same[0].region} {same[0].metric}",
                    expected="values of other people",
                    do="leave cohort.norms out: the cohort's own norms are compared with anyway, and each "
                    "control with those of the others",
                )
            )


def _short(norm: Norm) -> tuple[object, ...]:
    place = tuple(getattr(norm, name) for name in _MATCHED)
    return (*place, *(f"{x:.6g}" for x in (norm.mean, norm.sd, norm.n)))


def matches(table: pd.DataFrame, found: References) -> pd.DataFrame:
    """A row for each measure and reference of it, in the order of the table: `row`, `caveat`, and the norm.

    Args:
        table: of `read_means`.
        found: the references.
    """
    own = {tuple(getattr(norm, name) for name in _MATCHED): norm for norm in found.own}
    parts = []
    places: Any = table.groupby(list(_MATCHED), sort=False).indices
    for place, rows in places.items():
        texts = dict(zip(_MATCHED, map(str, place), strict=True))
        mine = own.get(tuple(texts.values()))
        norms = [*([mine] if mine is not None else []), *chosen(found.others, texts)]
        for order, norm in enumerate(norms):
            part: dict[str, Any] = {"row": rows, "order": order, "own": norm is mine}
            parts.append(pd.DataFrame(part | {name: getattr(norm, name) for name in _TAKEN}))
    if not parts:
        return pd.DataFrame(columns=["row", "order", "own", "caveat", *_TAKEN])
    pairs = pd.concat(parts, ignore_index=True).sort_values(["row", "order"], ignore_index=True)
    protocols = table["protocol"].to_numpy()[pairs["row"]]
    kinds = pairs[["source", "portable", "protocol"]].assign(of=protocols)
    told = {
        kind: caveat_of(Norm("", "", "", "", "", source=kind[0], portable=kind[1], protocol=kind[2]), kind[3])
        for kind in set(kinds.itertuples(index=False, name=None))
    }
    caveats = [told[kind] for kind in kinds.itertuples(index=False, name=None)]
    pairs["caveat"] = np.where(pairs["own"], COHORT, caveats)
    return pairs if found.without is None else _left_out(table, pairs, found.without)


_TAKEN = (*NUMBERS, "unit", "protocol", "source", "portable", "note")


def _left_out(table: pd.DataFrame, pairs: pd.DataFrame, without: pd.DataFrame) -> pd.DataFrame:
    """The pairs, those of controls with their own norms having the numbers of the others."""
    names = ["participant_id", *(name for name in PLACE if name != "unit")]
    keys = pd.MultiIndex.from_frame(table.loc[pairs["row"], names])
    place = pd.MultiIndex.from_frame(without[names]).get_indexer(keys)
    mine = pairs["own"].to_numpy(bool) & (place >= 0)
    pairs.loc[mine, list(NUMBERS)] = without.loc[place[mine], list(NUMBERS)].to_numpy()
    pairs.loc[mine, "caveat"] += WITHOUT
    return pairs


def scored(table: pd.DataFrame, pairs: pd.DataFrame, age: Any, male: Any) -> Iterator[dict[str, object]]:
    """A row of the result for each pair; age and male of every row of the table."""
    at = pairs["row"].to_numpy(np.intp)
    rows = table.iloc[at]
    numbers = {name: pairs[name].to_numpy(np.float64) for name in NUMBERS}
    found = scores(rows["value"].to_numpy(np.float64), numbers, age[at], male[at])
    fit = (pairs["unit"].to_numpy() == rows["unit"].to_numpy()).tolist()
    shared = rows[list(_SHARED)].itertuples(index=False, name=None)
    of_norm = pairs[["sd", "n", "protocol", "source", "note", "caveat", "unit"]]
    for i, (row, norm) in enumerate(zip(shared, of_norm.itertuples(index=False), strict=True)):
        about = {
            "reference_sd": norm.sd,
            "reference_n": norm.n,
            "reference_protocol": norm.protocol,
            "source": norm.source,
            "note": norm.note,
            "caveat": norm.caveat,
        }
        result: dict[str, object] = {"reason": f"the reference is in {norm.unit}"}
        if fit[i]:
            result = {
                "reference_mean": found.expected[i],
                "z": found.z[i],
                "z_prediction": found.z_prediction[i],
                "reason": str(found.reason[i]),
            }
        yield dict(zip(_SHARED, row, strict=True)) | about | result


@step(
    makes={
        "reference": "Measures beside their reference values, with z-scores, TSV",
        "reference_dictionary": "Its columns, JSON",
    },
    dwi_copies=0.0,
)
def run(
    segments_table: Long,
    config: Config,
    context: Context,
    norms: Annotated[Path, "Reference values of the cohort's controls, TSV"] | None = None,
    norms_without_each: Annotated[Path, "The same without each control, Parquet"] | None = None,
    norms_given: Annotated[Path, "Reference values, TSV or YAML"] | None = None,
    clinical: tuple[Clinical, ...] | None = None,
    age_sex: Annotated[Path, "The clinical columns of age and sex, JSON"] | None = None,
) -> tuple[Path, ...]:
    """Score the means of all sessions: against the cohort's own norms, those given, and published ones.

    Raises:
        DatasetError: `NORMS`, `NORMS_CIRCULAR`, the problems of the clinical tables.
    """
    given = () if norms_given is None else read_norms(norms_given)
    without = None if norms_without_each is None else pd.read_parquet(norms_without_each)
    own = () if norms is None else read_norms(norms)
    found = References((*given, *(shipped() if config.shipped else ())), own, without)
    found.check()
    table = read_means(segments_table)
    age, male = _ages(table, clinical or (), age_sex)
    pairs = matches(table, found)
    context.numbers["scores"] = float(len(pairs))
    path = write_table(context.folder / "reference.tsv", scored(table, pairs, age, male), REFERENCE_SCHEMA)
    return path, write_json(context.folder / "reference_dictionary.json", dictionary(REFERENCE_SCHEMA))


def _ages(table: pd.DataFrame, clinical: Sequence[Path], columns: Path | None) -> tuple[Any, Any]:
    """Age and sex of the person of every row."""
    if columns is None:
        return np.full(len(table), np.nan), np.full(len(table), np.nan)
    visits = list(table[list(KEYS)].itertuples(index=False, name=None))
    different = list(dict.fromkeys(visits))
    age, male = age_and_sex(read_people(clinical), read_cohort(columns), different)
    place = {visit: i for i, visit in enumerate(different)}
    at = np.array([place[visit] for visit in visits], np.intp)
    return age[at], male[at]
