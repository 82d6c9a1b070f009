"""Real scans of both phase-encoding directions: do the maps of one agree with those of the other?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dipy.segment.mask import median_otsu
from harness import THREADS, Row
from moving import tensor_of
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from somite import gibbs, images
from somite.body import body_mask
from somite.corrected import Corrected
from somite.correction.corrector import correct
from somite.correction.estimation import Acquisition, Options
from somite.correction.series import Encoding
from somite.gradients import Gradients, read_fsl
from somite.images import Grid
from somite.interfaces import denoise
from somite.interfaces.susceptibility import Side, find_field

Float = NDArray[np.float64]
SCANS = {"sub-uih": 0.021, "sub-canon": None}
"""Readout times in s; that of sub-canon is not known."""
GOALS = {"fa": 0.024, "fa_median": 0.020, "md": 0.017, "seconds": 15.0}
"""For sub-uih: correlations of 0.976 in FA and 0.983 in MD."""


@dataclass(frozen=True)
class One:
    """A series (x, y, z, n) of one direction."""

    data: NDArray[np.float32]
    gradients: Gradients
    sign: int
    readout_s: float

    def encoding(self) -> Encoding:
        """Phase encoding of its volumes."""
        n = self.data.shape[3]
        return Encoding(np.full(n, 1), np.full(n, float(self.sign)), np.full(n, self.readout_s))


def agreement_rows(name: str) -> list[Row]:
    """Rows for every real scan that is there."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SOMITE_TEST_DATA", beside)) / "brain-bids"
    if not folder.is_dir():
        note = "no real scans here: set SOMITE_TEST_DATA"
        return [Row(name, "real AP and PA", "", float("nan"), note=note)]
    return [row for subject in SCANS for row in _subject(name, folder, subject)]


def _read(folder: Path, subject: str) -> tuple[list[One], Grid]:
    read = []
    for direction, sign in (("AP", -1), ("PA", 1)):
        stem = folder / subject / "dwi" / f"{subject}_dir-{direction}_dwi"
        data, grid = images.read_float(stem.with_suffix(".nii.gz"))
        gradients = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
        read.append(One(np.asfortranarray(data), gradients, sign, SCANS[subject] or 1.0))
    return read, grid


def _subject(name: str, folder: Path, subject: str) -> Iterator[Row]:
    raw, grid = _read(folder, subject)
    goals = GOALS if subject == "sub-uih" else {}
    cleaned = [One(_without_noise_and_ringing(one), one.gradients, one.sign, one.readout_s)
               for one in raw]  # fmt: skip
    start = time.perf_counter()
    field, undistorted = _field(raw, grid)
    apart = [_correct(one, raw[0], field, grid) for one in raw]
    seconds = time.perf_counter() - start
    mask = binary_erosion(median_otsu(undistorted, median_radius=2, numpass=1)[1], iterations=2)
    before = _agreement([(one.data, one.gradients) for one in raw], mask)
    for case, pair, own_goals in (
        ("each corrected with the field of both", _maps_of(apart), goals),
        ("corrected as one series of both", _maps_of(_corrected(raw, field, grid)), {}),
        ("denoised, unrung, each corrected",
         _maps_of([_correct(one, cleaned[0], _field(cleaned, grid)[0], grid) for one in cleaned]), {}),
    ):  # fmt: skip
        found = _agreement(pair, mask)
        for (key, what), figure, old in zip(WHAT.items(), found, before, strict=True):
            note = f"{old:.4f} before any correction, {mask.sum()} voxels"
            yield Row(name, f"{subject}, {case}: {what}", "", figure, at_most=own_goals.get(key), note=note)
    size = "x".join(map(str, raw[0].data.shape))
    yield Row(name, f"{subject}, field and both series of {size}: time", "s", seconds,
              at_most=goals.get("seconds"))  # fmt: skip


WHAT = {
    "fa": "1 - correlation of FA, AP and PA",
    "fa_median": "median difference of FA, AP and PA",
    "md": "1 - correlation of MD, AP and PA",
}


def _field(pair: list[One], grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Displacement in voxels per second of readout, and the undistorted b=0 image."""
    ap, pa = (Side("j" if one.sign > 0 else "j-", one.readout_s, (one.data[..., 0],)) for one in pair)
    found = find_field((ap, pa), grid, True, THREADS)
    return np.asarray(found.displacement / np.float32(pair[0].readout_s)), found.undistorted


def _correct(one: One, lead: One, field: NDArray[np.float32], grid: Grid) -> Corrected:
    """A series brought to where the head lay when the pair's field was measured: at the first of `lead`."""
    first = One(lead.data[..., :1], _part(lead.gradients, slice(0, 1)), lead.sign, lead.readout_s)
    return _corrected([first, one], field, grid)[1]


def _corrected(parts: list[One], field: NDArray[np.float32], grid: Grid) -> list[Corrected]:
    """Series corrected as one, and parted again."""
    data = np.asfortranarray(np.concatenate([one.data for one in parts], 3))
    known = [one.encoding() for one in parts]
    encoding = Encoding(*(np.concatenate(values) for values in zip(
        *((one.axes, one.signs, one.readouts) for one in known), strict=True)))  # fmt: skip
    ends = np.cumsum([one.data.shape[3] for one in parts])
    begins = [0, *map(int, ends[:-1])]
    gradients = _joined([one.gradients for one in parts])
    series = Acquisition(data, gradients, encoding, body_mask(data[..., 0]), grid, field, begins)
    found = correct(series, Options(), THREADS)
    return [
        Corrected(found.data[..., own], _part(found.gradients, own), found.motion[own], [],
                  found.distortion[own])
        for own in map(slice, begins, ends)
    ]  # fmt: skip


def _part(gradients: Gradients, own: slice) -> Gradients:
    return Gradients(gradients.bvals[own], gradients.bvecs[own])


def _joined(gradients: list[Gradients]) -> Gradients:
    return Gradients(
        np.concatenate([one.bvals for one in gradients]), np.concatenate([one.bvecs for one in gradients])
    )


def _without_noise_and_ringing(one: One) -> NDArray[np.float32]:
    signal, _ = denoise.mppca(one.data, threads=THREADS)
    return np.asfortranarray(gibbs.unring(np.asarray(signal, np.float32)))


def _maps_of(pair: list[Corrected]) -> list[tuple[NDArray[np.float32], Gradients]]:
    return [(one.data, one.gradients) for one in pair]


def _agreement(pair: list[tuple[NDArray[np.float32], Gradients]], mask: NDArray[np.bool_]) -> list[float]:
    """1 - r of FA, median difference of FA, 1 - r of MD, of two series inside the mask."""
    (fa, md), (fa_other, md_other) = (tensor_of(data[mask], gradients) for data, gradients in pair)
    return [
        1 - float(np.corrcoef(fa, fa_other)[0, 1]),
        float(np.median(np.abs(fa - fa_other))),
        1 - float(np.corrcoef(md, md_other)[0, 1]),
    ]
