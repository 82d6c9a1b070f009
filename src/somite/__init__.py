"""Somite: BIDS diffusion MRI in, segment-level DTI tables out."""

__version__ = "0.1.0"
