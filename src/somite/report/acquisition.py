"""What is known of a series from its delivered files: volumes, shells, voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from somite.correction.shells import shells_of
from somite.errors import SomiteError
from somite.images import grid_of, open_image


@dataclass(frozen=True)
class Acquisition:
    """A series as it was loaded; empty where its files cannot be read."""

    shells: Mapping[int, int] = field(default_factory=dict)
    """b-value in s/mm2, 0 for the volumes that count as b=0, -> number of volumes; ascending."""
    shape: tuple[int, int, int] | None = None
    voxel_mm: tuple[float, float, float] | None = None

    @property
    def n_volumes(self) -> int:
        """All volumes; 0 where they are not known."""
        return sum(self.shells.values())

    @property
    def in_words(self) -> str:
        """`4 volumes at b=0, 33 at b=800 s/mm2`; empty where they are not known."""
        texts = [
            f"{count}{' volume' + 's' * (count != 1) if not i else ''} at b={b}"
            for i, (b, count) in enumerate(self.shells.items())
        ]
        return ", ".join(texts) + " s/mm2" if texts else ""

    @property
    def voxels_in_words(self) -> str:
        """`64 × 64 × 20 voxels of 1.5 × 1.5 × 4 mm`; empty where they are not known."""
        if self.shape is None or self.voxel_mm is None:
            return ""
        shape, size = (" × ".join(f"{n:g}" for n in part) for part in (self.shape, self.voxel_mm))
        return f"{shape} voxels of {size} mm"


def acquisition_of(bval: Path | None, image: Path | None, b0_max: float = 50.0) -> Acquisition:
    """What the table of b-values and the header of an image on the grid of the series tell.

    Args:
        bval: FSL text file, or None.
        image: any image on the grid, or None; only its header is read.
        b0_max: b in s/mm2 up to which a volume counts as b=0.
    """
    shells: dict[int, int] = {}
    if bval is not None:
        try:
            bvals = np.atleast_1d(np.fromstring(bval.read_text(encoding="utf-8"), sep=" "))
            shells = _shells(bvals, b0_max)
        except (OSError, ValueError):
            shells = {}
    if image is None:
        return Acquisition(shells)
    try:
        grid = grid_of(open_image(image))
    except SomiteError:
        return Acquisition(shells)
    x, y, z = (round(float(size), 3) for size in grid.voxel_mm)
    return Acquisition(shells, grid.shape, (x, y, z))


def _shells(bvals: np.ndarray[tuple[int], np.dtype[np.float64]], b0_max: float) -> dict[int, int]:
    is_b0 = bvals <= b0_max
    counted = {0: int(is_b0.sum())} if is_b0.any() else {}
    for volumes in shells_of(bvals, is_b0, smallest=1):
        counted[round(float(np.median(bvals[volumes])) / 10) * 10] = len(volumes)
    return counted
