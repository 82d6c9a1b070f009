"""How well fibres run on under each flip and swap of the gradient axes: two measures, and one score of both.

A flip or swap of the axes of all directions turns the fitted tensors, and so their eigenvectors, by the same
matrix: nothing is fitted again. Neither measure changes when fibres, places and axes are turned together, so
which table is the right one makes no difference to whether it is found.

Coherence asks whether a fibre meets fibres like itself where it leads to. It sees where bundles end and is
the better one where they are thin. Straightness asks whether directions change less along the fibre than
across it. It sees slow changes within a muscle, of a few degrees in a centimetre, which coherence loses among
the borders between muscles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.gradients import voxel_to_world
from somite.images import Grid
from somite.jit import compiled
from somite.turned_tables import TABLES

Float = NDArray[np.float64]

STEPS = (1.0, 2.0, 3.0)
"""How far along the fibre one looks, in longest edges of a voxel: near voxels share their noise."""
WINDOW = 0.5
"""Standard deviation of the window in which change of direction is measured, in the same unit."""
REACH = 3.0
"""Radius of the window, in its standard deviations."""
BLOCK = 8.0
"""Edge of the blocks whose scatter gives the standard errors, in longest edges: neighbours are alike."""
MOST_VOXELS = 100_000
_STEADY = 0.05
"""Voxels whose directions change less than in this part of all are taken to change as little as that."""
_FLAT = 1e-3
"""Determinant of the spread of a window's voxels, whose standard deviation is near 1, below which they lie
nearly in a plane."""
_CHUNK = 8192
_COMPONENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_TWICE = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
"""How often each component of a symmetric matrix counts in its norm."""


@dataclass(frozen=True)
class Measure:
    """One measure under each of `TABLES`: on average over them 0, and 1 if all fibres ran on for ever."""

    values: Float
    """(24,)"""
    parts: Float
    """(n blocks, 24): how far each block moves `values`; they sum to 0 over blocks. All 0: nothing known."""


@dataclass(frozen=True)
class Course:
    """How well each of `TABLES` fits."""

    values: Float
    """(24,): the score, the mean of coherence and straightness by how much each of them tells."""
    coherence: Float
    """(24,): mean squared cosine between the fibre of a voxel and those met along it, above that of all
    tables on average, as a part of what could be."""
    straightness: Float
    """(24,): 1 less the squared change of direction along the fibre over that in any direction."""
    behind: Float
    """(24,): by how many standard errors the score of each lies behind the best; 0 for the best."""
    blocks: int
    """Blocks of voxels that the standard errors come from."""

    @property
    def order(self) -> NDArray[np.intp]:
        """Tables from the best to the worst, the given one first among equals."""
        return np.argsort(-self.values, kind="stable")

    @property
    def lead(self) -> float:
        """By how much the best table leads the next, as a part of its score."""
        best, second = self.values[self.order[:2]]
        return float(1 - second / max(best, 1e-12))


def course(first_eigenvector: NDArray[np.floating], fibrous: NDArray[np.bool_], grid: Grid) -> Course:
    """Score of the course of the fibres under each of the 24 tables.

    Each measure counts by its spread over the tables against the square of its standard errors, which no
    turning changes: the linear combination that tells most, if tables differ alike by both.

    Args:
        first_eigenvector: (x, y, z, 3) unit vectors, world RAS+ axes.
        fibrous: (x, y, z) where they mean something.
        grid: of the image, any affine.
    """
    voxels = np.argwhere(fibrous)
    vectors = np.asarray(first_eigenvector[fibrous], np.float64)
    rows = np.full(grid.shape, -1, np.int64)
    rows[fibrous] = np.arange(len(voxels))
    look_mm = float(grid.voxel_mm.max())
    _, blocks = np.unique(np.floor(voxels * grid.voxel_mm / (BLOCK * look_mm)), axis=0, return_inverse=True)
    thinned = np.arange(0, len(voxels), max(1, -(-len(voxels) // MOST_VOXELS)))
    fibres = _Fibres(voxels, vectors, rows, thinned, blocks.ravel(), grid, look_mm)
    met, looked_from = coherence(fibres)
    straight = straightness(fibres)
    weights = np.array([_weight(met), _weight(straight)])
    weights /= max(weights.sum(), 1e-300)
    parts = weights[0] * met.parts + weights[1] * straight.parts
    values = weights[0] * met.values + weights[1] * straight.values
    best = int(np.argmax(values))
    error = np.sqrt(((parts - parts[:, [best]]) ** 2).sum(0))
    apart = values[best] - values
    behind = np.divide(apart, error, out=np.zeros_like(apart), where=error > 0)
    return Course(values, met.values, straight.values, behind, looked_from)


def _weight(measure: Measure) -> float:
    variance = float((measure.parts**2).sum())
    return float(measure.values.std()) / variance if variance > 0 else 0.0


@dataclass(frozen=True)
class _Fibres:
    voxels: NDArray[np.int64]
    """(n, 3) indices of the fibrous voxels."""
    vectors: Float
    """(n, 3)"""
    rows: NDArray[np.int64]
    """(x, y, z): number of each fibrous voxel, -1 elsewhere."""
    thinned: NDArray[np.int64]
    """Those that are looked at."""
    blocks: NDArray[np.intp]
    """(n,)"""
    grid: Grid
    look_mm: float

    @property
    def n_blocks(self) -> int:
        return int(self.blocks.max(initial=-1)) + 1

    @property
    def turns(self) -> Float:
        """(24, 3, 3): what each table does to a fibre, world axes."""
        turn = voxel_to_world(self.grid.affine)
        return np.stack([turn @ table.matrix @ turn.T for table in TABLES])


def coherence(fibres: _Fibres) -> tuple[Measure, int]:
    """Do fibres lead to fibres like themselves? And the number of blocks from which one could look.

    From every voxel one looks along its eigenvector, as each table turns it, both ways and to several
    distances in mm, and takes the squared cosine between the two voxels' eigenvectors, which no table
    changes; 0 where the other voxel is not fibrous. Looks that would leave the image under any table are left
    out under all, so that a thin stack favours none.

    Source: after the fibre coherence index of Schilling et al., Magn Reson Imaging 58 (2019) 82, which
        counts the neighbours that two aligned eigenvectors join. A mean over equal distances in mm instead
        of a count does not depend on the shape of the voxels.
    """
    moves = fibres.look_mm * np.linalg.inv(fibres.grid.affine[:3, :3]) @ fibres.turns
    agreement, looks = np.zeros((fibres.n_blocks, len(TABLES))), np.zeros(fibres.n_blocks)
    distances = np.array([sign * one for one in STEPS for sign in (1.0, -1.0)])
    _look(
        fibres.thinned,
        fibres.voxels,
        fibres.vectors,
        fibres.rows,
        moves,
        distances,
        fibres.blocks,
        agreement,
        looks,
    )
    total = max(float(looks.sum()), 1.0)
    means = agreement.sum(0) / total
    usual = means.mean()
    parts = (agreement - means * looks[:, None]) / total
    drift = parts.mean(1, keepdims=True)
    left = max(1 - usual, 1e-12)
    parts = (parts - drift) / left + (means - usual) * drift / left**2
    return Measure((means - usual) / left, parts), int((looks > 0).sum())


@compiled
def _look(
    thinned: NDArray[np.int64],
    voxels: NDArray[np.int64],
    vectors: Float,
    rows: NDArray[np.int64],
    moves: Float,
    distances: Float,
    blocks: NDArray[np.int64],
    agreement: Float,
    looks: Float,
) -> None:
    """Add up agreement (blocks, tables) and looks (blocks,), voxel by voxel, on one thread."""
    n_tables = len(moves)
    at = np.empty((n_tables, 3), np.int64)
    for row in thinned:
        x, y, z = vectors[row]
        for distance in distances:
            inside = True
            for table in range(n_tables):
                for axis in range(3):
                    move = moves[table, axis, 0] * x + moves[table, axis, 1] * y + moves[table, axis, 2] * z
                    place = int(np.floor(voxels[row, axis] + distance * move + 0.5))
                    at[table, axis] = place
                    inside = inside and 0 <= place < rows.shape[axis]
            if not inside:
                continue
            looks[blocks[row]] += 1
            for table in range(n_tables):
                met = rows[at[table, 0], at[table, 1], at[table, 2]]
                if met >= 0:
                    cosine = x * vectors[met, 0] + y * vectors[met, 1] + z * vectors[met, 2]
                    agreement[blocks[row], table] += cosine * cosine


def straightness(fibres: _Fibres) -> Measure:
    """Do directions change less along the fibres than across them?

    Around every voxel the dyads of the eigenvectors are fitted by a linear function of place, twice: from one
    and from the other colour of a checkerboard. The product of the two gradients is the squared change of
    direction per mm in any direction, in which independent noise of the voxels cancels on average, however
    many neighbours there are. It is summed along the fibres as each table turns them, and compared with the
    mean over all directions. Voxels count by the inverse square of the change in all directions: slow changes
    within a bundle or a muscle tell where fibres lead, jumps at borders do not.

    Source: made for this step.
    """
    n_blocks = fibres.n_blocks
    along, mean, change = _changes(fibres)
    known = change[change > 0]
    if not len(known):
        return Measure(np.zeros(len(TABLES)), np.zeros((n_blocks, len(TABLES))))
    floor = max(float(np.quantile(known, _STEADY)), 1e-3 * float(known.mean()))
    weights = (floor / (change + floor)) ** 2
    blocks = fibres.blocks[fibres.thinned]
    bending = np.stack([np.bincount(blocks, weights * one, n_blocks) for one in along.T], axis=1)
    expected = np.bincount(blocks, weights * mean, n_blocks)
    total = float(expected.sum())
    if total <= 0:
        return Measure(np.zeros(len(TABLES)), np.zeros((n_blocks, len(TABLES))))
    ratio = bending.sum(0) / total
    return Measure(1 - ratio, (ratio * expected[:, None] - bending) / total)


def _changes(fibres: _Fibres) -> tuple[Float, Float, Float]:
    """Squared change of direction per window at each thinned voxel: along the fibre under each table
    (n, 24), on average over all directions (n,), both free of noise on average; and in all directions (n,),
    with noise."""
    n = len(fibres.thinned)
    along, mean, change = np.zeros((n, len(TABLES))), np.zeros(n), np.zeros(n)
    sigma = WINDOW * fibres.look_mm
    offsets, places, window = _window(fibres.grid, sigma)
    v = fibres.vectors
    dyads = np.stack([v[:, i] * v[:, j] for i, j in _COMPONENTS], axis=1)
    for start in range(0, n, _CHUNK):
        here = fibres.thinned[start : start + _CHUNK]
        normal, right = np.zeros((len(here), 2, 4, 4)), np.zeros((len(here), 2, 4, len(_COMPONENTS)))
        _gather(here, fibres.voxels, dyads, fibres.rows, offsets, places, window, normal, right)
        one, two = _slopes(normal, right)
        product = np.einsum("nac,nbc,c->nab", one, two, _TWICE)
        part = slice(start, start + len(here))
        mean[part] = np.trace(product, axis1=1, axis2=2) / 3
        change[part] = ((one**2 + two**2) @ _TWICE).sum(1)
        for table, turn in enumerate(fibres.turns):
            led = v[here] @ turn.T
            along[part, table] = np.einsum("na,nab,nb->n", led, product, led)
    return along, mean, change


def _window(grid: Grid, sigma: float) -> tuple[NDArray[np.int64], Float, Float]:
    """Voxels around one: offsets (m, 3), places (m, 3) in world axes and units of `sigma`, weights (m,)."""
    steps = np.ceil(REACH * sigma / grid.voxel_mm).astype(int)
    axes = [np.arange(-k, k + 1) for k in steps]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    places = offsets @ grid.affine[:3, :3].T / sigma
    squared = (places**2).sum(1)
    near = squared <= REACH**2 + 1e-9
    return offsets[near].astype(np.int64), places[near], np.exp(-squared[near] / 2)


def _slopes(normal: Float, right: Float) -> tuple[Float, Float]:
    """The two gradients (n, 3, 6) per window; 0 where either half lies too nearly in a plane to have one."""
    total = np.maximum(normal[..., :1, :1], 1e-12)
    first = normal[..., 1:, 0] / total[..., 0]
    spread = normal[..., 1:, 1:] / total - first[..., :, None] * first[..., None, :]
    flat = (np.linalg.det(spread) < _FLAT).any(1)
    steadied = normal + 1e-3 * total * np.eye(4)
    slopes = np.asarray(np.linalg.solve(steadied, right)[:, :, 1:], np.float64)
    slopes[flat] = 0
    return slopes[:, 0], slopes[:, 1]


@compiled
def _gather(
    here: NDArray[np.int64],
    voxels: NDArray[np.int64],
    dyads: Float,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    places: Float,
    window: Float,
    normal: Float,
    right: Float,
) -> None:
    """Normal equations of linear fits around voxels, one for each colour of a checkerboard."""
    terms = np.ones(4)
    for one in range(len(here)):
        x, y, z = voxels[here[one]]
        for m in range(len(offsets)):
            i, j, k = x + offsets[m, 0], y + offsets[m, 1], z + offsets[m, 2]
            if not (0 <= i < rows.shape[0] and 0 <= j < rows.shape[1] and 0 <= k < rows.shape[2]):
                continue
            row = rows[i, j, k]
            if row < 0:
                continue
            colour = (offsets[m, 0] + offsets[m, 1] + offsets[m, 2]) % 2
            terms[1:] = places[m]
            for a in range(4):
                for b in range(4):
                    normal[one, colour, a, b] += window[m] * terms[a] * terms[b]
                for c in range(dyads.shape[1]):
                    right[one, colour, a, c] += window[m] * terms[a] * dyads[row, c]
