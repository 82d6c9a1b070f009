"""The label images of a group of runs, their tables and transforms, and its mask: which, and what is wrong.

Reads headers and tables; the voxels of labels are looked at by `deep.deep_check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel

from somite import itk
from somite.bids import IMAGE_EXTENSIONS, File, Name, stem
from somite.dataset.anatomy import find_anatomy
from somite.dataset.atlases import GivenAtlas
from somite.dataset.choosing import (
    Found,
    ambiguous,
    applies,
    applying,
    choose,
    choose_labels,
    in_dwi_space,
)
from somite.dataset.index import Dataset, Visit
from somite.dataset.label_tables import Wanted, find_label_table
from somite.dataset.regions import Tables, check_regions
from somite.dataset.series import check_access, read_header
from somite.dataset.sessions import LabelImage, Series, listing
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.label_sources.combining import combined, renumber
from somite.orientation import describe_grid, storage_change
from somite.registry import Fact
from somite.segments import Label

_TRANSFORM_EXTENSIONS = (".txt", ".mat", ".tfm", ".h5", *IMAGE_EXTENSIONS)


@dataclass(frozen=True)
class Search:
    """Where the labels of a group of runs are looked for, and what is known of them beforehand."""

    series: Sequence[Series]
    """Of the group; the labels are to lie on the grid of the first."""
    visit: Visit | None
    """The files of the label dataset for this session; None where it has none."""
    transforms: Visit | None
    """The same of the dataset that holds the transforms."""
    chosen: BaseModel
    """Filter of the images."""
    dataset: Dataset | None = None
    """Of the scans, among which the image is looked for that labels in its space were drawn on."""


@dataclass(frozen=True)
class Labelling:
    """The labels of a group of runs."""

    images: tuple[LabelImage, ...] = ()
    rows: tuple[Label, ...] = ()
    """Of all images together, as they are numbered on the grid of the series."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """What the names of all label images say about themselves: `seg`, `desc`."""
    anatomy: Path | None = None
    """The image that labels were drawn on, where it is to be registered."""
    roi_source: str = ""
    """As the names or the sources of the images tell it."""
    atlas: GivenAtlas | None = None
    """What takes the place of images, where the session has none."""
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class _Read:
    """A label image with its table and its way to the series, and what is to be said of them."""

    image: LabelImage
    entities: Mapping[str, str]
    problems: tuple[Problem, ...]
    facts: tuple[Fact, ...]


def find_labels(search: Search, wanted: Wanted, tables: Tables, atlas: GivenAtlas | None = None) -> Labelling:
    """The label images of a group of runs with tables and transforms, and all that is wrong with them.

    Args:
        search: where they are looked for.
        wanted: what says what the values mean, and the segments that it shall name.
        tables: what has been read already.
        atlas: for sessions without a label image.
    """
    files, about = choose_labels(applying(search.visit, "dseg", search.chosen, search.series))
    if not files or search.visit is None:
        return _without(search, about, atlas)
    alone = len(files) == 1
    read = [
        _read(file, search, wanted if alone else replace(wanted, expected=None), tables) for file in files
    ]
    values = renumber([one.image.rows for one in read])
    images = tuple(replace(one.image, values=own) for one, own in zip(read, values, strict=True))
    rows = combined([one.rows for one in images], values)
    problems = [*about.problems, *(problem for one in read for problem in one.problems)]
    anatomies = {one.anatomy for one in images} - {None}
    if len(anatomies) > 1:
        problems.append(_two_spaces(images))
    if not alone and rows:
        carried = {label.segment for label in rows}
        where = str(images[0].path.parent)
        problems += check_regions(carried, wanted.expected, where, "the label tables together")
    said = [one.entities for one in read]
    return Labelling(
        images,
        rows,
        {key: value for key, value in said[0].items() if all(other.get(key) == value for other in said)},
        next(iter(sorted(anatomies, key=str)), None),
        ", ".join(dict.fromkeys(name for one in read if (name := one.image.made_by))),
        None,
        tuple(problems),
        (*about.facts, *(fact for one in read for fact in one.facts)),
    )


def _without(search: Search, about: Found, atlas: GivenAtlas | None) -> Labelling:
    """A session that has no label image, or none that can be told: those of the atlas, where one is given."""
    if about.problems or atlas is None:
        return Labelling(problems=about.problems or (_no_labels(search.series, search.visit),))
    fact = Fact("labels", atlas.name, "the session has no label image of its own: the atlas is brought to it")
    entities = {"seg": atlas.seg} if atlas.seg else {}
    return Labelling((), atlas.labels, entities, None, atlas.name, atlas, (), (fact,))


def _read(file: File, search: Search, wanted: Wanted, tables: Tables) -> _Read:
    assert search.visit is not None
    table = find_label_table(file, search.visit, wanted, tables)
    transform, anatomy, where = find_route(file, search)
    found = (table, transform, anatomy, where)
    entities = {key: file.name.entities[key] for key in ("seg", "desc") if key in file.name.entities}
    tool = table.source if table.is_tool else ""
    return _Read(
        LabelImage(
            file.path,
            table.labels,
            table.source,
            table.path,
            transform.path,
            anatomy.path,
            entities.get("desc", "") or tool,
        ),
        entities,
        tuple(problem for part in found for problem in part.problems),
        tuple(fact for part in found for fact in part.facts),
    )


def find_route(file: File, search: Search) -> tuple[Found, Found, Found]:
    """How an image comes to the series: by a transform, by the anatomy it was drawn on, or as it lies."""
    assert search.visit is not None
    transform = find_transform(file, search)
    anatomy = (
        Found()
        if transform.path or transform.problems
        else _find_anatomy(file, search.series, search.visit, search.dataset)
    )
    told = bool(transform.problems or anatomy.problems or anatomy.path)
    return transform, anatomy, check_grid(file, search.series, transform.path, told)


def find_mask(
    series: Sequence[Series], visit: Visit | None, chosen: BaseModel, *, wanted: bool, required: bool
) -> Found:
    """The mask that is given for a group of runs; it must lie on the grid of the first.

    Args:
        series: of the group.
        visit: the files of the dataset of masks for this session; None where it has none.
        chosen: filter of the masks.
        wanted: whether the configuration names a folder of masks.
        required: whether it says that no mask is to be made.
    """
    image, about = choose(applying(visit, "mask", chosen, series), "mask")
    if image is None:
        if not (wanted or required):
            return about
        return replace(about, problems=about.problems or (_no_mask(series, required),))
    where = check_grid(image, series, None, False)
    return Found(image.path, (*about.problems, *where.problems), (*about.facts, *where.facts))


def find_transform(image: File, search: Search) -> Found:
    """The transform from the space of an image to that of the series, where they are not the same."""
    visit, series = search.transforms, search.series
    space = image.name.entities.get("space", "dwi")
    if space == "dwi" or visit is None:
        return Found()
    files = [
        file
        for file in visit.files
        if file.name.suffix == "xfm"
        and file.name.extension in _TRANSFORM_EXTENSIONS
        and file.name.entities.get("from") == space
        and file.name.entities.get("to") == "dwi"
        and file.name.entities.get("mode", "image") == "image"
        and applies(_without_route(file.name), series)
    ]
    if not files:
        return Found()
    most = max(len(file.name.entities) for file in files)
    best = [file for file in files if len(file.name.entities) == most]
    if len(best) > 1:
        return Found(problems=(ambiguous(best, "xfm"),))
    try:
        check_access(best[0].path, "the transform")
        if not best[0].name.is_image:  # a displacement field is as large as a scan: `transfer` reads it
            itk.read(best[0].path)
    except DatasetError as error:
        return Found(problems=error.problems)
    return Found(best[0].path)


def _find_anatomy(image: File, series: Sequence[Series], visit: Visit, dataset: Dataset | None) -> Found:
    """What labels in another space than the series', and on another grid, were drawn on."""
    if in_dwi_space(image.name):
        return Found()
    try:
        grid, _ = read_header(image.path, "the label image")
    except DatasetError:
        return Found()  # check_grid tells it
    if series[0].grid is None or storage_change(grid, series[0].grid) is not None:
        return Found()
    return Found(*find_anatomy(image, visit, dataset))


