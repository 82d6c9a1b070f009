"""What only the voxels show, of every image of a plan: `somite plan --deep`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from somite.dataset.regions import check_regions
from somite.dataset.series import check_access
from somite.dataset.sessions import Plan, Session, listing
from somite.errors import DatasetError, Problem
from somite.images import read_labels
from somite.segments import Segment, read_label_table
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
    if session.labels is not None and session.label_table is not None:
        try:
            found += check_label_voxels(session.labels, session.label_table, expected)
        except DatasetError as error:
            found += error.problems
    return [problem for problem in found if (problem.code, problem.where) not in told]


def check_label_voxels(labels: Path, table_path: Path, expected: tuple[Segment, ...] | None) -> list[Problem]:
    """Segments of a label table without a voxel (`NO_REGION`, `REGION_MISSING`), and values without a row.

    Args:
        labels: the label image.
        table_path: its table.
        expected: segments that the configuration names; None: all of the table. Those that the table lacks
            are not told again.

    Raises:
        DatasetError: `UNREADABLE`; as `read_labels` and `read_label_table`.
    """
    check_access(labels, "the label image")
    check_access(table_path, "the label table")
    data, _ = read_labels(labels)
    values = {int(value) for value in np.unique(data)} - {0}
    table = read_label_table(table_path)
    named = {label.segment for label in table}
    carried = {label.segment for label in table if label.index in values}
    wanted = tuple(dict.fromkeys(s for s in expected or (t.segment for t in table) if s in named))
    problems = check_regions(carried, wanted, str(labels), "the label image") if wanted else []
    unknown = sorted(values - {label.index for label in table})
    if unknown:
        problems.append(
            Problem(
                "LABEL_VALUE",
                "the label image holds values that its table does not name",
                where=str(labels),
                found=listing(unknown),
                expected=f"values in the column index of {table_path.name}",
                do="add rows for them; voxels with these values belong to no segment",
                severity="warning",
            )
        )
    return problems
