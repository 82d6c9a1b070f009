"""An album: the pictures of a session in one zip, with an index that says what each shows."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from matplotlib.figure import Figure

from somite.report import style
from somite.report.canvas import smaller

Section = Literal["scheme", "preprocessing", "motion", "noise", "maps", "segments", "profiles"]
SECTIONS: tuple[Section, ...] = get_args(Section)
INDEX = "index.json"
# Zip begins in 1980: the earliest time that it can tell, instead of that of the run.
_TIME = (1980, 1, 1, 0, 0, 0)
_PLAIN = (".svg", ".json")


@dataclass(frozen=True)
class Picture:
    """One picture, or in its place the reason why there is none."""

    name: str
    """Stable, lower case with hyphens; its files are called so."""
    section: Section
    title: str
    alt: str
    """What is to be seen, for those who cannot."""
    caption: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> contents; none where there is no picture, and the caption says why."""
    pair: str | None = None
    """Name of the picture of the same slices and greys that this one is flickered against."""


def unmade(name: str, section: Section, title: str, why: str) -> Picture:
    """The place of a picture that there is none of; `why` is a sentence."""
    return Picture(name, section, title, f"No picture: {why}", why)


def rendered(figure: Figure, name: str) -> dict[str, bytes]:
    """A figure as SVG, PDF and PNG: file name -> contents."""
    return {f"{name}.{extension}": style.encoded(figure, extension) for extension in style.FORMATS}


LIMIT_BYTES = 3_000_000
_SMALLER = ((256, 1.0), (64, 1.0), (64, 0.7), (32, 0.5), (16, 0.35))
"""Colours, and size, of pictures of slices that would be too many bytes together: the first that suffices."""


def within(pictures: Sequence[Picture], limit_bytes: int = LIMIT_BYTES) -> list[Picture]:
    """The pictures in no more than so many bytes: those of slices, all alike, with fewer colours or smaller.

    Plots stay as they are, and the pictures of the last stage stay though they be too large.
    """
    made = list(pictures)
    for colours, scale in _SMALLER:
        if sum(len(data) for one in made for data in one.files.values()) <= limit_bytes:
            break
        made = [
            replace(one, files={name: smaller(data, colours, scale) for name, data in one.files.items()})
            if len(one.files) == 1
            else one
            for one in pictures
        ]
    return made


def index_text(pictures: Iterable[Picture]) -> str:
    """What the album holds, as JSON: a list in the order of the pages."""
    entries = [
        {
            "name": one.name,
            "section": one.section,
            "title": one.title,
            "alt": one.alt,
            "caption": one.caption,
            "files": sorted(one.files),
            "pair": one.pair,
        }
        for one in pictures
    ]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def write_album(path: Path, pictures: Iterable[Picture]) -> Path:
    """Write the zip of pictures and `index.json`. Equal pictures give equal bytes."""
    listed = list(pictures)
    contents = {INDEX: index_text(listed).encode()}
    for one in listed:
        contents |= one.files
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as album:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            way = zipfile.ZIP_DEFLATED if name.endswith(_PLAIN) else zipfile.ZIP_STORED
            album.writestr(entry, data, way)
    path.write_bytes(into.getvalue())
    return path
