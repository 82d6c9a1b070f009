"""Step `degibbs`: Gibbs ringing taken off a diffusion series, of full or partial Fourier acquisition.

It expects the series as the scanner sampled it, denoised or not, before any resampling: the ringing has a
period of two acquired voxels. It cannot undo an interpolation by the scanner, and says so when it sees one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from somite import gibbs, images, tools
from somite.errors import DatasetError, Problem, ToolError
from somite.files import link_or_copy
from somite.gibbs import Cut
from somite.images import Grid
from somite.orientation import describe_grid
from somite.registry import Context, Dwi, Scan, StepConfig, step

Float32 = NDArray[np.float32]

AXES = "ijk"
PLANES = {"ij": (0, 1), "ik": (0, 2), "jk": (1, 2)}
FRACTIONS = {"full": 1.0, "6/8": 0.75, "7/8": 0.875}

VOLUMES_LOOKED_AT = 8
"""Volumes whose spectrum is looked at, spread over the series."""

DROP_OF_ZEROS = 1.3
"""Power drops at the cut by 1.5 to 2.8 where zeros were filled in, and by at most 1.2 where they were not."""

OUTER_POWER_MIN = 0.01
"""Less power than this share at the outermost frequencies is that of an interpolated image."""


class Config(StepConfig):
    """Options of the removal of Gibbs ringing."""

    method: Literal["builtin", "mrdegibbs", "none"] = Field(
        "builtin",
        description="builtin: local sub-voxel shifts, also for partial Fourier; mrdegibbs: that of MRtrix3, "
        "for full Fourier (partial_fourier does not apply); none: the data pass unchanged",
    )
    plane: Literal["auto", "ij", "ik", "jk"] = Field(
        "auto",
        description="Voxel axes of the acquired slices, of the first series as it is stored. auto: the two "
        "that are not the sidecar's SliceEncodingDirection, which is k where it is not given",
    )
    partial_fourier: Literal["auto", "full", "6/8", "7/8"] = Field(
        "auto",
        description="Part of k-space that was measured along the phase-encoding axis, the rest being zeros. "
        "auto: the sidecar's PartialFourier, full where it is not given or the data show no zeros",
    )

    @model_validator(mode="after")
    def _mrdegibbs_is_of_full_fourier(self) -> Self:
        if self.method == "mrdegibbs" and self.partial_fourier in ("6/8", "7/8"):
            raise ValueError(
                f"partial_fourier is {self.partial_fourier} with method mrdegibbs, which is for a full "
                "k-space; choose method builtin"
            )
        return self


@dataclass(frozen=True)
class Acquisition:
    """How the k-space of a series was sampled, in voxel axes."""

    plane: tuple[int, int]
    cut: Cut | None = None


def plane_of(series: Mapping[str, Any], config: Config, context: Context) -> tuple[int, int]:
    """The axes of the acquired slices of an entry of `scan["series"]`; what is inferred is told."""
    if config.plane != "auto":
        return PLANES[config.plane]
    across = series.get("slice_encoding_direction") or "k"
    name = AXES.replace(across[0], "")
    context.infer(
        f"degibbs.plane of {series['name']}",
        name,
        f"slices are taken along {across[0]} (SliceEncodingDirection, k unless the sidecar says otherwise)",
    )
    return PLANES[name]


def cut_of(
    series: Mapping[str, Any], plane: tuple[int, int], config: Config, context: Context
) -> tuple[Cut | None, str]:
    """The part of k-space that was measured, None for all of it, and why; what cannot be met is warned of."""
    fraction = FRACTIONS.get(config.partial_fourier)
    along = "PHASE"
    if fraction is None:
        known = series.get("partial_fourier")
        along = series.get("partial_fourier_direction") or "PHASE"
        if known is None:
            return None, "the sidecar does not tell PartialFourier"
        fraction = min(FRACTIONS.values(), key=lambda other: abs(other - known))
        if abs(fraction - known) > 0.03:
            context.warn(_not_corrected(series, f"PartialFourier {known:g}", "6/8, 7/8 or full"))
            return None, f"PartialFourier {known:g} cannot be corrected"
    if fraction == 1:
        return None, "all of k-space was measured"
    encoding = series.get("phase_encoding_direction")
    if along not in ("PHASE", "FREQUENCY"):
        context.warn(_not_corrected(series, f"PartialFourierDirection {along}", "PHASE or FREQUENCY"))
        return None, f"partial Fourier along {along} cannot be corrected"
    if encoding is None or AXES.index(encoding[0]) not in plane:
        expected = f"an axis of the acquired slices, {AXES[plane[0]]} or {AXES[plane[1]]}"
        context.warn(_not_corrected(series, f"PhaseEncodingDirection {encoding or 'not given'}", expected))
        return None, "the axis of partial Fourier is not known"
    phase = AXES.index(encoding[0])
    axis = phase if along == "PHASE" else sum(plane) - phase
    given = config.partial_fourier if config.partial_fourier != "auto" else f"PartialFourier {known:g}"
    return Cut(axis, fraction), f"{given} along {AXES[axis]}"


def _not_corrected(series: Mapping[str, Any], found: str, expected: str) -> Problem:
    return Problem(
        "DEGIBBS_PARTIAL_FOURIER",
        f"the ringing of partial Fourier is not taken off {series['name']}; that of full Fourier is",
        where=str(series["name"]),
        found=found,
        expected=expected,
        do="correct or complete the sidecar, or set degibbs.partial_fourier",
        severity="warning",
    )


def acquisition_of(data: Float32, series: Mapping[str, Any], config: Config, context: Context) -> Acquisition:
    """How a series (x, y, z, volumes) was sampled: from its entry in `scan`, the options, and its spectrum.

    Data that contradict the sidecar win: where no zeros are seen the scanner has filled them in, and to
    correct for them would sharpen the image.
    """
    plane = plane_of(series, config, context)
    cut, reason = cut_of(series, plane, config, context)
    looked_at = data[..., np.unique(np.linspace(0, data.shape[3] - 1, VOLUMES_LOOKED_AT).astype(int))]
    power = {axis: gibbs.mean_power(looked_at, axis) for axis in plane}
    empty = [a for a in plane if (gibbs.outer_power(power[a], data.shape[a]) or 1) < OUTER_POWER_MIN]
    if empty:
        context.warn(_interpolated(series, empty))
    if cut is not None:
        drop = gibbs.power_drop(power[cut.axis], data.shape[cut.axis], cut.fraction)
        if drop is not None and drop < DROP_OF_ZEROS:
            reason += f", but the power drops there by a factor of {drop:.2f} only: no zeros are in k-space"
            if config.partial_fourier == "auto":
                cut = None
            else:
                context.warn(_no_zeros(series, cut, drop))
    if config.partial_fourier == "auto":
        name = next(name for name, f in FRACTIONS.items() if f == (cut.fraction if cut else 1))
        context.infer(f"degibbs.partial_fourier of {series['name']}", name, reason)
    return Acquisition(plane, cut)


def _interpolated(series: Mapping[str, Any], axes: Sequence[int]) -> Problem:
    return Problem(
        "DEGIBBS_INTERPOLATED",
        f"{series['name']} seems to have been interpolated by the scanner: its ringing is then wider than "
        "what can be taken off",
        where=str(series["name"]),
        found=f"next to no signal at the highest frequencies along {' and '.join(AXES[a] for a in axes)}",
        expected="an image on the matrix that was acquired",
        do="export it without interpolation or filter if that can be done; else set degibbs.method: none",
        severity="warning",
    )


def _no_zeros(series: Mapping[str, Any], cut: Cut, drop: float) -> Problem:
    return Problem(
        "DEGIBBS_NO_ZEROS",
        f"degibbs.partial_fourier is set, but k-space of {series['name']} seems to be full",
        where="degibbs.partial_fourier",
        found=f"the power along {AXES[cut.axis]} drops by a factor of {drop:.2f} at the cut",
        expected=f"at least {DROP_OF_ZEROS}",
        do="set degibbs.partial_fourier: auto unless the scanner is known to fill in zeros",
        severity="warning",
    )


def unring_series(
    data: Float32, series_of: NDArray[np.int64], acquisitions: Mapping[int, Acquisition], threads: int = 1
) -> Float32:
    """Take the ringing off joined series (x, y, z, volumes), each as it was acquired.

    Args:
        data: finite; it is not changed.
        series_of: (volumes,) the series of each volume.
        acquisitions: of each series.
        threads: how many planes to work on at a time. The result does not depend on it.
    """
    if len(set(acquisitions.values())) == 1:
        how = next(iter(acquisitions.values()))
        return gibbs.unring(data, how.plane, how.cut, threads)
    out = np.empty(data.shape, np.float32, order="F")
    for series, how in acquisitions.items():
        mine = series_of == series
        out[..., mine] = gibbs.unring(data[..., mine], how.plane, how.cut, threads)
    return out


def _mrdegibbs(dwi: Path, grid: Grid, planes: set[tuple[int, int]], context: Context) -> Path:
    """MRtrix3's mrdegibbs, which takes one plane for the whole image."""
    from nipype.interfaces.mrtrix3 import MRDeGibbs

    if len(planes) > 1:
        raise DatasetError(
            Problem(
                "DEGIBBS_PLANES",
                "the series were acquired in different planes, and mrdegibbs takes one",
                where=str(dwi),
                found=", ".join(AXES[a] + AXES[b] for a, b in sorted(planes)),
                expected="one plane",
                do="choose degibbs.method: builtin, or runs: combine: none",
            )
        )
    out = context.folder / "dwi_degibbs.nii"
    interface = MRDeGibbs(
        in_file=str(dwi),
        out_file=str(out),
        axes=list(*planes),
        nthreads=context.threads,
        # Else MRtrix3 orders the axes by where they point, and -axes is of that order.
        args="-config RealignTransform false -force -datatype float32",
    )
    tools.run_interface(interface, context, [out])
    data, made = tools.read_output(out, context.commands[-1])
    if not made.matches(grid):
        raise ToolError(
            Problem(
                "TOOL_OUTPUT_GRID",
                "mrdegibbs wrote an image on another grid than that of its input",
                where=context.commands[-1],
                found=describe_grid(made),
                expected=describe_grid(grid),
                do="use degibbs.method: builtin, and report this with the image's header",
            )
        )
    return images.write(out, np.array(data, np.float32), grid)  # with the header of every other product


