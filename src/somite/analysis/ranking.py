"""How abnormal each level and side of a patient is, and which of them stands out.

A patient's cells are the levels and sides that were measured. A z score says how far a cell lies to the side
of disease, in standard deviations of what is normal for it; what is normal is estimated without the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEWEST = 3
"""Values from which a mean and a standard deviation are estimated."""


def against_reference(values: Floats, reference: Bools) -> Floats:
    """z of each cell against the same cell of the reference people, the person left out of them.

    Args:
        values: (people, cells), NaN where not measured.
        reference: (people,) who is in the reference.

    Returns:
        (people, cells), NaN with fewer than 3 others, or when those do not vary. Scaled as the prediction of
        one further value: the standard deviation is multiplied by sqrt(1 + 1/n) (Crawford and Howell 1998).
    """
    z = np.full(values.shape, np.nan)
    for person in range(len(values)):
        others = reference.copy()
        others[person] = False
        z[person] = _standardised(values[person], values[others])
    return z


def against_self(values: Floats, usual: Bools | None = None) -> Floats:
    """z of each cell against the patient's own other cells, the usual course over the cells taken away.

    The usual course is the median of the other people's cells, each less the median of the person: it is not
    moved by one diseased cell a person. The cells of a person without it are compared with one another.

    Args:
        values: (people, cells), NaN where not measured.
        usual: (people,) whose course is the usual one; None: everybody's. Where many patients have the same
            diseased cell, the course of them all would bend towards it.

    Returns:
        (people, cells), NaN with fewer than 3 other cells or when those do not vary.
    """
    level = values - _median(values, 1)[:, None]
    z = np.full(values.shape, np.nan)
    for person, own in enumerate(values):
        others = level[_others(person, len(values), usual)]
        course = np.nan_to_num(_median(others, 0)) if len(others) else np.zeros(len(own))
        rest = own - course
        for cell in np.flatnonzero(~np.isnan(rest)):
            z[person, cell] = _standardised(rest[[cell]], np.delete(rest, cell)[:, None])[0]
    return z


def against_other_side(values: Floats, other: NDArray[np.intp], usual: Bools | None = None) -> Floats:
    """z of each cell's difference from the other side, against that of the other people.

    The standard deviation is 1.4826 times the median absolute deviation of the other people's differences,
    which their own diseased cells do not widen much.

    Args:
        values: (people, cells), NaN where not measured.
        other: (cells,) place of the cell of the same level on the other side; -1 where there is none.
        usual: (people,) whose differences are the usual ones; None: everybody's.
    """
    differences = np.where(other >= 0, values - values[:, other], np.nan)
    z = np.full(values.shape, np.nan)
    for person, own in enumerate(differences):
        others = differences[_others(person, len(values), usual)]
        centre = _median(others, 0)
        spread = 1.4826 * _median(np.abs(others - centre), 0)
        enough = ((~np.isnan(others)).sum(0) >= FEWEST) & (spread > 0)
        z[person, enough] = (own - centre)[enough] / spread[enough]
    return z


def _others(person: int, people: int, usual: Bools | None) -> Bools:
    """Who is held against a person (people,): those who are usual, never the person."""
    others = np.ones(people, bool) if usual is None else usual.copy()
    others[person] = False
    return others


def _median(values: Floats, axis: int) -> Floats:
    """Median without NaN; NaN where there is nothing."""
    ordered = np.sort(values, axis=axis)  # NaN come last
    count = (~np.isnan(values)).sum(axis)
    low, high = (np.maximum(count - 1, 0) // 2, count // 2)
    picks = [
        np.take_along_axis(ordered, np.expand_dims(np.minimum(i, values.shape[axis] - 1), axis), axis)
        for i in (low, high)
    ]
    middle = np.squeeze((picks[0] + picks[1]) / 2, axis)
    return np.where(count > 0, middle, np.nan)


def _standardised(own: Floats, others: Floats) -> Floats:
    """z (cells,) of a person's cells against those of others (people, cells), as one further value."""
    known = ~np.isnan(others)
    n = known.sum(0)
    usable = n >= FEWEST
    safe = np.maximum(n, 1)
    mean = np.where(known, others, 0).sum(0) / safe
    spread = np.sqrt(np.where(known, (others - mean) ** 2, 0).sum(0) / np.maximum(n - 1, 1))
    usable &= spread > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(usable, (own - mean) / (spread * np.sqrt(1 + 1 / safe)), np.nan)


@dataclass(frozen=True)
class Rank:
    """Where the recorded cell of a patient stands among the patient's cells."""

    rank: float
    """1: it stands out the most. Ties share the mean of their ranks."""
    cells: int
    """Cells that were compared."""
    top: int
    """Cell that stands out the most; the first of equals."""


def rank(z: Floats, recorded: Bools) -> Rank | None:
    """Rank of the best of the recorded cells (cells,) by z (cells,); None without a z of a recorded cell."""
    known = ~np.isnan(z)
    marked = z[known & recorded]
    if not marked.size:
        return None
    best = marked.max()
    above, level = int((z[known] > best).sum()), int((z[known] == best).sum())
    return Rank(above + (level + 1) / 2, int(known.sum()), int(np.nanargmax(z)))


def chance(cells: NDArray[np.intp], recorded: NDArray[np.intp], top: int) -> Floats:
    """Chance (patients,) that one of the recorded cells is among the first `top` when ranks are drawn."""
    miss = np.ones(len(cells))
    for drawn in range(top):
        left = np.maximum(cells - drawn, 1)
        miss *= np.clip((left - recorded) / left, 0, 1)
    return 1 - miss


def hits_by_chance(chances: Floats) -> Floats:
    """Probabilities of 0, 1, ... n hits when each patient is hit with a chance of their own (n,)."""
    law = np.ones(1)
    for p in chances:
        law = np.convolve(law, [1 - p, p])
    return law
