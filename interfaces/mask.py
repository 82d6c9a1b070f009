"""Mask: the voxels to be fitted. A mask that is given always wins, and no labelled voxel is ever left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.body import body_mask, read_mask, threshold_by_ratio, without_holes
from somite.errors import DatasetError, Problem, ToolError
from somite.gradient_check import B0_MAX
from somite.images import Grid, read_float, read_labels, write
from somite.orientation import describe_grid
from somite.registry import Bval, Context, Dwi, Labels, Mask, StepConfig, step
from somite.suites import numbers_of
from somite.tools import read_output, run_interface, version_of

_BRIGHTEST = 2.0  # in the median of the tissue


class Config(StepConfig):
    """Options of `mask`."""

    method: Literal["auto", "body", "median_otsu", "bet", "dwi2mask", "given"] = Field(
        "auto",
        description="Where no mask is given. auto: body. body: half of Otsu's threshold, the large pieces, "
        "holes filled; for any part of the body. median_otsu: DIPY's, for brains. bet: FSL's, for brains. "
        "dwi2mask: MRtrix3's, for brains. given: no mask is made, and to give none is an error",
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    median_radius_voxels: int = Field(2, ge=1, le=10, description="median_otsu: radius of the median filter")
    median_passes: int = Field(1, ge=1, le=10, description="median_otsu: passes of the median filter")
    bet_fraction: float = Field(
        0.3, gt=0, lt=1, description="bet: fractional intensity threshold; smaller gives a larger brain"
    )


def median_otsu_mask(
    mean_b0: NDArray[np.floating[Any]], radius: int = 2, passes: int = 1
) -> NDArray[np.bool_]:
    """Brain of a mean b=0 image (x, y, z): DIPY's median filter and Otsu threshold, holes filled.

    Fluid counts as no brighter than twice the tissue: where much of it lies around the brain, the threshold
    would else part fluid from brain instead of the head from air.
    """
    from dipy.segment.mask import median_otsu

    image = np.asarray(mean_b0, np.float64)
    tissue = image[image > threshold_by_ratio(image)]
    if tissue.size:
        image = np.minimum(image, _BRIGHTEST * np.median(tissue))
    _, mask = median_otsu(image, median_radius=radius, numpass=passes)
    return without_holes(np.asarray(mask, bool))


def with_labels(
    mask: NDArray[np.bool_], labels: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.bool_], int, int]:
    """The mask with every labelled voxel in it, how many it had left out, and how many are labelled."""
    labelled = labels > 0
    return mask | labelled, int((labelled & ~mask).sum()), int(labelled.sum())


def _bet_mask(
    mean_b0: NDArray[np.float32], grid: Grid, config: Config, context: Context
) -> NDArray[np.bool_]:
    from nipype.interfaces.fsl import BET

    source = write(context.folder / "mean_b0.nii", mean_b0, grid)
    made = context.folder / "bet_mask.nii"
    interface = BET(
        in_file=str(source), out_file="bet.nii", mask=True, frac=config.bet_fraction, output_type="NIFTI"
    )
    run_interface(interface, context, [made])
    return _read_made(made, grid, "bet", context)


def _read_made(path: Path, grid: Grid, tool: str, context: Context) -> NDArray[np.bool_]:
    data, made_grid = read_output(path, context.commands[-1])
    if not made_grid.matches(grid):
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_UNREADABLE",
                f"{tool} wrote a mask on another grid than its input's",
                where=context.commands[-1],
                found=describe_grid(made_grid),
                expected=describe_grid(grid),
            )
        )
    return data > 0.5


def dwi2mask_command(version: str) -> str:
    """The command of MRtrix3's mask from all volumes: from 3.1 on it is one of several algorithms."""
    return "dwi2mask legacy" if numbers_of(version) >= (3, 1) else "dwi2mask"


