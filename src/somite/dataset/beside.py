"""What may lie beside the labels of a session: probability images, landmarks, a map of the fat fraction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from somite.bids import File, Name, inherited, stem
from somite.dataset.choosing import ambiguous, applies, applying, nearest
from somite.dataset.labelling import Search, find_route, find_transform
from somite.dataset.regions import Tables
from somite.dataset.series import check_access
from somite.dataset.sessions import Probabilities, listing
from somite.errors import DatasetError, Problem
from somite.registry import Fact
from somite.rootline import read_landmarks

FAT_SUFFIXES = ("FF", "PDFF")
"""BIDS names no suffix for maps of the fat fraction; these are those of the field."""


@dataclass(frozen=True)
class Beside:
    """The files, and what is to be said of them."""

    probabilities: Probabilities | None = None
    landmarks: Path | None = None
    fat: Path | None = None
    fat_transform: Path | None = None
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


def find_beside(search: Search, tables: Tables, anatomy: Path | None) -> Beside:
    """Probability images, landmarks and a fat-fraction map of a group of runs.

    Args:
        search: where they are looked for.
        tables: what has been read already.
        anatomy: the anatomical image that the labels were drawn on, where it is to be registered.
    """
    if search.visit is None:
        return Beside()
    problems: list[Problem] = []
    facts: list[Fact] = []
    probabilities, landmarks, fat, transform = None, None, None, None
    try:
        probabilities = _probabilities(search, tables, anatomy, facts)
        landmarks = _landmarks(search)
        fat, transform = _fat(search)
    except DatasetError as error:
        problems += error.problems
    return Beside(probabilities, landmarks, fat, transform, tuple(problems), tuple(facts))


def _probabilities(
    search: Search, tables: Tables, anatomy: Path | None, facts: list[Fact]
) -> Probabilities | None:
    """One 4D image, or several that differ in the entity `label` only, with their table and route."""
    assert search.visit is not None
    files = nearest(applying(search.visit, "probseg", search.chosen, search.series))
    if not files:
        return None
    if len({_but_label(file.name) for file in files}) > 1:
        raise DatasetError(ambiguous(files, "probseg"))
    found = inherited(_without_label(files[0].name), ".tsv", search.visit.levels(files[0]))
    if not found:
        raise DatasetError(_no_table(files[0]))
    rows = tables.read(found[-1].path)
    transform, drawn_on, where = find_route(files[0], search)
    problems = [problem for part in (transform, drawn_on, where) for problem in part.problems]
    if drawn_on.path and anatomy and drawn_on.path != anatomy:
        problems.append(_other_anatomy(files[0], drawn_on.path, anatomy))
    if problems:
        raise DatasetError.of(problems)
    for part in (transform, drawn_on, where):
        facts += part.facts
    return Probabilities(tuple(file.path for file in files), rows, transform.path, drawn_on.path)


def _without_label(name: Name) -> Name:
    return Name({k: v for k, v in name.entities.items() if k != "label"}, name.suffix, name.extension)


def _but_label(name: Name) -> tuple[object, ...]:
    return _without_label(name).same_image() if "label" in name.entities else (*name.same_image(), "4D")


def _landmarks(search: Search) -> Path | None:
    """The table of dural exits that applies; it is read to see that it can be."""
    assert search.visit is not None
    files = [
        file
        for file in search.visit.files
        if (file.name.suffix, file.name.extension) == ("landmarks", ".tsv")
        and applies(file.name, search.series)
    ]
    best = nearest(files)
    if len(best) > 1:
        raise DatasetError(ambiguous(best, "landmarks"))
    if not best:
        return None
    check_access(best[0].path, "the table of landmarks")
    read_landmarks(best[0].path)
    return best[0].path


def _fat(search: Search) -> tuple[Path | None, Path | None]:
    """The map of the fat fraction, and the transform from its space where there is one."""
    assert search.visit is not None
    files = [
        file
        for file in search.visit.files
        if file.name.suffix in FAT_SUFFIXES and file.name.is_image and applies(file.name, search.series)
    ]
    best = nearest(files)
    if len(best) > 1:
        raise DatasetError(ambiguous(best, "fat-fraction map"))
    if not best:
        return None, None
    check_access(best[0].path, "the fat-fraction map")
    transform = find_transform(best[0], search)
    if transform.problems:
        raise DatasetError.of(transform.problems)
    return best[0].path, transform.path


def _no_table(image: File) -> Problem:
    name = stem(image.path)
    return Problem(
        "LABEL_NO_TABLE",
        "the probability image has no table that says what its volumes mean",
        where=str(image.path),
        found="no TSV beside it, nor one that it inherits",
        expected=f"{name}.tsv, or one for all in the folder of labels: probseg.tsv",
        do="write the TSV: index (the volume, from 1), name (of an image for each label: its entity label), "
        "region, side, level, segment",
    )


def _other_anatomy(image: File, own: Path, anatomy: Path) -> Problem:
    return Problem(
        "LABEL_SPACES",
        "probability images and labels were drawn on two anatomical images, without transforms",
        where=str(image.path),
        found=listing([own.name, anatomy.name]),
        expected="one anatomical image, which is registered to the series",
        do="give the ITK transform from one of them to the series",
    )
