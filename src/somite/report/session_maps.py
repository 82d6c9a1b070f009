"""Pictures of the maps of a session: noise, tensor, and segments on what they were drawn for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.report import canvas
from somite.report.album import Picture, unmade
from somite.report.anatomy import Anatomy
from somite.report.canvas import Panel
from somite.report.outlines import Key
from somite.report.scene import About, Draw, Scene, Volume, map_picture, picture
from somite.report.slices import PLANES, Cut, greys_of, window

_FA = (0.0, 1.0)
_FA_GREYS = (0.0, 0.8)
_MD = (0.0, 3.0)


def noise(
    scene: Scene, sigma: Volume, b0: Volume, residual: Volume, inside: NDArray[np.bool_]
) -> Iterator[Picture]:
    """The noise, the SNR of b=0, and what the fit left."""
    known = sigma > 0
    snr = np.divide(b0, sigma, out=np.full(sigma.shape, np.nan, np.float32), where=known & inside)
    shown = np.where(known, sigma, np.nan)
    low, high = window(scene.seen(shown), 0.5, 99.5)
    about = About(
        "noise-sigma", "noise", "Noise", "Map of the standard deviation of the noise",
        "Standard deviation of the noise.",
    )  # fmt: skip
    yield map_picture(about, scene, shown, (min(low, 0.0), high), "cividis", "sigma (arbitrary units)")
    about = About(
        "noise-snr", "noise", "SNR at b=0", "Map of the signal-to-noise ratio",
        "Mean b=0 signal over the standard deviation of the noise, in the mask.",
    )  # fmt: skip
    yield map_picture(about, scene, snr, (0.0, window(scene.seen(snr))[1]), "cividis", "SNR (ratio)")
    left = np.where(inside, 100 * residual, np.nan)
    about = About(
        "noise-residual", "noise", "Residual of the tensor fit", "Map of the residual of the tensor fit",
        "Root mean square of what the fit leaves, over the signal at b=0, in the mask.",
    )  # fmt: skip
    yield map_picture(
        about, scene, left, (0.0, window(scene.seen(left), 0, 95)[1]), "cividis", "residual (% of S0)"
    )


def colour_fa(direction: Volume, fa: Volume) -> NDArray[np.uint8]:
    """Colours (i, j, k, 3) of the first eigenvector (i, j, k, 3) in world axes, as bright as FA.

    Red is left to right, green posterior to anterior, blue inferior to superior (Pajevic and Pierpaoli, MRM
    42 (1999) 526).
    """
    part = np.nan_to_num(np.abs(direction) * np.clip(fa, 0, 1)[..., None])
    return (np.clip(part, 0, 1) * 255 + 0.5).astype(np.uint8)


def maps(
    scene: Scene, direction: Volume, fa: Volume, md: Volume, inside: NDArray[np.bool_]
) -> Iterator[Picture]:
    """Colour-FA, FA and MD; `direction` (i, j, k, 3) in world axes, `md` in 1e-3 mm2/s."""
    colours = colour_fa(direction, np.where(inside, fa, 0))[scene.box]
    about = About(
        "maps-colour-fa", "maps", "Direction of the fibres",
        "Colours of the main diffusion direction, as bright as FA",
        "First eigenvector in world axes, as bright as FA: red left to right, green posterior to anterior, "
        "blue inferior to superior.",
    )  # fmt: skip
    yield picture(about, scene, scene.panels(lambda cut: scene.view.take(colours, cut)))
    about = About("maps-fa", "maps", "FA", "Map of fractional anisotropy", "Fractional anisotropy.")
    yield map_picture(about, scene, np.where(inside, fa, np.nan), _FA, "viridis", "FA (unitless)")
    about = About("maps-md", "maps", "MD", "Map of mean diffusivity", "Mean diffusivity.")
    yield map_picture(about, scene, np.where(inside, md, np.nan), _MD, "viridis", "MD (10⁻³ mm²/s)")


@dataclass(frozen=True)
class Backdrop:
    """What segments are drawn on."""

    name: str
    title: str
    draw: Draw
    pair: str = ""
    """Name of the backdrop that it takes turns with."""


def signal_backdrop(scene: Scene, b0: Volume) -> Backdrop:
    """The mean b=0 volume (i, j, k)."""
    return Backdrop("b0", "b=0", scene.greys(b0, greys_of(scene.seen(b0))))


def fa_backdrop(scene: Scene, fa: Volume) -> Backdrop:
    """FA (i, j, k), to take turns with b=0."""
    return Backdrop("fa", "FA", scene.drawing(fa, _FA_GREYS, "gray"), "b0")


def anatomy_backdrop(scene: Scene, anatomy: Anatomy) -> Backdrop:
    """The anatomy in the slices of the scene."""
    slices = {cut: anatomy.slice(scene.view, cut) for cut in scene.cuts}
    greys = greys_of(np.concatenate([one.ravel() for one in slices.values()]))
    return Backdrop("anatomy", "the anatomy", lambda cut: canvas.grey(slices[cut], greys))


def segments(
    scene: Scene, labels: NDArray[np.integer[Any]], key: Key, backdrops: Sequence[Backdrop]
) -> Iterator[Picture]:
    """Outlines of the segments, a picture for each plane and backdrop."""
    part = labels[scene.box]
    drawn = {cut: scene.view.take(part, cut) for cut in scene.cuts}
    for plane in PLANES:
        own = scene.of(plane)
        if not own.cuts:
            continue
        legend = key.legend([drawn[cut] for cut in own.cuts])
        outlines = {cut: key.outlines(drawn[cut]) for cut in own.cuts}
        for one in backdrops:
            about = About(
                f"segments-{plane}-{one.name}",
                "segments",
                f"Segments on {one.title}, {plane}",
                f"Outlines of the segments on {plane} slices of {one.title}: {_listed(key, own.cuts, drawn)}",
                "Outlines run along the borders of the voxels. Numbers and colours are those of the legend: "
                "a colour for each region, paler from level to level.",
            )
            pair = f"segments-{plane}-{one.pair}" if one.pair else None
            panels: Sequence[Panel] = own.panels(one.draw, outlines.__getitem__)
            yield picture(about, own, panels, legend=legend, pair=pair)


def _listed(key: Key, cuts: Sequence[Cut], drawn: dict[Cut, NDArray[Any]]) -> str:
    names = [entry.name.split("  ")[-1] for entry in key.legend([drawn[cut] for cut in cuts])]
    return ", ".join(names) or "none"


def no_segments(why: str) -> Picture:
    """The words in place of the segments."""
    return unmade("segments", "segments", "Segments", why)
