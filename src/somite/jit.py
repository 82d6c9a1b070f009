"""Loops compiled to machine code, for what numpy has no batched form of. Kept on disk between processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, update_wrapper
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_KERNELS: list[Kernel] = []


class Kernel:
    """A function that is compiled at its first call; only then is numba loaded."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        update_wrapper(self, function)
        _KERNELS.append(self)

    def __call__(self, *values: Any) -> Any:
        """As the function that was written."""
        return self.machine(*values)

    @cached_property
    def machine(self) -> Any:
        """What numba made of it and of the kernels that it calls."""
        import numba

        function = self.function
        called = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        known = {name: kernel.machine for name, kernel in called.items() if isinstance(kernel, Kernel)}
        own = FunctionType(function.__code__, function.__globals__ | known, function.__name__)
        fast = {"reassoc", "contract", "nsz", "arcp"}
        made = numba.njit(nogil=True, error_model="numpy", fastmath=fast)(update_wrapper(own, function))
        _keep(made)
        return made


def compiled(function: F) -> F:
    """Compile a function of arrays and numbers at its first call, without Python's lock while it runs.

    The machine code is kept in `NUMBA_CACHE_DIR`, else beside the module, else in the user's cache; where
    none of them can be written, it is compiled anew in each process. Sums may be reordered and multiplied
    with addition in one rounding, the same way at every run on one processor; NaN and infinity keep their
    meaning.
    """
    return cast(F, Kernel(cast(FunctionType, function)))


def keep_in(folder: Path) -> None:
    """From now on keep the machine code in a folder, where it cannot be kept beside the modules."""
    if "NUMBA_CACHE_DIR" in os.environ or os.access(Path(__file__).parent, os.W_OK):
        return
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    import numba

    numba.core.config.reload_config()
    for kernel in _KERNELS:
        if "machine" in vars(kernel):
            _keep(kernel.machine)


def _keep(kernel: Any) -> None:
    with suppress(RuntimeError):  # no folder can be written
        kernel.enable_caching()
