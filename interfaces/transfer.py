"""Transfer the labels to the grid of the diffusion series."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from somite import itk
from somite.body import read_mask
from somite.errors import DatasetError, Problem
from somite.images import Grid, grid_of, open_image, read_labels, write
from somite.interfaces.anatomy_transform import read_doubts
from somite.label_sources.overlap import check_overlap
from somite.orientation import describe_grid, storage_change
from somite.registry import Context, Dwi, LabelTable, StepConfig, step
from somite.segments import Label, Segment, label_table_text, read_label_table
from somite.selection import CLIPPED, read_flags
from somite.sides import check_sides

if TYPE_CHECKING:
    import SimpleITK as sitk


class Config(StepConfig):
    """`transfer` has no options."""


def points_of(grid: Grid) -> NDArray[np.float64]:
    """World RAS positions (n, 3) in mm of all voxel centres, in the order of a flattened C array."""
    indices = np.indices(grid.shape).reshape(3, -1)
    return np.asarray((grid.affine[:3, :3] @ indices).T + grid.affine[:3, 3])


def nearest_labels(labels: NDArray[np.int32], grid: Grid, points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Label (n,) of the voxel nearest to each point (n, 3) in world mm; 0 outside the label image."""
    inverse = np.linalg.inv(grid.affine)
    # A point halfway between two voxels goes to the upper one, in every direction alike.
    voxels = np.floor(points @ inverse[:3, :3].T + inverse[:3, 3] + 0.5 + 1e-6).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < grid.shape)).all(1)
    found = np.zeros(len(points), np.int32)
    found[inside] = labels[tuple(voxels[inside].T)]
    return found


def read_labels_3d(path: Path) -> tuple[NDArray[np.int32], Grid]:
    """A label image of one volume. Raises `LABEL_NOT_3D` beside what `read_labels` does."""
    labels, grid = read_labels(path)
    if labels.size != np.prod(grid.shape):
        raise DatasetError(
            Problem(
                "LABEL_NOT_3D",
                "the label image is not a single 3D volume",
                where=str(path),
                found=" x ".join(str(n) for n in labels.shape),
                expected="three axes",
                do="give one label image; probability maps of several regions are another kind of file",
            )
        )
    return labels.reshape(grid.shape), grid


def other_grid(path: Path, found: Grid, expected: Grid) -> DatasetError:
    """The error for an image that lies on another grid, where no transform is given."""
    return DatasetError(
        Problem(
            "LABEL_GRID",
            "the label image lies on another grid than the diffusion series, and no transform is given",
            where=str(path),
            found=describe_grid(found),
            expected=describe_grid(expected),
            do="give a transform from the diffusion series to the label image (an identity transform where "
            "both share one space), or draw the labels on the diffusion series",
        )
    )


@dataclass(frozen=True)
class Route:
    """How one of several label images comes to the series, and how its values are numbered there."""

    values: Mapping[int, int] = field(default_factory=dict)
    """Its own values -> those of all labels together, where they differ."""
    transform: int | None = None
    """Which of the transforms that are given is its own; None: none."""
    by_anatomy: bool = False
    """Whether it comes through the registration of the anatomy."""


def routes_text(routes: Sequence[Route]) -> str:
    """Routes as JSON; `read_routes` reads them back."""
    plain = [asdict(route) | {"values": sorted(route.values.items())} for route in routes]
    return json.dumps(plain, sort_keys=True)


def read_routes(path: Path) -> tuple[Route, ...]:
    """The routes of the label images, in their order."""
    return tuple(
        Route(dict(item["values"]), item["transform"], item["by_anatomy"])
        for item in json.loads(path.read_text(encoding="utf-8"))
    )


@dataclass(frozen=True)
class Moved:
    """A label image on the grid of the series."""

    values: NDArray[np.int32]
    before: frozenset[int]
    """Values that the image had where it was drawn."""
    clipped: frozenset[int] = frozenset()
    """Values that go on beyond the grid."""


