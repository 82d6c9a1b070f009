"""Loops compiled to machine code, for what numpy has no batched form of. Kept on disk between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function of arrays and numbers at its first call, without Python's lock while it runs.

    The machine code is kept in `NUMBA_CACHE_DIR`, else beside the module, else in the user's cache; where
    none of them can be written, it is compiled anew in each process. Sums may be reordered and multiplied
    with addition in one rounding, the same way at every run on one processor; NaN and infinity keep their
    meaning.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    }
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder for the cache can be written
        return cast(F, numba.njit(**options)(function))
