"""One session from its files to its derivatives and its record, under its lease."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from somite import __version__, containers, derivatives, fingerprint, record, resources
from somite.derivatives import Derivative
from somite.errors import DatasetError, Problem, SomiteError, file_error
from somite.files import remove_drafts, write_atomically
from somite.fingerprint import HashCache
from somite.lease import Lease, Owner
from somite.record import Delivered, Record, StepRecord
from somite.registry import Fact
from somite.segments import dictionary
from somite.workflows import engine
from somite.workflows.engine import Event, Product, StepFailed, Trace, Value
from somite.workflows.graph import Node


@dataclass(frozen=True)
class Unit:
    """What one run of the engine works on: a session, or the cohort. Plain data, sent to other processes."""

    label: str
    nodes: tuple[Node, ...]
    files: Mapping[str, tuple[Path, ...] | Path | None]
    """Given product -> its file or files."""
    texts: Mapping[str, tuple[str, ...] | str]
    """Given product -> the text of a file that is made for it."""
    targets: Mapping[str, tuple[Path, Derivative]]
    """Product -> where it goes in the output, and as what."""
    out_dir: Path
    work_dir: Path
    source_dir: Path
    """Inputs are recorded relative to this folder."""
    dwi_gb: float = 0.0
    """Size of its DWI series as float32, for the memory that it needs."""
    identity: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    warnings: tuple[Problem, ...] = ()
    containers: Mapping[str, str] = field(default_factory=dict)
    """Suite of tools -> the container that it comes from, for `containers.use`."""
    keep: Literal["final", "all"] = "all"
    verify: bool = False
    command: str = ""
    job: str = ""

    @property
    def folder(self) -> Path:
        """Its folder in the work folder: cache, lease and checksums."""
        return self.work_dir / self.label

    @property
    def cache_root(self) -> Path:
        """Root of its Pydra cache."""
        return self.folder / "cache"

    @property
    def recipe(self) -> str:
        """Digest of the options of all steps."""
        options = {node.step: node.config for node in self.nodes}
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]


def blank_record(unit: Unit, verdict: record.Verdict, problems: Sequence[Problem] = ()) -> Record:
    """A record without steps: for a session that its plan stops, or to be filled in."""
    return Record(
        label=unit.label,
        participant_id=unit.identity.get("participant_id", ""),
        session_id=unit.identity.get("session_id", ""),
        run=unit.identity.get("run", ""),
        verdict=verdict,
        problems=list(problems),
        warnings=list(unit.warnings),
        facts=list(unit.facts),
        recipe=unit.recipe,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=unit.command,
        job=unit.job,
        software=software(),
        processor=fingerprint.processor(),
        processor_flags=fingerprint.processor_flags(),
        threads=resources.threads(),
        dwi_gb=unit.dwi_gb,
    )


def software() -> dict[str, str]:
    """Versions of this program and of Python, and the image that they run in, where that is known."""
    image = containers.own_image()
    return {
        "somite": __version__,
        "python": platform.python_version(),
        **({"container": image} if image else {}),
    }


def look(unit: Unit) -> list[Trace]:
    """What would run and what is cached, without reading input files that are not known; writes nothing."""
    hashes = HashCache(unit.folder / "hashes.json", verify=unit.verify)

    def product(path: Path) -> Product | Literal["unknown"]:
        try:
            known = hashes.peek(path)
            return "unknown" if known is None else Product(known, path.stat().st_size, str(path))
        except OSError:
            return "unknown"

    given = _each_given(unit, product, _product_of)
    given = {
        name: "unknown" if isinstance(made, list) and "unknown" in made else made
        for name, made in given.items()
    }
    traces = engine.trace(unit.nodes, given, unit.cache_root)
    last = record.read(record.path_of(unit.out_dir, unit.label))
    if all(item.state == "cached" for item in traces) and not _must_place(unit, traces, last):
        return traces
    # Something runs, or is placed anew: what was cleared from the cache has to be made again first.
    return [item if _is_there(item, unit) else Trace(item.node, "run", item.inputs) for item in traces]


def _is_there(item: Trace, unit: Unit) -> bool:
    """Whether the files of a cached result lie in the cache, whole."""
    return all(product.is_whole(unit.cache_root) for product in item.outputs.values())


def _each_given(
    unit: Unit, of_file: Callable[[Path], Any], of_text: Callable[[str, str], Any]
) -> dict[str, Any]:
    """What is given, by its name: each file by `of_file`, each text by `of_text` with a name for its file."""
    given: dict[str, Any] = {}
    for name, paths in unit.files.items():
        if isinstance(paths, tuple):
            given[name] = [of_file(path) for path in paths]
        else:
            given[name] = None if paths is None else of_file(paths)
    for name, text in unit.texts.items():
        texts = text if isinstance(text, tuple) else (text,)
        made = [of_text(f"{name}_{i}.json", item) for i, item in enumerate(texts)]
        given[name] = made if isinstance(text, tuple) else made[0]
    return given


def _product_of(name: str, text: str) -> Product:  # noqa: ARG001
    raw = text.encode()
    return Product(hashlib.sha256(raw).hexdigest(), len(raw), "")


def why(traces: Sequence[Trace], last: Record | None) -> dict[str, list[str]]:
    """Step -> reasons why it would run, for the steps of `look` that are not cached."""
    before = (last.steps or last.before) if last is not None else []
    reasons: dict[str, list[str]] = {}
    for item in traces:
        if item.state == "cached":
            continue
        node = item.node
        now = StepRecord(node.step, "run", 0, 0, node.code, node.config, node.versions, dict(item.inputs))
        found = record.differences(before, now)
        unread = sorted(set(node.wires) - set(item.inputs))
        if item.state == "run" and unread and last is not None:
            found = [reason for reason in found if reason != record.GONE]
            found += [f"input {need} changed or was not read before" for need in unread]
        if item.state == "after":
            found = [
                reason for reason in found if reason.startswith(("option", "code", "version", "not run"))
            ]
            found = found or ["follows a step that runs"]
        reasons[node.step] = found
    return reasons


def run(
    unit: Unit,
    listen: Callable[[Event], None],
    on_wait: Callable[[Owner], None] | None = None,
) -> Record:
    """Run a session; what is cached is not run. Never raises for what goes wrong in it: the record says it.

    Outputs are placed when every step has ended well; then the record is written, last of all.
    """
    begin = time.perf_counter()
    ran: dict[str, Event] = {}

    def note(event: Event) -> None:
        if event.state != "started":
            ran[event.step] = event
        listen(event)

    def timed(result: Record) -> Record:
        return replace(result, seconds=round(time.perf_counter() - begin, 3))

    try:
        with Lease(unit.folder / "lease.json", on_wait=on_wait) as lease:
            try:
                result = timed(_run_leased(unit, note, ran, lease))
            except SomiteError as error:
                result = timed(_failed(unit, ran, error))
            lease.check()
            record.write(result, unit.out_dir)
            return result
    except SomiteError as error:  # the lease was lost: the record is its new owner's
        return timed(_failed(unit, ran, error))
    except OSError as error:
        result = timed(_failed(unit, ran, DatasetError(file_error(error))))
        with suppress(OSError):
            record.write(result, unit.out_dir)
        return result


def _run_leased(unit: Unit, note: Callable[[Event], None], ran: Mapping[str, Event], lease: Lease) -> Record:
    engine.sweep(unit.cache_root)
    with HashCache(unit.folder / "hashes.json", verify=unit.verify) as hashes:
        given = _given(unit, hashes)
    last = record.read(record.path_of(unit.out_dir, unit.label))
    traces = engine.trace(unit.nodes, given, unit.cache_root)
    if unit.verify:
        engine.drop(unit.cache_root, [item for item in traces if not _is_sound(item, unit.cache_root)])
        traces = engine.trace(unit.nodes, given, unit.cache_root)
    stale = [item for item in traces if not _is_there(item, unit)]
    if any(item.state != "cached" for item in traces) or (stale and _must_place(unit, traces, last)):
        engine.drop(unit.cache_root, stale)
        engine.execute(unit.nodes, given, unit.cache_root, note)
        traces = engine.trace(unit.nodes, given, unit.cache_root)
    _check_inputs_unchanged(unit)
    lease.check()
    outputs = _deliver(unit, traces, last)
    engine.touch(unit.cache_root, traces)
    if unit.keep == "final":
        _purge(unit, traces)
    return replace(
        blank_record(unit, "done"),
        warnings=[*unit.warnings, *(Problem(**w) for item in traces for w in item.report["warnings"])],
        facts=[*unit.facts, *(Fact(**fact) for item in traces for fact in item.report["facts"])],
        steps=[_step_record(item, "run" if item.node.step in ran else "cached") for item in traces],
        inputs=input_sums(unit),
        outputs=outputs,
    )


def _given(unit: Unit, hashes: HashCache) -> dict[str, Value]:
    def product(path: Path) -> Product:
        return Product(hashes.sha256(path), path.stat().st_size, str(path))

    def written(name: str, text: str) -> Product:
        path = unit.folder / "given" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)
        return product(path)

    return _each_given(unit, product, written)


def _is_sound(item: Trace, cache_root: Path) -> bool:
    """Whether the cached files still have the contents that were recorded."""
    return all(
        not p.is_whole(cache_root) or fingerprint.sha256(p.locate(cache_root)) == p.sha256
        for p in item.outputs.values()
    )


def _check_inputs_unchanged(unit: Unit) -> None:
    hashes = HashCache(unit.folder / "hashes.json")
    changed = [path for path in files(unit) if hashes.peek(path) is None]
    if changed:
        raise DatasetError(
            Problem(
                "INPUT_CHANGED",
                "an input file changed while it was being worked on; nothing was delivered",
                where=", ".join(map(str, changed)),
                do="run again when the file is complete",
            )
        )


def _sources(traces: Sequence[Trace]) -> dict[str, Product]:
    return {product: made for item in traces for product, made in item.outputs.items()}


def _must_place(unit: Unit, traces: Sequence[Trace], last: Record | None) -> bool:
    return len(_kept(unit, _sources(traces), last)) < len(unit.targets)


def _kept(unit: Unit, made: Mapping[str, Product], last: Record | None) -> dict[str, Delivered]:
    """Product -> the file that the last run placed, where it still serves."""
    before = {item.path: item for item in last.outputs} if last is not None else {}
    kept = {}
    for product, (target, _) in unit.targets.items():
        item = before.get(target.relative_to(unit.out_dir).as_posix())
        if item is not None and product in made and _serves(item, target, made[product], unit.verify):
            kept[product] = item
    return kept


def _serves(item: Delivered, target: Path, product: Product, verify: bool) -> bool:
    """Whether a placed file was made from this product and is whole."""
    try:
        whole = target.stat().st_size == item.size
    except OSError:
        return False
    return (
        whole and item.source == product.sha256 and (not verify or fingerprint.sha256(target) == item.sha256)
    )


def _deliver(unit: Unit, traces: Sequence[Trace], last: Record | None) -> list[Delivered]:
    made = _sources(traces)
    trace_of = {product: item for item in traces for product in item.outputs}
    kept = _kept(unit, made, last)
    for target, _ in unit.targets.values():
        remove_drafts(target)
    if last is not None and len(kept) < len(unit.targets):
        _open_record(unit, last, kept)
    outputs = []
    for product, (target, derivative) in unit.targets.items():
        item = kept.get(product)
        if item is None:
            derivatives.place(made[product].locate(unit.cache_root), target)
            relative = target.relative_to(unit.out_dir).as_posix()
            size = target.stat().st_size
            item = Delivered(relative, fingerprint.sha256(target), size, made[product].sha256)
        if derivative.columns:
            derivatives.write_sidecar(target, dictionary(derivative.columns))
        if derivative.metadata:
            derivatives.write_sidecar(target, _sidecar(unit, trace_of[product], derivative))
        outputs.append(item)
    gone = {item.path for item in (last.outputs if last else [])} - {item.path for item in outputs}
    derivatives.remove(unit.out_dir / path for path in gone)
    return outputs


UNDELIVERED = "DELIVERY_INTERRUPTED"
"""Problem of the record that stands while results are put in place."""


def _open_record(unit: Unit, last: Record, kept: Mapping[str, Delivered]) -> None:
    """Unsay the last record's word for the files that are about to be replaced: a kill may come between."""
    stays = [item for item in last.outputs if item in kept.values()]
    problem = Problem(
        UNDELIVERED,
        "the run ended while results were being put in place",
        do="run again: what is finished is kept",
    )
    record.write(replace(last, verdict="failed", problems=[problem], outputs=stays), unit.out_dir)


