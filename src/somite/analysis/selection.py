"""A measure: what an analysis knows of one segment, metric and statistic. `choose.select` makes them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

IDENTITY = ("metric", "statistic", "region", "side", "level", "segment")
"""The columns that name a measure."""
MANY = "*"
"""In an identity: several values, which vary in the frame."""
FRAME = (
    "participant_id",
    "session_id",
    "run",
    "site",
    "rater",
    "region",
    "side",
    "level",
    "segment",
    "value",
    "se",
    "n_voxels",
    "snr",
)
"""The columns that every frame has, before the clinical ones that the analysis requires."""


@dataclass(frozen=True, eq=False)
class Selected:
    """One measure after selection: all that an analysis may know of it."""

    metric: str
    statistic: str
    region: str
    side: str
    level: str
    segment: str
    frame: pd.DataFrame
    """Columns `FRAME`, then those of the analysis's requirements and covariates. Rows are sorted by
    participant_id, session_id, run, region, side, level, segment, rater; one row per participant and value
    of `within()`. Neither `value` nor a required column is missing in any row: who lacks one was left out
    before and is in `left_out`. `se`, `n_voxels` and `snr` may be NaN. Columns that hold only numbers are
    float64, others text. The frame may be empty."""
    unit: str = "1"
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> how many participants were left out of this measure for it, wholly or with some rows."""
    warnings: tuple[str, ...] = ()
    """What to mind; `Result.of` writes them into the row."""
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reason -> who was left out of this measure for it."""

    @classmethod
    def of(cls, frame: pd.DataFrame, metric: str = "fa", statistic: str = "mean", **names: str) -> Selected:
        """A measure of a frame that has at least participant_id and value, for tests and notebooks.

        Columns of `FRAME` that are not there are added: "" for text, NaN for numbers.
        """
        numbers = ("value", "se", "n_voxels", "snr")
        absent = {name: (np.nan if name in numbers else "") for name in FRAME if name not in frame}
        whole = frame.assign(**absent)
        order = [*FRAME, *(name for name in frame if name not in FRAME)]
        region, side, level, segment = (names.get(name, "") for name in IDENTITY[2:])
        rows = whole[order].reset_index(drop=True)
        return cls(metric, statistic, region, side, level, segment, rows)

    @property
    def identity(self) -> dict[str, str]:
        """Its name, by column."""
        return {name: getattr(self, name) for name in IDENTITY}

    @property
    def place(self) -> str:
        """Region, side, level and segment in words: `nerve_root L L5 foraminal_drg`."""
        return " ".join(part for part in (self.region, self.side, self.level, self.segment) if part)

    @property
    def name(self) -> str:
        """Place and metric in words, the statistic where it is not the mean: `nerve_root L L5 fa`."""
        return " ".join([self.place, self.metric, *([self.statistic] if self.statistic != "mean" else [])])

    @property
    def n(self) -> int:
        """Participants in the frame."""
        return int(self.frame["participant_id"].nunique())

    def random(self, seed: int) -> np.random.Generator:
        """Random numbers of this measure: the same whatever other measures the analysis has."""
        return np.random.default_rng([seed, zlib.crc32("\t".join(self.identity.values()).encode())])
