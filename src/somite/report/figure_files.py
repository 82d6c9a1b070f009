"""Figures of the cohort as files under `group/figures/`, and as a page holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from somite.files import write_atomically
from somite.report import picture_files, style
from somite.report.pages import slug
from somite.report.picture_files import Archive, Picture, Shown

_PIXELS_PER_INCH = 105
_NAME_LETTERS = 80
T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """A figure with its words, or why there is none."""

    name: str
    """Of its files, without extension."""
    title: str
    caption: str = ""
    alt: str = ""
    figure: Figure | None = None
    missing: str = ""


def plain_name(*words: str) -> str:
    """A name of files from words that may be anything, the same every time: letters, digits and dashes."""
    return "-".join(slug(word) for word in words if word)[:_NAME_LETTERS].rstrip("-")


class Folder:
    """`group/figures/` while a page is made: holds the encoded figures, and knows what was there before."""

    def __init__(self, out_dir: Path) -> None:
        self.path = out_dir / "group" / "figures"
        self._contents: dict[str, bytes] = {}
        self._pictures: list[Picture] = []
        self._sizes: dict[str, tuple[int, int]] = {}
        self._missing: dict[str, Shown] = {}

    def add(self, drawn: Drawn) -> str:
        """Save a figure as SVG, PDF and PNG; returns the name that it is shown by."""
        name, turn = drawn.name, 2
        while name in self._sizes or name in self._missing:
            name, turn = f"{drawn.name}-{turn}", turn + 1
        if drawn.figure is None:
            self._missing[name] = Shown(name, drawn.title, "", drawn.caption, missing=drawn.missing)
            return name
        width, height = drawn.figure.get_size_inches()
        self._sizes[name] = round(width * _PIXELS_PER_INCH), round(height * _PIXELS_PER_INCH)
        files = style.save(drawn.figure, self.path, name)
        for path in files:
            if path.suffix != ".pdf":
                self._contents[path.name] = path.read_bytes()
        self._pictures.append(
            Picture(name, "", drawn.title, drawn.alt or drawn.title, drawn.caption,
                    tuple(path.name for path in files))
        )  # fmt: skip
        return name

    def shown(self, limit_bytes: int) -> dict[str, Shown]:
        """Name -> figure as a page holds it, as SVG or PNG, whichever is smaller, all within a limit."""
        found = picture_files.shown(
            Archive(tuple(self._pictures), self._contents), limit_bytes, "group/figures"
        )
        sized = {
            name: replace(one, width=self._sizes[name][0], height=self._sizes[name][1])
            for name, one in found.items()
        }
        return sized | self._missing

    def finish(self) -> list[Path]:
        """List what is there, and remove what only an earlier page had; returns what is removed."""
        names = sorted(name for picture in self._pictures for name in picture.files)
        gone = sorted(set(picture_files.listed(self.path)) - set(names))
        for name in gone:
            (self.path / name).unlink(missing_ok=True)
        if names:
            write_atomically(self.path / picture_files.LISTING, json.dumps(names, indent=1) + "\n")
        else:
            (self.path / picture_files.LISTING).unlink(missing_ok=True)
            with suppress(OSError):
                self.path.rmdir()
        return [self.path / name for name in gone]


def chunks(items: Sequence[T], most: int) -> Iterable[Sequence[T]]:
    """Items in equal parts of at most so many."""
    if not items:
        return
    parts = -(-len(items) // most)
    size = -(-len(items) // parts)
    for start in range(0, len(items), size):
        yield items[start : start + size]
