"""Tools from a container: looked up, versioned and run inside, with what they need shown to them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fakes import install, install_runtime, put_fsl, put_script

from somite import containers, images, tools
from somite.configs.model import Tools
from somite.errors import ToolError
from somite.images import Grid
from somite.interfaces import mask
from somite.registry import Context
from somite.suites import FSL, SUITES

VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
GRID = Grid((12, 10, 4), np.diag([2.0, 2, 3, 1]))


@pytest.fixture(autouse=True)
def on_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run inside of a container; Somite shall not know."""
    monkeypatch.setattr(containers, "_MARKS", ())
    for name in (
        "APPTAINER_CONTAINER",
        "SINGULARITY_CONTAINER",
        *(f"SOMITE_CONTAINER_{s.key.upper()}" for s in SUITES),
    ):
        monkeypatch.setenv(name, "")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a runtime and an image with an FSL of these tools; returns the command of the container."""

    def make(runtime: str, *fsl: str, version: str = "6.0.7.4", options: str = "", name: str = "fsl") -> str:
        folder = install_runtime(runtime, tmp_path, monkeypatch)
        if runtime in ("docker", "podman"):
            named = f"{name}:{tmp_path.name.replace('-', '')}"
            root = folder / f"{named.replace(':', '_')}.root"
            command = f"{runtime} run --rm {options} {named}"
        else:
            file = folder / f"{name}.sif"
            file.write_text(f"an image of {version}")
            root = folder / f"{name}.sif.root"
            command = f"{runtime} exec {options} '{file}'"
        root.mkdir(exist_ok=True)
        (root / "id").write_text("0123456789abcdef" * 4)
        if fsl:
            put_fsl(root / "fsl", version, *fsl)
        return command

    return make


def code_of(error: pytest.ExceptionInfo[ToolError]) -> str:
    return error.value.problems[0].code


def bet(folder: Path) -> tuple[np.ndarray, Context]:
    """A mask by bet, of a scan in another folder than the one that the step works in."""
    data = np.random.default_rng(0).uniform(1, 100, (*GRID.shape, 3)).astype(np.float32)
    (folder / "scans").mkdir()
    dwi = images.write(folder / "scans/dwi.nii", data, GRID)
    (folder / "scans/b").write_text("0 1000 1000\n")
    context = Context(folder / "work folder", threads=3)
    context.folder.mkdir()
    config = mask.Config(method="bet", bet_fraction=0.4)
    return images.read_float(mask.run(dwi, folder / "scans/b", config, context))[0], context


@pytest.mark.parametrize("runtime", ["apptainer", "singularity", "docker", "podman"])
def test_a_tool_runs_inside_with_its_folders_and_variables(runtime: str, image, tmp_path: Path) -> None:
    options = "--cleanenv" if runtime == "apptainer" else ""
    containers.use({"fsl": image(runtime, "bet", options=options)})
    made, context = bet(tmp_path)
    assert 0.4 < made.mean() < 0.6
    (command,) = context.commands
    # The whole line stands in the record: runtime, folders, image, and the tool by its path inside.
    assert command.startswith(f"{runtime} ") and "/fsl/bin/bet " in command
    assert f"'{context.folder}:{context.folder}'" in command
    assert command.index(str(context.folder)) < command.index("fsl") < command.index("/fsl/bin/bet")
    if runtime in ("docker", "podman"):
        assert "OMP_NUM_THREADS=3" in command and "FSLOUTPUTTYPE=NIFTI" in command
    who = {"docker": f"--user {os.getuid()}:{os.getgid()} ", "podman": "--user 0:0 "}
    assert re.findall(r"--user \S+ ", command) == ([who[runtime]] if runtime in who else [])


def test_the_folders_of_inputs_are_shown_read_only(image, tmp_path: Path) -> None:
    container = containers.parse(image("apptainer", "bet"))
    here = tmp_path / "here"
    for name in ("here", "there", "far"):
        (tmp_path / name).mkdir()
    for path in (here / "a", tmp_path / "there/b", tmp_path / "far/c"):
        path.touch()
    (tmp_path / "there/link").symlink_to(tmp_path / "far/c")
    words = containers.enclosing(container, here, [here / "a", tmp_path / "there/link"], {})
    binds = [word for before, word in pairwise(words) if before == "--bind"]
    far, there = tmp_path / "far", tmp_path / "there"
    assert binds == [f"{here}:{here}", f"{far}:{far}:ro", f"{there}:{there}:ro"]
    assert words[0] == "apptainer" and words[1] == "exec" and words[-1] == container.image


def test_the_users_options_come_after_ours_and_so_win(image, tmp_path: Path) -> None:
    container = containers.parse("docker run --rm --user 7:7 fsl:1")
    words = containers.enclosing(container, tmp_path, [], {"A": "b c"})
    assert [words[i + 1] for i, word in enumerate(words) if word == "--user"][-1] == "7:7"
    assert "A=b c" in words and words[-1] == "fsl:1"


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_path_that_no_option_can_hold_is_refused(image, tmp_path: Path, name: str) -> None:
    container = containers.parse(image("apptainer", "bet"))
    with pytest.raises(ToolError, match="CONTAINER_PATH") as error:
        containers.enclosing(container, tmp_path / name, [], {})
    assert name in error.value.problems[0].found


def test_the_version_inside_and_the_image_decide_about_a_rerun(image, tmp_path: Path) -> None:
    command = image("apptainer", "bet", version="6.0.7.4")
    containers.use({"fsl": command})
    first = tools.version_of("FSL")
    assert first.startswith("6.0.7.4 in apptainer exec fsl.sif (sha256:")
    assert str(tmp_path) not in first  # an image that was moved is the same
    # The same name and version, another build; and the same image by other words.
    containers.use({"fsl": image("apptainer", "bet", version="6.0.7.4", name="other")})
    (tmp_path / "images/other.sif").write_text("another build of 6.0.7.4")
    assert tools.version_of("bet").rpartition("(")[2] != first.rpartition("(")[2]
    containers.use({"fsl": command.replace("exec", "exec --nv")})
    assert tools.version_of("FSL") != first
    containers.use({})
    with pytest.raises(ToolError, match="TOOL_MISSING"):
        tools.version_of("FSL")


def test_the_id_of_a_docker_image_is_its_digest(image) -> None:
    containers.use({"fsl": image("docker", "bet")})
    assert tools.version_of("FSL").endswith("(sha256:0123456789ab)")


def test_the_fsl_of_this_machine_plays_no_part_inside(
    image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An FSLDIR that is passed on would point the tools inside to a folder that is not there."""
    command = image("apptainer", "eddy_cpu", "bet")
    path = os.environ["PATH"]
    install("bet", tmp_path / "host", monkeypatch, "5.0.11")
    monkeypatch.setenv("PATH", path)
    containers.use({"fsl": command})
    assert tools.version_of("FSL").startswith("6.0.7.4 in ")
    assert tools.find("eddy_openmp", "eddy_cpu") == tmp_path / "images/fsl.sif.root/fsl/bin/eddy_cpu"
    assert bet(tmp_path)[0].any()


