"""Segments as outlines: which colour, line and number each has, the same in all pictures of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.colors
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from somite.report import style
from somite.report.canvas import Entry, Outline
from somite.report.slices import outline
from somite.segments import Label

_DASHES: dict[str, Any] = {"L": "-", "R": (0, (3.0, 1.4)), "midline": (0, (1.2, 1.0)), "": "-"}
_LINE_NAMES = (
    ("left: full line", "L"),
    ("right: dashed", "R"),
    ("midline: dotted", "midline"),
)
_PALEST = 0.55


@dataclass(frozen=True)
class Key:
    """How the labels of a session are drawn."""

    labels: tuple[Label, ...]
    numbers: dict[tuple[str, str], int]
    """Region and level -> number, counted in the order of the table."""
    colours: dict[tuple[str, str], str]

    def colour(self, label: Label) -> str:
        """Its region's colour, paler from level to level."""
        return self.colours[label.segment.region, label.segment.level]

    def number(self, label: Label) -> int:
        """The number of its region and level."""
        return self.numbers[label.segment.region, label.segment.level]

    def outlines(self, labels: NDArray[np.integer[Any]]) -> list[Outline]:
        """Outlines of a slice of labels (rows, columns), the number at the largest of each side."""
        made: list[Outline] = []
        named: dict[tuple[int, str], tuple[int, int]] = {}
        counts = dict(zip(*(a.tolist() for a in np.unique(labels, return_counts=True)), strict=True))
        for label in self.labels:
            if not (count := counts.get(label.index, 0)):
                continue
            side = label.segment.side
            place = (self.number(label), side)
            if count > named.get(place, (0, 0))[0]:
                named[place] = (count, len(made))
            mask = labels == label.index
            (x, y), depth = deepest(mask)
            made.append(Outline(outline(mask), self.colour(label), _DASHES[side], at=(x, y), depth=depth))
        shown = {where: str(number) for (number, _), (_, where) in named.items()}
        return [replace(one, label=shown.get(i, "")) for i, one in enumerate(made)]

    def legend(self, slices: Iterable[NDArray[np.integer[Any]]]) -> list[Entry]:
        """What the colours, numbers and lines mean, of the labels that some slices show."""
        there = {int(value) for one in slices for value in np.unique(one)}
        shown = [label for label in self.labels if label.index in there]
        entries: dict[int, Entry] = {}
        for label in shown:
            number = self.number(label)
            name = f"{number}  {label.segment.region} {label.segment.level}".rstrip()
            entries[number] = Entry(name, self.colour(label))
        sides = {label.segment.side for label in shown}
        lines = [Entry(words, "white", _DASHES[side]) for words, side in _LINE_NAMES if side in sides]
        return [entries[number] for number in sorted(entries)] + lines


def key_of(table: Sequence[Label], left_out: Sequence[str] = ()) -> Key:
    """Numbers and colours of the labels of a table, without some regions."""
    labels = tuple(label for label in table if label.segment.region not in left_out)
    places = list(dict.fromkeys((label.segment.region, label.segment.level) for label in labels))
    by_region = style.region_colours(region for region, _ in places)
    colours = {}
    for region, level in places:
        levels = [other for name, other in places if name == region]
        part = levels.index(level) / max(len(levels) - 1, 1) * _PALEST
        colours[region, level] = paler(by_region[region], part)
    return Key(labels, {place: i for i, place in enumerate(places, start=1)}, colours)


def deepest(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], float]:
    """x and y of the pixel that lies deepest in a mask (rows, columns), and how deep, pixels."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return (float(column) + 0.5, float(row) + 0.5), float(depth.max()) - 0.5


def paler(colour: str, part: float) -> str:
    """A colour mixed with so much white."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return str(matplotlib.colors.to_hex(tuple(rgb + (1 - rgb) * part)))
