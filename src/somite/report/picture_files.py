"""The pictures of a session: unpacked from its archive to `figures/`, and shown in its page.

The archive is the product `pictures`: pictures, and an `index.json` that lists them. It is not believed:
names that are no plain file names, and whatever cannot be read, are left out and told in words.
"""

from __future__ import annotations

import base64
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from somite.files import beside, parse_json, read_json

SECTIONS = ("scheme", "preprocessing", "motion", "noise", "maps", "segments", "profiles")
LARGEST_BYTES = 50_000_000
"""Of one file of the archive, and of its index."""
MOST_BYTES = 1_000_000_000
"""Of all of them: a session has some megabytes."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.(png|svg|pdf)")
_MIME = {".png": "image/png", ".svg": "image/svg+xml"}
_SVG_HEAD = 4000


@dataclass(frozen=True)
class Picture:
    """An entry of the index."""

    name: str
    section: str
    title: str
    alt: str
    caption: str
    files: tuple[str, ...]
    """Names in the archive."""
    pair: str | None = None
    """Name of the picture that it takes turns with."""


@dataclass(frozen=True)
class Archive:
    """What an archive holds, and what is wrong with it."""

    pictures: tuple[Picture, ...] = ()
    contents: Mapping[str, bytes] | None = None
    """File name -> its bytes."""
    fault: str = ""


@dataclass(frozen=True)
class Shown:
    """A picture as it stands in a page: its data, or why there is none."""

    name: str
    title: str
    alt: str
    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    missing: str = ""


def read_archive(path: Path) -> Archive:
    """The pictures of an archive. Never raises for what is wrong with it: `fault` says it."""
    try:
        with zipfile.ZipFile(path) as file:
            pictures = tuple(_entry(item) for item in parse_json(member(file, "index.json")))
            wanted = {name for picture in pictures for name in picture.files if _PLAIN.fullmatch(name)}
            sizes = {info.filename: info.file_size for info in file.infolist()}
            kept = [name for name in sorted(wanted) if sizes.get(name, LARGEST_BYTES + 1) <= LARGEST_BYTES]
            if sum(sizes[name] for name in kept) > MOST_BYTES:
                raise ValueError("its pictures are larger than any session's")
            contents = {name: member(file, name) for name in kept}
    except FileNotFoundError:
        return Archive(fault="the archive of pictures is not there")
    except (*FAULTS, AttributeError) as error:
        return Archive(fault=f"the archive of pictures cannot be read ({type(error).__name__}: {error})")
    return Archive(pictures, contents)


FAULTS = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What may be wrong with an archive; a file that is encrypted is a RuntimeError."""


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive.

    No more is unpacked than its entry promises, whatever the compressed bytes would give.

    Raises:
        KeyError: there is none of this name.
        ValueError: it is larger than `LARGEST_BYTES`.
    """
    if archive.getinfo(name).file_size > LARGEST_BYTES:
        raise ValueError(f"{name} is larger than any picture")
    return archive.read(name)


def _entry(item: Mapping[str, Any]) -> Picture:
    text = {key: str(item.get(key) or "") for key in ("name", "section", "title", "alt", "caption")}
    pair = item.get("pair")
    return Picture(**text, files=tuple(map(str, item["files"])), pair=None if pair is None else str(pair))


def folder_of(archive: Path) -> Path:
    """`figures/` of the session whose archive this is: where it lies, or beside its folder `dwi`."""
    return archive.parent if archive.parent.name == "figures" else archive.parent.parent / "figures"


def unpack(archive: Archive, folder: Path, label: str) -> list[Path]:
    """Write the files of an archive as `<label>_<name>`; files of an earlier one that it lacks are removed.

    `<label>_pictures.json` lists what is there, by the names in the folder. Returns the paths
    of the pictures.
    """
    listing = folder / f"{label}_pictures.json"
    targets = {folder / f"{label}_{name}": data for name, data in (archive.contents or {}).items()}
    for path in _listed(listing) - set(targets):
        path.unlink(missing_ok=True)
    for path, data in targets.items():
        if not path.is_file() or path.read_bytes() != data:
            with beside(path) as draft:
                draft.write_bytes(data)
    _write_listing(listing, archive, label)
    return list(targets)


def is_unpacked(folder: Path, label: str) -> bool:
    """Whether the files that were unpacked for a session are all there."""
    listing = folder / f"{label}_pictures.json"
    return listing.is_file() and all(path.is_file() for path in _listed(listing))


def _listed(listing: Path) -> set[Path]:
    """The files that a listing names, where it can be read."""
    found: set[Path] = set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        for item in read_json(listing):
            found |= {listing.parent / name for name in item["files"] if _PLAIN.fullmatch(name)}
    return found


def _write_listing(listing: Path, archive: Archive, label: str) -> None:
    here = archive.contents or {}
    items = [
        {
            "name": p.name,
            "section": p.section,
            "title": p.title,
            "alt": p.alt,
            "caption": p.caption,
            "files": [f"{label}_{name}" for name in p.files if name in here],
            "pair": p.pair,
        }
        for p in archive.pictures
    ]
    text = json.dumps(items, indent=1) + "\n"
    if not items:
        listing.unlink(missing_ok=True)
    elif not listing.is_file() or listing.read_text(encoding="utf-8") != text:
        with beside(listing) as draft:
            draft.write_text(text, encoding="utf-8")


def remove(listing: Path) -> None:
    """Remove the pictures that a listing names, and the listing."""
    for path in [*_listed(listing), listing]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        listing.parent.rmdir()


def shown(archive: Archive, limit_bytes: int, folder: str) -> dict[str, Shown]:
    """Name -> picture as a page holds it, all together within a limit; the largest are named by file only.

    Args:
        archive: the pictures.
        limit_bytes: room for the pictures in the page, as base64.
        folder: where their files lie, for what is said of those left out.
    """
    made = {picture.name: _show(picture, archive.contents or {}) for picture in archive.pictures}
    total = sum(len(item.uri) for item in made.values())
    for item in sorted(made.values(), key=lambda item: (-len(item.uri), item.name)):
        if total <= limit_bytes:
            break
        total -= len(item.uri)
        words = f"This picture would make the page too large; it lies in {folder}."
        made[item.name] = replace(item, uri="", missing=words)
    return made


def _show(picture: Picture, contents: Mapping[str, bytes]) -> Shown:
    plain = Shown(picture.name, picture.title or picture.name, picture.alt, picture.caption)
    if not picture.files:  # the caption says why there is none
        return replace(plain, caption="", missing=picture.caption or "There is no picture of this.")
    # The smallest of those that a browser draws: lines are small as SVG, images as PNG.
    drawable = [name for name in picture.files if name in contents and Path(name).suffix in _MIME]
    for name in sorted(drawable, key=lambda name: (len(contents[name]), name)):
        data, suffix = contents[name], Path(name).suffix
        size = png_size(data) if suffix == ".png" else svg_size(data)
        if size is not None:
            uri = f"data:{_MIME[suffix]};base64,{base64.b64encode(data).decode()}"
            return replace(plain, uri=uri, width=size[0], height=size[1])
    named = ", ".join(picture.files)
    return replace(plain, missing=f"This picture is missing: {named} could not be read from the archive.")


def png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, in pixels."""
    if len(data) < 24 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return (width, height) if width and height else None


