"""The only module that imports pydra: nodes as tasks of a content-addressed cache.

A node becomes a Pydra task whose hashed fields are all that its result depends on: the step's name, its
options, a digest of its code, the versions of libraries and tools, and the contents of its input files. A
file travels as a `Product`, hashed by its contents only and stored relative to the cache, so that a touched,
copied or moved input, or a moved cache, still hits.

What Pydra 1.0a12 does that is held off here (each with a test in `tests/test_engine.py`):
an errored result is read before a good one (1: `sweep`); a failed element blocks what combines (2: no split,
sessions are apart); closures, helpers and versions are not hashed (3, 4, 5: `Node` carries them as fields);
locks outlive their owner (6: `sweep`, under the session's lease); pool workers are orphaned (7: no Pydra
pool; `workflows.pool` guards its processes); the audit crashes (8: unused, `somite.record` instead); the
hash cache misses edits (9: products carry their own checksum); tools that fail unseen (10: `somite.tools`);
an error is only a location (11: the step's own error comes up as `StepFailed`).
"""

from __future__ import annotations

import os

os.environ["NO_ET"] = "1"  # Pydra asks its maker's server for news otherwise

import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fileformats.generic import File
from pydantic_core import PydanticUndefined
from pydra.compose import python, workflow
from pydra.engine.result import load_result
from pydra.engine.submitter import Submitter

from somite import fingerprint, resources
from somite.errors import Problem, SomiteError, ToolError, file_error, is_disk_full
from somite.registry import Context, Step, discover
from somite.workflows.graph import Node, step_named


@dataclass(frozen=True)
class Product:
    """A file by its contents. Two products with the same bytes are the same, wherever they lie."""

    sha256: str
    size: int
    path: str
    """Absolute for what is given; relative to the cache for what a step made."""

    def __bytes_repr__(self, cache: Any) -> Iterable[bytes]:
        yield b"product:" + self.sha256.encode()

    def locate(self, cache_root: Path) -> Path:
        """Where the file lies."""
        return cache_root / self.path

    def is_whole(self, cache_root: Path) -> bool:
        """Whether the file is there with its size."""
        try:
            return self.locate(cache_root).stat().st_size == self.size
        except OSError:
            return False


Value = Product | list[Product] | None
"""What a need is met with: a file, several, or none where it may be absent."""


@dataclass(frozen=True)
class Event:
    """A step has started or ended in this process."""

    step: str
    state: Literal["started", "run", "failed"]
    seconds: float = 0.0


_LOG = logging.getLogger("somite")


def _ignore(event: Event) -> None:
    """Nobody listens."""


_listener: ContextVar[Callable[[Event], None]] = ContextVar("listener", default=_ignore)


class StepFailed(SomiteError):
    """A step did not end well: which, and why."""

    def __init__(self, step: str, *problems: Problem) -> None:
        super().__init__(*problems)
        self.step = step


def run_step(step: str, code: str, versions: dict[str, str], config: dict[str, Any], **needs: Any) -> Any:
    """What every Pydra task runs, in its own folder below the cache: the step, then its report.

    `code` and `versions` are here to be hashed.

    Raises:
        StepFailed: with the step's own problems, or `STEP_CRASHED` for an error that nobody foresaw.
    """
    del code, versions
    folder = Path.cwd()
    cache_root = folder.parent
    tell = _listener.get()
    tell(Event(step, "started"))
    definition = discover()[step]
    context = Context(folder=folder, threads=resources.threads())
    paths = {name: _locate(value, cache_root) for name, value in needs.items()}
    begin, cpu_begin = time.perf_counter(), resources.cpu_seconds()
    try:
        with resources.peak_memory() as peak:
            made = definition(definition.config.model_validate(config), context, **paths)
    except Exception as error:
        _LOG.exception("step %s failed", step)
        tell(Event(step, "failed", time.perf_counter() - begin))
        raise StepFailed(step, *_problems_of(error, step)) from error
    seconds = time.perf_counter() - begin
    report = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(resources.cpu_seconds() - cpu_begin, 3),
        "peak_mb": round(peak.megabytes, 1),
        "facts": [asdict(fact) for fact in context.facts],
        "warnings": [asdict(warning) for warning in context.warnings],
        "commands": context.commands,
        "numbers": context.numbers,
    }
    products = (
        Product(fingerprint.sha256(path), path.stat().st_size, str(path.relative_to(cache_root)))
        for path in made.values()
    )
    result = (*products, report)
    tell(Event(step, "run", seconds))
    return result


def _locate(value: Value, cache_root: Path) -> Path | tuple[Path, ...] | None:
    if isinstance(value, list):
        return tuple(product.locate(cache_root) for product in value)
    return None if value is None else value.locate(cache_root)


