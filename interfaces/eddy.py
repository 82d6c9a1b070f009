"""Correct motion, eddy currents and susceptibility in one resampling; turn the gradients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.body import body_mask, read_mask
from somite.corrected import DISTORTION, MOTION, OUTLIERS, TERMS, Corrected, Outlier
from somite.correction.corrector import correct
from somite.correction.estimation import Acquisition, Options
from somite.correction.series import Encoding
from somite.errors import DatasetError, Problem
from somite.files import link_or_copy
from somite.fsl_eddy import EddyOptions, common_timing, eddy_versions, run_fsl_eddy, unknown_of
from somite.gradient_check import B0_MAX
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid, check_grid, read_float, write
from somite.registry import Bval, Bvec, Context, Dwi, Mask, Scan, StepConfig, step
from somite.segments import NA, Column

Float = NDArray[np.float64]
FieldMap = Annotated[Path, "Off-resonance in Hz (voxels where no readout time is known), 3D NIfTI"]

LARGE_MM, LARGE_DEG = 12.0, 12.0
"""Mean displacement and rotation of a volume beyond which the registration is doubted."""

FEW_VOLUMES = 12
"""Weighted volumes below which `auto` looks for linear eddy currents only."""


class Config(StepConfig):
    """Options of `eddy`."""

    method: Literal["builtin", "rigid", "fsl", "none"] = Field(
        "builtin",
        description="builtin: motion, eddy currents, lost slices; for any part of the body. rigid: the same "
        "without eddy currents. fsl: FSL eddy. none: only the field is corrected",
    )
    terms: Literal["auto", "linear", "quadratic"] = Field(
        "auto",
        description="builtin: degree of the eddy currents' field in space; auto: quadratic, or linear where "
        f"there are fewer than {FEW_VOLUMES} weighted volumes",
    )
    replace_outliers: bool = Field(
        True, description="Replace slices that lost signal by what the other volumes foretell"
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    fsl_slm: Literal["none", "linear", "quadratic"] = Field(
        "none", description="fsl: second-level model of the eddy currents; linear for few directions"
    )
    fsl_is_shelled: bool = Field(
        False, description="fsl: tell eddy that the b-values lie on shells, so that it does not check"
    )
    fsl_gpu: Literal["auto", "yes", "no"] = Field(
        "auto", description="fsl: auto: CUDA where there is a GPU; yes: nothing else; no: never"
    )
    fsl_slice_to_volume: bool = Field(
        True, description="fsl: correct motion within volumes, where slice timing is known and there is a GPU"
    )
    fsl_slice_to_volume_order: int = Field(
        0,
        ge=0,
        le=100,
        description="fsl: degrees of that motion; 0: a quarter of the excitations of a volume",
    )

    def for_fsl(self) -> EddyOptions:
        """What is asked of FSL eddy."""
        return EddyOptions(
            self.replace_outliers,
            self.fsl_slm,
            self.fsl_is_shelled,
            self.fsl_gpu,
            self.fsl_slice_to_volume,
            self.fsl_slice_to_volume_order,
        )


def encoding_of(volumes: Sequence[Mapping[str, Any]], context: Context, *, has_field: bool) -> Encoding:
    """Phase encoding of the volumes of a `scan`; what is not known is told to `context`.

    Where no readout time is known, a field is in voxels and 1 s stands for all.

    Raises:
        DatasetError: there is a field, and `NO_PHASE_ENCODING`, or `NO_READOUT_TIME` of some volumes only.
    """
    directions = [volume.get("phase_encoding_direction") for volume in volumes]
    readouts = [volume.get("total_readout_time_s") for volume in volumes]
    if None in readouts:
        if has_field and any(seconds is not None for seconds in readouts):
            raise DatasetError(unknown_of(volumes, "total_readout_time_s", "the field"))
        context.infer("readout time", "equal for all volumes", "it is not known for every volume")
        readouts = [1.0] * len(volumes)
    if has_field and None in directions:
        raise DatasetError(unknown_of(volumes, "phase_encoding_direction", "the field"))
    return Encoding(
        np.array([-1 if d is None else "ijk".index(d[0]) for d in directions]),
        np.array([-1.0 if d is not None and d.endswith("-") else 1.0 for d in directions]),
        np.array(readouts, np.float64),
    )


def _table(path: Path, schema: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Path:
    """A TSV; counts as they are, other numbers with five digits."""
    columns = [column.name for column in schema]
    lines = [[f"{x + 0.0:.5f}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    path.write_text("\n".join("\t".join(cells) for cells in (columns, *lines)) + "\n")
    return path


def write_motion(path: Path, found: Corrected, crossed: NDArray[np.bool_]) -> Path:
    """Write the motion table as TSV, one row per volume, counted from 0.

    Args:
        path: of the table.
        found: what it tells.
        crossed: (slices,) which of them the region of motion crosses: in others nothing can be lost.
    """
    lost = np.zeros(len(found.motion), int)
    for outlier in found.outliers:
        lost[outlier.volume] += crossed[outlier.slice]
    counts = [(n, crossed.sum()) if seen else (NA, NA) for n, seen in zip(lost, found.searched, strict=True)]
    rows = [[v, *map(float, found.motion[v]), *count] for v, count in enumerate(counts)]
    return _table(path, MOTION, rows)


def _region_mask(
    data: NDArray[np.floating[Any]],
    grid: Grid,
    is_b0: NDArray[np.bool_],
    given: Path | None,
    context: Context,
) -> NDArray[np.bool_]:
    if given is None:
        reason = "no mask was given: the large pieces above half of Otsu's threshold"
        context.infer("region of motion", "body", reason)
        return body_mask(data[..., is_b0].mean(3))
    context.infer("region of motion", given.name, "the mask that was given")
    return read_mask(given, grid)


def read_field(path: Path, grid: Grid) -> NDArray[np.float32]:
    """The field on the grid of the series.

    Raises:
        DatasetError: `FIELD_GRID`.
    """
    field, own = read_float(path)
    check_grid("FIELD_GRID", path, own, grid)
    return field


def slice_axis_of(series: Sequence[Mapping[str, Any]], context: Context) -> int:
    """Voxel axis along which the slices of a `scan` lie: the third where they differ."""
    axes = {(one.get("slice_encoding_direction") or "k")[0] for one in series} or {"k"}
    if len(axes) != 1:
        context.infer("slice axis", "k", "the series were acquired along different axes")
        return 2
    return "ijk".index(axes.pop())


def _options(
    config: Config, gradients: Gradients, encoding: Encoding, slice_axis: int, context: Context
) -> Options:
    """What the corrector looks for, and why."""
    if config.method == "none":
        return Options(b0_max=config.b0_max_s_per_mm2, slice_axis=slice_axis, moving=False)
    degree = {"linear": 1, "quadratic": 2, "auto": 2}[config.terms]
    n_weighted = int((~gradients.is_b0(config.b0_max_s_per_mm2)).sum())
    if config.method == "rigid":
        degree = 0
    elif (encoding.axes < 0).any():
        context.infer("eddy currents", "not corrected", "the phase-encoding direction is not known")
        degree = 0
    elif config.terms == "auto" and n_weighted < FEW_VOLUMES:
        context.infer("eddy currents", "linear", f"there are {n_weighted} weighted volumes")
        degree = 1
    return Options(
        degree, config.b0_max_s_per_mm2, slice_axis=slice_axis, replace_lost=config.replace_outliers
    )


def _tools(config: Config) -> dict[str, str]:
    return eddy_versions(config.for_fsl()) if config.method == "fsl" else {}


@step(
    makes={
        "dwi_corrected": "Series without motion and distortion, 4D NIfTI",
        "bvec_corrected": "Gradient directions turned with the volumes, FSL text format",
        "motion": "Motion of each volume, TSV: shift in mm and rotation in degrees in world RAS axes, "
        "mean displacement in mm; slices that lost signal, of so many looked at",
        "outliers": "Slices that lost signal, TSV: volume, slice, z, and whether they were replaced",
        "distortion": "Eddy-current polynomial of each volume, TSV: mm along phase encoding at 100 mm from "
        "the centre of the image, root mean square in mm",
    },
    tools=_tools,
    dwi_copies=4.5,
)
def run(
    dwi: Dwi,
    bval: Bval,
    bvec: Bvec,
    scan: Scan,
    config: Config,
    context: Context,
    field: FieldMap | None = None,
    mask_given: Mask | None = None,
) -> tuple[Path, Path, Path, Path, Path]:
    """Correct motion and distortion by the method of the config.

    Raises:
        DatasetError: `NO_B0`; `MASK_GRID`, `MASK_EMPTY`, `FIELD_GRID`; with a field or for fsl,
            `NO_READOUT_TIME` and `NO_PHASE_ENCODING`.
        ToolError: of FSL eddy.
    """
    data, grid = read_float(dwi)
    gradients = read_fsl(bval, bvec, grid.affine)
    if config.method == "none" and field is None:
        untouched = link_or_copy(dwi.resolve(), context.folder / f"dwi_corrected{_suffix(dwi)}")
        return _written(untouched, as_it_is(data, gradients), np.zeros(0, bool), grid, context)
    described = json.loads(scan.read_text())
    volumes = described["volumes"]
    is_b0 = gradients.is_b0(config.b0_max_s_per_mm2)
    if not is_b0.any():
        raise DatasetError(_no_b0(gradients, config))
    mask = _region_mask(data, grid, is_b0, mask_given, context)
    slice_axis = 2 if config.method == "fsl" else slice_axis_of(described["series"], context)
    if config.method == "fsl":
        timing = common_timing(described["series"])
        asked = config.for_fsl()
        found = run_fsl_eddy(
            dwi, gradients, volumes, mask, grid, asked, context, field=field, slice_timing=timing
        )
    else:
        encoding = encoding_of(volumes, context, has_field=field is not None)
        options = _options(config, gradients, encoding, slice_axis, context)
        known = None if field is None else read_field(field, grid)
        series = Acquisition(data, gradients, encoding, mask, grid, known, begins_of(volumes))
        found = correct(series, options, context.threads)
    _tell(found, config.replace_outliers, context)
    crossed = np.asarray(mask.any(tuple(axis for axis in range(3) if axis != slice_axis)))
    corrected = write(context.folder / "dwi_corrected.nii", found.data, grid)
    return _written(corrected, found, crossed, grid, context)


def _no_b0(gradients: Gradients, config: Config) -> Problem:
    return Problem(
        "NO_B0",
        "no volume counts as b=0: there is nothing to align the others to",
        where="the b-values of the series",
        found=f"b-values from {gradients.bvals.min():g} s/mm2",
        expected=f"one of at most {config.b0_max_s_per_mm2:g} s/mm2",
        do="raise eddy.b0_max_s_per_mm2 to the lowest b-value, or set eddy.method to none",
    )


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".gz") else ".nii"


def begins_of(volumes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Volumes with which a series begins."""
    series = [volume.get("series", 0) for volume in volumes]
    return [v for v in range(len(series)) if v == 0 or series[v] != series[v - 1]]


