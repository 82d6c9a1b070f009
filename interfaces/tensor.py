"""Step `tensor`: the diffusion tensor of every voxel in the mask, and its maps, in world axes.

Does not know regions, noise maps or what is normal: it judges no voxel and leaves none out.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from somite import images, tools
from somite.errors import DatasetError, Problem
from somite.gradients import Gradients, read_fsl, voxel_to_world, write_fsl
from somite.images import Grid
from somite.registry import Bval, Bvec, Context, Dwi, Mask, StepConfig, step
from somite.tensorfit import (
    PARAMETERS,
    condition,
    design_matrix,
    eigen,
    fit_ols,
    fit_robust,
    fit_wls,
    fractional_anisotropy,
    from_eigenpairs,
    largest_b,
)
from somite.volumes import (
    CONDITION_MAX,
    PERFUSION_B,
    PERFUSION_SHELLS,
    lowest_b,
    used_volumes,
)

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]

BLOCK_VALUES = 1 << 18
"""Signal values fitted at once by a thread: a block fits in the processor's cache."""


class Config(StepConfig):
    """Options of the tensor fit."""

    method: Literal["ols", "wls", "iwls", "robust", "dtifit"] = Field(
        "wls",
        description="ols: log-linear least squares; wls: weighted by the squared signal that ols predicts; "
        "iwls: reweighted by its own predictions; robust: Geman-McClure, then wls without the outliers; "
        "dtifit: FSL's ols",
    )
    iterations: int = Field(2, ge=1, le=50, description="Reweightings after wls, for iwls")
    robust_iterations: int = Field(3, ge=1, le=100, description="Reweightings by residual, for robust")
    min_signal: float = Field(1e-4, gt=0, description="Smaller signals are raised to this; dipy's default")
    b0_max_s_per_mm2: float = Field(50.0, ge=0, description="Up to this b a volume counts as b=0, s/mm2")
    b_min_s_per_mm2: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0,
        description="Volumes below this b are not used, b=0 included: 200 leaves out perfusion in muscle. "
        "auto: 200 where the volumes from there on determine the tensor and the signal at b=0, else 0",
    )
    b_max_s_per_mm2: float | None = Field(
        None, gt=0, description="Volumes above this b are not used, s/mm2; null: all are"
    )

    @model_validator(mode="after")
    def _some_shell_is_left(self) -> Self:
        lower = 0.0 if self.b_min_s_per_mm2 == "auto" else self.b_min_s_per_mm2
        if self.b_max_s_per_mm2 is not None and self.b_max_s_per_mm2 <= lower:
            raise ValueError(
                f"b_max_s_per_mm2 is {self.b_max_s_per_mm2:g}, not above "
                f"b_min_s_per_mm2 {lower:g}: no volume would be left"
            )
        return self


PRODUCTS = {
    "tensor": "Diffusion tensor, 4D NIfTI: Dxx, Dxy, Dyy, Dxz, Dyz, Dzz in world RAS+ axes, mm2/s",
    "fa": "Fractional anisotropy, 3D NIfTI, 0 to 1; eigenvalues below 0 taken as 0",
    "md": "Mean diffusivity, 3D NIfTI, mm2/s: a third of the trace, of the eigenvalues as fitted",
    "ad": "Axial diffusivity, 3D NIfTI, mm2/s: the largest eigenvalue as fitted",
    "rd": "Radial diffusivity, 3D NIfTI, mm2/s: the mean of the other two as fitted",
    "s0": "Fitted signal at b=0, 3D NIfTI, in the units of the signal",
    "eigenvalues": "Eigenvalues as fitted, negative ones included, 4D NIfTI, descending, mm2/s",
    "eigenvectors": "Eigenvectors, 4D NIfTI: x, y, z of the first, second and third, world RAS+ axes",
    "residual": "Root mean square difference of signal and fit over the volumes used, over S0, 3D NIfTI",
    "nonpositive": "1 where an eigenvalue is not positive (see eigenvalue_min), 3D NIfTI",
}
"""Name of each map -> its description."""
SIZES = {"tensor": 6, "eigenvalues": 3, "eigenvectors": 9}
"""Volumes of the maps that have more than one."""


def eigenvalue_min(b_largest: float) -> float:
    """Below this, mm2/s, an eigenvalue is not positive: it attenuates less than 1e-6 at b_largest (dipy)."""
    return 1e-6 / b_largest