def _without_route(name: Name) -> Name:
    entities = {k: v for k, v in name.entities.items() if k not in ("from", "to", "mode")}
    return Name(entities, name.suffix, name.extension)


def check_grid(image: File, series: Sequence[Series], transform: Path | None, excused: bool) -> Found:
    """Whether a label image or mask can be read, is 3D, and is on the grid of the series or has a transform.

    Args:
        image: the label image or mask.
        series: the group of runs.
        transform: brings it onto the series.
        excused: whether the lack of a transform has been told already.
    """
    what = "the mask" if image.name.suffix == "mask" else "the label image"
    try:
        grid, shape = read_header(image.path, what)
    except DatasetError as error:
        return Found(problems=error.problems)
    target = series[0].grid
    if any(n != 1 for n in shape[3:]) and image.name.suffix != "probseg":
        return Found(problems=(_not_3d(image, shape),))
    if target is None or transform is not None or excused:
        return Found()
    if storage_change(grid, target) is None:
        return Found(problems=(_other_grid(image, grid, target, series[0]),))
    if in_dwi_space(image.name):
        return Found()
    reason = f"no transform from {image.name.entities['space']} to dwi, and the grids are the same"
    return Found(facts=(Fact(f"space of {image.path.name}", "dwi", reason),))


def _code(image: File) -> str:
    return "MASK_GRID" if image.name.suffix == "mask" else "LABEL_GRID"


