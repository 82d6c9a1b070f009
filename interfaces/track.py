"""Track structures from their labels by local fibre tracking (dipy), one tract per region, side and level.

A tract is an extraction of its own beside the label: FA by one and the other agree only loosely
(r = 0.528, archive.ismrm.org/2012/3321.html), so neither replaces the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import distance_transform_edt

from somite import images
from somite.bundles import Bundles, write_bundles
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.registry import Context, Labels, LabelTable, Mask, StepConfig, step
from somite.segments import NA, Label, Segment, Word, read_label_table

Floats = NDArray[np.float64]
Inside = NDArray[np.bool_]


class Config(StepConfig):
    """What to track, and within which limits."""

    regions: tuple[Word, ...] = ("nerve_root",)
    """Regions whose labels are seeds; every side and level of them is a tract."""
    seed_segments: tuple[Word, ...] = ()
    """Parts of them that are seeds: `foraminal_drg`; none: the whole label."""
    method: Literal["none", "deterministic", "probabilistic"] = "none"
    """Follow the largest value of the distribution of directions, or draw from it; none: no tracts."""
    step_mm: float = Field(0.5, gt=0, le=5)
    """Length of a step."""
    angle_max_deg: float = Field(30.0, gt=0, le=90)
    """Largest angle between two steps."""
    fa_min: float = Field(0.1, ge=0, lt=1)
    """FA below which a streamline ends."""
    length_min_mm: float = Field(10.0, ge=0)
    """Shorter streamlines are left out."""
    length_max_mm: float = Field(60.0, gt=0, le=1000)
    """Longer streamlines are left out."""
    seeds_per_voxel: int = Field(8, ge=1, le=1000)
    """Seeds in each voxel of the label, at random places."""
    sharpness: float = Field(4.0, ge=1, le=20)
    """Power of the distribution of directions: the larger, the closer drawn ones are to the main one."""
    confine_mm: float | None = Field(None, ge=0)
    """Streamlines end this far outside the label that they were seeded in; null: they do not."""
    include: tuple[Word, ...] = ()
    """Regions of labels of which a streamline must pass through at least one."""
    exclude: tuple[Word, ...] = ()
    """Regions of labels that no streamline may pass through."""
    min_streamlines: int = Field(5, ge=1)
    """Streamlines below which a tract counts as not found."""
    seed: int = Field(1, ge=1)
    """Seed of the random numbers."""

    @model_validator(mode="after")
    def _some_length_is_left(self) -> Self:
        if self.length_max_mm <= self.length_min_mm:
            raise ValueError(
                f"length_max_mm is {self.length_max_mm:g}, not above length_min_mm {self.length_min_mm:g}"
            )
        return self


def directions(tensor: NDArray[np.floating[Any]], inside: Inside, grid: Grid, sharpness: float) -> Floats:
    """Distribution of directions as spherical harmonics (x, y, z, 45), in the axes of the voxels; 0 outside.

    The orientation distribution of a tensor, (u' D^-1 u)^(-3/2) (as dipy's TensorFit.odf; Aganj et al., Magn
    Reson Med 64:554, 2010), raised to `sharpness`, its maximum 1; even harmonics up to the order 8, dipy's
    basis descoteaux07.

    Args:
        tensor: Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in world axes (x, y, z, 6).
        inside: where it is fitted (x, y, z).
        grid: its axes.
        sharpness: at least 1.
    """
    d = np.asarray(tensor[inside], np.float64)
    full = d[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(grid.axes.T @ full @ grid.axes)
    # Noise can make eigenvalues that are not positive: they are held at a hundredth of the largest.
    values = np.maximum(values, np.maximum(values[:, 2:], 1e-9) / 100)
    inverse = ((vectors / values[:, None]) @ vectors.swapaxes(1, 2)).reshape(-1, 9)
    axes = _half_sphere()
    products = (axes[:, :, None] * axes[:, None]).reshape(-1, 9)
    to_harmonics = _to_harmonics(axes)
    harmonics = np.zeros((*inside.shape, to_harmonics.shape[0]), np.float64)
    made = np.empty((len(d), to_harmonics.shape[0]))
    for start in range(0, len(d), 4096):
        block = slice(start, start + 4096)
        odf = (inverse[block] @ products.T * values[block, 2:]) ** (-1.5 * sharpness)
        made[block] = odf @ to_harmonics.T
    harmonics[inside] = made
    return harmonics


def _half_sphere() -> Floats:
    """Unit vectors (n, 3), one of each opposite pair of dipy's sphere symmetric362."""
    from dipy.data import get_sphere

    vertices = np.asarray(get_sphere(name="symmetric362").vertices, np.float64)
    positive = (vertices @ (0.9, 0.4, 0.17)) > 0
    return vertices[positive]


def _to_harmonics(vertices: Floats) -> Floats:
    """Matrix (45, n) from values at `vertices` (n, 3) to even harmonics up to the order 8."""
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import real_sh_descoteaux

    sphere = Sphere(xyz=vertices)
    basis, _, _ = real_sh_descoteaux(8, sphere.theta, sphere.phi, legacy=False)
    return np.asarray(np.linalg.pinv(basis), np.float64)


