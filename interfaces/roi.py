"""Measure segments: one row per segment, metric and statistic, and a reason where there is no value.

The segments are those of a label image and those of 4D weights (fibre densities, probabilities). Cutting
labels into segments, and profiles along one, are other steps.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite import __version__, images
from somite.errors import DatasetError, Problem
from somite.estimates import Vector
from somite.gradients import Gradients
from somite.interfaces.eddy import slice_axis_of
from somite.measure import MeasureOptions, Row, measure, not_measured
from somite.noise_floor import NoiseFloor, Scheme
from somite.registry import Bval, Bvec, Context, Labels, LabelTable, Mask, Scan, step
from somite.segments import Segment, SegmentGroup, by_segment, read_label_table, write_table
from somite.selection import (
    Selection,
    expected_segments,
    read_flags,
    select_labels,
    select_weights,
)
from somite.sensitivity import SENSITIVITY_SCHEMA, sensitivity


class Config(MeasureOptions):
    """What to measure, and what makes a segment doubtful."""

    segments: tuple[SegmentGroup, ...] | Literal["all"] = "all"
    """Segments that the table shall hold, measured or not; `all`: those of the label table."""
    min_weight: float = Field(0.0, ge=0, lt=1)
    """Weights of a fibre density or a probability up to this count as 0."""


def shells(bvals: Vector) -> list[int]:
    """The shells of b-values (n,) in s/mm2, ascending: medians of groups more than 50 apart, to 5 s/mm2.

    b-values up to 50 count as 0.
    """
    ascending = np.sort(np.where(bvals <= 50, 0, bvals))
    groups = np.split(ascending, np.flatnonzero(np.diff(ascending) > 50) + 1)
    return [5 * round(float(np.median(group)) / 5) for group in groups if group.size]


def nothing(*, has_image: bool) -> Row:
    """The one row of a session for which no segment can be named."""
    reason = "the label table names no label" if has_image else "no label image and no label table"
    return not_measured(reason)


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
Weights = Annotated[Path, "Weights of segments, 4D NIfTI on the grid of the DWI, 0 to 1"]
WeightTable = Annotated[Path, "Table of the weights, TSV as of labels; index: the volume, counted from 1"]


@step(
    makes={
        "segments": "Segments: a row per segment, metric and statistic, TSV",
        "sensitivity": "The same measures without border or doubtful voxels, TSV: a row per variant",
    },
    dwi_copies=1.0,
)
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
    bvec_used: Bvec | None = None,
    labels_dwi: Labels | None = None,
    label_table: LabelTable | None = None,
    tract_density: Weights | None = None,
    tract_table: WeightTable | None = None,
    probabilities_dwi: Weights | None = None,
    probability_table: WeightTable | None = None,
    bias_field: Annotated[Path, "Bias field that the series was divided by, 3D NIfTI"] | None = None,
    perfusion_fraction: Annotated[Path, "Perfusion fraction, 3D NIfTI; -1: not known"] | None = None,
    fat_fraction: Annotated[Path, "Fat fraction, 3D NIfTI on the grid of the DWI; -1: not known"]
    | None = None,
    outliers: Annotated[Path, "Slices that lost signal, TSV: volume, slice, z, replaced"] | None = None,
    motion: Annotated[Path, "Motion of each volume, TSV"] | None = None,
    scan: Scan | None = None,
    identity: Annotated[Path, "Whose scan it is, JSON: columns of the table"] | None = None,
    config: Config,
    context: Context,
) -> tuple[Path, Path]:
    """Measure every expected segment.

    Raises:
        DatasetError: `LABEL_TABLE` (see `read_label_table`), also for a label image or weights without a
            table; `LABEL_NOT_INTEGER`; `LABEL_GRID` and `IMAGE_GRID`, a label image or a map that does not
            lie on the grid of the FA map; and those of `select_weights`.
    """
    maps: dict[str, Path | None] = {
        "fa": fa,
        "md": md,
        "ad": ad,
        "rd": rd,
        "s0": s0,
        "residual": residual,
        "eigenvalues": eigenvalues,
        "nonpositive": nonpositive,
        "noise_sigma": noise_sigma,
        "mask": mask,
        "bias_field": bias_field,
        "perfusion_fraction": perfusion_fraction,
        "fat_fraction": fat_fraction,
    }
    grid = images.grid_of(images.open_image(fa))
    table = None if label_table is None else by_segment(read_label_table(label_table))
    if labels_dwi is not None and (table is None or label_table is None):
        raise DatasetError(_no_table(labels_dwi, "label image"))
    told = {} if label_table is None else read_flags(label_table)
    labels = None if labels_dwi is None else _read_labels(labels_dwi, grid)
    expected = expected_segments(config.segments, table, has_image=labels is not None)
    selections, values = select_labels(expected, labels, told)
    least = config.min_weight
    selections += _weighted(tract_density, tract_table, grid, "tract", "density", least)
    selections += _weighted(probabilities_dwi, probability_table, grid, "prob", "probability", least)
    bvals = np.loadtxt(bval, ndmin=1, dtype=np.float64).ravel()
    session = session_of(identity) | {"b_used": ";".join(map(str, shells(bvals)))}
    read = {name: _read(path, grid) for name, path in maps.items() if path is not None}
    if outliers is not None and motion is not None and scan is not None:
        read |= _lost_slices(outliers, motion, json.loads(scan.read_text()), grid, context)
    floor = None if bvec_used is None else floor_of(bvals, bvec_used, str(session.get("model", "")))
    rows, again = _measure_all(selections, read, config, floor, grid.voxel_mm3)
    reasons = _reasons(selections, rows)
    if not rows:
        lone = nothing(has_image=labels is not None)
        rows, reasons = [lone], {"n/a": str(lone["reason"])}
    _tell(context, reasons, values.difference(*(table or {}).values()), str(labels_dwi or ""))
    return (
        write_table(context.folder / "segments.tsv", (session | row for row in rows)),
        write_table(
            context.folder / "sensitivity.tsv",
            (_within(session) | row for row in again),
            SENSITIVITY_SCHEMA,
        ),
    )


def _weighted(
    weights: Path | None,
    table: Path | None,
    grid: images.Grid,
    extraction: str,
    weighting: str,
    least: float,
) -> list[Selection]:
    """The segments of 4D weights, where they are given."""
    if weights is None:
        return []
    if table is None:
        raise DatasetError(_no_table(weights, "image of weights"))
    return select_weights(weights, table, grid, extraction=extraction, weighting=weighting, least=least)


def _measure_all(
    selections: Sequence[Selection],
    maps: Mapping[str, NDArray[np.float32]],
    config: Config,
    floor: NoiseFloor | None,
    voxel_mm3: float,
) -> tuple[list[Row], list[Row]]:
    """The rows of all segments, and those of their variants."""
    rows: list[Row] = []
    again: list[Row] = []
    for one in selections:
        voxels: dict[str, Vector] = {name: _at(data, one.where) for name, data in maps.items()}
        volume = float(len(one.where))
        if one.weight is not None:
            voxels["weight"], volume = one.weight, float(np.sort(one.weight).sum())
        found = measure(voxels, config, one.reason, floor, one.told)
        place = asdict(one.segment) | {"extraction": one.extraction, "weighting": one.weighting}
        rows += [place | {"volume_mm3": volume * voxel_mm3} | row for row in found]
        more = sensitivity(voxels, one.border, config, found, one.reason)
        again += [place | row for row in more]
    return rows, again or [{"reason": "no segment is measured again"}]


def floor_of(bvals: Vector, bvec: Path, model: str) -> NoiseFloor | None:
    """The noise floor of FA of these gradients; None where they do not determine a tensor.

    Args:
        bvals: (n,) s/mm2.
        bvec: their directions.
        model: method of the fit; `ols` and `dtifit` are without weights, all others are taken as `wls`.
    """
    directions = np.loadtxt(bvec, ndmin=2, dtype=np.float64).T
    scheme = Scheme.of(Gradients(bvals, directions), ols=model in ("ols", "dtifit"))
    return NoiseFloor(scheme) if scheme.determined else None


def session_of(identity: Path | None) -> Row:
    """The columns that all rows of a session share."""
    given = {} if identity is None else json.loads(identity.read_text(encoding="utf-8"))
    own = {"weighting": "uniform", "extraction": "label", "space": "dwi", "pipeline_version": __version__}
    return own | {name: given[name] for name in _IDENTITY if given.get(name)}


def _within(session: Row) -> Row:
    names = {column.name for column in SENSITIVITY_SCHEMA}
    return {name: value for name, value in session.items() if name in names}


def _read_labels(path: Path, grid: images.Grid) -> NDArray[np.int32]:
    labels, own = images.read_labels(path)
    images.check_grid("LABEL_GRID", path, own, grid)
    if labels.size != math.prod(grid.shape):
        raise DatasetError(_not_3d(path, labels.shape))
    return labels.reshape(grid.shape, order="F")


def _read(path: Path, grid: images.Grid) -> NDArray[np.float32]:
    """Values (voxels, volumes), the voxels in Fortran order."""
    data, own = images.read_float(path)
    images.check_grid("IMAGE_GRID", path, own, grid)
    return np.reshape(data, (math.prod(grid.shape), -1), order="F")


def _at(data: NDArray[np.float32], where: NDArray[np.intp]) -> Vector:
    """Values (n,), or (n, volumes) of several, of the voxels at the Fortran indices `where`."""
    values = data[where].astype(np.float64)
    return values[:, 0] if values.shape[1] == 1 else values


def _lost_slices(
    outliers: Path, motion: Path, scan: Mapping[str, Any], grid: images.Grid, context: Context
) -> dict[str, NDArray[np.float32]]:
    """`lost`: by voxel (voxels, 1), the fraction of volumes whose slice was lost; empty if nobody looked.

    A method that looks for lost slices also finds motion: where both tables tell nothing, no method did.
    """
    lost = [int(row["slice"]) for row in _rows(outliers)]
    if not lost and not any(float(row["displacement_mm"]) for row in _rows(motion)):
        return {}
    axis = slice_axis_of(scan["series"], context)
    count = np.bincount(lost, minlength=grid.shape[axis])[: grid.shape[axis]] / len(scan["volumes"])
    along = np.reshape(count, [-1 if i == axis else 1 for i in range(3)])
    by_voxel = np.broadcast_to(along, grid.shape).reshape((-1, 1), order="F")
    return {"lost": by_voxel.astype(np.float32)}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def _not_3d(labels: Path, shape: tuple[int, ...]) -> Problem:
    return Problem(
        "LABEL_GRID",
        "the label image is not 3D",
        where=str(labels),
        found=f"shape {shape}",
        expected="one volume",
        do="save one label image per segmentation",
    )


def _no_table(image: Path, what: str) -> Problem:
    return Problem(
        "LABEL_TABLE",
        f"the {what} has no label table",
        where=str(image),
        expected="a TSV that names its values: index, name, region, side, level, segment",
        do="write it beside the label image, with the same name and the ending .tsv",
    )


def _reasons(selections: Sequence[Selection], rows: Sequence[Row]) -> dict[str, str]:
    """Name of each segment -> why none of its rows has a value, or an empty string."""
    reasons: dict[tuple[str, ...], str] = {}
    for row in rows:
        key = tuple(str(row[name]) for name in (*(f.name for f in fields(Segment)), "extraction"))
        if reasons.get(key) != "":
            reasons[key] = "" if "value" in row else reasons.get(key) or str(row["reason"])
    return {
        f"{one.segment}{'' if one.extraction == 'label' else f' ({one.extraction})'}": reasons.get(
            (*astuple(one.segment), one.extraction), one.reason
        )
        for one in selections
    }


def _tell(context: Context, reasons: Mapping[str, str], unnamed: set[int], labels: str) -> None:
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
