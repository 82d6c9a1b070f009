"""The cohort: tables of all sessions that ended well, and a row for every session in the status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from somite import clinical as columns
from somite import containers, record
from somite.analysis import clinical
from somite.analysis.people import read_people
from somite.derivatives import Derivative
from somite.errors import DatasetError, Problem, in_one_line
from somite.files import write_atomically
from somite.record import Record
from somite.review import verdicts
from somite.workflows import participant, session
from somite.workflows.graph import Use, join
from somite.workflows.participant import Place
from somite.workflows.session import Unit

STEPS = (
    Use(
        "table",
        deliver={
            "segments_table": Derivative("segments", extension=".tsv"),
            "segments_parquet": Derivative("segments", extension=".parquet"),
            "segments_wide": Derivative("segments_wide", extension=".tsv"),
            "segments_dictionary": Derivative("segments", extension=".json"),
            "derived_table": Derivative("derived", extension=".tsv"),
            "derived_dictionary": Derivative("derived", extension=".json"),
            "sensitivity_parquet": Derivative("sensitivity", extension=".parquet"),
            "sensitivity_dictionary": Derivative("sensitivity", extension=".json"),
        },
    ),
    Use(
        "profile_table",
        deliver={
            "profiles_parquet": Derivative("profiles", extension=".parquet"),
            "profiles_dictionary": Derivative("profiles", extension=".json"),
        },
    ),
    Use(
        "reference",
        deliver={
            "reference": Derivative("reference", extension=".tsv"),
            "reference_dictionary": Derivative("reference", extension=".json"),
        },
    ),
    Use(
        "norms",
        deliver={
            "norms": Derivative("norms", extension=".tsv"),
            "norms_dictionary": Derivative("norms", extension=".json"),
        },
        only_with="controls",
    ),
    Use(
        "affected",
        deliver={
            "affected": Derivative("affected", extension=".tsv"),
            "affected_dictionary": Derivative("affected", extension=".json"),
        },
        only_with="affected_side",
    ),
    Use(
        "qc_table",
        deliver={
            "qc_table": Derivative("qc", extension=".tsv"),
            "qc_wide": Derivative("qc_wide", extension=".tsv"),
            "qc_table_dictionary": Derivative("qc", extension=".json"),
        },
    ),
)

# What is gathered from the sessions that are done -> how the names of its files end.
GATHERED = {
    "stats": "_desc-segments_stats.tsv",
    "derived": "_desc-derived_stats.tsv",
    "sensitivity": "_desc-sensitivity_stats.tsv",
    "profiles": "_desc-profiles_stats.tsv",
    "qc": "_desc-qc_stats.tsv",
}

STATUS_COLUMNS = {
    "participant_id": "Participant",
    "session_id": "Session; n/a where the participant has one session without a name",
    "run": "Scan or group of scans within the session; n/a where there is one",
    "verdict": "done, failed, not run, or outdated: options, code, versions or inputs are others now",
    "reason": "Why it is not done",
    "failed_step": "The step that failed; plan: the session was stopped before any step",
    "steps_run": "Steps that ran in the last run of the session",
    "steps_cached": "Steps whose results were there already",
    "seconds": "Time that the steps took",
    "peak_memory_mb": "Most memory that a step took",
    "warnings": "Codes of warnings, joined by ;",
}
"""Column of the status -> what it means."""


@dataclass(frozen=True)
class Member:
    """A session of the cohort: what is known of it, and whether it takes part in the table."""

    label: str
    participant_id: str
    session_id: str
    run: str
    verdict: str
    """`done`, `failed`, `not run`, `outdated`: options, code, versions or inputs are others now; or
    `excluded`: done, and left out by the verdict of a rater."""
    reason: str
    last: Record | None
    """In brief."""
    gathered: tuple[str, ...] = ()
    """Its files that the tables are made of, relative to the output."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to run for it."""
        return self.verdict in ("done", "excluded")

    @property
    def row(self) -> dict[str, object]:
        """Its row of the status."""
        last = self.last
        return {
            "participant_id": self.participant_id,
            "session_id": self.session_id or "n/a",
            "run": self.run or "n/a",
            "verdict": self.verdict,
            "reason": self.reason or "n/a",
            "failed_step": last.failed_step or "n/a" if last else "n/a",
            "steps_run": last.count("run") if last else 0,
            "steps_cached": last.count("cached") if last else 0,
            "seconds": round(sum(step.seconds for step in last.steps), 1) if last else 0.0,
            "peak_memory_mb": round(last.peak_mb) if last else 0,
            "warnings": "; ".join(sorted({w.code for w in last.warnings})) or "n/a" if last else "n/a",
        }


def members(place: Place) -> list[Member]:
    """Every session of the plan, with its last record.

    Raises:
        DatasetError: `REVIEW_TABLE`, the verdicts of raters cannot be read.
    """
    against = verdicts.excluded(verdicts.read(place.out_dir), place.settings.cohort.review)
    units = participant.units(place)
    found = []
    for item in place.plan.sessions:
        last = record.read(record.path_of(place.out_dir, item.label))
        identity = participant.identity_of(item, place.settings)
        verdict, reason = _judge(last, units.get(item.label), item.errors)
        key = (identity["participant_id"], identity["session_id"], identity["run"])
        if verdict == "done" and key in against:
            verdict, reason = "excluded", against[key]
        found.append(
            Member(
                item.label,
                *key,
                verdict,
                reason,
                None if last is None else last.brief,
                () if last is None else _gathered(last),
            )
        )
    return found