def as_it_is(data: NDArray[np.float32], gradients: Gradients) -> Corrected:
    """A series that nothing was done to."""
    n = data.shape[3]
    distortion = np.zeros((n, len(TERMS) + 1))
    return Corrected(data, gradients, np.zeros((n, 7)), [], distortion, np.zeros(n, bool))


def _written(
    dwi: Path, found: Corrected, crossed: NDArray[np.bool_], grid: Grid, context: Context
) -> tuple[Path, Path, Path, Path, Path]:
    folder = context.folder
    bval, bvec = folder / "bval_corrected.bval", folder / "bvec_corrected.bvec"
    write_fsl(found.gradients, bval, bvec, grid.affine)
    distortion = [[v, *map(float, row)] for v, row in enumerate(found.distortion)]
    return (
        dwi,
        bvec,
        write_motion(folder / "motion.tsv", found, crossed),
        _table(folder / "outliers.tsv", OUTLIERS, found.outliers),
        _table(folder / "distortion.tsv", DISTORTION, distortion),
    )


def _tell(found: Corrected, replaces: bool, context: Context) -> None:
    """Figures of the record, and a warning where the motion is hard to believe."""
    table = found.motion
    turns = np.linalg.norm(table[:, 3:6], axis=1)
    context.numbers["motion_mean_displacement_mm"] = float(table[:, 6].mean())
    context.numbers["motion_max_displacement_mm"] = float(table[:, 6].max())
    context.numbers["motion_max_rotation_deg"] = float(turns.max())
    context.numbers["distortion_rms_mm"] = float(np.sqrt((found.distortion[:, -1] ** 2).mean()))
    context.numbers["outlier_slices"] = float(len(found.outliers))
    unseen = np.flatnonzero(~found.searched)
    if len(unseen):
        reason = "fewer than four volumes of their contrast, or the method does not look"
        context.infer("lost slices", f"not looked for in volumes {', '.join(map(str, unseen[:20]))}", reason)
    if replaces:
        _warn_of_kept(found.outliers, context)
    far = np.flatnonzero((table[:, 6] > LARGE_MM) | (turns > LARGE_DEG))
    if len(far):
        context.warn(
            Problem(
                "MOTION_LARGE",
                "the motion found is larger than bodies in a scanner make: the registration may have failed",
                where=f"volumes {', '.join(map(str, far[:20]))}",
                found=f"up to {table[:, 6].max():.1f} mm and {turns.max():.1f} degrees",
                expected=f"at most {LARGE_MM:g} mm and {LARGE_DEG:g} degrees",
                do="look at these volumes of the corrected series; where the field of view is too small "
                "to tell motion by, choose eddy.method: none",
                severity="warning",
            )
        )


def _warn_of_kept(outliers: Sequence[Outlier], context: Context) -> None:
    kept = sorted({outlier.volume for outlier in outliers if not outlier.replaced})
    if kept:
        context.warn(
            Problem(
                "OUTLIERS_KEPT",
                "slices that lost signal could not be replaced",
                where=f"volumes {', '.join(map(str, kept[:20]))}",
                found=f"{sum(not outlier.replaced for outlier in outliers)} slices",
                expected="other volumes of the same b-value, to foretell them from",
                do="leave these volumes out, or fit the tensor with tensor.method: robust",
                severity="warning",
            )
        )
