"""Permutation tests of whole profiles: clusters of neighbouring nodes, and the largest t of all nodes.

Every permutation moves whole people, so that the nodes of one person stay together and the null distribution
of the largest cluster (Bullmore et al. 1999, IEEE TMI 18:32; Maris and Oostenveld 2007, J Neurosci Methods
164:177) and of the largest |t| (Nichols and Holmes 2002, Hum Brain Mapp 15:1) holds for the correlation that
the nodes have. Covariates are dealt with as Freedman and Lane (1983) do (Winkler et al. 2014, NeuroImage
92:381). Where all permutations are no more than were asked for, all are taken, and p is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK = 256
"""Permutations that are computed at one time."""
TIE = 1e-9
"""Relative difference below which two statistics are equal: rounding depends on the order of people."""


@dataclass(frozen=True)
class Scheme:
    """Rearrangements of people, in blocks (block, n): of which each gives t of all nodes (block, nodes)."""

    blocks: Callable[[], Iterator[Array]]
    t: Callable[[Array], Array]
    identity: Array
    """The rearrangement (1, n) that leaves people as they are."""
    count: int
    exact: bool
    """Whether the blocks are all rearrangements, the identity among them."""


def _in_blocks(rows: Iterator[Array]) -> Iterator[Array]:
    block: list[Array] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield np.array(block)
            block = []
    if block:
        yield np.array(block)


def two_groups(values: Array, first: Flags, welch: bool, count: int, random: np.random.Generator) -> Scheme:
    """Labels of two groups exchanged; t of Welch or Student for each node.

    Args:
        values: (n, nodes) without gaps.
        first: (n,) who is of the first group; t is positive where the first is larger.
        welch: unequal variances.
        count: random permutations, where there are more than as many.
        random: the random numbers.
    """
    n, n1 = len(first), int(first.sum())
    centred = values - values.mean(axis=0)
    squares, total, total_squares = centred**2, centred.sum(axis=0), (centred**2).sum(axis=0)

    def t(labels: Array) -> Array:
        sums, sums_of_squares = labels @ centred, labels @ squares
        m1, m2 = sums / n1, (total - sums) / (n - n1)
        ss1 = np.clip(sums_of_squares - n1 * m1**2, 0, None)
        ss2 = np.clip(total_squares - sums_of_squares - (n - n1) * m2**2, 0, None)
        if welch:
            variance = ss1 / (n1 - 1) / n1 + ss2 / (n - n1 - 1) / (n - n1)
        else:
            variance = (ss1 + ss2) / (n - 2) * (1 / n1 + 1 / (n - n1))
        return _ratio(m1 - m2, np.sqrt(variance))

    def rows() -> Iterator[Array]:
        if exact:
            for chosen in combinations(range(n), n1):
                labels = np.zeros(n)
                labels[list(chosen)] = 1
                yield labels
        else:
            for _ in range(count):
                yield first[random.permutation(n)].astype(float)

    exact = math.comb(n, n1) <= count
    number = math.comb(n, n1) if exact else count
    return Scheme(lambda: _in_blocks(rows()), t, first[None].astype(float), number, exact)


def one_sample(differences: Array, count: int, random: np.random.Generator) -> Scheme:
    """Signs of the differences of pairs (n, nodes) flipped, person by person; paired t of each node."""
    n = len(differences)
    squares = (differences**2).sum(axis=0)

    def t(signs: Array) -> Array:
        mean = signs @ differences / n
        variance = np.clip(squares - n * mean**2, 0, None) / (n - 1) / n
        return _ratio(mean, np.sqrt(variance))

    def rows() -> Iterator[Array]:
        if exact:
            yield from (np.array(signs) for signs in product((1.0, -1.0), repeat=n))
        else:
            for _ in range(count):
                yield np.array([1.0, -1.0])[random.integers(0, 2, n)]

    exact = n < 60 and 2**n <= count
    return Scheme(lambda: _in_blocks(rows()), t, np.ones((1, n)), 2**n if exact else count, exact)


def regression(values: Array, x: Array, given: Array, count: int, random: np.random.Generator) -> Scheme:
    """t of x in values ~ 1 + x + given at each node; residuals of values on `given` are permuted.

    Args:
        values: (n, nodes).
        x: (n,) the column of interest: numbers, or 1 and 0 for two groups.
        given: (n, k) covariates, without intercept.
        count: random permutations.
        random: the random numbers.
    """
    n = len(x)
    basis = np.linalg.qr(np.column_stack([np.ones(n), given]))[0]
    own = x - basis @ (basis.T @ x)
    own /= np.linalg.norm(own)
    residuals = values - basis @ (basis.T @ values)
    total = (residuals**2).sum(axis=0)
    df = n - basis.shape[1] - 1
    columns = np.column_stack([own, basis])

    def t(orders: Array) -> Array:
        moved = columns[orders.astype(np.intp)]  # the residuals stay, the model is permuted the other way
        loadings = np.einsum("bnk,nm->bkm", moved, residuals, optimize=True)
        slope = loadings[:, 0]
        error = total - (loadings**2).sum(axis=1)
        return _ratio(slope, np.sqrt(np.clip(error, 0, None) / df))

    def rows() -> Iterator[Array]:
        for _ in range(count):
            yield random.permutation(n).astype(float)

    return Scheme(lambda: _in_blocks(rows()), t, np.arange(n, dtype=float)[None], count, exact=False)


def _ratio(above: Array, below: Array) -> Array:
    """0 where both are 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


