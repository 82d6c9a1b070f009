"""Segments, and the table of what was measured in them: names, columns, units and data dictionary.

A segment is a place in the body that gets rows of its own: region, side, level and segment (the part of the
region). Label tables name segments, the configuration expects them, the table reports them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from somite.errors import DatasetError, Problem
from somite.metrics import DIFFUSIVITY, STATISTICS
from somite.metrics import METRICS as METRICS
from somite.metrics import MetricName as MetricName
from somite.zones import zone_of

Side = Literal["L", "R", "midline", ""]

NA = "n/a"
"""How BIDS writes a value that is not there."""
WIDE_SEPARATOR = "__"
"""Joins metric, statistic, region, side, level and segment to the name of a column of the wide table."""


@dataclass(frozen=True)
class Segment:
    """A place in the body. `""` where a part of the name does not apply."""

    region: str
    side: str = ""
    level: str = ""
    segment: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in astuple(self) if part) or NA


@dataclass(frozen=True)
class Label:
    """One row of a label table: the value of its voxels, its name, and the segment that they belong to."""

    index: int
    name: str
    segment: Segment


def word_fault(text: str) -> str:
    """Why `text` cannot be a part of a segment's name; `""` when it can.

    The names of the wide table's columns are parts joined by `__`: a part that holds it, or begins or ends
    with `_`, could not be told from its neighbours.
    """
    if WIDE_SEPARATOR in text or text != text.strip("_"):
        return "'_' may stand only singly and inside"
    if text != " ".join(text.split()):
        return "spaces may stand only singly and inside"
    return character_fault(text)


def character_fault(text: str) -> str:
    """Why `text` cannot stand in a table, a figure and a page alike; `""` when it can.

    SVG and HTML know no control characters, and a quote makes a reader of CSV join the rows that follow.
    """
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "control characters may not stand in it"
    return "double quotes may not stand in it" if '"' in text else ""


def _word(text: str) -> str:
    if fault := word_fault(text):
        raise ValueError(f"{text!r}: {fault}")
    return text


Word = Annotated[str, AfterValidator(_word)]


class SegmentGroup(BaseModel):
    """Segments that the table shall hold: every combination of sides, levels and segments of one region."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    region: Annotated[Word, Field(min_length=1)]
    """Structure, as in the column `region` of the label tables: `nerve_root`, `disc`, `gracilis`, `CST`."""
    sides: Annotated[tuple[Side, ...], Field(min_length=1)] = ("midline",)
    """Sides of the body; `""` where the label table gives none."""
    levels: Annotated[tuple[Word, ...], Field(min_length=1)] = ("",)
    """Levels along the spine: `L5`, `L4-L5`; `""` where there are none."""
    segments: Annotated[tuple[Word, ...], Field(min_length=1)] = ("",)
    """Parts of the structure: `foraminal_drg`, `np`, `proximal`; `""` for the whole."""

    def expand(self) -> tuple[Segment, ...]:
        """The segments: level by level, within it side by side, within it part by part."""
        return tuple(
            Segment(self.region, side, level, zone_of(self.region, segment))
            for level, side, segment in product(self.levels, self.sides, self.segments)
        )


def expand(groups: Iterable[SegmentGroup]) -> tuple[Segment, ...]:
    """The segments of all groups, in their order, each once."""
    return tuple(dict.fromkeys(segment for group in groups for segment in group.expand()))


def by_segment(labels: Iterable[Label]) -> dict[Segment, tuple[int, ...]]:
    """Segment -> values of its voxels, in the order of the table. Several labels may be one segment."""
    indices: dict[Segment, tuple[int, ...]] = {}
    for label in labels:
        indices[label.segment] = (*indices.get(label.segment, ()), label.index)
    return indices


def carries(carried: Iterable[Segment], wanted: Segment) -> bool:
    """Whether a label is the wanted segment, or the whole that it is cut from.

    A whole has no level or no segment of its own: a disc is cut into nucleus and annulus, a muscle into
    slabs. Region and side are never wider.
    """
    return any(
        one.region == wanted.region
        and one.side == wanted.side
        and one.level in (wanted.level, "")
        and one.segment in (wanted.segment, "")
        for one in carried
    )


