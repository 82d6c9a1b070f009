"""The 24 ways in which the axes of a gradient table can be flipped and swapped."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


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
