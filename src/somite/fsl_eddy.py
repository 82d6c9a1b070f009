"""FSL eddy: its input files from what is known of the scan, and its outputs into those of the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem, ToolError
from somite.gradients import Gradients, read_fsl, voxel_to_world, write_fsl
from somite.images import Grid, write
from somite.registry import Context
from somite.tools import find, read_output, run_interface

Float = NDArray[np.float64]


@dataclass(frozen=True)
class EddyOptions:
    """What is asked of eddy."""

    repol: bool = True
    slm: str = "none"
    is_shelled: bool = False
    # FSL up to 6.0.5 calls it eddy_openmp; later ones eddy_cpu, with eddy choosing between it and CUDA.
    executables: ClassVar[tuple[str, ...]] = ("eddy_openmp", "eddy_cpu", "eddy")


def acquisition(volumes: Sequence[Mapping[str, Any]], affine: Float) -> tuple[list[list[float]], list[int]]:
    """Rows of eddy's --acqp, and for each volume the number of its row, from 1, for --index.

    A row is the direction of phase encoding along the voxel axes and the readout time in seconds. As for
    bvecs, FSL reverses the first axis of an image whose affine has a positive determinant.

    Raises:
        DatasetError: `NO_PHASE_ENCODING`, `NO_READOUT_TIME`.
    """
    _check_known(volumes)
    rows: list[list[float]] = []
    index = []
    first_axis = -1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0
    for volume in volumes:
        direction = volume["phase_encoding_direction"]
        vector = np.zeros(3)
        vector["ijk".index(direction[0])] = -1.0 if direction.endswith("-") else 1.0
        vector[0] *= first_axis
        row = [*(vector + 0.0).tolist(), float(volume["total_readout_time_s"])]
        if row not in rows:
            rows.append(row)
        index.append(rows.index(row) + 1)
    return rows, index


def _check_known(volumes: Sequence[Mapping[str, Any]]) -> None:
    wanted = (
        (
            "phase_encoding_direction",
            "NO_PHASE_ENCODING",
            "PhaseEncodingDirection",
            "direction of phase encoding",
        ),
        ("total_readout_time_s", "NO_READOUT_TIME", "TotalReadoutTime", "total readout time"),
    )
    problems = [
        Problem(
            code,
            f"FSL eddy needs the {words}, which is not known",
            where=f"the JSON sidecar of the series: {field}",
            found=f"none for {sum(volume.get(key) is None for volume in volumes)} of {len(volumes)} volumes",
            expected=f"{field} in the sidecar",
            do=f"add {field} from the scanner's protocol, or set eddy.method to rigid",
        )
        for key, code, field, words in wanted
        if any(volume.get(key) is None for volume in volumes)
    ]
    if problems:
        raise DatasetError.of(problems)


def run_fsl_eddy(
    dwi: Path,
    gradients: Gradients,
    volumes: Sequence[Mapping[str, Any]],
    mask: NDArray[np.bool_],
    grid: Grid,
    options: EddyOptions,
    context: Context,
) -> tuple[NDArray[np.float32], Gradients, Float]:
    """Corrected series, turned gradients, and motion (n, 7) as in `eddy.motion_table`.

    The motion is eddy's own: shifts and rotations along FSL's axes turned to world axes, and as
    displacement the root mean square over the mask relative to the first volume.

    Raises:
        DatasetError: see `acquisition`.
        ToolError: see `tools.run_interface`; `TOOL_OUTPUT_UNREADABLE`.
    """
    from nipype.interfaces.fsl import Eddy

    folder = context.folder
    rows, index = acquisition(volumes, grid.affine)
    np.savetxt(folder / "acqp.txt", rows, fmt="%g")
    np.savetxt(folder / "index.txt", [index], fmt="%d")
    bval, bvec = write_fsl(gradients, folder / "eddy_in.bval", folder / "eddy_in.bvec", grid.affine)
    interface = Eddy(
        in_file=str(dwi),
        in_mask=str(write(folder / "eddy_mask.nii", mask, grid)),
        in_acqp=str(folder / "acqp.txt"),
        in_index=str(folder / "index.txt"),
        in_bval=str(bval),
        in_bvec=str(bvec),
        out_base="eddy_out",
        repol=options.repol,
        slm=options.slm,
        is_shelled=options.is_shelled,
        num_threads=context.threads,
        output_type="NIFTI_GZ",
    )
    interface._cmd = find(*options.executables).name
    made = [folder / f"eddy_out.{name}" for name in _OUTPUTS]
    run_interface(interface, context, made)
    return _read_outputs(made, bval, gradients, grid, context.commands[-1])


_OUTPUTS = ("nii.gz", "eddy_rotated_bvecs", "eddy_parameters", "eddy_movement_rms")


def _read_outputs(
    made: Sequence[Path], bval: Path, gradients: Gradients, grid: Grid, command: str
) -> tuple[NDArray[np.float32], Gradients, Float]:
    image, bvecs, parameters, rms = made
    n = len(gradients.bvals)
    data, made_grid = read_output(image, command)
    if data.shape != (*grid.shape, n) or not made_grid.matches(grid) or not np.isfinite(data).all():
        raise _unusable(
            image, f"an image of {' x '.join(map(str, data.shape))}, or not of finite numbers", command
        )
    vectors = _table(bvecs, (3, n), command)
    norms = np.linalg.norm(vectors, axis=0)
    if not np.allclose(norms[gradients.bvecs.any(1)], 1, atol=0.01):
        raise _unusable(bvecs, "directions that are not of unit length", command)
    motion = _table(parameters, (n, None), command)
    displacement = _table(rms, (n, None), command)[:, 0]
    to_world = voxel_to_world(grid.affine)
    shifts = motion[:, :3] @ to_world.T
    # Rotations are an axial vector: it keeps its sense where the axes are mirrored.
    rotations = motion[:, 3:6] @ to_world.T * np.linalg.det(to_world)
    table = np.column_stack([shifts, np.rad2deg(rotations), displacement])
    return np.asarray(data, np.float32), read_fsl(bval, bvecs, grid.affine), table


def _table(path: Path, shape: tuple[int, int | None], command: str) -> Float:
    try:
        table = np.loadtxt(path, ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise _unusable(path, str(error), command) from error
    if table.shape[0] != shape[0] or shape[1] not in (None, table.shape[1]) or not np.isfinite(table).all():
        raise _unusable(path, f"a table of {table.shape[0]} x {table.shape[1]}", command)
    if shape[1] is None and path.name.endswith("parameters") and table.shape[1] < 6:
        raise _unusable(path, f"{table.shape[1]} columns", command)
    return table


def _unusable(path: Path, found: str, command: str) -> ToolError:
    return ToolError(
        Problem(
            "TOOL_OUTPUT_UNREADABLE",
            f"eddy wrote {path.name}, which does not fit its input",
            where=command,
            found=found,
            expected="as many volumes as the input, on its grid, all numbers finite",
            do="see what eddy said, and whether the disk is full",
        )
    )
