"""The clinical files of a dataset, and what is wrong between them and the analyses, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from somite import clinical
from somite.analysis import exclusions, families
from somite.analysis.model import AnalysisConfig, Cohort, in_cohort
from somite.analysis.people import QC, People, Source, read_people
from somite.analysis.visits import check as check_columns
from somite.errors import ConfigError, DatasetError, Problem
from somite.norms import read_norms
from somite.quality_table import METRICS


@dataclass(frozen=True)
class Files:
    """Clinical files of a dataset."""

    tables: tuple[Path, ...]
    exclusions: Path | None


def files(dataset: Path, cohort: Cohort) -> Files:
    """The clinical tables that there are: participants, then phenotype, then sessions files, each by name."""
    participants = dataset / cohort.participants
    phenotype = sorted((dataset / cohort.phenotype).glob("*.tsv"))
    visits = sorted(dataset.glob("sub-*/sub-*_sessions.tsv"))
    listed = None if cohort.exclusions is None else dataset / cohort.exclusions
    return Files((*([participants] if participants.is_file() else []), *phenotype, *visits), listed)


def check(dataset: Path, cohort: Cohort, analyses: Mapping[str, AnalysisConfig]) -> tuple[Problem, ...]:
    """All that is wrong with clinical files, exclusions, norms, families, and columns and groups that the
    cohort and the analyses name.

    What depends on the table of segments is looked at when the analysis runs.
    """
    if not analyses and not clinical.declares(cohort):
        return ()
    found = files(dataset, cohort)
    problems = families.check(list(analyses.values()))
    if found.exclusions is not None:
        try:
            exclusions.read_list(found.exclusions)
        except DatasetError as error:
            problems += error.problems
    if cohort.norms is not None:
        try:
            read_norms(dataset / cohort.norms)
        except DatasetError as error:
            problems += error.problems
    try:
        people = read_people(found.tables)
    except DatasetError as error:
        return (*problems, *error.problems)
    people = People((*people.sources, _quality_to_come()))
    problems += clinical.check(people, cohort)
    try:
        analyses = in_cohort(analyses, cohort)
    except ConfigError as error:
        return (*problems, *error.problems)
    for config in analyses.values():
        problems += check_columns(people, config)
    return tuple(problems)


def _quality_to_come() -> Source:
    """The quality numbers, which there are only when the sessions have run: names without values."""
    nobody = np.zeros(0, object)
    return Source(QC, Path("group/qc_wide.tsv"), ("participant_id",), {}, dict.fromkeys(METRICS, nobody))
