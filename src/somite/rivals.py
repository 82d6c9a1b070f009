"""Where a search for a position begins, and which of several positions is the right one.

What repeats along the body, as discs do, agrees with itself in several places, and blurred images agree in
wrong ones too: several positions are followed, and compared where they can be, at the points of the fixed
image that both have in the moving one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from somite.position import Aligned, Comparison, Float, Image
from somite.registration import about, displacement_mm

SEARCH_STEP_MM = 10.0
ASIDE_MM = 4.0
KEPT = 10
"""Positions that are followed at the most."""
LEAST_OVERLAP = 0.6
LEAST_SHARED = 0.25
"""Fraction of the points that two positions must both have in the moving image, to be compared there."""
PRIOR_MM, PRIOR_NATS, OUTSIDE_NATS = 20.0, 0.01, 0.03
"""How far the headers may be off, and what a position must have more of information that is 1.4 times as far
from them; and what one must that has the whole mask outside the moving image."""
APART_MM, RIVAL_MM = 3.0, 8.0
"""Positions closer than the first are one; those farther apart than the second are rivals."""


def starts(
    header: Aligned,
    comparison: Comparison,
    fixed: Image,
    moving: Image,
    mask: NDArray[np.bool_],
    reach_mm: float,
) -> list[Aligned]:
    """Shifts to begin from: the headers' own, and the best of a lattice about it and about the centres."""
    bright = [np.asarray(image.data, np.float64).clip(0) for image in (fixed, moving)]
    centres = []
    for image, weights in zip((fixed, moving), (bright[0] * mask, bright[1]), strict=True):
        middle = [(weights.sum(tuple({0, 1, 2} - {a})) @ np.arange(weights.shape[a])) for a in range(3)]
        middle = np.array(middle) / max(weights.sum(), 1e-30)
        centres.append(image.grid.affine[:3, :3] @ middle + image.grid.affine[:3, 3])
    steps = np.arange(-np.floor(reach_mm / SEARCH_STEP_MM), np.floor(reach_mm / SEARCH_STEP_MM) + 1)
    lattice = fixed.grid.axes @ (np.array(list(product(steps, steps, steps))).T * SEARCH_STEP_MM)
    tried = []
    for origin in (np.zeros(3), centres[1] - centres[0]):
        for shift in lattice.T:
            start = replace(header, transform=about(np.zeros(3), np.eye(3), origin + shift))
            if comparison.overlap(start.transform) >= LEAST_OVERLAP:
                tried.append(start)
    return [header, *spaced(tried, comparison, RIVAL_MM)]


def _cost(one: Aligned, comparison: Comparison) -> float:
    """What counts against a position, nats: what repeats along the body agrees with itself one level further
    too, and a small part of it with much."""
    moved, outside = displacement_mm(one.transform, comparison.region), 1 - comparison.overlap(one.transform)
    return OUTSIDE_NATS * outside + PRIOR_NATS * (moved / PRIOR_MM) ** 2 / 2


def _apart_mm(one: Aligned, other: Aligned, comparison: Comparison) -> float:
    return displacement_mm(np.linalg.inv(other.transform) @ one.transform, comparison.region)


def spaced(tried: Sequence[Aligned], comparison: Comparison, apart_mm: float) -> list[Aligned]:
    """The most believable, each so far from the others: `KEPT` at most. Those that take too much of the body
    out of the moving image count only where all do."""
    there = [one for one in tried if comparison.overlap(one.transform) >= LEAST_OVERLAP] or tried
    doubts = np.array([_cost(one, comparison) - comparison.within(one) for one in there])
    kept: list[Aligned] = []
    for number in np.argsort(doubts, kind="stable"):
        if all(_apart_mm(there[number], other, comparison) >= apart_mm for other in kept):
            kept.append(there[number])
        if len(kept) == KEPT:
            break
    return kept


def _leads(tried: Sequence[Aligned], comparison: Comparison) -> Float:
    """(n, n) nats that each has more than each other, at the points that both have in the moving image: of
    fewer points, or other ones, information is not the same measure."""
    inside = [comparison.inside(comparison.displaced(one), one.transform) for one in tried]
    leads = np.zeros((len(tried), len(tried)))
    for i, j in combinations(range(len(tried)), 2):
        both = inside[i] & inside[j]
        shared = both if both.mean() >= LEAST_SHARED else None
        leads[i, j] = comparison.within(tried[i], shared) - comparison.within(tried[j], shared)
    return np.asarray(leads - leads.T)


def best(tried: Sequence[Aligned], comparison: Comparison) -> list[Aligned]:
    """The best of the most believable, in the order of what they have more than the strongest of the others.

    The first is told how it stands to its nearest rival.
    """
    kept = spaced(tried, comparison, APART_MM)
    costs = np.array([_cost(one, comparison) for one in kept])
    leads = _leads(kept, comparison)
    against = leads - (costs[:, None] - costs)
    np.fill_diagonal(against, math.inf)
    order = np.argsort(-against.min(axis=1), kind="stable")
    first = kept[order[0]]
    far = [_apart_mm(first, other, comparison) for other in kept]
    rivals = [(leads[order[0], n], mm) for n, mm in enumerate(far) if mm >= RIVAL_MM]
    lead, mm = min(rivals, default=(math.inf, 0.0))
    first = replace(first, lead=float(lead), rival_mm=float(mm))
    return [first, *(kept[n] for n in order[1:])]


def aside(tried: Sequence[Aligned], comparison: Comparison, reach_mm: float) -> list[Aligned]:
    """Those tried, and the best of what lies beside them along each axis: where tissue hardly changes along
    the body, the coarsest level does not tell how far along."""
    beside = list(tried)
    steps = np.arange(ASIDE_MM, reach_mm + 1e-6, ASIDE_MM)
    for one, axis, shift in product(tried, comparison.region.axes.T, (*steps, *-steps)):
        transform = one.transform @ about(np.zeros(3), np.eye(3), axis * shift)
        beside.append(replace(one, transform=transform))
    return spaced(beside, comparison, RIVAL_MM)
