"""A cohort's long table without images: thousands of participants in seconds, for checking statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import somite
from somite.phantom.change import Change
from somite.phantom.cohort import Person
from somite.phantom.protocol import Protocol
from somite.phantom.tissue import Floats, eigenvalues
from somite.segments import COLUMNS, METRICS, NA, MetricName, Segment

VOXELS = 60
"""In each segment."""
VOXEL_SD = 0.08
"""Standard deviation of a metric over the voxels of a segment, relative to its value."""
MEASURED: tuple[MetricName, ...] = ("fa", "md", "ad", "rd")


def typical(protocol: Protocol, variant: str = "") -> dict[Segment, tuple[float, float]]:
    """FA and MD (mm2/s) of each segment of a healthy person, and of the wholes where they are measured."""
    anatomy = protocol.build(np.random.default_rng(0), variant, ())
    found: dict[Segment, tuple[float, float]] = {}
    for kind, labels in (("label", anatomy.segments), ("whole", anatomy.measured_wholes())):
        if kind == "whole" and not protocol.wholes_are_measured:
            continue
        tissues = {getattr(piece, kind): piece.tissue for piece in reversed(anatomy.pieces)}
        for label in labels:
            found.setdefault(label.segment, (tissues[label.index].fa, tissues[label.index].md))
    return found


def long_table(
    protocol: Protocol, people: Sequence[Person], normal: Mapping[Segment, tuple[float, float]]
) -> pd.DataFrame:
    """The long table of people (columns of `somite.segments`): mean FA, MD, AD and RD of every segment.

    The values are the persons' own; standard errors are those of 60 voxels that differ by 8 %. Fields that
    have no value are "n/a".
    """
    places = list(normal)
    held: dict[Change, NDArray[np.intp]] = {}
    values = np.stack([_values(person, normal, held) for person in people])  # people, places, metrics
    n, m, k = values.shape
    scale = np.array([METRICS[metric].scale for metric in MEASURED])
    value = (values * scale).ravel()
    se = VOXEL_SD * value / np.sqrt(VOXELS)
    table: dict[str, object] = dict.fromkeys(COLUMNS, NA)
    table |= {
        "participant_id": np.repeat([person.name for person in people], m * k),
        "site": "phantom",
        "protocol": protocol.name,
        "metric": np.tile(MEASURED, n * m),
        "statistic": "mean",
        "value": value,
        "se": se,
        "ci_low": value - 1.96 * se,
        "ci_high": value + 1.96 * se,
        "unit": np.tile([METRICS[metric].unit for metric in MEASURED], n * m),
        "n_voxels": VOXELS,
        "volume_mm3": VOXELS * protocol.grid().voxel_mm3,
        "weighting": "uniform",
        "extraction": "label",
        "space": "dwi",
        "rater": "phantom",
        "roi_source": "phantom",
        "model": "truth",
        "snr": protocol.snr,
        "qc_status": "pass",
        "pipeline_version": somite.__version__,
    }
    for part in ("region", "side", "level", "segment"):
        words = [getattr(place, part) or NA for place in places]
        table[part] = np.tile(np.repeat(words, k), n)
    return pd.DataFrame(table, columns=list(COLUMNS))


def _values(
    person: Person, normal: Mapping[Segment, tuple[float, float]], held: dict[Change, NDArray[np.intp]]
) -> Floats:
    """FA, MD, AD, RD (mm2/s) of each segment (places, 4). `held` keeps which segments a change holds in."""
    fa, md = (np.array([pair[i] for pair in normal.values()]) for i in (0, 1))
    for change in person.changes:
        where = Change(change.region, change.side, change.level, change.segment)
        if where not in held:
            held[where] = np.flatnonzero([where.holds(place) for place in normal])
        at = held[where]
        fa[at], md[at] = change.apply(fa[at], md[at])
    return np.stack([fa, md, *eigenvalues(fa, md)], axis=1)
