"""Step `denoise`: denoising of a diffusion series, by MP-PCA unless told otherwise, with a map of the noise.

Does not know directions, masks or labels. It expects the series as it was acquired: resampling before
this step correlates the noise of neighbouring voxels, and the estimate no longer holds.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from somite import images, rician, tools
from somite.errors import DatasetError, Problem, ToolError
from somite.files import link_or_copy
from somite.gradient_check import B0_MAX
from somite.images import FloatArray, Grid
from somite.mppca import Signal, mppca, patch_shape
from somite.orientation import describe_grid
from somite.patch2self import patch2self
from somite.phase import without_smooth_phase
from somite.registry import Bval, Context, Dwi, StepConfig, step

Float32 = NDArray[np.float32]

FEW_VOLUMES = 10
"""Below this many volumes the Marchenko-Pastur law describes the noise poorly, and the step warns."""

PHASE_MAX_RAD = 100.0
"""A larger phase is not in radians but in degrees, or as a scanner stores it (0 to 4095)."""

PLANES = {"ij": (0, 1), "ik": (0, 2), "jk": (1, 2)}

Phase = Annotated[Path, "Phase of the diffusion series in radians, 4D NIfTI on its grid"]


class Config(StepConfig):
    """Options of denoising. The patch is cubic; it is reshaped where the image is thinner than the patch."""

    method: Literal["mppca", "dwidenoise", "patch2self", "none"] = Field(
        "mppca",
        description="mppca: MP-PCA, built in; dwidenoise: that of MRtrix3 (patch_voxels and precision apply, "
        "stride_voxels does not); patch2self: each volume predicted from the others, for many directions "
        "(Fadnavis 2020), the noise being estimated by mppca; none: the data pass unchanged and only the "
        "noise is estimated, by mppca",
    )
    patch_voxels: int = Field(5, ge=3, le=15, description="Edge of the cubic patch, voxels, odd")
    stride_voxels: int = Field(2, ge=1, le=15, description="Step between patches, voxels; at most the patch")
    noise_floor: Literal["keep", "koay"] = Field(
        "keep",
        description="koay: take off what noise adds to magnitudes near it (Koay and Basser 2006), for tissue "
        "of low signal such as muscle; not with method none, and not needed where the phase is given",
    )
    precision: Literal["float32", "float64"] = Field(
        "float32",
        description="Precision of the decomposition; float32 serves up to a signal-to-noise ratio of 400",
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="patch2self: volumes up to this b-value count as b=0, s/mm2"
    )
    phase_plane: Literal["ij", "ik", "jk"] = Field(
        "ij",
        description="Where the phase is given: voxel axes of the acquired slices, within which it is smooth",
    )

    @model_validator(mode="after")
    def _patches_cover_the_image(self) -> Self:
        if self.patch_voxels % 2 == 0:
            raise ValueError(f"patch_voxels is {self.patch_voxels}; expected an odd number")
        if self.stride_voxels > self.patch_voxels:
            raise ValueError(
                f"stride_voxels is {self.stride_voxels}, larger than patch_voxels {self.patch_voxels}: "
                "voxels between the patches would be left out"
            )
        return self

    @model_validator(mode="after")
    def _floor_of_means_only(self) -> Self:
        if self.noise_floor == "koay" and self.method == "none":
            raise ValueError(
                "noise_floor is koay with method none: the floor can be taken off mean magnitudes, which "
                "denoising estimates, not off single ones; choose method mppca"
            )
        return self


def true_noise(
    signal: FloatArray, spread: FloatArray, *, off_floor: bool, threads: int
) -> tuple[Float32, Float32]:
    """The standard deviation of the noise behind magnitudes, and the signal with or without its floor.

    Args:
        signal: (x, y, z, n) mean magnitudes.
        spread: (x, y, z) standard deviation of the magnitudes.
        off_floor: whether to take the floor off. A magnitude at the floor then leaves 5 % of sigma: a signal
            of 0 has no logarithm to fit.
        threads: how many slices to work on at a time.

    Returns:
        Signal (x, y, z, n) and sigma (x, y, z).
    """
    sigma = np.empty(spread.shape, np.float32)
    out = np.empty(signal.shape, np.float32) if off_floor else np.asarray(signal, np.float32)

    def one(i: int) -> None:
        sigma[i] = rician.noise(signal[i], spread[i])
        if off_floor:
            least = np.float32(0.05) * sigma[i][..., None]
            out[i] = np.maximum(rician.signal(signal[i], sigma[i]), least)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(sigma))))
    return out, sigma


def _few_volumes(n_volumes: int, where: Path) -> Problem:
    return Problem(
        "DENOISE_FEW_VOLUMES",
        "MP-PCA has too few volumes to tell noise from signal well: sigma may be 5 to 15 % off",
        where=str(where),
        found=f"{n_volumes} volumes",
        expected=f"at least {FEW_VOLUMES}",
        do="compare with denoise.method: none, and read the SNR of this series with caution",
        severity="warning",
    )


def _dwidenoise(dwi: Path, grid: Grid, config: Config, context: Context) -> tuple[FloatArray, FloatArray]:
    """Signal and sigma by MRtrix3's dwidenoise. Voxels for which it has no estimate get sigma 0."""
    from nipype.interfaces.mrtrix3 import DWIDenoise

    out = context.folder / "dwidenoise_signal.nii"
    noise = context.folder / "dwidenoise_sigma.nii"
    interface = DWIDenoise(
        in_file=str(dwi),
        out_file=str(out),
        noise=str(noise),
        extent=(config.patch_voxels,) * 3,
        nthreads=context.threads,
        args=f"-force -datatype {config.precision}",
    )
    tools.run_interface(interface, context, [out, noise])
    command = context.commands[-1]
    signal, signal_grid = tools.read_output(out, command)
    sigma, _ = tools.read_output(noise, command)
    if not signal_grid.matches(grid):
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_GRID",
                "dwidenoise wrote an image on another grid than that of its input",
                where=command,
                found=f"{signal_grid.shape}",
                expected=f"{grid.shape} and the same affine",
                do="use denoise.method: mppca, and report this with the image's header",
            )
        )
    return signal, np.nan_to_num(sigma, nan=0.0)


