"""Bring a fat-fraction map, such as that of a Dixon scan, to the grid of the diffusion series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from somite import images, itk
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.interfaces.transfer import points_of
from somite.registry import Context, Dwi, StepConfig, step

PERCENT_FROM = 1.5
"""A map with values above this is one of percent."""


class Config(StepConfig):
    """`fat_fraction` has no options."""


def at_points(
    data: NDArray[np.float32], grid: Grid, points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values (n,) of a map at points (n, 3) in world mm, linear between voxels; and which lie inside.

    Half a voxel beyond the outermost centres still counts as inside.
    """
    inverse = np.linalg.inv(grid.affine)
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((voxels >= -0.5 - 1e-6) & (voxels <= np.array(grid.shape) - 0.5 + 1e-6)).all(1)
    values = map_coordinates(data.astype(np.float64), voxels.T, order=1, mode="nearest")
    return np.where(inside, values, np.nan), inside


@step(makes={"fat_fraction": "Fat fraction on the grid of the DWI, 3D NIfTI, 0 to 1"}, dwi_copies=1.0)
def run(
    fat_given: Annotated[Path, "Fat-fraction map, 3D NIfTI, 0 to 1 or in percent"],
    dwi: Dwi,
    config: Config,  # noqa: ARG001
    context: Context,
    labels_transform: Annotated[Path, "ITK transform: points of the DWI to points of the map"] | None = None,
) -> Path:
    """Sample the map at the voxels of the series, in one world space or through a transform.

    Outside the map the fraction is not known: it is written as -1, and `roi` leaves it out.

    Raises:
        DatasetError: `FAT_MAP`, the map is not 3D or does not reach the series; `TRANSFORM_UNREADABLE`;
            `IMAGE_UNREADABLE`.
    """
    grid = images.grid_of(images.open_image(dwi))
    data, own = images.read_float(fat_given)
    if data.size != np.prod(own.shape):
        raise DatasetError(_unusable(fat_given, "the fat-fraction map is not 3D", f"shape {data.shape}"))
    data = np.nan_to_num(data.reshape(own.shape), nan=0.0, posinf=0.0, neginf=0.0)
    if data.max() > PERCENT_FROM:
        context.infer("fat_fraction", "in percent", f"values up to {data.max():g}")
        data = data / np.float32(100)
    points = points_of(grid)
    if labels_transform is not None:
        points = itk.move(itk.read(labels_transform), points)
    values, inside = at_points(data, own, points)
    if not inside.any():
        raise DatasetError(
            _unusable(fat_given, "the fat-fraction map does not reach the series", "no overlap")
        )
    context.numbers["fat_map_covers_fraction"] = float(inside.mean())
    found = np.where(inside, np.clip(values, 0, 1), -1.0).reshape(grid.shape)
    return images.write(context.folder / "fat_fraction.nii", found.astype(np.float32), grid)


def _unusable(path: Path, what: str, found: str) -> Problem:
    return Problem(
        "FAT_MAP",
        what,
        where=str(path),
        found=found,
        expected="one volume of fractions that lies where the diffusion series lies",
        do="give the fat-fraction map of the same session, and the transform of the labels if it needs one",
    )
