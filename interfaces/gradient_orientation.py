"""Do the gradient directions lie the right way round? All flips and swaps of their axes, by fibre coherence.

Does not change anything: a table that fits the image better is named, for a person to look at. It expects the
eigenvectors of a fit with the directions in question: a flip or swap of the axes of all directions turns the
fitted tensors, and so their eigenvectors, by the same matrix, so nothing is fitted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from somite.errors import Problem
from somite.gradients import voxel_to_world
from somite.images import Grid, read_float
from somite.jit import compiled
from somite.registry import Context, Mask, StepConfig, step
from somite.segments import Column

Float = NDArray[np.float64]

STEPS = (1.0, 2.0, 3.0)
"""How far along the fibre one looks, in longest edges of a voxel: near voxels share their noise."""
BLOCK = 8.0
"""Edge of the blocks whose scatter gives the standard errors, in the same unit: neighbours are alike."""
MIN_BLOCKS = 20
MOST_VOXELS = 100_000
FA_MAX = 0.95
"""Voxels above are noise: tissue does not reach it."""


class Config(StepConfig):
    """Options of `gradient_orientation`."""

    method: Literal["coherence", "none"] = Field(
        "coherence",
        description="coherence: compare the 24 flips and swaps of the axes by the coherence of the fibres, "
        "and warn where another fits better; none: do not look",
    )
    fa_min: float = Field(0.2, ge=0, lt=FA_MAX, description="Voxels of lower FA are not used")
    margin_percent: float = Field(
        2.0, ge=0, le=100, description="By how much of its coherence the best table must lead all others, %"
    )
    margin_standard_errors: float = Field(
        4.0, ge=0, description="By how many standard errors of the difference it must lead all others"
    )


@dataclass(frozen=True)
class Table:
    """One way of turning a gradient table: new row i is row `order[i]` of the old one, row `flip` negated."""

    order: tuple[int, int, int]
    flip: int | None

    @property
    def matrix(self) -> Float:
        """(3, 3): new directions from old, in the frame of the bvec file."""
        matrix = np.eye(3)[list(self.order)]
        if self.flip is not None:
            matrix[self.flip] *= -1
        return matrix

    def __str__(self) -> str:
        """What to do with the rows of the bvec file, in words."""
        moved = [axis for axis in range(3) if self.order[axis] != axis]
        words = []
        if len(moved) == 2:
            words.append(f"swap {' and '.join('xyz'[axis] for axis in moved)}")
        elif moved:
            words.append(f"put the rows in the order {', '.join('xyz'[axis] for axis in self.order)}")
        if self.flip is not None:
            words.append(f"flip {'xyz'[self.flip]}")
        return ", then ".join(words) or "as given"


TABLES = tuple(Table((i, j, k), flip) for i, j, k in permutations(range(3)) for flip in (None, 0, 1, 2))
"""All 24, the given one first. Opposite directions are the same: of eight ways to flip axes, four differ."""


@dataclass(frozen=True)
class Coherence:
    """How well each of `TABLES` fits."""

    values: Float
    """(24,): mean squared cosine between the fibre of a voxel and those met along it, 0 to 1."""
    behind: Float
    """(24,): by how many standard errors each lies behind the best; 0 for the best."""
    blocks: int
    """Blocks of voxels that the standard errors come from."""

    @property
    def order(self) -> NDArray[np.intp]:
        """Tables from the best to the worst, the given one first among equals."""
        return np.argsort(-self.values, kind="stable")

    def leads(self, config: Config) -> bool:
        """Whether the best table leads all others by the margins, on enough of the image to say so."""
        best, others = self.order[0], self.order[1:]
        lead = 1 - self.values[others].max() / max(self.values[best], 1e-12)
        return bool(
            self.blocks >= MIN_BLOCKS
            and lead >= config.margin_percent / 100
            and self.behind[others].min() >= config.margin_standard_errors
        )


def coherence(first_eigenvector: NDArray[np.floating], fibrous: NDArray[np.bool_], grid: Grid) -> Coherence:
    """Coherence of the fibres under each of the 24 tables.

    From every fibrous voxel one looks along its eigenvector, as each table turns it, both ways and to
    several distances in mm, and takes the squared cosine between the two voxels' eigenvectors, which no table
    changes; 0 where the other voxel is not fibrous. Looks that would leave the image under any table are left
    out under all, so that a thin stack favours none.

    Args:
        first_eigenvector: (x, y, z, 3) unit vectors, world RAS+ axes.
        fibrous: (x, y, z) where they mean something.
        grid: of the image, any affine.

    Source: after the fibre coherence index of Schilling et al., Magn Reson Imaging 58 (2019) 82, which
        counts the neighbours that two aligned eigenvectors join. A mean over equal distances in mm instead
        of a count does not depend on the shape of the voxels.
    """
    voxels = np.argwhere(fibrous)
    rows = np.full(grid.shape, -1, np.int64)
    rows[fibrous] = np.arange(len(voxels))
    vectors = np.asarray(first_eigenvector[fibrous], np.float64)
    look_mm = float(grid.voxel_mm.max())
    _, blocks = np.unique(np.floor(voxels * grid.voxel_mm / (BLOCK * look_mm)), axis=0, return_inverse=True)
    n_blocks = int(blocks.max(initial=-1)) + 1
    turn, to_voxels = voxel_to_world(grid.affine), np.linalg.inv(grid.affine[:3, :3])
    moves = np.stack([look_mm * to_voxels @ turn @ table.matrix @ turn.T for table in TABLES])
    agreement, looks = np.zeros((n_blocks, len(TABLES))), np.zeros(n_blocks)
    thinned = np.arange(0, len(voxels), max(1, -(-len(voxels) // MOST_VOXELS)))
    distances = np.array([sign * one for one in STEPS for sign in (1.0, -1.0)])
    _look(thinned, voxels, vectors, rows, moves, distances, blocks.ravel(), agreement, looks)
    return _compared(agreement[looks > 0], looks[looks > 0])


def _compared(agreement: Float, looks: Float) -> Coherence:
    """Means over all looks, with the standard error of their differences by the scatter between blocks."""
    total = max(float(looks.sum()), 1.0)
    values = agreement.sum(0) / total
    scatter = (agreement - values * looks[:, None]) / total
    best = int(np.argmax(values))
    error = np.sqrt(((scatter - scatter[:, [best]]) ** 2).sum(0))
    apart = values[best] - values
    return Coherence(values, np.divide(apart, error, out=np.zeros_like(apart), where=error > 0), len(looks))


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


COLUMNS = (
    Column("change", "text", "What is done to the axes of the given directions, in the voxel frame"),
    Column("coherence", "number", "How well neighbouring fibres run on into each other, 0 to 1", "1"),
    Column("standard_errors_behind", "number", "Standard errors by which it is behind the best", "1"),
)
"""Columns of the table of the check."""


def write_table(path: Path, found: Coherence | None) -> Path:
    """A row for each table, the best first."""
    lines = ["\t".join(column.name for column in COLUMNS)]
    if found is not None:
        lines += [f"{TABLES[i]}\t{found.values[i]:.5f}\t{found.behind[i]:.2f}" for i in found.order]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _tell(found: Coherence, config: Config, context: Context) -> None:
    best, second = (int(index) for index in found.order[:2])
    context.numbers |= {
        "bvec_coherence": float(found.values[0]),
        "bvec_coherence_best": float(found.values[best]),
    }
    if not found.leads(config):
        context.infer("gradient orientation", "cannot be told", _reason(found, config))
    elif best == 0:
        context.infer(
            "gradient orientation",
            "as given",
            f"coherence {found.values[0]:.3f}, of the other 23 tables at most {found.values[second]:.3f} "
            f"({TABLES[second]}), {found.behind[second]:.1f} standard errors behind",
        )
    else:
        context.warn(
            Problem(
                "BVEC_ORIENTATION",
                "with the axes of the gradient directions turned, fibres run on more coherently",
                where="bvec, in the voxel frame of the first series",
                found=f"coherence {found.values[0]:.3f} as given; {found.values[best]:.3f} "
                f"({TABLES[best]}), {found.behind[0]:.1f} standard errors better",
                expected="the given table to fit best",
                do="look at the eigenvectors; if they run across the fibres, change the rows of the bvec "
                f"file: {TABLES[best]} (flip: change the sign). FA and MD are right all the same",
                severity="warning",
            )
        )


def _reason(found: Coherence, config: Config) -> str:
    if found.blocks < MIN_BLOCKS:
        return "too few anisotropic voxels away from the edges of the image"
    near = np.flatnonzero(
        (found.behind < config.margin_standard_errors)
        | (found.values > (1 - config.margin_percent / 100) * found.values.max())
    )
    return (
        f"the fibres run on as coherently under {len(near)} of the 24 tables, the given one "
        f"{'among them' if 0 in near else 'not among them: ' + _few([TABLES[index] for index in near])}"
    )


def _few(tables: Sequence[Table]) -> str:
    more = f" and {len(tables) - 4} more" if len(tables) > 4 else ""
    return "; ".join(map(str, tables[:4])) + more


Eigenvectors = Annotated[Path, "Eigenvectors, 4D NIfTI: x, y, z of the first, second, third, world RAS+ axes"]


@step(
    makes={"gradient_orientation": "Coherence of the fibres under each flip and swap of the axes, TSV"},
    dwi_copies=0.5,
)
def run(
    eigenvectors: Eigenvectors,
    fa: Annotated[Path, "Fractional anisotropy, 3D NIfTI"],
    mask: Mask,
    config: Config,
    context: Context,
) -> Path:
    """Score the 24 tables and warn where another than the given one fits best."""
    path = context.folder / "gradient_orientation.tsv"
    if config.method == "none":
        return write_table(path, None)
    vectors, grid = read_float(eigenvectors)
    anisotropy = read_float(fa)[0].reshape(grid.shape)
    inside = read_float(mask)[0].reshape(grid.shape) > 0
    fibrous = inside & (anisotropy > config.fa_min) & (anisotropy < FA_MAX)
    found = coherence(vectors[..., :3], fibrous, grid)
    _tell(found, config, context)
    return write_table(path, found)
