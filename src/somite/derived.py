"""What follows from the measures of two or more segments: side against side, level against level, a gradient.

Standard errors go through by the delta method, the segments taken as independent; intervals are those of
Student's t with Welch and Satterthwaite's degrees of freedom. As everywhere in the table the voxels of a
segment count as independent, which is optimistic: between subjects, compare the values, not these errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import special

from somite.estimates import UPPER, Estimate
from somite.metrics import METRICS

Kind = Literal["asymmetry", "level_difference", "level_ratio", "gradient", "affected_ratio"]
KINDS: Mapping[Kind, str] = {
    "asymmetry": "left-right asymmetry index, 2 (L - R) / (L + R)",
    "level_difference": "difference from the next level above, value minus that of the level above",
    "level_ratio": "ratio to the next level above, value over that of the level above",
    "gradient": "change from one segment to the next on the way from proximal to distal, by a straight line",
    "affected_ratio": "ratio of the affected side to the other",
}
WITHOUT_UNIT: tuple[Kind, ...] = ("asymmetry", "level_ratio", "affected_ratio")


@dataclass(frozen=True)
class Value:
    """A measure of a segment: its value, standard error, and the number of voxels that it rests on."""

    value: float
    se: float
    n: float


def combine(parts: Sequence[Value], value: float, slopes: Sequence[float]) -> Estimate:
    """A function of independent measures: its value, with the errors that follow to first order.

    Args:
        parts: the measures.
        value: of the function.
        slopes: its derivative by each of them.
    """
    variances = [(slope * part.se) ** 2 for part, slope in zip(parts, slopes, strict=True)]
    total = sum(variances)
    if math.isnan(total):
        return Estimate(value)
    spread = sum(v**2 / (part.n - 1) for v, part in zip(variances, parts, strict=True) if v > 0)
    se, freedom = math.sqrt(total), total**2 / spread if spread > 0 else math.inf
    half = float(special.stdtrit(freedom, UPPER)) * se if math.isfinite(freedom) else 1.959964 * se
    return Estimate(value, se, value - half, value + half)


def asymmetry(left: Value, right: Value) -> Estimate:
    """2 (L - R) / (L + R); NaN where the sum is 0."""
    total = left.value + right.value
    if total == 0:
        return Estimate(math.nan)
    slopes = (4 * right.value / total**2, -4 * left.value / total**2)
    return combine((left, right), 2 * (left.value - right.value) / total, slopes)


def difference(one: Value, other: Value) -> Estimate:
    """One minus the other."""
    return combine((one, other), one.value - other.value, (1.0, -1.0))


def ratio(one: Value, other: Value) -> Estimate:
    """One over the other; NaN where the other is 0."""
    if other.value == 0:
        return Estimate(math.nan)
    slopes = (1 / other.value, -one.value / other.value**2)
    return combine((one, other), one.value / other.value, slopes)


def gradient(values: Sequence[Value]) -> Estimate:
    """Slope per step of a straight line through at least two values that lie evenly, by least squares."""
    at = np.arange(len(values)) - (len(values) - 1) / 2
    slopes = (at / (at**2).sum()).tolist()
    value = sum(slope * part.value for slope, part in zip(slopes, values, strict=True))
    return combine(values, value, slopes)


def metric_of(metric: str, kind: Kind) -> str:
    """Name of a derived metric: `fa_asymmetry`."""
    return f"{metric}_{kind}"


def unit_of(metric: str, kind: Kind) -> str:
    """Unit of a derived metric."""
    unit = METRICS[metric].unit  # type: ignore[index]
    if kind in WITHOUT_UNIT:
        return "1"
    return f"{unit} per segment" if kind == "gradient" else unit


DERIVED: Mapping[str, str] = {
    metric_of(name, kind): f"{about.description}: {words}"
    for name, about in METRICS.items()
    for kind, words in KINDS.items()
}
"""Name of each derived metric -> its description."""


_SPINE = [
    f"{part}{n}" for part, last in (("C", 8), ("T", 13), ("L", 6), ("S", 5)) for n in range(1, last + 1)
]
_SUPERNUMERARY = ("C8", "T13", "L6")
"""Most people lack them: their neighbours are next to each other unless the table has them."""


def place_of(level: str) -> tuple[int, int] | None:
    """Where a level lies, from above: a vertebra or its nerve twice, a disc's two; None for another word."""
    found = re.fullmatch(r"([CTLS]\d+)(?:-([CTLS]\d+))?", level)
    if not found or any(part and part not in _SPINE for part in found.groups()):
        return None
    upper = _SPINE.index(found[1])
    return upper, _SPINE.index(found[2]) if found[2] else upper


def levels_above(levels: Sequence[str]) -> dict[str, str]:
    """Level -> the next above it among the levels, or an empty string where that is not among them.

    Vertebrae are next to each other when none lies between them, but the supernumerary ones that the
    levels do not hold. Discs are, when the lower vertebra of one is the upper of the other.
    """
    known = {level: place for level in levels if (place := place_of(level)) is not None}
    order = sorted(known, key=lambda level: known[level])
    above = dict.fromkeys(levels, "")
    for upper, lower in pairwise(order):
        end, start = known[upper][1], known[lower][0]
        disc = known[lower][0] != known[lower][1]
        between = [name for name in _SPINE[end + 1 : start] if name not in _SUPERNUMERARY or name in levels]
        if start == end if disc else start > end and not between:
            above[lower] = upper
    return above
