"""FSL eddy: its input files from what is known of the scan, and its command line.

What is said here of eddy rests on FSL's documentation (https://fsl.fmrib.ox.ac.uk/fsl/docs, "eddy", user's
guide and FAQ; `eddy --help`), not on its source:

- Axes. FDT's page on bvecs: directions are relative to the voxel axes of an image in radiological storage;
  the first axis of an image whose affine has a positive determinant is reversed. eddy reads --imain, --acqp
  and --bvecs in one frame, so the first element of a row of --acqp is reversed with it: "i" is (-1, 0, 0)
  where the determinant is positive. The second and third follow the voxel axes: "j" is (0, 1, 0).
- Sign of --acqp. FAQ, "How do I know what to put into my --acqp file?": (0, 1, 0) says that a higher
  frequency is found at a position higher up along y. This is the sense of BIDS' PhaseEncodingDirection "j",
  and of Somite's `field`: a point of off-resonance f Hz is found f x readout time voxels higher.
- --field. User's guide: a field in Hz in the space of the first volume of --imain, named without extension.
- Slice-to-volume. User's guide, --mporder: below the number of excitations N of a volume, tried from N/4 to
  N/2; --slspec: a row for each excitation, in their order, of slices counted from 0.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from somite.corrected import Corrected
from somite.errors import DatasetError, Problem, ToolError
from somite.fsl_eddy_outputs import Acquired, files_of, read_outputs
from somite.gradients import Gradients, write_fsl
from somite.images import Grid, read_float, write
from somite.orientation import describe_grid
from somite.registry import Context
from somite.suites import FSL
from somite.tools import find, help_of, run_interface, sees_gpu, version_of

Float = NDArray[np.float64]

ON_CPU = ("eddy_cpu", "eddy_openmp", "eddy")
"""FSL up to 6.0.5 has eddy_openmp; later ones have eddy_cpu, and eddy to choose between it and CUDA."""
ON_GPU = ("eddy_cuda", "eddy_cuda*")
"""eddy_cuda is what was set up for the machine; else the one for the latest CUDA, such as eddy_cuda10.2."""


Known = Literal["phase_encoding_direction", "total_readout_time_s"]


@dataclass(frozen=True)
class EddyOptions:
    """What is asked of eddy."""

    repol: bool = True
    """Replace slices that are outliers."""
    slm: str = "none"
    """Second-level model of the eddy currents: none, linear, quadratic."""
    is_shelled: bool = False
    """Tell eddy that the b-values lie on shells, so that it does not check."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """auto: the CUDA executable where `nvidia-smi` shows a GPU and FSL has one. yes: nothing else."""
    slice_to_volume: bool = True
    """Correct motion within volumes, where the timing of the slices is known and there is a GPU."""
    slice_to_volume_order: int = 0
    """Degrees of freedom of that motion in a volume, less one; 0: a quarter of its excitations."""


def choose_executable(gpu: Literal["auto", "yes", "no"]) -> tuple[Path, bool]:
    """The executable of eddy, and whether it runs on a GPU.

    Raises:
        ToolError: `TOOL_MISSING`; `GPU_MISSING` where a GPU is demanded and none is seen.
    """
    if gpu == "no":
        return find(*ON_CPU), False
    if gpu == "yes":
        executable = find(*ON_GPU)
        if not sees_gpu(FSL):
            raise ToolError(_no_gpu(executable))
        return executable, True
    if sees_gpu(FSL):
        with suppress(ToolError):  # an FSL without CUDA: what is taken then stands in the record
            return find(*ON_GPU), True
    return find(*ON_CPU), False


def _no_gpu(executable: Path) -> Problem:
    return Problem(
        "GPU_MISSING",
        "eddy is to run on a GPU, and none is seen",
        where=str(executable),
        found="`nvidia-smi -L` shows no GPU",
        expected="an Nvidia GPU, with its driver; seen from inside where FSL comes from a container",
        do="show the GPU to the container (apptainer exec --nv, docker run --gpus all), run on a machine "
        "that has one, or let the option of the GPU be auto",
    )


def eddy_versions(options: EddyOptions) -> dict[str, str]:
    """What stands in the record and decides about a rerun: the version of FSL, and which eddy is run.

    Raises:
        ToolError: as `choose_executable` and `tools.version_of`.
    """
    executable, _ = choose_executable(options.gpu)
    return {"FSL": version_of(executable.name), "eddy": executable.name}


def acquisition(volumes: Sequence[Mapping[str, Any]], affine: Float) -> tuple[list[list[float]], list[int]]:
    """Rows of eddy's --acqp, and for each volume the number of its row, from 1, for --index.

    A row is the direction of phase encoding along the voxel axes, the first of them as FSL has it (see the
    module's docstring), and the readout time in seconds.

    Raises:
        DatasetError: `NO_PHASE_ENCODING`, `NO_READOUT_TIME`.
    """
    keys: tuple[Known, ...] = ("phase_encoding_direction", "total_readout_time_s")
    unknown = [key for key in keys if any(volume.get(key) is None for volume in volumes)]
    problems = [unknown_of(volumes, key, "FSL eddy") for key in unknown]
    if problems:
        raise DatasetError.of(problems)
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


def unknown_of(
    volumes: Sequence[Mapping[str, Any]],
    key: Known,
    who: str,
) -> Problem:
    """The problem of volumes of a `scan` of which `who` needs to know what stands at `key`."""
    code, field, words = {
        "phase_encoding_direction": (
            "NO_PHASE_ENCODING",
            "PhaseEncodingDirection",
            "direction of phase encoding",
        ),
        "total_readout_time_s": ("NO_READOUT_TIME", "TotalReadoutTime", "total readout time"),
    }[key]
    return Problem(
        code,
        f"{who} needs the {words}, which is not known",
        where=f"the JSON sidecar of the series: {field}",
        found=f"none for {sum(volume.get(key) is None for volume in volumes)} of {len(volumes)} volumes",
        expected=f"{field} in the sidecar",
        do=f"add {field} from the scanner's protocol, or set eddy.method to rigid"
        + (" and susceptibility.method to none" if who == "the field" else ""),
    )


def excitations(slice_timing: Sequence[float]) -> list[list[int]] | None:
    """Slices that were excited together, in the order of time: the rows of --slspec.

    None where the times do not tell: some are excited with more others than the rest, or all at once.
    """
    times = np.asarray(slice_timing, np.float64)
    order = np.argsort(times, kind="stable")
    # Scanners write times in steps of 2.5 ms at the coarsest; two excitations lie tens of ms apart.
    starts = np.flatnonzero(np.diff(times[order]) > 1e-3) + 1
    groups = [sorted(group.tolist()) for group in np.split(order, starts)]
    return groups if len({len(group) for group in groups}) == 1 and len(groups) > 1 else None


def common_timing(series: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The slice timing of the series of a `scan`, where all have the same; else None."""
    timings = [one.get("slice_timing_s") for one in series]
    same = bool(timings) and all(timing == timings[0] for timing in timings)
    return list(timings[0]) if same and timings[0] else None


def run_fsl_eddy(
    dwi: Path,
    gradients: Gradients,
    volumes: Sequence[Mapping[str, Any]],
    mask: NDArray[np.bool_],
    grid: Grid,
    options: EddyOptions,
    context: Context,
    field: Path | None = None,
    slice_timing: Sequence[float] | None = None,
) -> Corrected:
    """The series as FSL eddy corrects it, with its motion, outliers and eddy currents.

    Args:
        dwi: the series, on `grid`.
        gradients: of its volumes.
        volumes: of the `scan`: phase encoding and readout time of each volume.
        mask: (x, y, z), where eddy looks.
        grid: of the series.
        options: what is asked of eddy.
        context: the step's.
        field: off-resonance in Hz on `grid`, in the space of the first b=0 volume.
        slice_timing: seconds of each slice along the third voxel axis, where they are known.

    Raises:
        DatasetError: see `acquisition`; `FIELD_IN_VOXELS`, `FIELD_GRID`.
        ToolError: see `choose_executable` and `tools.run_interface`; `TOOL_OUTPUT_UNREADABLE`.
    """
    from nipype.interfaces.fsl import Eddy

    folder = context.folder
    if field is not None:
        _check_field(field, volumes, gradients, grid, context)
    rows, index = acquisition(volumes, grid.affine)
    np.savetxt(folder / "acqp.txt", rows, fmt="%g")
    np.savetxt(folder / "index.txt", [index], fmt="%d")
    bval, bvec = write_fsl(gradients, folder / "eddy_in.bval", folder / "eddy_in.bvec", grid.affine)
    executable, on_gpu = choose_executable(options.gpu)
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
        use_cuda=on_gpu,
        num_threads=context.threads,
        output_type="NIFTI_GZ",
        **({} if field is None else {"field": str(field)}),
        **_slice_to_volume(options, slice_timing, grid, on_gpu, context),
    )
    # Nipype chooses by what the FSLDIR of this machine holds.
    interface._cmd = shlex.quote(str(executable))
    if executable.name == "eddy_cpu" and "--nthr" in help_of(executable):
        interface.inputs.args = f"--nthr={context.threads}"
    context.infer("eddy", executable.name, "on a GPU" if on_gpu else f"gpu: {options.gpu}; on the CPU")
    made = files_of(folder / "eddy_out", options.repol)
    run_interface(interface, context, list(made.values()))
    acquired = Acquired(bval, bvec, gradients, rows, index, mask, grid, options.repol)
    return read_outputs(made, acquired, context.commands[-1])


