"""Carve labels into the segments that are measured: zones of roots, parts of discs, slabs, thirds; erode.

Labels that already are segments pass unchanged, and so does every structure without a rule in the
configuration. All cuts are made in world millimetres on the grid of the diffusion series, after the labels
were brought there. Levels keep the names that the label table gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from somite import levels
from somite.carving import (
    Body,
    Discs,
    Erosion,
    Part,
    Roots,
    Slabs,
    Thirds,
    cut_discs,
    cut_roots,
    cut_slabs,
    cut_thirds,
)
from somite.errors import DatasetError, Problem
from somite.images import read_labels, write
from somite.registry import Context, Labels, LabelTable, StepConfig, step
from somite.rootline import points_of, read_landmarks
from somite.segments import NA, Segment, carries, field_text, read_label_table
from somite.selection import CLIPPED, read_flags

LEVEL_DOUBTFUL = "level_doubtful"
"""Flag of segments at a disc whose name passes over a vertebra that is labelled."""


class Config(StepConfig):
    """What to cut. A rule that is null cuts nothing."""

    roots: Roots | None = None
    """Roots into zones."""
    discs: Discs | None = None
    """Discs into nucleus and annulus."""
    slabs: Slabs | None = None
    """Canal and muscles in slabs at the discs."""
    thirds: Thirds | None = None
    """Muscles in thirds along the femur."""
    erosion: Erosion = Erosion()
    """Borders to take off."""


def cut(body: Body, config: Config) -> Iterator[Part]:
    """The parts of all structures that a rule of the configuration cuts, rule by rule."""
    if config.roots:
        yield from cut_roots(body, config.roots)
    if config.discs:
        yield from cut_discs(body, config.discs)
    if config.slabs:
        yield from cut_slabs(body, config.slabs)
    if config.thirds:
        yield from cut_thirds(body, config.thirds)


@dataclass
class Carved:
    """The result: voxels (x, y, z) of int32, and the rows of their table."""

    labels: NDArray[np.int32]
    rows: list[dict[str, object]]


def carve(body: Body, config: Config, told: Mapping[Segment, str] | None = None) -> Carved:
    """Cut, and keep what no rule cuts: those labels keep their values, parts get values above all others.

    A part whose name the table already gives to a label of its own is left out: that label stands.

    Args:
        body: the labels.
        config: the rules.
        told: flags of the labels' segments, which their parts get too; `clipped` those at the border.
    """
    flags = told or {}
    doubtful = doubtful_discs(body)
    given = {segment for segment in body.segments() if segment.segment}
    made = Carved(np.zeros(body.labels.shape, np.int32), [])
    value = max((label.index for label in body.table), default=0)
    parts = []
    for part in cut(body, config):
        if part.segment in given:
            body.context.warn(_given_already(part.segment))
            continue
        value += 1
        made.labels[part.mask] = value
        more = (*_inherited(body, part, flags), *_doubt(part.segment, doubtful))
        parts.append(_row(value, part.segment, part.reason, tuple(dict.fromkeys((*part.flags, *more)))))
    for label in body.table:
        if label.segment in body.taken:
            continue
        mask, reason = body.eroded(label.segment)
        made.labels[mask & (body.labels == label.index)] = label.index
        own = tuple(word for word in flags.get(label.segment, "").split(";") if word)
        own = (*own, *_doubt(label.segment, doubtful))
        made.rows.append(_row(label.index, label.segment, reason, tuple(dict.fromkeys(own)), label.name))
    made.rows += parts
    return made


def _inherited(body: Body, part: Part, told: Mapping[Segment, str]) -> tuple[str, ...]:
    """Flags that a part has from the labels that it was cut from."""
    words = [
        word
        for whole, flags in told.items()
        if carries((whole,), part.segment)
        for word in flags.split(";")
        if word
    ]
    at_border = _near_border(part.mask, body.erosion.voxels)
    return tuple(word for word in words if word != CLIPPED or at_border)


def _near_border(mask: NDArray[np.bool_], layers: int) -> bool:
    """Whether a mask (x, y, z) reaches the border of its grid, or did before `layers` were taken off."""
    index = np.argwhere(mask)
    ends = np.array(mask.shape) - 1
    sides = ends > 0
    return bool(len(index) and ((index <= layers) | (index >= ends - layers))[:, sides].any())


def _row(
    index: int, segment: Segment, reason: str, flags: tuple[str, ...], name: str = ""
) -> dict[str, object]:
    name = name or "_".join(part for part in astuple(segment) if part and part != "midline")
    place = {key: text or NA for key, text in asdict(segment).items()}
    return {"index": index, "name": name} | place | {"flags": ";".join(flags), "reason": reason}


def levels_present(body: Body) -> list[str]:
    """Levels of the labels that have a voxel: a table may name vertebrae that few spines have."""
    held = set(np.unique(body.labels).tolist())
    return [label.segment.level for label in body.table if label.index in held]


def doubtful_discs(body: Body) -> dict[str, tuple[str, ...]]:
    """Levels of discs between whose vertebrae others lie -> those. TotalSpineSeg calls the disc above the
    sacrum L5-S1 also where it lies under L6."""
    present = levels_present(body)
    found = {level: levels.passed_over(level, present) for level in dict.fromkeys(present)}
    return {level: between for level, between in found.items() if between}


def _doubt(segment: Segment, doubtful: Mapping[str, object]) -> tuple[str, ...]:
    return (LEVEL_DOUBTFUL,) if segment.level in doubtful else ()


def tell_levels(body: Body) -> None:
    """Leave word of transitional anatomy and of names that are no levels. Nothing is renumbered."""
    named = levels_present(body)
    listed = levels.transitional(named)
    if listed:
        body.context.infer(
            "transitional anatomy",
            ", ".join(listed),
            "levels that most spines do not have; their names are kept",
        )
        body.context.warn(_levels_problem("TRANSITIONAL_ANATOMY", "levels of a transitional anatomy", listed))
    if doubtful := doubtful_discs(body):
        body.context.warn(_doubtful_problem(doubtful))
    if strange := levels.unknown(named):
        body.context.warn(_levels_problem("LEVEL_UNKNOWN", "levels are neither vertebrae nor discs", strange))


def tell_disc_order(body: Body, region: str) -> None:
    """Warn where discs do not lie in the order of their names, the upper ones above."""
    heights = {}
    for level in dict.fromkeys(s.level for s in body.segments() if s.region == region):
        rank, mask = levels.rank(level), body.where(region, level=level)
        if rank is not None and mask.any():
            heights[level] = (rank, points_of(mask, body.grid)[:, 2].mean())
    by_name = sorted(heights, key=lambda level: heights[level][0])
    by_place = sorted(heights, key=lambda level: -heights[level][1])
    if by_name != by_place:
        what = "discs do not lie in the order of their names, from the head down"
        body.context.warn(_levels_problem("LEVEL_ORDER", what, by_place))


def _levels_problem(code: str, what: str, found: Sequence[str]) -> Problem:
    return Problem(
        code,
        what,
        found=", ".join(found),
        expected="C1 to S5 for vertebrae and nerves, L4-L5 for discs",
        do="check the names in the label table: nothing is renumbered, and all rows keep the names given",
        severity="warning",
    )


def _doubtful_problem(doubtful: Mapping[str, Sequence[str]]) -> Problem:
    found = [f"{disc}, although {', '.join(between)} lies between" for disc, between in doubtful.items()]
    return Problem(
        "LEVEL_DOUBTFUL",
        "discs are named after vertebrae between which others are labelled",
        found="; ".join(found),
        expected="a disc named after the vertebra above and the one below it: L6-S1 under L6",
        do="look at the image, and name the disc in the label table as it is to be reported. Nothing is "
        f"renumbered: all rows keep the name given, those of these levels with the flag {LEVEL_DOUBTFUL}",
        severity="warning",
    )


def _given_already(segment: Segment) -> Problem:
    return Problem(
        "SEGMENT_GIVEN",
        "a part was to be cut that has a label of its own",
        found=str(segment),
        expected="either the whole structure or its parts",
        do="nothing if the label is right: it is kept, and the whole is not cut for this part",
        severity="warning",
    )


def _tell_reasons(rows: Sequence[Mapping[str, object]], context: Context) -> None:
    missing = [f"{row['name']} ({row['reason']})" for row in rows if row["reason"]]
    context.numbers["segments_carved"] = float(len(rows))
    context.numbers["segments_empty"] = float(len(missing))
    if missing:
        context.warn(
            Problem(
                "SEGMENT_EMPTY",
                f"{len(missing)} of {len(rows)} segments have no voxel",
                found="; ".join(missing),
                do="the table of the segments holds them with the reason",
                severity="warning",
            )
        )


COLUMNS = ("index", "name", "region", "side", "level", "segment", "flags", "reason")


def write_segments(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write the table of the segments, a label table with the columns flags and reason, as TSV."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(field_text(row[name]) for name in COLUMNS) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


@step(
    makes={
        "segments_dwi": "Label image of the segments on the grid of the diffusion series, 3D NIfTI",
        "segment_table": "Table of the segments, TSV: a label table with the columns flags and reason",
    },
    dwi_copies=1.0,
)
def run(
    labels_dwi: Labels,
    label_table: LabelTable,
    config: Config,
    context: Context,
    landmarks: Annotated[Path, "Dural exits, TSV: x, y, z (world mm), region, side, level"] | None = None,
) -> tuple[Path, Path]:
    """Carve the labels into segments.

    Raises:
        DatasetError: `LABEL_TABLE`, `LANDMARK_TABLE`, `LABEL_NOT_INTEGER`, `LABEL_GRID`, `IMAGE_UNREADABLE`.
    """
    labels, grid = read_labels(labels_dwi)
    if labels.size != np.prod(grid.shape):
        raise DatasetError(_not_3d(labels_dwi, labels.shape))
    body = Body(
        labels.reshape(grid.shape),
        grid,
        read_label_table(label_table),
        config.erosion,
        context,
        {} if landmarks is None else read_landmarks(landmarks),
    )
    tell_levels(body)
    for region in {
        rule for rule in (config.discs and config.discs.region, config.slabs and config.slabs.disc) if rule
    }:
        tell_disc_order(body, region)
    made = carve(body, config, read_flags(label_table))
    _tell_reasons(made.rows, context)
    return (
        write(context.folder / "segments_dwi.nii", made.labels, grid),
        write_segments(context.folder / "segment_table.tsv", made.rows),
    )


def _not_3d(path: Path, shape: tuple[int, ...]) -> Problem:
    return Problem(
        "LABEL_GRID",
        "the label image is not 3D",
        where=str(path),
        found=f"shape {shape}",
        expected="one volume",
        do="give one label image; probability maps are another kind of file",
    )
