"""Zones of a nerve root under all their names. Region and segment only: no side, no level, no image."""

from __future__ import annotations

NERVE_ROOT = "nerve_root"
ZONES = ("intraspinal", "foraminal_drg", "extraforaminal")
"""From the dural sac to the foramen, the foramen with the dorsal root ganglion, and beyond it."""

_SYNONYMS = {
    name: zone
    for names in (("near", "mid", "far"), ("proximal", "mid", "distal"), ("iz", "n", "ez"), ZONES)
    for name, zone in zip(names, ZONES, strict=True)
}


def zone_of(region: str, segment: str) -> str:
    """The zone that a segment of a nerve root is, under whichever name; any other segment as it is.

    Near, mid and far are the root up to the ganglion, the ganglion, and the nerve beyond it, in the studies
    of lumbar diffusion imaging; proximal, mid and distal, and Iz, N and Ez, say the same
    (docs/labels.md). Of other regions, such as a muscle with a proximal third, nothing is renamed.
    """
    return _SYNONYMS.get(segment.lower(), segment) if region == NERVE_ROOT else segment
