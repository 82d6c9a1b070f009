"""What FSL eddy has written, checked and turned into the house's terms and frames.

From FSL's documentation ("eddy", user's guide, output files):

- eddy_parameters: a row per volume; three translations in mm, three rotations in radians, then the parameters
  of the eddy-current field, whose number and meaning the model decides. Axes are FSL's: voxel axes in mm, the
  first reversed where the affine has a positive determinant, the origin in the centre of the image.
- eddy_rotated_bvecs: the directions as the body saw them. The guide does not say whether a movement leads
  from the first volume to the present one or back; the rotated bvecs do: those of a body that turned by R are
  turned by the inverse of R. Somite's motion is where the body was, so it is reversed where they say so.
- eddy_movement_rms: root mean square of the displacement over the mask, relative to the first volume and to
  the one before.
- eddy_outlier_map, eddy_outlier_n_stdev_map: a line of words, then a row per volume and a column per slice; 1
  for an outlier, and by how many standard deviations the mean of the slice is off.

The quadratic field in Hz (Andersson and Sotiropoulos, NeuroImage 125:1063, 2016) has ten parameters, here
taken in the order x, y, z, x2, y2, z2, xy, xz, yz, 1; the guide does not name the order. A frequency of f Hz
is a shift of f x readout time voxels along the vector of --acqp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from somite.corrected import SCALE_MM, Corrected, Outlier, rms_mm
from somite.errors import Problem, ToolError
from somite.gradients import Gradients, read_fsl, voxel_to_world
from somite.images import Grid
from somite.tools import read_output

Float = NDArray[np.float64]

N_MOTION, N_FIELD = 6, 10
"""Columns of eddy_parameters: motion, and the field of the quadratic model."""

_NAMES = ("nii.gz", "eddy_rotated_bvecs", "eddy_parameters", "eddy_movement_rms")
_OUTLIER_NAMES = ("eddy_outlier_map", "eddy_outlier_n_stdev_map")


@dataclass(frozen=True)
class Acquired:
    """What eddy was given, as far as its outputs are read by it."""

    bval: Path
    bvec: Path
    gradients: Gradients
    rows: Sequence[Sequence[float]]
    """Of --acqp."""
    index: Sequence[int]
    """Row of each volume, from 1."""
    mask: NDArray[np.bool_]
    grid: Grid
    repol: bool


def files_of(base: Path, repol: bool) -> dict[str, Path]:
    """Name -> path of the outputs that must be there."""
    names = (*_NAMES, *_OUTLIER_NAMES) if repol else _NAMES
    return {name: base.with_name(f"{base.name}.{name}") for name in names}


def read_outputs(made: Mapping[str, Path], acquired: Acquired, command: str) -> Corrected:
    """The outputs of eddy, each checked against its input.

    Raises:
        ToolError: `TOOL_OUTPUT_UNREADABLE`, with the command line.
    """
    grid, gradients = acquired.grid, acquired.gradients
    n = len(gradients.bvals)
    image, bvecs = made["nii.gz"], made["eddy_rotated_bvecs"]
    data, made_grid = read_output(image, command)
    if data.shape != (*grid.shape, n) or not made_grid.matches(grid) or not np.isfinite(data).all():
        found = f"an image of {' x '.join(map(str, data.shape))}, or not of finite numbers"
        raise _unusable(image, found, command)
    norms = np.linalg.norm(_table(bvecs, (3, n), command), axis=0)
    if not np.allclose(norms[gradients.bvecs.any(1)], 1, atol=0.01):
        raise _unusable(bvecs, "directions that are not of unit length", command)
    parameters = _table(made["eddy_parameters"], (n, N_MOTION + N_FIELD), command)
    sense = sense_of(parameters[:, 3:N_MOTION], np.loadtxt(acquired.bvec), np.loadtxt(bvecs))
    motion = parameters[:, :N_MOTION] * sense
    displacement = _table(made["eddy_movement_rms"], (n, 2), command)[:, 0]
    return Corrected(
        np.asarray(data, np.float32),
        read_fsl(acquired.bval, bvecs, grid.affine),
        np.column_stack([motion_in_world(motion, grid.affine), displacement]),
        _outliers(made, (n, grid.shape[2]), command) if acquired.repol else [],
        distortion_of(parameters[:, N_MOTION:], acquired),
        np.full(n, acquired.repol),
    )


def sense_of(rotations: Float, before: Float, after: Float) -> float:
    """1 where rotations (n, 3), radians, lead to where the body was, -1 where they lead back from there.

    By the directions (3, n) along the same axes, as they were applied and as the body saw them.
    """
    turns = Rotation.from_rotvec(rotations).as_matrix()
    there = np.abs(np.einsum("nji,jn->in", turns, before) - after).sum()
    back = np.abs(np.einsum("nij,jn->in", turns, before) - after).sum()
    return 1.0 if there <= back else -1.0


def motion_in_world(motion: Float, affine: Float) -> Float:
    """(n, 6): shifts in mm and rotations in degrees along world axes, of mm and radians along FSL's."""
    to_world = voxel_to_world(affine)
    # Rotations are an axial vector: it keeps its sense where the axes are mirrored.
    rotations = motion[:, 3:] @ to_world.T * np.linalg.det(to_world)
    return np.column_stack([motion[:, :3] @ to_world.T, np.rad2deg(rotations)])