@dataclass(frozen=True)
class Tissue:
    """Distributions of directions, and where streamlines may go."""

    harmonics: Floats
    """(x, y, z, 45)"""
    passable: Inside
    """(x, y, z)"""
    grid: Grid


def track(seeds: Inside, tissue: Tissue, config: Config, threads: int = 1) -> list[Floats]:
    """Streamlines (k, 3) in world mm from random places in the voxels of `seeds` (x, y, z).

    The same for any number of threads.
    """
    from dipy.data import default_sphere
    from dipy.tracking.stopping_criterion import BinaryStoppingCriterion
    from dipy.tracking.tracker import deterministic_tracking, probabilistic_tracking
    from dipy.tracking.utils import random_seeds_from_mask

    if not seeds.any():
        return []
    at = random_seeds_from_mask(
        seeds, tissue.grid.affine, seeds_count=config.seeds_per_voxel, random_seed=config.seed
    )
    run = deterministic_tracking if config.method == "deterministic" else probabilistic_tracking
    lines = run(  # type: ignore[no-untyped-call]
        at,
        BinaryStoppingCriterion(tissue.passable),
        tissue.grid.affine,
        sh=tissue.harmonics,
        basis_type="descoteaux07",
        legacy=False,
        sphere=default_sphere,
        min_len=config.length_min_mm,
        max_len=config.length_max_mm,
        step_size=config.step_mm,
        max_angle=config.angle_max_deg,
        pmf_threshold=0.1,
        nbr_threads=threads,
        random_seed=config.seed,
    )
    found = [np.asarray(line, np.float64) for line in lines]
    return [line for line in found if _length_ok(line, config)]


def _length_ok(line: Floats, config: Config) -> bool:
    length = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
    return bool(config.length_min_mm <= length <= config.length_max_mm)


def passing(lines: Iterable[Floats], where: Inside, grid: Grid) -> list[bool]:
    """For each streamline (k, 3), world mm: whether a point of it lies in `where` (x, y, z)."""
    inverse = np.linalg.inv(grid.affine)
    found = []
    for line in lines:
        voxel = np.rint(line @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        voxel = voxel[((voxel >= 0) & (voxel < grid.shape)).all(1)]
        found.append(bool(where[tuple(voxel.T)].any()))
    return found


def share_of_streamlines(lines: Sequence[Floats], grid: Grid) -> NDArray[np.float32]:
    """Part (x, y, z) of the streamlines that pass through each voxel, 0 to 1."""
    from dipy.tracking.utils import density_map

    if not lines:
        return np.zeros(grid.shape, np.float32)
    return np.asarray(density_map(lines, grid.affine, grid.shape) / len(lines), np.float32)


def tract(
    seeds: Inside, tissue: Tissue, include: Inside | None, exclude: Inside, config: Config, threads: int
) -> list[Floats]:
    """Streamlines of one tract, within all limits of the configuration.

    Args:
        seeds: label that they start in (x, y, z).
        tissue: what they run in.
        include: voxels that each must pass through; None: no such.
        exclude: voxels that none may pass through.
        config: the limits.
        threads: how many cores may be used.
    """
    passable = tissue.passable
    if config.confine_mm is not None:
        passable = passable & (
            distance_transform_edt(~seeds, sampling=tissue.grid.voxel_mm) <= config.confine_mm
        )
    lines = track(seeds & passable, replace(tissue, passable=passable), config, threads)
    if include is not None:
        lines = [line for line, ok in zip(lines, passing(lines, include, tissue.grid), strict=True) if ok]
    barred = passing(lines, exclude, tissue.grid)
    return [line for line, bad in zip(lines, barred, strict=True) if not bad]


def reachable(seeds: Inside, grid: Grid, reach_mm: float) -> tuple[slice, slice, slice]:
    """The box of the grid that a streamline from the seeds (x, y, z) can reach, with a voxel to spare."""
    index, margin = np.argwhere(seeds), np.ceil(reach_mm / grid.voxel_mm).astype(int) + 1
    low = np.maximum(index.min(0) - margin, 0)
    high = np.minimum(index.max(0) + margin + 1, grid.shape)
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))


def seed_labels(table: Sequence[Label], config: Config) -> dict[Segment, list[int]]:
    """Tract (region, side, level) -> labels of its seeds, in the order of the table."""
    found: dict[Segment, list[int]] = {}
    for one in table:
        place = one.segment
        if place.region in config.regions and (
            not config.seed_segments or place.segment in config.seed_segments
        ):
            found.setdefault(replace(place, segment=""), []).append(one.index)
    return found


COLUMNS = ("index", "name", "region", "side", "level", "segment", "streamlines", "reason")


