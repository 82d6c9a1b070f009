"""Whether two files hold the same: to the bit, or within a tolerance where two processors made them."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

RELATIVE = 1e-5
"""How far a value may lie from the recorded one, as a part of it, where processors differ."""
FLOOR = 1e-6
"""The same, as a part of the largest value of the map or column: what cancels has no digits of its own."""

State = Literal["equal", "close", "differs", "not compared"]


@dataclass(frozen=True)
class Sameness:
    """How a file stands to the one that it repeats."""

    state: State
    found: str = ""
    """What differs, in words."""


def compare(old: Path, new: Path, *, exact: bool) -> Sameness:
    """Compare a file with the one that it repeats.

    Args:
        old: the recorded file.
        new: the file of the rerun.
        exact: whether the contents must be the same to the bit. Otherwise numbers of maps and tables may
            differ by `RELATIVE` of themselves or `FLOOR` of the largest, and files that are neither map nor
            table, such as pictures, are not compared.
    """
    if _content(old) == _content(new):
        return Sameness("equal")
    try:
        a, b = _values(old), _values(new)
    except Exception as error:  # a reader of either format may raise anything for a damaged file
        return Sameness("differs", f"it cannot be read: {type(error).__name__}")
    if a is None or b is None:
        return Sameness("differs", "its bytes") if exact else Sameness("not compared")
    return _compare_columns(a, b, exact)


def _content(path: Path) -> bytes:
    """The bytes of a file, uncompressed: how they are compressed says nothing."""
    raw = path.read_bytes()
    try:
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError):
        return raw


Columns = dict[str, NDArray[Any]]


def _values(path: Path) -> Columns | None:
    """A map's voxels and affine, or a table's columns; None for a file that is neither."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image.from_filename(path)
        return {"voxels": np.asarray(image.dataobj), "affine": np.asarray(image.affine)}
    if path.suffix in (".bval", ".bvec"):
        return {"numbers": np.loadtxt(path, ndmin=2)}
    if path.suffix == ".tsv":
        text = path.read_text(encoding="utf-8")
        return _columns(pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False))
    return _columns(pd.read_parquet(path)) if path.suffix == ".parquet" else None


def _columns(frame: pd.DataFrame) -> Columns:
    return {str(name): frame[name].to_numpy() for name in frame}


def _compare_columns(a: Columns, b: Columns, exact: bool) -> Sameness:
    if list(a) != list(b):
        gone, came = sorted(set(a) - set(b)), sorted(set(b) - set(a))
        return Sameness(
            "differs", f"columns: without {gone}, with {came}" if gone or came else "column order"
        )
    words, close = [], True
    for name, one in a.items():
        if one.shape != b[name].shape:
            return Sameness("differs", f"size of {name}: {one.shape} -> {b[name].shape}")
        text, near = _compare_values(name, one, b[name])
        words += [text] if text else []
        close = close and near
    if not words:
        return Sameness("equal")  # a header field that says nothing of the values
    return Sameness("close" if close and not exact else "differs", "; ".join(words))


def _compare_values(name: str, a: NDArray[Any], b: NDArray[Any]) -> tuple[str, bool]:
    """What differs between two arrays, in words (empty: nothing); whether all of it is within tolerance."""
    if not (np.issubdtype(a.dtype, np.number) and np.issubdtype(b.dtype, np.number)):
        return _compare_cells(name, a.astype(str), b.astype(str))
    x, y = a.astype(np.float64), b.astype(np.float64)
    differ = (x != y) & ~(np.isnan(x) & np.isnan(y))
    if not differ.any():
        return "", True
    gap = np.abs(x - y)[differ]
    larger = np.maximum(np.abs(x), np.abs(y))
    largest = float(np.nanmax(larger))
    allowed = np.maximum(RELATIVE * larger[differ], FLOOR * largest)
    worst = float(np.max(gap / largest))
    text = f"{name}: {int(differ.sum())} of {x.size} values, by up to {worst:.2g} of the largest"
    return text, bool(np.all(gap <= allowed))


def _compare_cells(name: str, a: NDArray[Any], b: NDArray[Any]) -> tuple[str, bool]:
    """As `_compare_values`, of cells of text, some of which may be numbers."""
    differ = np.flatnonzero(a != b)
    if not differ.size:
        return "", True
    try:
        text, close = _compare_values(name, a[differ].astype(float), b[differ].astype(float))
        return text or "", close
    except ValueError:
        first = differ[0]
        text = f"{name}: {differ.size} of {a.size} cells, first in row {first + 1}: {a[first]} -> {b[first]}"
        return text, False