@dataclass(frozen=True)
class Cluster:
    """Neighbouring nodes, the first to the last, whose t are beyond the threshold and of one sign."""

    first: int
    last: int
    mass: float
    """Sum of |t|."""
    sign: int


def clusters(t: Array, threshold: float, joined: Flags) -> list[Cluster]:
    """Clusters of one profile t (nodes,); `joined` (nodes,): whether a node follows the one before."""
    found: list[Cluster] = []
    for node, value in enumerate(t):
        if abs(value) < threshold:
            continue
        sign, size = int(np.sign(value)), float(abs(value))
        last = found[-1] if found else None
        if last is not None and last.last == node - 1 and last.sign == sign and joined[node]:
            found[-1] = Cluster(last.first, node, last.mass + size, sign)
        else:
            found.append(Cluster(node, node, size, sign))
    return found


def largest_mass(t: Array, threshold: float, joined: Flags, by_length: bool) -> Array:
    """Largest cluster of each of many profiles t (b, nodes): sum of |t|, or number of nodes; 0 for none."""
    best, run = np.zeros(len(t)), np.zeros(len(t))
    before = np.zeros(len(t))
    for node in range(t.shape[1]):
        size = np.abs(t[:, node])
        sign = np.sign(t[:, node]) * (size >= threshold)
        goes_on = (sign == before) & joined[node]
        run = np.where(sign != 0, np.where(goes_on, run, 0) + (1 if by_length else size), 0)
        best = np.maximum(best, run)
        before = sign
    return best


@dataclass(frozen=True)
class Found:
    """What the permutations gave: t and p of each node, clusters and their p."""

    t: Array
    p_node: Array
    """(nodes,) pointwise, two-sided."""
    p_max: Array
    """(nodes,) corrected by the largest |t|."""
    clusters: tuple[Cluster, ...]
    p_cluster: tuple[float, ...]
    count: int
    exact: bool


def run(scheme: Scheme, threshold: float, joined: Flags, by_length: bool) -> Found:
    """Go through the rearrangements. p = (1 + as extreme) / (1 + count), or the share of all where exact."""
    t = scheme.t(scheme.identity)[0]
    own = clusters(t, threshold, joined)
    size = np.array([c.last - c.first + 1 if by_length else c.mass for c in own])
    as_node, as_max, as_cluster = np.zeros(len(t)), np.zeros(len(t)), np.zeros(len(own))
    limit = np.abs(t) * (1 - TIE)
    for block in scheme.blocks():
        null = scheme.t(block)
        absolute = np.abs(null)
        as_node += (absolute >= limit).sum(axis=0)
        as_max += (absolute.max(axis=1)[:, None] >= limit).sum(axis=0)
        largest = largest_mass(null, threshold, joined, by_length)
        as_cluster += (largest[:, None] >= size * (1 - TIE)).sum(axis=0)
    extra = 0 if scheme.exact else 1
    node, most, cluster = ((x + extra) / (scheme.count + extra) for x in (as_node, as_max, as_cluster))
    return Found(t, node, most, tuple(own), tuple(map(float, cluster)), scheme.count, scheme.exact)
