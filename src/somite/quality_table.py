"""The table of quality numbers: what is measured, in which columns, and how a number is judged.

Does not know how a number is found, nor where a limit comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail", ""]


@dataclass(frozen=True)
class Metric:
    """A quality number."""

    long_name: str
    description: str
    unit: str
    worse: Literal["lower", "higher"]


METRICS: Mapping[str, Metric] = {
    "snr_b0": Metric(
        "Signal-to-noise ratio at b=0",
        "Median over the mask of the mean corrected b=0 signal over the standard deviation of the noise",
        "1",
        "lower",
    ),
    "snr_b0_repeated": Metric(
        "Signal-to-noise ratio of repeated b=0 volumes",
        "Median over the mask of the mean over the standard deviation of the corrected b=0 volumes, the bias "
        "of few volumes taken off; after denoising it is above snr_b0, with motion left over below",
        "1",
        "lower",
    ),
    "snr_shell": Metric(
        "Signal-to-noise ratio of a shell",
        "Median over the mask of the mean corrected signal of the shell over the standard deviation of the "
        "noise; magnitudes do not fall below 1.25",
        "1",
        "lower",
    ),
    "cnr_shell": Metric(
        "Contrast-to-noise ratio of a shell",
        "Median over the mask of the standard deviation over the directions of the shell of the signal that "
        "the tensor predicts, over that of the noise; after Bastiani et al., NeuroImage 184 (2019) 801",
        "1",
        "lower",
    ),
    "motion_absolute_mean_mm": Metric(
        "Mean absolute motion",
        "Mean over the volumes of their mean displacement from the first b=0 volume",
        "mm",
        "higher",
    ),
    "motion_absolute_max_mm": Metric(
        "Largest absolute motion",
        "Largest mean displacement of a volume from the first b=0 volume",
        "mm",
        "higher",
    ),
    "motion_relative_mean_mm": Metric(
        "Mean relative motion",
        "Mean over the volumes of the mean displacement over the mask since the volume before",
        "mm",
        "higher",
    ),
    "motion_relative_max_mm": Metric(
        "Largest relative motion",
        "Largest mean displacement over the mask between two volumes that follow each other",
        "mm",
        "higher",
    ),
    "eddy_rms_mm": Metric(
        "Eddy-current distortion",
        "Root mean square over the weighted volumes and the mask of the displacement by eddy currents",
        "mm",
        "higher",
    ),
    "outlier_slices_percent": Metric(
        "Outlier slices",
        "Slices that lost signal against their prediction, of all slices of all volumes that cross the mask",
        "%",
        "higher",
    ),
    "residual_percent": Metric(
        "Residual of the tensor fit",
        "Median over the mask of the root mean square residual over the volumes fitted, of the fitted S0",
        "%",
        "higher",
    ),
    "nonpositive_percent": Metric(
        "Voxels with an eigenvalue that is not positive",
        "Of the voxels of the mask: noise, motion and artefacts make them",
        "%",
        "higher",
    ),
    "ndc_raw": Metric(
        "Neighbouring DWI correlation before correction",
        "Mean over the weighted volumes as loaded of the correlation over the mask with the volume nearest "
        "in q-space; Yeh et al., NeuroImage 202 (2019) 116131",
        "1",
        "lower",
    ),
    "ndc_corrected": Metric(
        "Neighbouring DWI correlation after correction",
        "The same of the corrected volumes, with the same pairs",
        "1",
        "lower",
    ),
    "mask_volume_ml": Metric("Volume of the mask", "Where the tensor was fitted", "ml", "lower"),
}
"""In the order of the table. The name is that of the options that limit it, before `_warn` and `_fail`."""


@dataclass(frozen=True)
class Number:
    """A quality number of a session."""

    metric: str
    value: float
    """NaN where there is none."""
    shell: int | None = None
    """b-value in s/mm2 where the metric has one value per shell."""
    reason: str = ""
    """Why there is no value."""

    @property
    def name(self) -> str:
        """`snr_b0`, `snr_shell_b1000`."""
        return self.metric + (f"_b{self.shell}" if self.shell is not None else "")

    def judge(self, warn: float | None, fail: float | None) -> tuple[Verdict, str]:
        """The verdict by two limits, with its reason; both empty where there is nothing to judge by."""
        metric = METRICS[self.metric]
        if math.isnan(self.value):
            return "", self.reason
        if warn is None and fail is None:
            return "", ""
        about = metric.long_name + (f", b={self.shell} s/mm2" if self.shell is not None else "")
        unit = "" if metric.unit == "1" else f" {metric.unit}"
        limits: tuple[tuple[Verdict, float | None], ...] = (("fail", fail), ("warn", warn))
        for verdict, limit in limits:
            if limit is None:
                continue
            if self.value < limit if metric.worse == "lower" else self.value > limit:
                side = "below" if metric.worse == "lower" else "above"
                return verdict, f"{about}: {self.value:.3g}{unit}, {side} {limit:g}{unit}"
        return "pass", ""


COLUMNS: Mapping[str, tuple[str, str, str]] = {
    "participant_id": ("Participant", "As in participants.tsv", ""),
    "session_id": ("Session", "n/a where the participant has one session without a name", ""),
    "run": ("Scan", "Scan or group of scans within the session; n/a where there is one", ""),
    "protocol": ("Protocol", "Name of the protocol in the configuration", ""),
    "metric": ("Quality number", "What was measured; overall: the worst verdict of the session", ""),
    "b_s_per_mm2": ("b-value", "Of the shell; n/a for a number of the whole series", "s/mm2"),
    "value": ("Value", "n/a where it cannot be given: the column reason says why", "see the column unit"),
    "unit": ("Unit", "Unit of value, warn and fail", ""),
    "warn": ("Limit of the warning", "n/a where there is none", "see the column unit"),
    "fail": ("Limit of the failure", "n/a where there is none", "see the column unit"),
    "verdict": ("Verdict", "pass, warn or fail; n/a where there is no value or no limit", ""),
    "reason": ("Reason", "Why it is not passed, or why there is no value", ""),
    "pipeline_version": ("Version", "Version of Somite", ""),
}
"""Name of each column of the table -> its long name, description and units."""


def dictionary() -> dict[str, dict[str, Any]]:
    """The table's data dictionary in the style of BIDS: column -> LongName, Description, Units, Levels."""
    entries: dict[str, dict[str, Any]] = {}
    for name, (long_name, description, units) in COLUMNS.items():
        entries[name] = {"LongName": long_name, "Description": description}
        if units:
            entries[name]["Units"] = units
    entries["metric"]["Levels"] = {
        name: f"{metric.long_name}, {metric.unit}: {metric.description}; {metric.worse} is worse"
        for name, metric in METRICS.items()
    }
    return entries