def move(labels: NDArray[np.int32], own: Grid, grid: Grid, transform: sitk.Transform) -> Moved:
    """The label nearest to where each voxel of `grid` lies, and which labels go on beyond the grid.

    Args:
        labels: (i, j, k).
        own: where they lie.
        grid: of the series.
        transform: points of the series to points of the labels.
    """
    points = itk.move(transform, points_of(grid)).reshape(*grid.shape, 3)
    # One layer of voxels around the grid, where the transform goes on as it does at the border: a field of
    # displacements is known on the grid only. A single slice tells no direction.
    margin = [(1, 1) if n > 1 else (0, 0) for n in grid.shape]
    around = np.pad(points, [*margin, (0, 0)], mode="reflect", reflect_type="odd")
    found = nearest_labels(labels, own, around.reshape(-1, 3)).reshape(around.shape[:3])
    inner = tuple(slice(low, n + low) for n, (low, _) in zip(grid.shape, margin, strict=True))
    inside = np.ascontiguousarray(found[inner])
    beyond = found.copy()
    beyond[inner] = 0
    reaches = set(np.unique(beyond).tolist()) & set(np.unique(inside).tolist()) - {0}
    return Moved(inside, _values(labels), frozenset(int(value) for value in reaches))


def _values(labels: NDArray[np.int32]) -> frozenset[int]:
    return frozenset(int(value) for value in np.unique(labels) if value > 0)


def renumbered(
    labels: NDArray[np.int32], values: Mapping[int, int], known: Collection[int]
) -> NDArray[np.int32]:
    """Labels with their values among all labels; those that no table knows get values of no other label.

    Args:
        labels: (i, j, k).
        values: own value -> value among all, where they differ.
        known: values that the table of all labels has.
    """
    there = np.unique(labels)
    spare = max([0, *known, *values.values(), int(there.max(initial=0))])
    new = []
    for value in there.tolist():
        if value in values:
            new.append(values[value])
        elif value > 0 and value not in known:
            spare += 1
            new.append(spare)
        else:
            new.append(value)
    return np.asarray(new, np.int32)[np.searchsorted(there, labels)]


@step(
    makes={
        "labels_dwi": "Label image on the grid of the diffusion series, 3D NIfTI",
        "labels_dwi_table": "Table of its labels, TSV: index, name, region, side, level, segment; flags",
    },
    dwi_copies=1.0,
)
def run(
    labels: Annotated[tuple[Path, ...], "Label images, 3D NIfTI of integers: one, or several that are one"],
    label_table: LabelTable,
    dwi: Dwi,
    config: Config,  # noqa: ARG001
    context: Context,
    labels_transform: Annotated[tuple[Path, ...], "ITK transforms: points of the DWI to points of the labels"]
    | None = None,
    label_routes: Annotated[Path, "How each label image comes to the series, JSON"] | None = None,
    anatomy_transform: Annotated[Path, "ITK transform found by registration to the anatomy"] | None = None,
    anatomy_doubts: Annotated[Path, "Flags of what comes through that registration, JSON"] | None = None,
    atlas_transform: Annotated[Path, "ITK transform found by registration to the template"] | None = None,
    within: Annotated[Path, "Mask outside of which there is no label"] | None = None,
) -> tuple[Path, Path]:
    """Bring the labels to the grid of the series: as they are where they lie on it, else through a transform.

    A transform that is given comes before one that was found by registration. Several images are put
    together; no voxel may belong to two.

    The same voxels in another storage order are put into the series' order, and nothing is resampled. Image
    and table together are labels that a person can edit and give back. Labels that go on beyond the series
    are flagged `clipped` in the table; those that came through the registration of the anatomy get its flags.

    Raises:
        DatasetError: `LABEL_TABLE`, `LABEL_SIDES`, `LABEL_GRID`, `LABEL_OUTSIDE`, `LABEL_OVERLAP`,
            `LABEL_NOT_INTEGER`, `LABEL_NOT_3D`, `TRANSFORM_UNREADABLE`, `IMAGE_UNREADABLE`, `MASK_GRID`.
    """
    grid = grid_of(open_image(dwi))
    table = read_label_table(label_table)
    registered = anatomy_transform or atlas_transform
    routes = (
        (Route({}, 0 if labels_transform else None, registered is not None),) * len(labels)
        if label_routes is None
        else read_routes(label_routes)
    )
    parts: dict[str, Moved] = {}
    by_anatomy: set[str] = set()
    for path, route in zip(labels, routes, strict=True):
        given = (labels_transform or ())[route.transform] if route.transform is not None else None
        if given is None and route.by_anatomy:
            given = registered
            by_anatomy |= {path.name}
        parts[path.name] = _bring(path, route, table, grid, given, alone=len(labels) == 1, context=context)
    where = str(labels[0] if len(labels) == 1 else labels[0].parent)
    if problems := check_overlap({name: part.values for name, part in parts.items()}, where):
        raise DatasetError.of(problems)
    moved = np.zeros(grid.shape, np.int32)
    for part in parts.values():
        moved += part.values
    if within is not None:
        moved[~read_mask(within, grid)] = 0
    _tell_lost(frozenset().union(*(part.before for part in parts.values())), moved, where, context)
    clipped = frozenset().union(*(part.clipped for part in parts.values())) & _values(moved)
    doubtful = frozenset().union(*(_values(parts[name].values) for name in by_anatomy))
    words = {CLIPPED: clipped} | dict.fromkeys(read_doubts(anatomy_doubts), doubtful)
    flags = _flags(words, table, read_flags(label_table))
    _tell_clipped(clipped, table, where, context)
    made = context.folder / "labels_dwi.tsv"
    made.write_text(label_table_text(table, flags), encoding="utf-8", newline="\n")
    return write(context.folder / "labels_dwi.nii", moved, grid), made


