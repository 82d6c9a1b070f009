"""Figures of analyses: forest plots, ROC curves, Bland-Altman, correlations, adjusted means, calibration."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from somite.report import style
from somite.report.canvas import short
from somite.report.cohort_figures import hide_unused

Floats = NDArray[np.float64]
FOUND, NOT_FOUND = style.OKABE_ITO["vermilion"], style.OKABE_ITO["blue"]
_BAND = "#dddddd"


@dataclass(frozen=True)
class Estimate:
    """An estimate with its interval."""

    name: str
    value: float
    low: float
    high: float
    n: str = ""
    p: float = math.nan
    """Corrected."""
    found: bool = False
    """Whether its corrected p is below alpha."""


@dataclass(frozen=True)
class Scale:
    """What the axis of estimates is."""

    label: str
    """With its unit."""
    nothing: float | None = None
    """The value of no effect."""
    log: bool = False


def forest(columns: Sequence[tuple[Scale, Sequence[Estimate]]]) -> Figure:
    """Estimates with intervals, one below the other; further columns show others of the same rows.

    Args:
        columns: axis and estimates (the same rows in each; NaN where there is none). n and p stand at the
            right, as in the first column.
    """
    rows = columns[0][1]
    longest = max(len(short(one.name, 46)) for one in rows)
    counts = max(len(one.n) for one in rows)
    with style.style():
        widths = [2.7] * len(columns) + [0.9 + 0.065 * max(counts, 4)]
        figure = style.new_figure(0.068 * longest + sum(widths) + 0.3, 0.235 * len(rows) + 1.15)
        *grid, beside = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axes, (scale, estimates) in zip(grid, columns, strict=True):
            _forest_column(axes, scale, estimates)
        grid[0].set_yticks(range(len(rows)), [short(one.name, 46) for one in rows])
        grid[0].set_ylim(len(rows) - 0.4, -1.1)
        beside.set_axis_off()
        beside.set_xlim(0, widths[-1])
        at = widths[-1] - 0.85
        for y, one in enumerate(rows):
            beside.text(0, y, one.n, va="center", fontsize=7.5)
            beside.text(at, y, p_text(one.p), va="center", fontsize=7.5)
        beside.text(0, -0.8, "n", va="center", fontsize=7.5, weight="bold")
        if any(math.isfinite(one.p) for one in rows):
            beside.text(at, -0.8, "p corrected", va="center", fontsize=7.5, weight="bold")
    return figure


class _PlainNumbers(LogFormatter):
    """The ticks that matplotlib would name, as 0.5 and 10: figures read no mathematical notation."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The name of a tick; nothing for one that is left bare."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def _forest_column(axes: Axes, scale: Scale, estimates: Sequence[Estimate]) -> None:
    if scale.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_PlainNumbers())
        axes.xaxis.set_minor_formatter(_PlainNumbers(labelOnlyBase=False))
    if scale.nothing is not None:
        axes.axvline(scale.nothing, color="#888888", lw=0.9, zorder=0, gid="nothing")
    for y, one in enumerate(estimates):
        if not math.isfinite(one.value) or (scale.log and one.low <= 0):
            continue
        colour = FOUND if one.found else NOT_FOUND
        axes.plot((one.low, one.high), (y, y), color=colour, lw=1.3, solid_capstyle="butt", gid="interval")
        axes.plot(one.value, y, marker="D" if one.found else "o", color=colour, ms=4.5, gid="estimate")
    axes.set_xlabel(scale.label)
    if not scale.log:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def p_text(p: float) -> str:
    """A p-value in three digits; nothing where there is none."""
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True)
class Roc:
    """A marker and what it is to tell."""

    name: str
    score: Floats
    """(n,) Higher with the event."""
    event: NDArray[np.bool_]
    """(n,)"""
    area: Estimate
    cut: float = math.nan
    """Cut-off on the score; NaN where there is none."""
    cut_text: str = ""


