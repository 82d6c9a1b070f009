"""Repeat a finished run from its own record, and say what differs from it and why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from somite import fingerprint, record, sameness
from somite.configs import reader
from somite.containers import has_image, use, user_inside
from somite.errors import DatasetError, Problem, ToolError
from somite.files import read_json
from somite.fingerprint import HashCache
from somite.plan import make_plan
from somite.record import Delivered, Record, StepRecord
from somite.registry import discover
from somite.sameness import Sameness
from somite.workflows import analyses, cohort, group, participant, session
from somite.workflows.participant import Place
from somite.workflows.pool import Limits
from somite.workflows.session import Unit

GROUP = "group"


@dataclass(frozen=True)
class Finished:
    """A finished run: where it lies, and the records of what is done in it."""

    out_dir: Path
    bids_dir: Path
    records: dict[str, Record]
    """Label -> record, of the sessions, the group level and the analyses that are done."""
    left_out: tuple[str, ...] = ()
    """Sessions that are not done: there is nothing to repeat."""

    @property
    def sessions(self) -> list[str]:
        """Labels of the sessions."""
        return [label for label in self.records if label.startswith("sub-")]


def read(out_dir: Path, bids_dir: Path | None = None) -> Finished:
    """Read what is known of a run.

    Args:
        out_dir: its output dataset.
        bids_dir: where the input lies now; None for where it lay, relative to the output.

    Raises:
        DatasetError: `NOTHING_DONE`, `NO_INPUT_DATASET`.
    """
    paths = sorted((out_dir / "logs").glob("*.json"))
    every = {item.label: item for item in map(record.read, paths) if item is not None}
    done = {label: item for label, item in every.items() if item.verdict == "done"}
    if not any(label.startswith("sub-") for label in done):
        raise DatasetError(
            Problem(
                "NOTHING_DONE",
                "no session of this output is done, so there is nothing to repeat",
                where=str(out_dir / "logs"),
                do="`somite status` says how the sessions stand",
            )
        )
    left_out = tuple(label for label in every if label not in done and label.startswith("sub-"))
    return Finished(out_dir, bids_dir or _input_dataset(out_dir), done, left_out)


def _input_dataset(out_dir: Path) -> Path:
    description = out_dir / "dataset_description.json"
    try:
        link = read_json(description)["DatasetLinks"]["raw"]
        found = Path(os.path.normpath(out_dir.resolve() / link))
    except (OSError, ValueError, KeyError, TypeError):
        link, found = "no link named raw", Path("/nonexistent")
    if not found.is_dir():
        raise DatasetError(
            Problem(
                "NO_INPUT_DATASET",
                "the dataset that this output was made from is not where the record says",
                where=f"{description}: DatasetLinks",
                found=str(link),
                do="say where it lies now: --bids-dir BIDS_DIR",
            )
        )
    return found


def place_of(finished: Finished, into: Path, command: str) -> Place:
    """Where the rerun reads and writes: the sessions of the record, with the configuration of the record.

    Raises:
        ConfigError: the recorded configuration is not valid (any more).
        DatasetError: the dataset as a whole cannot be used, or `INTO_IN_USE`.
    """
    if into.exists() and any(into.iterdir()):
        raise DatasetError(
            Problem(
                "INTO_IN_USE",
                "a rerun goes into a folder of its own",
                where=str(into),
                found="a folder that is not empty",
                do="name a new folder, or leave --into out",
            )
        )
    settings = reader.read(finished.out_dir / "code" / "config.yaml", discover())
    use(settings.tools.containers())
    plan = make_plan(finished.bids_dir, settings)
    errors = [problem for problem in plan.problems if problem.severity == "error"]
    if errors:
        raise DatasetError.of(errors)
    sessions = tuple(item for item in plan.sessions if item.label in finished.records)
    return Place(replace(plan, sessions=sessions), settings, into, into / ".work", command=command)


# What has changed since


def changes(finished: Finished, place: Place) -> Iterator[str]:
    """What has changed since the run: inputs, options, versions, code. Reads every input file; runs nothing.

    A change that several sessions share is told once.
    """
    told: dict[str, list[str]] = {}
    units = participant.units(place)
    for label in finished.sessions:
        known = finished.records[label]
        for change in _changes(units[label], known) if label in units else (_why_not(label, place),):
            told.setdefault(change, []).append(label)
    if GROUP in finished.records:
        cohort_units = [group.unit(place, ()), *analyses.units(place)]
        for unit in cohort_units:
            if unit.label in finished.records:
                for change in _changes(unit, finished.records[unit.label]):
                    told.setdefault(change, []).append(unit.label)
    for change, labels in told.items():
        everybody = set(finished.sessions) <= set(labels)
        yield change if everybody else f"{change}  ({_some(labels)})"


def _some(labels: Sequence[str], most: int = 3) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def _why_not(label: str, place: Place) -> str:
    found = next((item for item in place.plan.sessions if item.label == label), None)
    if found is None:
        return "a session of the record is no longer in the dataset"
    return "; ".join(f"{problem.code}: {problem.what}" for problem in found.errors)


def _changes(unit: Unit, known: Record) -> Iterator[str]:
    """What has changed since a record was made: what a unit is given, and each of its steps."""
    with HashCache(unit.folder / "hashes.json") as hashes:
        now = session.input_sums(_present(unit), hashes)
    for name in sorted({*now, *known.inputs} if unit.label.startswith("sub-") else now):
        if name not in now:
            yield f"input {name} is no longer there"
        elif name not in known.inputs:
            yield f"input {name} was not there"
        elif now[name] != known.inputs[name]:
            yield f"input {name} changed"
    software = session.software()
    for name in sorted({*software, *known.software}):
        if software.get(name) != known.software.get(name):
            yield f"version of {name}: {known.software.get(name, 'absent')} -> {software.get(name, 'absent')}"
    for item in session.look(unit):
        node = item.node
        step = StepRecord(
            node.step,
            "run",
            0,
            0,
            node.code,
            node.config,
            node.versions,
            _texts(unit, item.inputs, node.wires),
        )
        yield from (reason for reason in record.differences(known.steps, step) if reason != record.GONE)
    steps = {node.step for node in unit.nodes}
    yield from (f"step {step.step} is not run any more" for step in known.steps if step.step not in steps)


def _present(unit: Unit) -> Unit:
    """A unit with those of its files that are there: an analysis reads tables that are yet to be made."""
    there = {
        name: tuple(p for p in value if p.is_file()) if isinstance(value, tuple) else value
        for name, value in unit.files.items()
        if isinstance(value, tuple) or (value is not None and value.is_file())
    }
    return replace(unit, files=there)


def _texts(unit: Unit, inputs: dict[str, list[str]], wires: dict[str, str]) -> dict[str, list[str]]:
    """Of a step's inputs, those that are told by the plan (what sidecars say, who it is): no file's name."""
    return {need: sums for need, sums in inputs.items() if wires[need] in unit.texts}


# Running and comparing


def repeat(finished: Finished, place: Place, limits: Limits) -> dict[str, Record]:
    """Run what the record holds, into a fresh folder; returns the new records by label."""
    ran, _ = cohort.run_participants(place, limits)
    if GROUP in finished.records and any(item.verdict == "done" for item in ran):
        ran += cohort.run_group(place, limits)[1]
    written = (record.read(record.path_of(place.out_dir, item.label)) for item in ran)
    return {item.label: item for item in written if item is not None}


@dataclass(frozen=True)
class Outcome:
    """How the repeated session, group level or analysis stands to the recorded one."""

    label: str
    exact: bool
    """Whether it was held to the bit: the processor's flags are the same."""
    files: dict[str, Sameness]
    because: tuple[str, ...] = ()
    """Where something differs: the steps at which it begins, each with its reasons."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return all(found.state != "differs" for found in self.files.values())


def outcomes(finished: Finished, place: Place, made: dict[str, Record]) -> Iterator[Outcome]:
    """Compare every delivered file with the recorded one, session by session."""
    for label, old in finished.records.items():
        new = made.get(label)
        if new is None or new.verdict != "done":
            reason = "it was not run" if new is None else new.reason
            yield Outcome(label, True, {label: Sameness("differs", reason)})
            continue
        exact = old.processor_flags == new.processor_flags
        delivered = {item.path: item for item in new.outputs}
        files = {
            item.path: _compare(item, delivered.get(item.path), finished.out_dir, place.out_dir, exact)
            for item in old.outputs
        }
        came = [path for path in delivered if path not in files]
        files |= dict.fromkeys(came, Sameness("differs", "it was not made before"))
        outcome = Outcome(label, exact, files)
        yield outcome if outcome.same else replace(outcome, because=tuple(_causes(old, new)))


def _compare(old: Delivered, new: Delivered | None, out_dir: Path, into: Path, exact: bool) -> Sameness:
    if new is None:
        return Sameness("differs", "it is not made any more")
    recorded = out_dir / old.path
    if not recorded.is_file():
        there = new.sha256 == old.sha256
        return Sameness("equal" if there else "differs", "" if there else "the recorded file is gone")
    if fingerprint.sha256(recorded) != old.sha256:
        return Sameness("differs", "the file in the output is not the one that was recorded: it was edited")
    if new.sha256 == old.sha256:
        return Sameness("equal")
    return sameness.compare(recorded, into / new.path, exact=exact)


def _causes(old: Record, new: Record) -> Iterator[str]:
    """The steps at which a difference begins: other results, though the steps before gave the same."""
    before = {step.step: step for step in old.steps}
    made = {digest for step in old.steps for digest in step.outputs.values()}
    for step in new.steps:
        last = before.get(step.step)
        if last is None:
            yield f"step {step.step} was not run before"
            continue
        if last.outputs == step.outputs:
            continue
        upstream = {
            f"input {need} changed"
            for need, sums in step.inputs.items()
            if last.inputs.get(need) != sums and set(last.inputs.get(need, ())) & made
        }
        found = [reason for reason in record.differences(old.steps, step) if reason != record.GONE]
        own = [reason for reason in found if reason not in upstream]
        if own or not upstream:
            yield f"step {step.step}: {'; '.join(own) or _elsewhere(old, new)}"


def _elsewhere(old: Record, new: Record) -> str:
    """What else may be the reason, where inputs, options, versions and code are the same."""
    words = "another result from the same inputs, options, versions and code"
    for what, a, b in (("processor", old.processor, new.processor), ("threads", old.threads, new.threads)):
        words += f"; {what}: {a} -> {b}" if a != b else ""
    return words


def lines(outcome: Outcome) -> Iterator[str]:
    """An outcome for a person: what is equal, what differs, and because of what."""
    states = [found.state for found in outcome.files.values()]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    how = "to the bit" if outcome.exact else f"within {sameness.RELATIVE:g}: the processor is another"
    yield f"{outcome.label}  {', '.join(counts)}  ({how})"
    for path, found in outcome.files.items():
        if found.state == "differs":
            yield f"  differs: {path}: {found.found}"
    yield from (f"  because: {reason}" for reason in outcome.because)


# Inside of the recorded image


def container_command(
    finished: Finished, into: Path, options: Iterable[str] = (), image: str = ""
) -> list[str]:
    """The command that repeats a run inside of an image, with the same paths; by docker, podman: no network.

    Args:
        finished: the run.
        into: folder for what the rerun makes; it must be there.
        options: of `somite rerun`, to be passed on.
        image: empty for the one of the record.

    Raises:
        ToolError: `NO_IMAGE` where none is given and none or several were recorded, `NO_RUNTIME`.
    """
    recorded = {finished.records[label].software.get("container", "") for label in finished.sessions}
    images = {image} if image else recorded
    if len(images) != 1 or any(name[:1] in ("", "-") for name in images):  # - would be an option
        raise ToolError(
            Problem(
                "NO_IMAGE",
                "the record does not name one container image that the run was made in",
                where=str(finished.out_dir / "logs"),
                found=", ".join(sorted(name or "none recorded" for name in images)),
                do="name it: --image IMAGE; or rerun without --image. Apptainer's image is recorded by "
                "itself, Docker's where the run is told of it: docker run -e SOMITE_IMAGE=NAME@sha256:DIGEST",
            )
        )
    (image,) = images
    bids, out, into = finished.bids_dir.resolve(), finished.out_dir.resolve(), into.resolve()
    inside = ["somite", "rerun", str(out), "--bids-dir", str(bids), "--into", str(into), *options]
    if image.endswith((".sif", ".simg")) or image[0] == "/":
        binds = [f"--bind={bids}:{bids}:ro", f"--bind={out}:{out}:ro", f"--bind={into}:{into}"]
        return [_runtime(("apptainer", "singularity"), image), "exec", "--containall", *binds, image, *inside]
    runtime = _runtime(("docker", "podman"), image)
    binds = [f"--volume={bids}:{bids}:ro", f"--volume={out}:{out}:ro", f"--volume={into}:{into}"]
    rules = ["--rm", "--network=none", "--read-only", "--tmpfs=/tmp", f"--user={user_inside(runtime)}"]
    rules.append(f"--env=SOMITE_IMAGE={image}")
    return [runtime, "run", *rules, *binds, f"--entrypoint={inside[0]}", image, *inside[1:]]


def _runtime(names: Sequence[str], image: str) -> str:
    found = [name for name in names if shutil.which(name)]
    if found == ["docker", "podman"] and has_image("podman", image) and not has_image("docker", image):
        return "podman"  # docker is often a client without an engine
    if found:
        return found[0]
    raise ToolError(
        Problem(
            "NO_RUNTIME",
            "nothing on this machine runs the image",
            where=image,
            expected=" or ".join(names),
            do="install one of them, or rerun without --image",
        )
    )
