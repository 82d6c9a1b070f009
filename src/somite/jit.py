"""Loops compiled to machine code, for what numpy has no batched form of. Kept on disk between processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_KERNELS: list[Any] = []


def compiled(function: F) -> F:
    """Compile a function of arrays and numbers at its first call, without Python's lock while it runs.

    The machine code is kept in `NUMBA_CACHE_DIR`, else beside the module, else in the user's cache; where
    none of them can be written, it is compiled anew in each process. Sums may be reordered and multiplied
    with addition in one rounding, the same way at every run on one processor; NaN and infinity keep their
    meaning.
    """
    kernel = numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})(
        function
    )
    _keep(kernel)
    _KERNELS.append(kernel)
    return cast(F, kernel)


def keep_in(folder: Path) -> None:
    """From now on keep the machine code in a folder, where it cannot be kept beside the modules."""
    if "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parent, os.W_OK):
        return
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    numba.core.config.reload_config()
    for kernel in _KERNELS:
        _keep(kernel)


def _keep(kernel: Any) -> None:
    with suppress(RuntimeError):  # no folder can be written
        kernel.enable_caching()