def svg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an SVG in CSS pixels: those of its head, or of its viewBox."""
    head = data[:_SVG_HEAD].decode("utf-8", "replace")
    tag = re.search(r"<svg\b[^>]*>", head)
    if tag is None:
        return None
    pixels = {"pt": 4 / 3, "px": 1.0, "": 1.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
    found = [re.search(rf'\b{key}="([\d.]+)(pt|px|mm|cm|in|)"', tag[0]) for key in ("width", "height")]
    sizes = [float(match[1]) * pixels[match[2]] for match in found if match is not None]
    if len(sizes) < 2 and (box := re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', tag[0])):
        sizes = [float(box[1]), float(box[2])]
    return (round(sizes[0]), round(sizes[1])) if len(sizes) == 2 and min(sizes) >= 1 else None


def pairs(items: Sequence[Shown], partner: Mapping[str, str | None]) -> list[tuple[Shown, Shown | None]]:
    """Pictures in their order, each with the one that it takes turns with; a pair stands once.

    A partner of another size, or one that is missing, makes no pair: both stand by themselves.
    """
    by_name = {item.name: item for item in items}
    both = dict(partner) | {
        other: name for name, other in partner.items() if other and not partner.get(other)
    }
    done: set[str] = set()
    found: list[tuple[Shown, Shown | None]] = []
    for item in items:
        if item.name in done:
            continue
        done.add(item.name)
        other = by_name.get(both.get(item.name) or "")
        if other is not None and other.name not in done and _take_turns(item, other):
            done.add(other.name)
            found.append((item, other))
        else:
            found.append((item, None))
    return found


def _take_turns(one: Shown, other: Shown) -> bool:
    return not (one.missing or other.missing) and (one.width, one.height) == (other.width, other.height)


LISTING = "figures.json"
"""In a folder of figures: their files."""


def listed(folder: Path) -> list[str]:
    """The files of figures that a folder should hold; those of the reader's own are not among them."""
    try:
        names = read_json(folder / LISTING)
        return [str(name) for name in names if _PLAIN.fullmatch(str(name))]
    except (OSError, ValueError, TypeError):
        return []


def lie_there(folder: Path) -> bool:
    """Whether all figures that are listed are there."""
    return all((folder / name).is_file() for name in listed(folder))
