"""Profiles along nerve roots, in millimetres from the dural exit, and along tracts, in nodes from end to end.

Roots are profiled from their labels, and from tracts where there are some; both are in the table. Values of a
label are weighted towards its centreline, those of tracts and maps by their density or probability, and
bundles are profiled by dipy (Yeatman et al., PLoS ONE 7:e49790, 2012).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite import images, profiles
from somite.bundles import Bundles, bundle_profile, read_bundles
from somite.centreline import SMOOTH_MM, Centreline, Floats, NoCentreline, through_bundle, through_voxels
from somite.errors import Problem
from somite.profiles import Row, Scan, expected_roots, orient, write_profiles
from somite.registry import Context, Labels, LabelTable, Mask, StepConfig, step
from somite.rootline import Canal, RootOptions, from_exit, points_of, read_landmarks, root_line
from somite.segments import METRICS, Label, Segment, Word, read_label_table

ProfileMetric = Literal["fa", "md", "ad", "rd"]


_OFF_NODE = 1 / 3
"""Part of a step by which voxels at a node may lie off it on average where others touch the canal."""


class Config(StepConfig):
    """Where nodes lie, and how voxels are weighted."""

    regions: tuple[Word, ...] = ("nerve_root",)
    """Regions of the roots, profiled from the dural exit."""
    step_mm: float = Field(1.5, gt=0, le=20)
    """Distance between the nodes of a root."""
    max_mm: float = Field(30.0, gt=0, le=500)
    """Arc length of the last node of a root."""
    weighting: Literal["central", "uniform"] = "central"
    """Voxels of a label: by their distance from the centreline, or every one alike."""
    central_fraction: float = Field(0.3, gt=0, le=5)
    """Standard deviation of the weights across the section, over the radius of the label."""
    leave_out_canal_neighbours: bool = True
    """Voxels of a root that share a face with the canal are not used: they hold some of its fluid."""
    min_voxels: int = Field(2, ge=1)
    """Voxels with a tensor fit below which a node has no value."""
    nodes: int = Field(100, ge=2, le=1000)
    """Nodes of a tract."""
    probability_min: float = Field(0.1, ge=0, lt=1)
    """Voxels of a map of probabilities above this count."""
    metrics: Annotated[tuple[ProfileMetric, ...], Field(min_length=1)] = get_args(ProfileMetric)
    """Metrics, in the order of the rows."""
    roots: RootOptions = RootOptions()
    """How the centreline of a root is laid, and where it begins."""


def profile_rows(
    curve: Centreline,
    nodes: Floats,
    where: NDArray[np.bool_],
    section: Floats | None,
    scan: Scan,
    config: Config,
    canal: Canal | None = None,
) -> Iterator[Row]:
    """Rows of one profile: node by node, metric by metric; the columns node to n_voxels, weight, reason.

    Args:
        curve: with arc lengths from the origin.
        nodes: arc lengths of the nodes (k,), evenly spaced.
        where: voxels of the structure (x, y, z).
        section: weights (n,) of its voxels in C order; None: those of the configuration.
        scan: the maps.
        config: the options.
        canal: whose neighbours are not used, as the options say.
    """
    fitted = scan.fitted[where]
    wet = fitted & canal.touched_by(where) if canal and config.leave_out_canal_neighbours else fitted & False
    fitted = fitted & ~wet
    s, distance = curve.project(points_of(where, scan.grid))
    if section is None:
        ones = np.ones(len(s))
        section = (
            ones if config.weighting == "uniform" else profiles.central(s, distance, config.central_fraction)
        )
    # Hats narrower than a voxel would leave nodes between layers of voxels without any.
    width = max(float(nodes[1] - nodes[0]), scan.grid.voxel_mm3 ** (1 / 3))
    hats = profiles.hats(s, nodes, width) * section[:, None]
    weights, left_out = profiles.Nodes(hats[fitted]), profiles.Nodes(hats[wet]).n_voxels
    lies_at, _ = weights.mean(s[fitted])
    found = {
        metric: weights.mean(scan.maps[metric][where][fitted].astype(np.float64) * METRICS[metric].scale)
        for metric in config.metrics
    }
    for k, position in enumerate(nodes):
        reason = ""
        if not curve.s[0] - width / 2 <= position <= curve.s[-1] + width / 2:
            reason = f"the structure reaches from {_mm(curve.s[0])} to {_mm(curve.s[-1])} mm"
        elif weights.n_voxels[k] < config.min_voxels:
            few = f"{weights.n_voxels[k]} voxels at the node have a tensor fit"
            if left_out[k]:
                few += f" and do not touch the {config.roots.canal}, {left_out[k]} do"
            reason = f"{few}; min_voxels is {config.min_voxels}"
        elif left_out[k] and abs(lies_at[k] - position) > _OFF_NODE * (nodes[1] - nodes[0]):
            reason = (
                f"{left_out[k]} voxels at the node touch the {config.roots.canal}; the others lie at "
                f"{_mm(lies_at[k])} mm on average"
            )
        common: Row = {
            "node": k,
            "position_mm": float(position),
            "position_frac": float(position / curve.s[-1]),
            "n_voxels": int(weights.n_voxels[k]),
            "weight": float(weights.total[k]),
            "reason": reason,
        }
        for metric in config.metrics:
            value, se = (float(v[k]) for v in found[metric])
            yield common | {"metric": metric} | ({} if reason else {"value": value, "se": se})


def _mm(x: float) -> str:
    return f"{round(float(x), 1) + 0.0:.1f}"  # + 0.0 turns -0 into 0


def no_rows(nodes: Sequence[float], reason: str, config: Config) -> Iterator[Row]:
    """Rows of a profile that cannot be made, with the reason; `nodes` are positions in mm, or NaN."""
    for k, position in enumerate(nodes):
        for metric in config.metrics:
            yield {"node": k, "position_mm": position, "metric": metric, "n_voxels": 0, "reason": reason}


def root_nodes(config: Config) -> Floats:
    """Arc lengths (k,) of the nodes of a root: 0, step_mm, ... up to max_mm."""
    count = int(np.floor(config.max_mm / config.step_mm + 1e-9)) + 1
    return np.linspace(0.0, (count - 1) * config.step_mm, count)


def label_profiles(
    labels: NDArray[np.int32],
    table: Sequence[Label],
    landmarks: Mapping[Segment, Floats],
    scan: Scan,
    config: Config,
) -> Iterator[Row]:
    """Profiles of the roots of a label image, whole or in zones: those are joined again."""
    nodes = root_nodes(config)
    canal = canal_of(labels, table, scan, config)
    for root in expected_roots(table, config.regions):
        indices = [one.index for one in table if replace(one.segment, segment="") == root]
        where = np.isin(labels, indices)
        place = _place(root, "label", config.weighting)
        reason = "" if indices else "no label of this root in the label table"
        if not reason and not where.any():
            reason = "no voxel of its label in the label image"
        try:
            if reason:
                raise NoCentreline(reason)
            line = root_line(where, canal, landmarks.get(root), config.roots)
            rows = profile_rows(line, nodes, where, None, scan, config, canal)
        except NoCentreline as error:
            rows = no_rows(nodes.tolist(), str(error), config)
        yield from (place | row for row in rows)


def canal_of(labels: NDArray[np.int32], table: Sequence[Label], scan: Scan, config: Config) -> Canal:
    """The canal among the labels."""
    indices = [one.index for one in table if one.segment.region == config.roots.canal]
    roots = [one.index for one in table if one.segment.region in config.regions]
    return Canal(np.isin(labels, indices), scan.grid, config.roots.canal_close_mm, np.isin(labels, roots))


def map_profiles(
    maps: NDArray[np.float32],
    table: Sequence[Label],
    extraction: str,
    canal: Canal,
    landmarks: Mapping[Segment, Floats],
    scan: Scan,
    config: Config,
    bundles: Bundles | None = None,
) -> Iterator[Row]:
    """Profiles of maps of weights (x, y, z, k), volume n having the index n + 1 in their table.

    Roots are profiled from the dural exit, other structures from end to end. The centreline is that of the
    bundle where there is one.
    """
    for one in table:
        root = replace(one.segment, segment="")
        is_root = root.region in config.regions
        place = _place(
            root if is_root else one.segment,
            extraction,
            "density" if extraction == "tract" else "probability",
        )
        nodes = root_nodes(config)
        try:
            weights = _volume(maps, one.index)
            where = weights > (0 if extraction == "tract" else config.probability_min)
            lines = bundles.of(one.index) if bundles else []
            smooth_mm = config.roots.smooth_mm if is_root else SMOOTH_MM
            curve = (
                through_bundle(lines, smooth_mm)
                if lines
                else through_voxels(
                    points_of(where, scan.grid),
                    scan.grid.voxel_mm3,
                    weights[where].astype(np.float64),
                    smooth_mm,
                )
            )
            if is_root:
                curve = from_exit(curve, where, canal, landmarks.get(root), config.roots)
            else:
                curve = orient(curve)
                nodes = np.linspace(0.0, curve.length_mm, config.nodes)
            rows = profile_rows(
                curve,
                nodes,
                where,
                weights[where].astype(np.float64),
                scan,
                config,
                canal if is_root else None,
            )
        except NoCentreline as error:
            gaps = nodes.tolist() if is_root else [np.nan] * config.nodes
            rows = no_rows(gaps, str(error), config)
        yield from (place | row for row in rows)


def _volume(maps: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    if not 1 <= index <= maps.shape[3]:
        raise NoCentreline(f"the image has {maps.shape[3]} volumes and none of index {index}")
    return np.asarray(maps[..., index - 1])


def bundle_profiles(bundles: Bundles, table: Sequence[Label], scan: Scan, config: Config) -> Iterator[Row]:
    """Profiles of bundles by dipy, from end to end; `n_voxels` counts streamlines' points, one per node."""
    for one in table:
        if one.segment.region in config.regions:
            continue
        place = _place(one.segment, "tract", "gaussian")
        lines = bundles.of(one.index)
        try:
            core = orient(through_bundle(lines))
        except NoCentreline as error:
            yield from (place | row for row in no_rows([np.nan] * config.nodes, str(error), config))
            continue
        found = {
            metric: bundle_profile(scan.maps[metric], lines, core, scan.grid.affine, config.nodes)
            for metric in config.metrics
        }
        for k in range(config.nodes):
            part = k / (config.nodes - 1)
            for metric in config.metrics:
                mean, se, weighting = found[metric]
                yield place | {
                    "weighting": weighting,
                    "node": k,
                    "position_mm": part * core.length_mm,
                    "position_frac": part,
                    "metric": metric,
                    "value": float(mean[k]) * METRICS[metric].scale,
                    "se": float(se[k]) * METRICS[metric].scale,
                    "n_voxels": len(lines),
                    "weight": 1.0,
                }


