"""`somite submit`: which sessions a cluster is given, with what, and the files and jobs that this takes."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from somite import containers, ending, roll, standing, submissions
from somite.analysis import clinical
from somite.configs.cluster import Cluster
from somite.derivatives import write_dataset_files
from somite.errors import ConfigError, Problem
from somite.files import write_atomically
from somite.lease import Lease
from somite.record import Record
from somite.standing import Standing
from somite.submissions import Array, Submission
from somite.workflows import analyses, cohort, group, participant, pool, session, slurm
from somite.workflows.group import Member
from somite.workflows.participant import Place
from somite.workflows.session import Unit
from somite.workflows.slurm import ENDED, Request

CONFIG = "config.yaml"
"""The configuration as it was when it was submitted: jobs that wait do not see a later change."""
DRIVER_GB = 1.0
"""Memory of an element beside its sessions: the process that starts them, and the server of the steps."""
UNMEASURED_H = 4.0
MARGIN_TIME, MARGIN_MEMORY = 2.0, 1.3
"""What is asked for, over what the most demanding session that is done took."""


@dataclass(frozen=True)
class Sending:
    """What a call of `somite submit` gives to the cluster."""

    place: Place
    folder: Path
    """Of its scripts, `OUT_DIR/code/slurm/STAMP`."""
    units: Mapping[str, Unit]
    """All sessions of the plan that can run."""
    batches: tuple[tuple[Request, tuple[tuple[str, ...], ...]], ...]
    """What each element gets, and the sessions of each element."""
    cohort: tuple[Member, ...]
    standings: Mapping[str, Standing]
    short_of_memory: tuple[str, ...] = ()
    """Sessions that ended for want of memory and are given no more than before."""

    @property
    def cluster(self) -> Cluster:
        """The section of the configuration."""
        return self.place.settings.cluster

    @property
    def labels(self) -> list[str]:
        """Every session that is sent."""
        return [label for _, elements in self.batches for element in elements for label in element]


@dataclass(frozen=True)
class Asked:
    """Options of the command."""

    retry_memory: float = 1.0
    """Times the memory for sessions that ended for want of it."""
    cores: int | None = None
    """Of an element, in place of the configuration's."""
    narrowed: bool = False
    """Whether the plan holds a part of the cohort only. The tables are made of the whole."""


def prepare(place: Place, asked: Asked, known: standing.Cluster | None = None) -> Sending:
    """See what is missing, failed or outdated, and neither waits nor runs. Writes nothing.

    Args:
        place: with the plan of the sessions that were asked for.
        asked: options of the command.
        known: what Slurm and the collectors know of earlier submissions; they are asked unless it is given.

    Raises:
        GraphError, ToolError: as `graph.join`.
    """
    known = known or standing.look(place.out_dir)
    units = participant.units(place)
    members = tuple(group.members(place))
    records = {member.label: member.last for member in members if member.last is not None}
    standings = standing.of_sessions(known, records)
    wanted = [
        member.label
        for member in members
        if member.label in units and not member.is_finished and not _is_live(standings.get(member.label))
    ]
    basis = _request(
        place.settings.cluster, [units[label] for label in wanted], records.values(), asked.cores
    )
    more = _more_memory(wanted, known, standings, asked.retry_memory)
    chunk = place.settings.cluster.chunk
    batches = []
    for memory_mb in sorted({max(basis.memory_mb, more.get(label, 0)) for label in wanted}):
        own = [label for label in wanted if max(basis.memory_mb, more.get(label, 0)) == memory_mb]
        elements = tuple(tuple(own[i : i + chunk]) for i in range(0, len(own), chunk))
        batches.append((replace(basis, memory_mb=memory_mb), elements))
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
    folder = place.out_dir / "code" / "slurm" / stamp
    short = tuple(more) if asked.retry_memory == 1 else ()
    return Sending(place, folder, units, tuple(batches), members, standings, short)


