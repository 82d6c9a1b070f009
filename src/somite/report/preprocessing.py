"""Pictures of what each step of the preprocessing did, from the series before and after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.report import canvas, plots
from somite.report.album import Picture, unmade
from somite.report.scene import About, Scene, Volume, before_and_after, map_picture
from somite.report.slices import Box, View

Volumes = NDArray[np.intp]
_ARBITRARY = "signal (arbitrary units)"
_LINE_MIN = 8


@dataclass(frozen=True)
class Asked:
    """What is taken out of every series: the same voxels and volumes of each."""

    b0: Volumes
    shell: Volumes
    """Volumes of the highest shell; empty where there is none."""
    b_high: int
    """b-value of that shell, s/mm2."""
    line: Line

    @property
    def one(self) -> int:
        """A single volume of the highest shell, or the first of b=0."""
        return int(self.shell[len(self.shell) // 2]) if len(self.shell) else int(self.b0[0])


@dataclass(frozen=True)
class Line:
    """A line of voxels along one axis."""

    axis: int
    through: tuple[int, int, int]
    mm: tuple[float, float]
    """World coordinate of its first and last voxel along the world axis nearest to it."""
    ends: tuple[str, str]
    """What lies at the first and the last voxel, as letters."""


@dataclass(frozen=True)
class Shots:
    """What is shown of one series, volumes (i, j, k) of the whole grid."""

    b0: Volume
    shell: Volume | None
    one: Volume
    course: NDArray[np.float64]
    """(positions, volumes): a line of voxels over time."""

    def equals(self, other: Shots) -> bool:
        """Whether both show the same to the bit: the step between them changed nothing."""
        return np.array_equal(self.one, other.one) and np.array_equal(self.course, other.course)


def line_through(view: View, box: Box, inside: NDArray[np.bool_]) -> Line:
    """A line from posterior to anterior, or along the longest axis, where it is longest in what is inside.

    Args:
        view: of the whole grid.
        box: around what is inside.
        inside: (i, j, k).
    """
    axis = view.axis("coronal")
    if inside.shape[axis] < _LINE_MIN:
        axis = int(np.argmax(inside.shape))
    middle = [(part.start + part.stop - 1) // 2 for part in box]
    others = [a for a in range(3) if a != axis]
    within = inside.sum(axis)
    # Of the lines nearly as long as the longest, the one nearest to the middle: not between two legs.
    candidates = np.argwhere(within >= 0.97 * within.max())
    away = ((candidates - [middle[a] for a in others]) * view.grid.voxel_mm[others]) ** 2
    for a, index in zip(others, candidates[away.sum(1).argmin()], strict=True):
        middle[a] = int(index)
    ends = []
    for index in (0, inside.shape[axis] - 1):
        voxel = np.array(middle, np.float64)
        voxel[axis] = index
        ends.append(view.grid.affine[:3, :3] @ voxel + view.grid.affine[:3, 3])
    way = ends[1] - ends[0]
    world = int(np.abs(view.grid.affine[:3, axis]).argmax())
    letters = ("LPI"[world], "RAS"[world]) if way[world] >= 0 else ("RAS"[world], "LPI"[world])
    return Line(
        axis, (middle[0], middle[1], middle[2]), (float(ends[0][world]), float(ends[1][world])), letters
    )


def shots_of(data: NDArray[Any], asked: Asked) -> Shots:
    """Take out of a series (i, j, k, n) what is shown; the series itself is not kept."""
    where: list[Any] = list(asked.line.through)
    where[asked.line.axis] = slice(None)
    return Shots(
        mean_of(data, asked.b0),
        mean_of(data, asked.shell) if len(asked.shell) else None,
        np.array(data[..., asked.one]),
        np.array(data[tuple(where)], np.float64),
    )


def mean_of(data: NDArray[Any], volumes: Volumes) -> NDArray[np.float32]:
    """Mean (i, j, k) of some volumes, read one at a time."""
    total = np.zeros(data.shape[:3])
    for volume in volumes:
        total += data[..., int(volume)]
    return (total / len(volumes)).astype(np.float32)


def denoising(scene: Scene, asked: Asked, before: Shots, after: Shots) -> Iterator[Picture]:
    """A single volume before and after denoising, and what was taken away."""
    if before.equals(after):
        yield unmade(
            "denoise", "preprocessing", "Denoising", "Denoising did not run: the series is as it was."
        )
        return
    what = f"One volume (number {asked.one}, b = {asked.b_high if len(asked.shell) else 0} s/mm²)."
    about = About("denoise", "preprocessing", "Denoising", "Slices of one diffusion volume", what)
    yield from before_and_after(about, scene, before.one, after.one, ("before denoising", "after denoising"))
    taken = np.asarray(before.one, np.float32) - after.one
    limit = symmetric(scene.seen(taken), 99.0)
    residual = About(
        "denoise-residual",
        "preprocessing",
        "Denoising: what was taken away",
        "The difference of the volume before and after denoising",
        f"{what} Noise without anatomy is what should be seen; edges or structures would be lost signal.",
    )
    yield map_picture(residual, scene, taken, (-limit, limit), "gray", _ARBITRARY)


def unringing(scene: Scene, before: Shots, after: Shots) -> Iterator[Picture]:
    """The mean b=0 volume before and after Gibbs ringing was taken off."""
    if before.equals(after):
        why = "Gibbs ringing was not corrected: the series is as it was."
        yield unmade("degibbs", "preprocessing", "Gibbs ringing", why)
        return
    about = About(
        "degibbs",
        "preprocessing",
        "Gibbs ringing",
        "Slices of the mean b=0 volume",
        "Mean of the b=0 volumes.",
    )
    words = ("with Gibbs ringing", "after its correction")
    yield from before_and_after(about, scene, before.b0, after.b0, words)


def undistorting(
    scene: Scene, before: Shots, undistorted: Volume | None, field: Volume | None, unit: str
) -> Iterator[Picture]:
    """The mean b=0 volume before and after the correction for susceptibility, and the field."""
    if undistorted is None or field is None:
        why = (
            "Distortion by susceptibility was not corrected: the session has no images of the opposite phase "
            "encoding."
        )
        yield unmade("susceptibility", "preprocessing", "Susceptibility", why)
        return
    if not field.any():
        why = "Distortion by susceptibility was not corrected: no field was estimated."
        yield unmade("susceptibility", "preprocessing", "Susceptibility", why)
        return
    about = About(
        "susceptibility", "preprocessing", "Susceptibility", "Slices of the mean b=0 volume",
        "Mean of the b=0 volumes; the corrected one is made of both phase encodings.",
    )  # fmt: skip
    yield from before_and_after(
        about, scene, before.b0, undistorted, ("as distorted by susceptibility", "after its correction")
    )
    limit = symmetric(scene.seen(field), 99.5)
    shown = About(
        "susceptibility-field", "preprocessing", "Susceptibility: field", "Map of the off-resonance field",
        "The field that the series was corrected by; where it is 0 nothing was moved.",
    )  # fmt: skip
    yield map_picture(shown, scene, field, (-limit, limit), "RdBu_r", f"off-resonance ({unit})")


def moving_back(scene: Scene, asked: Asked, before: Shots, after: Shots) -> Iterator[Picture]:
    """Means and a line over time before and after motion and eddy currents were corrected."""
    if before.equals(after):
        why = "Motion and eddy currents were not corrected: the series is as it was."
        yield unmade("eddy", "preprocessing", "Motion and eddy currents", why)
        return
    words = ("before the correction of motion and distortion", "after it")
    title = "Motion and eddy currents"
    b0 = About(
        "eddy-b0",
        "preprocessing",
        f"{title}, b=0",
        "Slices of the mean b=0 volume",
        "Mean of the b=0 volumes.",
    )
    yield from before_and_after(b0, scene, before.b0, after.b0, words)
    if before.shell is not None and after.shell is not None:
        about = About(
            "eddy-shell", "preprocessing", f"{title}, mean of a shell", "Slices of the mean of a shell",
            f"Mean of the {len(asked.shell)} volumes of b = {asked.b_high} s/mm²: what moved is blurred.",
        )  # fmt: skip
        yield from before_and_after(about, scene, before.shell, after.shell, words)
    yield from courses(asked, before, after, words)


def courses(asked: Asked, before: Shots, after: Shots, words: tuple[str, str]) -> Iterator[Picture]:
    """A line of voxels over the volumes, before and after."""
    for shots, moment, name in zip((before, after), ("before", "after"), words, strict=True):
        figure = plots.time_course(scaled(shots.course), asked.line.mm, (0.0, 1.2), asked.line.ends)
        called = f"eddy-course-{moment}"
        yield Picture(
            called,
            "preprocessing",
            f"Motion and eddy currents, a line over time: {moment}",
            f"One line of voxels over all volumes, {name}",
            f"A line of voxels along which the body is longest, one column for each volume, {name}: "
            "what moves makes waves. Every volume is scaled by its own brightness.",
            {f"{called}.png": canvas.png(figure)},
            "eddy-course-before" if moment == "after" else None,
        )


def scaled(course: NDArray[np.float64]) -> NDArray[np.float64]:
    """A line over time (positions, volumes), each volume over its own 95th percentile."""
    top = np.nanpercentile(np.where(np.isfinite(course), course, 0), 95, axis=0)
    return np.asarray(course / np.where(top > 0, top, 1))


def evening(scene: Scene, before: Shots, after: Shots, field: Volume | None) -> Iterator[Picture]:
    """The mean b=0 volume before and after the receive field was divided out, and the field."""
    if before.equals(after) or field is None:
        why = "The receive field was not corrected: it cancels in FA and MD."
        yield unmade("bias", "preprocessing", "Receive field", why)
        return
    about = About(
        "bias", "preprocessing", "Receive field", "Slices of the mean b=0 volume", "Mean of the b=0 volumes."
    )
    words = ("with the shading of the receive coil", "after its correction")
    yield from before_and_after(about, scene, before.b0, after.b0, words)
    low, high = (float(x) for x in np.percentile(scene.seen(field), (0.5, 99.5)))
    shown = About(
        "bias-field", "preprocessing", "Receive field: map", "Map of the receive field",
        "What the series was divided by; 1 on average.",
    )  # fmt: skip
    limits = (low, high if high > low else low + 1)
    yield map_picture(shown, scene, field, limits, "cividis", "receive field (unitless)")


def symmetric(values: NDArray[Any], percentile: float) -> float:
    """A limit for both signs: a percentile of the magnitudes, and never 0."""
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.percentile(finite, percentile)) if finite.size else 0.0
    return limit if limit > 0 else 1.0