def _place(segment: Segment, extraction: str, weighting: str) -> Row:
    return {
        "region": segment.region,
        "side": segment.side,
        "level": segment.level,
        "segment": segment.segment,
        "extraction": extraction,
        "weighting": weighting,
    }


Map = Annotated[Path, "Map of the tensor fit, 3D NIfTI; diffusivities in mm2/s"]
Weights = Annotated[Path, "Weights of structures, 4D NIfTI on the grid of the DWI, 0 to 1, one volume each"]
Table = Annotated[Path, "Table of the volumes, TSV: index from 1, name, region, side, level, segment"]


@step(makes={"profiles": "Profiles: a row per structure, node and metric, TSV"}, dwi_copies=1.0)
def run(
    *,
    fa: Map,
    md: Map,
    ad: Map,
    rd: Map,
    mask: Mask,
    labels_dwi: Labels | None = None,
    label_table: LabelTable | None = None,
    landmarks: Annotated[Path, "Dural exits, TSV: x, y, z (world mm), region, side, level"] | None = None,
    tracts: Annotated[Path, "Streamlines, .trk, .tck or .trx; their index as data_per_streamline `tract`"]
    | None = None,
    tract_density: Weights | None = None,
    tract_table: Table | None = None,
    probabilities_dwi: Weights | None = None,
    probability_table: Table | None = None,
    identity: Annotated[Path, "Whose scan it is, JSON"] | None = None,
    config: Config,
    context: Context,
) -> Path:
    """Profile every root and every tract.

    Raises:
        DatasetError: `LABEL_TABLE`, `LANDMARK_TABLE`, `LABEL_NOT_INTEGER`, `IMAGE_UNREADABLE`,
            `TRACTS_UNREADABLE`; `IMAGE_GRID`, an image that does not lie on the grid of the FA map.
    """
    scan = _read_scan({"fa": fa, "md": md, "ad": ad, "rd": rd}, mask)
    marks = {} if landmarks is None else read_landmarks(landmarks)
    table = () if label_table is None else read_label_table(label_table)
    labels: NDArray[np.int32] = np.zeros(scan.grid.shape, np.int32)
    rows: list[Row] = []
    if labels_dwi is not None:
        labels = _on_grid(labels_dwi, scan.grid, images.read_labels(labels_dwi))
        rows += label_profiles(labels, table, marks, scan, config)
    canal = canal_of(labels, table, scan, config)
    tract_rows = () if tract_table is None else read_label_table(tract_table)
    bundles = None if tracts is None else read_bundles(tracts, fa)
    if bundles is not None:
        rows += bundle_profiles(bundles, tract_rows, scan, config)
    if tract_density is not None:
        roots = [one for one in tract_rows if one.segment.region in config.regions or bundles is None]
        density = _read_weights(tract_density, scan.grid)
        rows += map_profiles(density, roots, "tract", canal, marks, scan, config, bundles)
    if probabilities_dwi is not None and probability_table is not None:
        maps = _read_weights(probabilities_dwi, scan.grid)
        listed = read_label_table(probability_table)
        rows += map_profiles(maps, listed, "prob", canal, marks, scan, config)
    _tell(rows, context)
    who: dict[str, Any] = {} if identity is None else json.loads(identity.read_text(encoding="utf-8"))
    return write_profiles(context.folder / "profiles.tsv", rows, who)


