"""Where the body lies in an image: told from the air around it, or read from a mask that is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from somite.errors import DatasetError, Problem
from somite.images import Grid, read_float
from somite.orientation import describe_grid, storage_change

_DARKEST = 0.003
"""Of the brightest tissue: what is darker counts as equally dark; air without noise shall not weigh."""


def body_mask(image: NDArray[np.floating[Any]], smallest: float = 0.1) -> NDArray[np.bool_]:
    """Voxels above the threshold that parts tissue from air, in the large pieces of the image (x, y, z).

    The threshold is the lower of two: half of Otsu's, and Otsu's of the logarithm. Where fluid is much
    brighter than muscle, as at long echo times, the first parts fluid from all else. A piece counts as large
    from `smallest` of the largest one's size: two thighs are two pieces. Holes are filled in 3D and, since a
    canal of air may run through all slices, within each slice.
    """
    smooth = ndimage.gaussian_filter(
        np.asarray(image, np.float32), [1.0 if n > 2 else 0.0 for n in image.shape]
    )
    above = smooth > min(0.5 * otsu_threshold(smooth), threshold_by_ratio(smooth))
    pieces, n_pieces = ndimage.label(above)
    if n_pieces == 0:
        return np.zeros(image.shape, bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= smallest * sizes.max())
    return without_holes(np.isin(pieces, large))


def without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask (x, y, z) with its holes filled, in space and then within each slice."""
    filled = np.asarray(ndimage.binary_fill_holes(mask), bool)
    for index in range(mask.shape[2]):
        filled[..., index] = ndimage.binary_fill_holes(filled[..., index])
    return filled


def threshold_by_ratio(image: NDArray[np.floating[Any]]) -> float:
    """Otsu's threshold of the logarithm: parts air from all else, however bright some of it is."""
    floor = max(_DARKEST * float(np.percentile(image, 99)), 1e-30)
    return float(np.exp(otsu_threshold(np.log(np.maximum(image, floor)))))


def otsu_threshold(values: NDArray[np.floating[Any]], n_bins: int = 256) -> float:
    """The threshold that parts values into the two classes of least variance within (Otsu, IEEE SMC 1979).

    The brightest per cent is set to the value below it, so that a few bright voxels of fluid or
    artefact do not make a class of their own.
    """
    held = np.minimum(values, np.percentile(values, 99))
    counts, edges = np.histogram(held, n_bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    sum_below, sum_above = np.cumsum(counts * middles), np.cumsum((counts * middles)[::-1])[::-1]
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = sum_above / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(edges[1:-1][np.argmax(between)])


def read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    """A mask that is given, in the storage order of `grid`: voxels above one half are inside.

    Raises:
        DatasetError: `MASK_GRID` where its voxels are others than the grid's; `MASK_EMPTY`;
            `IMAGE_UNREADABLE`.
    """
    data, mask_grid = read_float(path)
    change = storage_change(mask_grid, grid)
    if change is None or data.size != np.prod(grid.shape):
        raise DatasetError(
            Problem(
                "MASK_GRID",
                "the mask given does not lie on the grid of the diffusion series",
                where=str(path),
                found=describe_grid(mask_grid),
                expected=describe_grid(grid),
                do="resample the mask to the grid of the series, by nearest neighbour",
            )
        )
    mask = change.apply(data.reshape(mask_grid.shape)) > 0.5
    if not mask.any():
        raise DatasetError(
            Problem(
                "MASK_EMPTY",
                "no voxel lies inside the mask given",
                where=str(path),
                found=f"values up to {data.max():g}",
                expected="voxels above 0.5",
                do="draw the mask again, or take it away so that one is made",
            )
        )
    return mask
