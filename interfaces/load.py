"""Load a session: join its series, check voxels and gradients, and keep what is known of each volume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.errors import DatasetError, Problem
from somite.files import read_json
from somite.gradient_check import B0_MAX, Series, check_group, name_volumes, not_quite_unit, read_table
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid, grid_of, open_image, read_float, write
from somite.orientation import StorageChange, storage_change
from somite.orientation import describe_grid as describe_grid
from somite.registry import Bval, Bvec, Context, Dwi, Scan, StepConfig, step
from somite.voxel_check import check_file, check_volumes

P = ParamSpec("P")
T = TypeVar("T")


class Config(StepConfig):
    """Options of `load`."""

    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )


def join_gradients(tables: Sequence[Gradients]) -> Gradients:
    """One table of several, in their order; directions are in world axes, so series of any frame may join."""
    return Gradients(
        np.concatenate([table.bvals for table in tables]), np.concatenate([table.bvecs for table in tables])
    )


def describe_series(
    name: str, sidecar: Mapping[str, Any], change: StorageChange, context: Context
) -> dict[str, Any]:
    """What a BIDS sidecar says of the acquisition, in seconds and in the voxel axes of the joined series.

    What it does not say is None; what is derived is told to `context`.
    """
    direction = sidecar.get("PhaseEncodingDirection")
    return {
        "name": name,
        "phase_encoding_direction": change.apply_to_direction(direction) if direction else None,
        "total_readout_time_s": total_readout_time(name, sidecar, context),
        "echo_time_s": sidecar.get("EchoTime"),
        "repetition_time_s": sidecar.get("RepetitionTime"),
        "slice_timing_s": slice_timing(sidecar, change),
        "slice_encoding_direction": change.apply_to_direction(sidecar.get("SliceEncodingDirection", "k")),
        "partial_fourier": sidecar.get("PartialFourier"),
        "partial_fourier_direction": sidecar.get("PartialFourierDirection"),
    }


def total_readout_time(name: str, sidecar: Mapping[str, Any], context: Context) -> float | None:
    """Seconds from the centre of the first echo to that of the last (BIDS `TotalReadoutTime`), or None.

    Where it is not given: `EffectiveEchoSpacing` x (`ReconMatrixPE` - 1), the definition in BIDS; then
    dcm2niix's `EstimatedTotalReadoutTime`.
    """
    if "TotalReadoutTime" in sidecar:
        return float(sidecar["TotalReadoutTime"])
    if "EffectiveEchoSpacing" in sidecar and "ReconMatrixPE" in sidecar:
        seconds = float(sidecar["EffectiveEchoSpacing"]) * (float(sidecar["ReconMatrixPE"]) - 1)
        reason = "the sidecar has no TotalReadoutTime: EffectiveEchoSpacing x (ReconMatrixPE - 1)"
    elif "EstimatedTotalReadoutTime" in sidecar:
        seconds = float(sidecar["EstimatedTotalReadoutTime"])
        reason = "the sidecar has no TotalReadoutTime: the converter's EstimatedTotalReadoutTime"
    else:
        return None
    context.infer(f"total_readout_time_s of {name}", f"{seconds:.6g}", reason)
    return seconds


def slice_timing(sidecar: Mapping[str, Any], change: StorageChange) -> list[float] | None:
    """Start of each slice in seconds along the stored third axis, or None where slices run along another."""
    times = sidecar.get("SliceTiming")
    if not times or sidecar.get("SliceEncodingDirection", "k") not in ("k", "k-") or change.axes[2] != 2:
        return None
    backwards = (sidecar.get("SliceEncodingDirection", "k") == "k-") != change.flipped[2]
    return [float(t) for t in (reversed(times) if backwards else times)]


def read_sidecar(path: Path) -> dict[str, Any]:
    """A JSON sidecar, its acquisition fields checked.

    Raises:
        DatasetError: `SIDECAR_UNREADABLE`, `SIDECAR_INVALID`.
    """
    try:
        sidecar = read_json(path)
        if not isinstance(sidecar, dict):
            raise ValueError(f"a {type(sidecar).__name__}")
    except (OSError, ValueError) as error:
        raise DatasetError(
            Problem(
                "SIDECAR_UNREADABLE",
                "the JSON sidecar cannot be read",
                where=str(path),
                found=str(error),
                expected="a JSON object",
                do="mend the file, or write it again with the converter",
            )
        ) from error
    problems = [p for p in (_invalid(path, key, sidecar[key]) for key in sidecar) if p is not None]
    if problems:
        raise DatasetError.of(problems)
    return sidecar


_SECONDS = (
    "TotalReadoutTime",
    "EstimatedTotalReadoutTime",
    "EffectiveEchoSpacing",
    "EchoTime",
    "RepetitionTime",
)
_DIRECTIONS = ("i", "i-", "j", "j-", "k", "k-")


def _invalid(path: Path, key: str, value: Any) -> Problem | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _SECONDS and not (number and 0 <= value < 60):
        expected = "a number of seconds"
    elif key in ("PhaseEncodingDirection", "SliceEncodingDirection") and value not in _DIRECTIONS:
        expected = " or ".join(_DIRECTIONS)
    elif key == "SliceTiming" and not (
        isinstance(value, list) and all(isinstance(t, int | float) for t in value)
    ):
        expected = "a list of seconds"
    elif key == "PartialFourier" and not (number and 0 < value <= 1):
        expected = "the fraction of k-space that was measured, above 0 and up to 1"
    elif key == "PartialFourierDirection" and not isinstance(value, str):
        expected = "PHASE, FREQUENCY, SLICE_SELECT or COMBINATION"
    else:
        return None
    return Problem(
        "SIDECAR_INVALID",
        f"the sidecar's {key} is not valid",
        where=f"{path}: {key}",
        found=json.dumps(value),
        expected=expected,
        do="correct it; BIDS gives times in seconds",
    )


def change_to_first(paths: Sequence[Path], grids: Sequence[Grid]) -> list[StorageChange]:
    """How to store each series in the voxel order of the first.

    Raises:
        DatasetError: `SERIES_GRID` where a series has other voxels than the first.
    """
    changes, problems = [], []
    for path, grid in zip(paths, grids, strict=True):
        change = storage_change(grid, grids[0])
        if change is None:
            problems.append(_other_grid(path, grid, paths[0], grids[0]))
        else:
            changes.append(change)
    if problems:
        raise DatasetError.of(problems)
    return changes


def _other_grid(path: Path, grid: Grid, first_path: Path, first: Grid) -> Problem:
    return Problem(
        "SERIES_GRID",
        "the series to be joined do not lie on one grid",
        where=str(path),
        found=describe_grid(grid),
        expected=f"{describe_grid(first)}, as in {first_path.name}",
        do="process the series separately (runs: combine: none), or resample one to the other beforehand",
    )


def series_name(path: Path) -> str:
    """File name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