def maps_of(tensor: Float, log_s0: Float, eigenvalue_floor: float) -> dict[str, NDArray[Any]]:
    """The maps of tensors (6, v) in mm2/s and log S0 (v,), all but the residual; each (k, v) or (v,)."""
    values, vectors = eigen(tensor)
    return {
        "tensor": tensor,
        "fa": fractional_anisotropy(values),
        "md": values.mean(0),
        "ad": values[0],
        "rd": values[1:].mean(0),
        # Held within float32: extrapolation to b=0 from noise can go anywhere.
        "s0": np.exp(np.clip(log_s0, -80, 80)),
        "eigenvalues": values,
        "eigenvectors": vectors,
        "nonpositive": (values < eigenvalue_floor).any(0),
    }


Estimate = Callable[[Float, NDArray[np.intp]], tuple[Float, int]]
"""Log signals (n, v) of voxels, and their places in the image -> parameters (7, v), count of outliers."""


def estimate_by(config: Config, design: Float) -> Estimate:
    """The built-in fit that `config.method` names."""

    def estimate(log_signal: Float, _: NDArray[np.intp]) -> tuple[Float, int]:
        if config.method == "ols":
            return fit_ols(log_signal, design), 0
        if config.method == "robust":
            parameters, outlier = fit_robust(log_signal, design, config.robust_iterations)
            return parameters, int(outlier.sum())
        return fit_wls(log_signal, design, config.iterations if config.method == "iwls" else 0), 0

    return estimate


@dataclass(frozen=True)
class Fitted:
    """Maps (x, y, z) or (x, y, z, k) by product name, 0 outside the mask, and what was counted."""

    maps: dict[str, NDArray[Any]]
    outlier_fraction: float
    """Of the signals."""
    floored_fraction: float
    """Of the signals: raised to min_signal."""


