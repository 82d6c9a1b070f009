"""Volumes of one b-value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def shells_of(bvals: Float, is_b0: NDArray[np.bool_], smallest: int = 4) -> list[NDArray[np.intp]]:
    """Weighted volumes by shell, in ascending b-value: a new shell starts at a gap of 100 s/mm2 and 10 %.

    A shell of fewer than `smallest` volumes joins the one before it, the first the one after it: its mean
    would be too noisy a target.
    """
    order = np.argsort(bvals, kind="stable")
    shells: list[list[int]] = []
    for volume in order[~is_b0[order]]:
        step_up = bvals[volume] - bvals[shells[-1][-1]] if shells else np.inf
        if step_up > max(100.0, 0.1 * bvals[volume]):
            shells.append([])
        shells[-1].append(int(volume))
    joined: list[list[int]] = []
    for shell in shells:
        if joined and min(len(shell), len(joined[-1])) < smallest:
            joined[-1] += shell
        else:
            joined.append(shell)
    return [np.array(sorted(shell)) for shell in joined]
