"""FSL topup: its input files from a pair of images, and its field into that of the house."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.errors import Problem, ToolError
from somite.fsl_eddy import acquisition
from somite.images import Grid, write
from somite.registry import Context
from somite.tools import find, read_output, run_interface

Float32 = NDArray[np.float32]


def configuration(shape: Sequence[int]) -> str:
    """Name of FSL's file of options: that which halves the resolution asks for even numbers of voxels."""
    return "b02b0_1.cnf" if any(n % 2 for n in shape) else "b02b0.cnf"


def run_topup(
    images: Sequence[NDArray[np.floating[Any]]],
    directions: Sequence[str],
    readout_s: Sequence[float],
    grid: Grid,
    context: Context,
) -> tuple[Float32, Float32]:
    """Field in Hz and mean of the corrected images, both (i, j, k), in the space of the first image.

    Args:
        images: (i, j, k), of opposite phase encoding.
        directions: of each, along the voxel axes: `j-`.
        readout_s: total readout time of each, s.
        grid: of all.
        context: the step's.

    Raises:
        ToolError: see `tools.run_interface`; `TOOL_OUTPUT_UNREADABLE`.
    """
    from nipype.interfaces.fsl import TOPUP

    folder = context.folder
    volumes = [
        {"phase_encoding_direction": direction, "total_readout_time_s": seconds}
        for direction, seconds in zip(directions, readout_s, strict=True)
    ]
    rows, index = acquisition(volumes, grid.affine)
    np.savetxt(folder / "topup_acqp.txt", [rows[i - 1] for i in index], fmt="%g")
    config = configuration(grid.shape)
    context.infer(
        "configuration of topup", config, "odd numbers of voxels" if "_1" in config else "FSL's own"
    )
    interface = TOPUP(
        in_file=str(write(folder / "topup_in.nii", np.stack(images, -1).astype(np.float32), grid)),
        encoding_file=str(folder / "topup_acqp.txt"),
        config=config,
        out_base="topup_out",
        out_field=str(folder / "topup_field.nii.gz"),
        out_corrected=str(folder / "topup_corrected.nii.gz"),
        output_type="NIFTI_GZ",
    )
    interface._cmd = find("topup").name
    made = [folder / "topup_field.nii.gz", folder / "topup_corrected.nii.gz"]
    run_interface(interface, context, made)
    command = context.commands[-1]
    (field, field_grid), (corrected, corrected_grid) = (read_output(path, command) for path in made)
    wrong = [
        path.name
        for path, data, found, shape in (
            (made[0], field, field_grid, grid.shape),
            (made[1], corrected, corrected_grid, (*grid.shape, len(images))),
        )
        if data.shape != shape or not found.matches(grid) or not np.isfinite(data).all()
    ]
    if wrong:
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_UNREADABLE",
                f"topup wrote {' and '.join(wrong)}, which does not fit its input",
                where=command,
                found=f"fields of {field.shape} and images of {corrected.shape}, or not of finite numbers",
                expected=f"{grid.shape} and as many images as were given",
                do="see what topup said, and whether the disk is full",
            )
        )
    return np.asarray(field, np.float32), np.asarray(corrected.mean(3), np.float32)
