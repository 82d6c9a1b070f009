"""Measure the voxels of a segment: the values of its rows, and the verdict on them. Knows no file.

The voxels of a segment come as a mapping from a name to their values (n,), or (n, 3) for the eigenvalues, in
the units of the maps. `weight` among them makes every statistic a weighted one. Nothing here depends on the
order of the voxels, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from somite import estimates, weighted
from somite.estimates import Estimate, Vector
from somite.metrics import METRICS, MetricName, StatisticName
from somite.noise_floor import NoiseFloor
from somite.registry import StepConfig

Row = dict[str, object]
Voxels = Mapping[str, Vector]
Fraction = Annotated[float, Field(ge=0, le=1)]


class MeasureOptions(StepConfig):
    """What to measure, and what makes a segment doubtful."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = get_args(MetricName)
    """Metrics, in the order of the rows; one whose map is not there has no rows."""
    statistics: Annotated[tuple[StatisticName, ...], Field(min_length=1)] = get_args(StatisticName)
    """Statistics, in the order of the rows; a metric that has only its `mean` has it always."""
    min_voxels: int = Field(3, ge=1)
    """Voxels with a tensor fit, for weights their effective number, below which nothing is measured."""
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
    fat_md_max: float | None = Field(None, gt=0, le=3)
    """MD in 1e-3 mm2/s below which a voxel of muscle is suspected of fat; null: not looked at."""
    fat_warn_fraction: Fraction = 0.1
    """Fat fraction, measured or suspected, above which a segment is marked `warn`."""
    md_min: float = Field(0.8, ge=0)
    """MD in 1e-3 mm2/s below which the sensitivity variant `physical` leaves a voxel out."""
    md_max: float = Field(2.2, gt=0)
    """MD in 1e-3 mm2/s above which the sensitivity variant `physical` leaves a voxel out."""

    @field_validator("metrics", "statistics")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"given twice: {', '.join(twice)}")
        return names


MAPS = ("fa", "md", "ad", "rd", "s0", "residual")
"""Maps that must be finite where a voxel counts as fitted."""
_GIVEN = {
    "fa_noise_floor": "floor",
    "fa_noise_floor_of_fit": "floor",
    "perfusion_fraction": "perfusion_fraction",
    "lost_slice_fraction": "lost",
}
"""Metrics that are there only where a product is given -> name of the voxels' values that tell it."""
_UNIFORM = {"mean": estimates.mean, "sd": estimates.sd, "median": estimates.median, "iqr": estimates.iqr}
_WEIGHTED = {"mean": weighted.mean, "sd": weighted.sd, "median": weighted.median, "iqr": weighted.iqr}
_NO_FLOOR = "there is no noise floor for this MD and these gradients"
_FLAGS = ("nonpositive_fraction", "outlier_fraction", "fat_suspect_fraction")


def pairs(options: MeasureOptions, known: frozenset[str]) -> Iterator[tuple[MetricName, StatisticName]]:
    """Metric and statistic of each row of a segment.

    Args:
        options: what to measure.
        known: names of what is given beside the maps that are always there; `floor`: a noise floor.
    """
    for metric in options.metrics:
        if _GIVEN.get(metric, metric) not in known and metric in _GIVEN:
            continue
        if metric == "fat_suspect_fraction" and options.fat_md_max is None:
            continue
        own = METRICS[metric].statistics
        for statistic in own if len(own) == 1 else options.statistics:
            yield metric, statistic


def fitted(voxels: Voxels) -> NDArray[np.bool_]:
    """Which voxels (n,) have a tensor fit: inside the mask, every map finite, not all eigenvalues 0."""
    eigenvalues = voxels["eigenvalues"]
    fit = (voxels["mask"] > 0) & eigenvalues.any(1) & np.isfinite(eigenvalues).all(1)
    for name in MAPS:
        fit &= np.isfinite(voxels[name])
    return fit


def snr_of(voxels: Voxels) -> Vector:
    """Signal at b=0 over the noise's standard deviation, by voxel (n,); NaN where that is not known.

    The fit may be of the series without its bias field, the noise is that of the series with it.
    """
    s0, sigma = voxels["s0"] * voxels.get("bias_field", 1.0), voxels["noise_sigma"]
    known = np.isfinite(sigma) & (sigma > 0)
    return np.asarray(np.where(known, s0 / np.where(known, sigma, 1), np.nan))


OUTLIER_SD, OUTLIER_LEAST, OUTLIER_VOXELS = 3.0, 1e-3, 10


def residual_outliers(residual: Vector) -> NDArray[np.bool_]:
    """Which residuals (n,) stand out from the segment's own: see the metric `outlier_fraction`.

    What lies less than 0.001 of S0 above the median is rounding, not an outlier.
    """
    if not residual.size:
        return np.zeros(0, np.bool_)
    above = residual - np.median(residual)
    limit = max(OUTLIER_SD * 1.4826 * float(np.median(np.abs(above))), OUTLIER_LEAST)
    return np.asarray(above > limit)


