"""Atlases by name, found in `$FSLDIR`, or by path: only the file whose checksum the configuration gives.

FSL's atlases changed without notice, and copies of ICBM-DTI-81 have had errors of orientation and of names
(doi:10.3389/fnins.2013.00004): so the file is held to its checksum, its sides to world coordinates, and the
names to the XML that was shipped with it, where there is one.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.bids import stem
from somite.errors import DatasetError, Problem
from somite.fingerprint import sha256 as sum_of
from somite.images import Grid, grid_of, open_image, read_float, read_labels
from somite.label_sources.shipped import ShippedName, read_shipped
from somite.orientation import describe_grid, storage_change
from somite.segments import Label, read_label_table
from somite.sides import places


@dataclass(frozen=True)
class Known:
    """An atlas that FSL ships."""

    table: ShippedName
    files: tuple[str, ...]
    """Below `$FSLDIR/data/atlases`; the first that is there is taken."""
    xml: str
    template: str
    """Name of its FA template, beside the image; `{mm}` is its voxel size as the image's name has it."""
    first_index: int
    """Label of the entry of the XML with index 0: the XML of probabilistic atlases counts volumes from 0."""


KNOWN = {
    "JHU-ICBM-DTI-81": Known(
        "jhu_icbm_dti_81",
        ("JHU/JHU-ICBM-labels-1mm.nii.gz", "JHU/JHU-ICBM-labels-2mm.nii.gz"),
        "JHU-labels.xml",
        "JHU-ICBM-FA-{mm}mm.nii.gz",
        0,
    ),
    "JHU-tracts": Known(
        "jhu_tracts",
        ("JHU/JHU-ICBM-tracts-prob-1mm.nii.gz", "JHU/JHU-ICBM-tracts-prob-2mm.nii.gz"),
        "JHU-tracts.xml",
        "JHU-ICBM-FA-{mm}mm.nii.gz",
        1,
    ),
}
"""Name in the configuration -> atlas."""


@dataclass(frozen=True)
class Atlas:
    """An atlas that may be used: its image, what its values or volumes mean, and its checksum."""

    image: Path
    labels: tuple[Label, ...]
    sha256: str
    probabilities: bool = False
    """Whether it is a 4D image of probabilities, the index counting its volumes from 1."""


def find_atlas(name_or_path: str, sha256: str, table: Path | None = None) -> Atlas:
    """The atlas of a name (`JHU-ICBM-DTI-81`, `JHU-tracts`) in `$FSLDIR/data/atlases`, or at a path.

    Args:
        name_or_path: one of `KNOWN`, or the path of an image.
        sha256: what the configuration says that the checksum of the image is.
        table: what its values mean, TSV; default: the TSV of the same name beside it, or for a file of a
            known atlas its published numbering.

    Raises:
        DatasetError: `ATLAS_NOT_FOUND`, `ATLAS_CHECKSUM`, `ATLAS_NO_TABLE`, `ATLAS_NAMES` (the XML beside the
            atlas names labels otherwise), `ATLAS_SIDES`; `LABEL_TABLE`, `IMAGE_UNREADABLE`,
            `LABEL_NOT_INTEGER`.
    """
    image, known = _image_of(name_or_path)
    _check_sum(image, sha256)
    labels = _labels_of(image, known, table)
    if known is not None and table is None:
        _check_names(_xml_of(image, known), known, labels)
    atlas = Atlas(image, labels, sha256.lower(), open_image(image).shape[3:] not in ((), (1,)))
    _check_atlas_sides(atlas)
    return atlas


