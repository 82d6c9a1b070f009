"""The seam to command-line tools: found, versioned, run through Nipype interfaces, and not believed unseen.

Nipype builds the command line and starts it. What Nipype lets pass is checked here: an exit status other
than 0 (its `Eddy` and others report none), outputs that are absent or empty, death by a signal. Where a suite
comes from a container, its tools are looked up, versioned and run inside: see `somite.containers`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from somite import containers
from somite.containers import Container, container_of
from somite.errors import DatasetError, Problem, ToolError
from somite.images import FloatArray, Grid, read_float
from somite.registry import Context
from somite.suites import FSL, SUITES, Suite, numbers_of, suite_of

# Nipype asks a server for its newest version when the first interface is made; a run stays off the network.
os.environ.setdefault("NIPYPE_NO_ET", "1")
os.environ.setdefault("NO_ET", "1")

_LINES_OF_STDERR = 20


def find(executable: str, *others: str) -> Path:
    """Where the tool lies: the first of the names found.

    Looked for inside of the suite's container where it has one; else in PATH, and for FSL in $FSLDIR/bin. A
    name may be a pattern, of which the highest version is taken: `eddy_cuda*`.

    Raises:
        ToolError: `TOOL_MISSING`, with what to install; what `containers.container_of` and
            `containers.inventory` raise.
    """
    names = (executable, *others)
    suite = suite_of(Path(executable).name)
    container = container_of(suite)
    for name in names:
        found = _on_host(name) if container is None or suite is None else _inside(name, container, suite)
        if found is not None:
            return found
    raise ToolError(_missing(names, suite, container))


def _on_host(name: str) -> Path | None:
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    if suite_of(Path(name).name) is FSL and os.environ.get("FSLDIR"):
        folders.append(str(Path(os.environ["FSLDIR"]) / "bin"))
    if "*" not in name:
        found = shutil.which(name, path=os.pathsep.join(folders))
        return Path(found) if found else None
    candidates = [path for folder in folders for path in Path(folder).glob(name) if os.access(path, os.X_OK)]
    return _newest(candidates)


def _inside(name: str, container: Container, suite: Suite) -> Path | None:
    paths = [Path(path) for path in containers.inventory(container, suite).paths]
    return _newest([path for path in paths if name == str(path) or fnmatchcase(path.name, name)])


def _newest(paths: Sequence[Path]) -> Path | None:
    """The path whose name ends in the highest version; of equal ones the first."""
    return max(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None)


def _missing(names: Sequence[str], suite: Suite | None, container: Container | None) -> Problem:
    if container is not None and suite is not None:
        there = [Path(path).name for path in containers.inventory(container, suite).paths]
        return Problem(
            "TOOL_MISSING",
            f"the command {' or '.join(names)} is not in the container of {suite.name}",
            where=container.command,
            found=", ".join(there) or "no tool of it",
            expected=f"an executable of {suite.name} in PATH inside, or in $FSLDIR/bin",
            do=f"name an image that holds it in tools.{suite.key}.container, or choose another method",
        )
    return Problem(
        "TOOL_MISSING",
        f"the command {' or '.join(names)} is not installed, or not in PATH",
        where=" ".join(names),
        found=f"PATH={os.environ.get('PATH', '')}",
        expected=f"an executable of {suite.name}" if suite else "an executable file",
        do=suite.install if suite else f"install the package that provides {names[0]}",
    )


def version_of(suite_or_executable: str) -> str:
    """Version of a tool, or of a suite by its name, such as `6.0.7.4` or `3.0.3`; read once per process.

    FSL's is in `etc/fslversion` beside its `bin`; others answer to `--version`, or the tool that stands for
    the suite does. A tool that says none is known by its content: `sha256:` and 12 digits. Of a tool in a
    container, the container follows, with the digest of its image:
    `6.0.7.4 in apptainer exec fsl.sif (sha256:0123456789ab)`.

    Raises:
        ToolError: `TOOL_MISSING`, `TOOL_TOO_OLD`; what `find` raises.
    """
    named = next((s for s in SUITES if s.name.lower() == suite_or_executable.lower()), None)
    path = find(named.anchor if named else suite_or_executable)
    suite = suite_of(path.name)
    container = container_of(suite)
    if container is None or suite is None:
        version = _version_on_host(path, suite)
    else:
        version = containers.inventory(container, suite).version.split(":")[0].strip() if suite is FSL else ""
        version = version or _stated_version(container, path, suite) or "unknown version"
    if suite is not None and () < numbers_of(version) < suite.oldest:
        raise ToolError(_too_old(path, version, suite))
    return version if container is None else f"{version} in {containers.describe(container)}"


def _version_on_host(path: Path, suite: Suite | None) -> str:
    if suite is FSL:
        folders = [Path(os.environ["FSLDIR"])] if os.environ.get("FSLDIR") else []
        for folder in (*folders, path.parent.parent, path.resolve().parent.parent):
            if (folder / "etc/fslversion").is_file():
                # Later versions append the build: "6.0.4:ddd0a010".
                return (folder / "etc/fslversion").read_text().split(":")[0].strip()
    return _stated_version(None, path, suite) or _digest(path)


@cache
def _stated_version(container: Container | None, path: Path, suite: Suite | None) -> str:
    """Version that an executable states when asked, or that of its suite's anchor beside it; or nothing."""
    for asked in (path, path.with_name(suite.anchor)) if suite else (path,):
        said = _ask(container, [str(asked), "--version"])
        if stated := _STATED.search(said.stdout + said.stderr):
            return stated[0]
    return ""


@cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


_STATED = re.compile(r"\b\d+\.\d+(?:\.\d+)*(?:[-+.]\w+)*")


def _too_old(path: Path, version: str, suite: Suite) -> Problem:
    return Problem(
        "TOOL_TOO_OLD",
        f"this {suite.name} is older than the oldest whose options and outputs are known here",
        where=str(path),
        found=version,
        expected=f"{'.'.join(map(str, suite.oldest))} or later",
        do=suite.install,
    )


def sees_gpu(suite: Suite) -> bool:
    """Whether the suite's tools see an Nvidia GPU: what `nvidia-smi -L` says, in their container if any."""
    container = container_of(suite)
    if container is not None:
        return _lists_gpu(container, "nvidia-smi")
    listing = shutil.which("nvidia-smi")
    return listing is not None and _lists_gpu(None, listing)


@cache
def _lists_gpu(container: Container | None, listing: str) -> bool:
    said = _ask(container, [listing, "-L"])
    return said.returncode == 0 and "GPU" in said.stdout


def _ask(container: Container | None, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a short question here or in a container; an exit status of 1 where it cannot be asked."""
    if container is not None:
        return containers.ask(container, words)
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))


def help_of(executable: Path) -> str:
    """What a tool says to `--help`: some options exist in some versions only. Empty where it says nothing."""
    said = _ask(container_of(suite_of(executable.name)), [str(executable), "--help"])
    return said.stdout + said.stderr


def run_interface(interface: Any, context: Context, outputs: Sequence[Path]) -> Any:
    """Run a Nipype CommandLine interface in `context.folder`; returns Nipype's result.

    The command line goes to `context.commands`; what the tool says, to `<command>.log` in the folder.

    Args:
        interface: with its inputs set; relative paths start at the folder.
        context: the step's.
        outputs: files that must be there and not empty when the tool has ended.

    Raises:
        ToolError: `TOOL_MISSING`; `TOOL_FAILED` for an exit status other than 0, a signal, or what Nipype
            itself takes for a failure; `TOOL_OUTPUT_MISSING`; what `find` raises.
    """
    executable = find(shlex.split(interface.cmd)[0])
    runtimes: list[Any] = []
    _prepare(interface, executable, context.threads, runtimes)
    container = container_of(suite_of(executable.name))
    if container is not None:
        _enclose(interface, executable, container, context.folder)
    result, refusal = None, None
    try:
        result = interface.run(cwd=str(context.folder))
    except Exception as error:
        if not runtimes or getattr(runtimes[0], "returncode", None) is None:
            raise  # The tool was never started: inputs that the caller must mend.
        refusal = error
    runtime = runtimes[0]
    context.commands.append(runtime.cmdline)
    log = _keep_log(runtime, context.folder, executable.name)
    if runtime.returncode != 0:
        raise _failed(runtime, log, _ending(runtime.returncode))
    _check_outputs(outputs, runtime.cmdline, log)
    if refusal is not None:
        raise _failed(runtime, log, f"{refusal}".splitlines()[0]) from refusal
    return result


def read_output(path: Path, command: str) -> tuple[FloatArray, Grid]:
    """Voxels and grid of an image that a tool has made.

    Raises:
        ToolError: `TOOL_OUTPUT_UNREADABLE`, with the command line that made it.
    """
    try:
        return read_float(path)
    except DatasetError as error:
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_UNREADABLE",
                f"the tool wrote {path.name}, which is not an image that can be read",
                where=command,
                found=error.problems[0].found,
                expected=error.problems[0].expected,
                do="see what the tool said, and whether the disk is full",
            )
        ) from error


def _prepare(interface: Any, executable: Path, threads: int, runtimes: list[Any]) -> None:
    """Set threads, PATH and the capture of output; hold on to Nipype's record of the run."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MRTRIX_NTHREADS")
    interface.inputs.environ.update(dict.fromkeys(variables, str(threads)))
    if shutil.which(executable.name) is None:
        path = f"{executable.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        interface.inputs.environ["PATH"] = path
    interface.terminal_output = "file_split"
    interface._ldd = False  # No listing of linked libraries: it fails on scripts.

    def remember(runtime: Any) -> Any:
        runtimes.append(runtime)
        return runtime

    interface._pre_run_hook = remember  # The record is lost when `run` raises.


def _enclose(interface: Any, executable: Path, container: Container, folder: Path) -> None:
    """Let Nipype start the tool inside of its container."""
    suite = suite_of(executable.name)
    home = containers.inventory(container, suite).home if suite is not None else ""
    variables = {str(name): str(value) for name, value in interface.inputs.environ.items() if name != "PATH"}
    if suite is FSL:
        variables["FSLDIR"] = home or str(executable.parent.parent)
    words = containers.enclosing(container, folder, _files_of(interface.inputs.get()), variables)
    interface._cmd_prefix = f"{shlex.join(words)} "
    interface._cmd = shlex.join([str(executable), *shlex.split(interface.cmd)[1:]])
    interface.inputs.environ = containers.forwarded(container, variables)
    # Nipype compares with the version on this machine, where there is another one or none.
    interface._check_version_requirements = lambda *_, **__: []


def _files_of(values: Any) -> Iterator[Path]:
    """Absolute paths of files among the inputs of an interface."""
    if isinstance(values, str):
        if Path(values).is_absolute() and Path(values).exists():
            yield Path(values)
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _files_of(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _files_of(value)


def _keep_log(runtime: Any, folder: Path, name: str) -> Path:
    """Append the command line and all that the tool said to `<name>.log`; returns its path."""
    log = folder / f"{name}.log"
    with log.open("a") as file:
        file.write(f"$ {runtime.cmdline}\n{runtime.stdout}\n{runtime.stderr}\n")
        file.write(f"[exit status {runtime.returncode}]\n")
    for leftover in ("stdout.nipype", "stderr.nipype"):
        (folder / leftover).unlink(missing_ok=True)
    return log


def _ending(status: int) -> str:
    """How a process ended, in words. The shell between gives a signal as 128 + its number."""
    number = -status if status < 0 else status - 128
    try:
        return f"killed by signal {signal.Signals(number).name}"
    except ValueError:
        return f"exit status {status}"


def _failed(runtime: Any, log: Path, ending: str) -> ToolError:
    words = (runtime.stderr or "").strip() or (runtime.stdout or "").strip() or "(it said nothing)"
    last = words.splitlines()[-_LINES_OF_STDERR:]
    memory = "; SIGKILL often means that memory ran out" if "SIGKILL" in ending else ""
    return ToolError(
        Problem(
            "TOOL_FAILED",
            f"the command {log.stem} failed: {ending}",
            where=runtime.cmdline,
            found="\n".join(last),
            expected="exit status 0",
            do=f"read {log}{memory}",
        )
    )


def _check_outputs(outputs: Sequence[Path], command: str, log: Path) -> None:
    wanting = [path for path in outputs if not path.is_file() or path.stat().st_size == 0]
    if wanting:
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_MISSING",
                f"the command {log.stem} ended without writing {', '.join(path.name for path in wanting)}",
                where=command,
                found="; ".join(f"{p.name}: {'empty' if p.is_file() else 'absent'}" for p in wanting),
                expected="every output there and not empty",
                do=f"read {log}",
            )
        )
