"""The tables of a session's page, made from its delivered tables and its record."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from somite.quality_table import METRICS
from somite.record import StepRecord
from somite.registry import Fact
from somite.report.pages import base_names
from somite.report.tables import Cell, Column, Table, number_cell

SHOWN_METRICS = {"fa": "FA", "md": "MD", "ad": "AD", "rd": "RD"}
_SEGMENT_KEY = ("region", "side", "level", "segment", "extraction", "weighting")
_NOTHING = ("", "n/a")


@dataclass(frozen=True)
class Read:
    """Rows of a delivered table, or why there are none."""

    rows: Sequence[Mapping[str, str]] = field(default_factory=list)
    lack: str = ""


def read(path: Path | None) -> Read:
    """The rows of a TSV as text. Never raises: what cannot be read is told in words."""
    if path is None:
        return Read(lack="The session has no such table.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return Read(list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)))
    except FileNotFoundError:
        return Read(lack=f"The table {path.name} was delivered, but is no longer there.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return Read(lack=f"The table {path.name} cannot be read ({type(error).__name__}).")


def value_of(text: str | None) -> float:
    """A number of a table; NaN for n/a, and for what is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _text(row: Mapping[str, str], key: str) -> str:
    """A text of a table; empty for n/a."""
    found = row.get(key) or ""
    return "" if found in _NOTHING else found


def segments(found: Read) -> Table | None:
    """The long table of segments as one row per segment: mean and interval of each map, and its quality."""
    kept: dict[tuple[str, ...], dict[str, Mapping[str, str]]] = {}
    for row in found.rows:
        if row.get("statistic") == "mean" and row.get("metric") in SHOWN_METRICS:
            key = tuple(_text(row, name) for name in _SEGMENT_KEY)
            kept.setdefault(key, {})[row["metric"]] = row
    if not kept:
        return None
    columns = _segment_columns(kept)
    records = [_segment_row(key, rows) for key, rows in kept.items()]
    caption = "Segments: mean over the voxels, with the 95 % interval of the mean"
    return Table("segments-table", caption, columns, records)


def _segment_columns(kept: Mapping[tuple[str, ...], Mapping[str, Mapping[str, str]]]) -> list[Column]:
    first = {metric: row for rows in kept.values() for metric, row in rows.items()}
    varied = [len({key[i] for key in kept}) > 1 for i in range(len(_SEGMENT_KEY))]
    told = [any(key[i] for key in kept) for i in range(len(_SEGMENT_KEY))]
    columns = [Column("region", "Region", choose=True, limit=40)]
    for i, name in enumerate(_SEGMENT_KEY[1:4], start=1):
        if told[i]:
            columns.append(Column(name, name.capitalize(), choose=name in ("side", "level"), limit=40))
    for i, name in enumerate(_SEGMENT_KEY[4:], start=4):
        if varied[i]:
            columns.append(Column(name, name.capitalize(), choose=True))
    columns += [
        Column(metric, title, "number", _unit(first[metric]))
        for metric, title in SHOWN_METRICS.items()
        if metric in first
    ]
    return [
        *columns,
        Column("n_voxels", "Voxels", "number"),
        Column("snr", "SNR", "number", help="Mean of the b=0 signal over the noise, in the segment"),
        Column("qc_status", "Quality", "verdict", choose=True),
        Column("qc_flags", "Flags", limit=40),
        Column("reason", "Reason", limit=80),
    ]


def _unit(row: Mapping[str, str]) -> str:
    unit = _text(row, "unit")
    return "" if unit == "1" else unit.replace("1e-3", "10⁻³").replace("mm2", "mm²")


def _segment_row(key: tuple[str, ...], rows: Mapping[str, Mapping[str, str]]) -> dict[str, Cell]:
    cells = {name: Cell(text) for name, text in zip(_SEGMENT_KEY, key, strict=True)}
    cells |= {metric: _with_interval(row) for metric, row in rows.items()}
    about = next(iter(rows.values()))
    cells["n_voxels"] = number_cell(value_of(about.get("n_voxels")), 6)
    cells["snr"] = number_cell(value_of(about.get("snr")))
    texts = {
        name: [_text(row, name) for row in rows.values()] for name in ("qc_status", "qc_flags", "reason")
    }
    worst = [word for word in ("fail", "warn", "pass") if word in texts["qc_status"]]
    cells["qc_status"] = Cell(worst[0] if worst else "")
    for name in ("qc_flags", "reason"):
        cells[name] = Cell("; ".join(text for text in dict.fromkeys(texts[name]) if text))
    return cells