def distortion_of(fields: Float, acquired: Acquired) -> Float:
    """(n, 11) as `Corrected.distortion`, of the parameters (n, 10) of eddy's quadratic field in Hz."""
    grid, to_world = acquired.grid, voxel_to_world(acquired.grid.affine)
    linear = fields[:, :3] @ to_world.T
    # x2 y2 z2 on the diagonal; half of xy, xz, yz on either side of it.
    form = fields[:, [3, 6, 7, 6, 4, 8, 7, 8, 5]].reshape(-1, 3, 3) * np.where(np.eye(3) > 0, 1.0, 0.5)
    form = to_world @ form @ to_world.T
    squares = form[:, [0, 1, 2], [0, 1, 2]]
    products = 2 * form[:, [0, 0, 1], [1, 2, 2]]
    hertz = np.column_stack([fields[:, 9], linear * SCALE_MM, np.hstack([squares, products]) * SCALE_MM**2])
    coefficients = hertz * _mm_per_hertz(acquired)[:, None] + 0.0
    centre = (np.array(grid.shape) - 1) / 2
    points = (np.argwhere(acquired.mask) - centre) @ grid.affine[:3, :3].T
    return np.column_stack([coefficients, rms_mm(coefficients, points)])


def _mm_per_hertz(acquired: Acquired) -> Float:
    """(n,): shift in mm towards higher indices of the phase-encoding voxel axis for 1 Hz."""
    rows = np.array(acquired.rows, np.float64)[np.array(acquired.index) - 1]
    vectors = rows[:, :3].copy()
    if np.linalg.det(acquired.grid.affine[:3, :3]) > 0:
        vectors[:, 0] *= -1
    return np.asarray((vectors * acquired.grid.voxel_mm).sum(1) * rows[:, 3])


def _outliers(made: Mapping[str, Path], shape: tuple[int, int], command: str) -> list[Outlier]:
    is_outlier, deviation = (_table(made[name], shape, command, words=1) for name in _OUTLIER_NAMES)
    return [Outlier(int(v), int(s), float(deviation[v, s]), 1) for v, s in np.argwhere(is_outlier > 0)]


def _table(path: Path, shape: tuple[int, int], command: str, words: int = 0) -> Float:
    """Numbers of a text file, after so many lines of words."""
    try:
        lines = path.read_text().splitlines()[words:]
        if not lines:
            raise ValueError("no numbers")
        table = np.loadtxt(lines, ndmin=2, dtype=np.float64)
    except ValueError as error:
        raise _unusable(path, str(error), command) from error
    if table.shape != shape or not np.isfinite(table).all():
        raise _unusable(path, f"a table of {table.shape[0]} x {table.shape[1]}", command)
    return table


def _unusable(path: Path, found: str, command: str) -> ToolError:
    return ToolError(
        Problem(
            "TOOL_OUTPUT_UNREADABLE",
            f"eddy wrote {path.name}, which does not fit its input",
            where=command,
            found=found,
            expected="as many volumes as the input, on its grid, all numbers finite",
            do="see what eddy said, and whether the disk is full",
        )
    )