def _tools(config: Config) -> dict[str, str]:
    return {"dwidenoise": tools.version_of("dwidenoise")} if config.method == "dwidenoise" else {}


def _mppca(data: Signal, config: Config, context: Context, where: Path) -> tuple[FloatArray, Float32]:
    """Signal and sigma by MP-PCA, saying what was adapted; only sigma is estimated where no other is used.

    Of a complex series the signal is the magnitude. Its real part would be less biased, by 0.05 sigma for
    signals below half a sigma and 0.02 above, but loses what has a phase that is not smooth, and is negative
    for as many voxels without signal as not.
    """
    shape = (data.shape[0], data.shape[1], data.shape[2])
    patch = patch_shape(shape, config.patch_voxels)
    if patch != (config.patch_voxels,) * 3:
        context.infer(
            "denoise.patch_voxels",
            "x".join(map(str, patch)),
            f"the image, {'x'.join(map(str, shape))} voxels, is thinner than the patch of "
            f"{config.patch_voxels}; the patch holds about as many voxels",
        )
    if data.shape[3] < FEW_VOLUMES:
        context.warn(_few_volumes(data.shape[3], where))
    signal, sigma = mppca(
        data,
        patch,
        config.stride_voxels,
        precision=config.precision,
        threads=context.threads,
        only_noise=config.method != "mppca",
    )
    return (np.abs(signal) if np.iscomplexobj(signal) else signal), sigma


def _patch2self(data: Float32, bval: Path | None, config: Config, context: Context) -> Float32:
    """Signal by Patch2Self, saying which volumes have no others to be predicted from."""
    if bval is None:
        raise DatasetError(
            Problem(
                "DENOISE_NO_BVAL",
                "patch2self needs b-values: it predicts b=0 volumes from b=0 volumes, and others from others",
                where="denoise.method",
                found="no b-values",
                expected="the product bval",
                do="give bval, or choose method mppca",
            )
        )
    is_b0 = np.loadtxt(bval, ndmin=1).ravel() <= config.b0_max_s_per_mm2
    for alone, kind in ((is_b0, "b=0"), (~is_b0, "diffusion-weighted")):
        if alone.sum() == 1:
            context.infer(
                f"volume {int(np.flatnonzero(alone)[0])} of dwi_denoised",
                "as it was given",
                f"it is the only {kind} volume: patch2self has no other to predict it from",
            )
    return patch2self(data, is_b0)


