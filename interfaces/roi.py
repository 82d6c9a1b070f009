"""Measure segments: one row per segment, metric and statistic, and a reason where there is no value.

Weighting, partial volume, erosion and profiles along a segment are not looked at here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from somite import __version__, estimates, images
from somite.errors import DatasetError, Problem
from somite.estimates import Estimate, Vector
from somite.registry import Bval, Context, Labels, LabelTable, Mask, StepConfig, step
from somite.segments import (
    METRICS,
    MetricName,
    Segment,
    SegmentGroup,
    StatisticName,
    by_segment,
    expand,
    read_label_table,
    write_table,
)

Row = dict[str, object]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Config(StepConfig):
    """What to measure, and what makes a segment doubtful."""

    segments: tuple[SegmentGroup, ...] | Literal["all"] = "all"
    """Segments that the table shall hold, measured or not; `all`: those of the label table."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = get_args(MetricName)
    """Metrics, in the order of the rows."""
    statistics: Annotated[tuple[StatisticName, ...], Field(min_length=1)] = get_args(StatisticName)
    """Statistics, in the order of the rows; `fa_of_mean_eigenvalues` has only its `mean`, and always."""
    min_voxels: int = Field(3, ge=1)
    """Voxels with a tensor fit below which a segment is not measured."""
    no_fit_warn_fraction: Fraction = 0.0
    """Fraction of a segment's voxels without a fit above which it is marked `warn`."""
    no_fit_fail_fraction: Fraction = 0.5
    """Fraction of a segment's voxels without a fit above which it is marked `fail`."""
    nonpositive_warn_fraction: Fraction = 0.05
    """Fraction of the fitted voxels with an eigenvalue not positive above which it is marked `warn`."""
    nonpositive_fail_fraction: Fraction = 0.5
    """Fraction of the fitted voxels with an eigenvalue not positive above which it is marked `fail`."""
    snr_warn: float = Field(0.0, ge=0)
    """Mean SNR at b=0 below which a segment is marked `warn`; 0: no limit."""
    snr_fail: float = Field(0.0, ge=0)
    """Mean SNR at b=0 below which a segment is marked `fail`; 0: no limit."""

    @field_validator("metrics", "statistics")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"given twice: {', '.join(twice)}")
        return names


_MAPS = ("fa", "md", "ad", "rd", "s0", "residual")
_ESTIMATES = {"mean": estimates.mean, "sd": estimates.sd, "median": estimates.median, "iqr": estimates.iqr}


def pairs(config: Config) -> Iterator[tuple[MetricName, StatisticName]]:
    """Metric and statistic of each row of a segment."""
    for metric in config.metrics:
        own = METRICS[metric].statistics
        for statistic in own if len(own) == 1 else config.statistics:
            yield metric, statistic


def estimate(voxels: Mapping[str, Vector], metric: MetricName, statistic: StatisticName) -> Estimate:
    """One statistic of ascending values `voxels[metric]` (n,), or of `voxels["eigenvalues"]` (n, 3)."""
    if metric == "fa_of_mean_eigenvalues":
        return estimates.fa_of_mean_eigenvalues(voxels["eigenvalues"])
    return _ESTIMATES[statistic](voxels[metric])


def fitted(voxels: Mapping[str, Vector]) -> NDArray[np.bool_]:
    """Which voxels (n,) have a tensor fit: inside the mask, every map finite, not all eigenvalues 0."""
    eigenvalues = voxels["eigenvalues"]
    fit = (voxels["mask"] > 0) & eigenvalues.any(1) & np.isfinite(eigenvalues).all(1)
    for name in _MAPS:
        fit &= np.isfinite(voxels[name])
    return fit


def snr_of(voxels: Mapping[str, Vector]) -> float:
    """Mean of the b=0 signal over the noise's standard deviation, where that is known; NaN where nowhere.

    The fit may be of the series without its bias field, the noise is that of the series with it.
    """
    s0, sigma = voxels["s0"] * voxels.get("bias_field", 1.0), voxels["noise_sigma"]
    known = np.isfinite(sigma) & (sigma > 0)
    return float(np.sort(s0[known] / sigma[known]).mean()) if known.any() else math.nan