def test_an_option_is_measured_by_the_version_inside(image, tmp_path: Path) -> None:
    """Nipype would compare with the version on this machine."""
    from nipype.interfaces.base import CommandLine, CommandLineInputSpec, traits

    class Spec(CommandLineInputSpec):  # type: ignore[misc]
        new = traits.Bool(argstr="--new", min_ver="6.0")

    class Bet(CommandLine):  # type: ignore[misc]
        _cmd = "bet"
        input_spec = Spec
        version = "5.0"

    command = image("apptainer", "bet")
    put_script(tmp_path / "images/fsl.sif.root/fsl/bin/bet", 'echo "$@" > said')
    containers.use({"fsl": command})
    tools.run_interface(Bet(new=True), Context(tmp_path), [tmp_path / "said"])
    assert (tmp_path / "said").read_text() == "--new\n"


def test_tools_in_the_path_inside_and_their_patterns_are_found(image, tmp_path: Path) -> None:
    containers.use({"fsl": image("apptainer"), "mrtrix3": image("apptainer", name="mr")})
    root = tmp_path / "images/mr.sif.root"
    put_script(root / "bin/dwidenoise", 'echo "== dwidenoise 3.0.4 =="')
    for version in ("8.0", "9.1", "10.2"):
        put_script(tmp_path / f"images/fsl.sif.root/bin/eddy_cuda{version}", "true")
    put_script(tmp_path / "images/fsl.sif.root/bin/eddy_cuda11.0", "true").chmod(0o644)
    assert tools.find("eddy_cuda", "eddy_cuda*").name == "eddy_cuda10.2"
    assert tools.find("dwidenoise").parent == root / "bin"
    assert tools.version_of("dwidenoise").startswith("3.0.4 in apptainer exec mr.sif")
    with pytest.raises(ToolError) as error:
        tools.find("topup")
    (problem,) = error.value.problems
    assert problem.code == "TOOL_MISSING" and "tools.fsl.container" in problem.do
    assert "eddy_cuda9.1" in problem.found


def test_a_gpu_counts_where_the_container_shows_it(image, tmp_path: Path) -> None:
    containers.use({"fsl": image("apptainer", "bet")})
    assert not tools.sees_gpu(FSL)
    containers.use({"fsl": image("apptainer", "bet", options="--nv", name="gpu")})
    put_script(tmp_path / "images/gpu.sif.root/bin/nvidia-smi", "echo 'GPU 0: made up'")
    assert tools.sees_gpu(FSL)


def test_any_other_command_is_used_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `conda run -n fsl`: it shares the machine's files, and may be inside of a container."""
    install("bet", tmp_path, monkeypatch)
    monkeypatch.delenv("FSLDIR")
    monkeypatch.setattr(containers, "_MARKS", (tmp_path,))
    home = tmp_path / "fsl"
    wrapper = put_script(tmp_path / "in-fsl", f'shift; PATH="{home}/bin:$PATH" exec "$@"')
    containers.use({"fsl": f"{wrapper} -n"})
    assert tools.version_of("FSL") == f"6.0.7.4 in {wrapper} -n"
    made, context = bet(tmp_path)
    assert made.any() and context.commands[0].startswith(f"{wrapper} -n {home}/bin/bet ")