def _bring(
    path: Path,
    route: Route,
    table: Sequence[Label],
    grid: Grid,
    transform: Path | None,
    *,
    alone: bool,
    context: Context,
) -> Moved:
    """One label image on the grid of the series, with the values of all labels together."""
    values, own = read_labels_3d(path)
    if not alone:
        values = renumbered(values, route.values, {label.index for label in table})
    mine = _values(values)
    _tell_sides(values, own, [label for label in table if alone or label.index in mine], path, context)
    what = "labels" if alone else f"labels of {path.name}"
    if transform is not None:
        context.infer(what, "nearest neighbour", f"through {transform.name}")
        return move(values, own, grid, itk.read(transform))
    change = storage_change(own, grid)
    if change is None:
        raise other_grid(path, own, grid)
    if not change.is_identity:
        context.infer(what, "voxels in another order", "the same voxels, stored along other axes")
    return Moved(np.ascontiguousarray(change.apply(values)), mine)


def _flags(
    words: Mapping[str, frozenset[int]], table: Sequence[Label], had: Mapping[Segment, str]
) -> dict[Segment, str]:
    """Segment -> flags: those that it had, and the words that hold of one of its labels."""
    flags = dict(had)
    for word, values in words.items():
        for segment in (label.segment for label in table if label.index in values):
            there = [one for one in flags.get(segment, "").split(";") if one]
            flags[segment] = ";".join(dict.fromkeys([*there, word]))
    return flags


def _tell_clipped(clipped: frozenset[int], table: Sequence[Label], where: str, context: Context) -> None:
    names = list(dict.fromkeys(str(label.segment) for label in table if label.index in clipped))
    if names:
        context.warn(
            Problem(
                "LABEL_CLIPPED",
                "labels go on beyond the diffusion series",
                where=where,
                found=", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else ""),
                expected="every label wholly within the field of view",
                do="nothing if the scan covers a part only: the flag clipped is in the table",
                severity="warning",
            )
        )


def _tell_sides(
    values: NDArray[np.int32], grid: Grid, table: Sequence[Label], path: Path, context: Context
) -> None:
    """Raise where labels lie on the wrong side of the body, warn where they may."""
    problems = check_sides(values, grid, table, str(path))
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise DatasetError.of(errors)
    for problem in problems:
        context.warn(problem)


def _tell_lost(had: frozenset[int], after: NDArray[np.int32], where: str, context: Context) -> None:
    """Warn of labels that have no voxel left; raise where none has."""
    has = _values(after)
    lost = sorted(had - has)
    context.numbers["labels_found"] = float(len(has))
    context.numbers["labels_lost"] = float(len(lost))
    if not len(lost):
        return
    listed: dict[str, Any] = {
        "where": where,
        "found": f"no voxel of label {', '.join(map(str, lost[:20]))}",
        "expected": "every label on the grid of the series",
    }
    if not len(has):
        do = "check the direction of the transform: it maps points of the series to points of the labels"
        raise DatasetError(
            Problem("LABEL_OUTSIDE", "no labelled voxel falls within the diffusion series", do=do, **listed)
        )
    do = "check the field of view and the transform; a structure thinner than a voxel can fall between"
    what = "labels have no voxel on the diffusion series"
    context.warn(Problem("LABEL_LOST", what, do=do, severity="warning", **listed))