def find_template(atlas: Atlas, template: Path | None, sha256: str) -> Path:
    """The FA template in whose space an atlas lies.

    Args:
        atlas: from `find_atlas`.
        template: path of the template; None: FSL's, beside an atlas of FSL.
        sha256: what the configuration says that its checksum is.

    Raises:
        DatasetError: `ATLAS_NO_TEMPLATE`, `ATLAS_CHECKSUM`, `ATLAS_SPACE`, `IMAGE_UNREADABLE`.
    """
    tried = _beside(atlas.image) if template is None else [template.expanduser()]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise DatasetError(_no_template(atlas.image, tried))
    _check_sum(found, sha256)
    image, grid = open_image(found), grid_of(open_image(found))
    own = grid_of(open_image(atlas.image))
    if image.shape[3:] not in ((), (1,)) or not share_space(grid, own):
        raise DatasetError(_other_space(atlas.image, own, f"{describe_grid(grid)}, as {found.name}"))
    return found


def share_space(one: Grid, other: Grid) -> bool:
    """Whether the voxels are the same, or the fields of view share a centre within 20 mm."""
    if storage_change(one, other) is not None:
        return True
    middles = [
        grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3] for grid in (one, other)
    ]
    return bool(np.linalg.norm(middles[0] - middles[1]) < 20.0)


def _beside(image: Path) -> list[Path]:
    """Where FSL keeps the template of one of its atlases; of its own voxel size first."""
    for known in KNOWN.values():
        for file in known.files:
            if image.name == Path(file).name:
                own = re.findall(r"(\d)mm", image.name)
                sizes = dict.fromkeys((*own, "1", "2"))
                return [image.with_name(known.template.format(mm=mm)) for mm in sizes]
    return []


def _image_of(name_or_path: str) -> tuple[Path, Known | None]:
    named = KNOWN.get(name_or_path)
    if named is None:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise DatasetError(_not_found(name_or_path, [path]))
        ends = {Path(file).name: one for one in KNOWN.values() for file in one.files}
        return path, ends.get(path.name)
    folder = os.environ.get("FSLDIR", "")
    tried = [Path(folder) / "data" / "atlases" / file for file in named.files] if folder else []
    found = [path for path in tried if path.is_file()]
    if not found:
        raise DatasetError(_not_found(name_or_path, tried))
    return found[0], named


def _check_sum(image: Path, expected: str) -> None:
    found = sum_of(image)
    if found == expected.lower():
        return
    well_formed = re.fullmatch("[0-9a-fA-F]{64}", expected)
    raise DatasetError(
        Problem(
            "ATLAS_CHECKSUM",
            "the atlas is not the file that the configuration means"
            if well_formed
            else "the configuration does not give the SHA-256 of the atlas",
            where=str(image),
            found=found,
            expected=expected or "sha256: and 64 hexadecimal digits",
            do="find out which file is the right one; write the sum that was found into the configuration "
            "only when you know that this is it",
        )
    )


def _labels_of(image: Path, known: Known | None, table: Path | None) -> tuple[Label, ...]:
    beside = image.with_name(stem(image) + ".tsv")
    if table is not None or beside.is_file():
        return read_label_table(table or beside)
    if known is not None:
        return read_shipped(known.table)
    raise DatasetError(
        Problem(
            "ATLAS_NO_TABLE",
            "nothing says what the values of the atlas mean",
            where=str(image),
            found=f"no {beside.name} beside it",
            expected="a TSV with the columns index and name, and region, side, level, segment",
            do="write it, or name the table in the configuration",
        )
    )


def _xml_of(image: Path, known: Known) -> Path | None:
    """FSL's XML stands in the folder of the atlases, above that of the images."""
    found = [folder / known.xml for folder in (image.parent, image.parent.parent)]
    return next((path for path in found if path.is_file()), None)


def _check_names(xml: Path | None, known: Known, labels: Iterable[Label]) -> None:
    if xml is None:
        return
    try:
        entries = list(ET.parse(xml).getroot().iter("label"))
        names = {int(one.get("index", "")) + known.first_index: _text(one) for one in entries}
    except (ET.ParseError, ValueError, OSError) as error:
        raise DatasetError(_other_names(xml, [str(error)], ["the XML of FSL"])) from error
    ours = {label.index: " ".join(label.name.split()) for label in labels}
    wrong = [index for index, name in ours.items() if names.get(index) != name]
    if wrong:
        found = [f"{index}: {names.get(index, 'nothing')}" for index in wrong]
        raise DatasetError(_other_names(xml, found, [f"{index}: {ours[index]}" for index in wrong]))


