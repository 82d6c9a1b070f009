"""What the pictures of a session share, and the pictures of its segments."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from somite import itk
from somite.body import read_mask
from somite.gradients import Gradients, read_fsl
from somite.images import Grid, check_grid, grid_of, open_image, read_float, read_labels
from somite.interfaces.roi import shells
from somite.quality import shells as volumes_by_shell
from somite.report import session_maps
from somite.report.album import Picture, unmade
from somite.report.anatomy import Anatomy
from somite.report.outlines import key_of
from somite.report.preprocessing import Asked, line_through
from somite.report.scene import Scene, overview, scene_of
from somite.report.slices import View
from somite.segments import read_label_table

if TYPE_CHECKING:
    from somite.interfaces.pictures import Config

_AROUND_BODY_MM, _AROUND_LABELS_MM = 4.0, 12.0


@dataclass(frozen=True)
class Session:
    """What all pictures of a session share."""

    grid: Grid
    inside: NDArray[np.bool_]
    labels: NDArray[np.int32] | None
    given: Gradients
    corrected: Gradients
    is_b0: NDArray[np.bool_]

    @property
    def shells(self) -> dict[int, NDArray[np.intp]]:
        """b-value of each shell -> its volumes."""
        bvals = self.given.bvals
        return volumes_by_shell(shells(bvals[~self.is_b0]), bvals, self.is_b0)

    @property
    def shell_of(self) -> NDArray[np.int_]:
        """b-value of the shell of each volume, 0 for b=0."""
        found = np.zeros(len(self.is_b0), np.int_)
        for b, volumes in self.shells.items():
            found[volumes] = b
        return found

    def body(self, config: Config) -> Scene:
        """A few slices of the whole."""
        counts = overview(config.planes.counts())
        return scene_of(self.grid, self.inside, self.labels, counts, _AROUND_BODY_MM)

    def asked(self, scene: Scene) -> Asked:
        """What is taken out of every series."""
        b0 = np.flatnonzero(self.is_b0)
        b, shell = max(self.shells.items(), default=(0, np.zeros(0, np.intp)))
        line = line_through(View(self.grid), scene.box, self.inside)
        return Asked(b0 if len(b0) else np.zeros(1, np.intp), shell, b, line)


def read_map(path: Path, grid: Grid) -> NDArray[np.float32]:
    """A map (i, j, k) or (i, j, k, n) on the grid of the series; one slice has three axes too."""
    data, own = read_float(path)
    check_grid("IMAGE_GRID", path, own, grid)
    return data if data.size > np.prod(grid.shape) else data.reshape(grid.shape)


def read_rows(path: Path | None) -> list[dict[str, str]]:
    """Rows of a TSV; none without a file."""
    if path is None:
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def unit_of_field(scan: Path) -> str:
    """Hz where the readout time is known, else voxels of displacement, as `susceptibility` gives it."""
    described = json.loads(scan.read_text(encoding="utf-8"))
    known = [volume.get("total_readout_time_s") for volume in described["volumes"]]
    return "Hz" if known and known[0] is not None else "voxels of displacement"


def anatomy_of(path: Path, transform: Path | None) -> Anatomy:
    """The anatomical image; without a transform both share one world."""
    data, grid = read_float(path)
    to_anatomy = (lambda points: points) if transform is None else partial(itk.move, itk.read(transform))
    return Anatomy(data.reshape(grid.shape), grid, to_anatomy)


def segment_pictures(
    session: Session,
    table: Path | None,
    b0: NDArray[np.float32],
    fa: NDArray[np.float32],
    anatomy: Anatomy | None,
    config: Config,
) -> Iterator[Picture]:
    """Outlines on b=0, FA and the anatomy, or why there are none."""
    if session.labels is None or table is None:
        yield session_maps.no_segments("The session has no label image, so there are no segments to draw.")
        return
    key = key_of(read_label_table(table), config.left_out)
    drawn = np.where(np.isin(session.labels, [label.index for label in key.labels]), session.labels, 0)
    if not drawn.any():
        yield session_maps.no_segments("No voxel of the label image belongs to a segment.")
        return
    scene = scene_of(session.grid, drawn > 0, drawn, config.planes.counts(), _AROUND_LABELS_MM)
    backdrops = [
        session_maps.signal_backdrop(scene, b0),
        session_maps.fa_backdrop(scene, np.where(session.inside, fa, 0)),
    ]
    if anatomy is None:
        why = "The session has no anatomical image among its inputs: segments are shown on b=0 and FA."
        yield unmade("segments-anatomy", "segments", "Segments on the anatomy", why)
    else:
        backdrops.append(session_maps.anatomy_backdrop(scene, anatomy))
    yield from session_maps.segments(scene, drawn, key, backdrops)


def read_session(
    mask: Path, labels: Path | None, gradients: tuple[Path, Path, Path], config: Config
) -> Session:
    """What all pictures share: grid, mask, segments and gradients."""
    grid = grid_of(open_image(mask))
    inside = read_mask(mask, grid)
    values = None
    if labels is not None:
        stored, own = read_labels(labels)
        check_grid("IMAGE_GRID", labels, own, grid)
        values = stored.reshape(grid.shape)
    bval, bvec, bvec_corrected = gradients
    given = read_fsl(bval, bvec, grid.affine)
    corrected = read_fsl(bval, bvec_corrected, grid.affine)
    return Session(grid, inside, values, given, corrected, given.is_b0(config.b0_max_s_per_mm2))