def _sidecar(unit: Unit, item: Trace, derivative: Derivative) -> dict[str, Any]:
    node = item.node
    inferred = {fact["name"]: fact["value"] for fact in item.report["facts"]}
    sources = [f"bids:raw:{_relative(unit, path)}" for path in files(unit)]
    return {
        **derivative.metadata,
        **{key: inferred[name] for key, name in derivative.told.items() if name in inferred},
        **({"SpatialReference": sources[0]} if "space" in derivative.entities else {}),
        "Sources": sources,
        "Step": node.step,
        "Options": node.config,
        "Versions": {"somite": __version__, **node.versions},
    }


def _relative(unit: Unit, path: Path) -> str:
    with suppress(ValueError):
        return path.relative_to(unit.source_dir).as_posix()
    return path.name


def input_sums(unit: Unit, hashes: HashCache | None = None) -> dict[str, str]:
    """Input file, relative to its dataset -> its checksum now; only a file that changed is read."""
    hashes = hashes or HashCache(unit.folder / "hashes.json")
    return {_relative(unit, path): hashes.sha256(path) for path in files(unit)}


def files(unit: Unit) -> list[Path]:
    """The input files."""
    values = (value if isinstance(value, tuple) else (value,) for value in unit.files.values())
    return [path for value in values for path in value if path is not None]


