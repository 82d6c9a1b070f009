"""Long tables and clinical tables of invented people, for the tests of analyses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from somite.analysis.long import Long, read_long
from somite.analysis.model import AnalysisConfig, Factor, Requirement
from somite.long_table import arrow_schema
from somite.segments import SCHEMA

IDENTITY = ("metric", "statistic", "region", "side", "level", "segment")


class Plain(AnalysisConfig):
    """A kind that only selects."""

    kind: Literal["plain"] = "plain"
    name: str = "plain"
    group: str | None = None
    groups: tuple[str, ...] = ()
    repeats: tuple[Factor, ...] = ()

    def requirements(self) -> tuple[Requirement, ...]:
        own = () if self.group is None else (Requirement(self.group, "group", "groups", self.groups),)
        return (*super().requirements(), *own)

    def within(self) -> tuple[Factor, ...]:
        return self.repeats

    def group_column(self) -> str | None:
        return self.group


def frame(
    participants: Sequence[str],
    *,
    sessions: Sequence[str] = ("",),
    sides: Sequence[str] = ("L", "R"),
    levels: Sequence[str] = ("L4", "L5"),
    metrics: Sequence[str] = ("fa", "md"),
    statistics: Sequence[str] = ("mean",),
    regions: Sequence[str] = ("nerve_root",),
    seed: int = 1,
) -> pd.DataFrame:
    """Rows of random values, one for each combination; text as in the TSV."""
    index = pd.MultiIndex.from_product(
        [participants, sessions, metrics, statistics, regions, sides, levels],
        names=["participant_id", "session_id", "metric", "statistic", "region", "side", "level"],
    )
    rows = index.to_frame(index=False)
    rng = np.random.default_rng(seed)
    units = {"fa": "1"}
    return rows.assign(
        segment="",
        value=rng.normal(0.4, 0.05, len(rows)),
        se=0.01,
        n_voxels=rng.integers(5, 50, len(rows)),
        snr=rng.normal(25.0, 2.0, len(rows)),
        unit=[units.get(metric, "1e-3 mm2/s") for metric in rows["metric"]],
        qc_status="pass",
        reason="",
    )


def write_parquet(path: Path, rows: pd.DataFrame) -> Path:
    """The long table as the group level writes it."""
    columns: list[Any] = []
    for field in arrow_schema():
        values = rows[field.name].tolist() if field.name in rows else [None] * len(rows)
        values = [None if value == "" or value != value else value for value in values]
        columns.append(pa.array(values, field.type))
    pq.write_table(pa.Table.from_arrays(columns, schema=arrow_schema()), path)
    return path


def read_segments(path: Path) -> pd.DataFrame:
    """A long table as TSV, for `write_parquet`: texts as text, numbers as numbers, `""` for n/a."""
    kinds = {column.name: str for column in SCHEMA if column.kind == "text"}
    found = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype=kinds)
    return found.astype(object).where(found.notna(), "")


def long(path: Path, rows: pd.DataFrame) -> Long:
    """Written and read again."""
    return read_long(write_parquet(path / "segments.parquet", rows))


def write_tsv(path: Path, table: dict[str, Sequence[object]]) -> Path:
    """A clinical table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(table), *("\t".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def ids(n: int) -> list[str]:
    return [f"sub-{i + 1:03d}" for i in range(n)]
