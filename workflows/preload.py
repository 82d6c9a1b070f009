"""Imported once by the server that sessions are forked from: the engine, and every step."""

import os

from somite.registry import discover
from somite.workflows import pool

__all__ = ["pool"]

discover()
os.environ.pop("PYTHONSAFEPATH", None)  # meant for this server, not for the tools that sessions call
