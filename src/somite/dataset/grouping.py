"""Which series of a session are processed as one. Pure: reads no file.

Every guess is a Fact: a phase-encoding direction that the sidecar does not give, a name made for a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np

from somite.bids import Name, stem
from somite.dataset.sessions import Series
from somite.errors import Problem
from somite.registry import Fact

Combine = Literal["none", "same_pe", "all_pe"]

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(frozen=True)
class Group:
    """Series that are processed as one."""

    series: tuple[Series, ...]
    entities: Mapping[str, str]
    """What tells it from the other groups of the session."""
    facts: tuple[Fact, ...] = ()
    problems: tuple[Problem, ...] = ()


def group(series: Sequence[Series], combine: Combine) -> list[Group]:
    """The groups of one session, in the order of their first series; every series is in exactly one.

    Series whose names mean one image (`DUPLICATE_NAME`) stay together, whatever `combine` says.
    """
    same: dict[object, list[Series]] = {}
    for one in series:
        name = Name(_without_subject(one.entities), "dwi", "")
        same.setdefault(name.same_image(), []).append(one)
    units = list(same.values())
    facts: list[list[Fact]] = [[] for _ in units]
    problems: list[list[Problem]] = [_duplicates(unit) for unit in units]
    keys: list[object] = list(range(len(units)))
    if combine == "all_pe":
        keys = [None] * len(units)
    elif combine == "same_pe":
        keys = _directions([unit[0] for unit in units], facts, problems)
    members: dict[object, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    joined = [tuple(one for n in numbers for one in units[n]) for numbers in members.values()]
    names, name_facts = _distinct_names(joined)
    return [
        Group(
            joined[g],
            names[g],
            (*(fact for n in numbers for fact in facts[n]), *name_facts[g]),
            tuple(problem for n in numbers for problem in problems[n]),
        )
        for g, numbers in enumerate(members.values())
    ]


def _duplicates(unit: Sequence[Series]) -> list[Problem]:
    if len(unit) == 1:
        return []
    return [duplicate_name([str(one.dwi) for one in unit], "diffusion series")]


def duplicate_name(paths: Sequence[str], what: str) -> Problem:
    """The problem of files whose names mean one image."""
    return Problem(
        "DUPLICATE_NAME",
        f"{len(paths)} files have the name of one {what}",
        where=paths[0],
        found=", ".join(path.rpartition("/")[2] for path in paths),
        expected="one file: .nii or .nii.gz, its entities in one order, run-1 or run-01",
        do="remove the copy, or give the files different entities (run-1, run-2)",
    )


def anatomical(direction: str, affine: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    """`AP` for phase encoding from anterior to posterior: the BIDS direction `j-` of an image in RAS order.

    It is the same for one scan in any storage order; of an oblique image, the nearest axis of the body.
    """
    toward = nib.aff2axcodes(affine)["ijk".index(direction[0])]
    if direction.endswith("-"):
        toward = _OPPOSITE[toward]
    return f"{_OPPOSITE[toward]}{toward}"


def given_direction(series: Series) -> str:
    """Phase-encoding direction that the sidecar gives, in axes of the body; empty where it gives none."""
    direction, grid = series.metadata.get("PhaseEncodingDirection"), series.grid
    return anatomical(direction, grid.affine) if direction and grid is not None else ""


def _directions(
    series: Sequence[Series], facts: Sequence[list[Fact]], problems: Sequence[list[Problem]]
) -> list[object]:
    """For each series what it shares with those of its direction; tells facts and problems of each."""
    keys: list[object] = [given_direction(one) for one in series]
    of_dir: dict[str, set[object]] = {}
    for one, key in zip(series, keys, strict=True):
        if key and "dir" in one.entities:
            of_dir.setdefault(one.entities["dir"], set()).add(key)
    for n, one in enumerate(series):
        if keys[n]:
            continue
        name = stem(one.dwi)
        if label := one.entities.get("dir"):
            siblings = of_dir.get(label, set())
            keys[n] = next(iter(siblings)) if len(siblings) == 1 else f"dir-{label}"
            reason = "the sidecar gives no PhaseEncodingDirection: " + (
                f"that of the other series with dir-{label}" if len(siblings) == 1 else "the entity dir"
            )
            facts[n].append(Fact(f"phase-encoding direction of {name}", str(keys[n]), reason))
        else:
            keys[n] = n
            if len(series) > 1:
                problems[n].append(_direction_unknown(one))
    return keys


def _direction_unknown(series: Series) -> Problem:
    return Problem(
        "PE_UNKNOWN",
        "the series is not joined to any other: its phase-encoding direction is not known",
        where=str(series.dwi),
        found="no PhaseEncodingDirection in its sidecar, no entity dir in its name",
        expected="either of them, for runs: combine: same_pe",
        do='add "PhaseEncodingDirection": "j-" (or i, i-, j, k, k-) to the JSON sidecar',
        severity="warning",
    )


def _distinct_names(
    groups: Sequence[tuple[Series, ...]],
) -> tuple[list[dict[str, str]], list[tuple[Fact, ...]]]:
    """The entities of each group: those that its series have in common, and more where that is not enough."""
    names = [_common(group) for group in groups]
    facts: list[tuple[Fact, ...]] = [()] * len(groups)
    twice = _repeated(names)
    for g, one in enumerate(groups):
        if names[g] in twice and "dir" not in names[g] and (direction := given_direction(one[0])):
            reason = "no entity tells the groups of runs apart: the phase-encoding direction of the sidecar"
            names[g] = {**names[g], "dir": direction}
            facts[g] = (Fact("dir", direction, reason),)
    if not _repeated(names):
        return names, facts
    reason = "no entity tells the groups of runs apart: the name of the first series"
    names = [_without_subject(one[0].entities) for one in groups]
    return names, [(Fact("entities", stem(one[0].dwi), reason),) for one in groups]


def _common(group: Sequence[Series]) -> dict[str, str]:
    shared = dict(group[0].entities.items())
    for one in group:
        shared = {key: value for key, value in shared.items() if one.entities.get(key) == value}
    shared.pop("part", None)  # only magnitudes are processed
    return _without_subject(shared)


def _without_subject(entities: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in entities.items() if key not in ("sub", "ses")}


def _repeated(names: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    counts = Counter(frozenset(name.items()) for name in names)
    return [dict(name) for name, count in counts.items() if count > 1]
