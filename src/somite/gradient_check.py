"""What can be wrong with FSL gradient files, found from their text: used by `plan` and by `load`.

Does not know the image beyond its number of volumes, so it cannot see a flipped or permuted axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.errors import Problem

B0_MAX = 50.0
"""Up to this b-value, s/mm2, a volume counts as b=0."""
UNIT_TOLERANCE = 0.01
"""Directions this close to unit length are taken as rounded, and normalised."""

_B_PLAUSIBLE = 40_000.0  # s/mm2: beyond the strongest human scanners
_B_SI = 1e6  # from here on the values can only be s/m2
_B_MILLI = 10.0  # up to here the largest can only be ms/um2
_SAME_DIRECTION_DEG = 1.0


@dataclass(frozen=True)
class Series:
    """The gradient files of one series, and how many volumes its image has."""

    bval: Path | None
    bvec: Path | None
    n_volumes: int


def check_gradients(
    bval_path: Path | None, bvec_path: Path | None, n_volumes: int, b0_max: float = B0_MAX
) -> tuple[Problem, ...]:
    """All that is wrong with the gradient files of a single series. See `check_group`."""
    return check_group([Series(bval_path, bvec_path, n_volumes)], b0_max)


def check_group(group: Sequence[Series], b0_max: float = B0_MAX) -> tuple[Problem, ...]:
    """All that is wrong with the gradient files of series that are to be joined.

    Each file: `NO_BVAL`, `NO_BVEC`, `GRADIENT_UNREADABLE`, `GRADIENT_COUNT`, `BVEC_TRANSPOSED`,
    `BVEC_NOT_UNIT`, `BVAL_UNITS`, `BVAL_WRAPPED`. All together: `NO_B0`, `FEW_DIRECTIONS`; these are looked
    for only where no file has a problem of its own.
    """
    problems = [problem for series in group for problem in _check_series(series, b0_max)]
    if problems:
        return tuple(problems)
    tables = [read_table(series.bval, series.bvec) for series in group if series.bval and series.bvec]
    where = ", ".join(str(series.bvec) for series in group)
    bvals = np.concatenate([table[0] for table in tables])
    return tuple(_check_scheme(bvals, np.concatenate([table[1] for table in tables]), where, b0_max))


def read_table(bval: Path, bvec: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """b-values (n,) in s/mm2 and directions (n, 3) as they stand in files that have passed the checks."""
    return np.loadtxt(bval, ndmin=1, dtype=np.float64).ravel(), np.loadtxt(bvec, ndmin=2, dtype=np.float64).T


def not_quite_unit(
    bvals: NDArray[np.float64], directions: NDArray[np.float64], b0_max: float = B0_MAX
) -> NDArray[np.intp]:
    """Weighted volumes whose direction is off unit length by more than four decimals round away."""
    norms = np.linalg.norm(directions, axis=1)
    return np.flatnonzero((bvals > b0_max) & (np.abs(norms - 1) > 2e-4))


def name_volumes(volumes: Sequence[int] | NDArray[np.intp], most: int = 8) -> str:
    """`volumes 0, 3, 7 and 12 more`, counted from 0."""
    listed = ", ".join(str(int(v)) for v in volumes[:most])
    more = f" and {len(volumes) - most} more" if len(volumes) > most else ""
    return f"volume{'s' if len(volumes) > 1 else ''} {listed}{more} (counted from 0)"


def _check_series(series: Series, b0_max: float) -> list[Problem]:
    problems: list[Problem] = []
    rows: list[list[list[float]] | None] = []
    for code, kind, path in (("NO_BVAL", "b-value", series.bval), ("NO_BVEC", "direction", series.bvec)):
        found = _read_rows(path) if path is not None and path.is_file() else _absent(code, kind, path)
        if isinstance(found, Problem):
            problems.append(found)
            rows.append(None)
        else:
            rows.append(found)
    bval_rows, bvec_rows = rows
    if bval_rows is not None:
        problems += _check_bval(bval_rows, str(series.bval), series.n_volumes)
    if bvec_rows is not None:
        problems += _check_bvec_shape(bvec_rows, str(series.bvec), series.n_volumes)
    if not problems and bval_rows and bvec_rows:
        bvals, directions = np.array(bval_rows[0]), np.array(bvec_rows).T
        problems += _check_lengths(bvals, directions, str(series.bvec), b0_max)
    return problems


def _absent(code: str, kind: str, path: Path | None) -> Problem:
    suffix = code[3:].lower()
    return Problem(
        code,
        f"the series has no {kind} file",
        where=str(path) if path is not None else "",
        found="no such file",
        expected=f"a .{suffix} file beside the image, or where BIDS inheritance finds it",
        do=f"add the .{suffix} file that the converter wrote (dcm2niix writes it with the image)",
    )


def _read_rows(path: Path) -> list[list[float]] | Problem:
    """The numbers of each line that is not blank."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return _not_numbers(str(path), str(error))
    for number, line in enumerate(lines, 1):
        values = []
        for word in line.split():
            try:
                value = float(word)
            except ValueError:
                return _not_numbers(f"{path}, line {number}", repr(word))
            if not np.isfinite(value):
                return _not_numbers(f"{path}, line {number}", repr(word))
            values.append(value)
        if values:
            rows.append(values)
    return rows or _not_numbers(str(path), "an empty file")


def _not_numbers(where: str, found: str) -> Problem:
    return Problem(
        "GRADIENT_UNREADABLE",
        "the gradient file is not a table of finite numbers",
        where=where,
        found=found,
        expected="numbers parted by spaces",
        do="write the file again with the converter, or mend the value by hand",
    )


