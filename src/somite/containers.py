"""Tools from a container: the words that stand before their commands, and what is found inside.

A suite's container is a command such as `apptainer exec /images/fsl.sif`: the name of a runtime, its options,
and last the image. Everything is asked of the inside of the image: which executables are there, in which
version, whether a GPU is seen. To each command of a known runtime (apptainer, singularity, docker, podman)
the step's folder and the folders of its input files are added under their own paths, with the variables that
Nipype and Somite set. Any other command (`conda run -n fsl`, a script) is used as it is written.

The words of a suite are kept in the environment, as SOMITE_CONTAINER_FSL, so that every process of a run,
and the user of a single step outside of a run, has them.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from somite.errors import Problem, ToolError
from somite.suites import SUITES, Suite

_SUBCOMMANDS = {"apptainer": "exec", "singularity": "exec", "docker": "run", "podman": "run"}
_IMAGE_FILES = ("apptainer", "singularity")
_INSPECT = ("image", "inspect", "--format", "{{.Id}}")
_TIMEOUT_S = 300
_LINES = 20


@dataclass(frozen=True)
class Container:
    """The words that stand before a command to run it inside of an image; the image is the last."""

    words: tuple[str, ...]

    @property
    def runtime(self) -> str:
        """`apptainer`, `singularity`, `docker` or `podman`; empty for another command."""
        name = Path(self.words[0]).name
        return name if name in _SUBCOMMANDS else ""

    @property
    def image(self) -> str:
        """Path or name of the image."""
        return self.words[-1]

    @property
    def command(self) -> str:
        """The words as a line of a shell."""
        return shlex.join(self.words)


@dataclass(frozen=True)
class Inventory:
    """What a container holds of a suite."""

    paths: tuple[str, ...]
    """Its executables, in the order of the search path inside."""
    home: str
    """FSLDIR inside; empty where it is not set."""
    version: str
    """What `etc/fslversion` says; empty for other suites."""


def parse(command: str) -> Container:
    """The container of a command line. The path of an image file becomes absolute, from the present folder.

    Raises:
        ToolError: `CONTAINER_COMMAND` where quotes are not closed or there is no word.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ToolError(_bad_command(command, str(error))) from error
    if not words:
        raise ToolError(_bad_command(command, "no word"))
    is_path = "://" not in words[-1] and not words[-1].startswith("-")
    if Path(words[0]).name in _IMAGE_FILES and is_path and len(words) > 1:
        words[-1] = str(Path(words[-1]).expanduser().absolute())
    return Container(tuple(words))


def use(commands: Mapping[str, str]) -> None:
    """Let the suites of this process, and of those that it starts, come from containers.

    Args:
        commands: key of a suite (`fsl`, `mrtrix3`) -> command. Suites that are not named come from this
            machine.

    Raises:
        ToolError: `CONTAINER_COMMAND`.
    """
    parsed = {key: parse(command).command for key, command in commands.items()}
    for suite in SUITES:
        os.environ.pop(_variable(suite), None)
        if suite.key in parsed:
            os.environ[_variable(suite)] = parsed[suite.key]


def used() -> dict[str, str]:
    """What `use` was told in this process: to be told to another one."""
    return {s.key: os.environ[_variable(s)] for s in SUITES if os.environ.get(_variable(s))}


def container_of(suite: Suite | None) -> Container | None:
    """The container that a suite comes from, checked; None where it comes from this machine.

    Raises:
        ToolError: see `check`.
    """
    command = os.environ.get(_variable(suite)) if suite is not None else None
    if not command:
        return None
    container = parse(command)
    check(container)
    return container


def _variable(suite: Suite) -> str:
    return f"SOMITE_CONTAINER_{suite.key.upper()}"


# What can be wrong before anything runs

_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_MARKING_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")


def surrounding() -> str:
    """What tells that this process itself runs inside of a container; empty where nothing does."""
    files = [str(mark) for mark in _MARKS if mark.exists()]
    return ", ".join(files + [name for name in _MARKING_VARIABLES if os.environ.get(name)])


def own_image() -> str:
    """The image that this process runs in: what SOMITE_IMAGE says, else Apptainer's file; else empty."""
    return next(
        (os.environ[name] for name in ("SOMITE_IMAGE", *_MARKING_VARIABLES) if os.environ.get(name)), ""
    )