def _other_grid(image: File, grid: Grid, target: Grid, series: Series) -> Problem:
    space = "T2w" if in_dwi_space(image.name) else image.name.entities["space"]
    what, do = "label image", "resample it onto the series with nearest neighbour"
    if image.name.suffix == "mask":
        what = "mask"
    else:
        if image.name.suffix == "probseg":
            what, do = "probability image", "resample it onto the series, linearly"
        do += f", or give the ITK transform *_from-{space}_to-dwi_mode-image_xfm.txt" + (
            " and name the image space-T2w, or whatever it was drawn on" if in_dwi_space(image.name) else ""
        )
    return Problem(
        _code(image),
        f"the {what} lies on another grid than the series"
        + (", without a transform" if what != "mask" else ""),
        where=str(image.path),
        found=describe_grid(grid),
        expected=f"{describe_grid(target)}, as in {series.dwi.name}",
        do=do,
    )


def _not_3d(image: File, shape: tuple[int, ...]) -> Problem:
    return Problem(
        _code(image),
        "the image is not 3D",
        where=str(image.path),
        found=" x ".join(map(str, shape)),
        expected="three axes, one value per voxel of the series",
        do="save one volume; overlapping labels need images of their own",
    )


def _no_labels(series: Sequence[Series], visit: Visit | None) -> Problem:
    entities = series[0].entities
    session = f"_ses-{entities['ses']}" if "ses" in entities else ""
    other = [f.path.name for f in visit.files if f.name.suffix == "dseg" and f.name.is_image] if visit else []
    return Problem(
        "NO_LABELS",
        "no label image for this session: maps are made, and its rows of the table say why they are empty",
        where=str(series[0].dwi),
        found=f"{listing(other)}, none of which applies" if other else "no *_dseg.nii.gz",
        expected=f"sub-{entities.get('sub', '')}{session}_space-dwi_dseg.nii.gz, or more entities of the "
        "series, in the folder of labels (labels: folder:)",
        do="draw the labels, or correct their names or labels: filter: in the configuration",
        severity="warning",
    )


def _no_mask(series: Sequence[Series], required: bool) -> Problem:
    return Problem(
        "NO_MASK",
        "no mask for this session" + (", and mask: method: is given" if required else ": one is made"),
        where=str(series[0].dwi),
        found="no *_mask.nii.gz that applies, in the folder of masks",
        expected=f"{stem(series[0].dwi).removesuffix('_dwi')}_space-dwi_mask.nii.gz",
        do="add it, or correct its name, masks: folder: or masks: filter: in the configuration",
        severity="error" if required else "warning",
    )


def _two_spaces(images: Sequence[LabelImage]) -> Problem:
    drawn = [f"{one.path.name} on {one.anatomy.name}" for one in images if one.anatomy is not None]
    return Problem(
        "LABEL_SPACES",
        "the label images of the session were drawn on two anatomical images, without transforms",
        where=str(images[0].path.parent),
        found=listing(drawn),
        expected="one anatomical image, which is registered to the series",
        do="give the ITK transforms *_from-T2w_to-dwi_mode-image_xfm.txt, or choose with labels: filter:",
    )
