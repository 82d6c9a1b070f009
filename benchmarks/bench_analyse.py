"""An analysis of a large cohort: joined, selected, compared, corrected and written."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Row

from somite.long_table import arrow_schema

NAME = "analyse"
PARTICIPANTS = 5000
REGIONS, SIDES, LEVELS = 50, ("L", "R"), ("L4", "L5")
METRICS, STATISTICS = ("fa", "md", "ad", "rd"), ("mean", "sd", "median", "iqr")
_AT_ONCE = 50


def rows() -> list[Row]:
    """Rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        n = write_cohort(folder)
        told = subprocess.run(
            [sys.executable, __file__, scratch], check=True, capture_output=True, text=True
        ).stdout
        found = json.loads(told.splitlines()[-1])
    segments = REGIONS * len(SIDES) * len(LEVELS)
    case = (
        f"{PARTICIPANTS} people x {segments} segments x {len(METRICS)} metrics x {len(STATISTICS)} statistics"
    )
    note = f"{n / 1e6:.0f} million rows, {found['results']} results, 2 groups, Welch"
    return [
        Row(NAME, f"join and compare, {case}", "s", found["seconds"], at_most=120, note=note),
        Row(NAME, "the same, peak memory", "GB", found["gb"], at_most=8),
    ]


def write_cohort(folder: Path) -> int:
    """Write a long table and participants of random numbers; returns the rows."""
    schema, rng = arrow_schema(), np.random.default_rng(1)
    places = [(f"region_{i:02d}", side, level) for i in range(REGIONS) for level in LEVELS for side in SIDES]
    measures = [(*place, *what) for place in places for what in product(METRICS, STATISTICS)]
    names = ("region", "side", "level", "metric", "statistic")
    identity = {name: [measure[i] for measure in measures] for i, name in enumerate(names)}
    with pq.ParquetWriter(folder / "segments.parquet", schema, compression="zstd") as writer:
        for first in range(0, PARTICIPANTS, _AT_ONCE):
            n = _AT_ONCE * len(measures)
            who = [f"sub-{i:05d}" for i in range(first, first + _AT_ONCE) for _ in measures]
            columns: dict[str, Any] = {name: texts * _AT_ONCE for name, texts in identity.items()}
            columns |= {"participant_id": who, "unit": ["1"] * n, "qc_status": ["pass"] * n}
            columns |= {name: rng.normal(0.4, 0.05, n) for name in ("value", "se", "snr")}
            columns |= {"n_voxels": np.full(n, 40)}
            arrays = [pa.array(columns.get(f.name, pa.nulls(n)), f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    lines = [f"sub-{i:05d}\t{'patient' if i % 3 else 'control'}\t{20 + i % 60}" for i in range(PARTICIPANTS)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tdiagnosis\tage", *lines]) + "\n")
    return PARTICIPANTS * len(measures)


def run(folder: Path) -> None:
    """Run the step on the cohort; prints the seconds, the peak of memory and the number of results."""
    import resource

    from somite.analysis.compare import Config
    from somite.analysis.model import Cohort, Select
    from somite.interfaces import analyse
    from somite.registry import Context

    config = Config(
        name="all", group="diagnosis", groups=("patient", "control"), select=Select(statistic=("*",))
    )
    definitions = folder / "definitions.json"
    definitions.write_text(analyse.definition("all", {"all": config}, Cohort()))
    out = folder / "out"
    out.mkdir()
    context = Context(out)
    begin = time.perf_counter()
    analyse.run(
        definitions, folder / "segments.parquet", (folder / "participants.tsv",), analyse.Config(), context
    )
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"seconds": seconds, "gb": peak, "results": int(context.numbers["rows"])}))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