def _check_field(
    field: Path, volumes: Sequence[Mapping[str, Any]], gradients: Gradients, grid: Grid, context: Context
) -> None:
    problems = []
    if any(volume.get("total_readout_time_s") is None for volume in volumes):
        problems.append(
            Problem(
                "FIELD_IN_VOXELS",
                "no readout time is known, so the susceptibility field is in voxels, and FSL eddy takes Hz",
                where=field.name,
                found="TotalReadoutTime unknown",
                expected="a field in Hz",
                do="add TotalReadoutTime to the sidecar, or set eddy.method to builtin",
            )
        )
    values, its_grid = read_float(field)
    if not its_grid.matches(grid) or values.shape != grid.shape or not np.isfinite(values).all():
        problems.append(
            Problem(
                "FIELD_GRID",
                "the susceptibility field does not lie on the grid of the series, or is not all finite",
                where=field.name,
                found=describe_grid(its_grid),
                expected=describe_grid(grid),
            )
        )
    if problems:
        raise DatasetError.of(problems)
    first = int(np.argmax(gradients.is_b0()))
    if first != 0:
        context.warn(
            Problem(
                "FIELD_SPACE",
                "FSL eddy takes the field to be in the space of volume 0, and it is in that of the first b=0",
                where=field.name,
                found=f"volume {first} is the first b=0 volume",
                expected="a b=0 volume first",
                do="where the body moved between the two, look at the result; or set eddy.method to builtin",
                severity="warning",
            )
        )