def _with_interval(row: Mapping[str, str]) -> Cell:
    value, low, high = (value_of(row.get(name)) for name in ("value", "ci_low", "ci_high"))
    if math.isnan(value):
        return Cell()
    digits = max(0, 3) if abs(value) < 10 else 2
    interval = "" if math.isnan(low) or math.isnan(high) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return Cell(f"{value:.{digits}f}{interval}", f"{value:.9g}")


def quality(found: Read) -> Table | None:
    """Every quality number with its limits, verdict and reason."""
    rows = [row for row in found.rows if row.get("metric") not in (None, "overall")]
    if not rows:
        return None
    columns = [
        Column("metric", "Number", limit=80),
        Column("value", "Value", "number"),
        Column("unit", "Unit"),
        Column("warn", "Warns at", "number"),
        Column("fail", "Fails at", "number"),
        Column("verdict", "Verdict", "verdict"),
        # An empty column would push the last one out of sight.
        *([Column("reason", "Reason", limit=200)] if any(_text(row, "reason") for row in rows) else []),
        Column("means", "What it is", limit=400),
    ]
    return Table("quality-table", "Quality numbers", columns, [_quality_row(r) for r in rows], tools=False)


def _quality_row(row: Mapping[str, str]) -> dict[str, Cell]:
    metric, shell = METRICS.get(row["metric"]), _text(row, "b_s_per_mm2")
    name = metric.long_name if metric else row["metric"]
    unit = _text(row, "unit")
    return {
        "metric": Cell(name + (f", b={shell}" if shell else "")),
        **{key: number_cell(value_of(row.get(key))) for key in ("value", "warn", "fail")},
        "unit": Cell("" if unit == "1" else unit),
        "verdict": Cell(_text(row, "verdict")),
        "reason": Cell(_text(row, "reason")),
        "means": Cell(metric.description if metric else ""),
    }


def overall(found: Read) -> tuple[str, str]:
    """The verdict on the session, and its reason; empty where there is none."""
    for row in found.rows:
        if row.get("metric") == "overall":
            return _text(row, "verdict"), _text(row, "reason")
    return "", ""


def facts(found: Sequence[Fact]) -> Table | None:
    """What was inferred rather than given."""
    if not found:
        return None
    columns = [
        Column("name", "What", limit=80),
        Column("value", "Taken as", limit=120),
        Column("reason", "Because", limit=300),
    ]
    records = [
        {
            key: Cell(base_names(text))
            for key, text in (("name", f.name), ("value", f.value), ("reason", f.reason))
        }
        for f in found
    ]
    return Table("facts-table", "What was inferred rather than given", columns, records, tools=False)


def steps(now: Sequence[StepRecord], before: Sequence[StepRecord]) -> Table | None:
    """How far the session came, with the time and the memory of each step."""
    found = now or before
    if not found:
        return None
    columns = [
        Column("step", "Step"),
        Column("state", "State", "verdict"),
        Column("method", "Method"),
        Column("seconds", "Time", "number", "s"),
        Column("memory", "Peak memory", "number", "MB"),
        Column("options", "Options", limit=160),
    ]
    return Table("steps-table", "Steps", columns, [_step_row(step) for step in found], tools=False)


def _step_row(step: StepRecord) -> dict[str, Cell]:
    reached = step.state in ("run", "cached")
    options = ", ".join(f"{key}: {_option(value)}" for key, value in step.config.items() if key != "method")
    return {
        "step": Cell(step.step),
        "state": Cell("done" if reached else step.state),
        "method": Cell(str(step.config.get("method", ""))),
        "seconds": number_cell(step.seconds) if reached else Cell(),
        "memory": number_cell(step.peak_mb) if reached else Cell(),
        "options": Cell(options),
    }


def _option(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def checksums(inputs: Mapping[str, str]) -> Table | None:
    """The input files with their SHA-256."""
    if not inputs:
        return None
    columns = [Column("file", "File", limit=150), Column("sha256", "SHA-256", limit=64)]
    records = [{"file": Cell(base_names(name)), "sha256": Cell(digest)} for name, digest in inputs.items()]
    return Table("inputs-table", "Input files", columns, records, tools=False)


def versions(software: Mapping[str, str], found: Sequence[StepRecord]) -> Table | None:
    """Every package and tool that ran, with its version."""
    every: dict[str, set[str]] = {name: {version} for name, version in software.items()}
    for step in found:
        for name, version in step.versions.items():
            every.setdefault(name, set()).add(version)
    # A step knows the minor version of Python, the run the whole one.
    if software.get("python"):
        every["python"] = {software["python"]}
    if not every:
        return None
    columns = [Column("name", "Software"), Column("version", "Version", limit=120)]
    records = [
        {"name": Cell(name), "version": Cell(", ".join(sorted(every[name])))}
        for name in sorted(every, key=lambda name: (name != "somite", name.lower()))
    ]
    return Table("versions-table", "Software", columns, records, tools=False)
