"""What is looked at in a session: which voxels, which slices, and pictures of volumes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.images import Grid
from somite.report import canvas
from somite.report.album import Picture, Section
from somite.report.canvas import Bar, Entry, Outline, Panel, Pixels, Sheet, Window
from somite.report.slices import Box, Cut, Greys, Plane, View, box_around, chosen, cropped, greys_of

Volume = NDArray[np.floating[Any]]
Draw = Callable[[Cut], Pixels]

CONVENTION = (
    "Radiological convention: letters at the edges are read from the image's affine; in axial and coronal "
    "slices the patient's right is on the left."
)


@dataclass(frozen=True)
class Scene:
    """A part of the grid, and slices through it."""

    box: Box
    view: View
    """Of the voxels of the box."""
    cuts: tuple[Cut, ...]

    @property
    def caption(self) -> str:
        """Convention, and how far the slices are from the planes of the body where they are."""
        tilts = {cut.plane: self.view.tilt(cut.plane) for cut in self.cuts}
        leaning = [f"{plane} by {tilt:.0f}°" for plane, tilt in tilts.items() if tilt >= 0.5]
        words = f" Slices are those of the voxels, tilted: {', '.join(leaning)}." if leaning else ""
        return CONVENTION + words

    def of(self, plane: Plane) -> Scene:
        """The same with the slices of one plane only."""
        return Scene(self.box, self.view, tuple(cut for cut in self.cuts if cut.plane == plane))

    def seen(self, volume: NDArray[Any]) -> NDArray[Any]:
        """All values (n,) of a volume (i, j, k) of the whole grid that lie in a slice."""
        part = volume[self.box]
        return np.concatenate([self.view.take(part, cut).ravel() for cut in self.cuts])

    def panels(
        self, draw: Draw, outlines: Callable[[Cut], Sequence[Outline]] | None = None
    ) -> tuple[Panel, ...]:
        """Every slice as `draw` gives its pixels."""
        made = []
        for cut in self.cuts:
            down, along = self.view.steps(cut.plane)
            voxels = (int(np.abs(down) @ self.view.grid.shape), int(np.abs(along) @ self.view.grid.shape))
            height, width = self.view.pixel_mm(cut.plane)
            made.append(
                Panel(
                    draw(cut),
                    voxels[0] * height,
                    voxels[1] * width,
                    self.view.described(cut),
                    self.view.marks(cut.plane),
                    () if outlines is None else tuple(outlines(cut)),
                    voxels,
                )
            )
        return tuple(made)

    def drawing(self, volume: Volume, limits: Window, colours: str) -> Draw:
        """Colours of the values of a volume (i, j, k) of the whole grid."""
        part = volume[self.box]
        return lambda cut: canvas.coloured(self.view.take(part, cut), limits, colours)

    def greys(self, volume: Volume, greys: Greys) -> Draw:
        """Greys of the signal of a volume (i, j, k) of the whole grid."""
        part = volume[self.box]
        return lambda cut: canvas.grey(self.view.take(part, cut), greys)


def scene_of(
    grid: Grid,
    inside: NDArray[np.bool_],
    labels: NDArray[Any] | None,
    counts: Mapping[Plane, int],
    margin_mm: float,
) -> Scene:
    """The voxels around what is inside, and the slices that show the labels best, or what is inside.

    Args:
        grid: of the volumes.
        inside: (i, j, k), what the pictures are cut to.
        labels: (i, j, k), or None.
        counts: slices of each plane.
        margin_mm: around what is inside.
    """
    box = box_around(inside, grid.voxel_mm, margin_mm)
    view = View(cropped(grid, box))
    part = None if labels is None else labels[box]
    return Scene(box, view, tuple(chosen(view, counts, inside[box], part)))


def overview(counts: Mapping[Plane, int], most: int = 3) -> dict[Plane, int]:
    """Of the slices of each plane so many that there are at most `most` of all, plane by turns."""
    left, taken = dict(counts), dict.fromkeys(counts, 0)
    while sum(taken.values()) < most and any(left.values()):
        for plane in counts:
            if left[plane] and sum(taken.values()) < most:
                left[plane] -= 1
                taken[plane] += 1
    return {plane: count for plane, count in taken.items() if count}


@dataclass(frozen=True)
class About:
    """The words of a picture."""

    name: str
    section: Section
    title: str
    alt: str
    caption: str


def picture(
    about: About,
    scene: Scene,
    panels: Sequence[Panel],
    *,
    legend: Sequence[Entry] = (),
    bar: Bar | None = None,
    pair: str | None = None,
) -> Picture:
    """Panels as one picture."""
    png = canvas.draw(Sheet(panels, legend, bar))
    words = f"{about.caption} {scene.caption}"
    return Picture(about.name, about.section, about.title, about.alt, words, {f"{about.name}.png": png}, pair)


def map_picture(
    about: About, scene: Scene, volume: Volume, limits: Window, colours: str, unit: str
) -> Picture:
    """A map with its colour bar."""
    panels = scene.panels(scene.drawing(volume, limits, colours))
    return picture(about, scene, panels, bar=Bar(unit, limits, colours))


def before_and_after(
    about: About, scene: Scene, before: Volume, after: Volume, words: tuple[str, str]
) -> list[Picture]:
    """Two pictures of the same slices with the same greys, to be flickered.

    Args:
        about: the words of both; names get `-before` and `-after`.
        scene: the slices.
        before: volume (i, j, k).
        after: volume (i, j, k).
        words: what each of the two is called.
    """
    greys = greys_of(scene.seen(before))
    made = []
    for volume, moment, name in zip((before, after), ("before", "after"), words, strict=True):
        own = About(
            f"{about.name}-{moment}",
            about.section,
            f"{about.title}: {moment}",
            f"{about.alt}, {name}",
            f"{about.caption} Here {name}; both pictures have the same slices and greys.",
        )
        pair = f"{about.name}-before" if moment == "after" else None
        made.append(picture(own, scene, scene.panels(scene.greys(volume, greys)), pair=pair))
    return made
