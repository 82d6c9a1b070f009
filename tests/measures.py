"""Measures of people, made in the tests of the analyses, and the real profiles of the MS cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from somite.analysis.results import Result
from somite.analysis.selection import Selected


def people(values: Sequence[float] | np.ndarray, **columns: object) -> Selected:
    """One row per person."""
    names = [f"sub-{i:03}" for i in range(len(values))]
    return Selected.of(pd.DataFrame({"participant_id": names, "value": values, **columns}), region="CST")


def repeats(values: np.ndarray, factor: str, names: Sequence[str], **columns: Sequence[object]) -> Selected:
    """Values (n, k) of n people and k values of a factor; columns have one value per person."""
    rows = [
        {"participant_id": f"sub-{i:03}", factor: names[j], "value": values[i, j]}
        | {name: column[i] for name, column in columns.items()}
        for i in range(values.shape[0])
        for j in range(values.shape[1])
        if np.isfinite(values[i, j])
    ]
    frame = pd.DataFrame(rows, columns=["participant_id", factor, "value", *columns])
    return Selected.of(frame, region="CST", **{factor: "*"})


def ms_cohort(real_data: Path) -> pd.DataFrame:
    """FA along two tracts: a row per visit, `cca` the mean along the callosum of the nodes that are there."""
    table = pd.read_csv(real_data / "tables" / "ms_tract_fa.csv")
    more = {
        "participant_id": table["ID"].astype(int).astype(str),
        "session_id": table["visit"].astype(str),
        "group": np.where(table["case"] == 1, "MS", "control"),
        "years": table["visit.time"] / 365.25,
        "cca": table.filter(like="cca_").mean(axis=1),
    }
    return pd.concat([table, pd.DataFrame(more)], axis=1)


def by_contrast(rows: Sequence[Result]) -> Mapping[str, Result]:
    """Rows by their contrast."""
    return {row.contrast: row for row in rows}


def complete(rows: Sequence[Result]) -> None:
    """No number is absent without a word: every row has an estimate, or the reason why not."""
    for row in rows:
        assert np.isfinite(row.estimate) != bool(row.reason), row
        if np.isfinite(row.estimate):
            assert np.isfinite(row.p) or row.test == "none", row
            assert (
                np.isfinite([row.ci_low, row.ci_high]).all() or not row.ci_method or "none" in row.ci_method
            )
