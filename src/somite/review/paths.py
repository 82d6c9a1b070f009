"""Names in an address to files: nothing outside of a folder is ever reached."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes


class Refused(Exception):
    """A request that gets no answer but its status and a sentence."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


def parts(path: str) -> tuple[str, ...]:
    """The parts of the path of an address, decoded one by one.

    Raises:
        Refused: 400: a part is `.` or `..`, holds a slash, a backslash or a zero byte, or is no UTF-8.
    """
    found = []
    for raw in path.split("/")[1:]:
        try:
            part = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(400, "the address is not UTF-8") from None
        if part in (".", "..") or any(sign in part for sign in "/\\\0"):
            raise Refused(400, "the address leads out of its folder")
        found.append(part)
    return tuple(found)


def inside(root: Path, relative: str) -> Path:
    """The file `relative` to `root`, every symbolic link followed.

    Raises:
        Refused: 403: it lies outside of `root`; 404: there is no such file.
    """
    try:
        found, home = (root / relative).resolve(), root.resolve()
        there = found.is_file()
    except (OSError, ValueError, RuntimeError):
        raise Refused(404, "there is no such file") from None
    if not found.is_relative_to(home):
        raise Refused(403, "the file lies outside of the output")
    if not there:
        raise Refused(404, "there is no such file")
    return found
