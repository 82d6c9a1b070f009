"""Who takes part: made-up people, and cohorts whose group difference and correlation are known.

In a cohort the FA of a structure is its tissue's, plus what sets a person apart (a standard deviation of
`fa_sd`; of the variance, `shared` is common to all the person's structures), plus, in the lesion of patients,
`d` times `fa_sd`: Cohen's d of patients minus controls. MD has the same of its own, independent of FA. The
score of patients is normal and correlates with the FA of their lesion at `r`; it is cut at its ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from somite.errors import Problem
from somite.phantom.change import Change
from somite.phantom.protocol import Protocol, Score
from somite.segments import Segment

MEAN_AGE = 47.5


@dataclass(frozen=True)
class Cohort:
    """Patients and controls that differ in what is said here."""

    patients: int
    controls: int
    d: float = -1.0
    """Cohen's d of the FA of the lesion, patients minus controls."""
    fa_sd: float = 0.03
    """Standard deviation between persons."""
    md_d: float = 1.0
    md_sd: float = 0.06e-3
    """mm2/s"""
    r: float | None = None
    """Correlation of the patients' score with the FA of their lesion; None: the protocol's own."""
    shared: float = 0.5
    """Correlation between two structures of a person."""
    fa_per_year: float = 0.0
    """Change of FA with age, beside all that."""
    sides: tuple[str, ...] = ()
    """Sides on which a patient's lesion may be, one by chance; none: that of the lesion."""
    levels: tuple[str, ...] = ()
    """The same of levels."""

    def problems(self) -> list[Problem]:
        """A Problem `COHORT` for each number that cannot be."""
        checks = [
            (min(self.patients, self.controls) >= 0, "a group has fewer than nobody", self.patients),
            (self.fa_sd > 0 and self.md_sd > 0, "a standard deviation is not above 0", self.fa_sd),
            (0 <= self.shared <= 1, "a correlation between structures is not within 0 and 1", self.shared),
            (self.r is None or -1 <= self.r <= 1, "a correlation is not within -1 and 1", self.r),
            (math.isfinite(self.d) and math.isfinite(self.md_d), "an effect is not a number", self.d),
        ]
        return [Problem("COHORT", what, found=str(found)) for fine, what, found in checks if not fine]


@dataclass(frozen=True)
class Person:
    """A made-up participant."""

    name: str
    seeds: tuple[int, int]
    patient: bool
    age: int
    sex: str
    changes: tuple[Change, ...] = ()
    """Lesion, and what sets the person apart."""
    lesion: tuple[Change, ...] = ()
    """The lesion alone."""
    score: float = math.nan
    """NaN for controls, and without a cohort."""

    @property
    def affected(self) -> tuple[str, str]:
        """Side and level of the lesion, `""` where it has none or several."""
        sides, levels = ({getattr(c, key) for c in self.lesion} for key in ("side", "level"))
        return (sides.pop() if len(sides) == 1 else "", levels.pop() if len(levels) == 1 else "")

    @classmethod
    def number(
        cls, number: int, seed: int, lesion: tuple[Change, ...] = (), *, patient: bool | None = None
    ) -> Person:
        """The participant `number`, counted from 1; every second one is a patient unless it is said."""
        rng = np.random.default_rng([seed, number, 4])
        ill = number % 2 == 0 if patient is None else patient
        return cls(
            name=f"sub-{number:02d}",
            seeds=(seed, number),
            patient=ill,
            age=int(rng.integers(30, 66)),
            sex="FM"[int(rng.integers(2))],
            changes=lesion if ill else (),
            lesion=lesion if ill else (),
        )


def by_turns(participants: int, seed: int, lesion: tuple[Change, ...]) -> list[Person]:
    """Controls and patients by turns; all patients have the lesion, and people do not differ otherwise."""
    return [Person.number(number, seed, lesion) for number in range(1, participants + 1)]


@dataclass(frozen=True)
class Recruitment:
    """Draws the people of a cohort."""

    cohort: Cohort
    seed: int
    lesion: tuple[Change, ...]
    """Where patients have their lesion; its effect is the cohort's."""
    structures: tuple[Segment, ...]
    score: Score
    _width: int = field(default=2)

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        cohort: Cohort,
        seed: int,
        lesion: tuple[Change, ...],
        segments: Iterable[Segment],
    ) -> Recruitment:
        """The recruitment for a phantom with these segments."""
        structures = tuple(dict.fromkeys(replace(s, segment="") for s in segments))
        score = protocol.score if cohort.r is None else replace(protocol.score, r=cohort.r)
        width = max(2, len(str(cohort.patients + cohort.controls)))
        return cls(cohort, seed, lesion, structures, score, width)

    def people(self) -> list[Person]:
        """Controls, then patients."""
        total = self.cohort.controls + self.cohort.patients
        return [self.person(number) for number in range(1, total + 1)]

    def person(self, number: int) -> Person:
        """The participant `number`, counted from 1: made from (seed, number) alone, but for the group."""
        cohort = self.cohort
        person = Person.number(number, self.seed, patient=number > cohort.controls)
        rng = np.random.default_rng([self.seed, number, 10])
        lesion = self._lesion(rng)
        hurt = [any(_touches(change, s) for change in lesion) for s in self.structures]
        fa, md = (self._offsets(rng, hurt) for _ in range(2))
        error = float(rng.standard_normal())
        aged = cohort.fa_per_year * (person.age - MEAN_AGE)
        changes = [
            Change(s.region, s.side, s.level, delta_fa=f * cohort.fa_sd + aged, delta_md=m * cohort.md_sd)
            for s, f, m in zip(self.structures, fa.tolist(), md.tolist(), strict=True)
        ]
        if not person.patient:
            return replace(person, name=self._name(number), changes=tuple(changes))
        effect = [
            Change(
                c.region,
                c.side,
                c.level,
                c.segment,
                delta_fa=cohort.d * cohort.fa_sd,
                delta_md=cohort.md_d * cohort.md_sd,
            )
            for c in lesion
        ]
        z = float(fa[hurt][0]) if any(hurt) else 0.0
        return replace(
            person,
            name=self._name(number),
            changes=(*changes, *effect),
            lesion=lesion,
            score=self._score(z, error),
        )

    def _name(self, number: int) -> str:
        return f"sub-{number:0{self._width}d}"

    def _lesion(self, rng: np.random.Generator) -> tuple[Change, ...]:
        chance = rng.random(2)
        chosen = self.lesion
        if sides := self.cohort.sides:
            chosen = tuple(replace(c, side=sides[int(chance[0] * len(sides))]) for c in chosen)
        if levels := self.cohort.levels:
            chosen = tuple(replace(c, level=levels[int(chance[1] * len(levels))]) for c in chosen)
        return tuple(dict.fromkeys(chosen))

    def _offsets(self, rng: np.random.Generator, hurt: list[bool]) -> NDArray[np.float64]:
        """Deviations of the structures, of variance 1: those of the lesion go together."""
        draws = rng.standard_normal(len(hurt) + 1)
        offsets = math.sqrt(self.cohort.shared) * draws[-1] + math.sqrt(1 - self.cohort.shared) * draws[:-1]
        if any(hurt):
            offsets[hurt] = offsets[hurt][0]
        return np.asarray(offsets, np.float64)

    def _score(self, z: float, error: float) -> float:
        r, score = self.score.r, self.score
        value = score.mean + score.sd * (r * z + math.sqrt(1 - r**2) * error)
        return round(min(max(value, score.low), score.high), 1)


def _touches(change: Change, structure: Segment) -> bool:
    return replace(change, segment="").holds(structure)
