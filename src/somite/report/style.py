"""The one style of all figures: rc, colours that the colour-blind tell apart, and how figures are saved.

Categories have the colours of Okabe and Ito (Color Universal Design, 2008), maps cividis, viridis or RdBu.
Left and right have one look everywhere: a light and a dark colour, and lines and markers of their own, so
that a print in grey tells them apart too.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from somite.files import beside

OKABE_ITO: Mapping[str, str] = MappingProxyType(
    {
        "black": "#000000",
        "orange": "#E69F00",
        "sky": "#56B4E9",
        "green": "#009E73",
        "yellow": "#F0E442",
        "blue": "#0072B2",
        "vermilion": "#D55E00",
        "purple": "#CC79A7",
    }
)
GREY = "#666666"


class Look(NamedTuple):
    """How a category is drawn, in colour and without."""

    colour: str
    line: str
    marker: str


SIDES: Mapping[str, Look] = MappingProxyType(
    {
        "L": Look(OKABE_ITO["blue"], "-", "o"),
        "R": Look(OKABE_ITO["orange"], "--", "s"),
        "midline": Look(GREY, "-.", "D"),
        "": Look(GREY, "-.", "D"),
    }
)
"""Side of a segment -> its look, everywhere."""
SIDE_NAMES: Mapping[str, str] = MappingProxyType({"L": "left", "R": "right", "midline": "midline", "": ""})
GROUPS: tuple[Look, ...] = (
    Look(OKABE_ITO["green"], "-", "o"),
    Look(OKABE_ITO["vermilion"], "--", "^"),
    Look(OKABE_ITO["purple"], "-.", "D"),
    Look(OKABE_ITO["black"], ":", "v"),
)
"""Groups of people, in their order: other colours than the sides."""

REGION_CYCLE: tuple[str, ...] = tuple(
    OKABE_ITO[name] for name in ("yellow", "sky", "vermilion", "green", "purple", "orange")
)
"""Colours of regions: those that show on a dark image."""
_REGIONS: Mapping[str, str] = MappingProxyType(
    {
        "nerve_root": OKABE_ITO["yellow"],
        "disc": OKABE_ITO["sky"],
        "canal": OKABE_ITO["purple"],
        "multifidus": OKABE_ITO["vermilion"],
        "erector_spinae": OKABE_ITO["green"],
        "psoas_major": OKABE_ITO["orange"],
    }
)

MAGNITUDE_MAP = "cividis"
"""Colours of values from low to high."""
SIGNED_MAP = "RdBu_r"
"""Colours of values on both sides of 0."""

RC: Mapping[Any, Any] = MappingProxyType(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.formatter.useoffset": False,
        "axes.grid": False,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        # Names of labels and groups are text, dollar signs and all.
        "text.parse_math": False,
        "lines.linewidth": 1.5,
        "lines.markersize": 4,
        "image.interpolation": "none",
        "image.origin": "upper",
        "image.cmap": MAGNITUDE_MAP,
        "figure.dpi": 100,
        "savefig.dpi": 150,
        "savefig.facecolor": "white",
        # Letters are drawn as paths: nothing depends on a font of the reader's machine.
        "svg.fonttype": "path",
        "svg.hashsalt": "somite",
        # Letters of a PDF are outlines as well, and no font has to be cut to size.
        "pdf.fonttype": 3,
    }
)
"""Settings of matplotlib, on top of its own defaults and of nobody's file."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def new_figure(width_inch: float, height_inch: float, **options: Any) -> Figure:
    """An empty figure that belongs to no window; call it, and draw, inside `style()`."""
    figure = Figure(figsize=(width_inch, height_inch), **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure


def region_colours(regions: Iterable[str]) -> dict[str, str]:
    """Region -> colour: those of the spine have fixed ones, others take turns in alphabetical order.

    With more regions than colours, colours come again: a picture tells such regions apart by numbers.
    """
    names = sorted(set(regions))
    others = [name for name in names if name not in _REGIONS]
    turns = {name: REGION_CYCLE[i % len(REGION_CYCLE)] for i, name in enumerate(others)}
    return {name: _REGIONS.get(name) or turns[name] for name in names}


FORMATS = ("svg", "pdf", "png")
# What a writer would put in by itself: the time, and its own name.
_METADATA: Mapping[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def settle(figure: Figure) -> None:
    """Lay a figure out, once: each format would do it again, and move everything by a hair."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def encoded(figure: Figure, extension: str) -> bytes:
    """A figure in one of `FORMATS`. Equal figures give equal bytes: no file tells its time."""
    into = io.BytesIO()
    with style():
        settle(figure)
        figure.savefig(into, format=extension, metadata=_METADATA[extension])
    return into.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as name.svg, name.pdf and name.png; returns their paths."""
    paths = [folder / f"{name}.{extension}" for extension in FORMATS]
    for path, extension in zip(paths, FORMATS, strict=True):
        with beside(path) as draft:
            draft.write_bytes(encoded(figure, extension))
    return paths
