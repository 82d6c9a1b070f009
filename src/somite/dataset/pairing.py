"""What tells the distortion of a group of runs: b=0 volumes of opposite phase encoding, and where they are.

They may be in the group itself, in BIDS `fmap/*_epi.nii.gz`, or in another diffusion series of the session.
Reads headers and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from somite.bids import File, inherited, stem
from somite.dataset.grouping import anatomical, given_direction
from somite.dataset.index import Visit
from somite.dataset.series import METADATA, Sidecars, read_header, read_sidecars
from somite.dataset.sessions import Opposed, Series, listing
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.interfaces.load import total_readout_time
from somite.interfaces.susceptibility import opposed_grid, readout_one_sided
from somite.orientation import storage_change
from somite.registry import Context, Fact

_SUBJECT = "susceptibility correction"


@dataclass(frozen=True)
class Candidates:
    """Where images of opposite phase encoding are looked for."""

    visit: Visit
    series: tuple[Series, ...]
    """All diffusion series of the session."""
    sidecars: Sidecars
    b0_max: float


@dataclass(frozen=True)
class Pairing:
    """What was found for a group of runs, and what is to be said of it."""

    opposed: tuple[Opposed, ...] | None = None
    """None: the distortion is not corrected. Empty: the group itself holds both directions."""
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class _Image:
    """An image that might tell the distortion."""

    path: Path
    direction: str
    """In axes of the body, `AP`; empty where it is not known."""
    grid: Grid
    metadata: Mapping[str, Any]
    b0_volumes: tuple[int, ...]
    label: str
    """Entity `dir`."""


def find_pairing(group: Sequence[Series], candidates: Candidates | None) -> Pairing:
    """The images that tell the distortion of a group of runs; `candidates` None: it is not to be corrected.

    Every problem is a warning, with which the session runs without correction: `PAIR_PE_UNKNOWN`,
    `OPPOSED_GRID`, `READOUT_ONE_SIDED`, `OPPOSED_NO_B0`; with `READOUT_UNKNOWN` it is corrected.
    """
    if candidates is None or any(one.grid is None for one in group):
        return Pairing()
    own = [image for one in group if (image := _of_series(one, candidates.b0_max)) is not None]
    beside = [
        image
        for one in candidates.series
        if one not in group and (image := _of_series(one, candidates.b0_max)) is not None
    ]
    maps, how = _field_maps(group, candidates)
    if problem := _unknown(own, [*own[1:], *maps, *beside]):
        return Pairing(problems=(problem,))
    direction = own[0].direction if own else ""
    if direction:
        for images, where, reason in (
            (own[1:], None, "the group itself holds both phase-encoding directions"),
            (maps, "fmap", how),
            (beside, "dwi", "b=0 volumes of another series of the session, of the opposite phase encoding"),
        ):
            found = [image for image in images if image.direction == direction[::-1]]
            if found:
                return _paired(own[0], found, reason, given=where is not None)
    return Pairing(facts=(Fact(_SUBJECT, "none", "no image of the opposite phase encoding in the session"),))


def _paired(first: _Image, found: Sequence[_Image], reason: str, given: bool) -> Pairing:
    where = str(first.path)
    usable = [image for image in found if image.b0_volumes]
    if not usable or not first.b0_volumes:
        return Pairing(problems=(_not_corrected(_no_b0(found[0] if first.b0_volumes else first)),))
    for image in usable:
        if storage_change(image.grid, first.grid) is None:
            return Pairing(problems=(_not_corrected(opposed_grid(image.path, image.grid, first.grid)),))
    context = Context(Path())
    times = [total_readout_time(stem(image.path), image.metadata, context) for image in (first, *usable)]
    facts = [
        *(context.facts if given else ()),
        Fact(_SUBJECT, listing([i.path.name for i in usable]), reason),
    ]
    problems: list[Problem] = []
    for seconds in times[1:]:
        if (seconds is None) != (times[0] is None):
            one_sided = readout_one_sided(where, first.direction, times[0], seconds)
            return Pairing(problems=(_not_corrected(one_sided),))
    if times[0] is None:
        problems.append(_readout_unknown(where))
    opposed = tuple(
        Opposed(image.path, image.metadata["PhaseEncodingDirection"], seconds, image.b0_volumes)
        for image, seconds in zip(usable, times[1:], strict=True)
    )
    return Pairing(opposed if given else (), tuple(problems), tuple(facts))


def _of_series(series: Series, b0_max: float) -> _Image | None:
    if series.grid is None:
        return None
    b0s = _b0_volumes(series.bval, series.n_volumes, b0_max, ())
    label = series.entities.get("dir", "")
    return _Image(series.dwi, given_direction(series), series.grid, series.metadata, b0s, label)


def _b0_volumes(
    bval: Path | None, n_volumes: int, b0_max: float, without: tuple[int, ...]
) -> tuple[int, ...]:
    """Volumes of b=0; `without` a file of b-values, or with one that cannot be used."""
    if bval is None:
        return without
    try:
        values = np.loadtxt(bval, ndmin=1).ravel()
    except (OSError, ValueError):
        return without
    return tuple(int(v) for v in np.flatnonzero(values <= b0_max)) if len(values) == n_volumes else without


def _field_maps(group: Sequence[Series], candidates: Candidates) -> tuple[list[_Image], str]:
    """The images `*_epi` that belong to the group, and by what that is known."""
    visit = candidates.visit
    named = [file for file in visit.files if file.name.suffix == "epi" and file.name.is_image]
    read = [(file, read_sidecars(file, visit.levels(file), candidates.sidecars)[0]) for file in named]
    sources = _sources(group, candidates)
    reasons = {
        "its B0FieldIdentifier is the B0FieldSource of the series": [
            one for one in read if _texts(one[1].get("B0FieldIdentifier")) & sources
        ],
        "its IntendedFor names the series": [
            one for one in read if _intended(one[1].get("IntendedFor"), [series.dwi for series in group])
        ],
        "neither IntendedFor nor B0FieldIdentifier names a series: the only ones of the session": [
            one for one in read if not {"IntendedFor", "B0FieldIdentifier"} & set(one[1])
        ],
    }
    for reason, chosen in reasons.items():
        images = [image for file, about in chosen if (image := _epi(file, about, candidates)) is not None]
        if images:
            return images, reason
    return [], ""


def _sources(group: Sequence[Series], candidates: Candidates) -> set[str]:
    paths = {series.dwi for series in group}
    visit = candidates.visit
    return {
        text
        for file in visit.files
        if file.path in paths
        for text in _texts(
            read_sidecars(file, visit.levels(file), candidates.sidecars)[0].get("B0FieldSource")
        )
    }


def _texts(value: object) -> set[str]:
    return (
        {value}
        if isinstance(value, str)
        else {v for v in value if isinstance(v, str)}
        if isinstance(value, list)
        else set()
    )


def _intended(value: object, paths: Sequence[Path]) -> bool:
    """Whether IntendedFor, relative to the participant or a BIDS URI, names one of the images."""
    ends = {text.rpartition("/")[2] for text in _texts(value)}
    return any(path.name in ends for path in paths)


def _epi(file: File, about: Mapping[str, Any], candidates: Candidates) -> _Image | None:
    try:
        grid, shape = read_header(file.path, "the field map")
        companions = inherited(file.name, ".bval", candidates.visit.levels(file))
    except DatasetError:
        return None
    n_volumes = shape[3] if len(shape) > 3 else 1
    bval = companions[-1].path if companions else None
    b0s = _b0_volumes(bval, n_volumes, candidates.b0_max, tuple(range(n_volumes)))
    direction = about.get("PhaseEncodingDirection")
    metadata = {key: value for key, value in about.items() if key in METADATA}
    label = file.name.entities.get("dir", "")
    return _Image(
        file.path, anatomical(direction, grid.affine) if direction else "", grid, metadata, b0s, label
    )


def _unknown(own: Sequence[_Image], others: Sequence[_Image]) -> Problem | None:
    """The problem of a pair by name whose directions the sidecars do not tell, where none else serves."""
    if not own or (own[0].direction and any(o.direction == own[0].direction[::-1] for o in others)):
        return None
    pair = [o for o in others if o.label != own[0].label and not (o.direction and own[0].direction)]
    if not pair or not (own[0].label or pair[0].label):
        return None
    lacking = [image.path.name for image in (own[0], *pair) if not image.direction]
    return _not_corrected(
        Problem(
            "PAIR_PE_UNKNOWN",
            "images that may be of opposite phase encoding do not tell their direction",
            where=str(own[0].path),
            found=f"no PhaseEncodingDirection for {listing(lacking)}",
            expected='"PhaseEncodingDirection": "j-" (or i, i-, j, k, k-) in the sidecar of each',
            do="add it to the sidecars, or set susceptibility.method to none",
        )
    )


def _not_corrected(problem: Problem) -> Problem:
    """The problem as a warning: the session runs, and its distortion stays."""
    return Problem(
        problem.code,
        f"{problem.what}: distortion by susceptibility is not corrected",
        problem.where,
        problem.found,
        problem.expected,
        problem.do,
        "warning",
    )


def _no_b0(image: _Image) -> Problem:
    return Problem(
        "OPPOSED_NO_B0",
        "one phase-encoding direction has no b=0 volume",
        where=str(image.path),
        found="no volume of b=0",
        expected="a volume of b=0 of either direction",
        do="nothing if none was acquired",
    )


def _readout_unknown(where: str) -> Problem:
    return Problem(
        "READOUT_UNKNOWN",
        "no readout time is known: the same is taken for both phase-encoding directions, and the field is "
        "given in voxels of displacement, not in Hz",
        where=where,
        found="no TotalReadoutTime, nor what it follows from",
        expected="TotalReadoutTime in the sidecars of both",
        do="add it from the scanner's protocol where a field in Hz is wanted",
        severity="warning",
    )
