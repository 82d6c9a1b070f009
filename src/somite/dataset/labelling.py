"""The label image, its table, its transform and the mask of a group of runs: which, and what is wrong.

Reads headers and tables; the voxels of labels are looked at by `deep.deep_check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel

from somite.bids import IMAGE_EXTENSIONS, File, Name, comparable, stem
from somite.dataset.anatomy import find_anatomy
from somite.dataset.grouping import duplicate_name
from somite.dataset.index import Dataset, Visit
from somite.dataset.label_tables import LabelTable, Wanted, find_label_table
from somite.dataset.regions import Tables
from somite.dataset.series import check_access, read_header
from somite.dataset.sessions import Series, listing
from somite.errors import DatasetError, Problem
from somite.images import Grid
from somite.interfaces.transfer import read_transform
from somite.orientation import describe_grid, storage_change
from somite.registry import Fact

# What these entities say is about the derived image itself; all others name the scan that it was made from.
_OWN = ("sub", "ses", "space", "res", "den", "label", "seg", "atlas", "scale", "desc", "hemi")
_TRANSFORM_EXTENSIONS = (".txt", ".mat", ".tfm", ".h5", *IMAGE_EXTENSIONS)


@dataclass(frozen=True)
class Found:
    """What was found for a group of runs: a file, or none, and what is to be said of it."""

    path: Path | None = None
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Labelling:
    """What belongs to the label image of a group of runs."""

    labels: Path | None = None
    table: LabelTable = field(default_factory=LabelTable)
    transform: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    """What the name of the label image says about itself: `seg`, `desc`."""
    anatomy: Path | None = None
    """The image that the labels were drawn on, where it is to be registered."""
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()


def passes(entities: Mapping[str, str], chosen: BaseModel) -> bool:
    """Whether the entities are among those of a filter; one without a value is not looked at."""
    return all(
        values is None
        or comparable(key, entities.get(key, "")) in [comparable(key, value) for value in values]
        for key, values in chosen
    )


def find_labels(
    series: Sequence[Series],
    visit: Visit | None,
    transforms: Visit | None,
    chosen: BaseModel,
    wanted: Wanted,
    tables: Tables,
    dataset: Dataset | None = None,
) -> Labelling:
    """The label image of a group of runs with its table and transform, and all that is wrong with them.

    Args:
        series: of the group; the labels are to lie on the grid of the first.
        visit: the files of the label dataset for this session; None where it has none.
        transforms: the same of the dataset that holds the transforms.
        chosen: filter of the label images.
        wanted: what says what the values mean, and the segments that it shall name.
        tables: what has been read already.
        dataset: of the scans, among which the image is looked for that labels in its space were drawn on.
    """
    image, about = choose(visit, "dseg", chosen, series)
    if image is None or visit is None:
        missing = about.problems or (_no_labels(series, visit),)
        return Labelling(problems=missing)
    table = find_label_table(image, visit, wanted, tables)
    transform = _find_transform(image, series, transforms)
    anatomy = (
        Found() if transform.path or transform.problems else _find_anatomy(image, series, visit, dataset)
    )
    told = bool(transform.problems or anatomy.problems or anatomy.path)
    where = check_grid(image, series, transform.path, told)
    found = (about, table, transform, anatomy, where)
    return Labelling(
        image.path,
        table,
        transform.path,
        {key: image.name.entities[key] for key in ("seg", "desc") if key in image.name.entities},
        anatomy.path,
        tuple(problem for part in found for problem in part.problems),
        tuple(fact for part in found for fact in part.facts),
    )


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
    image, about = choose(visit, "mask", chosen, series)
    if image is None:
        if not (wanted or required):
            return about
        return replace(about, problems=about.problems or (_no_mask(series, required),))
    where = check_grid(image, series, None, False)
    return Found(image.path, (*about.problems, *where.problems), (*about.facts, *where.facts))


def choose(
    visit: Visit | None, suffix: str, chosen: BaseModel, series: Sequence[Series]
) -> tuple[File | None, Found]:
    """The one image of this suffix that applies to the series, and what is to be said of the choice.

    Of several, that which names most of the series; of these, that in DWI space. `LABEL_AMBIGUOUS` where more
    than one remains, `DUPLICATE_NAME` where their names mean one image.
    """
    files = [
        file
        for file in (visit.files if visit else ())
        if file.name.suffix == suffix
        and file.name.is_image
        and passes(file.name.entities, chosen)
        and _applies(file.name, series)
    ]
    if not files:
        return None, Found()
    most = max(len(_source(file.name)) for file in files)
    nearest = [file for file in files if len(_source(file.name)) == most]
    in_dwi = [file for file in nearest if _in_dwi_space(file.name)]
    best = in_dwi or nearest
    if len(best) > 1:
        return None, Found(problems=(_ambiguous(best, suffix),))
    if len(files) == 1:
        return best[0], Found()
    others = ", ".join(file.path.name for file in files if file is not best[0])
    reason = "the only one in DWI space" if len(nearest) > 1 else "it names most entities of the series"
    fact = Fact("label image" if suffix == "dseg" else suffix, best[0].path.name, f"{reason}; also: {others}")
    return best[0], Found(facts=(fact,))


def _applies(name: Name, series: Sequence[Series]) -> bool:
    """Whether one of the series has all that the derived image's name says of its source."""
    source = _source(name)
    return any(
        all(comparable(key, one.entities.get(key, "")) == comparable(key, source[key]) for key in source)
        for one in series
    )


