"""Datasets whose truth is known. Each protocol's phantom is a module that ends in its `PROTOCOL`."""

NAMES = ("lumbar", "thigh", "brain-als")
"""Protocols that have a phantom."""
