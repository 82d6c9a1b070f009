"""Voxels that two labels claim: what may not be in label images or probability volumes of one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from somite.errors import Problem

CLAIM = 0.5
"""Probability above which a volume claims a voxel: two that lie above it sum to more than 1."""


def check_overlap(claims: Mapping[str, NDArray[Any]], where: str) -> list[Problem]:
    """`LABEL_OVERLAP`, an error, where two images or volumes claim the same voxel.

    Args:
        claims: name -> label image or probability map (i, j, k), all on one grid. An integer or boolean
            image claims the voxels that are not 0, a map of floats those above 0.5.
        where: the files or their folder, for the message.
    """
    masks = {name: data > CLAIM if data.dtype.kind == "f" else data != 0 for name, data in claims.items()}
    shared = [
        f"{one} and {other}: {n} voxels"
        for (one, mask), (other, second) in combinations(masks.items(), 2)
        if (n := int(np.count_nonzero(mask & second)))
    ]
    return [_problem(shared, where)] if shared else []


def _problem(shared: Sequence[str], where: str) -> Problem:
    more = f"; and {len(shared) - 6} more pairs" if len(shared) > 6 else ""
    return Problem(
        "LABEL_OVERLAP",
        "two labels claim the same voxels",
        where=where,
        found="; ".join(shared[:6]) + more,
        expected="each voxel in at most one label image, and probabilities above 0.5 in at most one volume",
        do="correct the borders of the labels; a structure within another needs a session's run of its own "
        "(labels: filter:)",
    )