def _source(name: Name) -> dict[str, str]:
    """What a name says of a series. In another space than its own it says it of another scan: nothing."""
    if not _in_dwi_space(name):
        return {}
    return {key: value for key, value in name.entities.items() if key not in _OWN}


def _in_dwi_space(name: Name) -> bool:
    return name.entities.get("space", "dwi") == "dwi"


def _find_transform(image: File, series: Sequence[Series], visit: Visit | None) -> Found:
    """The transform from the space of the labels to that of the series, where they are not the same."""
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
        and _applies(_without_route(file.name), series)
    ]
    if not files:
        return Found()
    most = max(len(file.name.entities) for file in files)
    best = [file for file in files if len(file.name.entities) == most]
    if len(best) > 1:
        return Found(problems=(_ambiguous(best, "xfm"),))
    try:
        check_access(best[0].path, "the transform")
        if not best[0].name.is_image:  # a displacement field is as large as a scan: `transfer` reads it
            read_transform(best[0].path)
    except DatasetError as error:
        return Found(problems=error.problems)
    return Found(best[0].path)


def _find_anatomy(image: File, series: Sequence[Series], visit: Visit, dataset: Dataset | None) -> Found:
    """What labels in another space than the series', and on another grid, were drawn on."""
    if _in_dwi_space(image.name):
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
    if any(n != 1 for n in shape[3:]):
        return Found(problems=(_not_3d(image, shape),))
    if target is None or transform is not None or excused:
        return Found()
    if storage_change(grid, target) is None:
        return Found(problems=(_other_grid(image, grid, target, series[0]),))
    if _in_dwi_space(image.name):
        return Found()
    reason = f"no transform from {image.name.entities['space']} to dwi, and the grids are the same"
    return Found(facts=(Fact(f"space of {image.path.name}", "dwi", reason),))


def _code(image: File) -> str:
    return "MASK_GRID" if image.name.suffix == "mask" else "LABEL_GRID"


def _other_grid(image: File, grid: Grid, target: Grid, series: Series) -> Problem:
    space = "T2w" if _in_dwi_space(image.name) else image.name.entities["space"]
    what, do = "label image", "resample it onto the series with nearest neighbour"
    if image.name.suffix == "mask":
        what = "mask"
    else:
        do += f", or give the ITK transform *_from-{space}_to-dwi_mode-image_xfm.txt" + (
            " and name the image space-T2w, or whatever it was drawn on" if _in_dwi_space(image.name) else ""
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


def _ambiguous(files: Sequence[File], suffix: str) -> Problem:
    if suffix != "xfm" and len({file.name.same_image() for file in files}) < len(files):
        return duplicate_name([str(file.path) for file in files], f"{suffix} image")
    what = {"dseg": "label image", "mask": "mask", "xfm": "transform"}[suffix]
    option = {"dseg": "labels: filter:", "mask": "masks: filter:", "xfm": ""}[suffix]
    return Problem(
        "LABEL_AMBIGUOUS",
        f"more than one {what} applies to the session",
        where=str(files[0].path.parent),
        found=listing([file.path.name for file in files]),
        expected="one",
        do=f"choose with {option} {{desc: ..., seg: ...}}" if option else "remove all but one",
    )