def read_phase(path: Path, shape: tuple[int, ...], grid: Grid) -> Float32:
    """The phase of a series of `shape` (x, y, z, volumes), radians.

    Raises:
        DatasetError: `IMAGE_UNREADABLE`; `PHASE_GRID` where it is of other voxels or volumes;
            `PHASE_NOT_RADIANS`.
    """
    phase, own = images.read_float(path)
    if phase.shape != shape or not own.matches(grid):
        raise DatasetError(
            Problem(
                "PHASE_GRID",
                "the phase is not that of the series",
                where=str(path),
                found=f"shape {phase.shape}, {describe_grid(own)}",
                expected=f"shape {shape}, {describe_grid(grid)}",
                do="give the phase of the same series, converted in the same way",
            )
        )
    largest = float(np.abs(phase).max())
    if not largest <= PHASE_MAX_RAD:
        raise DatasetError(
            Problem(
                "PHASE_NOT_RADIANS",
                "the phase is not in radians",
                where=str(path),
                found=f"values up to {largest:g}",
                expected="-pi to pi, or 0 to 2 pi",
                do="scale it: a phase of 0 to 4095 is one of 0 to 2 pi",
            )
        )
    return phase


def _phase_unused(config: Config, phase: Path) -> Problem:
    return Problem(
        "DENOISE_PHASE_UNUSED",
        f"the phase is not used by method {config.method}",
        where=str(phase),
        found=f"denoise.method: {config.method}",
        expected="denoise.method: mppca",
        do="choose method mppca, which denoises the complex series, or give no phase",
        severity="warning",
    )


def _of_magnitudes(
    dwi: Path, data: Float32, grid: Grid, bval: Path | None, config: Config, context: Context
) -> tuple[FloatArray, Float32]:
    """Denoised magnitudes and the noise behind them; with method `none`, the magnitudes as they are."""
    if config.method == "dwidenoise":
        signal, spread = _dwidenoise(dwi, grid, config, context)
    else:
        signal, spread = _mppca(data, config, context, dwi)
    if config.method == "patch2self":
        signal = _patch2self(data, bval, config, context)
    return true_noise(signal, spread, off_floor=config.noise_floor == "koay", threads=context.threads)


def _of_complex(
    dwi: Path, data: Float32, grid: Grid, phase: Path, config: Config, context: Context
) -> tuple[FloatArray, Float32]:
    """Denoised magnitudes of a complex series, and its noise."""
    angles = read_phase(phase, data.shape, grid)
    series = without_smooth_phase(data, angles, PLANES[config.phase_plane], context.threads)
    if config.noise_floor == "koay":
        reason = "the phase is given: noise is taken off the complex series, which has no floor"
        context.infer("denoise.noise_floor", "keep", reason)
    return _mppca(series, config, context, dwi)


@step(
    makes={
        "dwi_denoised": "Denoised diffusion series, 4D NIfTI",
        "noise_sigma": "Standard deviation of the noise, 3D NIfTI, in the units of the signal",
    },
    tools=_tools,
    dwi_copies=4.0,
)
def run(
    dwi: Dwi,
    config: Config,
    context: Context,
    bval: Bval | None = None,
    phase: Phase | None = None,
) -> tuple[Path, Path]:
    """Denoise a series and map its noise; a complex one where its phase is given.

    With method `none` the noise is estimated all the same, for the SNR of the segments.

    Raises:
        DatasetError: as `read_phase`; `DENOISE_NO_BVAL`.
        ToolError: as `run_interface`; `TOOL_OUTPUT_GRID`.
    """
    data, grid = images.read_float(dwi)
    if phase is not None and config.method in ("mppca", "none"):
        signal, sigma = _of_complex(dwi, data, grid, phase, config, context)
    else:
        if phase is not None:
            context.warn(_phase_unused(config, phase))
        signal, sigma = _of_magnitudes(dwi, data, grid, bval, config, context)
    estimated = sigma[sigma > 0]
    context.numbers["noise_sigma_median"] = float(np.median(estimated)) if estimated.size else 0.0
    if config.method == "none":
        context.infer("dwi_denoised", "the series as it was given", "denoise.method is none")
        name = "dwi_denoised.nii.gz" if dwi.name.endswith(".nii.gz") else "dwi_denoised.nii"
        denoised = link_or_copy(dwi.resolve(), context.folder / name)
    else:
        denoised = images.write(context.folder / "dwi_denoised.nii", signal, grid)
    return denoised, images.write(context.folder / "noise_sigma.nii", sigma, grid)