def _tools(config: Config) -> dict[str, str]:
    return {"mrdegibbs": tools.version_of("mrdegibbs")} if config.method == "mrdegibbs" else {}


@step(
    makes={"dwi_degibbs": "Diffusion series without Gibbs ringing, 4D NIfTI"},
    tools=_tools,
    dwi_copies=3.0,
)
def run(dwi: Dwi, scan: Scan, config: Config, context: Context) -> Path:
    """Take the Gibbs ringing off a series, each of the series joined in it as its sidecar says."""
    if config.method == "none":
        context.infer("dwi_degibbs", "the series as it was given", "degibbs.method is none")
        name = "dwi_degibbs.nii.gz" if dwi.name.endswith(".nii.gz") else "dwi_degibbs.nii"
        return link_or_copy(dwi.resolve(), context.folder / name)
    data, grid = images.read_float(dwi)
    known = json.loads(scan.read_text(encoding="utf-8"))
    series_of = np.array([volume["series"] for volume in known["volumes"]], int)
    if config.method == "mrdegibbs":
        planes = {plane_of(series, config, context) for series in known["series"]}
        for series in known["series"]:
            if (series.get("partial_fourier") or 1) < 1:
                found = f"PartialFourier {series['partial_fourier']:g}"
                context.warn(_not_corrected(series, found, "a full k-space, or degibbs.method: builtin"))
        return _mrdegibbs(dwi, grid, planes, context)
    acquisitions = {
        number: acquisition_of(data[..., series_of == number], series, config, context)
        for number, series in enumerate(known["series"])
    }
    clean = unring_series(data, series_of, acquisitions, context.threads)
    return images.write(context.folder / "dwi_degibbs.nii", clean, grid)