def verdict(no_fit: float, nonpositive: float, snr: float, config: Config) -> tuple[str, str]:
    """`qc_status` and `qc_flags` of a measured segment, from two fractions and the SNR."""
    low_snr = not snr >= max(config.snr_warn, config.snr_fail) and config.snr_warn + config.snr_fail > 0
    flags = [
        f"no_fit={no_fit:.3g}" if no_fit > 0 else "",
        f"nonpositive={nonpositive:.3g}" if nonpositive > 0 else "",
        ("no_snr" if math.isnan(snr) else "low_snr") if low_snr else "",
    ]
    fail = (
        no_fit > config.no_fit_fail_fraction
        or nonpositive > config.nonpositive_fail_fraction
        or snr < config.snr_fail
    )
    warn = no_fit > config.no_fit_warn_fraction or nonpositive > config.nonpositive_warn_fraction or low_snr
    return "fail" if fail else "warn" if warn else "pass", ";".join(flag for flag in flags if flag)


def measure(voxels: Mapping[str, Vector], config: Config, reason: str = "") -> list[Row]:
    """The rows of one segment: the columns metric to n_voxels, snr, and qc_status to reason.

    Args:
        voxels: every voxel of the segment, in any order, in the units of the maps: fa, md, ad, rd, s0,
            residual, nonpositive, noise_sigma, mask, bias_field if any (n,), eigenvalues (n, 3) in mm2/s.
        config: what to measure, and the limits.
        reason: why the segment has no voxel, where it has none.
    """
    fit = fitted(voxels)
    n, n_all = int(fit.sum()), fit.size
    if not reason and n < config.min_voxels:
        reason = f"{n} of {n_all} voxels have a tensor fit, min_voxels is {config.min_voxels}"
    if reason:
        common: Row = {"n_voxels": n} | _not_measured(reason)
        return [
            {"metric": metric, "statistic": statistic, "unit": METRICS[metric].unit, **common}
            for metric, statistic in pairs(config)
        ]
    kept = {name: values[fit] for name, values in voxels.items()}
    snr = snr_of(kept)
    status, flags = verdict((n_all - n) / n_all, float((kept["nonpositive"] > 0).mean()), snr, config)
    common = {"n_voxels": n, "snr": snr, "qc_status": status, "qc_flags": flags}
    # Ascending: what the order statistics want, and a sum that does not depend on the order of the voxels.
    ordered = {name: values if name == "eigenvalues" else np.sort(values) for name, values in kept.items()}
    return [
        common | _row(metric, statistic, estimate(ordered, metric, statistic), n)
        for metric, statistic in pairs(config)
    ]


def _row(metric: MetricName, statistic: StatisticName, found: Estimate, n: int) -> Row:
    scale, unit = METRICS[metric].scale, METRICS[metric].unit
    if math.isnan(found.value):
        reason = f"{statistic} is not defined for {n} voxel"
        return {"metric": metric, "statistic": statistic, "unit": unit} | _not_measured(reason)
    return {
        "metric": metric,
        "statistic": statistic,
        "value": found.value * scale,
        "se": found.se * scale,
        "ci_low": found.ci_low * scale,
        "ci_high": found.ci_high * scale,
        "unit": unit,
    }


def _not_measured(reason: str) -> Row:
    return {"qc_status": "fail", "qc_flags": "not_measured", "reason": reason}


