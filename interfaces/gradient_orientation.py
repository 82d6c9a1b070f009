"""Do the gradient directions lie the right way round? All flips and swaps of their axes, by fibre coherence.

Does not change anything: a table that fits the image better is named, for a person to look at. It expects the
eigenvectors of a fit with the directions in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from somite.errors import Problem
from somite.fibre_course import Course, course
from somite.images import read_float
from somite.registry import Context, Mask, StepConfig, step
from somite.segments import Column
from somite.turned_tables import TABLES, Table

MIN_BLOCKS = 20
FA_MAX = 0.95
"""Voxels above are noise: tissue does not reach it."""


class Config(StepConfig):
    """Options of `gradient_orientation`."""

    method: Literal["coherence", "none"] = Field(
        "coherence",
        description="coherence: compare the 24 flips and swaps of the axes by how fibres run on under each, "
        "and warn where another fits better; none: do not look",
    )
    fa_min: float = Field(0.2, ge=0, lt=FA_MAX, description="Voxels of lower FA are not used")
    margin_percent: float = Field(
        5.0, ge=0, le=100, description="By how much of its score the best table must lead all others, %"
    )
    margin_standard_errors: float = Field(
        4.0, ge=0, description="By how many standard errors of the difference it must lead all others"
    )


def leads(found: Course, config: Config) -> bool:
    """Whether the best table leads all others by the margins, on enough of the image to say so."""
    return bool(
        found.blocks >= MIN_BLOCKS
        and found.lead > config.margin_percent / 100
        and found.behind[found.order[1:]].min() >= config.margin_standard_errors
    )


COLUMNS = (
    Column("change", "text", "What is done to the axes of the given directions, in the voxel frame"),
    Column("score", "number", "Mean of coherence and straightness by how much each of them tells", "1"),
    Column("coherence", "number", "How alike fibres are to those they lead to; 0: the tables' average", "1"),
    Column(
        "straightness",
        "number",
        "1 less the change of direction along fibres over that in any way",
        "1",
    ),
    Column("standard_errors_behind", "number", "Standard errors by which its score is behind the best", "1"),
)
"""Columns of the table of the check."""


def write_table(path: Path, found: Course | None) -> Path:
    """A row for each table, the best first."""
    lines = ["\t".join(column.name for column in COLUMNS)]
    if found is not None:
        columns = (found.values, found.coherence, found.straightness, found.behind)
        rows = [[str(TABLES[i]), *(f"{column[i]:.4f}" for column in columns)] for i in found.order]
        lines += ["\t".join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _tell(found: Course, config: Config, context: Context) -> None:
    best, second = (int(index) for index in found.order[:2])
    context.numbers |= {
        "bvec_score": float(found.values[0]),
        "bvec_score_best": float(found.values[best]),
    }
    if not leads(found, config):
        context.infer("gradient orientation", "undetermined", _reason(found, config))
    elif best == 0:
        context.infer(
            "gradient orientation",
            "as given",
            f"fibres run on with a score of {found.values[0]:.3f}, under the other 23 tables of at most "
            f"{found.values[second]:.3f} ({TABLES[second]}), {found.behind[second]:.1f} standard errors less",
        )
    else:
        context.warn(
            Problem(
                "BVEC_ORIENTATION",
                "with the axes of the gradient directions turned, fibres run on more coherently",
                where="bvec, in the voxel frame of the first series",
                found=f"a score of {found.values[0]:.3f} as given; {found.values[best]:.3f} "
                f"({TABLES[best]}), {found.behind[0]:.1f} standard errors better",
                expected="the given table to fit best",
                do="look at the eigenvectors; if they run across the fibres, change the rows of the bvec "
                f"file: {TABLES[best]} (flip: change the sign). FA and MD are right all the same",
                severity="warning",
            )
        )


def _reason(found: Course, config: Config) -> str:
    if found.blocks < MIN_BLOCKS:
        return "too few anisotropic voxels away from the edges of the image"
    near = np.flatnonzero(
        (found.behind < config.margin_standard_errors)
        | (found.values >= (1 - config.margin_percent / 100) * found.values.max())
    )
    return (
        f"the fibres run on as well under {len(near)} of the 24 tables, the given one "
        f"{'among them' if 0 in near else 'not among them: ' + _few([TABLES[index] for index in near])}"
    )


def _few(tables: Sequence[Table]) -> str:
    more = f" and {len(tables) - 4} more" if len(tables) > 4 else ""
    return "; ".join(map(str, tables[:4])) + more


Eigenvectors = Annotated[Path, "Eigenvectors, 4D NIfTI: x, y, z of the first, second, third, world RAS+ axes"]


@step(
    makes={"gradient_orientation": "How fibres run on under each flip and swap of the gradient axes, TSV"},
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
    found = course(vectors[..., :3], fibrous, grid)
    _tell(found, config, context)
    return write_table(path, found)
