"""Correct the motion between volumes, and with FSL the eddy-current distortion; turn the gradients along."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.body import body_mask, read_mask
from somite.errors import Problem
from somite.fsl_eddy import EddyOptions, run_fsl_eddy
from somite.gradient_check import B0_MAX
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.images import Grid, read_float, write
from somite.registration import Float, Region, displacement_mm, in_threads, region_of, resample
from somite.registry import Bval, Bvec, Context, Dwi, Mask, Scan, StepConfig, step
from somite.rigid import Rigid, parameters_of
from somite.tools import find, version_of

MOTION_COLUMNS = (
    "volume",
    "trans_x_mm",
    "trans_y_mm",
    "trans_z_mm",
    "rot_x_deg",
    "rot_y_deg",
    "rot_z_deg",
    "displacement_mm",
)


LARGE_MM, LARGE_DEG = 12.0, 12.0
"""Mean displacement and rotation of a volume beyond which the registration is doubted."""


class Config(StepConfig):
    """Options of `eddy`."""

    method: Literal["none", "rigid", "fsl"] = Field(
        "rigid",
        description="none: volumes as they are. rigid: each volume moved onto the first b=0 volume, for any "
        "part of the body; no eddy currents. fsl: FSL eddy, motion and eddy currents",
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    fsl_repol: bool = Field(True, description="fsl: replace slices that are outliers by their prediction")
    fsl_slm: Literal["none", "linear", "quadratic"] = Field(
        "none", description="fsl: second-level model of the eddy currents; linear for few directions"
    )
    fsl_is_shelled: bool = Field(
        False, description="fsl: tell eddy that the b-values lie on shells, so that it does not check"
    )


def turn_gradients(gradients: Gradients, transforms: Float) -> Gradients:
    """Directions as the tissue saw them: turned back by each volume's rotation, world axes.

    Leemans and Jones, Magn Reson Med 61:1336 (2009).
    """
    turned = np.einsum("nji,nj->ni", transforms[:, :3, :3], gradients.bvecs)
    return Gradients(gradients.bvals, turned)


def motion_table(transforms: Float, region: Region) -> Float:
    """(n, 7): shift in mm, rotation vector in degrees, mean displacement over the region in mm.

    World RAS+ axes, about the centre of the region: where the body was when the volume was acquired,
    relative to the first b=0 volume.
    """
    rotations, shifts = parameters_of(transforms, region.centre)
    moved = [displacement_mm(transform, region) for transform in transforms]
    return np.column_stack([shifts, np.rad2deg(rotations), moved])


def write_motion(path: Path, table: Float) -> Path:
    """Write the motion table as TSV, one row per volume, counted from 0."""
    rows = ["\t".join([str(v), *(f"{x + 0.0:.5f}" for x in row)]) for v, row in enumerate(table)]
    path.write_text("\n".join(["\t".join(MOTION_COLUMNS), *rows]) + "\n")
    return path


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


def correct_rigid(
    data: NDArray[np.floating[Any]],
    gradients: Gradients,
    mask: NDArray[np.bool_],
    grid: Grid,
    b0_max: float = B0_MAX,
    threads: int = 1,
) -> tuple[NDArray[np.float32], Gradients, Float, Float]:
    """Motion-corrected series (x, y, z, n), turned gradients, transforms (n, 4, 4) and motion (n, 7).

    One cubic interpolation from the data as given. Results do not depend on `threads`.
    """
    region = region_of(mask, grid)
    rigid = Rigid(data, region, threads)
    transforms = rigid.estimate(gradients.bvals, gradients.bvecs, gradients.is_b0(b0_max))
    corrected = np.empty(data.shape, np.float32, order="F")

    def place(volume: int) -> None:
        corrected[..., volume] = resample(data[..., volume], transforms[volume], grid)[0]

    in_threads(place, range(data.shape[3]), threads)
    return corrected, turn_gradients(gradients, transforms), transforms, motion_table(transforms, region)


def _fsl_tools(config: Config) -> dict[str, str]:
    if config.method != "fsl":
        return {}
    return {"FSL": version_of(find(*EddyOptions.executables).name)}


@step(
    makes={
        "dwi_corrected": "Series without motion, 4D NIfTI",
        "bvec_corrected": "Gradient directions turned with the volumes, FSL text format",
        "motion": "Motion of each volume, TSV: shift in mm and rotation in degrees in world RAS axes, "
        "mean displacement in mm",
    },
    tools=_fsl_tools,
    dwi_copies=3.5,
)
def run(
    dwi: Dwi,
    bval: Bval,
    bvec: Bvec,
    scan: Scan,
    config: Config,
    context: Context,
    mask_given: Mask | None = None,
) -> tuple[Path, Path, Path]:
    """Correct motion by the method of the config.

    Raises:
        DatasetError: `MASK_GRID`; for fsl, `NO_READOUT_TIME` and `NO_PHASE_ENCODING`.
        ToolError: of FSL eddy.
    """
    data, grid = read_float(dwi)
    gradients = read_fsl(bval, bvec, grid.affine)
    table = np.zeros((data.shape[3], 7))
    if config.method == "rigid":
        is_b0 = gradients.is_b0(config.b0_max_s_per_mm2)
        mask = _region_mask(data, grid, is_b0, mask_given, context)
        data, gradients, _, table = correct_rigid(
            data, gradients, mask, grid, config.b0_max_s_per_mm2, context.threads
        )
    elif config.method == "fsl":
        mask = _region_mask(data, grid, gradients.is_b0(config.b0_max_s_per_mm2), mask_given, context)
        options = EddyOptions(config.fsl_repol, config.fsl_slm, config.fsl_is_shelled)
        volumes: Sequence[Mapping[str, Any]] = json.loads(scan.read_text())["volumes"]
        data, gradients, table = run_fsl_eddy(dwi, gradients, volumes, mask, grid, options, context)
    _tell_motion(table, context)
    _, made_bvec = write_fsl(
        gradients, context.folder / "bval_corrected.bval", context.folder / "bvec_corrected.bvec", grid.affine
    )
    made_dwi = write(context.folder / "dwi_corrected.nii", data, grid)
    return made_dwi, made_bvec, write_motion(context.folder / "motion.tsv", table)


def _tell_motion(table: Float, context: Context) -> None:
    context.numbers["motion_mean_displacement_mm"] = float(table[:, 6].mean())
    context.numbers["motion_max_displacement_mm"] = float(table[:, 6].max())
    turns = np.linalg.norm(table[:, 3:6], axis=1)
    context.numbers["motion_max_rotation_deg"] = float(turns.max())
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