def completed(voxels: Voxels, options: MeasureOptions) -> dict[str, Vector]:
    """Fitted voxels with what follows from their maps: `snr`, and the marks of the fractions, 0 or 1."""
    limit = math.nan if options.fat_md_max is None else options.fat_md_max * 1e-3
    return {
        **voxels,
        "snr": snr_of(voxels),
        "fat_fraction": _known_fat(voxels),
        "nonpositive_fraction": (voxels["nonpositive"] > 0).astype(np.float64),
        "outlier_fraction": residual_outliers(voxels["residual"]).astype(np.float64),
        "fat_suspect_fraction": (voxels["md"] < limit).astype(np.float64),
    }


def _known_fat(voxels: Voxels) -> Vector:
    """Fat fraction (n,); NaN where the map does not reach, which it tells by values below 0."""
    fat = voxels.get("fat_fraction", np.full(len(voxels["fa"]), np.nan))
    return np.asarray(np.where(fat >= 0, fat, np.nan))


def in_order(values: Vector, weight: Vector | None) -> tuple[Vector, Vector | None]:
    """Finite values, ascending, with their weights in the same order."""
    finite = np.isfinite(values)
    if weight is None:
        return np.sort(values[finite]), None
    order = np.lexsort((weight[finite], values[finite]))
    return values[finite][order], weight[finite][order]


def estimate(voxels: Voxels, metric: MetricName, statistic: StatisticName) -> Estimate:
    """One statistic of fitted voxels, at least one."""
    weight = voxels.get("weight")
    if metric == "fa_of_mean_eigenvalues":
        eigenvalues = voxels["eigenvalues"]
        if weight is None:
            return estimates.fa_of_mean_eigenvalues(eigenvalues)
        return weighted.fa_of_mean_eigenvalues(eigenvalues, weight)
    x, w = in_order(voxels[metric], weight)
    if not x.size:
        return Estimate(math.nan)
    if metric in _FLAGS:
        return weighted.fraction(x, np.ones_like(x) if w is None else w)
    return _UNIFORM[statistic](x) if w is None else _WEIGHTED[statistic](x, w)


def average(voxels: Voxels, name: str) -> float:
    """(Weighted) mean of the finite values of a map; NaN without any."""
    x, w = in_order(voxels[name], voxels.get("weight"))
    return math.nan if not x.size else float(np.average(x, weights=w))


def verdict(
    no_fit: float,
    nonpositive: float,
    snr: float,
    options: MeasureOptions,
    fat: float = math.nan,
    suspect: float = 0.0,
    told: str = "",
) -> tuple[str, str]:
    """`qc_status` and `qc_flags` of a measured segment.

    Args:
        no_fit: fraction of its voxels without a fit.
        nonpositive: fraction of the others with an eigenvalue that is not positive.
        snr: mean at b=0, NaN where it is not known.
        options: the limits.
        fat: mean fat fraction, NaN where it is not known.
        suspect: fraction of voxels suspected of fat.
        told: what the segment's table tells of it: it is to be looked at.
    """
    low_snr = not snr >= max(options.snr_warn, options.snr_fail) and options.snr_warn + options.snr_fail > 0
    fatty, suspicious = fat > options.fat_warn_fraction, suspect > options.fat_warn_fraction
    flags = [
        told,
        f"no_fit={no_fit:.3g}" if no_fit > 0 else "",
        f"nonpositive={nonpositive:.3g}" if nonpositive > 0 else "",
        ("no_snr" if math.isnan(snr) else "low_snr") if low_snr else "",
        f"fat={fat:.3g}" if fatty else "",
        f"fat_suspect={suspect:.3g}" if suspicious else "",
    ]
    fail = (
        no_fit > options.no_fit_fail_fraction
        or nonpositive > options.nonpositive_fail_fraction
        or snr < options.snr_fail
    )
    warn = (
        no_fit > options.no_fit_warn_fraction
        or nonpositive > options.nonpositive_warn_fraction
        or low_snr
        or fatty
        or suspicious
        or told != ""
    )
    return "fail" if fail else "warn" if warn else "pass", ";".join(flag for flag in flags if flag)


def not_measured(reason: str) -> Row:
    """The columns that say why there is no value."""
    return {"qc_status": "fail", "qc_flags": "not_measured", "reason": reason}