def _dwi2mask(
    dwi: Path, bvals: NDArray[np.float64], grid: Grid, config: Config, context: Context
) -> NDArray[np.bool_]:
    """The mask of MRtrix3's dwi2mask: it thresholds the mean of each shell, so directions do not matter."""
    from nipype.interfaces.mrtrix3 import BrainMask

    shells = np.where(bvals <= config.b0_max_s_per_mm2, 0.0, bvals)
    # Any unit vector tells it that a volume is weighted; it scales b by the square of the length.
    directions = np.outer(shells > 0, (1.0, 0.0, 0.0))
    table, made = context.folder / "dwi2mask.txt", context.folder / "dwi2mask.nii"
    np.savetxt(table, np.column_stack([directions, shells]), fmt="%g")
    # Not -fslgrad: Nipype does not quote its two paths.
    interface = BrainMask(
        in_file=str(dwi), out_file=made.name, grad_file=str(table), nthreads=context.threads
    )
    interface._cmd = dwi2mask_command(version_of("dwi2mask"))
    run_interface(interface, context, [made])
    return _read_made(made, grid, "dwi2mask", context)


def _made_mask(dwi: Path, bval: Path, config: Config, context: Context) -> tuple[NDArray[np.bool_], Grid]:
    data, grid = read_float(dwi)
    bvals = np.loadtxt(bval, ndmin=1).ravel()
    if config.method == "dwi2mask":
        return _dwi2mask(dwi, bvals, grid, config, context), grid
    mean_b0 = data[..., bvals <= config.b0_max_s_per_mm2].mean(3)
    if config.method == "bet":
        return _bet_mask(mean_b0, grid, config, context), grid
    if config.method == "median_otsu":
        return median_otsu_mask(mean_b0, config.median_radius_voxels, config.median_passes), grid
    return body_mask(mean_b0), grid


def _tools(config: Config) -> dict[str, str]:
    if config.method == "bet":
        return {"FSL": version_of("bet")}
    return {"MRtrix3": version_of("dwi2mask")} if config.method == "dwi2mask" else {}


@step(makes={"mask": "Voxels to be fitted, 3D NIfTI, 1 inside"}, tools=_tools, dwi_copies=1.5)
def run(
    dwi: Dwi,
    bval: Bval,
    config: Config,
    context: Context,
    mask_given: Mask | None = None,
    labels_dwi: Labels | None = None,
) -> Path:
    """Take the mask that is given, or make one from the mean b=0 image; add the labelled voxels.

    Raises:
        DatasetError: `MASK_NOT_GIVEN`, `MASK_GRID`, `MASK_EMPTY`.
        ToolError: of bet or dwi2mask.
    """
    if mask_given is not None:
        _, grid = read_float(dwi)
        mask = read_mask(mask_given, grid)
        context.infer("mask", mask_given.name, f"a mask was given, so method {config.method} was not used")
    elif config.method == "given":
        raise DatasetError(
            Problem(
                "MASK_NOT_GIVEN",
                "mask.method is given, and the session has no mask",
                where=str(dwi),
                expected="a mask among the session's files",
                do="add the mask, or choose another mask.method",
            )
        )
    else:
        mask, grid = _made_mask(dwi, bval, config, context)
        if config.method == "auto":
            context.infer("mask", "body", "method auto, and no mask was given")
    if not mask.any():
        raise _empty(mask_given or dwi, config)
    if labels_dwi is not None:
        mask = _add_labels(mask, labels_dwi, context)
    context.numbers["mask_voxels"] = float(mask.sum())
    context.numbers["mask_fraction"] = float(mask.mean())
    return write(context.folder / "mask.nii", mask, grid)


def _empty(where: Path, config: Config) -> DatasetError:
    return DatasetError(
        Problem(
            "MASK_EMPTY",
            "the mask holds no voxel",
            where=str(where),
            found="0 voxels",
            expected="the body, or a part of it",
            do=f"look at the image; method {config.method} may not suit it, or the mask file may be blank",
        )
    )


def _add_labels(mask: NDArray[np.bool_], labels_dwi: Path, context: Context) -> NDArray[np.bool_]:
    whole, n_cut, n_labelled = with_labels(mask, read_labels(labels_dwi)[0])
    context.numbers["mask_labelled_voxels_added"] = float(n_cut)
    if n_cut:
        context.warn(
            Problem(
                "MASK_CUTS_LABEL",
                "the mask left labelled voxels out; they were added to it",
                where=labels_dwi.name,
                found=f"{n_cut} of {n_labelled} labelled voxels outside the mask",
                expected="every labelled voxel inside",
                do="check the labels' place on the image, and the mask",
                severity="warning",
            )
        )
    return whole
