"""Pictures of a session for its page: what each step did, motion, noise, maps, segments and profiles.

The series between the steps exist only while a session runs, so their pictures are made by a step. What a
session lacks is told in words, in the place of its picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from somite.carving import Roots, Zone
from somite.gradient_check import B0_MAX
from somite.images import read_float
from somite.interfaces.qc import read_columns
from somite.metrics import METRICS
from somite.norms import shipped
from somite.registry import Bval, Bvec, Context, Dwi, Labels, LabelTable, Mask, Scan, StepConfig, step
from somite.report.slices import Plane
from somite.segments import Word


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
    # matplotlib is loaded where something is drawn.
    from somite.report import album, preprocessing, session_maps, session_plots
    from somite.report.preprocessing import shots_of
    from somite.report.session_pictures import (
        anatomy_of,
        read_map,
        read_rows,
        read_session,
        segment_pictures,
        unit_of_field,
    )

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
    return album.write_album(context.folder / "pictures.zip", album.within(pictures))
