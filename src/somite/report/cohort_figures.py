"""Figures of a cohort: quality numbers, segments left against right, profiles by group, who was left out."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from somite.report import style
from somite.report.canvas import short
from somite.report.distributions import Spread

Floats = NDArray[np.float64]
WIDTH_INCH = 9.5
FEW = 30
"""So many values or fewer are all drawn, as points."""
_MANY_POINTS = 400
_NO_BOX = 4
"""So many values make a box; fewer are points with their median."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_VERDICTS = {
    "fail": (style.OKABE_ITO["vermilion"], "fails"),
    "warn": (style.OKABE_ITO["orange"], "warns"),
    "pass": (style.OKABE_ITO["blue"], "passes"),
    "": (style.GREY, "no limit"),
}
_NAMED = 3


def jitter(n: int, width: float) -> Floats:
    """Offsets (n,) within ±width / 2 that spread evenly in any order, the same every time."""
    return np.asarray((((np.arange(n) + 1) * _GOLDEN) % 1 - 0.5) * width, np.float64)


def quality(spreads: Sequence[Spread]) -> Figure:
    """A strip for every quality number: a point per session, its limits as lines, the farthest named."""
    columns = 3
    rows = math.ceil(len(spreads) / columns)
    with style.style():
        figure = style.new_figure(WIDTH_INCH, 1.5 * rows + 0.5)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, spread in zip(grid.ravel(), spreads, strict=False):
            _strip(axes, spread)
        hide_unused(grid, len(spreads))
        figure.legend(handles=_quality_legend(spreads), loc="outside upper center", ncols=7, handlelength=1.6)
    return figure


def _strip(axes: Axes, spread: Spread) -> None:
    at = jitter(len(spread.values), 0.7)
    for verdict, (colour, _) in _VERDICTS.items():
        here = np.array([one == verdict for one in spread.verdicts], bool)
        if here.any():
            axes.scatter(
                spread.values[here], at[here], s=9, color=colour, linewidths=0, alpha=0.75,
                label=verdict or "none", rasterized=len(at) > _MANY_POINTS,
            )  # fmt: skip
    apart = spread.apart
    axes.scatter(spread.values[apart], at[apart], s=40, facecolors="none", edgecolors="black", lw=0.8)
    axes.plot([np.median(spread.values)] * 2, (-0.45, 0.45), color="black", lw=1.2)
    for limits, line, key in ((spread.warn, "--", "warn"), (spread.fail, "-", "fail")):
        for limit in limits:
            axes.axvline(limit, color=_VERDICTS[key][0], ls=line, lw=1.1, zorder=0, gid=f"limit-{key}")
    axes.set_title(f"{textwrap.fill(spread.title, 38)}\nn = {len(spread.values)}", fontsize=8)
    axes.set_xlabel(spread.unit or "unitless", fontsize=8, labelpad=1)
    axes.set_yticks([])
    axes.set_ylim(-0.6, 1.15)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _name_farthest(axes, spread, at)


def _name_farthest(axes: Axes, spread: Spread, at: Floats) -> None:
    """The names of up to three sessions that stand apart, one above the other, at their points."""
    apart = np.flatnonzero(spread.apart | np.isin(spread.verdicts, ("warn", "fail")))
    far = sorted((int(i) for i in apart), key=lambda i: -abs(spread.values[i] - np.median(spread.values)))[
        :_NAMED
    ]
    low, high = axes.get_xlim()
    for place, i in enumerate(far):
        part = (spread.values[i] - low) / (high - low)
        axes.annotate(
            short(spread.labels[i], 26), (spread.values[i], at[i]),
            xytext=(min(max(part, 0.02), 0.98), 0.97 - 0.15 * place), textcoords="axes fraction",
            ha="left" if part < 0.5 else "right", va="top", fontsize=6.5,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#999999", "shrinkB": 3},
        )  # fmt: skip


def _quality_legend(spreads: Sequence[Spread]) -> list[Any]:
    seen = {verdict for spread in spreads for verdict in spread.verdicts}
    dots = [
        Line2D([], [], ls="", marker="o", ms=4, color=colour, label=words)
        for verdict, (colour, words) in _VERDICTS.items()
        if verdict in seen
    ]
    ring = Line2D([], [], ls="", marker="o", ms=6, mfc="none", mec="black", mew=0.8, label="apart (robust)")
    lines = [
        Line2D([], [], color=_VERDICTS[key][0], ls=line, label=f"limit: {words}")
        for key, line, words in (("warn", "--", "warns"), ("fail", "-", "fails"))
        if any(getattr(spread, key) for spread in spreads)
    ]
    return [*dots, ring, *lines, Line2D([], [], color="black", lw=1.2, label="median")]


