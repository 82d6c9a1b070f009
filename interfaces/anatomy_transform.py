"""Find where the tissue of the diffusion series lies in the image that the labels were drawn on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite import itk
from somite.alignment import align
from somite.body import body_mask, read_mask
from somite.errors import DatasetError, Problem
from somite.gradient_check import B0_MAX
from somite.images import read_float
from somite.position import Aligned, Image
from somite.registry import Bval, Context, Dwi, Mask, Scan, StepConfig, step
from somite.selection import DISTORTION_LEFT, REGISTRATION_DOUBTFUL

_LEAST_OVERLAP = 0.6
_LEAST_NATS = 0.1
"""Of mutual information. Noise in place of the anatomy reaches 0.01 to 0.04 by chance, the phantom's images
0.4 to 0.6; not yet seen on a real pair."""
_LEAST_PEAK = 1.03
"""Information at the end over that 10 mm aside."""
_LEAST_LEAD_NATS = 0.004
"""Over the nearest rival. The right position of the lumbar phantom has 0.007 to 0.02 more than its rivals."""
_LEAST_REACH_MM = 5.0


class Config(StepConfig):
    """Options of `anatomy_transform`."""

    method: Literal["rigid", "affine", "deformable", "header"] = Field(
        "rigid",
        description="rigid or affine: by mutual information; deformable: rigid, with a smooth displacement "
        "along phase encoding, for distortion that is left in the series; header: as the headers say",
    )
    reach_mm: float = Field(
        20.0, ge=0, le=60, description="How far from the headers' position the search goes, mm"
    )
    b0_max_s_per_mm2: float = Field(
        B0_MAX, ge=0, le=200, description="Volumes up to this b-value count as b=0, s/mm2"
    )


def phase_axis(scan: Path | None, where: Path) -> int:
    """Voxel axis of phase encoding of the series' first volume.

    Raises:
        DatasetError: `NO_PHASE_ENCODING`.
    """
    direction = json.loads(scan.read_text())["volumes"][0]["phase_encoding_direction"] if scan else None
    if direction is None:
        raise DatasetError(
            Problem(
                "NO_PHASE_ENCODING",
                "the direction of phase encoding is not known, along which the displacement is looked for",
                where=str(where),
                found="no PhaseEncodingDirection",
                expected="PhaseEncodingDirection in the sidecar",
                do="add it, or set anatomy_transform.method to rigid",
            )
        )
    return "ijk".index(direction[0])


def doubts(found: Aligned, reach_mm: float) -> list[str]:
    """What speaks against a registration; nothing where it looks as it should.

    Args:
        found: the registration.
        reach_mm: of the search.
    """
    told = []
    if found.overlap < _LEAST_OVERLAP:
        told.append(f"only {found.overlap:.0%} of the body lies in the anatomical image")
    if not found.information > _LEAST_NATS:
        told.append(f"mutual information {found.information:.3f} nats, below {_LEAST_NATS}")
    if not found.information > found.at_start:
        told.append(f"mutual information {found.information:.3f} nats, {found.at_start:.3f} at the start")
    if not found.information > _LEAST_PEAK * found.nearby:
        told.append(
            f"mutual information {found.information:.3f} nats, {found.nearby:.3f} at 10 mm from there"
        )
    if not found.lead > _LEAST_LEAD_NATS:
        told.append(
            f"{found.lead:+.4f} nats beside a position {found.rival_mm:.0f} mm away: both agree as well"
        )
    if found.moved_mm > max(reach_mm, _LEAST_REACH_MM):
        told.append(f"{found.moved_mm:.0f} mm from the headers' position; the search reaches {reach_mm:g}")
    return told


@step(
    makes={
        "anatomy_transform": "ITK transform: points of the diffusion series to points of the anatomy, .h5",
        "anatomy_doubts": "Flags of what comes through it, JSON: a list of words",
    },
    dwi_copies=1.5,
)
def run(
    anatomy: Annotated[Path, "Anatomical image that the labels were drawn on, 3D NIfTI"],
    dwi: Dwi,
    bval: Bval,
    config: Config,
    context: Context,
    scan: Scan | None = None,
    mask_given: Mask | None = None,
    field: Annotated[Path, "Off-resonance by which the series was corrected, 3D NIfTI"] | None = None,
) -> tuple[Path, Path]:
    """Register the anatomy to the mean b=0 volume by the method of the config.

    What comes through it is flagged `distortion_left` where the series was not corrected for susceptibility
    and no displacement is looked for: how far it lies aside is then not known anywhere. It is flagged
    `registration_doubtful` where the registration is.

    Raises:
        DatasetError: `ANATOMY_NOT_3D`, `MASK_GRID`, `NO_PHASE_ENCODING`, `IMAGE_UNREADABLE`.
    """
    data, grid = read_float(dwi)
    moving, moving_grid = read_float(anatomy)
    if moving.size != np.prod(moving_grid.shape):
        raise DatasetError(_not_3d(anatomy, moving.shape))
    left = [DISTORTION_LEFT] if field is None and config.method != "deformable" else []
    if left:
        context.warn(_distortion_left(dwi))
    if config.method == "header":
        context.infer("anatomy_transform", "identity", "anatomy_transform.method is header")
        return _written(Aligned(grid, np.eye(4)), left, context)
    is_b0 = np.loadtxt(bval, ndmin=1).ravel() <= config.b0_max_s_per_mm2
    fixed = Image(data[..., is_b0].mean(3), grid)
    mask = read_mask(mask_given, grid) if mask_given else body_mask(fixed.data)
    axis = phase_axis(scan, dwi) if config.method == "deformable" else None
    kind: Literal["rigid", "affine"] = "affine" if config.method == "affine" else "rigid"
    found = align(
        fixed, Image(moving.reshape(moving_grid.shape), moving_grid), mask, kind, axis, config.reach_mm
    )
    _measure(found, mask, context)
    if told := doubts(found, config.reach_mm):
        context.warn(_doubtful(anatomy, told))
        left.append(REGISTRATION_DOUBTFUL)
    return _written(found, left, context)


def _written(found: Aligned, flags: list[str], context: Context) -> tuple[Path, Path]:
    transform, doubtful = (context.folder / name for name in ("anatomy_transform.h5", "anatomy_doubts.json"))
    moved = found.displacement is not None
    itk.write(itk.field(found.points(), found.grid) if moved else itk.affine(found.transform), transform)
    doubtful.write_text(json.dumps(flags) + "\n", encoding="utf-8")
    return transform, doubtful


def read_doubts(path: Path | None) -> list[str]:
    """Flags of what comes through a registration, as `anatomy_doubts` has them; none without one."""
    return [] if path is None else list(json.loads(path.read_text(encoding="utf-8")))


def _measure(found: Aligned, mask: NDArray[np.bool_], context: Context) -> None:
    context.numbers |= {
        "anatomy_information_nats": found.information,
        "anatomy_information_at_start_nats": found.at_start,
        "anatomy_overlap_fraction": found.overlap,
        "anatomy_moved_mm": found.moved_mm,
    }
    if found.displacement is not None:
        size = np.abs(found.displacement[mask if mask.any() else ...])
        context.numbers["anatomy_displacement_p95_mm"] = float(np.percentile(size, 95))
    if found.rival_mm:
        context.numbers["anatomy_lead_nats"] = found.lead


def _doubtful(anatomy: Path, told: list[str]) -> Problem:
    return Problem(
        "REGISTRATION_DOUBTFUL",
        "the registration of the anatomical image to the diffusion series may have failed",
        where=str(anatomy),
        found="; ".join(told),
        expected="an image of the same part of the body, within the reach of the search",
        do="look at labels_dwi on the b=0 image; give a transform, or raise reach_mm",
        severity="warning",
    )


def _distortion_left(dwi: Path) -> Problem:
    return Problem(
        "DISTORTION_LEFT",
        "the series' distortion by susceptibility was not corrected, and the registration is linear: labels "
        "may lie aside along phase encoding by as much as the distortion changes over the image",
        where=dwi.name,
        found="no field of susceptibility",
        expected="a corrected series, or anatomy_transform.method: deformable",
        do="look at labels_dwi on the b=0 image; choose deformable",
        severity="warning",
    )


def _not_3d(path: Path, shape: tuple[int, ...]) -> Problem:
    return Problem(
        "ANATOMY_NOT_3D",
        "the anatomical image is not a single 3D volume",
        where=str(path),
        found=" x ".join(map(str, shape)),
        expected="three axes",
        do="give one volume of it",
    )
