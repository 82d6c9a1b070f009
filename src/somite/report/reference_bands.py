"""Bands of published reference values beside the profiles of a session.

They are chosen as the step `reference` chooses them. Published values of one structure differ more between
protocols than between people, so that every one that fits is drawn, and each figure says that they are not
portable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from somite.carving import Zone
from somite.norms import ANY, Norm, chosen
from somite.report.plots import Band
from somite.segments import NA

_PLACE = ("region", "level", "segment", "extraction", "metric")


def bands(
    row: Mapping[str, str],
    sides: Sequence[str],
    extent: tuple[float, float],
    norms: Sequence[Norm],
    zones: Sequence[Zone],
) -> list[Band]:
    """The bands of a profile: of the zones of a root; without any, those of the whole structure.

    Args:
        row: any row of the table of profiles of this structure and metric.
        sides: L, R, or others, as in the table; of the profiles that are drawn.
        extent: first and last position that is drawn, in the unit of the figure.
        norms: references to choose from.
        zones: of the roots, in the unit of the figure; none where that is not mm.
    """
    place = {name: "" if row[name] == NA else row[name] for name in _PLACE} | {"statistic": "mean"}
    unit = row["unit"]
    found = [
        _band(norm, (zone.from_mm, zone.to_mm))
        for zone in (() if place["segment"] else zones)
        for norm in _fitting({**place, "segment": zone.name}, sides, unit, norms)
    ]
    return found or [_band(norm, extent) for norm in _fitting(place, sides, unit, norms)]


def sources(found: Iterable[Band]) -> str:
    """Protocol and address of each publication, once."""
    return ", ".join(dict.fromkeys(band.source for band in found))


def _fitting(place: Mapping[str, str], sides: Sequence[str], unit: str, norms: Sequence[Norm]) -> list[Norm]:
    """References of this place on any of the sides that have the unit and a standard deviation, each once."""
    found = [norm for side in sides for norm in chosen(norms, {**place, "side": "" if side == NA else side})]
    return [norm for norm in dict.fromkeys(found) if norm.unit == unit and math.isfinite(norm.sd)]


def _band(norm: Norm, extent: tuple[float, float]) -> Band:
    side = "" if norm.side == ANY else norm.side
    return Band(*extent, norm.mean, norm.sd, side, f"{norm.source} ({norm.protocol})")