def fit_maps(
    dwi: Float32,
    mask: NDArray[np.bool_],
    gradients: Gradients,
    estimate: Estimate,
    *,
    used: NDArray[np.bool_],
    min_signal: float = 1e-4,
    threads: int = 1,
) -> Fitted:
    """Fit every voxel of the mask, in float64, in blocks that do not depend on the number of threads.

    Args:
        dwi: (x, y, z, n) signal.
        mask: (x, y, z), at least one voxel.
        gradients: of the volumes used.
        estimate: how parameters come from log signals, of the design of `gradients`.
        used: (n,) which volumes `gradients` describes.
        min_signal: smaller signals are raised to this.
        threads: how many blocks are fitted at a time.
    """
    design, b_largest = design_matrix(gradients), largest_b(gradients)
    series = dwi.reshape(-1, dwi.shape[3], order="F").T
    inside, rows = np.flatnonzero(mask.ravel(order="F")), np.flatnonzero(used)
    flat = {name: np.zeros((SIZES.get(name, 1), mask.size), np.float32) for name in PRODUCTS}
    size = max(64, BLOCK_VALUES // len(rows))

    def block(start: int) -> tuple[int, int]:
        here = inside[start : start + size]
        measured = np.stack([series[row][here] for row in rows]).astype(np.float64)
        signal = np.maximum(measured, min_signal)
        parameters, outliers = estimate(np.log(signal), here)
        maps = maps_of(parameters[:6] / b_largest, parameters[6], eigenvalue_min(b_largest))
        difference = np.exp(np.minimum(design @ parameters, 80)) - signal
        maps["residual"] = np.sqrt((difference**2).mean(0)) / maps["s0"]
        for name, values in maps.items():
            flat[name][:, here] = values
        return outliers, int((measured < min_signal).sum())

    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        counts = np.sum(list(pool.map(block, range(0, len(inside), size))), 0) / (len(inside) * len(rows))
    maps = {name: values.T.reshape((*mask.shape, -1), order="F") for name, values in flat.items()}
    maps = {name: values if name in SIZES else values[..., 0] for name, values in maps.items()}
    maps["nonpositive"] = maps["nonpositive"].astype(np.uint8)
    return Fitted(maps, float(counts[0]), float(counts[1]))


@dataclass(frozen=True)
class Inputs:
    """What the fit is made from, read and checked."""

    dwi: Float32
    grid: Grid
    mask: NDArray[np.bool_]
    gradients: Gradients
    """Of the volumes used."""
    used: NDArray[np.bool_]
    b_min: float
    """From which b-value on volumes are used, s/mm2."""


def estimate_by_dtifit(inputs: Inputs, mask: Path, context: Context) -> Estimate:
    """Run FSL's dtifit, and take its eigenvalues, eigenvectors and S0 for the estimate.

    FSL gives vectors in its own voxel frame, that of bvec files; they are turned into world axes.
    """
    from nipype.interfaces.fsl import DTIFit

    folder, grid = context.folder, inputs.grid
    dwi = images.write(folder / "dtifit_dwi.nii", np.asarray(inputs.dwi[..., inputs.used]), grid)
    bval, bvec = write_fsl(inputs.gradients, folder / "dtifit.bval", folder / "dtifit.bvec", grid.affine)
    names = ("L1", "L2", "L3", "V1", "V2", "V3", "S0")
    outputs = [folder / f"dtifit_{name}.nii" for name in names]
    interface = DTIFit(
        dwi=str(dwi),
        bvals=str(bval),
        bvecs=str(bvec),
        mask=str(mask),
        base_name=str(folder / "dtifit"),
        output_type="NIFTI",
    )
    tools.run_interface(interface, context, outputs)
    dwi.unlink()
    made = [tools.read_output(path, context.commands[-1])[0].astype(np.float64) for path in outputs]
    made = [image.reshape(inputs.mask.size, -1, order="F").T for image in made]
    turn = voxel_to_world(grid.affine)
    vectors = np.einsum("ij,kjv->kiv", turn, np.stack(made[3:6]))
    tensor = from_eigenpairs(np.concatenate(made[:3]), vectors) * largest_b(inputs.gradients)
    parameters = np.concatenate([tensor, np.log(np.maximum(made[6], np.finfo(np.float32).tiny))])

    def estimate(_: Float, here: NDArray[np.intp]) -> tuple[Float, int]:
        return np.asarray(parameters[:, here]), 0

    return estimate


def read_inputs(dwi: Path, bval: Path, bvec: Path, mask: Path, config: Config) -> Inputs:
    """Read and check what the fit needs.

    Raises:
        DatasetError: `MASK_GRID`, `MASK_EMPTY`, `GRADIENT_COUNT`, `DESIGN_RANK`.
    """
    data, grid = images.read_float(dwi)
    inside, mask_grid = images.read_float(mask)
    gradients = read_fsl(bval, bvec, grid.affine)
    problems = []
    if not mask_grid.matches(grid):
        problems.append(
            Problem(
                "MASK_GRID",
                "the mask is not on the grid of the DWI",
                where=str(mask),
                found=f"{mask_grid.shape}",
                expected=f"{grid.shape} and the same affine",
                do="resample the mask to the DWI, or leave it out",
            )
        )
    elif not inside.any():
        problems.append(Problem("MASK_EMPTY", "the mask holds no voxel", where=str(mask)))
    if not len(gradients.bvals) == len(gradients.bvecs) == data.shape[-1]:
        found = (
            f"{len(gradients.bvals)} b-values, {len(gradients.bvecs)} directions, {data.shape[-1]} volumes"
        )
        problems.append(
            Problem("GRADIENT_COUNT", "gradients and volumes differ in number", where=str(bval), found=found)
        )
        raise DatasetError.of(problems)
    b_min = lowest_b(config.b_min_s_per_mm2, config.b_max_s_per_mm2, gradients)
    used = used_volumes(gradients.bvals, b_min, config.b_max_s_per_mm2)
    chosen = Gradients(gradients.bvals[used], gradients.bvecs[used])
    if condition(design_matrix(chosen)) > CONDITION_MAX:
        problems.append(_undetermined(chosen, config, bvec))
    if problems:
        raise DatasetError.of(problems)
    return Inputs(data, grid, inside.reshape(grid.shape) > 0, chosen, used, b_min)


def _undetermined(gradients: Gradients, config: Config, where: Path) -> Problem:
    is_b0 = gradients.is_b0(config.b0_max_s_per_mm2)
    return Problem(
        "DESIGN_RANK",
        "the gradients that are used do not determine a tensor",
        where=str(where),
        found=f"{is_b0.sum()} volumes of b=0 and {(~is_b0).sum()} others, "
        f"condition number {condition(design_matrix(gradients)):.3g}",
        expected="at least 6 directions, not on one cone or in one plane, and b=0 or a second b-value; "
        f"condition number at most {CONDITION_MAX:g}",
        do="check bval and bvec, and the options b_min_s_per_mm2 and b_max_s_per_mm2 of tensor",
    )


def _tools(config: Config) -> dict[str, str]:
    return {"dtifit": tools.version_of("dtifit")} if config.method == "dtifit" else {}


def _report(inputs: Inputs, fitted: Fitted, config: Config, context: Context) -> None:
    """Leave the figures of the fit, and what a reader should know of it, with the context."""
    is_b0 = inputs.gradients.is_b0(config.b0_max_s_per_mm2)
    context.numbers |= {
        "voxels_fitted": float(inputs.mask.sum()),
        "volumes_b0": float(is_b0.sum()),
        "volumes_weighted": float((~is_b0).sum()),
        "design_condition": condition(design_matrix(inputs.gradients)),
        "nonpositive_fraction": float(fitted.maps["nonpositive"][inputs.mask].mean()),
        "floored_signal_fraction": fitted.floored_fraction,
    }
    if config.method == "robust":
        context.numbers["outlier_signal_fraction"] = fitted.outlier_fraction
        if len(is_b0) < 2 * PARAMETERS:
            context.warn(
                Problem(
                    "ROBUST_FEW_VOLUMES",
                    "the robust fit has hardly more volumes than parameters, and finds few outliers",
                    found=f"{len(is_b0)} volumes",
                    expected=f"at least {2 * PARAMETERS}",
                    do="use tensor.method: wls",
                    severity="warning",
                )
            )
    if config.b_min_s_per_mm2 == "auto":
        _tell_perfusion(inputs.b_min, context)
    if not inputs.used.all():
        shells = ", ".join(f"{b:g}" for b in np.unique(np.round(inputs.gradients.bvals, -1)))
        context.infer(
            "tensor.volumes",
            f"{inputs.used.sum()} of {len(inputs.used)}, b = {shells} s/mm2",
            "b_min_s_per_mm2 and b_max_s_per_mm2 leave the others out",
        )
    if not is_b0.any():
        context.infer("s0", "extrapolated to b=0", "no volume of b=0 is used")


def _tell_perfusion(b_min: float, context: Context) -> None:
    """Leave word of the choice that `auto` made."""
    name, value = "tensor.b_min_s_per_mm2", f"{b_min:g}"
    if b_min > 0:
        context.infer(name, value, "the volumes from there on determine the tensor and the signal at b=0")
        return
    context.infer(name, value, f"the volumes of b >= {PERFUSION_B:g} alone do not determine the fit")
    context.warn(
        Problem(
            "PERFUSION_IN_FIT",
            "the fit uses b=0, so that perfusion raises MD and lowers FA",
            expected=PERFUSION_SHELLS,
            do="do not compare MD with scans whose fit leaves b=0 out; in muscle it is about 15 % higher",
            severity="warning",
        )
    )


@step(
    makes={
        **PRODUCTS,
        "bval_used": "b-values of the volumes that were fitted, FSL text format, s/mm2",
        "bvec_used": "Gradient directions of the volumes that were fitted, FSL text format",
    },
    tools=_tools,
    dwi_copies=3.0,
)
def run(dwi: Dwi, bval: Bval, bvec: Bvec, mask: Mask, config: Config, context: Context) -> tuple[Path, ...]:
    """Fit the tensor in the mask and write its maps, the same definitions for every method."""
    inputs = read_inputs(dwi, bval, bvec, mask, config)
    if config.method == "dtifit":
        estimate = estimate_by_dtifit(inputs, mask, context)
    else:
        estimate = estimate_by(config, design_matrix(inputs.gradients))
    fitted = fit_maps(
        inputs.dwi,
        inputs.mask,
        inputs.gradients,
        estimate,
        used=inputs.used,
        min_signal=config.min_signal,
        threads=context.threads,
    )
    _report(inputs, fitted, config, context)
    texts = write_fsl(
        inputs.gradients,
        context.folder / "bval_used.bval",
        context.folder / "bvec_used.bvec",
        inputs.grid.affine,
    )
    maps = [images.write(context.folder / f"{name}.nii", fitted.maps[name], inputs.grid) for name in PRODUCTS]
    return *maps, *texts
