"""The analyses that the configuration declares, each a unit of the engine on the tables of the group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from somite import derivatives, record
from somite.analysis import clinical
from somite.analysis.model import AnalysisConfig, in_cohort
from somite.derivatives import Derivative
from somite.interfaces.analyse import definition, family_of
from somite.workflows.graph import Use, join
from somite.workflows.group import Files, Member
from somite.workflows.participant import Place
from somite.workflows.session import Unit

# Of every analysis that the configuration declares, in `group/analyses`, named after it.
ANALYSIS = (
    Use(
        "analyse",
        deliver={
            "analysis_table": Derivative("", extension=".tsv"),
            "analysis_parquet": Derivative("", extension=".parquet"),
            "analysis_dictionary": Derivative("", extension=".json"),
            "analysis_flow": Derivative("", extension=".flow.tsv"),
            "analysis_text": Derivative("", extension=".md"),
            "analysis_data": Derivative("", extension=".data.tsv"),
        },
    ),
)


def _excluded(cohort: Sequence[Member]) -> list[tuple[str, str, str]]:
    """The sessions that the review left out, as the analyses count them."""
    return [(one.participant_id, one.session_id, one.run) for one in cohort if one.verdict == "excluded"]


def units(place: Place, cohort: Sequence[Member] = ()) -> list[Unit]:
    """Every analysis as a unit of the engine, on the tables of the group level.

    Raises:
        GraphError: as `graph.join`.
        ConfigError: as `model.in_cohort`.
    """
    settings, group = place.settings, place.out_dir / "group"
    if not settings.analyses:
        return []
    found = clinical.files(place.plan.bids_dir, settings.cohort)
    given: Files = {"qc_wide": group / "qc_wide.tsv", "clinical": found.tables}
    if found.exclusions is not None:
        given["exclusion_list"] = found.exclusions
    excluded = _excluded(cohort)
    texts = {"reviewed": json.dumps(excluded)} if excluded else {}
    declared = in_cohort(settings.analyses, settings.cohort)
    return [_unit(name, declared, given, texts, place) for name in declared]


def _unit(
    name: str,
    declared: Mapping[str, AnalysisConfig],
    clinical: Files,
    about: Mapping[str, str],
    place: Place,
) -> Unit:
    """An analysis as a unit of the engine. Only a change of the tables that it reads runs it again."""
    group, settings = place.out_dir / "group", place.settings
    tables = sorted({one.table() for one in family_of(name, declared).values()})
    files: Files = {f"{table}_parquet": group / f"{table}.parquet" for table in tables}
    files |= clinical
    texts = {"definitions": definition(name, declared, settings.cohort), **about}
    return Unit(
        label=record.ANALYSIS + name,
        nodes=join(ANALYSIS, [*files, *texts], settings.step, "workflows/group.py"),
        files=files,
        texts=texts,
        targets={
            product: (group / "analyses" / f"{name}{derivative.extension}", derivative)
            for product, derivative in ANALYSIS[0].deliver.items()
            if product != "analysis_data" or declared[name].data != "none"
        },
        out_dir=place.out_dir,
        work_dir=place.work_dir,
        source_dir=place.plan.bids_dir,
        identity={"participant_id": record.ANALYSIS + name},
        keep=settings.keep,
        verify=place.verify,
        command=place.command,
    )


def forget(place: Place) -> None:
    """Remove the results of analyses that the configuration does not declare any more."""
    declared = {record.path_of(place.out_dir, record.ANALYSIS + name) for name in place.settings.analyses}
    for path in sorted(set((place.out_dir / "logs").glob(f"{record.ANALYSIS}*.json")) - declared):
        last = record.read(path)
        derivatives.remove(place.out_dir / item.path for item in (last.outputs if last else ()))
        path.unlink()
