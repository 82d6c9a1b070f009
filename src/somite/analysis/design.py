"""Columns of a linear model: covariates as numbers or as categories, and the formula that says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """A design matrix (n, k) without intercept, its columns' names, its terms, and a typical person."""

    matrix: Array
    names: tuple[str, ...]
    terms: tuple[str, ...]
    typical: Array
    """Row of the person at whom adjusted means are taken: mean of the numbers, categories in equal parts."""
    owners: tuple[int, ...]
    """The term that each column belongs to."""


def is_categorical(column: pd.Series) -> bool:
    """Whether a column holds categories rather than numbers."""
    return not pd.api.types.is_numeric_dtype(column)


def group_text(column: pd.Series) -> NDArray[np.object_]:
    """The values of a column as names of groups: 1.0 is `1`."""
    if is_categorical(column):
        return column.to_numpy(object)
    return np.array([f"{value:g}" for value in column], object)


def covariates(frame: pd.DataFrame, names: Sequence[str], first: Mapping[str, str] | None = None) -> Design:
    """Numbers as they are, categories as indicators of all but the first of their sorted values.

    Args:
        frame: people, or rows of people.
        names: columns, or interactions of them, `group:visit`: all products of their columns.
        first: column -> the category that the others are compared with, where it is not the first sorted.
    """
    blocks: list[tuple[Array, list[str], list[float]]] = []
    terms = []
    for name in names:
        parts = name.split(":")
        block, term = _columns(frame[parts[0]], parts[0], first or {})
        for part in parts[1:]:
            other, other_term = _columns(frame[part], part, first or {})
            block, term = _products(block, other), f"{term}:{other_term}"
        blocks.append(block)
        terms.append(term)
    matrix = np.hstack([block[0] for block in blocks]) if blocks else np.empty((len(frame), 0))
    labels = tuple(label for block in blocks for label in block[1])
    typical = np.array([value for block in blocks for value in block[2]], float)
    owners = tuple(i for i, block in enumerate(blocks) for _ in block[1])
    return Design(matrix, labels, tuple(terms), typical, owners)


def _columns(
    column: pd.Series, name: str, first: Mapping[str, str]
) -> tuple[tuple[Array, list[str], list[float]], str]:
    """Columns of a variable, their names and typical values; and its term in a formula."""
    if not is_categorical(column):
        numbers = column.to_numpy(float)[:, None]
        return (numbers, [name], [float(numbers.mean()) if len(numbers) else 0.0]), name
    values = group_text(column)
    levels = sorted(set(values))
    reference = first.get(name, levels[0] if levels else "")
    others = [level for level in levels if level != reference]
    indicators = [(values == level).astype(float) for level in others]
    matrix = np.column_stack(indicators) if indicators else np.empty((len(values), 0))
    term = f"C({name}, Treatment('{reference}'))" if name in first else f"C({name})"
    return (
        matrix,
        [f"{name} {level} - {reference}" for level in others],
        [1 / len(levels)] * len(others),
    ), term


def _products(
    a: tuple[Array, list[str], list[float]], b: tuple[Array, list[str], list[float]]
) -> tuple[Array, list[str], list[float]]:
    pairs = [(i, j) for i in range(len(a[1])) for j in range(len(b[1]))]
    columns = [a[0][:, i] * b[0][:, j] for i, j in pairs]
    matrix = np.column_stack(columns) if columns else np.empty((len(a[0]), 0))
    return matrix, [f"({a[1][i]}) : ({b[1][j]})" for i, j in pairs], [a[2][i] * b[2][j] for i, j in pairs]


def fault(columns: Array, names: Sequence[str]) -> str:
    """Why an intercept and these columns (n, k) have no single solution; `""` where they have one."""
    n, k = columns.shape
    if n <= k + 1:
        return f"too few people for {k + 1} parameters: {n}"
    scale = columns.std(axis=0)
    for name, spread, column in zip(names, scale, columns.T, strict=True):
        if spread <= 1e-12 * np.abs(column).max():
            return f"{name} has one value only"
    centred = (columns - columns.mean(axis=0)) / scale
    for i in range(2, k + 1):
        if np.linalg.matrix_rank(centred[:, :i], tol=1e-8 * np.sqrt(n)) < i:
            return f"{names[i - 1]} follows from {', '.join(names[: i - 1])}"
    return ""
