"""Transforms as ITK writes them. Its points count in LPS, Somite's in RAS; both in world mm.

SimpleITK is loaded where a transform is used: to read of steps shall cost nobody its hundred megabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem
from somite.images import Grid, open_image

if TYPE_CHECKING:
    import SimpleITK as sitk

Floats = NDArray[np.float64]
_LPS = np.array([-1.0, -1.0, 1.0])


def affine(transform: Floats) -> sitk.Transform:
    """The ITK transform of an affine map (4, 4) between points in world RAS."""
    import SimpleITK as sitk

    matrix = transform[:3, :3] * np.outer(_LPS, _LPS)
    return sitk.AffineTransform(matrix.ravel().tolist(), (transform[:3, 3] * _LPS).tolist())


def field(points: Floats, grid: Grid) -> sitk.Transform:
    """The displacement field of the points (x, y, z, 3), in world RAS, to which the voxels of a grid go."""
    import SimpleITK as sitk

    here = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    shift = np.ascontiguousarray(((points - here) * _LPS).transpose(2, 1, 0, 3))
    image = sitk.GetImageFromArray(shift, isVector=True)
    image.SetSpacing(grid.voxel_mm.tolist())
    image.SetOrigin((grid.affine[:3, 3] * _LPS).tolist())
    image.SetDirection((_LPS[:, None] * grid.affine[:3, :3] / grid.voxel_mm).ravel().tolist())
    return sitk.DisplacementFieldTransform(image)


def write(transform: sitk.Transform, path: Path) -> None:
    """Write a transform; the suffix says in which format."""
    import SimpleITK as sitk

    sitk.WriteTransform(transform, str(path))


def read(path: Path) -> sitk.Transform:
    """A transform (.txt, .tfm, .mat, .h5), or a displacement field image (.nii, .nii.gz).

    Raises:
        DatasetError: `TRANSFORM_UNREADABLE`.
    """
    import SimpleITK as sitk

    try:
        if path.name.endswith((".nii", ".nii.gz")):
            open_image(path)  # refuses a header that promises more than memory holds
            image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
            transform: sitk.Transform = sitk.DisplacementFieldTransform(image)
        else:
            transform = sitk.ReadTransform(str(path))
        if transform.GetDimension() != 3:
            raise ValueError(f"a transform in {transform.GetDimension()} dimensions")
    except (RuntimeError, ValueError, DatasetError) as error:
        found = error.problems[0].found if isinstance(error, DatasetError) else _last_line(str(error))
        raise DatasetError(
            Problem(
                "TRANSFORM_UNREADABLE",
                "the transform of the labels cannot be read",
                where=str(path),
                found=found,
                expected="an ITK transform in 3D that maps points of the diffusion series to points of the "
                "label image (.txt, .tfm, .mat, .h5), or a displacement field (.nii.gz)",
                do="write it with ANTs, ITK-SNAP or SimpleITK; FSL's matrices are of another kind",
            )
        ) from error
    return transform


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def move(transform: sitk.Transform, points: Floats) -> Floats:
    """Where a transform takes points (n, 3) in world RAS."""
    lps = points * _LPS
    if transform.IsLinear():
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        columns = [np.array(transform.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
        moved = lps @ np.array(columns) + origin
    else:
        moved = np.array([transform.TransformPoint(tuple(point)) for point in lps.tolist()])
    return np.asarray(moved * _LPS)
