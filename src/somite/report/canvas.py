"""Slices side by side at their true proportions, with outlines, marks, a legend and a colour bar, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from somite.report import style
from somite.report.slices import Greys, Marks

WIDTH = 1080
"""Pixels of the widest row."""
_TALLEST = 460
_GAP = 6
_LARGEST_VOXEL = 24
_DPI = 100
_NAME_LETTERS = 34
_LETTER_PX, _LINE_PX = 6.4, 19
_BAR_PX = 96
_UNKNOWN = (58, 58, 58)

Pixels = NDArray[np.uint8]
Window = tuple[float, float]


@dataclass(frozen=True)
class Outline:
    """The border of a segment in a slice."""

    polygons: Sequence[NDArray[np.int_]]
    """Corners (n, 2), x and y in voxels of the slice."""
    colour: str
    line: Any = "-"
    label: str = ""
    """A few letters that stand at the segment."""
    at: tuple[float, float] = (0.0, 0.0)
    """x and y of the point of the segment that lies deepest in it."""
    depth: float = 0.0
    """How deep it lies: distance to the border, voxels."""


@dataclass(frozen=True)
class Panel:
    """One slice."""

    pixels: Pixels
    """(rows, columns, 3), each a voxel or a part of one."""
    height_mm: float
    width_mm: float
    text: str
    marks: Marks
    outlines: Sequence[Outline] = ()
    voxels: tuple[int, int] = (0, 0)
    """Rows and columns of voxels, in which the outlines are given."""


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    name: str
    colour: str
    line: Any = "-"


@dataclass(frozen=True)
class Bar:
    """The colour bar: what the colours of the panels mean."""

    label: str
    window: Window
    colours: str


@dataclass(frozen=True)
class Sheet:
    """Panels that make one picture."""

    panels: Sequence[Panel]
    legend: Sequence[Entry] = ()
    bar: Bar | None = None
    columns: int = 3
    """Panels that a row has room for at least."""


def grey(values: NDArray[Any], greys: Greys) -> Pixels:
    """A signal (rows, columns) as greys (rows, columns, 3)."""
    low, high = greys.limits
    part = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    return coloured(part**greys.power, (0.0, 1.0))


def coloured(values: NDArray[Any], limits: Window, colours: str = "gray") -> Pixels:
    """Values (rows, columns) as colours (rows, columns, 3); dark grey where there is none (NaN)."""
    scaled = (np.asarray(values, np.float64) - limits[0]) / (limits[1] - limits[0])
    known = np.isfinite(scaled)
    table = (matplotlib.colormaps[colours](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)
    index = (np.clip(np.where(known, scaled, 0), 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = table[index]
    pixels[~known] = _UNKNOWN
    return np.asarray(pixels, np.uint8)


def short(name: str, letters: int = _NAME_LETTERS) -> str:
    """A name that fits; what was cut off is an ellipsis."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


@dataclass(frozen=True)
class _Place:
    panel: Panel
    x: int
    y: int
    width: int
    height: int


def scale_of(panels: Sequence[Panel], columns: int) -> float:
    """Pixels per mm at which `columns` of the widest panel fill a row, and none is too tall or too coarse."""
    room = (WIDTH - _GAP * (columns - 1)) / columns
    widest, tallest = max(p.width_mm for p in panels), max(p.height_mm for p in panels)
    voxel_mm = min(min(p.width_mm / p.voxels[1], p.height_mm / p.voxels[0]) for p in panels)
    return min(room / widest, _TALLEST / tallest, _LARGEST_VOXEL / voxel_mm)


def laid_out(panels: Sequence[Panel], columns: int) -> tuple[list[_Place], int, int]:
    """Where each panel lies, in rows from the top left; and the width and height of all, pixels."""
    scale = scale_of(panels, columns)
    places: list[_Place] = []
    x = y = tallest = widest = 0
    for panel in panels:
        width, height = max(1, round(panel.width_mm * scale)), max(1, round(panel.height_mm * scale))
        if x and x + width > WIDTH:
            x, y, tallest = 0, y + tallest + _GAP, 0
        places.append(_Place(panel, x, y, width, height))
        x, tallest, widest = x + width + _GAP, max(tallest, height), max(widest, x + width)
    return places, widest, y + tallest


