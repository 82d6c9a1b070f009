"""What a lesion does to the diffusion of a place, and how one person's differs from the next one's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from somite.errors import ConfigError, Problem
from somite.phantom.tissue import Floats, eigenvalues
from somite.segments import Segment

FA_MAX = 0.98


@dataclass(frozen=True)
class Change:
    """A change of FA and MD in every segment that it names; `""` names any.

    Values replace (`fa`, `md`), then differences are added: that of FA first, then those of MD and of the
    radial diffusivity, at the new FA. Diffusivities in mm2/s.
    """

    region: str = ""
    side: str = ""
    level: str = ""
    segment: str = ""
    fa: float | None = None
    md: float | None = None
    delta_fa: float = 0.0
    delta_md: float = 0.0
    delta_rd: float = 0.0
    """With the FA that `delta_fa` gives, MD follows from the RD."""

    def holds(self, place: Segment) -> bool:
        """Whether a segment is among those that are changed."""
        wanted = (self.region, self.side, self.level, self.segment)
        found = (place.region, place.side, place.level, place.segment)
        return all(mine in ("", its) for mine, its in zip(wanted, found, strict=True))

    def apply(self, fa: Floats, md: Floats) -> tuple[Floats, Floats]:
        """FA and MD (m,) after the change. FA stays within 0 to 0.98, diffusivities above 0."""
        new_fa = fa if self.fa is None else np.full_like(fa, self.fa)
        new_md = md if self.md is None else np.full_like(md, self.md)
        if self.delta_rd:
            rd = np.maximum(eigenvalues(new_fa, new_md)[1] + self.delta_rd, 1e-6)
            new_fa = np.clip(new_fa + self.delta_fa, 0.0, FA_MAX)
            new_md = rd / eigenvalues(new_fa, np.ones_like(rd))[1]
        elif self.delta_fa:
            new_fa = np.clip(new_fa + self.delta_fa, 0.0, FA_MAX)
        if self.delta_md:
            new_md = np.maximum(new_md + self.delta_md, 1e-6)
        return new_fa, new_md


def changed(
    fa: Floats, md: Floats, place: Segment | None, changes: tuple[Change, ...]
) -> tuple[Floats, Floats]:
    """FA and MD (m,) of a place after all the changes that hold there, in their order."""
    for change in changes:
        if place is not None and change.holds(place):
            fa, md = change.apply(fa, md)
    return fa, md


def check(changes: tuple[Change, ...], segments: tuple[Segment, ...]) -> tuple[Problem, ...]:
    """A Problem `LESION` for each change that no segment of the phantom has, or that is not a number."""
    problems = []
    for change in changes:
        numbers = [v for v in (change.fa, change.md) if v is not None]
        numbers += [change.delta_fa, change.delta_md, change.delta_rd]
        name = " ".join(p for p in (change.region, change.side, change.level, change.segment) if p)
        if not any(change.holds(segment) for segment in segments):
            problems.append(_problem("no segment of the phantom is that of the lesion", name, segments))
        if not np.isfinite(numbers).all():
            problems.append(Problem("LESION", "the effect is not a number", found=name, expected="a number"))
    return tuple(problems)


def _problem(what: str, found: str, segments: tuple[Segment, ...]) -> Problem:
    known = ", ".join(dict.fromkeys(segment.region for segment in segments))
    return Problem("LESION", what, found=found, expected=f"a segment of one of the regions {known}")


def at(place: str, *, delta_fa: float, delta_md: float) -> Change:
    """The change of a place `REGION[:SIDE[:LEVEL[:SEGMENT]]]`; an empty part is any.

    Raises:
        ConfigError: `LESION`, more than four parts or no region.
    """
    parts = place.split(":")
    if not parts[0] or len(parts) > 4:
        raise ConfigError(
            Problem(
                "LESION",
                "this is not a place of the phantom",
                found=place,
                expected="REGION[:SIDE[:LEVEL[:SEGMENT]]], as nerve_root:R:L5",
            )
        )
    where = Segment(*parts)
    return Change(where.region, where.side, where.level, where.segment, delta_fa=delta_fa, delta_md=delta_md)
