"""The files of a BIDS dataset, folder by folder, each folder read once.

Only names: no file is opened here. The folders are walked here because bids2table's index leaves out, without
a word, sidecars, files above the participants, folders that may not be read, and whole datasets whose folder
has a dot or a bracket in its name (docs/dependencies.md has the figures).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from somite.bids import File, parse_name
from somite.errors import DatasetError, Problem

_FOLDER = re.compile(r"(sub|ses)-([0-9A-Za-z+]+)")


@dataclass(frozen=True)
class Dataset:
    """The top of a BIDS dataset."""

    root: Path
    participants: tuple[str, ...]
    """Without `sub-`, sorted."""
    files: tuple[File, ...]
    """Those at the root, which all participants inherit."""
    strange: tuple[Path, ...] = ()
    """Folders that begin with `sub-` and cannot be a participant's."""


@dataclass(frozen=True)
class Visit:
    """The files of one session of one participant."""

    participant: str
    session: str | None
    files: tuple[File, ...] = ()
    """In the folders of the data types (`dwi`, `anat`), sorted."""
    above: tuple[tuple[File, ...], ...] = ()
    """What they inherit: the files of each folder above, the dataset's root first."""
    strange: tuple[Path, ...] = ()
    """Images, and folders `ses-*`, whose names are not formed as BIDS names are."""
    problems: tuple[Problem, ...] = ()
    """Folders that cannot be read."""

    def levels(self, file: File) -> tuple[tuple[File, ...], ...]:
        """The files of each folder from the dataset's root to that of `file`."""
        return (*self.above, tuple(other for other in self.files if other.path.parent == file.path.parent))


def read_dataset(root: Path) -> Dataset:
    """The top of the dataset at `root`.

    Raises:
        DatasetError: `NOT_BIDS`, there is no such folder, or no participant in it; `UNREADABLE`.
    """
    try:
        folders, files, _ = _list(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(_not_bids(root, "no such folder", "the folder of a BIDS dataset")) from error
    named = {folder: _label("sub", folder) for folder in folders if folder.startswith("sub-")}
    participants = tuple(sorted(label for label in named.values() if label))
    if not participants:
        raise DatasetError(_not_bids(root, "no folder sub-*", "a folder for each participant: sub-01, ..."))
    return Dataset(root, participants, files, tuple(root / f for f, label in named.items() if not label))


def visits(dataset: Dataset, participant: str, datatypes: Collection[str] | None = None) -> list[Visit]:
    """The sessions of a participant, sorted; one without a name where there is no folder `ses-*`.

    A folder that cannot be read is a Problem of its session. No visit for a participant without a folder.

    Args:
        dataset: from `read_dataset`.
        participant: without `sub-`.
        datatypes: folders to look into; None for all.
    """
    home = dataset.root / f"sub-{participant}"
    try:
        folders, files, strange = _list(home)
    except DatasetError as error:
        return [Visit(participant, None, problems=error.problems)]
    except FileNotFoundError:
        return []
    above = (dataset.files, files)
    strange += tuple(home / f for f in folders if f.startswith("ses-") and not _label("ses", f))
    sessions = [folder for folder in folders if _label("ses", folder)]
    found = []
    if not sessions or _chosen(folders, datatypes):
        found.append(_filled(Visit(participant, None, above=above), home, folders, datatypes))
    for folder in sessions:
        visit = Visit(participant, _label("ses", folder), above=above)
        found.append(_session(home / folder, visit, datatypes))
    return [replace(found[0], strange=(*strange, *found[0].strange)), *found[1:]]


def _chosen(folders: list[str], datatypes: Collection[str] | None) -> list[str]:
    """The folders of data types that are looked into."""
    return [f for f in folders if not f.startswith("ses-") and (datatypes is None or f in datatypes)]


def _session(home: Path, visit: Visit, datatypes: Collection[str] | None) -> Visit:
    try:
        folders, files, strange = _list(home)
    except DatasetError as error:
        return replace(visit, problems=error.problems)
    return _filled(replace(visit, above=(*visit.above, files), strange=strange), home, folders, datatypes)


def _filled(visit: Visit, home: Path, folders: list[str], datatypes: Collection[str] | None) -> Visit:
    """The visit with the files of its data types."""
    files: list[File] = []
    strange = [*visit.strange]
    problems: list[Problem] = []
    for folder in _chosen(folders, datatypes):
        try:
            _, here, odd = _list(home / folder)
        except DatasetError as error:
            problems += error.problems
        else:
            files += here
            strange += odd
    return replace(visit, files=tuple(files), strange=tuple(strange), problems=tuple(problems))


def _list(folder: Path) -> tuple[list[str], tuple[File, ...], tuple[Path, ...]]:
    """Folders, files with BIDS names, images with other names, each sorted. What is hidden is passed over.

    A link to a folder is a folder; a link that leads nowhere is a file.
    """
    try:
        with os.scandir(folder) as entries:
            listed = sorted((e.name, _is_folder(e)) for e in entries if not e.name.startswith("."))
    except PermissionError as error:
        raise DatasetError(unreadable(folder, "the folder")) from error
    folders = [name for name, is_folder in listed if is_folder]
    files = [name for name, is_folder in listed if not is_folder]
    named = ((name, parse_name(name)) for name in files)
    known = tuple(File(folder / name, parsed) for name, parsed in named if parsed is not None)
    return folders, known, tuple(_strange(folder, files, known))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # What is called like an image is one: a folder of that name (a damaged copy) is found when it is opened.
    return entry.is_dir() and not entry.name.endswith((".nii", ".nii.gz"))


def _strange(folder: Path, files: list[str], known: tuple[File, ...]) -> Iterator[Path]:
    if len(known) < len(files):
        names = {file.path.name for file in known}
        yield from (folder / n for n in files if n.endswith((".nii", ".nii.gz")) and n not in names)


def _label(kind: str, folder: str) -> str:
    """`01` of `sub-01`, or nothing."""
    match = _FOLDER.fullmatch(folder)
    return match[2] if match and match[1] == kind else ""


def unreadable(path: Path, what: str) -> Problem:
    """The problem of a file or folder that this user may not read."""
    return Problem(
        "UNREADABLE",
        f"{what} may not be read",
        where=str(path),
        found="permission denied",
        expected="read permission for the user who runs Somite",
        do="chmod u+r (and u+x for a folder), or ask the owner for access",
    )


def _not_bids(root: Path, found: str, expected: str) -> Problem:
    return Problem(
        "NOT_BIDS",
        "this is not the folder of a BIDS dataset",
        where=str(root),
        found=found,
        expected=expected,
        do="check the path; name the dataset's own folder, the one that holds dataset_description.json",
    )
