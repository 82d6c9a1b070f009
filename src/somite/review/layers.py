"""The images of a session for the slice viewer: which there are, how they are shown, and their bytes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from somite import images
from somite.errors import SomiteError
from somite.files import read_json
from somite.record import Record
from somite.review.paths import Refused, inside
from somite.review.sessions import file_of
from somite.segments import Label, Segment, read_label_table

B0_BELOW = 50.0
"""Volumes below this b-value, s/mm2, are b=0 here: it is for the eye."""


@dataclass(frozen=True)
class Layer:
    """An image that the viewer can show."""

    name: str
    title: str
    path: Path
    colormap: str = "gray"
    window: tuple[float, float] | None = None
    """Values drawn as black and as white; None: the viewer's own choice."""
    made: str = ""
    """b0 or dwi: the mean of these volumes of a series is shown; labels: its labels, numbered anew; nothing:
    the file itself."""
    segments: tuple[Mapping[str, Any], ...] = field(default=())
    """Of a label image: of each segment its value in what `read` gives, index, name, colour, and a place
    inside of it, in world mm."""

    @property
    def file_name(self) -> str:
        """What it is called in its address: the viewer goes by the ending."""
        return f"{self.name}.nii" if self.made or self.path.suffix != ".gz" else f"{self.name}.nii.gz"

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        keys = ("name", "title", "colormap", "window", "segments", "file_name")
        return {key: getattr(self, key) for key in keys}

    def read(self) -> bytes:
        """The bytes of the image."""
        if not self.made:
            return self.path.read_bytes()
        changed = self.path.stat().st_mtime_ns
        if self.made == "labels":
            return _labels_of(self.path, changed).image
        return _mean_of(self.path, self.made, changed)


def layers(one: Record, out_dir: Path) -> list[Layer]:
    """The images of a session, from below to above: anatomy, diffusion, maps, segments."""
    found = []
    if (anatomy := _anatomy(one, out_dir)) is not None:
        found.append(Layer("t2w", "T2w, as scanned", anatomy))
    series = file_of(one, out_dir, "_desc-preproc_dwi.nii.gz")
    if series is not None and _bval(series) is not None:
        found.append(Layer("b0", "b=0, mean", series, made="b0"))
        found.append(Layer("dwi", "DWI, mean", series, made="dwi"))
    elif (s0 := file_of(one, out_dir, "_param-s0_dwimap.nii.gz")) is not None:
        found.append(Layer("b0", "b=0, fitted", s0))
    for name, window in (("md", (0.0, 3e-3)), ("fa", (0.0, 1.0))):
        if (path := file_of(one, out_dir, f"_model-tensor_param-{name}_dwimap.nii.gz")) is not None:
            found.append(Layer(name, name.upper(), path, "gray", window))
    labels = file_of(one, out_dir, "_desc-segments_dseg.nii.gz", "_desc-transferred_dseg.nii.gz")
    if labels is not None:
        found.append(Layer("segments", "segments", labels, made="labels", segments=_segments(labels)))
    return found


def _anatomy(one: Record, out_dir: Path) -> Path | None:
    """The T2w image among the inputs of the session, in the dataset that the output is linked to."""
    try:
        description = read_json(out_dir / "dataset_description.json")
        raw = out_dir / description["DatasetLinks"]["raw"]
        name = next(name for name in one.inputs if name.endswith(("_T2w.nii.gz", "_T2w.nii")))
        return inside(raw, name)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, Refused):
        return None


def _bval(series: Path) -> NDArray[np.float64] | None:
    path = series.with_name(series.name.removesuffix(".nii.gz") + ".bval")
    try:
        return np.array(path.read_text().split(), float)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=6)
def _mean_of(path: Path, which: str, changed: int) -> bytes:  # noqa: ARG001
    """The mean of the b=0 or of the other volumes as a NIfTI file; one volume is in memory at a time."""
    image, bval = images.open_image(path), _bval(path)
    if bval is None or len(image.shape) != 4 or len(bval) != image.shape[3]:
        raise images.unreadable(path, ValueError("no b-value for each volume"))
    wanted = (bval < B0_BELOW) == (which == "b0")
    if not wanted.any():
        raise images.unreadable(path, ValueError(f"no volume for the mean of {which}"))
    stored: Any = image.dataobj
    size = int(np.prod(image.shape[:3]))
    total = np.zeros(size, np.float64)
    with igzip.open(path, "rb") as file:
        file.seek(stored.offset)
        for take in wanted[: np.flatnonzero(wanted)[-1] + 1]:
            raw = file.read(size * stored.dtype.itemsize)
            if take:
                total += np.frombuffer(raw, stored.dtype)
    mean = total / wanted.sum() * stored.slope + stored.inter
    shaped = np.nan_to_num(mean).astype(np.float32).reshape(image.shape[:3], order="F")
    made = nib.Nifti1Image(shaped, image.affine)
    made.header["cal_min"], made.header["cal_max"] = 0, _white(shaped)
    return bytes(made.to_bytes())