def read_label_table(path: Path) -> tuple[Label, ...]:
    """Read the TSV of a BIDS label image: `index` and `name`, optionally region, side, level, segment.

    Without a `region` the name is the region. No side is ever inferred from a name or an index. `n/a` and an
    empty field are "". The zones of nerve roots get one name each (`zones.zone_of`). The row of index 0, the
    background, is left out.

    Raises:
        DatasetError: `LABEL_TABLE`, one Problem for each mistake: the file cannot be read, a column is
            missing or double, a row has too few or too many fields, an index is not a whole number of at
            least 0 or is given twice, a side is not one of L, R, midline, n/a, or a word cannot be a part of
            a segment's name.
    """
    lines = _lines(path)
    header = [name.strip() for name in lines[0].split("\t")]
    problems = _header_problems(path, header)
    if problems:
        raise DatasetError.of(problems)
    labels: dict[int, Label] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = ["" if text.strip() == NA else text.strip() for text in line.split("\t")]
        where = f"{path}, line {number}"
        if len(fields) != len(header):
            problems.append(
                _label_problem("a row has not one field per column", where, len(fields), len(header))
            )
            continue
        row = dict(zip(header, fields, strict=True))
        if faults := _row_problems(row, labels, where):
            problems.extend(faults)
        else:
            labels[int(row["index"])] = _label(row)
    if problems:
        raise DatasetError.of(problems)
    return tuple(label for index, label in labels.items() if index != 0)


def label_table_text(labels: Sequence[Label], flags: Mapping[Segment, str] | None = None) -> str:
    """The TSV of labels with the columns index, name, region, side, level, segment; reads back into them.

    A column `flags` is added where there are flags of segments.
    """
    rows: list[tuple[str, ...]] = [("index", "name", *Segment.__match_args__)]
    rows += [(str(label.index), label.name, *astuple(label.segment)) for label in labels]
    if flags:
        told = ["flags", *(flags.get(label.segment, "") for label in labels)]
        rows = [(*row, flag) for row, flag in zip(rows, told, strict=True)]
    return "".join("\t".join(text or NA for text in row) + "\n" for row in rows)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            _label_problem("the label table cannot be read", str(path), error, "a UTF-8 text file")
        ) from error
    return text.split("\n")


def _header_problems(path: Path, header: list[str]) -> list[Problem]:
    problems = [
        _label_problem(
            f"the label table has no column {name}", f"{path}, line 1", ", ".join(header) or "no header", name
        )
        for name in ("index", "name")
        if name not in header
    ]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        problems.append(
            _label_problem("a column stands twice", f"{path}, line 1", ", ".join(twice), "each column once")
        )
    return problems


def _row_problems(row: Mapping[str, str], labels: Mapping[int, Label], where: str) -> list[Problem]:
    problems = []
    index = row["index"]
    if not (index.isascii() and index.isdigit()):
        problems.append(
            _label_problem("an index is not a whole number", where, index or NA, "0, 1, 2, ... in digits")
        )
    elif int(index) in labels:
        problems.append(_label_problem("an index is given twice", where, index, "each index once"))
    if not row["name"]:
        problems.append(_label_problem("a label has no name", where, NA, "a name"))
    if fault := character_fault(row["name"]):
        problems.append(_label_problem("a name cannot be written to tables", where, repr(row["name"]), fault))
    if row.get("side", "") not in get_args(Side):
        problems.append(_label_problem("a side is not known", where, row["side"], "L, R, midline or n/a"))
    for column in ("region" if row.get("region") else "name", "level", "segment"):
        if fault := word_fault(row.get(column, "")):
            problems.append(
                _label_problem(f"{column} cannot be a part of a segment's name", where, row[column], fault)
            )
    return problems


def _label(row: Mapping[str, str]) -> Label:
    region = row.get("region") or row["name"]
    part = zone_of(region, row.get("segment", ""))
    return Label(
        int(row["index"]), row["name"], Segment(region, row.get("side", ""), row.get("level", ""), part)
    )


def _label_problem(what: str, where: str, found: object, expected: object) -> Problem:
    return Problem(
        "LABEL_TABLE",
        what,
        where=where,
        found=str(found),
        expected=str(expected),
        do="correct the TSV beside the label image: tab-separated, with the columns index, name and, where "
        "they apply, region, side, level, segment",
    )


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    kind: Literal["text", "number", "count"]
    description: str
    units: str = ""
    levels: Mapping[str, str] | None = None