@step(
    makes={
        "dwi_loaded": "All series joined, 4D NIfTI, float32",
        "bval_loaded": "b-values of all volumes in s/mm2, FSL text format",
        "bvec_loaded": "Unit directions of all volumes, FSL text format, in the voxel frame of dwi_loaded",
        "scan": "Acquisition of each volume, JSON: series, phase encoding, readout and echo times",
    },
    dwi_copies=2.2,
)
def run(
    dwi: tuple[Dwi, ...],
    bval: tuple[Bval, ...],
    bvec: tuple[Bvec, ...],
    sidecar: tuple[Scan, ...],
    config: Config,
    context: Context,
) -> tuple[Path, Path, Path, Path]:
    """Join the series of a session in the order given, on the grid and in the voxel order of the first.

    Raises:
        DatasetError: every problem of `check_file`, `check_group`, `check_volumes` and `read_sidecar`,
            and `SERIES_GRID`.
    """
    _raise_any([problem for path in dwi for problem in check_file(path)])
    images = [open_image(path) for path in dwi]
    n_volumes = [int(image.shape[3]) for image in images]
    group = [Series(b, v, n) for b, v, n in zip(bval, bvec, n_volumes, strict=True)]
    grids = [grid_of(image) for image in images]
    problems = list(check_group(group, config.b0_max_s_per_mm2))
    changes = _gathering(problems, change_to_first, dwi, grids)
    sidecars = [_gathering(problems, read_sidecar, path) for path in sidecar]
    _raise_any(problems)
    described = [
        describe_series(series_name(path), side, change, context)
        for path, side, change in zip(dwi, sidecars, changes, strict=True)
    ]
    for path_b, path_v in zip(bval, bvec, strict=True):
        _tell_normalised(path_b, path_v, config, context)
    gradients = join_gradients([read_fsl(b, v, g.affine) for b, v, g in zip(bval, bvec, grids, strict=True)])

    joined = context.folder / "dwi_loaded.nii"
    write(joined, _join_voxels(dwi, changes, n_volumes, grids[0]), grids[0])
    table = write_fsl(
        gradients, context.folder / "bval_loaded.bval", context.folder / "bvec_loaded.bvec", grids[0].affine
    )
    scan = context.folder / "scan.json"
    scan.write_text(json.dumps(scan_of(described, n_volumes), indent=1) + "\n")
    return joined, *table, scan


def scan_of(described: Sequence[Mapping[str, Any]], n_volumes: Sequence[int]) -> dict[str, Any]:
    """The `scan` product: an entry per volume, and one per series."""
    keys = ("phase_encoding_direction", "total_readout_time_s", "echo_time_s", "repetition_time_s")
    volumes = [
        {"series": s} | {key: series[key] for key in keys}
        for s, (series, n) in enumerate(zip(described, n_volumes, strict=True))
        for _ in range(n)
    ]
    series_keys = (
        "name",
        "slice_timing_s",
        "phase_encoding_direction",
        "slice_encoding_direction",
        "partial_fourier",
        "partial_fourier_direction",
    )
    return {"volumes": volumes, "series": [{key: s[key] for key in series_keys} for s in described]}


def _join_voxels(
    paths: Sequence[Path], changes: Sequence[StorageChange], n_volumes: Sequence[int], grid: Grid
) -> NDArray[np.float32]:
    """All volumes (x, y, z, n) as float32, checked; problems of all series are raised together."""
    joined = np.empty((*grid.shape, sum(n_volumes)), np.float32, order="F")
    problems: list[Problem] = []
    start = 0
    for path, change, n in zip(paths, changes, n_volumes, strict=True):
        data, _ = read_float(path)
        problems += check_volumes(data, str(path))
        joined[..., start : start + n] = change.apply(data)
        start += n
    _raise_any(problems)
    return joined


def _tell_normalised(bval: Path, bvec: Path, config: Config, context: Context) -> None:
    bvals, directions = read_table(bval, bvec)
    off = not_quite_unit(bvals, directions, config.b0_max_s_per_mm2)
    if len(off):
        norms = np.linalg.norm(directions[off], axis=1)
        context.infer(
            f"directions in {bvec.name}",
            f"normalised in {name_volumes(off)}",
            f"length {norms.min():.5f} to {norms.max():.5f}, within rounding of 1",
        )


def _gathering(problems: list[Problem], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns; what is wrong joins `problems`, and the value is then not to be used."""
    try:
        return work(*args, **kwargs)
    except DatasetError as error:
        problems += error.problems
        return cast(T, None)


def _raise_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise DatasetError.of(problems)
