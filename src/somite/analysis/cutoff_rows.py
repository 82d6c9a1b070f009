"""Rows on a cut-off of a marker: where it lies, and what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from somite.analysis import cutoff, resampling
from somite.analysis.cutoff import Rate
from somite.analysis.location import level_text
from somite.analysis.marker import Marker, MarkerConfig, formula
from somite.analysis.results import Result


def cutoff_rows(marker: Marker, config: MarkerConfig) -> Iterator[Result]:
    """The cut-off that the configuration asks for; sensitivity, specificity, predictive values."""
    if config.cutoff == "none":
        return
    if config.cutoff == "youden":
        found = cutoff.youden(marker.score, marker.event)
        if not np.isfinite(found.cutoff):
            reason = "no cut-off tells the outcomes apart better than chance"
            contrast = f"cut-off({marker.name})"
            yield Result.without(marker.measure, config, reason, contrast=contrast, **marker.common)
            return
        cut = found.cutoff
        yield _youden_row(marker, found, config)
        words: tuple[str, ...] = ("at the cut-off that these data chose: too large",)
    else:
        cut, words = marker.sign * float(config.cutoff), ()
    side = "above" if marker.sign > 0 else "below"
    at = f"{marker.name} {side} {marker.sign * cut:.6g}"
    rates = cutoff.table(marker.score, marker.event, cut, config.alpha)
    resampled = resampling.rates(marker.score, marker.event, cut, marker.drawn) if config.repeated else {}
    for name, rate in rates.items():
        fields = (
            _wilson(rate, config) if name not in resampled else _percentiles(rate, resampled[name], config)
        )
        yield _rate_row(marker, f"{name}({at})", name, fields, words, config)
    if config.prevalence is not None and not config.repeated:
        yield from _at_prevalence(marker, rates, at, words, config.prevalence, config)


def _youden_row(marker: Marker, found: cutoff.Youden, config: MarkerConfig) -> Result:
    cuts, indices = resampling.youdens(marker.score, marker.event, marker.drawn)
    ends = resampling.percentiles(marker.sign * cuts[np.isfinite(cuts)], config.alpha)
    around = resampling.percentiles(indices, config.alpha)
    how = "cluster bootstrap" if config.repeated else "bootstrap"
    words = () if ends[0] == ends[0] else ("no interval: every resample has the same cut-off",)
    return Result.of(
        marker.measure,
        config,
        contrast=f"cut-off({marker.name})",
        estimate_name="Youden's cut-off",
        estimate=marker.sign * found.cutoff,
        ci_low=ends[0],
        ci_high=ends[1],
        ci_method=f"{how} percentiles, {config.resamples} resamples, {level_text(config.alpha)}",
        effect_name="Youden's index",
        effect=found.index,
        effect_ci_low=around[0],
        effect_ci_high=around[1],
        formula=formula(config, ("-" if marker.sign < 0 else "") + marker.name),
        seed=config.seed,
        **(marker.common | {"warnings": (*marker.words, *words)}),
    )


def _wilson(rate: Rate, config: MarkerConfig) -> dict[str, Any]:
    return {
        "ci_low": rate.low,
        "ci_high": rate.high,
        "ci_method": f"Wilson, {level_text(config.alpha)}",
        "estimate": rate.value,
        "n": rate.people,
    }


def _percentiles(rate: Rate, values: resampling.Floats, config: MarkerConfig) -> dict[str, Any]:
    low, high = resampling.percentiles(values, config.alpha)
    method = f"cluster bootstrap percentiles at this cut-off, {config.resamples} resamples"
    return _wilson(rate, config) | {
        "ci_low": low,
        "ci_high": high,
        "ci_method": f"{method}, {level_text(config.alpha)}",
        "seed": config.seed,
    }


def _rate_row(
    marker: Marker,
    contrast: str,
    name: str,
    fields: dict[str, Any],
    words: tuple[str, ...],
    config: MarkerConfig,
) -> Result:
    reason = ""
    if np.isnan(fields["estimate"]):
        reason = "nobody has a positive test" if name == "PPV" else "nobody has a negative test"
    elif np.isnan(fields["ci_low"]):
        words = (*words, "no interval: every resample has the same value")
    return Result.of(
        marker.measure,
        config,
        contrast=contrast,
        estimate_name=name,
        reason=reason,
        formula=formula(config, marker.name),
        **(marker.common | {"warnings": (*marker.words, *words)} | fields),
    )


def _at_prevalence(
    marker: Marker,
    rates: dict[str, Rate],
    at: str,
    words: tuple[str, ...],
    prevalence: float,
    config: MarkerConfig,
) -> Iterator[Result]:
    """The predictive values among people of whom a given share have the event."""
    found = cutoff.predictive(rates["sensitivity"], rates["specificity"], prevalence, config.alpha)
    for name, one in found.items():
        fields = {
            "estimate": one.value,
            "ci_low": one.low,
            "ci_high": one.high,
            "ci_method": f"logit (Mercaldo), {level_text(config.alpha)}",
        }
        contrast = f"{name}({at}) at prevalence {prevalence:g}"
        yield _rate_row(marker, contrast, name, fields, words, config)
