"""Healthy people in the place of patients: how often a place stands out in whom nothing is wrong there.

Chance by counting takes all levels and sides for alike. Where one of them looks diseased in everybody, as the
lowest root in a poor scan, a method seems to find it; in the stand-ins it then finds it as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.analysis import ranking, resampling
from somite.analysis.cells import Evidence
from somite.analysis.location import level_text
from somite.analysis.ranking import Bools, Floats
from somite.analysis.results import Result


def hits(z: Floats, recorded: Bools, top: int) -> Floats:
    """Share of the patients whose recorded cells are among the first `top` of each stand-in (people,).

    Args:
        z: (people, cells) of the stand-ins, NaN where there is none.
        recorded: (patients, cells) cells of the patients; equal ones are counted, not ranked again.
        top: how many cells count as found.

    Returns:
        Of the stand-ins that have a z of the cells of some patient, and of another.
    """
    patterns, counts = np.unique(recorded, axis=0, return_counts=True)
    found = []
    for own in z:
        ranks = [ranking.rank(own, pattern) for pattern in patterns]
        there = [
            (rank.rank <= top, n) for rank, n in zip(ranks, counts, strict=True) if rank and rank.cells > 1
        ]
        if there:
            found.append(sum(hit * n for hit, n in there) / sum(n for _, n in there))
    return np.array(found, np.float64)


def interval(
    shares: Floats, random: np.random.Generator, resamples: int, alpha: float
) -> tuple[float, float]:
    """Percentile interval of the mean of shares (people,) by the bootstrap of people; NaN without spread."""
    if len(shares) < 2:
        return np.nan, np.nan
    picks: NDArray[np.intp] = random.integers(0, len(shares), (resamples, len(shares)))
    return resampling.percentiles(shares[picks].mean(1), alpha)


def row(found: Evidence, top: int, common: Mapping[str, Any], config: Any) -> Result:
    """How often a patient's recorded cell is among the first `top` of people without one.

    Args:
        found: z of all people, and the patients.
        top: how many cells count as found.
        common: fields that all rows of the measure have.
        config: the options of `symptomatic_level`.
    """
    others = found.cells.reference if config.group is not None else ~found.cells.recorded.any(1)
    recorded = found.cells.recorded[list(found.patients)]
    shares = hits(found.z[others], recorded, top)
    low, high = interval(shares, found.measure.random(config.seed), config.resamples, config.alpha)
    fields: dict[str, Any] = {
        **common,
        "contrast": f"stand-ins, top-{top}",
        "n": len(shares),
        "n_groups": f"{len(shares)} stand-ins for {len(found.patients)} patients",
    }
    if not len(shares):
        reason = "nobody without a recorded level and side has a z score"
        return Result.without(found.measure, config, reason, **fields)
    words = f"bootstrap percentiles over people, {config.resamples} resamples, {level_text(config.alpha)}"
    cells = (~np.isnan(found.z[others])).sum(1)
    many = np.repeat(cells[cells > 1], len(recorded))
    chances = ranking.chance(many, np.tile(recorded.sum(1), (cells > 1).sum()), top)
    return Result.of(
        found.measure,
        config,
        estimate_name=f"top-{top} accuracy in people without a lesion",
        estimate=float(shares.mean()),
        ci_low=low,
        ci_high=high,
        ci_method="none: every resample has the same value" if np.isnan(low) else words,
        effect_name="accuracy of chance",
        effect=float(chances.mean()),
        test="none",
        seed=config.seed,
        **fields,
    )