def locate(labels: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Where the labelled voxels lie (n,), as indices in Fortran order, and their labels (n,), ascending."""
    flat = np.reshape(labels, -1, order="F")
    where = np.flatnonzero(flat)
    order = np.argsort(flat[where], kind="stable")
    return where[order], flat[where[order]]


def positions(values: NDArray[np.int32], indices: Iterable[int]) -> NDArray[np.intp]:
    """Where ascending `values` (n,) are one of `indices`."""
    spans = [np.searchsorted(values, (index, index + 1)) for index in indices]
    return np.concatenate([np.arange(0), *(np.arange(first, end) for first, end in spans)])


def shells(bvals: Vector) -> list[int]:
    """The shells of b-values (n,) in s/mm2, ascending: medians of groups more than 50 apart, to 5 s/mm2.

    b-values up to 50 count as 0.
    """
    ascending = np.sort(np.where(bvals <= 50, 0, bvals))
    groups = np.split(ascending, np.flatnonzero(np.diff(ascending) > 50) + 1)
    return [5 * round(float(np.median(group)) / 5) for group in groups if group.size]


@dataclass(frozen=True)
class Expected:
    """A segment that the table shall hold: the labels that carry it, or why there is none."""

    segment: Segment
    indices: tuple[int, ...] = ()
    reason: str = ""


def expected_segments(
    config: Config, table: Mapping[Segment, tuple[int, ...]] | None, *, has_image: bool
) -> list[Expected]:
    """The segments of the rows, in order: those of the configuration, or all of the label table.

    Args:
        config: the segments expected.
        table: segment -> its labels; None where there is no label table.
        has_image: whether there is a label image.
    """
    named = table or {}
    segments = tuple(named) if config.segments == "all" else expand(config.segments)
    if not has_image:
        return [Expected(segment, reason="no label image") for segment in segments]
    no_label = "no label of this segment in the label table"
    return [
        Expected(segment, named[segment]) if segment in named else Expected(segment, reason=no_label)
        for segment in segments
    ]


def nothing(*, has_image: bool) -> Row:
    """The one row of a session for which no segment can be named."""
    reason = "the label table names no label" if has_image else "no label image and no label table"
    return _not_measured(reason)


_IDENTITY = (
    "participant_id",
    "session_id",
    "run",
    "site",
    "protocol",
    "rater",
    "roi_source",
    "model",
    "pipeline_version",
)
Map = Annotated[Path, "Map of the tensor fit, NIfTI on the grid of the labels; diffusivities in mm2/s"]


@step(makes={"segments": "Segments: a row per segment, metric and statistic, TSV"}, dwi_copies=1.0)
def run(
    *,
    fa: Map,
    md: Map,
    ad: Map,
    rd: Map,
    s0: Map,
    eigenvalues: Annotated[Path, "Eigenvalues in mm2/s, 4D NIfTI of 3 volumes, descending"],
    residual: Map,
    nonpositive: Annotated[Path, "Voxels with an eigenvalue that is not positive, 3D NIfTI, 1 inside"],
    noise_sigma: Annotated[Path, "Standard deviation of the noise, 3D NIfTI"],
    mask: Mask,
    bval: Bval,
    labels_dwi: Labels | None = None,
    label_table: LabelTable | None = None,
    bias_field: Annotated[Path, "Bias field that the series was divided by, 3D NIfTI"] | None = None,
    identity: Annotated[Path, "Whose scan it is, JSON: columns of the table"] | None = None,
    config: Config,
    context: Context,
) -> Path:
    """Measure every expected segment.

    Raises:
        DatasetError: `LABEL_TABLE` (see `read_label_table`), also for a label image without a table;
            `LABEL_NOT_INTEGER`; `LABEL_GRID` and `IMAGE_GRID`, a label image or a map that does not lie on
            the grid of the FA map.
    """
    maps = {
        "fa": fa,
        "md": md,
        "ad": ad,
        "rd": rd,
        "s0": s0,
        "residual": residual,
        "eigenvalues": eigenvalues,
    }
    maps |= {"nonpositive": nonpositive, "noise_sigma": noise_sigma, "mask": mask}
    maps |= {} if bias_field is None else {"bias_field": bias_field}
    table = None if label_table is None else by_segment(read_label_table(label_table))
    if labels_dwi is not None and table is None:
        raise DatasetError(_no_table(labels_dwi))
    grid = images.grid_of(images.open_image(fa))
    where, values = _read_located(labels_dwi, grid)
    voxels = {name: _read_at(path, where, grid) for name, path in maps.items()}
    expected = expected_segments(config, table, has_image=labels_dwi is not None)
    rows = [] if expected else [nothing(has_image=labels_dwi is not None)]
    reasons = {Segment(""): str(row["reason"]) for row in rows}
    for one in expected:
        here = positions(values, one.indices)
        reason = one.reason or ("" if here.size else "no voxel of its label in the label image")
        found = measure({name: data[here] for name, data in voxels.items()}, config, reason)
        place = asdict(one.segment) | {"volume_mm3": here.size * grid.voxel_mm3}
        rows += [place | row for row in found]
        reasons[one.segment] = "" if any("value" in row for row in found) else str(found[0]["reason"])
    unnamed = set(values.tolist()).difference(*(table or {}).values())
    _tell(context, reasons, unnamed, str(labels_dwi or ""))
    session = _session(identity) | {"b_used": ";".join(map(str, shells(np.loadtxt(bval, ndmin=1).ravel())))}
    return write_table(context.folder / "segments.tsv", (session | row for row in rows))


def _session(identity: Path | None) -> Row:
    """The columns that all rows of a session share."""
    given = {} if identity is None else json.loads(identity.read_text(encoding="utf-8"))
    own = {"weighting": "uniform", "extraction": "label", "space": "dwi", "pipeline_version": __version__}
    return own | {name: given[name] for name in _IDENTITY if given.get(name)}


def _read_located(path: Path | None, grid: images.Grid) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    if path is None:
        return np.zeros(0, np.intp), np.zeros(0, np.int32)
    labels, own = images.read_labels(path)
    _check_grid("LABEL_GRID", path, own, grid)
    if labels.size != math.prod(grid.shape):
        raise DatasetError(_not_3d(path, labels.shape))
    return locate(labels)


def _read_at(path: Path, where: NDArray[np.intp], grid: images.Grid) -> Vector:
    """Values (n,), or (n, volumes) of a 4D image, of the voxels at the Fortran indices `where`."""
    data, own = images.read_float(path)
    _check_grid("IMAGE_GRID", path, own, grid)
    flat = np.reshape(data, (math.prod(grid.shape), -1), order="F")
    values = flat[where].astype(np.float64)
    return values[:, 0] if values.shape[1] == 1 else values


def _check_grid(code: str, path: Path, own: images.Grid, grid: images.Grid) -> None:
    if not own.matches(grid):
        raise DatasetError(
            Problem(
                code,
                "the image does not lie on the grid of the FA map",
                where=str(path),
                found=f"shape {own.shape}, affine {np.round(own.affine, 4).tolist()}",
                expected=f"shape {grid.shape}, affine {np.round(grid.affine, 4).tolist()}",
                do="resample it on the grid of the diffusion series, label images with the step transfer",
            )
        )


def _not_3d(labels: Path, shape: tuple[int, ...]) -> Problem:
    return Problem(
        "LABEL_GRID",
        "the label image is not 3D",
        where=str(labels),
        found=f"shape {shape}",
        expected="one volume",
        do="save one label image per segmentation",
    )


def _no_table(labels: Path) -> Problem:
    return Problem(
        "LABEL_TABLE",
        "the label image has no label table",
        where=str(labels),
        expected="a TSV that names its values: index, name, region, side, level, segment",
        do="write it beside the label image, with the same name and the ending .tsv",
    )


def _tell(context: Context, reasons: Mapping[Segment, str], unnamed: set[int], labels: str) -> None:
    """Leave word of segments without a value and of values without a name."""
    missing = [f"{segment} ({reason})" for segment, reason in reasons.items() if reason]
    context.numbers["segments_expected"] = len(reasons)
    context.numbers["segments_measured"] = len(reasons) - len(missing)
    if missing:
        context.warn(
            Problem(
                "SEGMENT_NOT_MEASURED",
                f"{len(missing)} of {len(reasons)} segments have no value",
                where=labels,
                found="; ".join(missing),
                do="the table holds them with the reason; draw or name their labels to measure them",
                severity="warning",
            )
        )
    if unnamed:
        context.warn(
            Problem(
                "LABEL_UNNAMED",
                "the label image holds values that the label table does not name",
                where=labels,
                found=", ".join(map(str, sorted(unnamed))),
                expected="a row of the label table for each value",
                do="add the rows, or leave it so: these voxels are not measured",
                severity="warning",
            )
        )
