"""Step `bias`: divide the series by the receive-coil shading that its b=0 image shows.

One field for all volumes: it cancels in FA, MD and every other ratio of signals, and changes S0 only. It
expects a series without motion. Does not know gradients beyond which volumes are b=0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite import tools
from somite.body import body_mask, read_mask
from somite.errors import DatasetError, Problem, ToolError
from somite.files import link_or_copy
from somite.gradient_check import B0_MAX
from somite.images import FloatArray, Grid, read_float, write
from somite.orientation import describe_grid, storage_change
from somite.registry import Bval, Context, Dwi, Mask, StepConfig, step

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

_LEAST_VOXELS = 4
"""An axis is not shrunk to fewer."""


class Config(StepConfig):
    """Options of `bias`."""

    method: Literal["none", "n4", "dwibiascorrect"] = Field(
        "none",
        description="none: the field is 1; it cancels in FA and MD. n4: N4 on the mean b=0 image, built in. "
        "dwibiascorrect: MRtrix3's, with ANTs or FSL",
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    n4_shrink_factor: int = Field(
        3, ge=1, le=8, description="n4: the field is estimated on every n-th voxel of each axis"
    )
    n4_levels: int = Field(
        3, ge=1, le=6, description="n4: the field's mesh is doubled this many times less one; more is rougher"
    )
    dwibiascorrect_algorithm: Literal["ants", "fsl"] = Field(
        "ants",
        description="dwibiascorrect: ants, N4BiasFieldCorrection of ANTs; fsl, FAST, which knows brains only "
        "and leaves the field outside the mask at 1",
    )


def n4_field(image: FloatArray, mask: Bool, shrink_factor: int = 3, levels: int = 3) -> Float32:
    """Bias field (x, y, z) of an image, of geometric mean 1 over the mask, positive everywhere.

    Outside the mask the spline goes on, held within the range that the field has inside. Estimated on one
    thread: ITK's sums would differ with their number.

    Args:
        image: (x, y, z) mean b=0 image, signal units; a single slice is fitted in two dimensions.
        mask: (x, y, z), the voxels that are fitted.
        shrink_factor: every n-th voxel of each axis; a short axis is shrunk less.
        levels: of the spline's mesh, each twice as fine as the one before.

    Raises:
        DatasetError: `BIAS_NOT_ESTIMATED`, the mask or the image leaves nothing to fit.

    Source: Tustison et al., IEEE Trans Med Imaging 29 (2010) 1310 (N4), by SimpleITK.
    """
    import SimpleITK as sitk

    fitted = mask & (image > 0)
    if not fitted.any():
        raise _not_estimated("no voxel of the mask has a signal at b=0")
    thick = tuple(slice(None) if n > 1 else 0 for n in image.shape)
    if not any(n > 1 for n in image.shape):
        raise _not_estimated("an image of one voxel")
    whole = sitk.GetImageFromArray(np.asarray(image[thick], np.float32).T)
    inside = sitk.GetImageFromArray(fitted[thick].T.astype(np.uint8))
    factors = [max(1, min(shrink_factor, n // _LEAST_VOXELS)) for n in whole.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50] * levels)
    with _on_one_thread():
        try:
            n4.Execute(sitk.Shrink(whole, factors), sitk.Shrink(inside, factors))
            log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(whole)).T.reshape(image.shape)
        except RuntimeError as error:
            raise _not_estimated(str(error).strip().splitlines()[-1]) from error
    return normalised(np.exp(np.asarray(log_field, np.float64)), fitted)


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """ITK with one thread; its filters within filters heed the default of the process only."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def normalised(field: FloatArray, mask: Bool) -> Float32:
    """The field over its geometric mean in the mask, held outside within its range inside.

    Voxels where it is not positive or not finite count as outside, and get 1.

    Raises:
        DatasetError: `BIAS_NOT_ESTIMATED`, it is positive nowhere in the mask.
    """
    known = np.isfinite(field) & (field > 0)
    if not (known & mask).any():
        raise _not_estimated("a field that is positive nowhere in the mask")
    log_field = np.log(np.where(known, field, 1.0).astype(np.float64))
    inside = log_field[known & mask]
    log_field = np.clip(log_field, inside.min(), inside.max()) - inside.mean()
    return np.where(known, np.exp(log_field), 1.0).astype(np.float32)


def _not_estimated(found: str) -> DatasetError:
    return DatasetError(
        Problem(
            "BIAS_NOT_ESTIMATED",
            "the bias field cannot be estimated",
            found=found,
            expected="a mask with signal at b=0",
            do="look at the b=0 image and the mask; bias.method: none leaves the series as it is",
        )
    )


def without_bias(dwi: FloatArray, field: Float32) -> Float32:
    """The series (x, y, z, n) over the field (x, y, z)."""
    made = np.empty(dwi.shape, np.float32, order="F")
    for volume in range(dwi.shape[3]):
        np.divide(dwi[..., volume], field, out=made[..., volume])
    return made


