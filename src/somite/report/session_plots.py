"""Plots of a session's tables as pictures: the scheme, motion, lost slices, profiles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from somite.carving import Zone
from somite.gradients import Gradients
from somite.norms import Norm
from somite.report import plots, reference_bands
from somite.report.album import Picture, Section, rendered, unmade
from somite.report.canvas import short
from somite.report.plots import CAVEAT, Columns, Profile, ProfilePanel

Row = Mapping[str, str]
_MOST_PANELS = 24
_METRICS = {"fa": "FA (unitless)", "md": "MD (10⁻³ mm²/s)"}
_PLACE = ("region", "level", "segment", "extraction")
NA = "n/a"


def _plotted(name: str, section: Section, title: str, alt: str, caption: str, figure: Figure) -> Picture:
    return Picture(name, section, title, alt, caption, rendered(figure, name))


def scheme(given: Gradients, corrected: Gradients, shell_of: NDArray[np.int_]) -> Iterator[Picture]:
    """The directions on the sphere, and the b-values in their order."""
    counts = ", ".join(f"{int((shell_of == b).sum())} of b = {b} s/mm²" for b in np.unique(shell_of))
    if (shell_of > 0).any():
        turned = None if np.array_equal(given.bvecs, corrected.bvecs) else corrected
        figure = plots.gradient_sphere(given, turned, shell_of)
        words = "Directions of the gradients in world axes, on both halves of the sphere seen from the feet."
        if turned is not None:
            words += " Rings: as turned with the volumes when motion was corrected."
        yield _plotted(
            "scheme-sphere", "scheme", "Gradient directions", f"Two discs with {counts}", words, figure
        )
    else:
        why = "The series has no diffusion-weighted volume with a direction."
        yield unmade("scheme-sphere", "scheme", "Gradient directions", why)
    figure = plots.b_values(given.bvals, shell_of)
    words = f"b-values in the order of the volumes: {counts}."
    yield _plotted(
        "scheme-b-values", "scheme", "b-values", f"b-value of each volume: {counts}", words, figure
    )


def motion(
    moved: Columns, distortion: Columns, outliers: Columns, is_b0: NDArray[np.bool_]
) -> Iterator[Picture]:
    """Traces of motion, eddy currents and losses, and the map of lost slices."""
    columns = dict(moved) | {name: distortion[name] for name in ("rms_mm",) if name in distortion}
    if not any(np.nan_to_num(values).any() for values in columns.values() if len(values)):
        why = "Motion was not estimated, or nothing moved: all its numbers are 0."
        yield unmade("motion-traces", "motion", "Motion", why)
    else:
        yield _plotted(
            "motion-traces",
            "motion",
            "Motion and eddy currents",
            "Shift, rotation, displacement and eddy-current distortion of each volume",
            "Against the first volume, in world axes: x to the right, y anterior, z superior. Displacement "
            "is the mean over the body; eddy currents are the root mean square of the distortion.",
            plots.motion(columns, is_b0),
        )
    yield lost(moved, outliers, len(is_b0))


def lost(moved: Columns, outliers: Columns, n_volumes: int) -> Picture:
    """The map of lost slices, or why there is none."""
    looked = moved.get("slices", np.zeros(0))
    if not (np.isfinite(looked) & (looked > 0)).any():
        why = (
            "Nobody looked for slices that lost signal: that needs four volumes of a contrast and a "
            "correction of motion."
        )
        return unmade("motion-lost-slices", "motion", "Lost slices", why)
    return _plotted(
        "motion-lost-slices",
        "motion",
        "Lost slices",
        f"Map of {len(outliers.get('volume', ()))} slices that lost signal, by volume and slice",
        "Slices that lost signal by motion; replaced ones were foretold from the other volumes.",
        plots.lost_slices(outliers, (n_volumes, int(np.nanmax(looked)))),
    )


def profiles(rows: Sequence[Row], norms: Sequence[Norm], zones: Sequence[Zone]) -> Iterator[Picture]:
    """Profiles left against right of FA and MD, with reference bands where there are references.

    Args:
        rows: of the table of profiles.
        norms: reference values to choose from.
        zones: of the roots, where the references of their segments stand.
    """
    if not any(_number(row["value"]) is not None for row in rows):
        reasons = list(dict.fromkeys(row["reason"] for row in rows if row["reason"] != NA))
        why = (
            f"No profile has a value: {'; '.join(reasons[:3])}." if reasons else "No structure has a profile."
        )
        yield unmade("profiles", "profiles", "Profiles", why)
        return
    for metric, measure in _METRICS.items():
        own = [row for row in rows if row["metric"] == metric]
        by_place: dict[tuple[str, ...], list[Row]] = {}
        for row in own:
            by_place.setdefault(tuple(row[name] for name in _PLACE), []).append(row)
        for kind, along in (
            ("position_mm", "position along the nerve (mm)"),
            ("position_frac", "part of the way"),
        ):
            groups = {p: found for p, found in by_place.items() if _measured(found) == kind}
            if groups:
                yield _profile_picture(groups, kind, along, metric, measure, norms, zones)


def _measured(rows: Sequence[Row]) -> str:
    """Roots have the same nodes in mm on all sides, tracts the same parts of their length."""
    places: dict[str, set[str]] = {}
    for row in rows:
        places.setdefault(row["node"], set()).add(row["position_mm"])
    return "position_mm" if all(len(one - {NA}) <= 1 for one in places.values()) else "position_frac"


def _profile_picture(
    groups: Mapping[tuple[str, ...], Sequence[Row]],
    kind: str,
    along: str,
    metric: str,
    measure: str,
    norms: Sequence[Norm],
    zones: Sequence[Zone],
) -> Picture:
    several = len({place[3] for place in groups}) > 1
    panels = [_panel(place, rows, kind, norms, zones, several=several) for place, rows in groups.items()]
    more = len(panels) - _MOST_PANELS
    words = f"{measure} with its 95 % interval, left against right; n: voxels of a node."
    drawn = [band for panel in panels[:_MOST_PANELS] for band in panel.bands]
    if drawn:
        words += (
            " Grey: reference values of the segment, or of the whole structure where its segments have none, "
            "mean and 1.96 standard deviations between people; in the colour of a side where they hold for "
            f"that side alone. They are {CAVEAT}, and no cut-off: {reference_bands.sources(drawn)}."
        )
    if more > 0:
        words += f" {more} further structures are in the table of profiles only."
    name = f"profiles-{metric}" + ("" if kind == "position_mm" else "-tracts")
    listed = ", ".join(panel.title for panel in panels[:_MOST_PANELS])
    figure = plots.profiles(panels[:_MOST_PANELS], along, measure)
    title = f"Profiles of {metric.upper()}"
    return _plotted(name, "profiles", title, f"{title} left against right: {listed}", words, figure)


def _panel(
    place: tuple[str, ...],
    rows: Sequence[Row],
    kind: str,
    norms: Sequence[Norm],
    zones: Sequence[Zone],
    *,
    several: bool,
) -> ProfilePanel:
    words = [word for word in place[:3] if word != NA] + ([place[3]] if several else [])
    by_side: dict[str, list[Row]] = {}
    for row in rows:
        by_side.setdefault("" if row["side"] == NA else row["side"], []).append(row)
    sides = [_profile(side, found, kind) for side, found in by_side.items()]
    along = np.concatenate([one.at[np.isfinite(one.at)] for one in sides])
    extent = (float(along.min()), float(along.max())) if len(along) else (0.0, 0.0)
    in_mm = zones if kind == "position_mm" else ()
    bands = reference_bands.bands(rows[0], list(dict.fromkeys(r["side"] for r in rows)), extent, norms, in_mm)
    return ProfilePanel(short(" ".join(words), 30), sides, bands)


def _profile(side: str, rows: Sequence[Row], kind: str) -> Profile:
    def column(name: str) -> NDArray[np.float64]:
        return np.array([np.nan if (x := _number(row[name])) is None else x for row in rows])

    reasons = [row["reason"] for row in rows if row["reason"] != NA]
    return Profile(
        side, column(kind), column("value"), column("se"), column("n_voxels"), "; ".join(reasons[:1])
    )


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[-+0-9.eE]+", text) else None
