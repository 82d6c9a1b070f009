"""Pictures of a session for its page: what each step did, motion, noise, maps, segments and profiles.

The series between the steps exist only while a session runs, so their pictures are made by a step. What a
session lacks is told in words, in the place of its picture.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from somite.body import read_mask
from somite.carving import Roots, Zone
from somite.gradient_check import B0_MAX
from somite.gradients import Gradients, read_fsl
from somite.images import Grid, check_grid, grid_of, open_image, read_float, read_labels
from somite.interfaces.qc import read_columns
from somite.interfaces.roi import shells
from somite.interfaces.transfer import read_transform, transform_points
from somite.metrics import METRICS
from somite.norms import shipped
from somite.quality import shells as volumes_by_shell
from somite.registry import Bval, Bvec, Context, Dwi, Labels, LabelTable, Mask, Scan, StepConfig, step
from somite.report import preprocessing, session_maps, session_plots
from somite.report.album import Picture, unmade, within, write_album
from somite.report.anatomy import Anatomy
from somite.report.outlines import key_of
from somite.report.preprocessing import Asked, line_through, shots_of
from somite.report.scene import Scene, overview, scene_of
from somite.report.slices import Plane, View
from somite.segments import Word, read_label_table


class Planes(BaseModel):
    """How many slices of each plane."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    axial: int = Field(3, ge=0, le=12)
    """Axial slices."""
    coronal: int = Field(1, ge=0, le=12)
    """Coronal slices."""
    sagittal: int = Field(1, ge=0, le=12)
    """Sagittal slices."""

    def counts(self) -> dict[Plane, int]:
        """Plane -> slices, of the planes that are asked for."""
        asked: dict[Plane, int] = {"axial": self.axial, "coronal": self.coronal, "sagittal": self.sagittal}
        return {plane: count for plane, count in asked.items() if count} or {"axial": 1}


class Config(StepConfig):
    """What the pictures show."""

    planes: Planes = Planes()
    """Slices at most of each plane. Which ones they are follows from where the segments lie."""
    left_out: tuple[Word, ...] = ("partial_volume",)
    """Regions that are not drawn as outlines."""
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )
    zones: tuple[Zone, ...] = Roots().zones
    """Zones of the roots in mm, where reference values of their segments are drawn: as in `carve.roots`."""
    published: bool = True
    """Whether the published reference values that come with Somite are drawn beside profiles."""


Map = Annotated[Path, "Map on the grid of the series, 3D or 4D NIfTI"]
Table = Annotated[Path, "Table, TSV"]
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
    to_anatomy = (
        (lambda points: points) if transform is None else partial(transform_points, read_transform(transform))
    )
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


@step(
    makes={"pictures": "Pictures of the session with their index, zip"},
    dwi_copies=1.5,  # one series at a time is looked at
)
def run(
    *,
    dwi_loaded: Dwi,
    dwi_denoised: Dwi,
    dwi_degibbs: Dwi,
    dwi_corrected: Dwi,
    dwi_unbiased: Dwi,
    bval: Bval,
    bvec: Bvec,
    bvec_corrected: Bvec,
    scan: Scan,
    mask: Mask,
    noise_sigma: Map,
    residual: Map,
    fa: Map,
    md: Map,
    eigenvectors: Map,
    motion: Table,
    outliers: Table,
    distortion: Table,
    bias_field: Map | None = None,
    field: Map | None = None,
    b0_undistorted: Map | None = None,
    segments_dwi: Labels | None = None,
    segment_table: LabelTable | None = None,
    anatomy: Annotated[Path, "Anatomical image, 3D NIfTI"] | None = None,
    anatomy_transform: Annotated[Path, "ITK transform: points of the series to the anatomy"] | None = None,
    profiles: Table | None = None,
    config: Config,
    context: Context,
) -> Path:
    """Make the pictures of a session, and say in words what there is no picture of.

    Raises:
        DatasetError: `IMAGE_UNREADABLE`, `IMAGE_GRID`, `MASK_GRID`, `LABEL_TABLE`, `TRANSFORM_UNREADABLE`.
    """
    session = read_session(mask, segments_dwi, (bval, bvec, bvec_corrected), config)
    scene, grid = session.body(config), session.grid
    asked = session.asked(scene)
    series = (dwi_loaded, dwi_denoised, dwi_degibbs, dwi_corrected, dwi_unbiased)
    loaded, denoised, degibbs, corrected, unbiased = (shots_of(read_float(path)[0], asked) for path in series)

    def optional(path: Path | None) -> NDArray[np.float32] | None:
        return None if path is None else read_map(path, grid)

    md_shown = read_map(md, grid) * METRICS["md"].scale
    fa_shown, moved = read_map(fa, grid), read_columns(motion)
    pictures = [
        *session_plots.scheme(session.given, session.corrected, session.shell_of),
        *preprocessing.denoising(scene, asked, loaded, denoised),
        *preprocessing.unringing(scene, denoised, degibbs),
        *preprocessing.undistorting(
            scene, degibbs, optional(b0_undistorted), optional(field), unit_of_field(scan)
        ),
        *preprocessing.moving_back(scene, asked, degibbs, corrected),
        *preprocessing.evening(scene, corrected, unbiased, optional(bias_field)),
        *session_plots.motion(moved, read_columns(distortion), read_columns(outliers), session.is_b0),
        *session_maps.noise(
            scene, read_map(noise_sigma, grid), corrected.b0, read_map(residual, grid), session.inside
        ),
        *session_maps.maps(scene, read_map(eigenvectors, grid)[..., :3], fa_shown, md_shown, session.inside),
        *segment_pictures(
            session,
            segment_table,
            corrected.b0,
            fa_shown,
            None if anatomy is None else anatomy_of(anatomy, anatomy_transform),
            config,
        ),
        *session_plots.profiles(read_rows(profiles), shipped() if config.published else (), config.zones),
    ]
    context.numbers["pictures"] = float(sum(bool(one.files) for one in pictures))
    return write_album(context.folder / "pictures.zip", within(pictures))


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
