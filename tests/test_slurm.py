"""What a cluster is given and what comes back, without a cluster: scripts, lists, reasons, a stand-in."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skeleton
from cohort import call
from fakes import put, put_fsl, put_script

from somite import arguments, cli, record, roll
from somite.configs import reader
from somite.configs.cluster import Cluster
from somite.errors import ConfigError, Problem
from somite.record import Record, StepRecord
from somite.registry import discover
from somite.submissions import Array, Submission, read_all
from somite.submissions import write as keep
from somite.workflows import group, slurm
from somite.workflows.session import Unit
from somite.workflows.slurm import Request

SESSIONS = {f"sub-0{i}/dwi/sub-0{i}_dwi": {} for i in (1, 2, 3, 4, 5)}
GRADIENTLESS = {"sub-06/dwi/sub-06_dwi": {"without": ["bval"]}}
CONFIG = "extends: default\ncluster: {memory_gb: 4, time_h: 2}\n"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that only takes notes, first in PATH; returns its folder."""
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        put(tmp_path / "bin" / name, "slurm_stand_in.py")
    (tmp_path / "fake").mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "fake"))
    monkeypatch.setenv("PATH", os.pathsep.join((str(tmp_path / "bin"), "/usr/bin", "/bin")))
    return tmp_path / "fake"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five sessions that can run and one that cannot, below a folder whose name needs quotes."""
    root = tmp_path / "a 100% study"
    skeleton.build(root / "bids", {**SESSIONS, **GRADIENTLESS})
    (root / "cfg.yaml").write_text(CONFIG)
    monkeypatch.chdir(root)
    return root


def submit(*options: str, code: int = 0) -> None:
    assert cli.main(["submit", "bids", "out", "-c", "cfg.yaml", *options]) == code


def calls(fake: Path, name: str = "sbatch") -> list[list[str]]:
    """Calls of a command since the last time."""
    found = [shlex.split(line) for line in (fake / "calls").read_text().splitlines()]
    return [words[1:] for words in found if words[0] == name]


def jobs_over(fake: Path, **states: str) -> None:
    """Empty the queue but for these: `_101_0="FAILED|NonZeroExitCode"`."""
    (fake / "queue").write_text("".join(f"{name[1:]}|{state}\n" for name, state in states.items()))


def script_log(root: Path, job: str, text: str = "", status: int | None = 1, began: float = 0) -> Path:
    """The log of an element."""
    began = began or time.time() - 5
    end = "" if status is None else f"somite: {job} ended with status {status}\n"
    path = root / "out" / "logs" / "slurm" / f"{job}.log"
    path.write_text(f"somite: {job} began on node7 at {began:.0f}: sub-01\n{text}\n{end}")
    return path


def write_record(root: Path, label: str, verdict: str = "done", **more: object) -> Record:
    made = Record(label, label, "", "", verdict, recipe=roll.read(root / "out").get(label, ""), **more)
    record.write(made, root / "out")
    return made


def stands(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Session -> what `somite status` says of it."""
    capsys.readouterr()
    cli.main(["status", "out"])
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("sub-")}


# The script of an element


def run_script(
    root: Path, command: str, element: int = 0, before: int = 0, **variables: str
) -> subprocess.Popen[str]:
    """Start the script of an array whose list has a session in every line, as a node would."""
    folder = root / "it's here"
    folder.mkdir(exist_ok=True)
    (folder / "sessions.txt").write_text("sub-01\nsub-02 sub-03\nsub-04\n")
    text = slurm.session_script(Cluster(), Request(240, 1, 1000), folder, folder, command)
    script = folder / "sessions.sh"
    script.write_text(text)
    environment = {
        "PATH": os.environ["PATH"],
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": str(element),
        "SLURM_JOB_ID": "15",
        **variables,
    }
    return subprocess.Popen(
        ["bash", str(script), str(before)], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("element", "before", "sessions"),
    [(0, 0, "sub-01"), (1, 0, "sub-02 sub-03"), (0, 2, "sub-04")],
)
def test_an_element_runs_its_line_of_the_list_and_passes_its_status_on(
    element: int, before: int, sessions: str, tmp_path: Path
) -> None:
    tool = put_script(tmp_path / "tool", f'echo "$@" > {tmp_path}/told; exit 3')
    process = run_script(tmp_path, str(tool), element, before)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 3
    assert (tmp_path / "told").read_text() == f"--job 12_{element} --only {sessions}\n"
    assert f"somite: 12_{element} ended with status 3" in said