def too_few(voxels: Voxels, fit: NDArray[np.bool_], options: MeasureOptions) -> str:
    """Why the fitted voxels do not suffice; an empty string where they do."""
    n = int(fit.sum())
    if "weight" not in voxels:
        enough = n >= options.min_voxels
        return (
            ""
            if enough
            else f"{n} of {fit.size} voxels have a tensor fit, min_voxels is {options.min_voxels}"
        )
    number = weighted.effective_number(np.sort(voxels["weight"][fit]))
    if number >= options.min_voxels:
        return ""
    return (
        f"{n} of {fit.size} voxels with a weight have a tensor fit, effectively {number:.3g}; "
        f"min_voxels is {options.min_voxels}"
    )


def measure(
    voxels: Voxels, options: MeasureOptions, reason: str = "", floor: NoiseFloor | None = None, told: str = ""
) -> list[Row]:
    """The rows of one segment: the columns metric to n_effective, snr, fat_fraction and the verdict.

    Args:
        voxels: every voxel of the segment, in any order, in the units of the maps: fa, md, ad, rd, s0,
            residual, nonpositive, noise_sigma, mask (n,), eigenvalues (n, 3) in mm2/s; where they are known
            bias_field, perfusion_fraction, lost (fraction of the volumes whose slice was lost),
            fat_fraction and weight, above 0 (n,).
        options: what to measure, and the limits.
        reason: why the segment has no voxel, where it has none.
        floor: the FA that noise makes of isotropic tissue.
        told: flags that the segment's table gives it.
    """
    fit = fitted(voxels)
    n, n_all = int(fit.sum()), fit.size
    known = frozenset(voxels) | (frozenset({"floor"}) if floor else frozenset())
    reason = reason or too_few(voxels, fit, options)
    if reason:
        common: Row = {"n_voxels": n} | not_measured(reason)
        return [
            {"metric": metric, "statistic": statistic, "unit": METRICS[metric].unit, **common}
            for metric, statistic in pairs(options, known)
        ]
    kept = completed({name: values[fit] for name, values in voxels.items()}, options)
    shares = {name: average(kept, name) for name in ("snr", "nonpositive_fraction", "fat_suspect_fraction")}
    fat = average(kept, "fat_fraction")
    snr = shares["snr"]
    status, flags = verdict(
        (n_all - n) / n_all,
        shares["nonpositive_fraction"],
        snr,
        options,
        fat,
        shares["fat_suspect_fraction"],
        told,
    )
    weight = np.ones(n) if "weight" not in kept else np.sort(kept["weight"])
    common = {
        "n_voxels": n,
        "n_effective": weighted.effective_number(weight),
        "snr": snr,
        "fat_fraction": fat,
        "qc_status": status,
        "qc_flags": flags,
    }
    return [common | _row(kept, metric, statistic, floor) for metric, statistic in pairs(options, known)]


def _row(voxels: Voxels, metric: MetricName, statistic: StatisticName, floor: NoiseFloor | None) -> Row:
    """Metric to unit of one row, or why there is no value."""
    scale, unit = METRICS[metric].scale, METRICS[metric].unit
    found, why = _found(voxels, metric, statistic, floor)
    if math.isnan(found.value):
        n = len(voxels["fa"])
        reason = why or f"{statistic} is not defined for {n} voxel{'s' if n > 1 else ''}"
        return {"metric": metric, "statistic": statistic, "unit": unit} | not_measured(reason)
    return {
        "metric": metric,
        "statistic": statistic,
        "value": found.value * scale,
        "se": found.se * scale,
        "ci_low": found.ci_low * scale,
        "ci_high": found.ci_high * scale,
        "unit": unit,
    }


def _found(
    voxels: Voxels, metric: MetricName, statistic: StatisticName, floor: NoiseFloor | None
) -> tuple[Estimate, str]:
    """A statistic, and why it is not there, where that is not the number of voxels."""
    if metric in ("snr", "fa_noise_floor") and math.isnan(average(voxels, "snr")):
        return Estimate(math.nan), "the standard deviation of the noise is not known"
    if metric == "fa_noise_floor":
        value = floor.at_snr(average(voxels, "snr"), average(voxels, "md")) if floor else math.nan
        return Estimate(value), _NO_FLOOR
    if metric == "fa_noise_floor_of_fit":
        residual = math.sqrt(average({**voxels, "square": voxels["residual"] ** 2}, "square"))
        value = floor.at_residual(residual, average(voxels, "md")) if floor else math.nan
        return Estimate(value), _NO_FLOOR
    if metric == "outlier_fraction" and len(voxels["fa"]) < OUTLIER_VOXELS:
        return Estimate(math.nan), f"fewer than {OUTLIER_VOXELS} voxels do not tell outliers"
    if metric == "lost_slice_fraction":
        return Estimate(average(voxels, "lost")), ""
    if metric == "perfusion_fraction" and (voxels[metric] < -0.995).all():
        return Estimate(math.nan), "the b-values do not tell the perfusion fraction"
    return estimate(voxels, metric, statistic), ""
