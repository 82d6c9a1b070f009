"""The atlases of the configuration: found, held to their checksums and joined with their template, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from somite.bids import parse_name
from somite.configs.model import AtlasSource
from somite.dataset.regions import check_regions
from somite.errors import DatasetError, Problem
from somite.label_sources.atlas import KNOWN, Atlas, find_atlas, find_template
from somite.segments import Label, Segment


@dataclass(frozen=True)
class GivenAtlas:
    """An atlas for the sessions that have no images of their own."""

    name: str
    """For the column `roi_source`."""
    seg: str
    """For the entity `seg` of the labels that are delivered; `""`: none."""
    image: Path
    template: Path
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Atlases:
    """One of labels, one of probabilities, in the space of one template; or either, or none."""

    labels: GivenAtlas | None = None
    probabilities: GivenAtlas | None = None
    problems: tuple[Problem, ...] = ()


def find_atlases(sources: Sequence[AtlasSource], root: Path, expected: tuple[Segment, ...] | None) -> Atlases:
    """The atlases of a study; what is wrong with them is in `problems`, and such an atlas is left out.

    Problems: those of `find_atlas` and `find_template`; `ATLAS_TWICE`; `ATLAS_SPACE`, they do not share their
    template; `NO_REGION` and `REGION_MISSING` of the atlas of labels.

    Args:
        sources: of the configuration.
        root: the dataset, to which paths are relative.
        expected: segments that the table shall hold; None: those of the labels.
    """
    found: dict[bool, GivenAtlas] = {}
    problems: list[Problem] = []
    for source in sources:
        try:
            atlas, given = _find(source, root)
        except DatasetError as error:
            problems += error.problems
            continue
        if atlas.probabilities in found:
            problems.append(_twice(found[atlas.probabilities], given))
        found.setdefault(atlas.probabilities, given)
    if len({one.template for one in found.values()}) > 1:
        problems.append(_two_templates(list(found.values())))
    if labels := found.get(False):
        carried = {label.segment for label in labels.labels}
        problems += check_regions(carried, expected, str(labels.image), "the atlas")
    return Atlases(labels, found.get(True), tuple(problems))


def _find(source: AtlasSource, root: Path) -> tuple[Atlas, GivenAtlas]:
    known = source.name in KNOWN
    where = source.name if known else str(root / Path(source.name).expanduser())
    table = None if source.table is None else root / source.table.expanduser()
    template = None if source.template is None else root / source.template.expanduser()
    atlas = find_atlas(where, source.sha256, table)
    return atlas, GivenAtlas(
        source.name if known else atlas.image.name,
        _seg(source.name if known else "", atlas.image),
        atlas.image,
        find_template(atlas, template, source.template_sha256),
        atlas.labels,
    )


def _seg(known: str, image: Path) -> str:
    """`JHUICBMDTI81`, or what the name of an image says of its atlas."""
    name = parse_name(image.name)
    entities = {} if name is None else name.entities
    named = [entities[key] for key in ("atlas", "seg", "tpl") if key in entities]
    return "".join(filter(str.isalnum, known)) or next(iter(named), "")


def _twice(one: GivenAtlas, other: GivenAtlas) -> Problem:
    return Problem(
        "ATLAS_TWICE",
        "two atlases of one kind are given",
        where="labels: atlas:",
        found=f"{one.image.name}, {other.image.name}",
        expected="at most one image of labels and one of probabilities",
        do="remove one of them",
    )


def _two_templates(atlases: Sequence[GivenAtlas]) -> Problem:
    return Problem(
        "ATLAS_SPACE",
        "two atlases have two templates",
        where="labels: atlas:",
        found=", ".join(str(one.template) for one in atlases),
        expected="one template, which is registered to each subject",
        do="give atlases in one space, with template: the same file",
    )
