"""How much a segment's measures depend on its border and on its doubtful voxels: measured again without.

Partial volume with what lies around shows at the border: `eroded` leaves the voxels out that have a
neighbour across a face outside the segment, `border_half` lets them count by half. `physical` leaves out
what tissue cannot be: an eigenvalue that is not positive, or an MD beyond limits. It selects on noise, and is
given beside the measure of all voxels, never instead of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from somite.estimates import Vector
from somite.measure import MeasureOptions, Row, Voxels, fitted, measure
from somite.metrics import METRICS, MetricName
from somite.segments import SCHEMA, Column

VariantName = Literal["eroded", "border_half", "physical"]
VARIANTS: Mapping[VariantName, str] = {
    "eroded": "without the voxels that have a neighbour across a face outside the segment; the edge of the "
    "image is none",
    "border_half": "those voxels count by half",
    "physical": "without the voxels whose third eigenvalue is not positive or whose MD lies outside the "
    "limits md_min and md_max of the configuration",
}
SENSITIVE: tuple[MetricName, ...] = ("fa", "md", "ad", "rd", "fa_of_mean_eigenvalues")
"""Metrics that are measured again."""

_LEFT_OUT = ("volume_mm3", "snr", "fat_fraction", "qc_status", "qc_flags", "reason", "pipeline_version")
_OWN = (
    Column(
        "variant",
        "text",
        "How the segment was measured again",
        levels={str(name): words for name, words in VARIANTS.items()},
    ),
    Column("full_value", "number", "The same statistic of all fitted voxels", "see the column unit"),
    Column("difference", "number", "value minus full_value", "see the column unit"),
    Column(
        "affected_fraction",
        "number",
        "Fraction of the segment's fitted voxels (for weights: of their weight) that were left out or count "
        "by half",
        "1",
    ),
)
SENSITIVITY_SCHEMA: tuple[Column, ...] = (
    *(column for column in SCHEMA if column.name not in _LEFT_OUT),
    *_OWN,
    *(column for column in SCHEMA if column.name in ("reason", "pipeline_version")),
)


def physical(voxels: Voxels, options: MeasureOptions) -> NDArray[np.bool_]:
    """Which voxels (n,) have three positive eigenvalues and an MD between the limits."""
    md = voxels["md"] * METRICS["md"].scale
    return np.asarray(
        (voxels["nonpositive"] <= 0) & (md >= options.md_min) & (md <= options.md_max), np.bool_
    )


def variants(
    voxels: Voxels, border: NDArray[np.bool_] | None, options: MeasureOptions
) -> Iterator[tuple[VariantName, NDArray[np.bool_], Vector]]:
    """Name, voxels that it affects (n,), and the weights (n,) that it gives, 0 for a voxel left out.

    Args:
        voxels: of the segment.
        border: which lie at its border; None where that is not known: of weighted segments, whose weights
            tell it.
        options: limits of MD.
    """
    weight = voxels.get("weight", np.ones(len(voxels["fa"])))
    if border is not None:
        yield "eroded", border, np.where(border, 0.0, weight)
        yield "border_half", border, np.where(border, 0.5, weight)
    odd = ~physical(voxels, options)
    yield "physical", odd, np.where(odd, 0.0, weight)


def sensitivity(
    voxels: Voxels,
    border: NDArray[np.bool_] | None,
    options: MeasureOptions,
    rows: list[Row],
    reason: str = "",
) -> list[Row]:
    """The rows of one segment: metric to n_effective, the columns of `_OWN`, and the reason.

    Args:
        voxels: as of `measure`.
        border: as of `variants`.
        options: as of `measure`.
        rows: what `measure` found for all voxels.
        reason: why the segment has no voxel, where it has none.
    """
    full = {(row["metric"], row["statistic"]): row.get("value") for row in rows}
    chosen = tuple(metric for metric in options.metrics if metric in SENSITIVE)
    if not chosen:
        return []
    options = options.model_copy(update={"metrics": chosen})
    total = voxels.get("weight", np.ones(len(voxels["fa"])))
    fit = fitted(voxels)
    found: list[Row] = []
    for name, affected, weight in variants(voxels, border, options):
        share = total[fit & affected].sum() / total[fit].sum() if fit.any() else np.nan
        for row in measure(_weighted(voxels, weight, name), options, reason):
            base = full[row["metric"], row["statistic"]]
            own: Row = {"variant": name, "full_value": base, "affected_fraction": float(share)}
            if isinstance(base, float) and isinstance(value := row.get("value"), float):
                own["difference"] = value - base
            found.append({key: row[key] for key in row if key in _COLUMNS} | own)
    return found


_COLUMNS = frozenset(column.name for column in SENSITIVITY_SCHEMA)


def _weighted(voxels: Voxels, weight: Vector, name: VariantName) -> Voxels:
    """The voxels with these weights; without weights where they are all alike, for the same statistics."""
    kept = weight > 0
    left = {key: values[kept] for key, values in voxels.items()}
    if "weight" in voxels or name == "border_half":
        left["weight"] = weight[kept]
    return left