def _gathered(last: Record) -> tuple[str, ...]:
    return tuple(item.path for item in last.outputs if item.path.endswith(tuple(GATHERED.values())))


def _judge(last: Record | None, unit: Unit | None, errors: Sequence[Problem]) -> tuple[str, str]:
    if unit is None:
        return "failed", in_one_line(errors)
    if last is None:
        return "not run", "the participant level has not run for this session"
    if last.verdict == "failed":
        return "failed", last.reason
    if changed := _changed(last, unit):
        return "outdated", f"{changed}: run the participant level again"
    return "done", ""


def _changed(last: Record, unit: Unit) -> str:
    """What has changed since a session was done, or an empty string."""
    if last.recipe != unit.recipe:
        return "made with other options than this configuration's"
    made = {step.step: (step.code, step.versions) for step in last.steps}
    if other := [node.step for node in unit.nodes if made.get(node.step) != (node.code, node.versions)]:
        return f"made with other code or versions of {', '.join(other)}"
    now = session.input_sums(unit)
    if edited := [name for name, digest in now.items() if last.inputs.get(name) != digest]:
        return f"{', '.join(edited)} changed since"
    gone = [item.path for item in last.outputs if not (unit.out_dir / item.path).is_file()]
    return f"{', '.join(gone)} is no longer there" if gone else ""


def unit(place: Place, cohort: Sequence[Member]) -> Unit:
    """The group level as a unit of the engine: the tables of the sessions that are done.

    Raises:
        GraphError: as `graph.join`.
        DatasetError: as `_clinical`.
    """
    delivered = [path for member in cohort if member.verdict == "done" for path in member.gathered]
    group = place.out_dir / "group"
    files, texts, warnings = _clinical(place)
    files |= {
        product: tuple(place.out_dir / path for path in delivered if path.endswith(ending))
        for product, ending in GATHERED.items()
    }
    uses = [use for use in STEPS if use.belongs({*files, *texts}, place.settings.step)]
    return Unit(
        label=record.GROUP,
        nodes=join(uses, [*files, *texts], place.settings.step, "workflows/group.py"),
        files=files,
        texts=texts,
        targets={
            product: (group / f"{derivative.suffix}{derivative.extension}", derivative)
            for use in uses
            for product, derivative in use.deliver.items()
        },
        warnings=warnings,
        out_dir=place.out_dir,
        work_dir=place.work_dir,
        source_dir=place.out_dir,
        identity={"participant_id": record.GROUP},
        containers=containers.used(),
        verify=place.verify,
        command=place.command,
    )


Files = dict[str, tuple[Path, ...] | Path | None]


def _clinical(place: Place) -> tuple[Files, dict[str, str], tuple[Problem, ...]]:
    """Clinical files and texts that the tables of the group need, and what hinders that nobody asked for.

    Raises:
        DatasetError: clinical files that the configuration names and that cannot be read; `NORMS_CIRCULAR`.
    """
    cohort, dataset = place.settings.cohort, place.plan.bids_dir
    found = clinical.files(dataset, cohort)
    texts: dict[str, str] = {}
    try:
        people = read_people(found.tables)
        has_side = columns.has(people, "affected.side", cohort.affected.side)
    except DatasetError as error:
        if columns.declares(cohort):
            raise
        return {}, {}, tuple(replace(problem, severity="warning") for problem in error.problems)
    files: Files = {"clinical": found.tables}
    if has_side:
        texts["affected_side"] = columns.cohort_text(cohort, "affected")
    if cohort.norms is not None:
        files["norms_given"] = dataset / cohort.norms
        _check_given(dataset / cohort.norms, place.out_dir / "group" / "norms.tsv")
    if cohort.norms is not None or cohort.controls:
        texts["age_sex"] = columns.cohort_text(cohort, "age", "sex")
    if cohort.controls:
        texts["controls"] = columns.cohort_text(cohort, "controls", "age", "sex", "exclude")
        texts["protocol"] = place.settings.protocol
        if found.exclusions is not None:
            files["exclusion_list"] = found.exclusions
    return files if texts else {}, texts, ()


def _check_given(given: Path, own: Path) -> None:
    if given.resolve() == own.resolve():
        raise DatasetError(
            Problem(
                "NORMS_CIRCULAR",
                "the reference values that are given are those that this cohort's controls make",
                where="cohort.norms",
                found=str(given),
                expected="values of other people",
                do="leave cohort.norms out: the cohort's own norms are compared with anyway",
            )
        )


def write_status(out_dir: Path, cohort: Sequence[Member]) -> Path:
    """Write `group/status.tsv`, a row per session, and its dictionary; returns its path."""
    rows = [[str(member.row[name]) for name in STATUS_COLUMNS] for member in cohort]
    lines = ["\t".join(row) for row in (STATUS_COLUMNS, *rows)]
    about = {name: {"Description": words} for name, words in STATUS_COLUMNS.items()}
    write_atomically(out_dir / "group" / "status.json", json.dumps(about, indent=2) + "\n")
    return write_atomically(out_dir / "group" / "status.tsv", "\n".join(lines) + "\n")


def summary(cohort: Sequence[Member]) -> str:
    """`sessions: 3 done, 1 failed`."""
    counts = Counter(member.verdict for member in cohort)
    named = ("done", "excluded", "failed", "outdated", "not run")
    return "sessions: " + ", ".join(
        f"{counts[name]} {name}" for name in named if counts[name] or name in ("done", "failed")
    )
