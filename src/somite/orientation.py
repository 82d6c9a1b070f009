"""Images that hold the same voxels in another storage order: brought into line exactly, nothing resampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.images import Grid


@dataclass(frozen=True)
class StorageChange:
    """How to permute, then flip, the first three axes of an array."""

    axes: tuple[int, int, int]
    """Target axis -> source axis."""
    flipped: tuple[bool, bool, bool]
    """Per target axis."""

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.axes == (0, 1, 2) and not any(self.flipped)

    def apply(self, data: NDArray[Any]) -> NDArray[Any]:
        """A view of `data` (x, y, z, ...) in the target's order."""
        moved = data.transpose(*self.axes, *range(3, data.ndim))
        return moved[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def apply_to_direction(self, direction: str) -> str:
        """A BIDS direction along a voxel axis (`i`, `j-`, ...) in the target's axes."""
        axis = self.axes.index("ijk".index(direction[0]))
        reverse = direction.endswith("-") != self.flipped[axis]
        return "ijk"[axis] + ("-" if reverse else "")


def storage_change(source: Grid, target: Grid, tolerance_mm: float = 1e-2) -> StorageChange | None:
    """The change that brings `source`'s array onto `target`'s grid, or None when their voxels differ.

    Works in world millimetres on any affine: the source's axes are matched to the target's by direction.
    """
    if np.linalg.det(source.affine) == 0 or np.linalg.det(target.affine) == 0:
        return None
    # Column s of the matrix: where a step along source axis s leads, in the target's voxels.
    steps = np.linalg.solve(target.affine[:3, :3], source.affine[:3, :3])
    axes = tuple(int(a) for a in np.abs(steps).argmax(1))
    if sorted(axes) != [0, 1, 2]:
        return None
    flipped = tuple(bool(steps[t, s] < 0) for t, s in enumerate(axes))
    change = StorageChange((axes[0], axes[1], axes[2]), (flipped[0], flipped[1], flipped[2]))
    return change if _changed_grid(source, change).matches(target, tolerance_mm) else None


def _changed_grid(grid: Grid, change: StorageChange) -> Grid:
    shape = tuple(grid.shape[a] for a in change.axes)
    to_source = np.zeros((4, 4))
    to_source[3, 3] = 1
    for target, (source, flip) in enumerate(zip(change.axes, change.flipped, strict=True)):
        to_source[source, target] = -1 if flip else 1
        to_source[source, 3] = shape[target] - 1 if flip else 0
    return Grid((shape[0], shape[1], shape[2]), grid.affine @ to_source)


def describe_grid(grid: Grid) -> str:
    """`96 x 96 x 40 voxels of 1.5 x 1.5 x 1.5 mm, the first at (-72, -72, -30) mm`."""
    corner = ", ".join(f"{x:.2f}" for x in grid.affine[:3, 3])
    shape, size = " x ".join(map(str, grid.shape)), " x ".join(f"{x:.3g}" for x in grid.voxel_mm)
    return f"{shape} voxels of {size} mm, the first at ({corner}) mm"