def enlarged(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pixels repeated, none mixed with another."""
    rows = ((np.arange(height) + 0.5) * pixels.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * pixels.shape[1] / width).astype(int)
    return np.asarray(pixels[np.ix_(rows, columns)])


def draw(sheet: Sheet) -> bytes:
    """The picture of a sheet as PNG. Equal sheets give equal bytes."""
    places, panels_width, panels_height = laid_out(sheet.panels, min(sheet.columns, len(sheet.panels)))
    names = [short(entry.name) for entry in sheet.legend]
    entry_px = max((len(name) for name in names), default=0) * _LETTER_PX + 48
    width = max(panels_width, min(WIDTH, math.ceil(entry_px)), 320) + (_BAR_PX if sheet.bar else 0)
    per_row = max(1, int(width // entry_px))
    legend_px = math.ceil(len(names) / per_row) * _LINE_PX + 10 if names else 0
    height = panels_height + legend_px
    canvas = np.zeros((height, width, 3), np.uint8)
    for one in places:
        canvas[one.y : one.y + one.height, one.x : one.x + one.width] = enlarged(
            one.panel.pixels, one.height, one.width
        )
    with style.style():
        figure = style.new_figure(width / _DPI, height / _DPI, layout="none", dpi=_DPI, facecolor="black")
        figure.figimage(canvas, resize=False, zorder=-1)
        axes = figure.add_axes((0, 0, 1, 1), frameon=False, xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for one in places:
            _draw_outlines(axes, one)
            _draw_texts(axes, one)
        if names:
            _draw_legend(figure, sheet.legend, names, per_row)
        if sheet.bar is not None:
            _draw_bar(figure, sheet.bar, width, height, panels_height)
        return png(figure)


def _draw_outlines(axes: Any, place: _Place) -> None:
    rows, columns = place.panel.voxels
    by_voxel = np.array([place.width / max(columns, 1), place.height / max(rows, 1)])
    for one in place.panel.outlines:
        lines = [polygon * by_voxel + (place.x, place.y) for polygon in one.polygons]
        axes.add_collection(LineCollection(lines, colors="black", linewidths=2.0, alpha=0.55))
        axes.add_collection(LineCollection(lines, colors=one.colour, linewidths=1.1, linestyles=[one.line]))
    for one, (x, y) in _label_places(place, by_voxel):
        axes.text(x, y, one.label, color="white", fontsize=7, ha="center", va="center", path_effects=_HALO)


def _label_places(
    place: _Place, by_voxel: NDArray[np.float64]
) -> Iterator[tuple[Outline, tuple[float, float]]]:
    """Where labels stand: within a segment that has the room, else beside it, away from the middle."""
    for one in place.panel.outlines:
        if not one.label:
            continue
        x, y = one.at * by_voxel
        need = 4 + 3 * len(one.label)
        if one.depth * by_voxel.min() < need:
            corners = np.concatenate([p for p in one.polygons if _holds(p, one.at)] or one.polygons)
            outward = 1 if x > place.width / 2 else -1
            edge = corners[:, 0].max() if outward > 0 else corners[:, 0].min()
            x = edge * by_voxel[0] + outward * need
        yield (
            one,
            (
                float(np.clip(x, need, place.width - need)) + place.x,
                float(np.clip(y, 7, place.height - 7)) + place.y,
            ),
        )


def _holds(polygon: NDArray[np.int_], at: tuple[float, float]) -> bool:
    """Whether a point lies in the box around a polygon."""
    return bool((polygon.min(0) <= at).all() and (at <= polygon.max(0)).all())


_HALO = [withStroke(linewidth=2, foreground="black")]


def _draw_texts(axes: Any, place: _Place) -> None:
    marks, middle = place.panel.marks, (place.x + place.width / 2, place.y + place.height / 2)
    at = {
        "left": (place.x + 4, middle[1], marks.left, "left", "center"),
        "right": (place.x + place.width - 4, middle[1], marks.right, "right", "center"),
        "top": (middle[0], place.y + 3, marks.top, "center", "top"),
        "bottom": (middle[0], place.y + place.height - 3, marks.bottom, "center", "bottom"),
    }
    for x, y, letter, ha, va in at.values():
        axes.text(x, y, letter, color="white", fontsize=9, weight="bold", ha=ha, va=va, path_effects=_HALO)
    words = place.panel.text
    axes.text(
        place.x + 4, place.y + 3, words, color="white", fontsize=7, ha="left", va="top", path_effects=_HALO
    )


def _draw_legend(figure: Figure, entries: Sequence[Entry], names: Sequence[str], columns: int) -> None:
    handles = [
        Line2D([], [], color=entry.colour, linestyle=entry.line, linewidth=2, label=name)
        for entry, name in zip(entries, names, strict=True)
    ]
    figure.legend(
        handles=handles, loc="lower left", ncols=columns, labelcolor="white", handlelength=2.2,
        columnspacing=1.2, borderaxespad=0.3, borderpad=0.2, labelspacing=0.45,
    )  # fmt: skip


def _draw_bar(figure: Figure, bar: Bar, width: int, height: int, panels_height: int) -> None:
    long = min(panels_height - 24, 260)
    bottom = 1 - (12 + long) / height
    axes = figure.add_axes(((width - _BAR_PX + 10) / width, bottom, 14 / width, long / height))
    colours = ScalarMappable(Normalize(*bar.window), matplotlib.colormaps[bar.colours])
    made = figure.colorbar(colours, cax=axes)
    made.set_label(bar.label, color="white", fontsize=8)
    made.outline.set_edgecolor("white")
    axes.tick_params(colors="white", labelsize=7)


def png(figure: Figure) -> bytes:
    """A drawn figure as PNG of few bytes."""
    canvas: Any = figure.canvas
    with style.style():
        canvas.draw()
    return png_of(np.asarray(canvas.buffer_rgba())[..., :3])


def png_of(pixels: Pixels) -> bytes:
    """Pixels (rows, columns, 3) as PNG, nothing lost: one channel where all of them are grey."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if not np.ptp(pixels, axis=2).any():
        image = image.convert("L")
    into = io.BytesIO()
    image.save(into, format="PNG", compress_level=6)
    return into.getvalue()


def smaller(data: bytes, colours: int, scale: float) -> bytes:
    """A PNG with so many colours at most, none mixed with another, and its sides scaled."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BOX)
    image = image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    into = io.BytesIO()
    image.save(into, format="PNG", compress_level=6)
    return into.getvalue()
