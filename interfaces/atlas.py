"""Bring an atlas to the subject: its FA template is registered to the FA map, its labels follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import SimpleITK as sitk
from pydantic import Field

from somite.alignment import Image
from somite.body import read_mask
from somite.errors import DatasetError, Problem
from somite.images import Grid, read_float, write
from somite.interfaces.anatomy_transform import field_transform
from somite.interfaces.transfer import nearest_labels, read_labels_3d
from somite.orientation import describe_grid, storage_change
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
        "atlas_labels_dwi": "Label image of the atlas on the grid of the diffusion series, 3D NIfTI",
    },
    dwi_copies=2.0,
)
def run(
    fa: Annotated[Path, "Fractional anisotropy of the subject, 3D NIfTI"],
    mask: Mask,
    atlas_template: Annotated[Path, "FA template, 3D NIfTI, in the space of the atlas"],
    atlas_labels: Annotated[Path, "Label image of the atlas, 3D NIfTI of integers"],
    config: Config,
    context: Context,
) -> tuple[Path, Path]:
    """Register the template to the subject, and take the label nearest to where each voxel lies in it.

    Raises:
        DatasetError: `ATLAS_SPACE`, `LABEL_NOT_INTEGER`, `LABEL_NOT_3D`, `MASK_GRID`, `IMAGE_UNREADABLE`.
    """
    data, grid = read_float(fa)
    template, template_grid = read_float(atlas_template)
    labels, label_grid = read_labels_3d(atlas_labels)
    if not _overlap(template_grid, label_grid):
        raise _other_space(atlas_labels, label_grid, template_grid)
    brain = read_mask(mask, grid)
    iterations = (40, 40, 20) if config.method == "deformable" else ()
    subject = Image(np.where(brain & np.isfinite(data), np.clip(data, 0, 1), 0).astype(np.float32), grid)
    found = warp(subject, Image(template.reshape(template_grid.shape), template_grid), brain, iterations)
    _tell(found, config, atlas_template, context)
    made = context.folder / "atlas_transform.h5"
    sitk.WriteTransform(field_transform(found.points, grid), str(made))
    moved = nearest_labels(labels, label_grid, found.points.reshape(-1, 3)).reshape(grid.shape)
    moved[~brain] = 0
    return made, write(context.folder / "atlas_labels_dwi.nii", moved, grid)


def _overlap(one: Grid, other: Grid) -> bool:
    """Whether the voxels are the same, or the fields of view share a centre within 20 mm."""
    if storage_change(one, other) is not None:
        return True
    middles = [
        grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3] for grid in (one, other)
    ]
    return bool(np.linalg.norm(middles[0] - middles[1]) < 20.0)


def _other_space(labels: Path, found: Grid, expected: Grid) -> DatasetError:
    return DatasetError(
        Problem(
            "ATLAS_SPACE",
            "the atlas' labels and its FA template do not lie in one space",
            where=str(labels),
            found=describe_grid(found),
            expected=describe_grid(expected),
            do="give the template that belongs to the labels",
        )
    )


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
                do="look at atlas_labels_dwi on the FA map, and at the mask",
                severity="warning",
            )
        )
