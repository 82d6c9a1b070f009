"""What a cohort will need: core-hours, memory and disk, told before it runs.

A session that is done tells its own needs; one that is not is as the middle of those that are done with the
same options, by the size of the series; where nothing was measured, shipped defaults stand in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from somite.cache import size_text
from somite.errors import Problem
from somite.record import Record
from somite.workflows.pool import need_gb
from somite.workflows.session import Unit

DEFAULT_CORE_S_PER_GB: Mapping[str, float] = {
    "load": 8,
    "denoise": 100,
    "degibbs": 150,
    "susceptibility": 300,
    "eddy": 500,
    "bias": 200,
    "anatomy_transform": 200,
    "atlas": 200,
    "tensor": 10,
    "track": 200,
}
"""Seconds of one core for each GB of series as float32, of the built-in methods; steps that are not named
take 10. Those of load, denoise, eddy and tensor follow from the session of `docs/benchmarks.md` (0.05 GB);
the others are guesses of the order of magnitude."""
DEFAULT_CORE_S = 20.0
"""Of a session beside that: starting, pictures and tables."""
DEFAULT_WORK_COPIES = 6.5
"""Size of the work folder, in copies of the series as float32: of one lumbar phantom of 0.007 GB."""
DEFAULT_OUTPUT_COPIES = 1.7
"""Size of the output, likewise: maps and the corrected series, compressed."""
FIXED_MB = 5.0
"""Of both, whatever the series: tables, pictures, pages."""
TIGHT = 0.8
"""Part of the free disk from which a run warns: an estimate is no measurement."""

Basis = Literal["measured", "like others", "defaults"]


@dataclass(frozen=True)
class Need:
    """What one session needs."""

    label: str
    core_s: float
    memory_gb: float
    work_gb: float
    """In the work folder, at most."""
    output_gb: float
    basis: Basis
    done: bool = False
    """Whether it is done with these options already, so that none of it is needed any more."""


def needs(units: Iterable[Unit], records: Iterable[Record]) -> list[Need]:
    """What each session needs.

    Args:
        units: the sessions of the plan.
        records: of this output, whichever there are.
    """
    units = list(units)
    by_label = {unit.label: unit for unit in units}
    own: dict[str, Need] = {}
    by_recipe: dict[str, list[tuple[Need, float]]] = {}
    for item in records:  # one at a time: those of a cohort are large together
        if item.verdict != "done" or not item.steps:
            continue
        measured, unit = _measured(item), by_label.get(item.label)
        if unit is not None and item.recipe == unit.recipe:
            memory_gb = max(need_gb(unit), measured.memory_gb)
            own[item.label] = replace(measured, memory_gb=memory_gb, done=_is_done(item, unit))
        if item.dwi_gb > 0:
            by_recipe.setdefault(item.recipe, []).append((measured, item.dwi_gb))
    middle = {recipe: _middle(each) for recipe, each in by_recipe.items()}
    return [own.get(unit.label) or _expected(unit, middle.get(unit.recipe)) for unit in units]


def _is_done(own: Record, unit: Unit) -> bool:
    """Whether a session need not run again, unless its inputs have changed."""
    made = {step.step: (step.code, step.versions) for step in own.steps}
    return all(made.get(node.step) == (node.code, node.versions) for node in unit.nodes)


def _measured(item: Record) -> Need:
    return Need(
        item.label,
        core_s=sum(step.cpu_seconds or step.seconds * item.threads for step in item.steps),
        memory_gb=item.peak_mb / 1e3,
        work_gb=sum(step.disk_mb for step in item.steps) / 1e3,
        output_gb=sum(delivered.size for delivered in item.outputs) / 1e9,
        basis="measured",
    )


def _middle(each: Sequence[tuple[Need, float]]) -> Need:
    """The middle of measured sessions with the size of their series in GB, for each GB."""
    return Need(
        "",
        core_s=median(need.core_s / gb for need, gb in each),
        memory_gb=max(need.memory_gb for need, _ in each),
        work_gb=median(need.work_gb / gb for need, gb in each),
        output_gb=median(need.output_gb / gb for need, gb in each),
        basis="like others",
    )


def _expected(unit: Unit, others: Need | None) -> Need:
    gb = unit.dwi_gb
    if others is not None:
        return replace(
            others,
            label=unit.label,
            core_s=others.core_s * gb,
            memory_gb=max(need_gb(unit), others.memory_gb),
            work_gb=others.work_gb * gb,
            output_gb=others.output_gb * gb,
        )
    per_gb = sum(
        DEFAULT_CORE_S_PER_GB.get(node.step, 10.0)
        for node in unit.nodes
        if node.config.get("method") != "none"
    )
    return Need(
        unit.label,
        core_s=DEFAULT_CORE_S + per_gb * gb,
        memory_gb=need_gb(unit),
        work_gb=DEFAULT_WORK_COPIES * gb + FIXED_MB / 1e3,
        output_gb=DEFAULT_OUTPUT_COPIES * gb + FIXED_MB / 1e3,
        basis="defaults",
    )


def lines(found: Sequence[Need], keep: str) -> Iterator[str]:
    """The needs of the cohort for a person, and where the figures come from."""
    todo = [need for need in found if not need.done]
    for title, part in (("all sessions", found), ("those that are not done", todo)):
        hours = sum(need.core_s for need in part) / 3600
        work, output = (sum(getattr(need, name) for need in part) for name in ("work_gb", "output_gb"))
        if keep == "final":  # the work folder is emptied as sessions end
            work = max((need.work_gb for need in part), default=0.0)
        memory = max((need.memory_gb for need in part), default=0.0)
        yield (
            f"{title}: {len(part)}; {hours:.3g} core-hours; {memory:.2g} GB of memory for the largest; "
            f"disk: {size_text(work * 1e9)} of work folder"
            f"{' for each at once' if keep == 'final' else ''}, {size_text(output * 1e9)} of output"
        )
    counts = {basis: sum(need.basis == basis for need in found) for basis in ("measured", "like others")}
    yield (
        f"from: {counts['measured']} measured themselves, {counts['like others']} like those that were, "
        f"{len(found) - sum(counts.values())} by shipped defaults (an order of magnitude, no more)"
    )


def check_disk(
    found: Sequence[Need], out_dir: Path, work_dir: Path, *, keep: str, at_once: int
) -> list[Problem]:
    """Whether the sessions that are not done fit on the disk: an error if not, a warning if barely.

    Args:
        found: what each session needs.
        out_dir: the output.
        work_dir: the work folder; on the same disk as the output or on another one.
        keep: `final` where the work folder is emptied when a session is done.
        at_once: how many sessions run at once, at most.
    """
    todo = [need for need in found if not need.done]
    works = sorted((need.work_gb for need in todo), reverse=True)
    wanted: dict[int, tuple[Path, float, float]] = {}
    for folder, gb in (
        (work_dir, sum(works[:at_once] if keep == "final" else works)),
        (out_dir, sum(need.output_gb for need in todo)),
    ):
        there = _existing(folder)
        device = there.stat().st_dev
        _, free, so_far = wanted.get(device, (folder, shutil.disk_usage(there).free / 1e9, 0.0))
        wanted[device] = (folder, free, so_far + gb)
    return [
        _full(folder, gb, free, measured=any(need.basis != "defaults" for need in found))
        for folder, free, gb in wanted.values()
        if gb > TIGHT * free
    ]


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _full(folder: Path, gb: float, free: float, *, measured: bool) -> Problem:
    basis = "sessions that were measured" if measured else "shipped defaults: nothing was measured yet"
    return Problem(
        "DISK_SPACE",
        "the sessions to run will fill the disk" if gb > free else "the sessions to run may fill the disk",
        where=str(folder),
        found=f"{size_text(free * 1e9)} free",
        expected=f"about {size_text(gb * 1e9)}, by {basis}",
        do="make room (`somite cache prune`), name another --work-dir, or set keep: final in the YAML",
        # What no session has shown is not enough to refuse a run.
        severity="error" if gb > free and measured else "warning",
    )
