"""The seam to command-line tools: what is missing, what fails, and what only pretends to have worked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from somite import tools
from somite.errors import ToolError
from somite.registry import Context


def script(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a tool `cutter` of a shell script, and a Nipype interface that calls it."""
    from nipype.interfaces.base import CommandLine, CommandLineInputSpec, File

    class Spec(CommandLineInputSpec):  # type: ignore[misc]
        in_file = File(exists=True, argstr="--in=%s", position=0)
        out_file = File(argstr="-o %s", position=1)

    class Cutter(CommandLine):  # type: ignore[misc]
        _cmd = "cutter"
        input_spec = Spec

    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])

    def make(body: str, **inputs: str) -> Any:
        script(tmp_path / "bin", "cutter", body)
        return Cutter(**inputs)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Context:
    folder = tmp_path / "work folder & more"
    folder.mkdir()
    return Context(folder, threads=3)


def problem_of(error: pytest.ExceptionInfo[ToolError]):
    (problem,) = error.value.problems
    return problem


def test_a_missing_tool_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("FSLDIR", raising=False)
    for executable, suite in (("eddy", "FSL"), ("dwidenoise", "mrtrix3"), ("frobnicate", "frobnicate")):
        with pytest.raises(ToolError) as error:
            tools.find(executable)
        assert problem_of(error).code == "TOOL_MISSING"
        assert "install" in problem_of(error).do and suite in problem_of(error).do


def test_fsl_is_found_by_fsldir_alone_and_versioned_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = script(tmp_path / "fsl/bin", "dtifit", "true")
    (tmp_path / "fsl/etc").mkdir()
    (tmp_path / "fsl/etc/fslversion").write_text("6.0.4:ddd0a010\n")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    assert tools.find("eddy_openmp", "dtifit") == tool
    assert tools.version_of("dtifit") == "6.0.4"
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        tools.version_of("fsl")  # stands for bet, which is not there


def test_a_version_is_what_the_tool_states_else_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    script(tmp_path, "stated", 'echo "== stated 3.0.3 =="')
    first = script(tmp_path, "mute", "true")
    assert tools.version_of("stated") == "3.0.3"
    digest = tools.version_of("mute")
    assert digest.startswith("sha256:")
    first.rename(tmp_path / "mute_1")
    script(tmp_path, "mute_2", "true # changed")
    assert tools.version_of("mute_1") == digest != tools.version_of("mute_2")


def test_of_a_pattern_the_highest_version_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    for folder, version in (("bin", "9.1"), ("fsl/bin", "10.2"), ("fsl/bin", "8.0")):
        script(tmp_path / folder, f"eddy_cuda{version}", "true")
    script(tmp_path / "bin", "eddy_cuda11.0", "true").chmod(0o644)  # not executable
    assert tools.find("eddy_cuda", "eddy_cuda*") == tmp_path / "fsl/bin/eddy_cuda10.2"
    script(tmp_path / "bin", "eddy_cuda", "true")
    assert tools.find("eddy_cuda", "eddy_cuda*") == tmp_path / "bin/eddy_cuda"


@pytest.mark.parametrize(("said", "old"), [("0.3.16", True), ("3.0_RC3", False), ("3.0.3", False)])
def test_a_version_that_is_too_old_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, old: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    script(tmp_path, "dwi2tensor", f'echo "== dwi2tensor {said} =="')
    if not old:
        assert tools.version_of("dwi2tensor").startswith("3.0")
        return
    with pytest.raises(ToolError) as error:
        tools.version_of("dwi2tensor")
    problem = problem_of(error)
    assert (problem.code, problem.found, problem.expected) == ("TOOL_TOO_OLD", said, "3.0 or later")
    assert "mrtrix3" in problem.do


def test_every_tool_that_a_method_calls_belongs_to_a_suite() -> None:
    fsl = ("bet", "topup", "applytopup", "eddy", "eddy_cpu", "eddy_openmp", "eddy_cuda10.2", "dtifit")
    mrtrix3 = ("dwidenoise", "mrdegibbs", "dwi2mask", "dwi2tensor", "tensor2metric", "dwibiascorrect")
    assert {tools.suite_of(name) for name in fsl} == {tools.FSL}
    assert {tools.suite_of(name).name for name in mrtrix3} == {"MRtrix3"}
    assert tools.suite_of("nvidia-smi") is None