_INDEPENDENT = (
    "the voxels are taken as independent samples, which denoising, resampling and the point-spread "
    "function make optimistic"
)
SCHEMA: tuple[Column, ...] = (
    Column("participant_id", "text", "Participant, as in participants.tsv"),
    Column("session_id", "text", "Session; n/a where the participant has one session without a name"),
    Column(
        "run", "text", "Scan or group of scans within the session, as BIDS entities; n/a where there is one"
    ),
    Column("site", "text", "Site or scanner"),
    Column("protocol", "text", "Name of the protocol: lumbar, thigh, brain, or the configuration's own"),
    Column("region", "text", "Anatomical structure; n/a in the one row of a session with nothing to measure"),
    Column(
        "side", "text", "Side of the body", levels={"L": "left", "R": "right", "midline": "on the midline"}
    ),
    Column("level", "text", "Level along the spine: a nerve's vertebra (L5) or a disc's two (L4-L5)"),
    Column("segment", "text", "Part of the structure; n/a for the whole"),
    Column("metric", "text", "What was measured", levels={n: m.description for n, m in METRICS.items()}),
    Column(
        "statistic",
        "text",
        "How the voxels were summed up",
        levels={str(n): words for n, words in STATISTICS.items()},
    ),
    Column("value", "number", "The statistic of the metric in the segment", "see the column unit"),
    Column("se", "number", f"Standard error of the value; {_INDEPENDENT}", "see the column unit"),
    Column("ci_low", "number", f"Lower end of the 95 % interval; {_INDEPENDENT}", "see the column unit"),
    Column("ci_high", "number", f"Upper end of the 95 % interval; {_INDEPENDENT}", "see the column unit"),
    Column(
        "unit",
        "text",
        "Unit of value, se, ci_low and ci_high",
        levels={
            "1": "dimensionless",
            DIFFUSIVITY: "thousandths of a square millimetre per second",
            "arbitrary": "the scanner's units of signal",
        },
    ),
    Column("n_voxels", "count", "Voxels that the value rests on: those of the segment with a tensor fit"),
    Column(
        "n_effective",
        "number",
        "Number of equal voxels that would tell as much, (sum w)^2 / sum w^2: se and interval rest on it",
    ),
    Column(
        "volume_mm3",
        "number",
        "Volume of all voxels of the segment, with and without a fit, each counted with its weight",
        "mm3",
    ),
    Column(
        "weighting",
        "text",
        "Weights of the voxels",
        levels={
            "uniform": "every voxel counts alike",
            "density": "each by the density of the tracked fibres",
            "probability": "each by its probability to belong to the segment",
        },
    ),
    Column(
        "extraction",
        "text",
        "How the voxels were chosen",
        levels={"label": "label image", "prob": "probability image", "tract": "fibre tracking"},
    ),
    Column("space", "text", "Space of the voxels", levels={"dwi": "grid of the diffusion series"}),
    Column("rater", "text", "Who drew or checked the labels"),
    Column("roi_source", "text", "Where the labels come from"),
    Column("model", "text", "Diffusion model and the method of its fit"),
    Column("b_used", "text", "b-values of the shells of the fit, ascending, joined by ;", "s/mm2"),
    Column(
        "snr",
        "number",
        "Mean over the segment of the b=0 signal over the standard deviation of the noise",
        "1",
    ),
    Column("fat_fraction", "number", "Mean fat fraction of the segment", "1"),
    Column(
        "qc_status",
        "text",
        "Verdict on the row; the flags give the grounds",
        levels={
            "pass": "no objection",
            "warn": "to be looked at",
            "fail": "not measured, or beyond a limit of the configuration",
        },
    ),
    Column(
        "qc_flags",
        "text",
        "Grounds for the verdict, joined by ;. not_measured: the column reason says why. no_fit=x: fraction "
        "of the segment's voxels outside the mask or without a finite fit, left out of the value. "
        "nonpositive=x: fraction of the fitted voxels with an eigenvalue that is not positive, kept in the "
        "value. low_snr, no_snr: snr below a limit of the configuration, or not known. fat=x: mean fat "
        "fraction above its limit. fat_suspect=x: fraction of voxels with an MD as low as that of fat above "
        "its limit. Others come from the table of the segments: clipped and the like",
    ),
    Column("reason", "text", "Why there is no value; n/a where there is one"),
    Column("pipeline_version", "text", "Version of Somite"),
)
COLUMNS: tuple[str, ...] = tuple(column.name for column in SCHEMA)
"""The columns of the long table, in order."""


def dictionary(schema: Iterable[Column] = SCHEMA) -> dict[str, dict[str, Any]]:
    """The data dictionary of a table in the style of BIDS: name -> Description, Units, Levels."""
    entries: dict[str, dict[str, Any]] = {}
    for column in schema:
        entries[column.name] = {"Description": column.description}
        if column.units:
            entries[column.name]["Units"] = column.units
        if column.levels:
            entries[column.name]["Levels"] = dict(column.levels)
    return entries


def field_text(value: object) -> str:
    """A value as a field of a BIDS TSV: numbers with at most 9 digits, `n/a` for None, "" and NaN.

    Nine digits tell all float32 apart, and reading and writing them again changes nothing.
    """
    if isinstance(value, float | np.floating):
        return NA if math.isnan(value) else f"{value + 0.0:.9g}"  # + 0.0 turns -0 into 0
    return NA if value is None else " ".join(str(value).split()) or NA


def write_table(path: Path, rows: Iterable[Mapping[str, object]], schema: Iterable[Column] = SCHEMA) -> Path:
    """Write rows with the columns of a schema as TSV; a column that a row lacks is `n/a`.

    Raises:
        ValueError: a row has a key that is not a column.
    """
    columns = [column.name for column in schema]
    lines = ["\t".join(columns)]
    for row in rows:
        if unknown := row.keys() - set(columns):
            raise ValueError(f"not columns of the table: {', '.join(sorted(unknown))}")
        lines.append("\t".join(field_text(row.get(name)) for name in columns))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path