@cache
def check(container: Container) -> None:
    """See that a container can be used here; asked once per process.

    Raises:
        ToolError: `CONTAINER_NESTED`, `CONTAINER_RUNTIME_MISSING`, `CONTAINER_COMMAND`,
            `CONTAINER_IMAGE_MISSING`.
    """
    if container.runtime and surrounding():
        raise ToolError(_nested(container))
    if shutil.which(container.words[0]) is None:
        raise ToolError(
            Problem(
                "CONTAINER_RUNTIME_MISSING",
                f"the command {container.words[0]}, which starts the container, is not in PATH",
                where=container.command,
                found=f"PATH={os.environ.get('PATH', '')}",
                expected="an executable file",
                do="install it, load its module, or take the container out of the YAML",
            )
        )
    if container.runtime:
        _check_form(container)
        _digest(container)


def _check_form(container: Container) -> None:
    subcommand = _SUBCOMMANDS[container.runtime]
    if subcommand not in container.words[1:-1]:
        raise ToolError(
            _bad_command(container.command, container.command, f"{container.runtime} {subcommand} ... IMAGE")
        )
    if container.image.startswith("-"):
        raise ToolError(_bad_command(container.command, f"{container.image} as the last word", "an image"))


def _bad_command(command: str, found: str, expected: str = "words with their quotes closed") -> Problem:
    return Problem(
        "CONTAINER_COMMAND",
        "the command that starts the container cannot be used",
        where=command,
        found=found,
        expected=expected,
        do="write, for example, `apptainer exec /images/fsl.sif` or `docker run --rm IMAGE`; the command of "
        "the tool is put behind it",
    )


def _nested(container: Container) -> Problem:
    return Problem(
        "CONTAINER_NESTED",
        "Somite itself runs inside of a container, and a container cannot be started from there",
        where=container.command,
        found=surrounding(),
        expected="Somite on the machine itself, or a container that holds both Somite and the tools",
        do="install Somite with pip on the machine and run it there; or build an image from Somite's with "
        "the tools added and take the container out of the YAML; or choose a method that needs none",
    )


def _no_image(container: Container, found: str, do: str) -> ToolError:
    return ToolError(
        Problem(
            "CONTAINER_IMAGE_MISSING",
            f"the image {container.image} is not there",
            where=container.command,
            found=found,
            expected="an image on this machine, as the last word",
            do=do,
        )
    )


@cache
def _digest(container: Container) -> str:
    """What tells an image from another of the same name: `sha256:` and 12 digits, or nothing for a folder.

    The id of a docker or podman image. Of an image file, the digest of its size and its first 64 KB: they
    hold the identifier and the time of its build (SIF header; superblock of squashfs).

    Raises:
        ToolError: `CONTAINER_IMAGE_MISSING`.
    """
    if container.runtime in _IMAGE_FILES:
        image = Path(container.image)
        if "://" in container.image:
            do = f"fetch it once: {container.runtime} pull NAME.sif {container.image}; then name the file"
            raise _no_image(container, "an address, whose content may change between runs", do)
        if image.is_dir():
            return ""
        if not image.is_file():
            raise _no_image(container, f"no file {image}", "correct the path, or fetch the image")
        with image.open("rb") as file:
            head = file.read(1 << 16)
        return f"sha256:{hashlib.sha256(head + str(image.stat().st_size).encode()).hexdigest()[:12]}"
    if container.runtime:
        said = _run([container.words[0], *_INSPECT, container.image])
        if said.returncode != 0:
            do = f"fetch it ({container.runtime} pull {container.image}); see that {container.runtime} works"
            raise _no_image(container, _end(said.stderr), do)
        return f"sha256:{said.stdout.strip().removeprefix('sha256:')[:12]}"
    return ""


# Inside

_SCRIPT = """
echo somite:ready
echo "somite:home:$FSLDIR"
IFS=:
for folder in $PATH "$FSLDIR/bin"; do
  for name in {names}; do
    for file in "$folder"/$name; do
      if [ -f "$file" ] && [ -x "$file" ]; then echo "somite:file:$file"; fi
    done
  done
done
for folder in $PATH; do
  if [ -f "$folder/../etc/fslversion" ]; then echo "somite:version:$(cat "$folder/../etc/fslversion")"; fi
done
if [ -f "$FSLDIR/etc/fslversion" ]; then echo "somite:version:$(cat "$FSLDIR/etc/fslversion")"; fi
exit 0
"""


