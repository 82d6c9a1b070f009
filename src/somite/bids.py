"""BIDS names: the only parser and builder of them, and the principle by which files inherit metadata.

Knows no diffusion. bids2table parses a name and knows the order of the entities; what it takes in silence (a
part that is no entity, an entity given twice) is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import bids2table

from somite.errors import DatasetError, Problem
from somite.files import read_json

IMAGE_EXTENSIONS = (".nii", ".nii.gz")

_FORM = re.compile(r"(?:[0-9A-Za-z]+-[0-9A-Za-z+]+_)*[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)+")
_VALUE = re.compile(r"[0-9A-Za-z+]+")
_NOT_ENTITIES = ("datatype", "suffix", "ext")
# Of transforms (BEP014) and of diffusion maps (BEP016), which the schema does not hold yet; before `desc`.
_NOT_YET_IN_SCHEMA = ("from", "to", "mode", "model", "param")


@dataclass(frozen=True, slots=True)
class Name:
    """A file name: `sub-01_dir-AP_dwi.nii.gz` has the entities sub and dir, a suffix and an extension."""

    entities: Mapping[str, str]
    suffix: str
    extension: str

    @property
    def is_image(self) -> bool:
        """Whether it is the name of a NIfTI image."""
        return self.extension in IMAGE_EXTENSIONS

    def same_image(self) -> tuple[object, ...]:
        """Equal for two names that mean one image: entities in any order, run-1 and run-01, .nii and .gz."""
        values = sorted((key, comparable(key, value)) for key, value in self.entities.items())
        return (self.suffix, *values)


@dataclass(frozen=True, slots=True)
class File:
    """A file with a BIDS name."""

    path: Path
    name: Name


def comparable(entity: str, value: str) -> str:
    """The value without the zeros that a number may begin with: run-01 is run-1."""
    return value.lstrip("0") or "0" if entity in ("run", "echo") and value.isdigit() else value


def parse_name(filename: str) -> Name | None:
    """The parts of a file name, without its folder; None where it is not formed as BIDS names are."""
    if not _FORM.fullmatch(filename):
        return None
    parsed = bids2table.parse_bids_entities(filename)
    entities = {key: value for key, value in parsed.items() if key not in _NOT_ENTITIES}
    if "suffix" not in parsed or len(entities) != filename.count("_"):
        return None
    return Name(entities, parsed["suffix"], parsed["ext"])


@cache
def entity_order() -> Mapping[str, int]:
    """Entity -> its rank in a name."""
    known = [name for name in bids2table.get_arrow_schema().names if name not in _NOT_ENTITIES]
    schema = known[known.index("sub") : known.index("desc")]
    return {name: rank for rank, name in enumerate((*schema, *_NOT_YET_IN_SCHEMA, "desc"))}


def join_entities(entities: Mapping[str, str]) -> str:
    """`sub-01_ses-02_dir-AP`, in the order of BIDS; entities without a value are left out.

    Raises:
        ValueError: an entity that BIDS does not know, or a value that is not of letters and digits.
    """
    order = entity_order()
    given = {key: value for key, value in entities.items() if value}
    for key, value in given.items():
        if key not in order:
            raise ValueError(f"{key} is not an entity of BIDS")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{key}-{value}: the value is not of letters and digits")
    return "_".join(f"{key}-{given[key]}" for key in sorted(given, key=order.__getitem__))


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """A file name: `sub-01_space-dwi_model-tensor_param-fa_dwimap.nii.gz`.

    Raises:
        ValueError: as `join_entities`.
    """
    joined = join_entities(entities)
    return f"{joined}_{suffix}{extension}" if joined else f"{suffix}{extension}"


def stem(path: Path) -> str:
    """The file name without its extension, of which `.nii.gz` is one."""
    return path.name.partition(".")[0]


def inherited(name: Name, extension: str, levels: Iterable[Sequence[File]]) -> tuple[File, ...]:
    """The files of `extension` that apply to the file `name`: what the last says overrides what is before.

    A file applies when it has the same suffix and no entity that the name has not (BIDS, "The inheritance
    principle").

    Args:
        name: name of the data file.
        extension: of the wanted files, such as `.json`.
        levels: the files of each folder, from the dataset's root to the folder of the data file.

    Raises:
        DatasetError: `INHERITANCE_AMBIGUOUS`, two files in one folder apply and neither is more specific.
    """
    found: list[File] = []
    for files in levels:
        here = [f for f in files if f.name.extension == extension and _applies(f.name, name)]
        here.sort(key=lambda f: len(f.name.entities))
        for general, special in pairwise(here):
            if not general.name.entities.items() < special.name.entities.items():
                raise DatasetError(_ambiguous(general, special, name))
        found += here
    return tuple(found)


def _applies(general: Name, name: Name) -> bool:
    return general.suffix == name.suffix and general.entities.items() <= name.entities.items()


def _ambiguous(one: File, other: File, name: Name) -> Problem:
    return Problem(
        "INHERITANCE_AMBIGUOUS",
        "two files of one folder apply to the same image, and neither is the more specific",
        where=str(one.path),
        found=f"{one.path.name} and {other.path.name}, for {build_name(name.entities, name.suffix, '')}",
        expected="at most one, or one with all the entities of the other and more",
        do="merge them, or name one after the image",
    )


def read_description(root: Path) -> dict[str, Any]:
    """The `dataset_description.json` of a dataset.

    Raises:
        DatasetError: `NOT_BIDS`, it is absent, cannot be read, or lacks a field that BIDS requires.
    """
    path = root / "dataset_description.json"
    try:
        description = read_json(path)
        absent = [key for key in ("Name", "BIDSVersion") if key not in description]
        found = f"no field {' and no field '.join(absent)}" if absent else ""
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, TypeError) as error:
        found = str(error)
    if not found and isinstance(description, dict):
        return description
    raise DatasetError(
        Problem(
            "NOT_BIDS",
            "the dataset is not described as BIDS requires",
            where=str(path),
            found=found or f"a {type(description).__name__}",
            expected='a JSON object with at least "Name" and "BIDSVersion"',
            do="write the file; the BIDS validator shows what else it may hold",
            severity="warning",
        )
    )
