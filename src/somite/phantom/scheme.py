"""The acquisitions of the phantoms: shells of well-spread directions, volumes at b=0 evenly among them.

Lumbar spine: 33 directions at b=800 s/mm2, TE 73.7 ms, after 10.1186/s12891-015-0576-4 (3 T, 1.5 mm). Thigh:
b=200 and 600 s/mm2, for a fit of water that does not flow (b >= 200, 10.1002/jmri.27875). Brain: 30
directions at b=1000 s/mm2. The numbers and the places of the b=0 volumes are chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients

TE_MS = 73.7
"""Echo time of the lumbar series."""
THIGH_TE_MS = 50.0
BRAIN_TE_MS = 80.0
_ROUNDS = 400


def shells(b0: int, *of: tuple[float, int]) -> Gradients:
    """`b0` volumes without diffusion weighting, evenly among shells of (b in s/mm2, directions).

    The first volume is one of b=0. The directions of each shell are spread for themselves.
    """
    directions = sum(n for _, n in of)
    total = b0 + directions
    weighted = np.ones(total, np.bool_)
    weighted[np.linspace(0, total, b0, endpoint=False).astype(int)] = False
    bvals, bvecs = np.zeros(total), np.zeros((total, 3))
    bvals[weighted] = np.repeat([b for b, _ in of], [n for _, n in of])
    bvecs[weighted] = np.concatenate([np.zeros((0, 3)), *(spread(n) for _, n in of)])
    return Gradients(bvals, bvecs)


def lumbar(b0: int = 4, directions: int = 33, b: float = 800.0) -> Gradients:
    """The scheme of the lumbar phantom."""
    return shells(b0, (b, directions))


def thigh(b500: bool = False) -> Gradients:
    """The scheme of the thigh phantom: 12 directions at b=200, 30 at b=600, and 15 at b=500 if asked for."""
    more: Sequence[tuple[float, int]] = [(500.0, 15)] if b500 else []
    return shells(4, (200.0, 12), *more, (600.0, 30))


def brain() -> Gradients:
    """The scheme of the brain phantom."""
    return shells(5, (1000.0, 30))


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
