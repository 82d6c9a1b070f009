"""Imported once by the server that sessions are forked from: the engine, every step, and what those load
only where they use it."""

import importlib
import os

from somite.registry import discover
from somite.workflows import pool

__all__ = ["pool"]

_USED_LATER = (
    "SimpleITK",
    "dipy.segment.mask",
    "numba",
    "scipy.optimize",
    "somite.report.session_pictures",
    "somite.report.session_plots",
    "somite.report.writing",
)
"""By the steps of nearly every session: loaded here once, not in each of their processes."""

discover()
for name in _USED_LATER:
    importlib.import_module(name)
os.environ.pop("PYTHONSAFEPATH", None)  # meant for this server, not for the tools that sessions call