# What is wrong, before anything runs


@pytest.mark.parametrize(
    "sign", ["/.dockerenv", "/run/.containerenv", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"]
)
def test_a_container_within_a_container_is_refused_in_words(
    image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    containers.use({"fsl": image("apptainer", "bet")})
    if sign.startswith("/"):
        mark = tmp_path / sign[1:]
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        monkeypatch.setattr(containers, "_MARKS", (mark,))
    else:
        monkeypatch.setenv(sign, "/somite.sif")
    with pytest.raises(ToolError) as error:
        mask._tools(mask.Config(method="bet"))
    (problem,) = error.value.problems
    assert problem.code == "CONTAINER_NESTED" and sign in problem.found
    assert "pip" in problem.do and "choose a method" in problem.do
    assert mask._tools(mask.Config()) == {}


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("apptainer exec {}/nothing.sif", "CONTAINER_IMAGE_MISSING", "nothing.sif"),
        ("apptainer exec docker://fsl", "CONTAINER_IMAGE_MISSING", "pull"),
        ("apptainer {}/fsl.sif", "CONTAINER_COMMAND", "apptainer exec ... IMAGE"),
        ("apptainer", "CONTAINER_COMMAND", "apptainer exec ... IMAGE"),
        ("apptainer exec {}/fsl.sif --nv", "CONTAINER_COMMAND", "last word"),
        ("podman run img", "CONTAINER_RUNTIME_MISSING", "podman"),
        ("no-such-wrapper -n fsl", "CONTAINER_RUNTIME_MISSING", "no-such-wrapper"),
    ],
)
def test_what_cannot_be_started_is_said(
    image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: str, words: str
) -> None:
    image("apptainer", "bet")
    if code == "CONTAINER_RUNTIME_MISSING":
        monkeypatch.setenv("PATH", str(tmp_path / "runtime"))
    containers.use({"fsl": command.format(tmp_path / "images")})
    with pytest.raises(ToolError) as error:
        tools.version_of("FSL")
    assert code_of(error) == code and words in str(error.value)
    assert error.value.problems[0].do


def test_an_image_that_docker_does_not_have_is_to_be_fetched(image) -> None:
    containers.use({"fsl": image("docker", "bet").replace("fsl:", "lsf:")})
    with pytest.raises(ToolError) as error:
        tools.version_of("FSL")
    assert code_of(error) == "CONTAINER_IMAGE_MISSING"
    assert (
        "docker pull lsf:" in error.value.problems[0].do and "No such image" in error.value.problems[0].found
    )


def test_a_runtime_that_fails_shows_its_own_words(image, monkeypatch: pytest.MonkeyPatch) -> None:
    containers.use({"fsl": image("apptainer", "bet")})
    monkeypatch.setenv("FAKE_MODE", "broken")
    with pytest.raises(ToolError) as error:
        tools.version_of("FSL")
    assert code_of(error) == "CONTAINER_FAILED" and "user namespace" in error.value.problems[0].found


def test_a_tool_that_fails_inside_is_not_believed(
    image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers.use({"fsl": image("apptainer", "bet", options="--cleanenv")})
    tools.version_of("FSL")
    monkeypatch.setenv("FAKE_MODE", "quiet")
    with pytest.raises(ToolError, match="TOOL_OUTPUT_MISSING") as error:
        bet(tmp_path)
    assert error.value.problems[0].where.startswith("apptainer exec ")


def test_quotes_that_are_not_closed_are_refused() -> None:
    for command in ("apptainer exec 'a b", "   "):
        with pytest.raises(ToolError, match="CONTAINER_COMMAND"):
            containers.use({"fsl": command})


def test_a_relative_image_is_found_from_where_the_run_was_started(
    image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image("apptainer", "bet")
    monkeypatch.chdir(tmp_path)
    containers.use({"fsl": "apptainer exec images/fsl.sif"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tools.version_of("FSL").startswith("6.0.7.4 in apptainer exec fsl.sif (")
    told = containers.used()
    containers.use(told)
    assert containers.used() == told == {"fsl": f"apptainer exec {tmp_path}/images/fsl.sif"}
    containers.use({})
    assert containers.used() == {}


def test_an_image_folder_serves_as_an_image(image, tmp_path: Path) -> None:
    image("apptainer", "bet")
    (tmp_path / "images/box").mkdir()
    (tmp_path / "images/fsl.sif.root").rename(tmp_path / "images/box.root")
    containers.use({"fsl": f"apptainer exec {tmp_path}/images/box"})
    assert tools.version_of("FSL") == "6.0.7.4 in apptainer exec box"


def test_every_suite_has_its_section_in_the_yaml() -> None:
    assert set(Tools.model_fields) == {suite.key for suite in SUITES}
    assert Tools().containers() == {}
