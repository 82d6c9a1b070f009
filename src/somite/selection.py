"""Which voxels belong to which segment: of a label image all alike, of 4D weights each by its weight."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite import images
from somite.errors import DatasetError, Problem
from somite.estimates import Vector
from somite.segments import NA, Segment, SegmentGroup, by_segment, expand, read_label_table

CLIPPED = "clipped"
"""Flag of a segment that goes on beyond the field of view."""
NO_LABEL = "no label of this segment in the label table"
DISTORTION_LEFT = "distortion_left"
"""Flag of a segment whose label was drawn on an anatomical image and came to the series by a registration
that does not follow its distortion, which nothing else undid: it may lie aside along phase encoding."""
REGISTRATION_DOUBTFUL = "registration_doubtful"
"""Flag of a segment whose label came through a registration that may have failed."""
NO_VOXEL = "no voxel of its label in the label image"


@dataclass(frozen=True)
class Selection:
    """The voxels of a segment, or why it has none."""

    segment: Segment
    where: NDArray[np.intp]
    """Indices (n,) in Fortran order."""
    weight: Vector | None = None
    """(n,), above 0; None: all alike."""
    border: NDArray[np.bool_] | None = None
    """(n,) which voxels have a neighbour across a face that is not of the segment; None: not looked at."""
    extraction: str = "label"
    weighting: str = "uniform"
    reason: str = ""
    told: str = ""
    """Flags that the table gives the segment."""


NOWHERE: NDArray[np.intp] = np.zeros(0, np.intp)


def locate(labels: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Where the labelled voxels lie (n,), as indices in Fortran order, and their labels (n,), ascending."""
    flat = np.reshape(labels, -1, order="F")
    where = np.flatnonzero(flat)
    order = np.argsort(flat[where], kind="stable")
    return where[order], flat[where[order]]


def positions(values: NDArray[np.int32], indices: Iterable[int]) -> NDArray[np.intp]:
    """Where ascending `values` (n,) are one of `indices`."""
    spans = [np.searchsorted(values, (index, index + 1)) for index in indices]
    return np.concatenate([np.arange(0), *(np.arange(first, end) for first, end in spans)])