def _problems_of(error: Exception, step: str) -> tuple[Problem, ...]:
    if isinstance(error, SomiteError) and error.problems:
        return error.problems
    if isinstance(error, OSError) and is_disk_full(error):
        return (file_error(error),)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        Problem(
            "STEP_CRASHED",
            f"step {step} ended with an error that it does not foresee",
            where=f"{Path(last.filename).name} line {last.lineno}, {last.name}",
            found=f"{type(error).__name__}: {error}",
            do="report this with the log of the session",
        ),
    )


@cache
def _task_class(name: str) -> Any:
    step = discover()[name]
    fields: dict[str, Any] = {}
    for need in step.needs:
        kind: Any = list[Product] if need.many else Product
        if need.optional:
            fields[need.name] = python.arg(name=need.name, type=kind | None, default=None)
        else:
            fields[need.name] = python.arg(name=need.name, type=kind)
    hashed = {"step": str, "code": str, "versions": dict, "config": dict}
    fields |= {key: python.arg(name=key, type=kind) for key, kind in hashed.items()}
    outputs: dict[str, type] = dict.fromkeys(step.makes, Product)
    return python.define(run_step, inputs=fields, outputs={**outputs, "report": dict}, name=name)


def task_of(node: Node, values: Mapping[str, Any]) -> Any:
    """The Pydra task of a node, given product -> Value, or Pydra's lazy field."""
    needs = {need: values[product] for need, product in node.wires.items()}
    hashed = {"step": node.step, "code": node.code, "versions": node.versions, "config": node.config}
    return _task_class(node.step)(**hashed, **needs)


def _build(nodes: list[Node], given: dict[str, Value]) -> Any:
    values: dict[str, Any] = dict(given)
    reports = []
    for node in nodes:
        outputs = workflow.add(task_of(node, values), name=node.step)
        values |= {product: getattr(outputs, product) for product in discover()[node.step].makes}
        reports.append(outputs.report)
    return tuple(reports) if len(reports) > 1 else reports[0]


@dataclass(frozen=True)
class Trace:
    """What is known of a node without running it."""

    node: Node
    state: Literal["cached", "run", "after"]
    """In the cache; would run; or depends on something that would run."""
    inputs: dict[str, list[str]] = field(default_factory=dict)
    """Need -> checksums of its files, where they are known."""
    outputs: dict[str, Product] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    """The node's folder below the cache, where it is cached."""


def _keep_hashes_beside(cache_root: Path) -> None:
    """Pydra makes a folder for hashes before it hashes anything: in a home that a user may not have."""
    os.environ["PYDRA_HASH_CACHE"] = str(cache_root.parent / "pydra-hashes")


def trace(
    nodes: Sequence[Node], given: Mapping[str, Value | Literal["unknown"]], cache_root: Path
) -> list[Trace]:
    """Follow the nodes through the cache; runs nothing and writes nothing.

    A given product whose checksum is not known is `"unknown"`; nodes that need it are `run`.
    """
    _keep_hashes_beside(cache_root)
    values: dict[str, Any] = dict(given)
    traces = []
    for node in nodes:
        found = _trace_one(node, values, cache_root)
        makes = discover()[node.step].makes
        values |= found.outputs if found.state == "cached" else dict.fromkeys(makes, "after")
        traces.append(found)
    return traces


def _trace_one(node: Node, values: Mapping[str, Any], cache_root: Path) -> Trace:
    met = [values[product] for product in node.wires.values()]
    inputs = {need: _checksums(values[product]) for need, product in node.wires.items()}
    known = {need: sums for need, sums in inputs.items() if sums is not None}
    if any(isinstance(value, str) for value in met):
        return Trace(node, "after" if "after" in met else "run", known)
    folder = task_of(node, values)._checksum
    result = _load(cache_root, folder)
    if result is None:
        return Trace(node, "run", known)
    outputs = {product: getattr(result, product) for product in discover()[node.step].makes}
    return Trace(node, "cached", known, outputs, result.report, folder)


