"""Which of several images of one kind belongs to a group of runs, by their names alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from somite.bids import File, Name, comparable
from somite.dataset.grouping import duplicate_name
from somite.dataset.index import Visit
from somite.dataset.sessions import Series, listing
from somite.errors import Problem
from somite.registry import Fact

TRANSFERRED = "transferred"
"""The entity `desc` of the label images that Somite delivers: their own table says what they mean."""

# What these entities say is about the derived image itself; all others name the scan that it was made from.
_OWN = ("sub", "ses", "space", "res", "den", "label", "seg", "atlas", "scale", "desc", "hemi")


@dataclass(frozen=True)
class Found:
    """What was found for a group of runs: a file, or none, and what is to be said of it."""

    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


def passes(entities: Mapping[str, str], chosen: BaseModel) -> bool:
    """Whether the entities are among those of a filter; one without a value is not looked at."""
    return all(
        values is None
        or comparable(key, entities.get(key, "")) in [comparable(key, value) for value in values]
        for key, values in chosen
    )


def applying(visit: Visit | None, suffix: str, chosen: BaseModel, series: Sequence[Series]) -> list[File]:
    """The images of this suffix that pass a filter and apply to one of the series."""
    return [
        file
        for file in (visit.files if visit else ())
        if file.name.suffix == suffix
        and file.name.is_image
        and passes(file.name.entities, chosen)
        and applies(file.name, series)
    ]


def nearest(files: Sequence[File]) -> list[File]:
    """Of images that apply, those that name most of the series; of these, those in DWI space if there are."""
    most = max((len(source_of(file.name)) for file in files), default=0)
    best = [file for file in files if len(source_of(file.name)) == most]
    return [file for file in best if in_dwi_space(file.name)] or best


def choose(files: Sequence[File], suffix: str) -> tuple[File | None, Found]:
    """The one image of those that apply, and what is to be said of the choice.

    `LABEL_AMBIGUOUS` where more than one is nearest, `DUPLICATE_NAME` where their names mean one image.
    """
    best = nearest(files)
    if not best:
        return None, Found()
    if len(best) > 1:
        return None, Found(problems=(ambiguous(best, suffix),))
    if len(files) == 1:
        return best[0], Found()
    others = ", ".join(file.path.name for file in files if file is not best[0])
    named = len(source_of(best[0].name))
    alone = not any(file is not best[0] and len(source_of(file.name)) == named for file in files)
    reason = "it names most entities of the series" if alone else "the only one in DWI space"
    what = "label image" if suffix == "dseg" else suffix
    return best[0], Found(facts=(Fact(what, best[0].path.name, f"{reason}; also: {others}"),))


def choose_labels(files: Sequence[File]) -> tuple[tuple[File, ...], Found]:
    """The label images of a session: one for each `seg` in their names, all together or none.

    Labels that were delivered (`desc-transferred`) hold all of the session: they go before several others.
    """
    by_seg: dict[str, list[File]] = {}
    for file in files:
        by_seg.setdefault(file.name.entities.get("seg", ""), []).append(file)
    edited = [file for file in files if is_transferred(file.name)]
    if len(by_seg) > 1 and edited:
        image, about = choose(edited, "dseg")
        others = ", ".join(file.path.name for file in files if file not in edited)
        if image is not None:
            reason = f"delivered labels hold all of the session; also: {others}"
            about = Found(facts=(Fact("label image", image.path.name, reason),))
        return () if image is None else (image,), about
    each = [choose(group, "dseg") for group in by_seg.values()]
    problems = tuple(problem for _, about in each for problem in about.problems)
    facts = tuple(fact for _, about in each for fact in about.facts)
    images = tuple(image for image, _ in each if image is not None)
    if len(images) > 1:
        names = ", ".join(image.path.name for image in images)
        facts += (Fact("label images", names, "each has another seg: together they are the labels"),)
    return () if problems else images, Found(problems=problems, facts=facts)


def is_transferred(name: Name) -> bool:
    """Whether it is the name of a label image that Somite delivered."""
    return name.entities.get("desc") == TRANSFERRED and in_dwi_space(name)


def applies(name: Name, series: Sequence[Series]) -> bool:
    """Whether one of the series has all that the derived image's name says of its source."""
    source = source_of(name)
    return any(
        all(comparable(key, one.entities.get(key, "")) == comparable(key, source[key]) for key in source)
        for one in series
    )


def source_of(name: Name) -> dict[str, str]:
    """What a name says of a series. In another space than its own it says it of another scan: nothing."""
    if not in_dwi_space(name):
        return {}
    return {key: value for key, value in name.entities.items() if key not in _OWN}


def in_dwi_space(name: Name) -> bool:
    """Whether an image lies in the space of the diffusion series, as its name says."""
    return name.entities.get("space", "dwi") == "dwi"


_KINDS = {"dseg": "label image", "xfm": "transform", "probseg": "set of probability images"}
_FILTERS = {"dseg": "labels: filter:", "mask": "masks: filter:", "probseg": "labels: filter:"}


def ambiguous(files: Sequence[File], suffix: str) -> Problem:
    """`LABEL_AMBIGUOUS`, or `DUPLICATE_NAME` where names mean one image."""
    if suffix != "xfm" and len({file.name.same_image() for file in files}) < len(files):
        return duplicate_name([str(file.path) for file in files], f"{suffix} image")
    what = _KINDS.get(suffix, suffix)
    option = _FILTERS.get(suffix, "")
    return Problem(
        "LABEL_AMBIGUOUS",
        f"more than one {what} applies to the session",
        where=str(files[0].path.parent),
        found=listing([file.path.name for file in files]),
        expected="one",
        do=f"choose with {option} {{desc: ..., seg: ...}}" if option else "remove all but one",
    )
