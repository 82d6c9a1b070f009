"""Transfer probability images of regions or tracts to the grid of the diffusion series, linearly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np

from somite import itk
from somite.body import read_mask
from somite.images import grid_of, open_image, write
from somite.interfaces.anatomy_transform import read_doubts
from somite.interfaces.transfer import other_grid, points_of
from somite.label_sources.overlap import check_overlap
from somite.label_sources.probseg import read_probabilities
from somite.orientation import storage_change
from somite.position import Image
from somite.registry import Context, Dwi, LabelTable, StepConfig, step
from somite.segments import label_table_text, read_label_table
from somite.template import sampled


class Config(StepConfig):
    """`probabilities` has no options."""


@step(
    makes={
        "probabilities_dwi": "Probabilities 0 to 1 on the grid of the series, 4D NIfTI, a volume per row",
        "probabilities_dwi_table": "Table of its volumes, TSV as of labels; index: the volume, from 1",
    },
    dwi_copies=1.0,
)
def run(
    probabilities: Annotated[tuple[Path, ...], "Probability images: one 4D NIfTI, or a 3D one per label"],
    probability_table: LabelTable,
    dwi: Dwi,
    config: Config,  # noqa: ARG001
    context: Context,
    transform: Annotated[Path, "ITK transform: points of the DWI to points of the images"] | None = None,
    anatomy_transform: Annotated[Path, "The same, found by registration to the anatomy"] | None = None,
    anatomy_doubts: Annotated[Path, "Flags of what comes through that registration, JSON"] | None = None,
    within: Annotated[Path, "Mask outside of which there is no probability"] | None = None,
) -> tuple[Path, Path]:
    """Interpolate each volume where the voxels of the series lie in it; 0 outside.

    Images on the grid of the series are taken as they lie, unless a transform of their own is given.

    Raises:
        DatasetError: as `read_probabilities` and `read_label_table`; `LABEL_GRID`, `TRANSFORM_UNREADABLE`,
            `MASK_GRID`.
    """
    grid = grid_of(open_image(dwi))
    found = read_probabilities(probabilities, read_label_table(probability_table))
    if found.percent:
        context.infer("probabilities", "percent, divided by 100", "values above 1.5, none above 100")
    names = {label.name: found.data[..., n] for n, label in enumerate(found.labels)}
    for problem in check_overlap(names, str(probabilities[0])):
        # Fibres cross: unlike labels, tracts may share a voxel.
        context.warn(replace(problem, severity="warning"))
    change = storage_change(found.grid, grid)
    given = transform or (anatomy_transform if change is None else None)
    if given is not None:
        points = itk.move(itk.read(given), points_of(grid)).reshape(*grid.shape, 3)
        volumes = np.moveaxis(found.data, 3, 0)
        moved = np.stack([sampled(Image(volume, found.grid), points) for volume in volumes], -1)
        context.infer("probabilities", "linear interpolation", f"through {given.name}")
    elif change is not None:
        moved = change.apply(found.data)
    else:
        raise other_grid(probabilities[0], found.grid, grid)
    if within is not None:
        moved = moved * read_mask(within, grid)[..., None]
    made = context.folder / "probabilities_dwi.tsv"
    flags = ";".join(read_doubts(anatomy_doubts)) if given is not None and transform is None else ""
    told = {label.segment: flags for label in found.labels} if flags else None
    made.write_text(label_table_text(found.labels, told), encoding="utf-8", newline="\n")
    return write(
        context.folder / "probabilities_dwi.nii", np.ascontiguousarray(moved, np.float32), grid
    ), made