def _purge(unit: Unit, traces: Sequence[Trace]) -> None:
    """Remove the files of the cache; their checksums stay, so that an unchanged rerun still runs nothing."""
    for item in traces:
        for product in item.outputs.values():
            product.locate(unit.cache_root).unlink(missing_ok=True)


def _step_record(item: Trace, state: record.State) -> StepRecord:
    node = item.node
    return StepRecord(
        step=node.step,
        state=state,
        seconds=item.report.get("seconds", 0.0),
        peak_mb=item.report.get("peak_mb", 0.0),
        code=node.code,
        config=node.config,
        versions=node.versions,
        inputs=dict(item.inputs),
        outputs={product: made.sha256 for product, made in item.outputs.items()},
        commands=item.report.get("commands", []),
        numbers=item.report.get("numbers", {}),
        cpu_seconds=item.report.get("cpu_seconds", 0.0),
        disk_mb=round(sum(made.size for made in item.outputs.values()) / 1e6, 3),
        entry=item.folder,
    )


def _failed(unit: Unit, ran: Mapping[str, Event], error: SomiteError) -> Record:
    """A record of how far a session came. The outputs of an earlier run stay, and stay named in it."""
    failed = error.step if isinstance(error, StepFailed) else ""
    last = record.read(record.path_of(unit.out_dir, unit.label))
    steps = []
    for item in look(replace(unit, verify=False)):
        event = ran.get(item.node.step)
        state: record.State = "cached" if item.state == "cached" else "not reached"
        if item.node.step == failed:
            state = "failed"
        elif event is not None:
            state = "run"
        steps.append(_step_record(item, state))
    return replace(
        blank_record(unit, "failed", error.problems),
        failed_step=failed,
        steps=steps,
        outputs=last.outputs if last is not None else [],
    )
