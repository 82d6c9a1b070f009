"""Imported once by the server that sessions are forked from: the engine, and every step."""

from somite.registry import discover
from somite.workflows import pool

__all__ = ["pool"]

discover()
