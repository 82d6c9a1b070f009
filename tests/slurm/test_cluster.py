"""A phantom cohort on a real Slurm of one node, with accidents. `make test-slurm` runs it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cohort import SOMITE, Cohort, Ran, call
from fakes import put_fsl

from somite import record
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

HERE = Path(__file__).parent
PORTS = (16817, 16818)
PROTOCOL = """\
extends: lumbar
denoise: {method: none, noise_floor: keep}
degibbs: {method: none}
eddy: {method: none}
gradient_orientation: {method: none}
mask: {method: bet, bet_fraction: 0.4}
cluster: {cpus: 1, memory_gb: 2, time_h: 0.2, group: {cpus: 1, memory_gb: 2, time_h: 0.2}}
"""
ACCIDENTS = {"sub-02": "sleep", "sub-03": "sleep", "sub-04": "eat", "sub-05": "sleep"}
REASONS = {
    "sub-02": "CANCELLED",
    "sub-03": "KILLED: the job was ended by SIGKILL",
    "sub-04": "OUT_OF_MEMORY",
    "sub-05": "TIME_LIMIT",
}

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm(
    need_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """A Slurm of one node without accounting, in a folder of its own; stopped at the end, come what may."""
    for tool in ("slurmctld", "slurmd", "munged"):
        need_tool(tool)
    if os.getuid() != 0:
        pytest.skip("slurm-up.sh starts Slurm as root")
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.fail(f"port {port} is taken: another Slurm runs on this machine")
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOMITE_SLURM_DIR", str(folder))
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run(["bash", str(HERE / "slurm-up.sh"), "none"], check=True, timeout=120)
            yield patch
        finally:
            pids = [int(path.read_text()) for path in (folder / "run").glob("*.pid")]
            subprocess.run(["bash", str(HERE / "slurm-down.sh"), "--wipe"], check=True, timeout=120)
            assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture(scope="module")
def cohort(slurm: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Six participants of coarse voxels, in a folder whose name needs quotes, and a tool with accidents."""
    root = tmp_path_factory.mktemp("a cohort")
    write_dataset(root / "bids", participants=6, snr=25.0, grid=lumbar_grid(6))
    tool = put_fsl(root / "fsl", "6.0.7.4", "bet")
    lines = tool.read_text().splitlines()
    faults = (HERE / "bet_with_faults.py").read_text()
    tool.write_text("\n".join([lines[0], faults, *lines[1:]]))
    slurm.setenv("FSLDIR", str(root / "fsl"))
    slurm.setenv("FAULTS", str(root / "faults"))
    (root / "faults").mkdir()
    cohort = Cohort(root)
    cohort.set(PROTOCOL)
    return cohort


def somite(command: str, cohort: Cohort, *options: str) -> Ran:
    where = [str(cohort.out)] if command in ("status", "cancel") else [str(cohort.bids), str(cohort.out)]
    config = ["-c", str(cohort.config)] if command == "submit" else []
    return call([*SOMITE, command, *where, *config, *options])


def verdicts(cohort: Cohort) -> dict[str, str]:
    """Session -> its line of the status, from the verdict on."""
    lines = somite("status", cohort).out.splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("sub-")}


def slurm_says(*call: str) -> str:
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout


def wait_for(what: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, slurm_says("squeue", "--array", "--states=all")
        time.sleep(0.5)


def queue_is_empty() -> bool:
    return not slurm_says("squeue", "--noheader").strip()


def array_of(cohort: Cohort, told: Ran) -> int:
    """The first array that `submit` names."""
    assert told.code == 0, told.out + told.err
    return int(next(line for line in told.out.splitlines() if line.startswith("array ")).split()[1][:-1])


def batch_shell(element: int) -> int:
    """Process number of the script of an element."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"slurm_script" in command and f"SLURM_ARRAY_TASK_ID={element}\0".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no script of element {element} runs")


def restart_slurmd(folder: Path) -> None:
    """Stop the daemon of the node while elements run, and start it again."""
    pid = int((folder / "run" / "slurmd.pid").read_text())
    os.kill(pid, 15)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 20)
    time.sleep(2)
    subprocess.run(["slurmd", "-f", str(folder / "slurm.conf"), "-N", socket.gethostname()], check=True)


def test_accidents_are_named_and_a_second_submit_runs_only_those(
    cohort: Cohort, slurm: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = cohort.root / "faults"
    for session, fault in ACCIDENTS.items():
        (faults / session).write_text(fault)
    array = array_of(cohort, somite("submit", cohort))

    def reached(session: str) -> Callable[[], bool]:
        return (faults / f"{session}.reached").exists

    wait_for(reached("sub-02"))
    assert "running" in verdicts(cohort)["sub-02"]
    assert "queued" in verdicts(cohort)["sub-06"]
    assert "sessions: 0 sent" in somite("submit", cohort).out
    restart_slurmd(Path(os.environ["SOMITE_SLURM_DIR"]))
    slurm_says("scancel", f"{array}_1")
    wait_for(reached("sub-03"))
    os.kill(batch_shell(2), 9)
    wait_for(reached("sub-05"))
    shown = slurm_says("scontrol", "show", "job", "--oneliner", f"{array}_4")
    hours, minutes, _ = map(int, re.search(r"RunTime=(\d+):(\d+):(\d+)", shown).groups())
    slurm_says("scontrol", "update", f"JobId={array}_4", f"TimeLimit={60 * hours + minutes + 2}")
    wait_for(queue_is_empty)

    told = somite("status", cohort)
    found = verdicts(cohort)
    assert told.code == 1
    assert [label for label, words in found.items() if words.startswith("done")] == ["sub-01", "sub-06"]
    for session, reason in REASONS.items():
        assert found[session].startswith("failed"), found[session]
        assert reason in found[session]
    assert record.read(record.path_of(cohort.out, "sub-05")).problems[0].code == "TIME_LIMIT"
    assert set(cohort.table()["participant_id"]) == {"sub-01", "sub-06"}
    with slurm.context() as elsewhere:  # a machine that shares the disk, without Slurm
        elsewhere.setenv("PATH", str(tmp_path))
        assert verdicts(cohort) == found

    for session in ACCIDENTS:
        (faults / session).unlink()
    again = somite("submit", cohort, "--retry-memory", "2x")
    assert "sessions: 4 sent, 2 done" in again.out
    assert ": 3 elements, 3 sessions, 1.9 GiB" in again.out
    assert ": 1 elements, 1 sessions, 3.7 GiB" in again.out
    wait_for(queue_is_empty)
    assert somite("status", cohort).code == 0
    logs = [path.name for path in (cohort.out / "logs" / "slurm").glob("*_*.log")]
    assert len(logs) == 6 + 4
    assert "sessions: 0 sent, 6 done" in somite("submit", cohort).out
    assert queue_is_empty()

    local = Cohort(cohort.root / "local")
    local.root.mkdir()
    local.set(PROTOCOL)
    shutil.copytree(cohort.bids, local.bids)
    assert local.run().code == 0
    assert cohort.results() == local.results()


def test_cancel_ends_all_and_status_says_so(cohort: Cohort) -> None:
    one = Cohort(cohort.root / "cancelled")
    one.root.mkdir()
    shutil.copytree(cohort.bids, one.bids)
    one.set(PROTOCOL)
    (cohort.root / "faults" / "sub-01").write_text("sleep")
    (cohort.root / "faults" / "sub-01.reached").unlink(missing_ok=True)
    array_of(one, somite("submit", one, "--chunk", "3"))
    wait_for((cohort.root / "faults" / "sub-01.reached").exists)
    assert "cancelled: jobs" in somite("cancel", one).out
    wait_for(queue_is_empty)
    assert somite("cancel", one).out == "no job waits or runs\n"
    found = verdicts(one)
    assert len(found) == 6
    assert not [words for words in found.values() if "CANCELLED" not in words and "done" not in words]
    assert not (one.out / "group" / "segments.tsv").exists()
