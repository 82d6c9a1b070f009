"""Bundles of streamlines in files, and their profiles by dipy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.streamlines.array_sequence import ArraySequence as Streamlines
from nibabel.streamlines.header import Field
from nibabel.streamlines.tractogram import Tractogram
from nibabel.streamlines.tractogram_file import DataError, HeaderError
from numpy.typing import NDArray

from somite.centreline import Centreline, Floats
from somite.errors import DatasetError, Problem
from somite.images import Grid

_BROKEN = (HeaderError, DataError)
BundleWeighting = Literal["gaussian", "uniform"]
KEY = "tract"
"""Name of the data of each streamline that tells its bundle: the index in the table of the tracts."""


@dataclass(frozen=True)
class Bundles:
    """Streamlines of several bundles."""

    streamlines: list[Floats]
    """Arrays (k, 3), world RAS mm."""
    index: NDArray[np.intp]
    """Bundle of each streamline (n,), as in the table of the tracts."""

    def of(self, index: int) -> list[Floats]:
        """The streamlines of one bundle."""
        return [line for line, own in zip(self.streamlines, self.index, strict=True) if own == index]


def read_bundles(path: Path, reference: Path) -> Bundles:
    """Read a .trk, .tck or .trx file; without the data `tract` all its streamlines are bundle 1.

    Args:
        path: the file.
        reference: an image whose grid the streamlines of a .tck, which has none, lie on.

    Raises:
        DatasetError: `TRACTS_UNREADABLE`.
    """
    try:
        if path.suffix in (".trk", ".tck"):
            tractogram = nib.streamlines.load(path).tractogram
        else:
            from dipy.io.streamline import load_tractogram

            tractogram = load_tractogram(str(path), str(reference), bbox_valid_check=False)
            tractogram.to_rasmm()
            tractogram.to_center()
    except (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, *_BROKEN) as error:
        raise DatasetError(
            Problem(
                "TRACTS_UNREADABLE",
                "the streamlines cannot be read",
                where=str(path),
                found=str(error) or type(error).__name__,
                expected="a .trk, .tck or .trx file in world millimetres",
                do="write it again with the tool that it comes from, and check its ending",
            )
        ) from error
    lines = [np.asarray(line, np.float64) for line in tractogram.streamlines]
    kept = tractogram.data_per_streamline
    index = np.asarray(kept[KEY]).reshape(-1) if KEY in kept else np.ones(len(lines))
    return Bundles(lines, np.rint(index).astype(np.intp))


def write_bundles(path: Path, bundles: Bundles, grid: Grid) -> Path:
    """Write streamlines as .trk on a grid, with their bundles as the data `tract`; returns `path`."""
    lines = [line.astype(np.float32) for line in bundles.streamlines]
    data = {KEY: bundles.index.astype(np.float32)[:, None]} if lines else None
    header = {
        Field.VOXEL_TO_RASMM: grid.affine,
        Field.VOXEL_SIZES: grid.voxel_mm,
        Field.DIMENSIONS: grid.shape,
        Field.VOXEL_ORDER: "".join(nib.aff2axcodes(grid.affine)),
    }
    tractogram = Tractogram(lines, data_per_streamline=data, affine_to_rasmm=np.eye(4))
    nib.streamlines.save(tractogram, str(path), header=header)
    return path


def bundle_profile(
    data: NDArray[Any], lines: Sequence[Floats], core: Centreline, affine: NDArray[np.float64], nodes: int
) -> tuple[Floats, Floats, BundleWeighting]:
    """Profile of a map along a bundle by dipy's afq_profile, its standard error, both (nodes,), and how
    streamlines were weighted.

    Streamlines are oriented by the core and weighted at each node by their distance from it (gaussian_weights
    of dipy); equally (`uniform`) where fewer than 5 streamlines, or streamlines in one plane, have no
    covariance. The error takes the streamlines as independent: the weighted standard deviation over the
    square root of their effective number.

    Args:
        data: (x, y, z).
        lines: arrays (k, 3), world mm, at least one.
        core: centreline of the bundle, in the direction of the profile.
        affine: of the map.
        nodes: number of nodes.
    """
    from dipy.stats.analysis import afq_profile
    from dipy.tracking.streamline import orient_by_streamline, values_from_volume
    from dipy.tracking.streamlinespeed import set_number_of_points

    volume = np.asarray(data, np.float64)
    guide = core.points[np.linspace(0, len(core.points) - 1, nodes).astype(int)].astype(np.float32)
    bundle = orient_by_streamline(Streamlines([line.astype(np.float32) for line in lines]), guide)
    bundle = set_number_of_points(bundle, nb_points=nodes)
    weights, weighting = _weights(bundle, nodes)
    mean = np.asarray(afq_profile(volume, bundle, affine, n_points=nodes, weights=weights), np.float64)
    values = np.array(values_from_volume(volume, bundle, affine))
    effective = 1 / (weights**2).sum(0)
    spread = (weights * (values - mean) ** 2).sum(0)
    single = effective <= 1 + 1e-9
    se = np.sqrt(spread / np.where(single, 1.0, effective - 1))
    return mean, np.where(single, np.nan, se), weighting


def _weights(bundle: Streamlines, nodes: int) -> tuple[Floats, BundleWeighting]:
    """Weights (n streamlines, nodes) of dipy; equal where the streamlines of a node have no covariance."""
    from dipy.stats.analysis import gaussian_weights

    n = len(bundle)
    if n > 4:
        try:
            weights = np.asarray(gaussian_weights(bundle, n_points=nodes), np.float64)
        except np.linalg.LinAlgError:  # all streamlines in one plane at a node
            weights = np.full((n, nodes), np.nan)
        if np.isfinite(weights).all():
            return weights, "gaussian"
    return np.full((n, nodes), 1.0 / n), "uniform"