@step(
    makes={
        "tracts": "Streamlines of all tracts, .trk, world mm; the data `tract` of each is its index",
        "tract_density": "Part of a tract's streamlines in each voxel, 4D NIfTI, a volume per tract, 0 to 1",
        "tract_table": "Table of the tracts, TSV: index (volume from 1), name, region, side, level, segment",
    },
    dwi_copies=2.0,
)
def run(
    tensor: Annotated[Path, "Diffusion tensor, 4D NIfTI: Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in world RAS+ axes"],
    fa: Annotated[Path, "Fractional anisotropy, 3D NIfTI"],
    mask: Mask,
    labels_dwi: Labels,
    label_table: LabelTable,
    config: Config,
    context: Context,
) -> tuple[Path, Path, Path]:
    """Track every structure of the configuration that has a label.

    Raises:
        DatasetError: `LABEL_TABLE`, `LABEL_NOT_INTEGER`, `IMAGE_UNREADABLE`; `IMAGE_GRID`, an image that does
            not lie on the grid of the tensor; `TRACT_SHEAR`, voxels that are not cuboids.
    """
    data, grid = images.read_float(tensor)
    _check_square(grid, tensor)
    others = {path: images.read_float(path) for path in (fa, mask)}
    labels, label_grid = images.read_labels(labels_dwi)
    for path, own in ((fa, others[fa][1]), (mask, others[mask][1]), (labels_dwi, label_grid)):
        images.check_grid("IMAGE_GRID", path, own, grid)
    labels = labels.reshape(grid.shape)
    inside = others[mask][0].reshape(grid.shape) > 0
    passable = inside & (others[fa][0].reshape(grid.shape) >= config.fa_min) & data.any(-1)
    table = read_label_table(label_table)
    include = _of_regions(labels, table, config.include) if config.include else None
    exclude = _of_regions(labels, table, config.exclude)
    wanted = seed_labels(table, config)
    near = np.zeros(grid.shape, np.bool_)
    every = np.isin(labels, [value for values in wanted.values() for value in values])
    if every.any():
        near[reachable(every, grid, config.length_max_mm)] = True
    passable &= near
    tissue = Tissue(directions(data, passable, grid, config.sharpness), passable, grid)
    lines: list[Floats] = []
    index: list[int] = []
    volumes, rows = [], []
    for number, (place, values) in enumerate(wanted.items(), start=1):
        seeds = np.isin(labels, values)
        found = tract(seeds, tissue, include, exclude, config, context.threads) if seeds.any() else []
        reason = "" if seeds.any() else "no voxel of its label in the label image"
        if not reason and len(found) < config.min_streamlines:
            reason = f"{len(found)} streamlines, min_streamlines is {config.min_streamlines}"
            found = []
        lines += found
        index += [number] * len(found)
        volumes.append(share_of_streamlines(found, grid))
        rows.append(_row(number, place, len(found), reason))
    _tell(rows, context)
    density = np.stack(volumes, axis=-1) if volumes else np.zeros((*grid.shape, 1), np.float32)
    return (
        write_bundles(context.folder / "tracts.trk", Bundles(lines, np.array(index, np.intp)), grid),
        images.write(context.folder / "tract_density.nii", density, grid),
        _write_table(context.folder / "tract_table.tsv", rows),
    )


def _of_regions(labels: NDArray[np.int32], table: Sequence[Label], regions: Sequence[str]) -> Inside:
    return np.isin(labels, [one.index for one in table if one.segment.region in regions])


def _row(number: int, place: Segment, streamlines: int, reason: str) -> dict[str, str]:
    name = "_".join(part for part in (place.region, place.side, place.level) if part and part != "midline")
    return {
        "index": str(number),
        "name": name,
        "region": place.region,
        "side": place.side,
        "level": place.level,
        "segment": place.segment,
        "streamlines": str(streamlines),
        "reason": reason,
    }


def _write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    lines = ["\t".join(COLUMNS), *("\t".join(row[name] or NA for name in COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def _check_square(grid: Grid, path: Path) -> None:
    edges = grid.affine[:3, :3] / grid.voxel_mm
    if np.abs(edges - grid.axes).max() > 0.02:
        raise DatasetError(
            Problem(
                "TRACT_SHEAR",
                "the voxels are not cuboids: streamlines cannot be tracked in them",
                where=str(path),
                found=f"affine {np.round(grid.affine, 4).tolist()}",
                expected="axes at right angles to each other",
                do="resample the diffusion series on a grid of cuboid voxels",
            )
        )


def _tell(rows: Sequence[dict[str, str]], context: Context) -> None:
    missing = [f"{row['name']} ({row['reason']})" for row in rows if row["reason"]]
    context.numbers["tracts"] = float(len(rows))
    context.numbers["streamlines"] = float(sum(int(row["streamlines"]) for row in rows))
    if missing:
        context.warn(
            Problem(
                "TRACT_NOT_FOUND",
                f"{len(missing)} of {len(rows)} tracts were not found",
                found="; ".join(missing),
                do="loosen fa_min, angle_max_deg or the lengths of track, or draw the seeds again",
                severity="warning",
            )
        )
