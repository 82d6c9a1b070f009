"""The acquisition of the lumbar phantom: four b=0 volumes and 33 directions at b=800 s/mm2, TE 73.7 ms.

After 10.1186/s12891-015-0576-4 (3 T, b=800, 33 directions, 1.5 mm, TE 73.7 ms); the number and the places of
the b=0 volumes are chosen here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients

TE_MS = 73.7
_ROUNDS = 400


def lumbar(b0: int = 4, directions: int = 33, b: float = 800.0) -> Gradients:
    """The scheme: `b0` volumes without diffusion weighting, evenly among `directions` at `b` s/mm2.

    The first volume is one of b=0.
    """
    total = b0 + directions
    at = np.linspace(0, total, b0, endpoint=False).astype(int)
    bvals = np.full(total, b)
    bvals[at] = 0.0
    bvecs = np.zeros((total, 3))
    bvecs[bvals > 0] = spread(directions)
    return Gradients(bvals, bvecs)


def spread(n: int) -> NDArray[np.float64]:
    """Unit vectors (n, 3) that lie far from each other as axes, alternately on both hemispheres.

    Electrostatic repulsion of charges and their antipodes (Jones et al. 1999, 10.1002/(SICI)1522-2594(199909)
    42:3<515::AID-MRM14>3.0.CO;2-Q), from a golden spiral, with steps that shrink to nothing.
    """
    k = np.arange(n) + 0.5
    z, angle = 1.0 - k / n, np.pi * (1.0 + np.sqrt(5.0)) * k
    axes = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], axis=1)
    for step in np.linspace(0.1, 0.0, _ROUNDS):
        force = np.zeros_like(axes)
        for sign in (1.0, -1.0):
            apart = axes[:, None] - sign * axes[None]
            distance = np.linalg.norm(apart, axis=2)
            np.divide(apart, distance[..., None] ** 3, out=apart, where=distance[..., None] > 1e-9)
            force += apart.sum(axis=1)
        largest = np.linalg.norm(force, axis=1).max()
        axes = axes + step * force / max(largest, 1e-12)
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    axes[1::2] *= -1.0
    return axes
