"""Which volumes of a series a tensor is fitted to, and whether they determine it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients
from somite.tensorfit import condition, design_matrix

Float = NDArray[np.float64]

CONDITION_MAX = 1e4
"""Designs beyond this condition number (b in units of the largest b) do not determine a tensor."""

PERFUSION_B = 200.0
"""From this b on, s/mm2, blood that moves has lost its signal (IVIM in muscle: 10.1002/jmri.27875)."""
B_SPAN = 1.5
"""Largest over smallest b without b=0, below which the signal at b=0 is hardly more than a guess."""
PERFUSION_SHELLS = f"two shells of b >= {PERFUSION_B:g} s/mm2, the upper at least {B_SPAN:g} times the lower"
"""What it takes to leave perfusion out of a fit."""


def used_volumes(bvals: Float, b_min: float, b_max: float | None) -> NDArray[np.bool_]:
    """Which volumes the fit uses (n,): b_min <= b <= b_max, s/mm2, with 1 % of leave for rounded b-values."""
    upper = np.inf if b_max is None else b_max
    return np.asarray((bvals >= 0.99 * b_min) & (bvals <= 1.01 * upper), np.bool_)


def reaches_over_perfusion(gradients: Gradients, b_max: float | None) -> bool:
    """Whether the volumes from `PERFUSION_B` on determine a tensor, and the signal at b=0 behind them."""
    used = used_volumes(gradients.bvals, PERFUSION_B, b_max)
    kept = Gradients(gradients.bvals[used], gradients.bvecs[used])
    if condition(design_matrix(kept)) > CONDITION_MAX:
        return False
    return bool(kept.bvals.max() >= B_SPAN * kept.bvals.min())


def lowest_b(asked: float | Literal["auto"], b_max: float | None, gradients: Gradients) -> float:
    """The smallest b that a fit uses, s/mm2: as asked; `auto`: `PERFUSION_B` where the gradients allow it."""
    if asked != "auto":
        return asked
    return PERFUSION_B if reaches_over_perfusion(gradients, b_max) else 0.0
