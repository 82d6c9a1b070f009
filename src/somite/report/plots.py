"""Plots of a session: its gradients, its motion, its lost slices, a line over time, and profiles.

Every function returns a figure in the one style; `style.save` writes it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.report import style

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
_MARKERS = "osD^vP*X"
_AXES = (
    style.Look(style.OKABE_ITO["blue"], "-", "o"),
    style.Look(style.OKABE_ITO["orange"], "--", "s"),
    style.Look(style.OKABE_ITO["green"], ":", "^"),
)


def shell_looks(shells: Sequence[int]) -> dict[int, style.Look]:
    """b-value of each shell -> its look; 0 is grey."""
    weighted = [b for b in sorted(shells) if b > 0]
    colours = matplotlib.colormaps[style.MAGNITUDE_MAP](np.linspace(0.05, 0.9, max(len(weighted), 1)))
    looks = {
        b: style.Look(matplotlib.colors.to_hex(colour), "-", _MARKERS[i % len(_MARKERS)])
        for i, (b, colour) in enumerate(zip(weighted, colours, strict=False))
    }
    return {0: style.Look(style.GREY, "-", "x")} | looks


def projected(directions: Floats) -> Floats:
    """Unit vectors (n, 3) with z >= 0 to a disc of radius 1 (n, 2), areas kept (Lambert, 1772)."""
    return np.asarray(directions[:, :2] / np.sqrt(1 + np.clip(directions[:, 2:], 0, None)))


def gradient_sphere(given: Gradients, corrected: Gradients | None, shell_of: NDArray[np.int_]) -> Figure:
    """Directions of the weighted volumes on the upper and the lower half of the sphere, seen from the feet.

    Args:
        given: directions in world axes.
        corrected: the same turned with the volumes, or None.
        shell_of: b-value of the shell of each volume (n,), 0 for b=0.
    """
    with style.style():
        figure = style.new_figure(7.2, 3.9)
        halves = figure.subplots(1, 2)
        looks = shell_looks(np.unique(shell_of).tolist())
        for axes, sign, name in zip(halves, (1, -1), ("superior", "inferior"), strict=True):
            _disc(axes)
            turn = (-1, 1)  # the right is on the left, as in the slices
            up = given.bvecs[:, 2] * sign >= 0 if sign > 0 else given.bvecs[:, 2] < 0
            count = int((up & (shell_of > 0)).sum())
            axes.set_title(f"{name} half, n = {count} directions")
            for b, look in looks.items():
                here = up & (shell_of == b)
                if b == 0 or not here.any():
                    continue
                at = projected(given.bvecs[here] * (1, 1, sign)) * turn
                axes.scatter(*at.T, s=22, color=look.colour, marker=look.marker, linewidths=0)
                if corrected is not None:
                    after = projected(corrected.bvecs[here] * (1, 1, sign)) * turn
                    axes.scatter(
                        *after.T, s=52, marker=look.marker, facecolors="none", edgecolors="black", lw=0.7
                    )
        _legend_of_shells(figure, looks, shell_of, corrected is not None)
    return figure


def _legend_of_shells(
    figure: Figure, looks: Mapping[int, style.Look], shell_of: NDArray[np.int_], turned: bool
) -> None:
    handles = [
        Line2D([], [], ls="", marker=look.marker, color=look.colour, label=f"b = {b} s/mm² (n = {n})")
        for b, look in looks.items()
        if (n := int((shell_of == b).sum()))
    ]
    if turned:
        handles.append(
            Line2D(
                [], [], ls="", marker="o", mfc="none", color="black", ms=6, label="turned with the volumes"
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _disc(axes: Axes) -> None:
    """The circle, meridians and parallels every 30 degrees, and the directions of the body."""
    around = np.linspace(0, 2 * np.pi, 181)
    for degrees in (30, 60, 90):
        polar = math.radians(degrees)
        radius = math.sin(polar) / math.sqrt(1 + math.cos(polar))
        ring = (radius * np.cos(around), radius * np.sin(around))
        axes.plot(*ring, color="black" if degrees == 90 else "#cccccc", lw=0.6, zorder=0)
    for azimuth in np.arange(0, np.pi, np.pi / 6):
        ends = np.array([-1, 1])
        axes.plot(ends * np.cos(azimuth), ends * np.sin(azimuth), color="#cccccc", lw=0.6, zorder=0)
    for x, y, letter in ((-1.1, 0, "R"), (1.1, 0, "L"), (0, 1.1, "A"), (0, -1.1, "P")):
        axes.text(x, y, letter, ha="center", va="center")
    axes.set_aspect("equal")
    axes.set_xlim(-1.2, 1.2)
    axes.set_ylim(-1.2, 1.2)
    axes.set_axis_off()


def b_values(bvals: Floats, shell_of: NDArray[np.int_]) -> Figure:
    """The b-value of each volume, in their order."""
    with style.style():
        figure = style.new_figure(7.2, 2.4)
        axes = figure.subplots()
        volumes = np.arange(len(bvals))
        for b, look in shell_looks(np.unique(shell_of).tolist()).items():
            here = shell_of == b
            if here.any():
                axes.scatter(volumes[here], bvals[here], s=14, color=look.colour, marker=look.marker)
        axes.set_xlabel("volume")
        axes.set_ylabel("b-value (s/mm²)")
        axes.set_title(f"n = {len(bvals)} volumes")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=-0.05 * max(float(bvals.max()), 1.0))
    return figure


@dataclass(frozen=True)
class _Trace:
    label: str
    columns: Sequence[tuple[str, str]]
    """Column of a table, and its name in the legend; empty where one line needs none."""


_TRACES = (
    _Trace("shift (mm)", (("trans_x_mm", "x"), ("trans_y_mm", "y"), ("trans_z_mm", "z"))),
    _Trace("rotation (°)", (("rot_x_deg", "about x"), ("rot_y_deg", "about y"), ("rot_z_deg", "about z"))),
    _Trace("displacement (mm)", (("displacement_mm", ""),)),
    _Trace("eddy currents,\nRMS (mm)", (("rms_mm", ""),)),
    _Trace("lost slices", (("lost_slices", ""),)),
)


def motion(columns: Columns, is_b0: NDArray[np.bool_]) -> Figure:
    """What moved, bent and was lost, volume by volume; b=0 volumes are marked.

    Args:
        columns: of the tables of motion and distortion; NaN where nobody looked. Traces whose columns are
            missing or unknown throughout are left out.
        is_b0: which volumes (n,) are b=0.
    """
    traces = [
        trace
        for trace in _TRACES
        if all(name in columns and np.isfinite(columns[name]).any() for name, _ in trace.columns)
    ]
    with style.style():
        figure = style.new_figure(7.2, 0.7 + 1.25 * max(len(traces), 1))
        rows = figure.subplots(max(len(traces), 1), 1, sharex=True, squeeze=False)[:, 0]
        volumes = np.arange(len(is_b0))
        for axes, trace in zip(rows, traces, strict=False):
            for (name, words), look in zip(trace.columns, _AXES, strict=False):
                shown = columns[name]
                axes.plot(volumes[: len(shown)], shown, look.line, color=look.colour, lw=1.2, label=words)
            at_b0 = volumes[is_b0]
            axes.vlines(at_b0, 0, 1, color="#dddddd", lw=3, zorder=-1, transform=axes.get_xaxis_transform())
            axes.set_ylabel(trace.label)
            if trace.label == "lost slices":
                most = max(1.0, float(np.nanmax(columns["lost_slices"])))
                axes.set_ylim(-0.1 * most, 1.1 * most)
                axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            if len(trace.columns) > 1:
                axes.legend(loc="upper left", bbox_to_anchor=(1, 1.05), handlelength=2)
        rows[0].set_title(f"n = {len(is_b0)} volumes; grey: b=0")
        rows[-1].set_xlabel("volume")
        rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.align_ylabels()
    return figure


def lost_slices(outliers: Columns, shape: tuple[int, int]) -> Figure:
    """Which slices of which volumes lost signal, and which of them were replaced.

    Args:
        outliers: columns volume, slice and replaced of the table of lost slices.
        shape: number of volumes and of slices.
    """
    state = np.zeros(shape, np.int_)
    volume, index = (outliers.get(name, np.zeros(0)).astype(int) for name in ("volume", "slice"))
    replaced = outliers.get("replaced", np.zeros(len(volume)))
    inside = (volume < shape[0]) & (index < shape[1])
    state[volume[inside], index[inside]] = np.where(replaced[inside] > 0, 1, 2)
    with style.style():
        figure = style.new_figure(7.2, 2.9)
        axes = figure.subplots()
        colours = ListedColormap(["#eeeeee", style.OKABE_ITO["sky"], style.OKABE_ITO["black"]])
        image = axes.imshow(
            state.T, aspect="auto", origin="lower", cmap=colours, norm=BoundaryNorm([-0.5, 0.5, 1.5, 2.5], 3)
        )
        bar = figure.colorbar(image, ticks=[0, 1, 2], shrink=0.8)
        bar.ax.set_yticklabels(["kept", "replaced", "lost"])
        axes.set_xlabel("volume")
        axes.set_ylabel("slice")
        lost = int((state > 0).sum())
        axes.set_title(
            f"n = {lost} of {state.size} slices lost signal ({100 * lost / max(state.size, 1):.1f} %)"
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    return figure


def time_course(
    values: Floats, mm: tuple[float, float], limits: tuple[float, float], ends: tuple[str, str]
) -> Figure:
    """One line of voxels over the volumes: what moves makes waves.

    Args:
        values: (positions, volumes), each volume scaled to be compared with the others.
        mm: position of the first and the last voxel along the line.
        limits: values of black and of white.
        ends: letters of what lies at the first and the last voxel.
    """
    with style.style():
        figure = style.new_figure(7.2, 3.2)
        axes = figure.subplots()
        half = abs(mm[1] - mm[0]) / max(len(values) - 1, 1) / 2 or 0.5
        toward = 1 if mm[1] >= mm[0] else -1
        extent = (-0.5, values.shape[1] - 0.5, mm[0] - toward * half, mm[1] + toward * half)
        axes.imshow(
            values, aspect="auto", origin="lower", cmap="gray", vmin=limits[0], vmax=limits[1], extent=extent
        )
        axes.set_xlabel(f"volume (n = {values.shape[1]})")
        axes.set_ylabel(f"position (mm), {ends[0]} to {ends[1]}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@dataclass(frozen=True)
class Profile:
    """One structure on one side, along its length."""

    side: str
    at: Floats
    """Position of each node (k,), in the unit of the figure."""
    value: Floats
    """(k,), NaN where there is none."""
    se: Floats
    n_voxels: Floats
    reason: str = ""
    """Why there is no value anywhere."""


CAVEAT = "published, not portable across protocols"
"""Said wherever reference values are drawn."""


@dataclass(frozen=True)
class Band:
    """Reference values over a stretch: mean, and 1.96 standard deviations between people to both sides."""

    start: float
    end: float
    mean: float
    sd: float
    side: str = ""
    """Of which side alone; empty for any."""
    source: str = ""
    """Where they were published, and their protocol."""


@dataclass(frozen=True)
class ProfilePanel:
    """A structure left and right, with its reference."""

    title: str
    sides: Sequence[Profile]
    bands: Sequence[Band] = ()


def profiles(panels: Sequence[ProfilePanel], along: str, measure: str) -> Figure:
    """Profiles left against right with their 95 % intervals, and reference bands where there are some.

    Args:
        panels: one for each structure.
        along: words and unit of the positions.
        measure: words and unit of the values.
    """
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(max(2.5 * columns, 4.2), 2.2 * rows + 0.6)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            _draw_profile(axes, panel)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(along, fontsize=9)
        figure.supylabel(measure, fontsize=9)
        _legend_of_sides(figure, panels)
    return figure


def _draw_profile(axes: Axes, panel: ProfilePanel) -> None:
    counts = []
    for band in panel.bands:
        axes.fill_between(
            (band.start, band.end), band.mean - 1.96 * band.sd, band.mean + 1.96 * band.sd,
            color="#cccccc", alpha=0.6, linewidth=0, zorder=0,
        )  # fmt: skip
        # A reference of one side has its mean in the look of that side.
        look = style.SIDES[band.side]
        axes.plot((band.start, band.end), (band.mean, band.mean), look.line, color=look.colour, lw=0.8)
    for one in panel.sides:
        look, name = style.SIDES[one.side], one.side or "n"
        known = np.isfinite(one.value)
        if not known.any():
            counts.append(f"{name}: none")
            continue
        half = 1.96 * np.where(np.isfinite(one.se), one.se, 0)
        axes.fill_between(
            one.at, one.value - half, one.value + half, color=look.colour, alpha=0.22, linewidth=0
        )
        axes.plot(one.at, one.value, look.line, color=look.colour, marker=look.marker, ms=2.5, lw=1.3)
        voxels = one.n_voxels[known]
        counts.append(f"{name}: {voxels.min():g}-{voxels.max():g}")
    axes.set_title(f"{panel.title}\nn {', '.join(counts)}", fontsize=8)
    if not any(np.isfinite(one.value).any() for one in panel.sides):
        why = textwrap.fill(panel.sides[0].reason[:120] or "no value", 26)
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=6)


def _legend_of_sides(figure: Figure, panels: Sequence[ProfilePanel]) -> None:
    handles: list[Any] = []
    for side in dict.fromkeys(one.side for panel in panels for one in panel.sides):
        look = style.SIDES[side]
        handles.append(
            Line2D(
                [],
                [],
                ls=look.line,
                marker=look.marker,
                ms=3,
                color=look.colour,
                label=f"{style.SIDE_NAMES[side] or 'no side'} (95 % interval)",
            )
        )
    if any(panel.bands for panel in panels):
        handles.append(Patch(color="#cccccc", label=f"reference, mean ± 1.96 SD\n({CAVEAT})"))
    columns = len(handles) if figure.get_figwidth() > 7 else 1
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
