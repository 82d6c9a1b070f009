"""Step `qc`: a table of quality numbers of a session, each with its limits, a verdict and the reason.

Does not stop a session and does not change an image. The limits come from the configuration; where there is
none, the number is given and not judged.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from somite import __version__, quality
from somite.errors import Problem
from somite.gradient_check import B0_MAX
from somite.gradients import Gradients, read_fsl
from somite.images import Grid, read_float
from somite.interfaces.roi import shells
from somite.quality import Float, Series
from somite.quality_table import COLUMNS, METRICS, Number, dictionary
from somite.registration import region_of
from somite.registry import Bval, Bvec, Context, Dwi, Mask, StepConfig, step
from somite.segments import NA, field_text


def _limit(default: float | None, words: str) -> Any:
    return Field(default, ge=0, description=f"{words}; null: not judged")


class Config(StepConfig):
    """Limits of `qc`. Where no source is given they are by design, for a person to set per protocol."""

    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    # 20: Mukherjee et al., AJNR 29 (2008) 843.
    snr_b0_warn: float | None = _limit(20.0, "Warn where the SNR at b=0 is lower")
    snr_b0_fail: float | None = _limit(10.0, "Fail where the SNR at b=0 is lower")
    snr_b0_repeated_warn: float | None = _limit(None, "Warn where the SNR of repeated b=0 volumes is lower")
    snr_b0_repeated_fail: float | None = _limit(None, "Fail where the SNR of repeated b=0 volumes is lower")
    # 3: below, the noise floor of magnitudes bends the signal (Jones and Basser, MRM 52 (2004) 979).
    snr_shell_warn: float | None = _limit(3.0, "Warn where the SNR of a shell is lower")
    snr_shell_fail: float | None = _limit(None, "Fail where the SNR of a shell is lower")
    cnr_shell_warn: float | None = _limit(None, "Warn where the CNR of a shell is lower")
    cnr_shell_fail: float | None = _limit(None, "Fail where the CNR of a shell is lower")
    motion_absolute_mean_mm_warn: float | None = _limit(3.0, "Warn where the mean motion is more, mm")
    motion_absolute_mean_mm_fail: float | None = _limit(None, "Fail where the mean motion is more, mm")
    motion_absolute_max_mm_warn: float | None = _limit(None, "Warn where the largest motion is more, mm")
    motion_absolute_max_mm_fail: float | None = _limit(None, "Fail where the largest motion is more, mm")
    motion_relative_mean_mm_warn: float | None = _limit(
        1.0, "Warn where the mean motion between volumes is more, mm"
    )
    motion_relative_mean_mm_fail: float | None = _limit(
        3.0, "Fail where the mean motion between volumes is more, mm"
    )
    motion_relative_max_mm_warn: float | None = _limit(
        None, "Warn where the largest motion between volumes is more, mm"
    )
    motion_relative_max_mm_fail: float | None = _limit(
        None, "Fail where the largest motion between volumes is more, mm"
    )
    eddy_rms_mm_warn: float | None = _limit(None, "Warn where the eddy-current distortion is more, mm")
    eddy_rms_mm_fail: float | None = _limit(None, "Fail where the eddy-current distortion is more, mm")
    outlier_slices_percent_warn: float | None = _limit(2.0, "Warn where more slices are outliers, %")
    outlier_slices_percent_fail: float | None = _limit(10.0, "Fail where more slices are outliers, %")
    residual_percent_warn: float | None = _limit(None, "Warn where the residual is more, % of S0")
    residual_percent_fail: float | None = _limit(None, "Fail where the residual is more, % of S0")
    nonpositive_percent_warn: float | None = _limit(
        5.0, "Warn where more voxels have an eigenvalue that is not positive, %"
    )
    nonpositive_percent_fail: float | None = _limit(
        None, "Fail where more voxels have an eigenvalue that is not positive, %"
    )
    ndc_raw_warn: float | None = _limit(None, "Warn where the correlation before correction is lower")
    ndc_raw_fail: float | None = _limit(None, "Fail where the correlation before correction is lower")
    ndc_corrected_warn: float | None = _limit(None, "Warn where the correlation after correction is lower")
    ndc_corrected_fail: float | None = _limit(None, "Fail where the correlation after correction is lower")
    mask_volume_ml_warn: float | None = _limit(None, "Warn where the mask is smaller, ml")
    mask_volume_ml_fail: float | None = _limit(None, "Fail where the mask is smaller, ml")

    def limits(self, metric: str) -> tuple[float | None, float | None]:
        """Where the warning and where the failure of a metric begin."""
        return getattr(self, f"{metric}_warn"), getattr(self, f"{metric}_fail")

    @model_validator(mode="after")
    def _a_failure_is_worse_than_a_warning(self) -> Self:
        for name, metric in METRICS.items():
            warn, fail = self.limits(name)
            if warn is None or fail is None:
                continue
            if fail > warn if metric.worse == "lower" else fail < warn:
                raise ValueError(
                    f"{name}_fail is {fail:g}, {name}_warn is {warn:g}: {metric.worse} is worse, so that "
                    "nothing would ever be warned of"
                )
        return self


def signal_numbers(
    corrected: Series,
    sigma: Float,
    gradients: Gradients,
    is_b0: NDArray[np.bool_],
    spread: Mapping[int, Float],
) -> Iterator[Number]:
    """SNR at b=0, of repeated b=0 and of each shell, and CNR of each shell.

    Args:
        corrected: n volumes, m voxels.
        sigma: (m,) standard deviation of the noise.
        gradients: of the volumes.
        is_b0: (n,).
        spread: shell -> standard deviation (m,) of its predicted signal; of more than one volume only.
    """
    b0 = np.flatnonzero(is_b0)
    mean = corrected.mean(b0)
    words = "the noise is 0" if len(b0) else "no volume of b=0"
    yield _number("snr_b0", quality.median_ratio(mean, sigma) if len(b0) else math.nan, words)
    if len(b0) > 1:
        repeated = quality.repeated_snr(mean, corrected.deviation(b0), len(b0))
        yield _number("snr_b0_repeated", repeated, "the volumes of b=0 are all the same")
    else:
        yield Number("snr_b0_repeated", math.nan, reason="fewer than two volumes of b=0")
    for b, volumes in _shells(gradients, is_b0).items():
        ratio = quality.median_ratio(corrected.mean(volumes), sigma)
        yield _number("snr_shell", ratio, "the noise is 0", b)
    for b, volumes in _shells(gradients, is_b0).items():
        ratio = quality.median_ratio(spread[b], sigma) if b in spread else np.nan
        words = "the noise is 0" if len(volumes) > 1 else "a shell of one volume"
        yield _number("cnr_shell", ratio, words, b)


def _shells(gradients: Gradients, is_b0: NDArray[np.bool_]) -> dict[int, NDArray[np.intp]]:
    return quality.shells(shells(gradients.bvals[~is_b0]), gradients.bvals, is_b0)


def _number(metric: str, value: float, reason: str, shell: int | None = None) -> Number:
    return Number(metric, value, shell, reason if math.isnan(value) else "")


Columns = Mapping[str, Float]
"""Column of a table -> its numbers, (rows,)."""


def motion_numbers(motion: Columns, mask: NDArray[np.bool_], grid: Grid) -> Iterator[Number]:
    """Absolute and relative motion from the motion table."""
    shifts, turns = (
        np.column_stack([motion[f"{kind}_{axis}_{unit}"] for axis in "xyz"])
        for kind, unit in (("trans", "mm"), ("rot", "deg"))
    )
    absolute = motion["displacement_mm"]
    relative = quality.relative_displacements(shifts, turns, region_of(mask, grid))
    reason = "" if len(relative) else "a single volume"
    if not (shifts.any() or turns.any() or absolute.any()):
        reason = "no motion was estimated"
    for kind, values in (("absolute", absolute), ("relative", relative)):
        mean, most = (math.nan, math.nan) if reason else (float(values.mean()), float(values.max()))
        yield _number(f"motion_{kind}_mean_mm", mean, reason)
        yield _number(f"motion_{kind}_max_mm", most, reason)


def distortion_numbers(distortion: Columns, motion: Columns, is_b0: NDArray[np.bool_]) -> Iterator[Number]:
    """Eddy-current distortion, and the fraction of slices that lost signal of those that were looked at."""
    rms = distortion.get("rms_mm", np.zeros(0))
    weighted = rms[~is_b0] if len(rms) == len(is_b0) else np.zeros(0)
    estimated = bool(weighted.any())
    value = float(np.sqrt((weighted**2).mean())) if estimated else math.nan
    yield _number("eddy_rms_mm", value, "no eddy currents were estimated")
    lost, seen = (np.nansum(motion[name]) for name in ("lost_slices", "slices"))
    percent = 100 * float(lost / seen) if seen else math.nan
    yield _number("outlier_slices_percent", percent, "no outliers were looked for")


def read_columns(path: Path | None) -> Columns:
    """The numbers of a TSV by column, `n/a` as NaN; none without a file."""
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        rows = list(reader)
    return {
        name: np.array([math.nan if row[name] == NA else float(row[name]) for row in rows])
        for name in reader.fieldnames or ()
    }


def write_table(
    path: Path, numbers: Sequence[Number], session: dict[str, str], config: Config, context: Context
) -> Path:
    """Write the table, with the overall verdict in the last row; tell `context` what is not passed."""
    lines, reasons = ["\t".join(COLUMNS)], {"fail": list[str](), "warn": list[str]()}
    for number in numbers:
        verdict, reason = number.judge(*config.limits(number.metric))
        if verdict in reasons:
            reasons[verdict].append(reason)
        warn, fail = config.limits(number.metric)
        row: dict[str, object] = {
            "metric": number.metric,
            "b_s_per_mm2": number.shell,
            "value": number.value,
            "unit": METRICS[number.metric].unit,
            "warn": warn,
            "fail": fail,
            "verdict": verdict,
            "reason": reason,
        }
        lines.append("\t".join(field_text({**session, **row}.get(name)) for name in COLUMNS))
        if not math.isnan(number.value):
            context.numbers[number.name] = number.value
    worst = "fail" if reasons["fail"] else "warn" if reasons["warn"] else "pass"
    said = "; ".join([*reasons["fail"], *reasons["warn"]])
    overall = session | {"metric": "overall", "verdict": worst, "reason": said}
    lines.append("\t".join(field_text(overall.get(name)) for name in COLUMNS))
    for code, verdict in (("QC_FAIL", "fail"), ("QC_WARN", "warn")):
        context.numbers[f"{code.lower()}_count"] = float(len(reasons[verdict]))
        if reasons[verdict]:
            context.warn(_beyond(code, reasons[verdict], path))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def _beyond(code: str, reasons: list[str], path: Path) -> Problem:
    return Problem(
        code,
        "quality numbers are beyond their limits",
        where=path.name,
        found="; ".join(reasons),
        do="look at the images before using the session; the limits stand in the section qc of the YAML",
        severity="warning",
    )


Table = Annotated[Path, "Table of the correction, TSV: a row per volume"]
Map = Annotated[Path, "Map on the grid of the DWI, NIfTI"]


@step(
    makes={
        "qc": "Quality numbers of the session with limits, verdicts and reasons, TSV",
        "qc_dictionary": "Columns and metrics of the table, JSON",
    },
    dwi_copies=0.5,  # the two series are memory-mapped
)
def run(
    dwi_loaded: Dwi,
    dwi_corrected: Dwi,
    bval: Bval,
    bvec: Bvec,
    noise_sigma: Map,
    mask: Mask,
    motion: Table,
    tensor: Map,
    s0: Map,
    residual: Map,
    nonpositive: Map,
    config: Config,
    context: Context,
    distortion: Table | None = None,
    bias_field: Map | None = None,
    identity: Annotated[Path, "Whose scan it is, JSON: columns of the table"] | None = None,
) -> tuple[Path, Path]:
    """Gather the quality numbers of a session and judge them."""
    data, grid = read_float(dwi_corrected)
    inside = read_float(mask)[0].reshape(grid.shape) > 0
    gradients = read_fsl(bval, bvec, grid.affine)
    is_b0 = gradients.is_b0(config.b0_max_s_per_mm2)

    def at(path: Path) -> Float:
        return Series(read_float(path)[0].reshape((*grid.shape, -1)), inside).volume(0)

    elements = Series(read_float(tensor)[0], inside)
    six = np.stack([elements.volume(i) for i in range(6)])
    # The fit may be of the series without its bias field, the noise is that of the series with it.
    scale = at(s0) if bias_field is None else at(s0) * at(bias_field)
    spread = {
        b: quality.predicted_deviation(six, scale, gradients, volumes)
        for b, volumes in _shells(gradients, is_b0).items()
        if len(volumes) > 1
    }
    corrected, loaded = Series(data, inside), Series(read_float(dwi_loaded)[0], inside)
    pairs, moved = quality.neighbours(gradients, is_b0), read_columns(motion)
    numbers = [
        *signal_numbers(corrected, at(noise_sigma), gradients, is_b0, spread),
        *motion_numbers(moved, inside, grid),
        *distortion_numbers(read_columns(distortion), moved, is_b0),
        Number("residual_percent", 100 * float(np.median(at(residual)))),
        Number("nonpositive_percent", 100 * float(at(nonpositive).mean())),
        _number("ndc_raw", quality.neighbour_correlation(loaded, pairs), "fewer than two weighted volumes"),
        _number(
            "ndc_corrected",
            quality.neighbour_correlation(corrected, pairs),
            "fewer than two weighted volumes",
        ),
        Number("mask_volume_ml", float(inside.sum()) * grid.voxel_mm3 / 1000),
    ]
    given = {} if identity is None else json.loads(identity.read_text(encoding="utf-8"))
    session = {name: given.get(name, "") for name in COLUMNS} | {"pipeline_version": __version__}
    words = context.folder / "qc_dictionary.json"
    words.write_text(json.dumps(dictionary(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return write_table(context.folder / "qc.tsv", numbers, session, config, context), words
