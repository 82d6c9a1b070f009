"""Run one analysis of the cohort: join, leave out, select, test, correct, and say it in words.

The analysis is declared in the section `analyses` of the YAML. Analyses that share its family for multiple
comparisons are run with it, since its corrected p-values depend on theirs; only its own rows are written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from somite import fingerprint
from somite.analysis import data, exclusions, outputs
from somite.analysis.choose import Selection, people_of, selection
from somite.analysis.long import Long, read_long, together
from somite.analysis.model import AnalysisConfig, Cohort, Select, discover
from somite.analysis.outputs import ALL, FLOW, Freeze, Row
from somite.analysis.people import Key, People, read_people
from somite.analysis.results import Result
from somite.analysis.rows import Left
from somite.errors import Problem
from somite.registry import Context, StepConfig, step

Definitions = Annotated[Path, "The analysis, those of its family, and the options of the cohort, JSON"]
Table = Annotated[Path, "Segments of all sessions, long, Parquet"]
Nodes = Annotated[Path, "Profiles of all sessions, long, Parquet"]
Clinical = Annotated[Path, "Clinical table, TSV: participants.tsv, phenotype/*.tsv"]
Exclusions = Annotated[Path, "Who and what is left out, TSV"]
Reviewed = Annotated[Path, "Sessions that are not in the table since a rater failed them, JSON"]
Quality = Annotated[Path, "Quality numbers of all sessions, wide, TSV"]


class Config(StepConfig):
    """The options of analyses stand in the sections `analyses` and `cohort`."""


@dataclass(frozen=True)
class Definition:
    """What is to be done."""

    name: str
    analyses: Mapping[str, AnalysisConfig]
    """The analysis and those of its family, by name."""
    cohort: Cohort
    versions: Mapping[str, str]

    @property
    def config(self) -> AnalysisConfig:
        """The analysis."""
        return self.analyses[self.name]

    @classmethod
    def read(cls, path: Path) -> Definition:
        """Read what `definition` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = discover()
        return cls(
            content["name"],
            {
                name: kinds[options["kind"]].config.model_validate_json(json.dumps(options))
                for name, options in content["analyses"].items()
            },
            Cohort.model_validate_json(json.dumps(content["cohort"])),
            content["versions"],
        )


def family_of(name: str, analyses: Mapping[str, AnalysisConfig]) -> dict[str, AnalysisConfig]:
    """An analysis, and those that share its family for multiple comparisons."""
    own = analyses[name]
    shared = {n: a for n, a in analyses.items() if own.family.name and a.family.name == own.family.name}
    return {name: own} | shared


def definition(name: str, analyses: Mapping[str, AnalysisConfig], cohort: Cohort) -> str:
    """What the step is told, as JSON: with the code and versions of the kinds, so that a change is seen."""
    used = family_of(name, analyses)
    modules = sorted({f"somite.analysis.{config.kind}" for config in used.values()})
    content = {
        "name": name,
        "analyses": {n: config.model_dump(mode="json") for n, config in sorted(used.items())},
        "cohort": cohort.model_dump(mode="json"),
        "code": {module: fingerprint.code(module) for module in modules},
        "versions": dict(
            sorted(pair for module in modules for pair in fingerprint.libraries(module).items())
        ),
    }
    return json.dumps(content, sort_keys=True)


@dataclass(frozen=True)
class Done:
    """An analysis that has run."""

    results: list[Result]
    selection: Selection
    left: list[Left]
    start: set[str]
    units: Mapping[str, str]


def run_one(
    long: Long,
    people: People,
    config: AnalysisConfig,
    cohort: Cohort,
    listed: Sequence[exclusions.Listed],
    reviewed: Sequence[Key] = (),
) -> Done:
    """Leave out, select and run one analysis.

    Raises:
        DatasetError: see `exclusions.apply` and `choose.selection`.
    """
    kept, left = exclusions.apply(long, people, config.exclude or cohort.exclude, listed, reviewed)
    chosen = selection(kept, people, config, cohort.affected)
    results = discover()[config.kind].run(chosen.measures, config)
    units = {metric: unit for metric, unit in together([kept.texts["metric"], kept.texts["unit"]])[1] if unit}
    return Done(results, chosen, left, people_of(kept), outputs.units() | units)


