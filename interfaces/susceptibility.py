"""Estimate the distortion by susceptibility from b=0 volumes of opposite phase encoding.

Does not resample the series: the step `eddy` does that once, with this field and the motion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.body import body_mask
from somite.errors import DatasetError, Problem
from somite.fieldmap import Estimate, estimate
from somite.fsl_topup import run_topup
from somite.gradient_check import B0_MAX
from somite.gradients import read_fsl
from somite.images import Grid, read_float, write
from somite.orientation import describe_grid, storage_change
from somite.registration import LeastSquares, displacement_mm, in_threads, mean_of, region_of, resample
from somite.registry import Bval, Bvec, Context, Dwi, Scan, StepConfig, step
from somite.tools import find, version_of

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Pairing = Annotated[Path, "What the opposed images are, JSON: phase encoding, readout time, b=0 volumes"]
Opposed = Annotated[Path, "Images of the opposite phase encoding, 3D or 4D NIfTI"]


class Config(StepConfig):
    """Options of `susceptibility`."""

    method: Literal["none", "builtin", "topup"] = Field(
        "builtin",
        description="builtin: the smoothest field under which both images agree, its smoothness told by the "
        "data; topup: that of FSL; none: no correction",
    )
    movement: bool = Field(
        True, description="builtin: the head may have moved between the images; estimated along"
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )


@dataclass(frozen=True, eq=False)
class Side:
    """The b=0 volumes of one phase-encoding direction and readout time."""

    direction: str
    """Along the voxel axes of the series: `j-`."""
    readout_s: float | None
    volumes: tuple[NDArray[np.floating[Any]], ...]

    @property
    def sign(self) -> int:
        """-1 for `j-`, 1 for `j`."""
        return -1 if self.direction.endswith("-") else 1


def average(side: Side, grid: Grid, threads: int = 1) -> Float32:
    """Mean (i, j, k) of the volumes of a side, each aligned to the first."""
    first, *others = side.volumes
    if not others:
        return np.asarray(first, np.float32)
    region = region_of(body_mask(first), grid)
    voxel_mm = float(np.prod(grid.voxel_mm) ** (1 / 3))
    transforms = [np.eye(4) for _ in others]
    for width in (3.0, 1.0):
        squares = LeastSquares(first, np.ones(first.shape, bool), region, width * voxel_mm)
        align = partial(_aligned, squares, others, transforms)
        transforms = in_threads(align, range(len(others)), threads)
    moved = in_threads(lambda n: resample(others[n], transforms[n], grid), range(len(others)), threads)
    return mean_of([(np.asarray(first, np.float32), np.ones(first.shape, bool)), *moved])[0]


def _aligned(squares: LeastSquares, volumes: Sequence[Any], starts: Sequence[Float], number: int) -> Float:
    return squares.align(volumes[number], starts[number])


def pair_of(sides: Sequence[Side], where: str) -> tuple[Side, Side]:
    """The first side, and the first of the opposite direction.

    Raises:
        DatasetError: `NO_OPPOSED_PE`; `READOUT_ONE_SIDED` where one readout time is known and one is not.
    """
    first = sides[0]
    for other in sides[1:]:
        if other.direction[0] == first.direction[0] and other.sign != first.sign:
            if (other.readout_s is None) != (first.readout_s is None):
                raise DatasetError(
                    readout_one_sided(where, first.direction, first.readout_s, other.readout_s)
                )
            return first, other
    raise DatasetError(
        Problem(
            "NO_OPPOSED_PE",
            "no b=0 volume has the phase encoding opposite to that of the first",
            where=where,
            found=", ".join(side.direction for side in sides),
            expected=f"{first.direction} and {first.direction[0]}{'' if first.sign < 0 else '-'}",
            do="give an image of the opposite direction, or set susceptibility.method to none",
        )
    )


def readout_one_sided(where: str, direction: str, first: float | None, other: float | None) -> Problem:
    """The problem of a readout time that is known for one side only."""
    return Problem(
        "READOUT_ONE_SIDED",
        "the readout time is known for one phase-encoding direction and not for the opposite one",
        where=where,
        found=f"{first} s for {direction}, {other} s for the opposite",
        expected="TotalReadoutTime in the sidecars of both, or of neither",
        do="add TotalReadoutTime to the other sidecar, from the scanner's protocol",
    )


def find_sides(
    data: NDArray[np.floating[Any]],
    is_b0: NDArray[np.bool_],
    volumes: Sequence[Mapping[str, Any]],
    others: Sequence[Side] = (),
) -> list[Side]:
    """b=0 volumes by direction and readout time, in the order in which they come; `others` after the series.

    Raises:
        DatasetError: `NO_PHASE_ENCODING`.
    """
    found: dict[tuple[str, float | None], list[NDArray[np.floating[Any]]]] = {}
    for number in np.flatnonzero(is_b0):
        about = volumes[int(number)]
        direction = about["phase_encoding_direction"]
        if direction is None:
            raise DatasetError(_no_direction(f"volume {number} of the series"))
        found.setdefault((direction, about["total_readout_time_s"]), []).append(data[..., number])
    for other in others:
        found.setdefault((other.direction, other.readout_s), []).extend(other.volumes)
    return [Side(direction, seconds, tuple(those)) for (direction, seconds), those in found.items()]


def _no_direction(where: str) -> Problem:
    return Problem(
        "NO_PHASE_ENCODING",
        "the direction of phase encoding is not known",
        where=where,
        found="no PhaseEncodingDirection",
        expected="PhaseEncodingDirection in the sidecar",
        do="add it, or set susceptibility.method to none",
    )


def read_opposed(path: Path, about: Mapping[str, Any], grid: Grid) -> Side:
    """The b=0 volumes of an opposed image, in the voxel order of `grid`.

    Raises:
        DatasetError: `OPPOSED_GRID`, its voxels are others; `OPPOSED_VOLUMES`, it lacks one that is named;
            `NO_PHASE_ENCODING`; `IMAGE_UNREADABLE`.
    """
    data, own = read_float(path)
    change = storage_change(own, grid)
    if change is None:
        raise DatasetError(opposed_grid(path, own, grid))
    if about.get("phase_encoding_direction") is None:
        raise DatasetError(_no_direction(str(path)))
    stored = change.apply(data.reshape(*own.shape, -1))
    wanted = about["b0_volumes"]
    if not wanted or max(wanted) >= stored.shape[3]:
        raise DatasetError(
            Problem(
                "OPPOSED_VOLUMES",
                "the opposed image has not the b=0 volumes that it should",
                where=str(path),
                found=f"{stored.shape[3]} volumes",
                expected=f"b=0 in volumes {', '.join(map(str, wanted)) or '(none)'}",
                do="compare the image with its bval file",
            )
        )
    direction = change.apply_to_direction(about["phase_encoding_direction"])
    return Side(direction, about.get("total_readout_time_s"), tuple(stored[..., v] for v in wanted))


def opposed_grid(path: Path, own: Grid, grid: Grid) -> Problem:
    """The problem of an opposed image on another grid than the series."""
    return Problem(
        "OPPOSED_GRID",
        "the image of opposite phase encoding lies on another grid than the series",
        where=str(path),
        found=describe_grid(own),
        expected=describe_grid(grid),
        do="acquire both with one geometry; a resampled image would be distorted along a wrong axis",
    )


def find_field(pair: tuple[Side, Side], grid: Grid, move: bool = True, threads: int = 1) -> Estimate:
    """The displacement of a pair at the mean readout time: `somite.fieldmap.estimate` of both averages."""
    first, other = pair
    seconds = (first.readout_s or 1.0, other.readout_s or 1.0)
    mean = sum(seconds) / 2
    return estimate(
        (average(first, grid, threads), average(other, grid, threads)),
        (first.sign * seconds[0] / mean, other.sign * seconds[1] / mean),
        grid,
        "ijk".index(first.direction[0]),
        threads,
        move,
    )


def _fsl_tools(config: Config) -> dict[str, str]:
    return {"FSL": version_of(find("topup").name)} if config.method == "topup" else {}


@step(
    makes={
        "field": "Off-resonance, 3D NIfTI, in the undistorted space of the first b=0 volume: Hz, or voxels "
        "of displacement where no readout time is known",
        "b0_undistorted": "Mean b=0 volume of both directions without distortion, 3D NIfTI",
    },
    tools=_fsl_tools,
)
def run(
    dwi: Dwi,
    bval: Bval,
    bvec: Bvec,
    scan: Scan,
    pairing: Pairing,
    config: Config,
    context: Context,
    opposed: tuple[Opposed, ...] | None = None,
) -> tuple[Path, Path]:
    """Estimate the field by the method of the config.

    Raises:
        DatasetError: as `find_sides`, `read_opposed` and `pair_of`.
        ToolError: of FSL topup.
    """
    data, grid = read_float(dwi)
    is_b0 = read_fsl(bval, bvec, grid.affine).is_b0(config.b0_max_s_per_mm2)
    about = json.loads(pairing.read_text())["opposed"]
    others = [read_opposed(path, one, grid) for path, one in zip(opposed or (), about, strict=True)]
    sides = find_sides(data, is_b0, json.loads(scan.read_text())["volumes"], others)
    if config.method == "none":
        field, undistorted = np.zeros(grid.shape, np.float32), average(sides[0], grid, context.threads)
    else:
        pair = pair_of(sides, str(dwi))
        _tell_unused(sides, pair, context)
        field, undistorted = _by_method(pair, grid, config, context)
        _tell_size(field, pair[0], body_mask(undistorted), grid, context)
    return (
        write(context.folder / "field.nii", field, grid),
        write(context.folder / "b0_undistorted.nii", undistorted, grid),
    )


def _by_method(
    pair: tuple[Side, Side], grid: Grid, config: Config, context: Context
) -> tuple[Float32, Float32]:
    first, other = pair
    seconds = [side.readout_s or 1.0 for side in pair]
    if first.readout_s is None:
        reason = "no sidecar tells a readout time: the same is taken for both directions; Hz cannot be given"
        context.infer("unit of the field", "voxels of displacement", reason)
    if config.method == "topup":
        images = [average(side, grid, context.threads) for side in pair]
        return run_topup(images, [first.direction, other.direction], seconds, grid, context)
    found = find_field(pair, grid, config.movement, context.threads)
    context.infer("smoothness of the field", f"{found.smoothness:.3g}", "the largest evidence of the data")
    region = region_of(body_mask(found.undistorted), grid)
    context.numbers["pair_movement_mm"] = displacement_mm(found.movement, region)
    return np.asarray(found.displacement / np.float32(sum(seconds) / 2), np.float32), found.undistorted


def _tell_unused(sides: Sequence[Side], pair: tuple[Side, Side], context: Context) -> None:
    for side in sides:
        if side not in pair:
            what = f"b=0 volumes of {side.direction}, {side.readout_s} s"
            context.infer(what, "not used", "the field is estimated from one pair of opposite directions")


def _tell_size(field: Float32, first: Side, body: NDArray[np.bool_], grid: Grid, context: Context) -> None:
    axis = "ijk".index(first.direction[0])
    moved = np.abs(field[body if body.any() else ...]) * (first.readout_s or 1.0) * grid.voxel_mm[axis]
    context.numbers["distortion_mean_mm"] = float(moved.mean())
    context.numbers["distortion_p99_mm"] = float(np.percentile(moved, 99))