def _is_live(found: Standing | None) -> bool:
    return found is not None and found.is_live


def _more_memory(
    wanted: Sequence[str], known: standing.Cluster, standings: Mapping[str, Standing], factor: float
) -> dict[str, int]:
    """Label -> memory for those whose last attempt ended for want of it, a multiple of what that had."""
    given = submissions.attempts(known.submissions)
    return {
        label: math.ceil(given[label].array.memory_mb * factor)
        for label in wanted
        if label in given and standings[label].code == ending.OUT_OF_MEMORY
    }


def _request(
    cluster: Cluster, units: Sequence[Unit], records: Iterable[Record], cores: int | None
) -> Request:
    """What an element gets: what is said, else from what was measured, else from the size of the series."""
    done = [item for item in records if item.verdict == "done"]
    cpus = cores or cluster.cpus
    # Sessions that ran with more threads take longer with fewer.
    seconds = [
        sum(step.seconds for step in item.steps) * max(1.0, item.threads / cpus) * MARGIN_TIME
        for item in done
    ]
    hours = cluster.time_h or (max(seconds) / 3600 + 0.25 if seconds else UNMEASURED_H)
    declared = max((pool.need_gb(unit) for unit in units), default=0.0)
    peak = max((item.peak_mb for item in done), default=0.0) * 2**20 / 1e9
    memory = cluster.memory_gb or math.ceil(2 * (max(declared, peak * MARGIN_MEMORY) + DRIVER_GB)) / 2
    minutes = math.ceil(hours * cluster.chunk * 60)
    return Request(minutes, cpus, slurm.mebibytes(memory), cluster.gpus)


def check(place: Place) -> None:
    """See that the memory of an element suffices for each session, where the configuration says it.

    Raises:
        ConfigError: `CLUSTER_MEMORY`.
        GraphError, ToolError: as `graph.join`.
    """
    given = place.settings.cluster.memory_gb
    needs = {label: pool.need_gb(unit) + DRIVER_GB for label, unit in participant.units(place).items()}
    short = [label for label, need in needs.items() if given is not None and need > given]
    if short:
        largest = max(short, key=needs.__getitem__)
        raise ConfigError(
            Problem(
                "CLUSTER_MEMORY",
                f"an element of the array would have too little memory for {len(short)} sessions",
                where="cluster: memory_gb",
                found=f"{given:g} GB; {largest} needs {needs[largest]:.1f} GB",
                expected=f"at least {needs[largest]:.1f} GB",
                do="raise it, or leave it out: then the size of the series and what was measured decide",
            )
        )


# Commands and files


def command(sending: Sending, level: str, cpus: int, memory_mb: int) -> str:
    """The command of a level as a line of bash; the sessions are put behind it."""
    place = sending.place
    container = sending.cluster.container
    start = [sys.executable, "-m", "somite"] if container is None else _inside(container, sending)
    words = [*start, "run", str(place.plan.bids_dir), str(place.out_dir), level]
    words += ["--config", str(sending.folder / CONFIG), "--work-dir", str(place.work_dir)]
    memory_gb = memory_mb * 2**20 / 1e9 - (DRIVER_GB if level == "participant" else 0)
    words += ["--n-procs", str(cpus), "--mem-gb", f"{memory_gb:.2f}"]
    return shlex.join([*words, *(["--verify"] if place.verify else [])])


def _inside(container_command: str, sending: Sending) -> list[str]:
    """The words before `run` in a container that sees input and output."""
    place = sending.place
    container = containers.parse(container_command)
    inputs = [folder / "any" for folder in _roots(sending)]
    words = list(containers.enclosing(container, place.out_dir, inputs, {}, also=(place.work_dir,)))
    if container.runtime in ("docker", "podman"):
        at = words.index("run") + 1
        return [*words[:at], "--entrypoint", "somite", *words[at:]]
    return [*words, "somite"]