def border_of(segments: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which voxels (x, y, z) have a neighbour across a face that is of another segment, or of none.

    What lies beyond the image is not known, and makes no border.

    Args:
        segments: (x, y, z), a number for each segment.
    """
    border = np.zeros(segments.shape, np.bool_)
    for axis in range(3):
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        differ = segments[tuple(ahead)] != segments[tuple(behind)]
        border[tuple(ahead)] |= differ
        border[tuple(behind)] |= differ
    return border


@dataclass(frozen=True)
class Expected:
    """A segment that the table shall hold: the labels that carry it, or why there is none."""

    segment: Segment
    indices: tuple[int, ...] = ()
    reason: str = ""


def expected_segments(
    groups: tuple[SegmentGroup, ...] | str,
    table: Mapping[Segment, tuple[int, ...]] | None,
    *,
    has_image: bool,
) -> list[Expected]:
    """The segments of the rows, in order: those of the configuration, or all of the label table.

    Args:
        groups: the segments expected; `all`: those of the table.
        table: segment -> its labels; None where there is no label table.
        has_image: whether there is a label image.
    """
    named = table or {}
    segments = tuple(named) if isinstance(groups, str) else expand(groups)
    if not has_image:
        return [Expected(segment, reason="no label image") for segment in segments]
    return [
        Expected(segment, named[segment])
        if segment in named
        else Expected(segment, reason=NO_LABEL + _nearest(segment, named))
        for segment in segments
    ]


def _nearest(segment: Segment, named: Iterable[Segment]) -> str:
    """What the configuration may have meant: the table's own word, where one is almost the same."""
    for part in ("region", "segment"):
        meant, known = getattr(segment, part), {getattr(one, part) for one in named}
        close = [] if meant in known else difflib.get_close_matches(meant, sorted(known), n=1, cutoff=0.75)
        if close:
            return f" (its nearest {part} to {meant!r} is {close[0]!r})"
    return ""


def select_labels(
    expected: Iterable[Expected], labels: NDArray[np.int32] | None, told: Mapping[Segment, str]
) -> tuple[list[Selection], set[int]]:
    """The voxels of the expected segments, and the values of the image that belong to none of them.

    Args:
        expected: the segments, with their labels.
        labels: (x, y, z); None where there is no label image.
        told: flags of segments.
    """
    wanted = list(expected)
    if labels is None:
        return [Selection(one.segment, NOWHERE, reason=one.reason) for one in wanted], set()
    where, values = locate(labels)
    # Labels of one segment are one: no border runs between them.
    number = np.arange(int(values.max(initial=0)) + 1)
    for one in wanted:
        number[[i for i in one.indices if i < len(number)]] = one.indices[0] if one.indices else 0
    border = np.reshape(border_of(number[np.maximum(labels, 0)]), -1, order="F")[where]
    found = []
    for one in wanted:
        here = positions(values, one.indices)
        reason = one.reason or ("" if here.size else NO_VOXEL)
        selection = Selection(
            one.segment, where[here], border=border[here], reason=reason, told=told.get(one.segment, "")
        )
        found.append(selection)
    return found, set(values.tolist())


def select_weights(
    path: Path, table: Path, grid: images.Grid, *, extraction: str, weighting: str, least: float
) -> list[Selection]:
    """The voxels of each segment of 4D weights, in the order of its table.

    Args:
        path: weights (x, y, z, n), 0 to 1.
        table: TSV of a label table; its `index` is a volume, counted from 1. Volumes of one segment are
            added, to 1 at most.
        grid: on which the weights must lie.
        extraction: how the voxels were chosen, for the table.
        weighting: what the weights are, for the table.
        least: weights up to this count as 0.

    Raises:
        DatasetError: `LABEL_TABLE`; `WEIGHT_GRID`, not on the grid; `WEIGHT_COUNT`, the table names a volume
            that is not there; `WEIGHT_VALUE`, a weight is below 0 or not finite.
    """
    data, own = images.read_float(path)
    images.check_grid("WEIGHT_GRID", path, own, grid)
    flat = np.reshape(data, (math.prod(grid.shape), -1), order="F")
    segments = by_segment(read_label_table(table))
    last = max((index for indices in segments.values() for index in indices), default=0)
    if last > flat.shape[1]:
        raise DatasetError(_no_volume(table, last, flat.shape[1]))
    if not (np.isfinite(flat).all() and (flat >= 0).all()):
        raise DatasetError(_not_a_weight(path))
    told = read_flags(table)
    found = []
    for segment, indices in segments.items():
        weight = np.minimum(flat[:, [i - 1 for i in indices]].sum(1, dtype=np.float64), 1.0)
        where = np.flatnonzero(weight > least)
        found.append(
            Selection(
                segment,
                where,
                weight[where],
                extraction=extraction,
                weighting=weighting,
                reason="" if where.size else "no voxel with a weight",
                told=told.get(segment, ""),
            )
        )
    return found


def read_flags(table: Path) -> dict[Segment, str]:
    """Segment -> what the column `flags` of its label table tells of it; none where there is no such column.

    The table is one that `read_label_table` has taken.
    """
    header, *lines = table.read_text(encoding="utf-8-sig").splitlines()
    names = [name.strip() for name in header.split("\t")]
    if "flags" not in names:
        return {}
    column, index = names.index("flags"), names.index("index")
    flags = {}
    for line in lines:
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == len(names) and fields[column] not in ("", NA):
            flags[int(fields[index])] = fields[column]
    found: dict[Segment, list[str]] = {}
    for label in read_label_table(table):
        if flag := flags.get(label.index):
            found.setdefault(label.segment, []).append(flag)
    return {segment: ";".join(dict.fromkeys(words)) for segment, words in found.items()}


def _no_volume(table: Path, last: int, volumes: int) -> Problem:
    return Problem(
        "WEIGHT_COUNT",
        "the table of the weights names a volume that is not there",
        where=str(table),
        found=f"index {last}",
        expected=f"1 to {volumes}, the volumes of the image",
        do="give the table that belongs to the image; indices count its volumes from 1",
    )


def _not_a_weight(path: Path) -> Problem:
    return Problem(
        "WEIGHT_VALUE",
        "the image of weights holds values that are no weights",
        where=str(path),
        found="values below 0, or not finite",
        expected="densities or probabilities, 0 to 1",
        do="write the image again",
    )
