"""The kinds of sources of labels, and the reader of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from somite.label_sources import itksnap, nnunet
from somite.label_sources.naming import NameRule, name_labels
from somite.label_sources.shipped import ShippedName
from somite.segments import Label, read_label_table

FileKind = Literal["bids", "itksnap", "nnunet"]
"""A source that is a file: a table as in BIDS, label descriptions of ITK-SNAP, `dataset.json` of nnU-Net."""
FILE_KINDS: tuple[FileKind, ...] = get_args(FileKind)
SourceName = Literal["auto"] | FileKind | ShippedName


def kind_of(path: Path) -> FileKind:
    """The kind of a file that a user names, by its extension."""
    return {".tsv": "bids", ".json": "nnunet"}.get(path.suffix, "itksnap")  # type: ignore[return-value]


def reader(kind: FileKind, rules: Sequence[NameRule]) -> Callable[[Path], tuple[Label, ...]]:
    """What reads a file of this kind.

    Args:
        kind: of the file.
        rules: what names mean, for a file that has only names.

    The reader raises DatasetError: `LABEL_TABLE`, `LABEL_NAME`.
    """
    if kind == "bids":
        return read_label_table
    read_names = itksnap.read_names if kind == "itksnap" else nnunet.read_names
    return lambda path: name_labels(read_names(path), rules, str(path))