@pytest.mark.parametrize(
    ("state", "told"), [("RUNNING", "USR1"), ("COMPLETING", "TERM"), ("CANCELLED", "TERM"), ("", "TERM")]
)
def test_a_warning_before_the_time_limit_is_told_from_a_cancellation(
    state: str, told: str, tmp_path: Path
) -> None:
    put_script(tmp_path / "bin" / "squeue", f"echo {state}")
    tool = put_script(
        tmp_path / "tool",
        f"""trap 'echo USR1 > {tmp_path}/got; exit 130' USR1
trap 'echo TERM > {tmp_path}/got; exit 130' TERM
touch {tmp_path}/ready
while true; do sleep 0.05; done""",
    )
    process = run_script(tmp_path, str(tool), PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[0]
    assert (tmp_path / "got").read_text().strip() == told
    assert process.returncode == 130
    assert said.rstrip().endswith("ended with status 130")


def test_what_the_cluster_is_asked_for_stands_in_the_head_of_the_script() -> None:
    cluster = Cluster(
        partition="long",
        account="lab",
        gpus=2,
        sbatch=("--qos=high",),
        modules=("apptainer/1.3",),
        setup=("export TMPDIR=/scratch",),
    )
    text = slurm.session_script(
        cluster, Request(90, 3, 2048, 2), Path("/o/code"), Path('/o/a "b"/100%'), "cmd"
    )
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for option in ("partition=long", "account=lab", "time=90", "cpus-per-task=3", "mem=2048M", "gres=gpu:2"):
        assert f"#SBATCH --{option}" in head
    assert "#SBATCH --signal=B:TERM@60" in head
    assert head[-1] == "#SBATCH --qos=high"
    assert r'#SBATCH --output="/o/a \"b\"/100%%/%A_%a.log"' in head
    assert text.index("module load apptainer/1.3") < text.index("export TMPDIR") < text.index("cmd --job")


def test_the_collector_writes_down_how_elements_ended(tmp_path: Path) -> None:
    shown = (
        "JobId={job} ArrayJobId=12 ArrayTaskId={task} JobName=somite-sessions UserId=a(1) Requeue=1 "
        "JobState={state} Reason={reason} Dependency=(null) Restarts=0 ExitCode={code} RunTime=00:00:07 \n"
    )
    text = shown.format(job=13, task=0, state="FAILED", reason="JobLaunchFailure", code="0:9")
    text += shown.format(job=12, task=1, state="COMPLETED", reason="None", code="0:0")
    text += shown.format(job=12, task="2-5%3", state="PENDING", reason="Resources", code="0:0")
    (tmp_path / "shown").write_text(text)
    put_script(tmp_path / "bin" / "scontrol", f'[ "$4" = 12 ] && cat {tmp_path}/shown')
    logs = tmp_path / "the logs"
    logs.mkdir()
    script = slurm.collect_script(Cluster(), logs)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", script, "collect", "12", "99"], check=True, env=environment)
    assert json.loads((logs / "12.json").read_text()) == {
        "12_0": {"state": "FAILED", "reason": "JobLaunchFailure", "exit_code": "0:9"},
        "12_1": {"state": "COMPLETED", "reason": "None", "exit_code": "0:0"},
    }
    assert {path.name for path in logs.iterdir()} <= {"12.json", "99.json"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, "TIME_LIMIT"), (signal.SIGTERM, "TERMINATED")])
