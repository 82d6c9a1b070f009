"""The seam to command-line tools: found, versioned, run through Nipype interfaces, and not believed unseen.

Nipype builds the command line and starts it. What Nipype lets pass is checked here: an exit status other
than 0 (its `Eddy` and others report none), outputs that are absent or empty, death by a signal.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from somite.errors import DatasetError, Problem, ToolError
from somite.images import FloatArray, Grid, read_float
from somite.registry import Context

# Nipype asks a server for its newest version when the first interface is made; a run stays off the network.
os.environ.setdefault("NIPYPE_NO_ET", "1")
os.environ.setdefault("NO_ET", "1")

_LINES_OF_STDERR = 20


@dataclass(frozen=True)
class Suite:
    """A collection of tools that is installed and versioned as one."""

    name: str
    install: str
    executables: frozenset[str]
    anchor: str
    """The executable that stands for the suite."""


FSL = Suite(
    "FSL",
    "install FSL (https://fsl.fmrib.ox.ac.uk), set FSLDIR, and put $FSLDIR/bin in PATH; "
    "or choose a method that needs no FSL",
    frozenset({"bet", "dtifit", "eddy", "eddy_cpu", "eddy_openmp", "eddy_cuda", "topup", "applytopup"}),
    "bet",
)
MRTRIX3 = Suite(
    "MRtrix3",
    "install MRtrix3 (https://www.mrtrix.org; on Debian: apt-get install mrtrix3), or choose another method",
    frozenset({"dwidenoise", "mrdegibbs", "dwi2mask", "dwi2tensor", "tensor2metric", "mrinfo"}),
    "dwidenoise",
)
SUITES = (FSL, MRTRIX3)


def suite_of(executable: str) -> Suite | None:
    """The suite that an executable belongs to, where it is a known one."""
    return next((suite for suite in SUITES if executable in suite.executables), None)


def find(executable: str, *others: str) -> Path:
    """Where the tool lies: the first of the names found in PATH, or for FSL in $FSLDIR/bin.

    Raises:
        ToolError: `TOOL_MISSING`, with what to install.
    """
    names = (executable, *others)
    for name in names:
        found = shutil.which(name)
        if found is None and suite_of(name) is FSL and os.environ.get("FSLDIR"):
            found = shutil.which(name, path=str(Path(os.environ["FSLDIR"]) / "bin"))
        if found is not None:
            return Path(found)
    suite = suite_of(executable)
    raise ToolError(
        Problem(
            "TOOL_MISSING",
            f"the command {' or '.join(names)} is not installed, or not in PATH",
            where=" ".join(names),
            found=f"PATH={os.environ.get('PATH', '')}",
            expected=f"an executable of {suite.name}" if suite else "an executable file",
            do=suite.install if suite else f"install the package that provides {executable}",
        )
    )


def version_of(suite_or_executable: str) -> str:
    """Version of a tool, or of a suite by its name, such as `6.0.7.4` or `3.0.3`; read once per process.

    FSL's is in `etc/fslversion` beside its `bin`; others answer to `--version`. A tool that says none is
    known by its content: `sha256:` and 12 digits.

    Raises:
        ToolError: `TOOL_MISSING`.
    """
    suite = next((s for s in SUITES if s.name.lower() == suite_or_executable.lower()), None)
    path = find(suite.anchor if suite else suite_or_executable)
    if suite_of(path.name) is FSL:
        folders = [Path(os.environ["FSLDIR"])] if os.environ.get("FSLDIR") else []
        for folder in (*folders, path.parent.parent, path.resolve().parent.parent):
            if (folder / "etc/fslversion").is_file():
                # Later versions append the build: "6.0.4:ddd0a010".
                return (folder / "etc/fslversion").read_text().split(":")[0].strip()
    return _version_in_words(path)


@cache
def _version_in_words(path: Path) -> str:
    """Version that an executable states when asked by `--version`, else the digest of its file."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
        words = said.stdout + said.stderr
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        words = ""
    stated = re.search(r"\b\d+\.\d+(?:\.\d+)*(?:[-+.]\w+)*", words)
    if stated:
        return stated[0]
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def run_interface(interface: Any, context: Context, outputs: Sequence[Path]) -> Any:
    """Run a Nipype CommandLine interface in `context.folder`; returns Nipype's result.

    The command line goes to `context.commands`; what the tool says, to `<command>.log` in the folder.

    Args:
        interface: with its inputs set; relative paths start at the folder.
        context: the step's.
        outputs: files that must be there and not empty when the tool has ended.

    Raises:
        ToolError: `TOOL_MISSING`; `TOOL_FAILED` for an exit status other than 0, a signal, or what Nipype
            itself takes for a failure; `TOOL_OUTPUT_MISSING`.
    """
    executable = find(shlex.split(interface.cmd)[0])
    runtimes: list[Any] = []
    _prepare(interface, executable, context.threads, runtimes)
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