def _check_bval(rows: list[list[float]], where: str, n_volumes: int) -> list[Problem]:
    problems = []
    values = np.array([value for row in rows for value in row])
    if len(rows) > 1:
        problems.append(
            Problem(
                "BVAL_WRAPPED",
                "the b-values are broken over several lines",
                where=where,
                found=f"{len(rows)} lines",
                expected="all values on one line",
                do="join the lines, for instance: xargs < FILE > NEW",
            )
        )
    if len(values) != n_volumes:
        problems.append(_count(where, f"{len(values)} b-values", n_volumes))
    problems += _check_bval_range(values, where)
    return problems


def _check_bval_range(values: NDArray[np.float64], where: str) -> list[Problem]:
    largest = float(values.max())
    bad = np.flatnonzero((values < 0) | ((values > _B_PLAUSIBLE) & (largest < _B_SI)))
    if len(bad):
        return [
            Problem(
                "BVAL_WRAPPED",
                "b-values are out of range, as when integers of 16 bits overflow",
                where=where,
                found=f"{values[bad[0]]:g} for {name_volumes(bad)}",
                expected=f"0 to {_B_PLAUSIBLE:g} s/mm2",
                do="take the b-values from the scanner's protocol, and correct the file",
            )
        ]
    if largest < _B_SI and not 0 < largest <= _B_MILLI:
        return []
    unit, factor = ("s/m2", "divide by 1,000,000") if largest >= _B_SI else ("ms/um2", "multiply by 1,000")
    return [
        Problem(
            "BVAL_UNITS",
            f"the b-values seem to be in {unit}",
            where=where,
            found=f"a largest b-value of {largest:g}",
            expected="s/mm2, as BIDS and FSL have them, such as 1000",
            do=factor,
        )
    ]


def _check_bvec_shape(rows: list[list[float]], where: str, n_volumes: int) -> list[Problem]:
    lengths = {len(row) for row in rows}
    if len(rows) == 3 and lengths == {n_volumes}:
        return []
    problems = []
    found = f"{len(rows)} rows of {' or '.join(str(n) for n in sorted(lengths))} values"
    if len(rows) != 3 and lengths == {3}:
        problems.append(
            Problem(
                "BVEC_TRANSPOSED",
                "the directions are stored one per row",
                where=where,
                found=found,
                expected=f"3 rows (x, y, z) of {n_volumes} values",
                do="transpose the file: rows become columns",
            )
        )
        if len(rows) == n_volumes:
            return problems
    return [*problems, _count(where, found, n_volumes)]


def _count(where: str, found: str, n_volumes: int) -> Problem:
    return Problem(
        "GRADIENT_COUNT",
        "the gradient file does not have one entry per volume of the image",
        where=where,
        found=found,
        expected=f"{n_volumes} volumes, so {n_volumes} values in each row",
        do="check that image and gradients come from one conversion, and that no volume was dropped from one",
    )


def _check_lengths(
    bvals: NDArray[np.float64], directions: NDArray[np.float64], where: str, b0_max: float
) -> list[Problem]:
    norms = np.linalg.norm(directions, axis=1)
    bad = np.flatnonzero((bvals > b0_max) & (np.abs(norms - 1) > UNIT_TOLERANCE))
    if not len(bad):
        return []
    if (norms[bad] == 0).all():
        do = "a weighted volume without direction is often a trace image that the scanner appended: remove it"
    else:
        do = "some scanners shorten directions by sqrt(b/b_max): put that into the b-values, then normalise"
    return [
        Problem(
            "BVEC_NOT_UNIT",
            "directions of diffusion-weighted volumes are not of unit length",
            where=where,
            found=f"length {norms[bad].min():.4g} to {norms[bad].max():.4g} in {name_volumes(bad)}",
            expected=f"length 1 within {UNIT_TOLERANCE:.0%}",
            do=do,
        )
    ]


def _check_scheme(
    bvals: NDArray[np.float64], directions: NDArray[np.float64], where: str, b0_max: float
) -> list[Problem]:
    problems = []
    weighted = bvals > b0_max
    if weighted.all():
        problems.append(
            Problem(
                "NO_B0",
                "no volume without diffusion weighting",
                where=where,
                found=f"a smallest b-value of {bvals.min():g} s/mm2",
                expected=f"at least one volume with b at most {b0_max:g} s/mm2",
                do="add the b=0 series of the same acquisition to the group of runs",
            )
        )
    units = directions[weighted]
    n_distinct, rank = count_directions(units), tensor_rank(units)
    if n_distinct < 6 or rank < 6:
        degenerate = n_distinct >= 6
        problems.append(
            Problem(
                "FEW_DIRECTIONS",
                "the directions do not determine a tensor"
                if degenerate
                else "too few directions for a tensor",
                where=where,
                found=f"{n_distinct} distinct directions"
                + (f", which fix {rank} of the tensor's 6 elements" if degenerate else ""),
                expected="at least 6, opposites counted once, not all in one plane or on one cone",
                do="check the file; a series of 3 directions gives a mean diffusivity only",
            )
        )
    return problems


def count_directions(directions: NDArray[np.float64]) -> int:
    """Distinct directions among unit vectors (n, 3), opposites counted once, within one degree."""
    distinct = np.empty((0, 3))
    nearest = np.cos(np.deg2rad(_SAME_DIRECTION_DEG))
    for direction in directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12):
        if not (np.abs(distinct @ direction) > nearest).any():
            distinct = np.vstack([distinct, direction])
    return len(distinct)


def tensor_rank(directions: NDArray[np.float64]) -> int:
    """How many of the 6 elements of a symmetric tensor unit vectors (n, 3) determine."""
    if not len(directions):
        return 0
    x, y, z = directions.T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], 1)
    return int(np.linalg.matrix_rank(design, tol=1e-3 * np.sqrt(len(design))))
