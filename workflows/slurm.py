"""Job arrays of Slurm: the text of their scripts, and thin calls of sbatch, squeue, scontrol and scancel.

Knows no session and no record. A list holds one element per line; the scripts are plain bash, to be read and
to be changed, and work when they are given to sbatch by hand.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from somite.configs.cluster import Cluster
from somite.errors import Problem, ToolError

WARNING_S = 60
"""How long before its time limit an element is told to end. Slurm may be a minute early."""
MAX_ARRAY_SIZE = 1001
"""Slurm's default, where scontrol does not tell."""
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
        *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    }
)
"""States of a job that is over. In any other it waits, runs, or is about to run again."""
_TIMEOUT_S = 60
_SHOWN = (
    r'.*ArrayJobId=([0-9]+) ArrayTaskId=([0-9]+) .* JobState=([A-Z_]+) Reason=([^ "\\]*).* '
    r"ExitCode=([0-9:]+) .*"
)
"""A line of `scontrol show job --oneliner` on an element, for Python and for sed."""


@dataclass(frozen=True)
class Request:
    """What one job, or each element of an array, gets."""

    minutes: int
    cpus: int
    memory_mb: int
    """MiB, as Slurm's M."""
    gpus: int = 0


@dataclass(frozen=True)
class Task:
    """A job or an element in Slurm's queue."""

    state: str
    """As `squeue` has it: PENDING, RUNNING, CANCELLED."""
    reason: str = ""
    exit_code: str = ""
    """Status and signal, `0:9`; squeue does not tell it."""


def session_script(cluster: Cluster, request: Request, folder: Path, logs: Path, command: str) -> str:
    """The script of an array whose elements are the lines of `sessions.txt`.

    Args:
        cluster: the section of the configuration.
        request: what an element gets.
        folder: where script and list lie.
        logs: where an element writes `<job>_<element>.log`.
        command: a line of bash that lacks the sessions, which are put behind it.
    """
    return f"""{_head("sessions", cluster, request, logs / "%A_%a.log", f"--signal=B:TERM@{WARNING_S}")}
# Each element runs the sessions in one line of the list. The argument says how many lines come before
# those of this array.
list={shlex.quote(str(folder / "sessions.txt"))}
{_preamble(cluster)}
job="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
sessions=$(sed -n "$((${{1:-0}} + SLURM_ARRAY_TASK_ID + 1))p" "$list")
echo "somite: $job began on $(hostname) at $(date +%s): $sessions"

# Slurm sends TERM to this shell alone when the time limit is near, and to every process on a cancellation:
# then the job is not RUNNING any more. The records tell the two apart.
told_to_end() {{
  state=$(timeout 10 squeue --noheader --jobs "$SLURM_JOB_ID" --format %T 2>/dev/null)
  [ -z "$state" ] && [ "$SECONDS" -gt {request.minutes * 60 - WARNING_S - 75} ] && state=RUNNING
  if [ "$state" = RUNNING ]; then
    echo "somite: $job is told that its time limit is near"
    kill -USR1 "$pid" 2>/dev/null
  else
    echo "somite: $job is told to end"
    kill -TERM "$pid" 2>/dev/null
  fi
}}

{command} --job "$job" --only $sessions &
pid=$!
trap told_to_end TERM
wait "$pid"; status=$?
while kill -0 "$pid" 2>/dev/null; do wait "$pid"; status=$?; done
echo "somite: $job ended with status $status"
exit "$status"
"""


def group_script(cluster: Cluster, logs: Path, command: str) -> str:
    """The script of the job that makes the tables."""
    group = cluster.group
    request = Request(round(group.time_h * 60), group.cpus, mebibytes(group.memory_gb))
    return f"""{_head("group", cluster, request, logs / "group-%j.log")}
# Tables and analyses of the sessions that are done.
{_preamble(cluster)}
exec {command}
"""


def collect_script(cluster: Cluster, logs: Path) -> str:
    """The script that writes down how the elements of arrays ended, while Slurm still knows."""
    return rf"""{_head("collect", cluster, Request(5, 1, 100), logs / "collect-%j.log")}
# Slurm forgets a job soon after its end (MinJobAge), and many clusters keep no accounts. The arguments are
# arrays; how their elements ended goes to ARRAY.json.
cd {shlex.quote(str(logs))} || exit
for array in "$@"; do
  scontrol show job --oneliner "$array" | sed -nE \
    's/{_SHOWN}/"\1_\2": {{"state": "\3", "reason": "\4", "exit_code": "\5"}}/p' |
    paste -sd, | sed 's/.*/{{&}}/' > ".$array.part" && mv ".$array.part" "$array.json"
done
"""


def _head(name: str, cluster: Cluster, request: Request, log: Path, *more: str) -> str:
    options = [
        f"--job-name=somite-{name}",
        f"--output={_quoted(log)}",
        "--open-mode=append",
        *([f"--partition={cluster.partition}"] if cluster.partition else []),
        *([f"--account={cluster.account}"] if cluster.account else []),
        f"--time={request.minutes}",
        f"--cpus-per-task={request.cpus}",
        f"--mem={request.memory_mb}M",
        *([f"--gres=gpu:{request.gpus}"] if request.gpus else []),
        "--requeue",
        *more,
        *cluster.sbatch,
    ]
    shell = "#!/bin/bash -l" if cluster.modules else "#!/bin/bash"
    return "\n".join([shell, *(f"#SBATCH {option}" for option in options)]) + "\n"


