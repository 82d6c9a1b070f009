"""What the values of a session's label image mean: which source applies, and the table made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from somite.bids import File, inherited, stem
from somite.dataset.choosing import TRANSFERRED
from somite.dataset.index import Visit
from somite.dataset.regions import Tables, check_regions
from somite.dataset.sessions import listing
from somite.errors import DatasetError, Problem
from somite.label_sources.naming import NameRule, without_rule
from somite.label_sources.shipped import SHIPPED, ShippedName, about, is_shipped, read_shipped
from somite.label_sources.source import FILE_KINDS, FileKind, SourceName, kind_of, reader
from somite.registry import Fact
from somite.segments import Label, Segment


@dataclass(frozen=True)
class Wanted:
    """What the configuration says of the source of labels."""

    source: SourceName = "auto"
    table: Path | None = None
    names: tuple[NameRule, ...] = ()
    expected: tuple[Segment, ...] | None = None
    """Segments that the table shall hold; None: those of the label table."""
    by_seg: Mapping[str, SourceName] = field(default_factory=dict)
    """The source of images with this `seg` in their names, in place of `source`."""

    def of(self, image: File) -> Wanted:
        """What is said of one image."""
        return replace(self, source=self.by_seg.get(image.name.entities.get("seg", ""), self.source))


@dataclass(frozen=True)
class LabelTable:
    """What says what the values of a label image mean."""

    path: Path | None = None
    """A TSV in the form of BIDS; None where the source is of another kind."""
    labels: tuple[Label, ...] = ()
    source: str = ""
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()

    @property
    def is_tool(self) -> bool:
        """Whether it is a published numbering."""
        return is_shipped(self.source)


def find_label_table(image: File, visit: Visit, wanted: Wanted, tables: Tables) -> LabelTable:
    """The table of a label image, and all that is wrong with it: `LABEL_NO_TABLE` where there is none."""
    wanted = wanted.of(image)
    try:
        chosen = _choose(image, visit, wanted)
        if chosen is not None:
            return _of_file(*chosen, image, wanted, tables)
        if is_shipped(wanted.source):
            return _of_shipped(wanted.source, image, wanted)
        return LabelTable(problems=(_no_table(image, wanted.source),))
    except DatasetError as error:
        return LabelTable(problems=error.problems)


def _choose(image: File, visit: Visit, wanted: Wanted) -> tuple[FileKind, Path, str] | None:
    """Kind of the file, the file, and why it was chosen where it was not given; None where there is none."""
    if image.name.entities.get("desc") == TRANSFERRED and (own := _beside("bids", image, visit)):
        return "bids", own, "the table that was delivered with these labels"
    kinds = tuple(kind for kind in FILE_KINDS if wanted.source in ("auto", kind))
    if kinds and wanted.table is not None:
        given = len(kinds) == 1
        return kinds[0] if given else kind_of(wanted.table), wanted.table, "" if given else "by its extension"
    for kind in kinds:
        if path := _beside(kind, image, visit):
            return kind, path, "it lies beside the labels, or where they inherit it"
    return None


def _beside(kind: FileKind, image: File, visit: Visit) -> Path | None:
    levels = visit.levels(image)
    if kind == "nnunet":
        named = [file.path for files in levels for file in files if file.path.name == "dataset.json"]
        return named[-1] if named else None
    found = [file for extension in _EXTENSIONS[kind] for file in inherited(image.name, extension, levels)]
    return found[-1].path if found else None


_EXTENSIONS = {"bids": (".tsv",), "itksnap": (".label", ".txt")}


def _of_shipped(name: ShippedName, image: File, wanted: Wanted) -> LabelTable:
    labels = read_shipped(name)
    carrier = f"the numbering of {about(name)['Name']}"
    return LabelTable(
        labels=labels,
        source=name,
        problems=tuple(
            check_regions({label.segment for label in labels}, wanted.expected, str(image.path), carrier)
        ),
    )


def _of_file(
    kind: FileKind, path: Path, reason: str, image: File, wanted: Wanted, tables: Tables
) -> LabelTable:
    labels = tables.read(path, reader(kind, wanted.names))
    problems = check_regions(
        {label.segment for label in labels}, wanted.expected, str(path), "the label table"
    )
    facts: tuple[Fact, ...] = ()
    if reason and (kind != "bids" or wanted.source not in ("auto", "bids")):  # a TSV is the rule in BIDS
        facts = (Fact(f"source of {image.path.name}", f"{kind}, {path.name}", reason),)
    if kind == "bids":
        return LabelTable(path, labels, kind, tuple(problems), facts)
    if left := without_rule(labels, wanted.names):
        facts += (Fact(f"labels of {path.name}", listing(left), _NO_RULE),)
    return LabelTable(None, labels, kind, tuple(problems), facts)


_NO_RULE = "no rule of labels: names: matches; the name is the region, without side, level or segment"


def _no_table(image: File, source: SourceName) -> Problem:
    stands = stem(image.path)
    seg = f"seg-{image.name.entities['seg']}_" if "seg" in image.name.entities else ""
    expected = {
        "bids": f"{stands}.tsv, or one for all in the folder of labels, such as {seg}dseg.tsv",
        "itksnap": f"{stands}.txt or .label (ITK-SNAP)",
        "nnunet": "dataset.json (nnU-Net), in its folder or one above",
    }
    kinds: Sequence[str] = tuple(expected) if source == "auto" else (source,)
    return Problem(
        "LABEL_NO_TABLE",
        "the label image has no table that says what its values mean",
        where=str(image.path),
        found="none of these beside it, nor one that it inherits",
        expected="; or ".join(expected[kind] for kind in kinds),
        do="write the TSV, tab-separated, with the columns index and name, and region, side, level, segment; "
        f"or name the file with labels: table:, or the numbering with labels: source: {', '.join(SHIPPED)}",
    )