def _roots(sending: Sending) -> list[Path]:
    """Folders that hold the input files, none within another."""
    place, settings = sending.place, sending.place.settings
    dataset = place.plan.bids_dir
    tables = clinical.files(dataset, settings.cohort)
    known = [dataset, settings.labels.path(dataset), settings.masks.path(dataset)]
    known += [settings.labels.transforms and dataset / settings.labels.transforms]
    known += [path.parent for path in (*tables.tables, tables.exclusions) if path is not None]
    roots = {path for path in known if path is not None and path.is_dir()}
    roots |= {path.resolve() for path in roots}
    for unit in sending.units.values():
        for path in session.files(unit):
            for parent in {path.parent, path.resolve().parent}:
                if roots.isdisjoint((parent, *parent.parents)):
                    roots.add(parent)
    return sorted(root for root in roots if roots.isdisjoint(root.parents))


def commands(sending: Sending) -> list[str]:
    """A command for each element, for any other scheduler or a loop; the last one is the group level's."""
    found = [
        f"{command(sending, 'participant', request.cpus, request.memory_mb)} --only {' '.join(element)}"
        for request, elements in sending.batches
        for element in elements
    ]
    return [*found, _group_command(sending)]


def _group_command(sending: Sending) -> str:
    own = sending.cluster.group
    return command(sending, "group", own.cpus, slurm.mebibytes(own.memory_gb))


def files(sending: Sending) -> dict[str, str]:
    """Name -> text of the files that are written to `OUT_DIR/code/slurm/STAMP`."""
    logs = submissions.folder(sending.place.out_dir)
    found = {
        CONFIG: sending.place.settings.to_yaml(),
        "sessions.txt": "".join(
            f"{' '.join(element)}\n" for _, elements in sending.batches for element in elements
        ),
        "group.sh": slurm.group_script(sending.cluster, logs, _group_command(sending)),
        "collect.sh": slurm.collect_script(sending.cluster, logs),
    }
    for number, (request, _) in enumerate(sending.batches):
        line = command(sending, "participant", request.cpus, request.memory_mb)
        found[_script(number)] = slurm.session_script(sending.cluster, request, sending.folder, logs, line)
    return found


def _script(batch: int) -> str:
    return f"sessions{f'-{batch + 1}' if batch else ''}.sh"


def write(sending: Sending) -> None:
    """Write the files, those of the output dataset, and which sessions are to be done by which recipe."""
    place = sending.place
    write_dataset_files(
        place.out_dir, place.plan.bids_dir, command=place.command, config=place.settings.to_yaml()
    )
    for name, text in files(sending).items():
        write_atomically(sending.folder / name, text)
    submissions.folder(place.out_dir).mkdir(parents=True, exist_ok=True)
    roll.add(place.out_dir, {label: sending.units[label].recipe for label in sending.labels})
    place.work_dir.mkdir(parents=True, exist_ok=True)  # a container can be shown only what is there
    cohort.record_stopped(place)


def arrays(sending: Sending, largest: int) -> list[tuple[Path, int, Array]]:
    """Script, its first line of the list, and the array, whose job is not known yet."""
    found = []
    before = 0
    for number, (request, elements) in enumerate(sending.batches):
        for first, count in slurm.arrays(len(elements), largest):
            own = [list(element) for element in elements[first : first + count]]
            array = Array(0, own, request.memory_mb, request.minutes)
            found.append((sending.folder / _script(number), before + first, array))
        before += len(elements)
    return found


def calls(sending: Sending) -> list[str]:
    """The calls of sbatch, with JOB for the numbers that Slurm gives."""
    at_most = sending.cluster.at_most
    lines: list[list[str]] = []
    for script, first, array in arrays(sending, slurm.max_array_size()):
        after = ["JOB"] if at_most and lines else []
        lines.append(slurm.array_call(script, first, len(array.elements), at_most, after))
    jobs = ["JOB"] * len(lines)
    if jobs:
        lines.append(slurm.job_call(sending.folder / "collect.sh", jobs, *jobs))
    lines.append(slurm.job_call(sending.folder / "group.sh", jobs))
    return [shlex.join(line) for line in lines]