def test_the_record_of_a_run_that_was_told_to_end_says_by_what(
    number: signal.Signals, code: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = put_fsl(dataset / "fsl", "6.0.7.4", "bet")
    put_script(tool, f"touch '{dataset}/reached'; sleep 300")
    monkeypatch.setenv("FSLDIR", str(dataset / "fsl"))
    steps = "".join(f"{step}: {{method: none}}\n" for step in ("denoise", "degibbs", "eddy"))
    (dataset / "cfg.yaml").write_text(f"extends: default\n{steps}mask: {{method: bet}}\n")
    command = [sys.executable, "-m", "somite", "run", "bids", "out", "participant", "-c", "cfg.yaml"]
    # As a script of a job starts it, in the background: SIGINT is ignored.
    process = subprocess.Popen([*command, "--job", "7_0", "--only", "sub-02"], preexec_fn=_ignore_interrupt)
    end = time.monotonic() + 120
    while not (dataset / "reached").exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 130
    made = record.read(dataset / "out/logs/sub-02.json")
    assert made is not None
    assert [problem.code for problem in made.problems] == [code]
    assert (made.job, made.failed_step) == ("7_0", "mask")
    assert not (dataset / "out/logs/sub-01.json").exists()


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# The configuration


def test_the_section_has_its_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "cfg.yaml"
    path.write_text(
        "extends: default\ncluster:\n  partition: long --wrap=x\n  cpu: 3\n  sbatch: [qos=long]\n"
        "  setup: ['']\n  chunk: 0\n"
    )
    with pytest.raises(ConfigError) as error:
        reader.read(str(path), discover())
    words = str(error.value)
    assert len(error.value.problems) == 5, words
    assert "cpus" in words  # the nearest name
    assert "option of sbatch" in words


def test_no_result_depends_on_the_section(dataset: Path, fake: Path) -> None:
    submit()
    before = roll.read(dataset / "out")
    (dataset / "cfg.yaml").write_text("extends: default\ncluster: {memory_gb: 8, partition: long}\n")
    jobs_over(fake)
    submit()
    assert roll.read(dataset / "out") == before


# What is sent


def test_a_cohort_is_sent_as_arrays_with_a_collector_and_the_group_level(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    told = capsys.readouterr().out
    made = calls(fake)
    (sent,) = read_all(dataset / "out")
    scripts = [Path(next(word for word in words if word.endswith(".sh"))).name for words in made]
    assert scripts == ["sessions.sh", "sessions.sh", "collect.sh", "group.sh"]
    assert [words[1] for words in made[:2]] == ["--array=0-2", "--array=0-1"]  # MaxArraySize is 3
    assert [words[-1] for words in made[:2]] == ["0", "3"]
    assert made[2][-2:] == ["101", "102"]
    assert "--dependency=afterany:101:102" in made[2]
    assert "--dependency=afterany:101:102" in made[3]
    assert [array.elements for array in sent.arrays] == [
        [["sub-01"], ["sub-02"], ["sub-03"]],
        [["sub-04"], ["sub-05"]],
    ]
    assert (sent.collect, sent.group) == (103, 104)
    folder = dataset / "out" / "code" / "slurm" / sent.stamp
    assert (folder / "sessions.txt").read_text().split() == [f"sub-0{i}" for i in (1, 2, 3, 4, 5)]
    assert {path.name for path in folder.iterdir()} == {
        *("sessions.sh", "sessions.txt", "group.sh", "collect.sh", "config.yaml")
    }
    assert "sub-06  failed" in told  # the plan stops it: its record says why, and it is not sent
    assert record.read(dataset / "out/logs/sub-06.json").failed_step == "plan"
    assert "sessions: 5 sent" in told


def test_what_waits_or_runs_or_is_done_is_not_sent_again(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    capsys.readouterr()
    submit()
    assert "sessions: 0 sent, 0 done, 5 queued already" in capsys.readouterr().out
    assert len(calls(fake)) == 4
    jobs_over(fake, _101_0="RUNNING|None", _101_1="FAILED|NonZeroExitCode", _104="PENDING|Dependency")
    script_log(dataset, "101_1", status=1)
    submit()
    told = capsys.readouterr().out
    assert "sessions: 4 sent, 0 done, 1 running already" in told
    *_, group = calls(fake)
    assert "--dependency=afterany:105:106:101" in group  # 101 still runs a session of the first submission
    assert ["--quiet", "104"] in calls(fake, "scancel")  # a later group level takes its place
    assert read_all(dataset / "out")[-1].arrays[0].elements[0] == ["sub-02"]


def test_what_is_done_is_not_sent_and_the_tables_follow_the_rest(
    dataset: Path, fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(last: Record | None, unit: Unit | None, errors: object) -> tuple[str, str]:
        return ("done", "") if unit is not None and unit.label != "sub-04" else ("outdated", "")

    monkeypatch.setattr(group, "_judge", judge)
    submit()
    (sent,) = read_all(dataset / "out")
    assert [array.elements for array in sent.arrays] == [[["sub-04"]]]
    assert "sessions: 1 sent, 4 done" in capsys.readouterr().out


def test_with_a_limit_an_array_waits_for_the_one_before(dataset: Path, fake: Path) -> None:
    (dataset / "cfg.yaml").write_text("extends: default\ncluster: {at_most: 2}\n")
    submit()
    first, second, *_ = calls(fake)
    assert "--array=0-2%2" in first
    assert {"--array=0-1%2", "--dependency=afterany:101"} <= set(second)


def test_chunks_share_an_element_and_its_time_grows(dataset: Path, fake: Path) -> None:
    submit("--chunk", "2")
    (sent,) = read_all(dataset / "out")
    assert sent.arrays[0].elements == [["sub-01", "sub-02"], ["sub-03", "sub-04"], ["sub-05"]]
    assert sent.arrays[0].minutes == 240


def test_memory_is_raised_for_those_that_lacked_it_and_only_for_them(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--participant-label", "01", "02")
    jobs_over(fake)
    script_log(dataset, "101_0", "slurmstepd: error: Exceeded job memory limit", status=None)
    script_log(dataset, "101_1", status=1)
    capsys.readouterr()
    submit("--dry-run")
    plain = capsys.readouterr().out
    assert plain.count("#SBATCH --mem=3815M") == 2  # the array and the group level
    submit("--retry-memory", "2x")
    *_, sent = read_all(dataset / "out")
    assert [(array.memory_mb, array.elements[0]) for array in sent.arrays] == [
        (3815, ["sub-02"]),
        (3815, ["sub-05"]),
        (7630, ["sub-01"]),
    ]
    folder = dataset / "out" / "code" / "slurm" / sent.stamp
    assert "--mem=7630M" in (folder / "sessions-2.sh").read_text()
    assert [words[-1] for words in calls(fake) if "sessions" in words[-2]][-3:] == ["0", "3", "4"]


def test_time_and_memory_come_from_what_was_measured(dataset: Path, fake: Path) -> None:
    (dataset / "cfg.yaml").write_text("extends: default\n")
    submit("--participant-label", "01")
    assert read_all(dataset / "out")[0].arrays[0].minutes == 240
    jobs_over(fake)
    steps = [StepRecord("load", "run", 3600, 1000), StepRecord("eddy", "cached", 3600, 6000)]
    write_record(dataset, "sub-01", steps=steps, threads=4, job="101_0")
    submit("--participant-label", "01", "02")
    array = read_all(dataset / "out")[1].arrays[0]
    assert array.minutes == 4 * 60 + 15  # twice the two hours, and a little
    assert 1.3 * 6000 + 900 < array.memory_mb < 1.3 * 6000 + 1600


def test_too_little_memory_is_a_mistake_before_anything_is_sent(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "cfg.yaml").write_text("extends: default\ncluster: {memory_gb: 0.5}\n")
    submit(code=2)
    assert "CLUSTER_MEMORY" in capsys.readouterr().err
    assert not (dataset / "out").exists()


def test_a_refusal_and_a_silent_slurm_come_up_in_its_own_words(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake / "refuse").write_text("sbatch: error: invalid partition specified: lnog")
    submit(code=2)
    assert "invalid partition specified: lnog" in capsys.readouterr().err
    (fake / "refuse").unlink()
    submit()
    (fake / "silent").touch()
    submit(code=2)
    assert "SLURM_SILENT" in capsys.readouterr().err


def test_a_dry_run_prints_the_scripts_and_writes_nothing(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--dry-run")
    told = capsys.readouterr().out
    assert "#SBATCH --array" not in told
    assert "sbatch --parsable --array=0-2" in told
    assert "sub-05" in told
    assert not (dataset / "out").exists()
    assert not (fake / "calls").exists() or not calls(fake)


def test_a_list_of_commands_needs_no_slurm_and_each_command_is_one_of_ours(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    submit("--print-commands")
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 5
    parser = arguments.parser()
    for number, line in enumerate(lines, 1):
        words = shlex.split(line)
        assert words[:3] == [sys.executable, "-m", "somite"]
        options = parser.parse_args(words[3:])
        assert options.only == [f"sub-0{number}"]
        assert options.levels == ["participant"]
        assert options.bids_dir == dataset / "bids"
    asked = reader.read("cfg.yaml", discover())
    assert reader.read(str(options.config), discover()).digest() == asked.digest()
    group = parser.parse_args(shlex.split(told.err.splitlines()[-1])[3:])
    assert group.levels == ["group"]
    assert set(roll.read(dataset / "out")) == {f"sub-0{i}" for i in (1, 2, 3, 4, 5)}


def test_a_container_sees_input_and_output_and_nothing_else(
    dataset: Path, fake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(dataset / "bids", tmp_path / "store" / "bids")
    skeleton.build(tmp_path / "labels", {"sub-01/dwi/sub-01_dseg": {}})
    (dataset / "cfg.yaml").write_text(
        f"extends: default\nlabels: {{folder: {tmp_path}/labels}}\n"
        "cluster: {container: apptainer exec --cleanenv /images/somite.sif}\n"
    )
    submit("--print-commands", "--work-dir", str(tmp_path / "work"))
    words = shlex.split(capsys.readouterr().out.splitlines()[0])
    assert words[:2] == ["apptainer", "exec"]
    binds = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    assert set(binds) == {
        *(f"{path}:{path}" for path in (dataset / "out", tmp_path / "work")),
        *(f"{path}:{path}:ro" for path in (dataset / "bids", tmp_path / "labels")),
    }
    assert (tmp_path / "work").is_dir(), "a runtime refuses to show a folder that is not there"
    image = words.index("/images/somite.sif")
    assert words[image + 1 : image + 3] == ["somite", "run"]


# How it stands

OUT_OF_MEMORY = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch."
TIME = "slurmstepd-n: error: *** JOB 8 ON n CANCELLED AT 2026-11-20T23:24:39 DUE TO TIME LIMIT ***"
CANCELLED = "slurmstepd-n: error: *** JOB 8 ON n CANCELLED AT 2026-11-20T23:24:39 ***"
PREEMPTED = "slurmstepd-n: error: *** JOB 8 ON n CANCELLED AT 2026-11-20T23:24:39 DUE TO PREEMPTION ***"
STEP = "sub-01  load (0.1 s)\nsub-01  denoise (3.1 s)"


@pytest.mark.parametrize(
    ("text", "status", "state", "words"),
    [
        (OUT_OF_MEMORY, None, "", "OUT_OF_MEMORY"),
        ("error: Exceeded job memory limit\n" + CANCELLED, None, "", "OUT_OF_MEMORY"),
        (TIME, 143, "", "TIME_LIMIT"),
        ("somite: 101_0 is told that its time limit is near\n" + CANCELLED, 130, "", "TIME_LIMIT"),
        (CANCELLED, 130, "", "CANCELLED"),
        (PREEMPTED, None, "", "PREEMPTED"),
        (STEP, 137, "", "KILLED: the job was ended by SIGKILL, last step denoise"),
        (STEP, 137, "OUT_OF_MEMORY|None", "OUT_OF_MEMORY"),
        (STEP, 2, "FAILED|NonZeroExitCode", "JOB_FAILED: the job ended with status 2, last step denoise"),
        (STEP, None, "NODE_FAIL|None", "NODE_FAIL"),
        (STEP, None, "TIMEOUT|TimeLimit", "TIME_LIMIT"),
        (STEP, None, "", "UNKNOWN: unknown, last step denoise"),
        ("", None, "", "UNKNOWN: unknown, before its first step ended"),
        (None, None, "CANCELLED|None", "CANCELLED"),
        (None, None, "", "UNKNOWN: unknown, it left no log"),
    ],
)
def test_the_reason_of_an_end_without_a_record(
    text: str | None,
    status: int | None,
    state: str,
    words: str,
    dataset: Path,
    fake: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    submit("--participant-label", "01")
    jobs_over(fake, **({"_101_0": state} if state else {}))
    if text is not None:
        script_log(dataset, "101_0", text, status)
    assert words in stands(capsys)["sub-01"]
    assert stands(capsys)["sub-01"].startswith("failed")


def test_the_signal_that_killed_the_script_comes_from_scontrol_or_the_collector(
    dataset: Path, fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--participant-label", "01")
    jobs_over(fake, _101_0="FAILED|JobLaunchFailure")
    script_log(dataset, "101_0", STEP, None)
    (fake / "shown").write_text(
        "JobId=101 ArrayJobId=101 ArrayTaskId=0 JobName=x JobState=FAILED Reason=JobLaunchFailure "
        "Dependency=(null) ExitCode=0:9 RunTime=1\n"
    )
    assert "SIGKILL, last step denoise" in stands(capsys)["sub-01"]
    told = {"101_0": {"state": "FAILED", "reason": "JobLaunchFailure", "exit_code": "0:9"}}
    (dataset / "out/logs/slurm/101.json").write_text(json.dumps(told))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "SIGKILL, last step denoise" in stands(capsys)["sub-01"]


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("SESSION_KILLED", OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        ("SESSION_KILLED", "", "SESSION_KILLED"),
        ("TERMINATED", CANCELLED, "CANCELLED"),
        ("TERMINATED", TIME, "TIME_LIMIT"),
        ("TIME_LIMIT", CANCELLED, "TIME_LIMIT"),
        ("NONFINITE_VOLUME", OUT_OF_MEMORY, "NONFINITE_VOLUME"),
    ],
)
def test_a_record_that_knows_only_that_it_was_killed_is_explained(
    code: str, text: str, words: str, dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--participant-label", "01")
    jobs_over(fake)
    script_log(dataset, "101_0", text, 1)
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    problems = [Problem(code, "what")]
    write_record(dataset, "sub-01", "failed", problems=problems, job="101_0", started=now)
    assert f" {words}:" in stands(capsys)["sub-01"]


def test_an_old_record_does_not_hide_what_waits_runs_or_died(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    capsys.readouterr()
    old = "2020-01-01T00:00:00+00:00"
    for label, verdict in (("sub-01", "failed"), ("sub-02", "done"), ("sub-03", "done"), ("sub-04", "done")):
        write_record(dataset, label, verdict, started=old)
    late = "2099-01-01T00:00:00+00:00"  # by hand, after the submission
    write_record(dataset, "sub-05", "done", started=late)
    jobs_over(fake, _101_0="PENDING|Priority", _101_1="RUNNING|None", _101_2="COMPLETED|None")
    write_record(dataset, "sub-03", "done", started=late, job="101_2")
    script_log(dataset, "102_0", STEP.replace("sub-01", "sub-04"), 137)
    found = stands(capsys)
    assert found["sub-01"] == "queued job 101_0: Priority"
    assert found["sub-02"].startswith("running job 101_1")
    assert found["sub-03"].startswith("done")
    assert "SIGKILL, last step denoise" in found["sub-04"]
    assert found["sub-05"].startswith("done")


def test_a_requeued_element_is_judged_by_its_last_start(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--participant-label", "01")
    path = script_log(dataset, "101_0", TIME.replace("TIME LIMIT", "NODE FAILURE"), None, time.time() - 900)
    path.write_text(path.read_text() + f"somite: 101_0 began on node8 at {time.time():.0f}: sub-01\n{STEP}\n")
    jobs_over(fake, _101_0="RUNNING|None")
    assert stands(capsys)["sub-01"] == "running job 101_0: on node8, last step denoise"
    jobs_over(fake)
    assert "UNKNOWN: unknown, last step denoise" in stands(capsys)["sub-01"]


def test_without_squeue_logs_and_leases_tell_what_runs(
    dataset: Path, fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    script_log(dataset, "101_0", STEP, None)
    long_ago = time.time() - 7000
    for job in ("101_1", "101_2"):
        path = script_log(dataset, job, "", None, long_ago)
        os.utime(path, (long_ago, long_ago))
    lease = dataset / "out/.work/sub-03/lease.json"
    lease.parent.mkdir(parents=True)
    lease.touch()
    monkeypatch.setenv("PATH", "/nowhere")
    found = stands(capsys)
    assert found["sub-01"] == "running job 101_0: on node7, last step denoise"
    assert "UNKNOWN" in found["sub-02"]
    assert found["sub-03"].startswith("running")
    assert found["sub-04"].startswith("queued job 102_0")


def test_sessions_of_one_element_stand_each_for_itself(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("--chunk", "3")
    jobs_over(fake, _101_0="RUNNING|None")
    script_log(dataset, "101_0", "", None)
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    write_record(dataset, "sub-01", "done", started=now, job="101_0")
    lease = dataset / "out/.work/sub-02/lease.json"
    lease.parent.mkdir(parents=True)
    lease.touch()
    found = stands(capsys)
    assert [found[f"sub-0{i}"].split()[0] for i in (1, 2, 3)] == ["done", "running", "queued"]


def test_cancel_ends_what_lives_and_is_remembered(
    dataset: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit()
    jobs_over(fake, _102_0="PENDING|Priority", _103="PENDING|Dependency", _104="PENDING|Dependency")
    assert cli.main(["cancel", "out"]) == 0
    assert calls(fake, "scancel") == [["--quiet", "104", "102", "103"]]
    jobs_over(fake)
    assert "CANCELLED" in stands(capsys)["sub-04"]
    assert cli.main(["cancel", "out"]) == 0
    assert "no job waits or runs" in capsys.readouterr().out
    assert cli.main(["cancel", "nowhere"]) == 2


def test_ten_thousand_sessions_are_told_from_few_files(tmp_path: Path) -> None:
    """A call of `status` reads a log only of a session that died."""
    out = tmp_path / "out"
    labels = [f"sub-{i:05d}" for i in range(10000)]
    keep(
        Submission("s", "2020-01-01T00:00:00+00:00", str(tmp_path), [Array(7, [[x] for x in labels], 1, 1)]),
        out,
    )
    roll.add(out, dict.fromkeys(labels, "r"))
    done = call([sys.executable, "-m", "somite", "status", str(out)], PATH="/nowhere")
    assert done.out.splitlines()[-1] == "sessions: 0 done, 10000 queued, 0 not"


def test_only_names_the_session_that_is_not_there(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "bids", "out", "participant", "--only", "sub-01", "sub-07"]) == 2
    assert "NO_SUCH_" in capsys.readouterr().err
