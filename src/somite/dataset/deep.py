"""What only the voxels show, of every image of a plan: `somite plan --deep`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from somite.dataset.regions import check_regions
from somite.dataset.series import check_access
from somite.dataset.sessions import Plan, Session, listing
from somite.errors import DatasetError, Problem
from somite.images import read_labels
from somite.label_sources.overlap import check_overlap
from somite.label_sources.shipped import SHIPPED
from somite.segments import Label, Segment, carries
from somite.sides import check_sides
from somite.voxel_check import check_voxels


def deep_check(plan: Plan, threads: int) -> Plan:
    """The plan with the problems of voxels added: of every series, and of the label images.

    Args:
        plan: from `make_plan`.
        threads: how many sessions are read at once; each takes the memory of one series as float32.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda session: _look_inside(session, plan.expected), plan.sessions))
    return replace(
        plan,
        sessions=tuple(
            replace(session, problems=tuple(dict.fromkeys((*session.problems, *more))))
            for session, more in zip(plan.sessions, found, strict=True)
        ),
    )


def _look_inside(session: Session, expected: tuple[Segment, ...] | None) -> list[Problem]:
    told = {(problem.code, problem.where) for problem in session.problems}
    found = [problem for series in session.series if series.n_volumes for problem in check_voxels(series.dwi)]
    for image in session.labels:
        try:
            if image.rows:
                found += check_label_voxels(image.path, image.rows, image.source, expected)
        except DatasetError as error:
            found += error.problems
    if len(session.labels) > 1:
        try:
            found += _overlaps([image.path for image in session.labels])
        except DatasetError as error:
            found += error.problems
    return [problem for problem in found if (problem.code, problem.where) not in told]


def check_label_voxels(
    labels: Path, table: Sequence[Label], source: str, expected: tuple[Segment, ...] | None
) -> list[Problem]:
    """What the voxels of a label image show against its table.

    Segments without a voxel (`NO_REGION`, `REGION_MISSING`), values without a row (`LABEL_VALUE`), labels on
    the wrong side of the body (`LABEL_SIDES`, `LABEL_SIDE_DOUBTFUL`).

    Args:
        labels: the label image.
        table: what its values mean.
        source: kind of the table's source. Unknown values are an error where it is a published numbering:
            the image is of another version of the tool, or of another tool.
        expected: segments that the configuration names; None: all of the table. Those that the table lacks
            are not told again.

    Raises:
        DatasetError: `UNREADABLE`; as `read_labels`.
    """
    check_access(labels, "the label image")
    data, grid = read_labels(labels)
    values = {int(value) for value in np.unique(data)} - {0}
    named = {label.segment for label in table}
    carried = {label.segment for label in table if label.index in values}
    wanted = None if expected is None else tuple(s for s in expected if carries(named, s))
    if wanted is None:
        wanted = () if source in SHIPPED else tuple(dict.fromkeys(label.segment for label in table))
    problems = check_regions(carried, wanted, str(labels), "the label image") if wanted or not carried else []
    if unknown := sorted(values - {label.index for label in table}):
        problems.append(_unknown_values(labels, unknown, source))
    if data.size == np.prod(grid.shape):
        problems += check_sides(data.reshape(grid.shape), grid, table, str(labels))
    return problems


def _overlaps(labels: Sequence[Path]) -> list[Problem]:
    """`LABEL_OVERLAP` of the label images that lie on one grid; others are compared on that of the series."""
    data = {path: read_labels(path) for path in labels}
    problems = []
    while data:
        first = next(iter(data))
        grid = data[first][1]
        here = {path.name: image for path, (image, own) in data.items() if own.matches(grid)}
        problems += check_overlap(here, str(first.parent))
        data = {path: one for path, one in data.items() if path.name not in here}
    return problems


def _unknown_values(labels: Path, unknown: list[int], source: str) -> Problem:
    shipped = source in SHIPPED
    return Problem(
        "LABEL_VALUE",
        f"the label image holds values that the numbering {source} does not know"
        if shipped
        else "the label image holds values that its table does not name",
        where=str(labels),
        found=listing(unknown),
        expected=f"values that labels: source: {source} knows" if shipped else "values in the column index",
        do="check labels: source:, and the version of the tool that made the image; or write a TSV for it"
        if shipped
        else "add rows for them; voxels with these values belong to no segment",
        severity="error" if shipped else "warning",
    )
