"""The groups of people that the cohort's page tells apart: a clinical column, kept in `group/groups.tsv`.

The page is made from the output alone, so what it needs of the clinical tables is written there once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from somite import record
from somite.analysis import clinical
from somite.analysis.model import AnalysisConfig, Cohort
from somite.analysis.people import Key, read_people
from somite.errors import DatasetError, Problem
from somite.report import cohort_data
from somite.report.cohort_data import Groups


def write(
    out_dir: Path, bids_dir: Path, cohort: Cohort, analyses: Mapping[str, AnalysisConfig]
) -> list[Problem]:
    """Write who is in which group, and who takes part; returns warnings: clinical tables that cannot be read.

    Nothing is written where there are no clinical tables. Never raises.
    """
    tables = clinical.files(bids_dir, cohort).tables
    if not tables:
        return []
    try:
        cohort_data.write_groups(out_dir, read(tables, out_dir, column_of(cohort, analyses)))
    except DatasetError as error:
        return [replace(problem, severity="warning") for problem in error.problems]
    except OSError as error:
        return [
            Problem(
                "GROUPS_NOT_WRITTEN",
                "the groups of the cohort's page could not be written",
                where=str(out_dir / cohort_data.GROUPS_FILE),
                found=str(error),
                do="look at the folder's permissions and free space",
                severity="warning",
            )
        ]
    return []


def column_of(cohort: Cohort, analyses: Mapping[str, AnalysisConfig]) -> str:
    """The clinical column of groups: that of the cohort's controls, else the one that all analyses name."""
    controls = getattr(cohort, "controls", {})
    if len(controls) == 1:
        return str(next(iter(controls)))
    named = {
        str(getattr(one, key))
        for one in analyses.values()
        for key in ("group", "outcome")
        if getattr(one, key, None)
    }
    return named.pop() if len(named) == 1 else ""


def read(tables: tuple[Path, ...], out_dir: Path, column: str) -> Groups:
    """Everybody in the clinical tables, and the group of every session that has a record.

    Raises:
        DatasetError: the tables cannot be read, or have no such column.
    """
    people = read_people(tables)
    visits = {(item.participant_id, item.session_id, item.run) for item in record.read_all(out_dir)}
    keys: list[Key] = sorted({(name, "", "") for name in people.participants} | visits)
    if not column:
        return Groups("", dict.fromkeys((key for key in keys if key[0] in people.participants), ""))
    values = people.values(column, keys, "cohort")
    return Groups(column, {key: str(text) for key, text in zip(keys, values, strict=True)})