def _text(entry: ET.Element) -> str:
    return " ".join((entry.text or entry.get("name") or "").split())


def _check_atlas_sides(atlas: Atlas) -> None:
    """In the space of a template x = 0 is the midline: right labels lie above it, left ones below."""
    centres = _centres_x(atlas)
    wrong = [
        f"{label.segment} ({label.index}, {label.name}) at x = {x:.1f} mm"
        for label in atlas.labels
        if (x := centres.get(label.index)) is not None
        and ((label.segment.side == "R" and x <= 0) or (label.segment.side == "L" and x >= 0))
    ]
    if wrong:
        raise DatasetError(
            Problem(
                "ATLAS_SIDES",
                "labels of the atlas lie on the other side of x = 0 than its table says",
                where=str(atlas.image),
                found="; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""),
                expected="in world coordinates (RAS+) right labels at x > 0 and left ones at x < 0",
                do="the header of the image or the table is wrong: take the atlas from its source again",
            )
        )


def _centres_x(atlas: Atlas) -> dict[int, float]:
    """Index -> x of the centre of its voxels or of its probabilities, mm."""
    if not atlas.probabilities:
        values, grid = read_labels(atlas.image)
        placed = places(values.reshape(grid.shape), grid, atlas.labels).values()
        return {index: place.x for place in placed for index in place.indices}
    data, grid = read_float(atlas.image)
    return {
        index: _centre_x(volume, grid)
        for index, volume in enumerate(np.moveaxis(data, 3, 0), start=1)
        if (volume > 0).any()
    }


def _centre_x(volume: NDArray[np.float32], grid: Grid) -> float:
    """x of the centre of mass of what is above 0, mm: from sums along the axes, for volumes are large."""
    weight = np.clip(volume, 0, None)
    voxel = []
    for axis in range(3):
        along = weight.sum(tuple(other for other in range(3) if other != axis), dtype=np.float64)
        voxel.append(float(along @ np.arange(len(along)) / along.sum()))
    return float(grid.affine[0, :3] @ voxel + grid.affine[0, 3])


def _not_found(name: str, tried: Sequence[Path]) -> Problem:
    return Problem(
        "ATLAS_NOT_FOUND",
        "the atlas is not there",
        where=name,
        found=f"no {', no '.join(map(str, tried))}" if tried else "$FSLDIR is not set",
        expected=f"the path of an image, or one of {', '.join(KNOWN)} in $FSLDIR/data/atlases",
        do="correct the path, or set FSLDIR to where FSL is installed with its atlases",
    )


def _no_template(image: Path, tried: Sequence[Path]) -> Problem:
    return Problem(
        "ATLAS_NO_TEMPLATE",
        "the FA template that brings the atlas to a subject is not there",
        where=str(image),
        found=f"no {', no '.join(map(str, tried))}" if tried else "no template is named",
        expected="an FA map in the space of the atlas",
        do="name it with template: of the atlas in the configuration",
    )


def _other_space(labels: Path, found: Grid, expected: str) -> Problem:
    return Problem(
        "ATLAS_SPACE",
        "the atlas and its FA template do not lie in one space",
        where=str(labels),
        found=describe_grid(found),
        expected=expected,
        do="give the template that belongs to the atlas",
    )


def _other_names(xml: Path, found: Sequence[str], expected: Sequence[str]) -> Problem:
    return Problem(
        "ATLAS_NAMES",
        "the XML of the atlas names its labels otherwise than the published numbering",
        where=str(xml),
        found="; ".join(found[:4]),
        expected="; ".join(expected[:4]),
        do="this is another issue of the atlas: give a table of your own with it",
    )
