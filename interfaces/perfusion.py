"""Estimate the perfusion fraction (IVIM): what of the signal at b=0 the tensor at higher b does not foretell.

In muscle a tenth of the signal at b=0 is blood that moves, and is gone at b=200 s/mm2. The segmented fit
takes the tensor from there on, and compares its signal at b=0 with the measured one: f = 1 - S0(fit) / S(b=0)
(Le Bihan et al., Radiology 168 (1988) 497; 10.1002/jmri.27875). As the relaxation times of blood and tissue
differ, it is a fraction of signal, not of volume. Pseudo-diffusion itself is not estimated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite import images
from somite.errors import Problem
from somite.gradients import Gradients
from somite.interfaces import tensor
from somite.registry import Bval, Bvec, Context, Dwi, Mask, StepConfig, step
from somite.tensorfit import design_matrix
from somite.volumes import PERFUSION_B, PERFUSION_SHELLS, reaches_over_perfusion, used_volumes

Float32 = NDArray[np.float32]
UNKNOWN = -1.0
"""Written where the fraction is not known."""


class Config(StepConfig):
    """Options of the perfusion fraction."""

    method: Literal["segmented", "none"] = Field(
        "none",
        description="segmented: signal at b=0 against that of the tensor fit from b=200 s/mm2 on; none",
    )
    b0_max_s_per_mm2: float = Field(
        10.0, ge=0, description="Up to this b a volume counts as b=0, s/mm2: perfusion begins to go at once"
    )


def perfusion_fraction(measured: Float32, fitted: Float32) -> Float32:
    """1 - fitted / measured signal at b=0, of equal shapes; 0 where nothing was measured.

    Values below 0 are kept, or noise would make a perfusion of itself. They are held at -0.99 or above,
    and at most at 1.
    """
    known = (measured > 0) & (fitted > 0)
    ratio = np.divide(fitted, measured, out=np.ones_like(fitted), where=known)
    return np.asarray(np.clip(1 - ratio, -0.99, 1), np.float32)


@step(makes={"perfusion_fraction": "Perfusion fraction of the signal at b=0, 3D NIfTI"}, dwi_copies=2.0)
def run(dwi: Dwi, bval: Bval, bvec: Bvec, mask: Mask, config: Config, context: Context) -> Path:
    """Fit the tensor to the volumes of b >= 200 s/mm2, and compare its S0 with the mean of b=0.

    Where the b-values do not tell it the map is -1 throughout, with a warning; with method none it is 0.

    Raises:
        DatasetError: as the step `tensor`.
    """
    path = context.folder / "perfusion_fraction.nii"
    if config.method == "none":
        grid = images.grid_of(images.open_image(dwi))
        return images.write(path, np.zeros(grid.shape, np.float32), grid)
    whole = tensor.read_inputs(dwi, bval, bvec, mask, tensor.Config())
    gradients = whole.gradients
    is_b0 = gradients.is_b0(config.b0_max_s_per_mm2)
    if not (is_b0.any() and reaches_over_perfusion(gradients, None)):
        _tell_undetermined(gradients, context)
        return images.write(path, np.full(whole.grid.shape, UNKNOWN, np.float32), whole.grid)
    used = used_volumes(gradients.bvals, PERFUSION_B, None)
    high = Gradients(gradients.bvals[used], gradients.bvecs[used])
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(high))
    fitted = tensor.fit_maps(whole.dwi, whole.mask, high, estimate, used=used, threads=context.threads)
    measured = np.asarray(np.mean(whole.dwi[..., is_b0], -1, dtype=np.float64), np.float32)
    found = np.where(whole.mask, perfusion_fraction(measured, fitted.maps["s0"]), 0)
    context.numbers["perfusion_fraction_median"] = float(np.median(found[whole.mask]))
    context.infer(
        "perfusion_fraction",
        "Perfusion fraction: 1 - S0 of the fit / mean signal at b=0",
        f"{used.sum()} volumes of b >= {PERFUSION_B:g} s/mm2, {is_b0.sum()} of b=0",
    )
    return images.write(path, found.astype(np.float32), whole.grid)


def _tell_undetermined(gradients: Gradients, context: Context) -> None:
    shells = ", ".join(f"{b:g}" for b in np.unique(np.round(gradients.bvals, -1)))
    context.infer("perfusion_fraction", "not determined: -1 throughout", f"b-values of {shells} s/mm2")
    context.warn(
        Problem(
            "PERFUSION_UNDETERMINED",
            "the b-values do not tell a perfusion fraction",
            found=f"b = {shells} s/mm2",
            expected=f"b=0, and {PERFUSION_SHELLS}",
            do="leave the map and the metric perfusion_fraction out of the analysis of this session",
            severity="warning",
        )
    )