def roc_points(score: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """False and true positive rates, and thresholds, of the whole curve from (0, 0) to (1, 1).

    A person is called positive with a score at or above the threshold; ties make slanted steps.
    """
    levels = np.concatenate([[np.inf], np.unique(score)[::-1]])
    up, down = np.sort(score[event]), np.sort(score[~event])
    true = 1 - np.searchsorted(up, levels, "left") / len(up)
    false = 1 - np.searchsorted(down, levels, "left") / len(down)
    return false, true, levels


def area_under(false: Floats, true: Floats) -> float:
    """Area by trapezes."""
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def roc(curves: Sequence[Roc]) -> Figure:
    """ROC curves, a panel each, with the area, its interval and the cut-off."""
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    with style.style():
        figure = style.new_figure(3.0 * columns, 3.25 * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, one in zip(grid.ravel(), curves, strict=False):
            false, true, _ = roc_points(one.score, one.event)
            axes.plot((0, 1), (0, 1), color="#aaaaaa", lw=0.8, ls=":")
            axes.plot(false, true, color=NOT_FOUND, lw=1.6, gid="curve")
            if math.isfinite(one.cut):
                at = (
                    float((one.score[~one.event] > one.cut).mean()),
                    float((one.score[one.event] > one.cut).mean()),
                )
                axes.plot(*at, "D", color=FOUND, ms=6, gid="cut-off")
                axes.text(0.97, 0.17, one.cut_text, ha="right", fontsize=7, color=FOUND)
            area = one.area
            axes.text(0.97, 0.04, f"AUC {area.value:.3f}\n({area.low:.3f} to {area.high:.3f})",
                      ha="right", va="bottom", fontsize=7.5)  # fmt: skip
            axes.set_title(
                f"{short(one.name, 38)}\nn = {int(one.event.sum())} with, {int((~one.event).sum())} without"
            )
            axes.set_aspect("equal")
        hide_unused(grid, len(curves))
        figure.supxlabel("1 - specificity", fontsize=9)
        figure.supylabel("sensitivity", fontsize=9)
    return figure


@dataclass(frozen=True)
class Agreement:
    """Two measurements of the same people, and the limits of their agreement."""

    name: str
    first: Floats
    second: Floats
    lines: Sequence[Estimate]
    """Bias, lower and upper limit with their intervals."""
    names: tuple[str, str]


def bland_altman(panels: Sequence[Agreement], measure: str) -> Figure:
    """Differences against means, with bias and limits of agreement and their intervals."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(3.3 * columns, 2.9 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, one in zip(grid.ravel(), panels, strict=False):
            axes.axhline(0, color="#888888", lw=0.7, ls=":")
            for i, line in enumerate(one.lines):
                axes.axhspan(line.low, line.high, color=_BAND, alpha=0.6, lw=0, gid="interval")
                axes.axhline(
                    line.value, color=FOUND if i else "black", lw=1.2, ls="--" if i else "-", gid="line"
                )
            axes.plot((one.first + one.second) / 2, one.first - one.second, "o", ms=3.5, mew=0,
                      color=NOT_FOUND, alpha=0.8, gid="people")  # fmt: skip
            axes.set_title(f"{short(one.name, 40)}\nn = {len(one.first)}")
            axes.set_xlabel(f"mean of both, {measure}", fontsize=8)
            axes.set_ylabel(f"{short(one.names[0], 14)} - {short(one.names[1], 14)}", fontsize=8)
        hide_unused(grid, len(panels))
        figure.legend(
            handles=[
                Line2D([], [], color="black", label="bias"),
                Line2D([], [], color=FOUND, ls="--", label="limits of agreement"),
                Line2D([], [], color=_BAND, lw=6, label="their intervals"),
            ],
            loc="outside upper center",
            ncols=3,
        )
    return figure


def heat_map(
    r: Floats, found: NDArray[np.bool_], rows: Sequence[str], columns: Sequence[str], label: str, n: str
) -> Figure:
    """Correlations as colours from -1 to 1; found ones have a star.

    Args:
        r: (rows, columns), NaN where there is none.
        found: (rows, columns) corrected p below alpha.
        rows: names.
        columns: names.
        label: what the colours are.
        n: people, in words.
    """
    tall, wide = r.shape
    large = max(tall, wide) > 26
    side = 0.26 if large else 0.42
    with style.style():
        figure = style.new_figure(
            max(4.6, side * wide + 0.062 * max(len(short(name, 34)) for name in rows) + 1.7),
            max(2.6, side * tall + 0.062 * max(len(short(name, 34)) for name in columns) + 0.9),
        )
        axes = figure.subplots()
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(r, cmap=style.SIGNED_MAP, vmin=-1, vmax=1, aspect="auto")
        axes.set_xticks(range(wide), [short(name, 34) for name in columns], rotation=90, fontsize=7)
        axes.set_yticks(range(tall), [short(name, 34) for name in rows], fontsize=7)
        for i, j in np.ndindex(tall, wide):
            if math.isfinite(r[i, j]) and (not large or found[i, j]):
                words = "*" if large else f"{r[i, j]:.2f}".replace("0.", ".") + ("*" if found[i, j] else "")
                colour = "white" if abs(r[i, j]) > 0.6 else "black"
                axes.text(j, i, words, ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_title(n)
        figure.colorbar(image, label=label, shrink=0.8)
    return figure


@dataclass(frozen=True)
class Scatter:
    """Two variables of the same people."""

    name: str
    x: Floats
    y: Floats
    x_label: str
    y_label: str
    words: str
    """The correlation with its interval and p."""


def scatters(panels: Sequence[Scatter]) -> Figure:
    """Scatter plots with the line of least squares."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(3.1 * columns, 2.9 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, one in zip(grid.ravel(), panels, strict=False):
            many = len(one.x) > 400
            axes.plot(one.x, one.y, "o", ms=3.5, mew=0, color=NOT_FOUND, alpha=0.4 if many else 0.8,
                      rasterized=many, gid="people")  # fmt: skip
            if np.ptp(one.x) > 0:
                ends = np.array([one.x.min(), one.x.max()])
                axes.plot(ends, np.polyval(np.polyfit(one.x, one.y, 1), ends), color=FOUND, lw=1.3)
            axes.set_title(f"{short(one.name, 40)}\n{one.words}, n = {len(one.x)}", fontsize=8)
            axes.set_xlabel(short(one.x_label, 40), fontsize=8)
            axes.set_ylabel(short(one.y_label, 40), fontsize=8)
        hide_unused(grid, len(panels))
    return figure


def means(panels: Sequence[tuple[str, Sequence[Estimate]]], measure: str) -> Figure:
    """Adjusted means of groups with their intervals, a panel for each place."""
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(max(2.1 * columns, 3.2), 2.5 * rows + 0.2)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        names = sorted({one.name for _, groups in panels for one in groups})
        for axes, (name, groups) in zip(grid.ravel(), panels, strict=False):
            for x, one in enumerate(groups):
                look = style.GROUPS[names.index(one.name) % len(style.GROUPS)]
                axes.errorbar(
                    x, one.value, [[one.value - one.low], [one.high - one.value]], color=look.colour,
                    marker=look.marker, ms=6, capsize=3, lw=1.4,
                )  # fmt: skip
            axes.set_xticks(range(len(groups)), [short(one.name, 12) for one in groups])
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.set_title(f"{textwrap.fill(short(name, 60), 26)}\nn = {short(groups[0].n, 20)}", fontsize=8)
        hide_unused(grid, len(panels))
        figure.supylabel(measure, fontsize=9)
    return figure


def calibration(panels: Sequence[tuple[str, Floats, Sequence[Estimate]]]) -> Figure:
    """Share of events against the predicted probability.

    Args:
        panels: name, mean predicted probability (k,), and share of events, of groups of people.
    """
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(3.0 * columns + 0.2, 3.1 * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, predicted, shares) in zip(grid.ravel(), panels, strict=False):
            axes.plot((0, 1), (0, 1), color="#aaaaaa", lw=0.8, ls=":")
            value = np.array([one.value for one in shares])
            low, high = (np.array([getattr(one, end) for one in shares]) for end in ("low", "high"))
            axes.errorbar(predicted, value, np.maximum([value - low, high - value], 0), color=NOT_FOUND,
                          marker="o", ms=4.5, capsize=2, lw=1.3)  # fmt: skip
            axes.set_title(
                f"{short(name, 40)}\nn = {sum(int(one.n) for one in shares)} in {len(shares)} groups"
            )
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.set_aspect("equal")
        hide_unused(grid, len(panels))
        figure.supxlabel("mean predicted probability, cross-validated", fontsize=9)
        figure.supylabel("share of events", fontsize=9)
    return figure


@dataclass(frozen=True)
class Nodes:
    """An effect along a structure, and where its clusters are."""

    name: str
    names: Sequence[str]
    """Of the nodes (k,)."""
    estimates: Sequence[Estimate]
    clusters: Sequence[tuple[int, int, float]] = ()
    """First and last node, and p."""


def along(panels: Sequence[Nodes], label: str, alpha: float) -> Figure:
    """Effects node by node with their intervals; clusters are bars below, red with a p below alpha."""
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.style():
        figure = style.new_figure(max(4.4 * columns, 5.5), 2.6 * rows + 0.2)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, one in zip(grid.ravel(), panels, strict=False):
            at = np.arange(len(one.names))
            value, low, high = (
                np.array([getattr(e, k) for e in one.estimates]) for k in ("value", "low", "high")
            )
            axes.axhline(0, color="#888888", lw=0.8)
            axes.fill_between(at, low, high, color=NOT_FOUND, alpha=0.2, lw=0)
            axes.plot(at, value, color=NOT_FOUND, lw=1.4)
            for first, last, p in one.clusters:
                colour = FOUND if p < alpha else style.GREY
                axes.plot((first - 0.4, last + 0.4), (0.03, 0.03), color=colour, lw=4, solid_capstyle="butt",
                          transform=axes.get_xaxis_transform())  # fmt: skip
                axes.text((first + last) / 2, 0.06, f"p {p_text(p)}", ha="center", va="bottom", fontsize=7,
                          color=colour, transform=axes.get_xaxis_transform())  # fmt: skip
            step = max(1, math.ceil(len(at) / 8))
            axes.set_xticks(
                at[::step], [short(name.removeprefix("node_"), 10) for name in one.names[::step]], fontsize=7
            )
            axes.set_xlabel("node", fontsize=8)
            axes.set_title(f"{short(one.name, 50)}\nn = {short(one.estimates[0].n, 20)}", fontsize=8)
        if any(one.clusters for one in panels):  # room for the bars, which would hide the lowest estimates
            low, high = grid[0, 0].get_ylim()
            grid[0, 0].set_ylim(low - 0.18 * (high - low), high)
        hide_unused(grid, len(panels))
        figure.supylabel(label, fontsize=9)
    return figure
