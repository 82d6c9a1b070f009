"""Imported once by the server that sessions are forked from: every step with its libraries."""

from somite.registry import discover

discover()
