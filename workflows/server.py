"""The server that sessions are forked from. Imports nothing heavy: it is started before all else."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver


def start() -> None:
    """Start the server, which loads every step with its libraries while this process reads the dataset."""
    # Steps place their threads themselves.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["somite.workflows.preload"])
    # The folder that the user stands in must not be searched for modules: it may hold one called somite.
    os.environ["PYTHONSAFEPATH"] = "1"
    forkserver.ensure_running()
    del os.environ["PYTHONSAFEPATH"]
