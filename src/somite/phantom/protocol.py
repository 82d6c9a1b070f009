"""What a phantom of a protocol is: a module of its own, which hands this to whoever makes or writes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

import numpy as np

from somite.errors import ConfigError, Problem
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import NAMES
from somite.phantom.anatomy import Anatomy
from somite.phantom.change import Change
from somite.phantom.tissue import Tissue

Drawn = Literal["segments", "whole", "anatomy", "none"]
"""Which labels a rater would have drawn: the segments or the whole structures, on the diffusion series; the
whole structures on the anatomical image; or none, where an atlas brings them."""


@dataclass(frozen=True)
class Anatomical:
    """A turbo spin echo, weighted by T2, without fat suppression."""

    suffix: str = "T2w"
    voxel_mm: tuple[float, float, float] = (0.9, 0.9, 3.0)
    te_ms: float = 100.0
    tr_ms: float = 4000.0
    shift_mm: float = 5.0
    """How far the body lies from its place in the diffusion series, and how much it is turned."""
    turn_deg: float = 3.0
    snr: float = 40.0


@dataclass(frozen=True)
class Score:
    """A clinical score of patients that goes with the FA of their lesion."""

    name: str
    description: str
    mean: float
    sd: float
    low: float
    high: float
    r: float
    """Correlation with the FA of the lesion, unless another is asked for."""
    units: str = ""


@dataclass(frozen=True)
class Protocol:
    """A protocol's phantom."""

    name: str
    title: str
    """`lumbar spine`: what is synthetic."""
    about: str
    """Its tissues and lesion, for the README of a dataset."""
    about_labels: str
    gradients: Callable[[], Gradients]
    scheme: str
    """The series in words."""
    te_ms: float
    reference: Tissue
    """The tissue whose signal at b=0 is 1000, and whose SNR is that of the phantom."""
    snr: float
    grid: Callable[..., Grid]
    """As `somite.phantom.make.grid`, with the protocol's own defaults."""
    build: Callable[[np.random.Generator, str, tuple[Change, ...]], Anatomy]
    """Random numbers, variant and changes -> one participant."""
    lesion: tuple[Change, ...]
    """Of patients, unless another is asked for."""
    lesion_words: str
    score: Score
    variants: Mapping[str, str] = field(default_factory=dict)
    """Name -> what it is."""
    drawn: Drawn = "segments"
    anatomical: Anatomical | None = None
    wholes_are_measured: bool = False
    """Whether the truth has rows of the whole structures beside those of the segments."""
    points_per_axis: int = 3
    template: Callable[[], Anatomy] | None = None
    """The anatomy of an atlas, where the protocol has one."""


def find(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        ConfigError: `PROTOCOL`, there is no phantom of it.
    """
    if name not in NAMES:
        raise ConfigError(
            Problem("PROTOCOL", "there is no phantom of this protocol", found=name, expected=", ".join(NAMES))
        )
    found = import_module(f"somite.phantom.{name.replace('-', '_')}").PROTOCOL
    assert isinstance(found, Protocol)
    return found


def unknown_variant(protocol: Protocol, variant: str) -> Problem:
    """The Problem of a variant that a protocol does not have."""
    known = ", ".join(protocol.variants) or "none"
    return Problem("VARIANT", "the phantom has no such variant", found=variant, expected=known)


def seeds_of(seed: int | Sequence[int]) -> list[int]:
    """A seed as the sequence that numpy's generators take."""
    return [seed] if isinstance(seed, int) else list(seed)