def _white(data: NDArray[np.float32]) -> float:
    """The value to be drawn as white: fluid may be brighter, or nothing of the tissue would be seen."""
    body = data[data > 0.1 * np.percentile(data, 99)]
    return float(np.percentile(body, 95)) if body.size else 1.0


@dataclass(frozen=True)
class _Labels:
    """A label image for the viewer."""

    image: bytes
    """NIfTI, its labels numbered anew: 1, 2, 3, ... in the order of `named`."""
    named: tuple[Label, ...]
    mm: tuple[tuple[float, ...], ...]
    """Of each, world mm (3,) of the voxel of it that is nearest to its centroid."""


def _segments(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The segments of a label image that it holds; none where it cannot be read."""
    try:
        labels = _labels_of(path, path.stat().st_mtime_ns)
    except (OSError, SomiteError):
        return ()
    colours = colours_of(labels.named)
    return tuple(
        {"value": place, "index": one.index, "name": one.name, "colour": colours[one.index], "mm": mm}
        for place, (one, mm) in enumerate(zip(labels.named, labels.mm, strict=True), start=1)
    )


@lru_cache(maxsize=16)
def _labels_of(path: Path, changed: int) -> _Labels:  # noqa: ARG001
    """The labels that an image holds: those of its table first, then those that no table names.

    They are numbered anew, since the viewer keeps a colour for every number up to the highest.

    Raises:
        DatasetError: as `images.read_labels`.
    """
    data, grid = images.read_labels(path)
    where = np.argwhere(data)
    values = data[tuple(where.T)]
    there = set(np.unique(values).tolist())
    named = [one for one in _table(path) if one.index in there]
    strange = sorted(there - {one.index for one in named})
    named += [Label(index, f"label {index}, in no table", Segment("")) for index in strange]
    shown = np.zeros(data.shape, np.uint16)
    mm = []
    for place, one in enumerate(named, start=1):
        own = where[values == one.index]
        shown[tuple(own.T)] = place
        nearest = own[np.argmin(((own - own.mean(0)) ** 2).sum(1))]
        world = grid.affine[:3, :3] @ nearest + grid.affine[:3, 3]
        mm.append(tuple(round(float(x), 3) for x in world))
    image = nib.Nifti1Image(shown, grid.affine)
    image.header.set_intent("label")
    return _Labels(bytes(image.to_bytes()), tuple(named), tuple(mm))


def _table(path: Path) -> tuple[Label, ...]:
    try:
        return read_label_table(path.with_name(path.name.removesuffix(".nii.gz") + ".tsv"))
    except SomiteError:
        return ()


def colours_of(labels: Sequence[Label]) -> dict[int, tuple[int, int, int]]:
    """Label -> red, green, blue, 0 to 255.

    Neighbours in the table differ in hue, by the colours of figures; when these come again, in lightness.
    """
    from somite.report.style import REGION_CYCLE

    found = {}
    for place, label in enumerate(labels):
        red, green, blue = _rgb(REGION_CYCLE[place % len(REGION_CYCLE)])
        hue, light, full = colorsys.rgb_to_hls(red, green, blue)
        step = (0.0, 0.18, -0.18)[place // len(REGION_CYCLE) % 3]
        turned = colorsys.hls_to_rgb(hue, min(max(light + step, 0.2), 0.9), full)
        found[label.index] = (round(255 * turned[0]), round(255 * turned[1]), round(255 * turned[2]))
    return found


def _rgb(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def find(found: Iterable[Layer], file_name: str) -> Layer:
    """The layer of this file name.

    Raises:
        Refused: 404.
    """
    for layer in found:
        if layer.file_name == file_name:
            return layer
    raise Refused(404, "the session has no such image")
