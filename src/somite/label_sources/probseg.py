"""Probabilities of labels: one 4D image, or an image for each label, as volumes in the order of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.bids import parse_name
from somite.errors import DatasetError, Problem
from somite.images import Grid, read_float
from somite.orientation import describe_grid, storage_change
from somite.segments import Label

_ROUNDING = 1e-3
"""What rounding to a stored type may add to a probability."""


_PERCENT = (1.5, 100.0)
"""An image whose largest value lies between these is one of percent, as the tract atlases of FSL are."""


@dataclass(frozen=True)
class ReadProbabilities:
    """Probabilities as they are stored."""

    data: NDArray[np.float32]
    """(i, j, k, n) 0 to 1."""
    grid: Grid
    labels: tuple[Label, ...]
    """Of each volume; index 1 is the first."""
    percent: bool = False
    """Whether they were stored in percent."""


def read_probabilities(paths: Sequence[Path], labels: Sequence[Label]) -> ReadProbabilities:
    """Volumes of probabilities with their labels. Two may claim one voxel, as tracts that cross do.

    Args:
        paths: one 4D image, whose volumes the column `index` counts from 1; or an image for each label,
            whose entity `label` is the label's name.
        labels: the table.

    Raises:
        DatasetError: every one of `PROB_VOLUMES` (volumes without a row, rows without a volume), `PROB_RANGE`
            (a value below 0, above 1, or not finite), `PROB_GRID` that applies; `IMAGE_UNREADABLE`.
    """
    images = {path: read_float(path) for path in paths}
    grid = images[paths[0]][1]
    problems = [problem for path, (_, own) in images.items() for problem in _grid_problem(path, own, grid)]
    if problems:
        raise DatasetError.of(problems)
    largest = max(float(data.max()) for data, _ in images.values())
    percent = _PERCENT[0] < largest <= _PERCENT[1]
    scale = np.float32(100 if percent else 1)
    found, problems = _volumes({path: data / scale for path, (data, _) in images.items()}, labels)
    problems += [problem for name, data in found.items() for problem in _range_problem(name, data, paths[0])]
    if problems:
        raise DatasetError.of(problems)
    named = {label.name: label for label in labels}
    volumes = np.stack([np.clip(data, 0, 1) for data in found.values()], -1)
    rows = tuple(replace(named[name], index=i) for i, name in enumerate(found, start=1))
    return ReadProbabilities(volumes, grid, rows, percent)


def _volumes(
    images: Mapping[Path, NDArray[np.float32]], labels: Sequence[Label]
) -> tuple[dict[str, NDArray[np.float32]], list[Problem]]:
    """Name of each label -> its volume (i, j, k), in the order of the table."""
    (first, data), *others = images.items()
    if not others and (data.shape[3:] not in ((), (1,)) or not _has_label(first)):
        stacked = data.reshape(*data.shape[:3], -1)
        volumes = {str(i): stacked[..., i - 1] for i in range(1, stacked.shape[3] + 1)}
        keys = {str(label.index): label.name for label in labels}
    else:
        volumes = {_label_of(path): data.reshape(data.shape[:3]) for path, data in images.items()}
        keys = {label.name: label.name for label in labels}
    without_row, without_volume = (
        sorted(set(volumes) - set(keys)),
        [key for key in keys if key not in volumes],
    )
    problems = []
    if without_row or without_volume:
        problems = [_counts_differ(first, without_row, without_volume)]
    return {name: volumes[key] for key, name in keys.items() if key in volumes}, problems


def _has_label(path: Path) -> bool:
    name = parse_name(path.name)
    return name is not None and "label" in name.entities


def _label_of(path: Path) -> str:
    name = parse_name(path.name)
    return path.name if name is None else name.entities.get("label", path.name)


def _grid_problem(path: Path, own: Grid, grid: Grid) -> list[Problem]:
    change = storage_change(own, grid)
    if change is not None and change.is_identity:
        return []
    return [
        Problem(
            "PROB_GRID",
            "probability images of one session lie on different grids",
            where=str(path),
            found=describe_grid(own),
            expected=describe_grid(grid),
            do="resample them onto one grid, with linear interpolation",
        )
    ]


def _range_problem(name: str, data: NDArray[np.float32], path: Path) -> list[Problem]:
    low, high = float(data.min()), float(data.max())
    if np.isfinite(data).all() and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return []
    return [
        Problem(
            "PROB_RANGE",
            "a probability is not between 0 and 1",
            where=f"{path}, {name}",
            found=f"values from {low:g} to {high:g}",
            expected="0 to 1, and every value finite",
            do="divide the image by its largest possible value (100 in percent); a label image is a dseg",
        )
    ]


def _counts_differ(path: Path, without_row: Sequence[str], without_volume: Sequence[str]) -> Problem:
    found = [f"no row for volume {', '.join(without_row)}"] if without_row else []
    found += [f"no volume for {', '.join(without_volume)}"] if without_volume else []
    return Problem(
        "PROB_VOLUMES",
        "probability volumes and the rows of their table are not the same",
        where=str(path),
        found="; ".join(found),
        expected="a row for each volume: index 1 is the first volume of a 4D image; of an image for each "
        "label, the name is its entity label",
        do="complete the table or the images",
    )
