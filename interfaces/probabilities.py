"""Transfer probability images of regions or tracts to the grid of the diffusion series, linearly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np

from somite.alignment import Image
from somite.errors import DatasetError, Problem
from somite.images import grid_of, open_image, read_float, write
from somite.interfaces.transfer import other_grid, points_of, read_transform, transform_points
from somite.orientation import storage_change
from somite.registry import Context, Dwi, StepConfig, step
from somite.template import sampled


class Config(StepConfig):
    """`probabilities` has no options."""


@step(
    makes={"probabilities_dwi": "Probabilities 0 to 1 on the grid of the series, 4D NIfTI, a volume per row"},
    dwi_copies=1.0,
)
def run(
    probabilities: Annotated[Path, "Probability images, 4D NIfTI, 0 to 1, one volume per row of the table"],
    dwi: Dwi,
    config: Config,  # noqa: ARG001
    context: Context,
    labels_transform: Annotated[Path, "ITK transform: points of the DWI to points of the images"]
    | None = None,
    anatomy_transform: Annotated[Path, "The same, found by registration to the anatomy"] | None = None,
    atlas_transform: Annotated[Path, "The same, found by registration to the template"] | None = None,
) -> Path:
    """Interpolate each volume where the voxels of the series lie in it; 0 outside.

    Raises:
        DatasetError: `PROBABILITY_RANGE`, `LABEL_GRID`, `TRANSFORM_UNREADABLE`, `IMAGE_UNREADABLE`.
    """
    grid = grid_of(open_image(dwi))
    data, own = read_float(probabilities)
    volumes = data.reshape(*own.shape, -1)
    if not (np.isfinite(volumes).all() and volumes.min() >= 0 and volumes.max() <= 1):
        raise DatasetError(
            Problem(
                "PROBABILITY_RANGE",
                "probabilities do not lie between 0 and 1",
                where=str(probabilities),
                found=f"{np.nanmin(volumes):g} to {np.nanmax(volumes):g}",
                expected="0 to 1",
                do="divide per cent by 100",
            )
        )
    given = labels_transform or anatomy_transform or atlas_transform
    if given is None:
        change = storage_change(own, grid)
        if change is None:
            raise other_grid(probabilities, own, grid)
        moved = change.apply(volumes)
    else:
        points = transform_points(read_transform(given), points_of(grid)).reshape(*grid.shape, 3)
        moved = np.stack([sampled(Image(volumes[..., n], own), points) for n in range(volumes.shape[3])], -1)
        context.infer("probabilities", "linear interpolation", f"through {given.name}")
    return write(context.folder / "probabilities_dwi.nii", np.ascontiguousarray(moved, np.float32), grid)