def _quoted(log: Path) -> str:
    """A path as #SBATCH takes it: in quotes, so that a blank or # ends nothing; the % of the name is kept."""
    folder = str(log.parent).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{folder}/{log.name}"'


def _preamble(cluster: Cluster) -> str:
    return "\n".join([*(f"module load {name} || exit" for name in cluster.modules), *cluster.setup])


def mebibytes(gigabytes: float) -> int:
    """Memory as Slurm counts it, rounded up."""
    return int(-(-gigabytes * 1e9 // 2**20))


def arrays(elements: int, largest: int) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each array, none with more than `largest`."""
    for first in range(0, elements, largest):
        yield first, min(largest, elements - first)


def array_call(
    script: Path, first: int, count: int, at_most: int | None = None, after: Sequence[int | str] = ()
) -> list[str]:
    """The call of sbatch for one array of elements of a list."""
    limit = f"%{at_most}" if at_most else ""
    return [*_sbatch(after), f"--array=0-{count - 1}{limit}", str(script), str(first)]


def job_call(script: Path, after: Sequence[int | str], *arguments: int | str) -> list[str]:
    """The call of sbatch for one job that waits for the end of others, however they end."""
    return [*_sbatch(after), str(script), *map(str, arguments)]


def _sbatch(after: Sequence[int | str]) -> list[str]:
    waits = [f"--dependency=afterany:{':'.join(map(str, after))}"] if after else []
    return ["sbatch", "--parsable", *waits]


def submit(call: Sequence[str]) -> int:
    """Give a job to Slurm; returns its number.

    Raises:
        ToolError: `SBATCH_FAILED`, with what sbatch said; `SLURM_MISSING`.
    """
    said = _run(call)
    if found := re.match(r"(\d+)", said.stdout.strip()):
        return int(found[1])
    raise ToolError(
        Problem(
            "SBATCH_FAILED",
            "Slurm did not take the job",
            where=shlex.join(call),
            found=said.stderr.strip() or said.stdout.strip() or f"exit status {said.returncode}",
            do="correct the section cluster: of the configuration, then submit again",
        )
    )


def cancel(jobs: Iterable[int]) -> None:
    """End jobs, whatever state they are in; those that are over are left alone.

    Raises:
        ToolError: `SLURM_MISSING`.
    """
    if numbers := [str(job) for job in jobs]:
        _run(["scancel", "--quiet", *numbers])


def queue(jobs: Iterable[int]) -> dict[str, Task] | None:
    """What Slurm knows of jobs: `12_3` or `15` -> its state. None where it cannot be asked from here.

    A job that is over stays known for a while (MinJobAge), then is absent.
    """
    numbers = sorted(set(jobs))
    if not numbers:
        return {}
    if shutil.which("squeue") is None:
        return None
    call = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"]
    said = _run([*call, f"--jobs={','.join(map(str, numbers))}"])
    if said.returncode != 0:  # one job that it does not know any more is an error for squeue
        return {} if "Invalid job id" in said.stderr else None
    rows = [line.split("|", 2) for line in said.stdout.splitlines() if line.count("|") >= 2]
    return {name: Task(state, "" if reason == "None" else reason) for name, state, reason in rows}


def endings(array: int) -> dict[str, Task]:
    """What Slurm still knows of the elements of an array, with their exit codes; empty where it does not."""
    if shutil.which("scontrol") is None:
        return {}
    lines = _run(["scontrol", "show", "job", "--oneliner", str(array)]).stdout.splitlines()
    found = [shown for shown in (re.fullmatch(_SHOWN, line.rstrip() + " ") for line in lines) if shown]
    return {f"{shown[1]}_{shown[2]}": Task(shown[3], shown[4], shown[5]) for shown in found}


def max_array_size() -> int:
    """How many elements the cluster lets one array have."""
    if shutil.which("scontrol") is None:
        return MAX_ARRAY_SIZE
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    return max(1, int(found[1])) if found else MAX_ARRAY_SIZE


def check() -> None:
    """See that jobs can be given to Slurm from here.

    Raises:
        ToolError: `SLURM_MISSING`.
    """
    if shutil.which("sbatch") is None:
        raise missing("sbatch")


def missing(command: str) -> ToolError:
    """The error of a command of Slurm that is not here."""
    return ToolError(
        Problem(
            "SLURM_MISSING",
            f"the command {command} of Slurm is not in PATH",
            expected="a login node of the cluster",
            do="run this on a login node; for another scheduler take the list of --print-commands",
        )
    )


def silent() -> ToolError:
    """The error of a Slurm that does not say what waits and runs: nothing may be sent twice."""
    return ToolError(
        Problem(
            "SLURM_SILENT",
            "squeue does not answer, so what waits or runs already is not known; nothing was sent",
            do="try again when `squeue` works",
        )
    )


def _run(call: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            call, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise missing(call[0]) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(
            call, 1, "", f"{call[0]} did not answer within {_TIMEOUT_S} seconds"
        )