def _checksums(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return None
    if value is None:
        return []
    return [product.sha256 for product in (value if isinstance(value, list) else [value])]


def _load(cache_root: Path, folder: str) -> Any:
    if (cache_root / folder / "_error.pklz").exists():
        return None
    try:
        result = load_result(folder, [cache_root], retries=1, polling_interval=0)
    except Exception:  # a damaged pickle can raise anything; what cannot be read is not there
        return None
    return None if result is None or result.errored else result.outputs


def sweep(cache_root: Path) -> None:
    """Clear what a run that failed or was killed left behind. Only for the owner of the session's lease.

    Removes locks, folders with an error, folders without a whole result, and the workflow's own folders:
    the nodes hold all that is worth keeping.
    """
    for path in cache_root.iterdir() if cache_root.is_dir() else ():
        if path.is_dir():
            if path.name.startswith("workflow-") or _load(cache_root, path.name) is None:
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def drop(cache_root: Path, traces: Iterable[Trace]) -> None:
    """Forget cached results, so that their nodes run again."""
    for item in traces:
        if item.folder:
            shutil.rmtree(cache_root / item.folder, ignore_errors=True)


def touch(cache_root: Path, traces: Iterable[Trace]) -> None:
    """Note that cached results were used now, for whoever clears the cache of old ones."""
    for item in traces:
        if item.folder:
            with suppress(OSError):
                os.utime(cache_root / item.folder)


def execute(
    nodes: Sequence[Node],
    given: Mapping[str, Value],
    cache_root: Path,
    listen: Callable[[Event], None] = _ignore,
) -> None:
    """Run what is not cached, in this process, one node after another. Only for the owner of the lease.

    Raises:
        StepFailed: the first step that did not end well.
    """
    cache_root.mkdir(parents=True, exist_ok=True)
    _keep_hashes_beside(cache_root)
    reports = {f"{node.step}_report": dict for node in nodes}
    fields = {key: workflow.arg(name=key, type=kind) for key, kind in (("nodes", list), ("given", dict))}
    session = workflow.define(_build, inputs=fields, outputs=reports, name="Session")
    token, folder = _listener.set(listen), Path.cwd()
    try:
        with Submitter(worker="debug", cache_root=cache_root) as submitter:
            submitter(session(nodes=list(nodes), given=dict(given)), raise_errors=True)
    finally:
        _listener.reset(token)
        os.chdir(folder)  # Pydra stays in a job's folder where it cannot write the result
        for path in cache_root.glob("workflow-*"):
            shutil.rmtree(path, ignore_errors=True)


def as_pydra(name: str) -> Any:
    """A step as a Pydra task class, for other people's workflows: files in, files out, options as fields.

    >>> Denoise = as_pydra("denoise")
    >>> task = Denoise(dwi="dwi.nii.gz", patch_voxels=5)

    Raises:
        GraphError: `STEP_UNKNOWN`.
    """
    step = step_named(name)
    fields: dict[str, Any] = {}
    for need in step.needs:
        kind: Any = list[File] if need.many else File
        if need.optional:
            fields[need.name] = python.arg(
                name=need.name, type=kind | None, default=None, help=need.description
            )
        else:
            fields[need.name] = python.arg(name=need.name, type=kind, help=need.description)
    for option, info in step.config.model_fields.items():
        default = info.get_default(call_default_factory=True)
        extra: dict[str, Any] = {} if default is PydanticUndefined else {"default": default}
        # Pydra knows plain types only; what they may hold is checked by the step's Config.
        kind = info.annotation if isinstance(info.annotation, type) else Any
        if get_origin(info.annotation) is Literal:
            kind, extra["allowed_values"] = str, list(get_args(info.annotation))
        fields[option] = python.arg(name=option, type=kind, help=info.description or "", **extra)
    fields["step"] = python.arg(name="step", type=str, default=name, help="name of the step")
    module = step.run.__module__
    for key, value, text in (
        ("code", fingerprint.code(module), "digest of the step's code"),
        ("versions", fingerprint.libraries(module) | _tools_there(step), "versions of libraries and tools"),
    ):
        fields[key] = python.arg(name=key, type=type(value), default=value, help=text)
    outputs = {made: python.out(name=made, type=File, help=text) for made, text in step.makes.items()}
    return python.define(_run_alone, inputs=fields, outputs=outputs, name=name.title().replace("_", ""))


def _tools_there(step: Step) -> dict[str, str]:
    """Versions of the tools that are installed, of all that a method of the step would call."""
    found: dict[str, str] = {}
    methods = step.config.model_fields.get("method")
    for method in get_args(methods.annotation) if methods is not None else ():
        with suppress(ToolError):
            found |= step.tools(step.config.model_construct(**{"method": method}))
    return found


def _run_alone(step: str, code: str, versions: dict[str, str], **values: Any) -> Any:
    del code, versions  # here to be hashed
    definition = discover()[step]
    needs = {need.name: values.pop(need.name) for need in definition.needs}
    paths = {
        name: tuple(Path(str(item)) for item in value)
        if isinstance(value, list)
        else (None if value is None else Path(str(value)))
        for name, value in needs.items()
    }
    made = definition(definition.config(**values), Context(folder=Path.cwd()), **paths)
    return tuple(made.values()) if len(made) > 1 else next(iter(made.values()))