@step(
    makes={
        "analysis_table": "Results of the analysis, TSV: a row per test or estimate",
        "analysis_parquet": "The same, Parquet",
        "analysis_dictionary": "What the analysis was, and its columns, JSON",
        "analysis_flow": "How many were left out and why, TSV",
        "analysis_text": "The results in sentences, Markdown",
        "analysis_data": "The data that it rests on, where asked for, TSV",
    },
    dwi_copies=0.0,
)
def run(
    definitions: Definitions,
    clinical: tuple[Clinical, ...],
    config: Config,  # noqa: ARG001
    context: Context,
    segments_parquet: Table | None = None,
    profiles_parquet: Nodes | None = None,
    qc_wide: Quality | None = None,
    exclusion_list: Exclusions | None = None,
    reviewed: Reviewed | None = None,
) -> tuple[Path, ...]:
    """Run an analysis and write its results.

    Raises:
        DatasetError: the problems of the clinical tables, of the list of exclusions, and of the selection.
    """
    what = Definition.read(definitions)
    people = read_people(clinical, qc_wide)
    listed = exclusions.read_list(exclusion_list) if exclusion_list is not None else ()
    given = {"segments": segments_parquet, "profiles": profiles_parquet}
    tables = {name: path for name, path in given.items() if path is not None}
    failed = [tuple(key) for key in json.loads(reviewed.read_text())] if reviewed is not None else []
    longs = _read(tables, what.analyses.values())
    long = longs[what.config.table()]
    done = {
        name: run_one(longs[one.table()], people, one, what.cohort, listed, failed)
        for name, one in what.analyses.items()
    }
    own = done.pop(what.name)
    mates = [row for other in done.values() for row in other.results]
    freeze = _freeze([tables[what.config.table()], *clinical, qc_wide, exclusion_list], what.versions)
    rows = outputs.full_rows(own.results, mates, what.analyses, own.units, freeze)
    _warn_of_gaps(rows, context)
    context.numbers |= {"rows": len(rows), "participants": len(own.start)}
    written = context.folder / "analysis_data.tsv"
    if not data.write(written, own.selection.measures, what.config.data) and what.config.data == "auto":
        reason = f"more than {data.MOST:,} values; data: long or wide writes them all"
        context.infer(f"data of {what.name}", "not written", reason)
    return (*_write(context.folder, what.config, rows, _flow(what, own, long, people), freeze), written)


def _read(tables: Mapping[str, Path], analyses: Iterable[AnalysisConfig]) -> dict[str, Long]:
    """The tables that the analyses select from, with the metrics and statistics that they want."""
    wanted: dict[str, list[Select]] = {}
    for one in analyses:
        wanted.setdefault(one.table(), []).append(one.select)
    return {
        name: read_long(
            tables[name],
            [metric for select in selects for metric in select.metric],
            [statistic for select in selects for statistic in select.statistic],
        )
        for name, selects in wanted.items()
    }


def _freeze(paths: Sequence[Path | None], versions: Mapping[str, str]) -> Freeze:
    sums = {path.name: fingerprint.sha256(path) for path in paths if path is not None}
    return Freeze(next(iter(sums.values())), sums, versions)


def _flow(what: Definition, done: Done, long: Long, people: People) -> list[Row]:
    measured = people_of(long)
    told = {who for left in done.left for who in left.participants}
    everybody = measured | people.participants | told
    absent = Left("no row in the table of segments", tuple(sorted(everybody - measured - told)))
    before = [*([absent] if absent.participants else []), *done.left]
    return outputs.flow(what.config, len(everybody), before, done.selection, done.start)


def _warn_of_gaps(rows: Sequence[Row], context: Context) -> None:
    gaps = [row for row in rows if row["reason"]]
    if gaps:
        context.warn(
            Problem(
                "ANALYSIS_GAPS",
                f"{len(gaps)} of {len(rows)} rows have no number",
                f"analyses.{gaps[0]['analysis']}",
                "; ".join(dict.fromkeys(row["reason"] for row in gaps)),
                do="the column reason of the results says why, row by row",
                severity="warning",
            )
        )


def _write(
    folder: Path, config: AnalysisConfig, rows: Sequence[Row], flow: Sequence[Row], freeze: Freeze
) -> tuple[Path, ...]:
    entries: dict[str, Any] = outputs.dictionary(config, rows, flow, freeze)
    text = folder / "analysis_text.md"
    lines = [f"# {config.name}", "", *(f"- {row['sentence']}" for row in rows)]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return (
        outputs.write_tsv(folder / "analysis_table.tsv", ALL, rows),
        outputs.write_parquet(folder / "analysis_parquet.parquet", ALL, rows),
        outputs.write_json(folder / "analysis_dictionary.json", entries),
        outputs.write_tsv(folder / "analysis_flow.tsv", FLOW, flow),
        text,
    )