def _dwibiascorrect_field(
    mean_b0: FloatArray, mask: Bool, grid: Grid, config: Config, context: Context
) -> Float32:
    """The field that MRtrix3's dwibiascorrect finds, made positive and of geometric mean 1.

    It is given the mean b=0 image, twice, as a series of its own: of a whole series it would take the volumes
    below its own limit of b, which is another than `b0_max_s_per_mm2`.
    """
    from nipype.interfaces.mrtrix3 import DWIBiasCorrect

    folder = context.folder
    pair = np.stack([np.asarray(mean_b0, np.float32)] * 2, -1)
    np.savetxt(folder / "b0_pair.bval", np.zeros((1, 2)), fmt="%g")
    np.savetxt(folder / "b0_pair.bvec", np.zeros((3, 2)), fmt="%g")
    made, field_path = folder / "dwibiascorrect_b0.nii", folder / "dwibiascorrect_field.nii"
    interface = DWIBiasCorrect(
        in_file=str(write(folder / "b0_pair.nii", pair, grid)),
        in_mask=str(write(folder / "bias_mask.nii", mask, grid)),
        bias=str(field_path),
        out_file=str(made),
        nthreads=context.threads,
        # Names within the folder, where it runs: Nipype does not quote its own `in_bvec` and `in_bval`.
        args="-fslgrad b0_pair.bvec b0_pair.bval -force",
        **{f"use_{config.dwibiascorrect_algorithm}": True},
    )
    helper = tools.find(_HELPERS[config.dwibiascorrect_algorithm])
    interface.inputs.environ["PATH"] = f"{helper.parent}:{os.environ.get('PATH', '')}"
    # One thread, for the same result on any number of cores.
    interface.inputs.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    tools.run_interface(interface, context, [made, field_path])
    field, field_grid = tools.read_output(field_path, context.commands[-1])
    change = storage_change(field_grid, grid)  # MRtrix3 stores axes in an order of its own
    if change is None or field.size != mask.size:
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_GRID",
                "dwibiascorrect wrote a field on another grid than that of its input",
                where=context.commands[-1],
                found=describe_grid(field_grid),
                expected=describe_grid(grid),
                do="use bias.method: n4, and report this with the image's header",
            )
        )
    field = change.apply(field.reshape(field_grid.shape))
    if config.dwibiascorrect_algorithm == "fsl":
        context.infer("bias_field outside the mask", "1", "FAST estimates it in the mask only")
        field = np.where(mask, field, np.nan)
    return normalised(field, mask)


_HELPERS = {"ants": "N4BiasFieldCorrection", "fsl": "fast"}


def _tools(config: Config) -> dict[str, str]:
    if config.method != "dwibiascorrect":
        return {}
    tools.find("dwibiascorrect")  # a script, which does not state its version: it is that of the suite
    helper = _HELPERS[config.dwibiascorrect_algorithm]
    return {"MRtrix3": tools.version_of("MRtrix3"), helper: tools.version_of(helper)}


@step(
    makes={
        "dwi_unbiased": "Series without the bias field, 4D NIfTI",
        "bias_field": "Bias field that the series was divided by, 3D NIfTI, geometric mean 1 in the mask",
    },
    tools=_tools,
    dwi_copies=2.0,
)
def run(
    dwi: Dwi, bval: Bval, config: Config, context: Context, mask_given: Mask | None = None
) -> tuple[Path, Path]:
    """Estimate the bias field on the mean b=0 image, and divide all volumes by it.

    Raises:
        DatasetError: `BIAS_NOT_ESTIMATED`, `MASK_GRID`.
        ToolError: of dwibiascorrect.
    """
    data, grid = read_float(dwi)
    made, field_path = context.folder / "dwi_unbiased.nii", context.folder / "bias_field.nii"
    if config.method == "none":
        context.infer("dwi_unbiased", "the series as it was given", "bias.method is none")
        whole = made.with_suffix(".nii.gz") if dwi.name.endswith(".gz") else made
        return link_or_copy(dwi.resolve(), whole), write(field_path, np.ones(grid.shape, np.float32), grid)
    is_b0 = np.loadtxt(bval, ndmin=1).ravel() <= config.b0_max_s_per_mm2
    mean_b0 = data[..., is_b0].mean(3)
    if mask_given is None:
        mask = body_mask(mean_b0)
        context.infer(
            "region of bias", "body", "no mask was given: the large pieces above half of Otsu's threshold"
        )
    else:
        mask = read_mask(mask_given, grid)
    if config.method == "n4":
        field = n4_field(mean_b0, mask, config.n4_shrink_factor, config.n4_levels)
    else:
        field = _dwibiascorrect_field(mean_b0, mask, grid, config, context)
    low, high = np.percentile(field[mask], (1, 99))
    context.numbers |= {"bias_field_p1": float(low), "bias_field_p99": float(high)}
    return write(made, without_bias(data, field), grid), write(field_path, field, grid)