def test_the_real_mrtrix_tools_are_all_found(need_tool) -> None:
    need_tool("dwidenoise")
    for name in ("mrdegibbs", "dwi2mask", "dwi2tensor", "tensor2metric", "dwibiascorrect", "mrinfo"):
        assert tools.find(name).name == name and tools.version_of(name).startswith("3.")


def test_mrtrix_version_is_read_from_the_real_tool(need_tool) -> None:
    need_tool("dwidenoise")
    assert tools.version_of("MRtrix3").startswith("3.")


def test_a_run_keeps_command_output_and_threads(tool, context: Context) -> None:
    source = context.folder / "a file.txt"
    source.write_text("x")
    interface = tool(
        'echo "threads $OMP_NUM_THREADS in $(pwd)"; echo said >&2; cp "${1#--in=}" "$3"',
        in_file=str(source),
        out_file="made it.txt",
    )
    before = Path.cwd()
    tools.run_interface(interface, context, [context.folder / "made it.txt"])
    assert Path.cwd() == before
    assert context.commands == [f"cutter --in='{source}' -o 'made it.txt'"]
    log = (context.folder / "cutter.log").read_text()
    assert f"threads 3 in {context.folder}" in log and "said" in log and context.commands[0] in log
    assert sorted(p.name for p in context.folder.iterdir()) == ["a file.txt", "cutter.log", "made it.txt"]


def test_a_second_run_adds_to_the_log(tool, context: Context) -> None:
    for word in ("one", "two"):
        tools.run_interface(tool(f"echo {word}"), context, [])
    log = (context.folder / "cutter.log").read_text()
    assert "one" in log and "two" in log and len(context.commands) == 2


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("echo bad input >&2; touch out; echo x > out; exit 7", "TOOL_FAILED", "exit status 7"),
        ("echo x > out; kill -KILL $$", "TOOL_FAILED", "SIGKILL"),
        ("echo x > out; kill -SEGV $$", "TOOL_FAILED", "SIGSEGV"),
        ("true", "TOOL_OUTPUT_MISSING", "out"),
        (": > out", "TOOL_OUTPUT_MISSING", "empty"),
    ],
)
def test_a_tool_that_fails_is_not_believed(tool, context: Context, body: str, code: str, words: str) -> None:
    with pytest.raises(ToolError) as error:
        tools.run_interface(tool(body), context, [context.folder / "out"])
    problem = problem_of(error)
    assert problem.code == code
    assert words in str(problem) and "cutter" in problem.where and "cutter.log" in problem.do


def test_a_tool_killed_behind_a_script_is_named_too(tool, context: Context) -> None:
    body = f"{sys.executable} -c 'import os; os.kill(os.getpid(), 6)'; exit $?"
    with pytest.raises(ToolError, match="SIGABRT"):
        tools.run_interface(tool(body), context, [])


def test_the_end_of_stderr_is_shown(tool, context: Context) -> None:
    with pytest.raises(ToolError) as error:
        tools.run_interface(tool("for i in $(seq 1 50); do echo line $i >&2; done; exit 1"), context, [])
    found = problem_of(error).found.splitlines()
    assert found[-1] == "line 50" and len(found) == 20
    assert "line 1\n" in (context.folder / "cutter.log").read_text()


def test_what_a_tool_says_may_be_no_text(tool, context: Context) -> None:
    with pytest.raises(ToolError, match="exit status 2"):
        tools.run_interface(tool(r"printf '\377\376broken\n' >&2; exit 2"), context, [])


def test_a_mistake_in_the_inputs_is_not_blamed_on_the_tool(context: Context) -> None:
    from nipype.interfaces.fsl import BET

    interface = BET()
    interface._cmd = "true"
    with pytest.raises(ValueError, match="in_file"):
        tools.run_interface(interface, context, [])
    assert context.commands == []


def test_an_unreadable_output_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "out.nii.gz").write_bytes(b"garbage")
    with pytest.raises(ToolError) as error:
        tools.read_output(tmp_path / "out.nii.gz", "cutter --in=a")
    assert problem_of(error).code == "TOOL_OUTPUT_UNREADABLE" and problem_of(error).where == "cutter --in=a"
