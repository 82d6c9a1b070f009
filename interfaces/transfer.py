"""Transfer the labels to the grid of the diffusion series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem
from somite.images import Grid, grid_of, open_image, read_labels, write
from somite.orientation import describe_grid, storage_change
from somite.registry import Context, Dwi, LabelTable, StepConfig, step
from somite.segments import Label, label_table_text, read_label_table
from somite.sides import check_sides

_LPS = np.diag([-1.0, -1.0, 1.0])


class Config(StepConfig):
    """`transfer` has no options."""


def points_of(grid: Grid) -> NDArray[np.float64]:
    """World RAS positions (n, 3) in mm of all voxel centres, in the order of a flattened C array."""
    indices = np.indices(grid.shape).reshape(3, -1)
    return np.asarray((grid.affine[:3, :3] @ indices).T + grid.affine[:3, 3])


def transform_points(transform: sitk.Transform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where an ITK transform takes points (n, 3), both in world RAS mm; ITK itself counts in LPS."""
    lps = points @ _LPS
    if transform.IsLinear():
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        columns = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
        moved = lps @ np.array(columns) + origin
    else:
        moved = np.array([transform.TransformPoint(tuple(point)) for point in lps.tolist()])
    return np.asarray(moved @ _LPS)


def nearest_labels(labels: NDArray[np.int32], grid: Grid, points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Label (n,) of the voxel nearest to each point (n, 3) in world mm; 0 outside the label image."""
    inverse = np.linalg.inv(grid.affine)
    # A point halfway between two voxels goes to the upper one, in every direction alike.
    voxels = np.floor(points @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 + 1e-6).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < grid.shape)).all(1)
    found = np.zeros(len(points), np.int32)
    found[inside] = labels[tuple(voxels[inside].T)]
    return found


def read_transform(path: Path) -> sitk.Transform:
    """An ITK transform (.txt, .tfm, .mat, .h5), or a displacement field image (.nii, .nii.gz).

    Raises:
        DatasetError: `TRANSFORM_UNREADABLE`.
    """
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
            transform: sitk.Transform = sitk.DisplacementFieldTransform(field)
        else:
            transform = sitk.ReadTransform(str(path))
        if transform.GetDimension() != 3:
            raise ValueError(f"a transform in {transform.GetDimension()} dimensions")
    except (RuntimeError, ValueError) as error:
        raise DatasetError(
            Problem(
                "TRANSFORM_UNREADABLE",
                "the transform of the labels cannot be read",
                where=str(path),
                found=_last_line(str(error)),
                expected="an ITK transform in 3D that maps points of the diffusion series to points of the "
                "label image (.txt, .tfm, .mat, .h5), or a displacement field (.nii.gz)",
                do="write it with ANTs, ITK-SNAP or SimpleITK; FSL's matrices are of another kind",
            )
        ) from error
    return transform


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def read_labels_3d(path: Path) -> tuple[NDArray[np.int32], Grid]:
    """A label image of one volume. Raises `LABEL_NOT_3D` beside what `read_labels` does."""
    labels, grid = read_labels(path)
    if labels.size != np.prod(grid.shape):
        raise DatasetError(
            Problem(
                "LABEL_NOT_3D",
                "the label image is not a single 3D volume",
                where=str(path),
                found=" x ".join(str(n) for n in labels.shape),
                expected="three axes",
                do="give one label image; probability maps of several regions are another kind of file",
            )
        )
    return labels.reshape(grid.shape), grid


def other_grid(path: Path, found: Grid, expected: Grid) -> DatasetError:
    """The error for an image that lies on another grid, where no transform is given."""
    return DatasetError(
        Problem(
            "LABEL_GRID",
            "the label image lies on another grid than the diffusion series, and no transform is given",
            where=str(path),
            found=describe_grid(found),
            expected=describe_grid(expected),
            do="give a transform from the diffusion series to the label image (an identity transform where "
            "both share one space), or draw the labels on the diffusion series",
        )
    )


@step(
    makes={
        "labels_dwi": "Label image on the grid of the diffusion series, 3D NIfTI",
        "labels_dwi_table": "Table of its labels, TSV: index, name, region, side, level, segment",
    },
    dwi_copies=1.0,
)
def run(
    labels: Annotated[Path, "Label image, 3D NIfTI of integers"],
    label_table: LabelTable,
    dwi: Dwi,
    config: Config,  # noqa: ARG001
    context: Context,
    labels_transform: Annotated[Path, "ITK transform: points of the DWI to points of the labels"]
    | None = None,
    anatomy_transform: Annotated[Path, "The same, found by registration to the anatomy"] | None = None,
) -> tuple[Path, Path]:
    """Bring the labels to the grid of the series: as they are where they lie on it, else through a transform.

    A transform that is given comes before one that was found by registration.

    The same voxels in another storage order are put into the series' order, and nothing is resampled. Image
    and table together are labels that a person can edit and give back.

    Raises:
        DatasetError: `LABEL_TABLE`, `LABEL_SIDES`, `LABEL_GRID`, `LABEL_OUTSIDE`, `LABEL_NOT_INTEGER`,
            `LABEL_NOT_3D`, `TRANSFORM_UNREADABLE`, `IMAGE_UNREADABLE`.
    """
    grid = grid_of(open_image(dwi))
    values, label_grid = read_labels_3d(labels)
    table = read_label_table(label_table)
    _tell_sides(values, label_grid, table, labels, context)
    given = labels_transform or anatomy_transform
    if given is not None:
        points = transform_points(read_transform(given), points_of(grid))
        moved = nearest_labels(values, label_grid, points).reshape(grid.shape)
        context.infer("labels", "nearest neighbour", f"through {given.name}")
    else:
        change = storage_change(label_grid, grid)
        if change is None:
            raise other_grid(labels, label_grid, grid)
        moved = change.apply(values)
        if not change.is_identity:
            context.infer("labels", "voxels in another order", "the same voxels, stored along other axes")
    _tell_lost(values, moved, labels, context)
    made = context.folder / "labels_dwi.tsv"
    made.write_text(label_table_text(table), encoding="utf-8", newline="\n")
    return write(context.folder / "labels_dwi.nii", np.ascontiguousarray(moved), grid), made


def _tell_sides(
    values: NDArray[np.int32], grid: Grid, table: Sequence[Label], path: Path, context: Context
) -> None:
    """Raise where labels lie on the wrong side of the body, warn where they may."""
    problems = check_sides(values, grid, table, str(path))
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise DatasetError.of(errors)
    for problem in problems:
        context.warn(problem)


def _tell_lost(before: NDArray[np.int32], after: NDArray[np.int32], path: Path, context: Context) -> None:
    """Warn of labels that have no voxel left; raise where none has."""
    had, has = np.unique(before[before > 0]), np.unique(after[after > 0])
    lost = np.setdiff1d(had, has)
    context.numbers["labels_found"] = float(len(has))
    context.numbers["labels_lost"] = float(len(lost))
    if not len(lost):
        return
    listed: dict[str, Any] = {
        "where": str(path),
        "found": f"no voxel of label {', '.join(map(str, lost[:20]))}",
        "expected": "every label on the grid of the series",
    }
    if not len(has):
        do = "check the direction of the transform: it maps points of the series to points of the labels"
        raise DatasetError(
            Problem("LABEL_OUTSIDE", "no labelled voxel falls within the diffusion series", do=do, **listed)
        )
    do = "check the field of view and the transform; a structure thinner than a voxel can fall between"
    what = "labels have no voxel on the diffusion series"
    context.warn(Problem("LABEL_LOST", what, do=do, severity="warning", **listed))