def _slice_to_volume(
    options: EddyOptions,
    slice_timing: Sequence[float] | None,
    grid: Grid,
    on_gpu: bool,
    context: Context,
) -> dict[str, Any]:
    """Inputs of Nipype's interface for motion within volumes; why there are none goes to the record."""
    if not options.slice_to_volume:
        return {}
    known = slice_timing is not None and len(slice_timing) == grid.shape[2]
    groups = excitations(slice_timing) if known and slice_timing is not None else None
    order = options.slice_to_volume_order or (len(groups) // 4 if groups else 0)
    if groups is None or not on_gpu or not 0 < order < len(groups):
        reason = "eddy runs on the CPU" if not on_gpu else "there are too few excitations in a volume"
        if groups is None:
            reason = "the timing of the slices is not known, or not one time for each excitation"
        context.infer("motion within volumes", "not corrected", reason)
        return {}
    path = context.folder / "slspec.txt"
    path.write_text("\n".join(" ".join(map(str, group)) for group in groups) + "\n")
    context.infer("motion within volumes", f"order {order}", f"{len(groups)} excitations in a volume")
    return {
        "mporder": order,
        "slice_order": str(path),
        "slice2vol_niter": 5,
        "slice2vol_lambda": 1,
        "slice2vol_interp": "trilinear",
    }
