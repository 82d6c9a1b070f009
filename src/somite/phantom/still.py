"""The anatomical image of a participant, on which a rater draws: without distortion, and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from somite.images import Grid
from somite.phantom import noise, paint
from somite.phantom.make import REFERENCE_SIGNAL, Phantom
from somite.phantom.protocol import Anatomical, Protocol, seeds_of
from somite.phantom.tissue import Floats


@dataclass(frozen=True)
class Still:
    """An anatomical image, the labels drawn on it, and where the body lies in it."""

    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    grid: Grid
    to_dwi: Floats
    """Affine (4, 4), world mm: from a point in this image to the same point in the diffusion series."""


def make_still(
    protocol: Protocol, about: Anatomical, phantom: Phantom, seed: int | Sequence[int] = 1
) -> Still:
    """The anatomical image of a participant: elsewhere in the scanner, whole structures drawn on it."""
    seeds = seeds_of(seed)
    rng = np.random.default_rng([*seeds, 8])
    shift, axis = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(np.deg2rad(about.turn_deg) * axis).as_matrix()
    centre = phantom.grid.affine @ [*((np.array(phantom.grid.shape) - 1) / 2), 1.0]
    moved[:3, 3] = centre[:3] - moved[:3, :3] @ centre[:3] + about.shift_mm * shift
    body = phantom.anatomy.moved(moved)
    where = protocol.grid(about.voxel_mm, "RAS", (0.0, 0.0, 0.0))
    painting = paint.paint(body, where)
    unit = REFERENCE_SIGNAL / protocol.reference.brightness_tse(about.te_ms)
    image = paint.brightness_tse(body, painting, about.te_ms)[:, None] * np.float32(unit)
    noise.add_rician(image, REFERENCE_SIGNAL / about.snr, np.random.default_rng([*seeds, 9]))
    labels = paint.drawn(painting, [piece.whole for piece in body.pieces])
    return Still(image.reshape(where.shape), labels, where, np.asarray(np.linalg.inv(moved), np.float64))
