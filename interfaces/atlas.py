"""Find where the subject lies in the space of an atlas: its FA template is registered to the FA map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from somite import itk
from somite.body import read_mask
from somite.errors import Problem
from somite.images import read_float
from somite.position import Image
from somite.registry import Context, Mask, StepConfig, step
from somite.template import Warped, warp


class Config(StepConfig):
    """Options of `atlas`."""

    method: Literal["deformable", "affine"] = Field(
        "deformable", description="deformable: affine, then diffeomorphic; affine: the size and pose only"
    )
    correlation_warn: float = Field(
        0.5, ge=0, le=1, description="Correlation of FA and warped template in the mask below which it warns"
    )


@step(
    makes={
        "atlas_transform": "ITK transform: points of the diffusion series to points of the template, .h5",
    },
    dwi_copies=2.0,
)
def run(
    fa: Annotated[Path, "Fractional anisotropy of the subject, 3D NIfTI"],
    mask: Mask,
    atlas_template: Annotated[Path, "FA template, 3D NIfTI, in the space of the atlas"],
    config: Config,
    context: Context,
) -> Path:
    """Register the template to the subject; labels and probabilities of the atlas follow by its transform.

    Raises:
        DatasetError: `MASK_GRID`, `IMAGE_UNREADABLE`.
    """
    data, grid = read_float(fa)
    template, template_grid = read_float(atlas_template)
    brain = read_mask(mask, grid)
    iterations = (40, 40, 20) if config.method == "deformable" else ()
    subject = Image(np.where(brain & np.isfinite(data), np.clip(data, 0, 1), 0).astype(np.float32), grid)
    found = warp(subject, Image(template.reshape(template_grid.shape), template_grid), brain, iterations)
    _tell(found, config, atlas_template, context)
    made = context.folder / "atlas_transform.h5"
    itk.write(itk.field(found.points, grid), made)
    return made


def _tell(found: Warped, config: Config, template: Path, context: Context) -> None:
    context.numbers |= {
        "atlas_correlation": found.correlation,
        "atlas_correlation_affine": found.correlation_affine,
        "atlas_overlap_fraction": found.affine.overlap,
    }
    low = found.correlation < config.correlation_warn
    if low or (found.correlation <= found.correlation_affine and config.method == "deformable"):
        context.warn(
            Problem(
                "REGISTRATION_DOUBTFUL",
                "the registration of the template to the subject may have failed",
                where=str(template),
                found=f"correlation {found.correlation:.2f} in the mask, {found.correlation_affine:.2f} by "
                "the affine part alone",
                expected=f"at least {config.correlation_warn:g}, and more than by the affine part",
                do="look at labels_dwi on the FA map, and at the mask",
                severity="warning",
            )
        )