def hide_unused(grid: Any, used: int) -> None:
    """Hide the axes (rows, columns) beyond those used; what stands above them gets its labels back."""
    columns = grid.shape[1]
    for i, axes in enumerate(grid.ravel()):
        axes.set_visible(i < used)
        if i < used <= i + columns:
            axes.tick_params(labelbottom=True)


@dataclass(frozen=True)
class Place:
    """A place of a panel of boxes: a level or a region, of one group of people."""

    name: str
    group: str
    sides: Mapping[str, Floats]
    """Side -> values."""


@dataclass(frozen=True)
class BoxPanel:
    """Boxes that share axes."""

    title: str
    places: Sequence[Place]


def boxes(panels: Sequence[BoxPanel], measure: str) -> Figure:
    """Box plots left against right, at each place and for each group, with n below.

    Args:
        panels: that share the axis of values.
        measure: words and unit of the values.
    """
    widest = max(len(panel.places) for panel in panels)
    columns = 1 if widest > 7 else min(2 if widest > 3 else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        width = WIDTH_INCH if columns > 1 or widest > 4 else 5.5
        figure = style.new_figure(width, 2.6 * rows + 0.5)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            _box_panel(axes, panel, points=widest <= 16)
        hide_unused(grid, len(panels))
        figure.supylabel(measure, fontsize=9)
        sides = dict.fromkeys(side for panel in panels for place in panel.places for side in place.sides)
        handles = [
            Patch(facecolor=_pale(style.SIDES[side].colour), edgecolor=style.SIDES[side].colour,
                  label=style.SIDE_NAMES[side] or "no side")
            for side in sorted(sides, key=list(style.SIDES).index)
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _pale(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return (red + 2) / 3, (green + 2) / 3, (blue + 2) / 3


def _box_panel(axes: Axes, panel: BoxPanel, *, points: bool) -> None:
    ticks, words = [], []
    crowded = len(panel.places) > 9
    for x, place in enumerate(panel.places):
        sides = sorted(place.sides, key=list(style.SIDES).index)
        offsets = (np.arange(len(sides)) - (len(sides) - 1) / 2) * 0.38
        for side, offset in zip(sides, offsets, strict=True):
            _box(axes, place.sides[side], x + offset, side, points=points)
        counts = " | ".join(str(len(place.sides[side])) for side in sides)
        ticks.append(x)
        named = [
            _in_lines(place.name) if crowded else short(place.name, 16),
            *([short(place.group, 12)] if place.group else []),
        ]
        words.append("\n".join([*named, f"n {counts}"]))
    axes.set_xticks(ticks, words, fontsize=6 if crowded else 7)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_title(short(panel.title, 60))
    for x, (before, after) in enumerate(zip(panel.places, panel.places[1:], strict=False)):
        if after.name != before.name and after.group:
            axes.axvline(x + 0.5, color="#dddddd", lw=0.8, zorder=0)


def _in_lines(name: str) -> str:
    """A name in up to three short lines, broken where its words end: names side by side must not touch."""
    words = short(name, 33).replace("_", "_ ")
    return "\n".join(
        line.replace("_ ", "_") for line in textwrap.wrap(words, 11, max_lines=3, placeholder="…")
    )


def _box(axes: Axes, values: Floats, x: float, side: str, *, points: bool) -> None:
    if not len(values):
        return
    look = style.SIDES[side]
    few = len(values) <= (FEW if points else _NO_BOX - 1)
    if len(values) < _NO_BOX:
        axes.plot(
            (x - 0.13, x + 0.13), [np.median(values)] * 2, color=look.colour, lw=1.3, gid=f"median-{side}"
        )
        axes.plot(
            x + jitter(len(values), 0.2), values, ls="", marker=look.marker, ms=3.5, mew=0, color=look.colour
        )
        return
    edge = {"color": look.colour, "lw": 1.0}
    drawn = axes.boxplot(
        [values], positions=[x], widths=0.32, patch_artist=True, whis=1.5, showfliers=not few,
        manage_ticks=False, boxprops={"facecolor": _pale(look.colour), "edgecolor": look.colour, "lw": 1.0},
        medianprops={"color": "black", "lw": 1.3}, whiskerprops=edge, capprops=edge,
        flierprops={"marker": ".", "ms": 2.5, "mec": look.colour},
    )  # fmt: skip
    drawn["medians"][0].set_gid(f"median-{side}")
    if few:
        axes.plot(
            x + jitter(len(values), 0.2), values, ls="", marker=look.marker, ms=2.2, mew=0,
            color=look.colour, alpha=0.75,
        )  # fmt: skip


@dataclass(frozen=True)
class Line:
    """The mean profile of a group, or of a side."""

    name: str
    look: style.Look
    at: Floats
    """(k,)"""
    mean: Floats
    half: Floats
    """Half the interval (k,); NaN for fewer than two people."""
    n: NDArray[np.int_]
    """People (k,)."""


@dataclass(frozen=True)
class LinePanel:
    """Profiles that share axes."""

    title: str
    lines: Sequence[Line]


def mean_profile(name: str, look: style.Look, at: Floats, values: Floats) -> Line:
    """Mean over people with its 95 % interval by Student's t.

    Args:
        name: of the group or side.
        look: how it is drawn.
        at: positions (k,).
        values: (people, k), NaN where there is none.
    """
    known = np.isfinite(values)
    n = known.sum(0)
    mean = np.divide(np.where(known, values, 0).sum(0), n, out=np.full(n.shape, np.nan), where=n > 0)
    square = np.where(known, (values - mean) ** 2, 0).sum(0)
    variance = np.divide(square, n - 1, out=np.full(n.shape, np.nan), where=n > 1)
    half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * np.sqrt(variance / np.maximum(n, 1))
    return Line(name, look, at, mean, np.asarray(half), n)


def profiles(panels: Sequence[LinePanel], along: str, measure: str) -> Figure:
    """Mean profiles with the 95 % interval of the mean, n in the title of each panel.

    Args:
        panels: by structure, and by side where there are groups.
        along: words and unit of the positions.
        measure: words and unit of the values.
    """
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(max(WIDTH_INCH * columns / 4, 4.2), 2.2 * rows + 0.6)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            for one in panel.lines:
                axes.fill_between(one.at, one.mean - one.half, one.mean + one.half,
                                  color=one.look.colour, alpha=0.2, lw=0)  # fmt: skip
                axes.plot(one.at, one.mean, one.look.line, color=one.look.colour, lw=1.4, label=one.name)
            counts = ", ".join(f"{short(one.name, 10)} {_range(one.n)}" for one in panel.lines)
            axes.set_title(f"{short(panel.title, 34)}\nn {short(counts, 44)}", fontsize=7.5)
        hide_unused(grid, len(panels))
        figure.supxlabel(along, fontsize=9)
        figure.supylabel(measure, fontsize=9)
        looks = {one.name: one.look for panel in panels for one in panel.lines}
        handles = [
            Line2D([], [], ls=look.line, color=look.colour, label=f"{short(name, 40)} (95 % CI)")
            for name, look in looks.items()
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return figure


def _range(n: NDArray[np.int_]) -> str:
    some = n[n > 0]
    if not len(some):
        return "0"
    return f"{some.min()}" if some.min() == some.max() else f"{some.min()}-{some.max()}"


@dataclass(frozen=True)
class Stage:
    """A box of a flow: who is here, and who left before it, for what."""

    words: str
    n: int
    left: Sequence[tuple[str, int]] = ()
    """Reason and count of those who were left out on the way to this box."""


def flow(stages: Sequence[Stage], what: str) -> Figure:
    """Boxes from top to bottom, with those left out to the right, as in a CONSORT diagram.

    Args:
        stages: in their order; the first has nobody left out.
        what: who is counted: `sessions`, `participants`.
    """
    heights = [0.42 + (0.3 + 0.2 * sum(len(_lines(one)) for one in stage.left) if stage.left else 0.25)
               for stage in stages]  # fmt: skip
    heights[0] = 0.5
    total = sum(heights) + 0.1
    with style.style():
        figure = style.new_figure(7.2, total, layout="none")
        axes = figure.add_axes((0, 0, 1, 1), frameon=False, xlim=(0, 7.2), ylim=(total, 0))
        axes.set_axis_off()
        top = 0.0
        for i, (stage, height) in enumerate(zip(stages, heights, strict=True)):
            bottom = top + height
            y = bottom - 0.24
            _frame(axes, 0.15, y - 0.2, 3.0, 0.4)
            axes.text(1.65, y, f"{short(stage.words, 44)}: {stage.n}", ha="center", va="center", fontsize=8.5)
            if i:
                axes.annotate("", (1.65, y - 0.21), (1.65, top - 0.03), arrowprops={"arrowstyle": "->"})
            if stage.left:
                lines = [line for one in stage.left for line in _lines(one)]
                tall = 0.16 + 0.2 * len(lines)
                middle = (top + y - 0.21) / 2
                _frame(axes, 3.4, middle - tall / 2, 3.65, tall)
                axes.text(3.5, middle, "\n".join(lines), va="center", fontsize=7.5, linespacing=1.25)
                axes.annotate("", (3.38, middle), (1.65, middle), arrowprops={"arrowstyle": "->"})
            top = bottom
        figure.set_gid(what)
    return figure


def _lines(left: tuple[str, int]) -> list[str]:
    return textwrap.wrap(f"{left[1]}: {short(left[0], 150)}", 58, subsequent_indent="    ") or [""]


def _frame(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06",
                       facecolor="#f4f6f8", edgecolor="#57606a", lw=0.8)
    )  # fmt: skip