# Jobs


def submit(place: Place, asked: Asked) -> tuple[Sending, Submission | None]:
    """Send what is missing; returns what was prepared, and the jobs, None where there is nothing to do.

    Only one `submit` at a time looks at an output dataset.

    Raises:
        GraphError: as `prepare`.
        ToolError: as `prepare` and `slurm.submit`; `SLURM_MISSING`.
    """
    slurm.check()
    with Lease(place.work_dir / "submit" / "lease.json"):
        known = standing.look(place.out_dir)
        if known.tasks is None:
            raise slurm.silent()
        sending = prepare(place, asked, known)
        if not sending.labels and (asked.narrowed or not needs_group(sending)):
            cohort.record_stopped(place)
            return sending, None
        write(sending)
        return sending, _send(sending, known)


def _send(sending: Sending, known: standing.Cluster) -> Submission:
    """Give the arrays, the collector and the group level to Slurm; each is written down as soon as it is.

    With `at_most`, an array waits for the one before it, so that no more run at once.
    """
    place, at_most = sending.place, sending.cluster.at_most
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sent = Submission(sending.folder.name, now, str(place.work_dir), [])
    for script, first, array in arrays(sending, slurm.max_array_size()):
        after = [sent.arrays[-1].job] if at_most and sent.arrays else []
        job = slurm.submit(slurm.array_call(script, first, len(array.elements), at_most, after))
        sent = replace(sent, arrays=[*sent.arrays, replace(array, job=job)])
        submissions.write(sent, place.out_dir)
    jobs = [array.job for array in sent.arrays]
    if jobs:
        sent = replace(sent, collect=slurm.submit(slurm.job_call(sending.folder / "collect.sh", jobs, *jobs)))
        submissions.write(sent, place.out_dir)
    slurm.cancel(_waiting_groups(known))
    after = [*jobs, *_live_arrays(known)]
    sent = replace(sent, group=slurm.submit(slurm.job_call(sending.folder / "group.sh", after)))
    submissions.write(sent, place.out_dir)
    return sent


def _live_arrays(known: standing.Cluster) -> list[int]:
    """Arrays of earlier submissions that are not over."""
    live = {name.partition("_")[0] for name, task in (known.tasks or {}).items() if task.state not in ENDED}
    return [array.job for item in known.submissions for array in item.arrays if str(array.job) in live]


def _waiting_groups(known: standing.Cluster) -> list[int]:
    """Jobs of the group level that have not begun: one that comes after all sessions takes their place."""
    waiting = {name for name, task in (known.tasks or {}).items() if task.state == "PENDING"}
    return [item.group for item in known.submissions if str(item.group) in waiting]


def needs_group(sending: Sending) -> bool:
    """Whether tables or analyses are to be made anew: of what is sent, or of what is done already."""
    if sending.labels:
        return True
    if any(found.is_live for found in sending.standings.values()):
        return False  # the job of the group level waits for these
    if not any(member.verdict == "done" for member in sending.cohort):
        return False
    units = [group.unit(sending.place, sending.cohort), *analyses.units(sending.place, sending.cohort)]
    return any(trace.state != "cached" for unit in units for trace in session.look(unit))


def cancel(out_dir: Path) -> list[int]:
    """End every job of an output dataset that is not over; returns them.

    Raises:
        ToolError: `SLURM_MISSING`.
    """
    known = standing.look(out_dir)
    tasks = known.tasks
    if tasks is None:
        raise slurm.missing("squeue")
    live = {name.partition("_")[0] for name, task in tasks.items() if task.state not in ENDED}
    ended = []
    for item in known.submissions:
        jobs = [job for job in item.jobs if str(job) in live]
        if jobs:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            submissions.write(replace(item, cancelled=now), out_dir)
            ended += jobs
    slurm.cancel(ended)
    return ended