@cache
def inventory(container: Container, suite: Suite) -> Inventory:
    """What a container holds of a suite; asked once per process.

    Raises:
        ToolError: `CONTAINER_FAILED` where it cannot be started.
    """
    names = " ".join(f"'{name}'" for name in sorted(suite.executables))
    said = ask(container, ["sh", "-c", _SCRIPT.replace("{names}", names)])
    if said.returncode != 0 or "somite:ready" not in said.stdout:
        raise ToolError(
            Problem(
                "CONTAINER_FAILED",
                "the container cannot be started, or has no shell",
                where=container.command,
                found=_end(said.stderr or said.stdout) or f"exit status {said.returncode}",
                expected=f"an image in which `{container.command} sh -c 'echo ready'` works",
                do="try this command in a terminal; options of the runtime go before the image",
            )
        )

    def told(kind: str) -> list[str]:
        mark = f"somite:{kind}:"
        return [line.removeprefix(mark) for line in said.stdout.splitlines() if line.startswith(mark)]

    home = (told("home") or [""])[0]
    return Inventory(tuple(dict.fromkeys(told("file"))), home, (told("version") or [""])[-1])


def ask(container: Container, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command inside, with no folder added; what it said, whatever its exit status."""
    return _run([*container.words, *arguments])


def describe(container: Container) -> str:
    """The container for the record and for the hash of a step: its words, and the digest of its image."""
    words = (*container.words[:-1], Path(container.image).name) if container.runtime else container.words
    digest = _digest(container)
    return shlex.join(words) + (f" ({digest})" if digest else "")


def enclosing(
    container: Container,
    folder: Path,
    inputs: Iterable[Path],
    variables: Mapping[str, str],
    also: Iterable[Path] = (),
) -> tuple[str, ...]:
    """The words for a command that works in `folder`, reads `inputs`, and sees `variables`.

    The folder, and the folders `also`, can be written to; those of the inputs cannot. Options of the user
    come last, and so win.

    Raises:
        ToolError: `CONTAINER_PATH` for a path that the runtime's options cannot hold; `CONTAINER_COMMAND`.
    """
    if not container.runtime:
        return container.words
    _check_form(container)
    own = dict.fromkeys((folder, *also))
    parents = {p for path in inputs for p in (path.parent, path.resolve().parent) if p not in own}
    _check_paths(container, [*own, *parents])
    binds = [*(f"{path}:{path}" for path in own), *(f"{parent}:{parent}:ro" for parent in sorted(parents))]
    if container.runtime in _IMAGE_FILES:
        # Variables reach the inside through the environment: see `forwarded`.
        options = [word for bind in binds for word in ("--bind", bind)] + ["--pwd", str(folder)]
    else:
        options = [word for bind in binds for word in ("--volume", bind)] + ["--workdir", str(folder)]
        options += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        options += ["--user", user_inside(container.runtime)]
    place = container.words.index(_SUBCOMMANDS[container.runtime]) + 1
    return (*container.words[:place], *options, *container.words[place:])


def user_inside(runtime: str) -> str:
    """Who one must be inside to be oneself outside, whatever user an image names: docker or podman."""
    return "0:0" if runtime == "podman" else f"{os.getuid()}:{os.getgid()}"  # podman's root is the caller


def has_image(runtime: str, image: str) -> bool:
    """Whether docker or podman can be reached and has an image."""
    return _run([runtime, *_INSPECT, image]).returncode == 0


def forwarded(container: Container, variables: Mapping[str, str]) -> dict[str, str]:
    """Variables to be set outside so that they are set inside, even with --cleanenv."""
    if container.runtime not in _IMAGE_FILES:
        return dict(variables)
    prefix = f"{container.runtime.upper()}ENV_"
    return {**variables, **{prefix + name: value for name, value in variables.items()}}


def _check_paths(container: Container, paths: Iterable[Path]) -> None:
    bad = sorted(str(path) for path in paths if set(":,\r\n") & set(str(path)))
    if bad:
        raise ToolError(
            Problem(
                "CONTAINER_PATH",
                "a folder cannot be shown to the container: its path holds a colon, comma or end of line",
                where=container.command,
                found=", ".join(bad),
                expected=f"paths that {container.runtime} can take as an option",
                do="choose another work folder (--work-dir), or rename the folder",
            )
        )


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # The FSLDIR of this machine is not that of an image, and some images keep one that they are given.
    environment = {name: value for name, value in os.environ.items() if name != "FSLDIR"}
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


def _end(words: str) -> str:
    return "\n".join(words.strip().splitlines()[-_LINES:])