def _read_scan(paths: Mapping[str, Path], mask: Path) -> Scan:
    grid = images.grid_of(images.open_image(paths["fa"]))
    maps = {name: _on_grid(path, grid, images.read_float(path)) for name, path in paths.items()}
    fitted = _on_grid(mask, grid, images.read_float(mask)) > 0
    for data in maps.values():
        fitted = fitted & np.isfinite(data)
    # A voxel without a fit holds 0 everywhere.
    return Scan(maps, fitted & ((maps["ad"] != 0) | (maps["rd"] != 0)), grid)


def _on_grid(path: Path, grid: images.Grid, read: tuple[NDArray[Any], images.Grid]) -> NDArray[Any]:
    data, own = read
    images.check_grid("IMAGE_GRID", path, own, grid)
    return data.reshape(grid.shape if data.size == np.prod(grid.shape) else (*grid.shape, -1))


def _read_weights(path: Path, grid: images.Grid) -> NDArray[np.float32]:
    data = _on_grid(path, grid, images.read_float(path))
    return np.asarray(np.nan_to_num(data.reshape(*grid.shape, -1)), np.float32)


def _tell(rows: Sequence[Row], context: Context) -> None:
    """Leave word of structures without any value."""
    reasons: dict[str, set[str]] = {}
    measured = set()
    for row in rows:
        name = " ".join(str(row[c]) for c in ("region", "side", "level", "segment", "extraction") if row[c])
        reasons.setdefault(name, set()).add(str(row.get("reason") or ""))
        if "value" in row:
            measured.add(name)
    alike = {
        " ".join(str(row[c]) for c in ("region", "side", "level", "segment") if row[c])
        for row in rows
        if row["extraction"] == "tract" and row["weighting"] == "uniform" and "value" in row
    }
    if alike:
        context.infer(
            f"weighting of the bundles {', '.join(sorted(alike))}",
            "uniform",
            "fewer than 5 streamlines, or streamlines in one plane, have no covariance to weight them by",
        )
    context.numbers["profiles"] = float(len(reasons))
    context.numbers["profiles_measured"] = float(len(measured))
    missing = [f"{name} ({'; '.join(sorted(why))})" for name, why in reasons.items() if name not in measured]
    if missing:
        context.warn(
            Problem(
                "PROFILE_NOT_MEASURED",
                f"{len(missing)} of {len(reasons)} profiles have no value",
                found="; ".join(missing),
                do="the table holds them with the reason; label the canal, or give landmarks of the exits",
                severity="warning",
            )
        )
