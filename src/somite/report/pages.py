"""What all pages share: templates with every value escaped, one file without any request, written whole.

A page forbids by its Content-Security-Policy all that it does not hold: no address is ever asked, and no
script runs but its own, named by checksum.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from somite import __version__
from somite.files import write_atomically

PAGE_LIMIT_BYTES = 5_000_000
"""Most that a page of a session may weigh."""
_HEAD_BYTES = 4096
_ABSOLUTE = re.compile(r"(?<![\w/.])/(?:[^/\s,;:'\"]+/)+([^/\s,;:'\"]+)")


@cache
def environment() -> Environment:
    """The templates of pages. Every value is escaped; a name that is not given is an error."""
    made = Environment(
        loader=PackageLoader("somite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(cut=cut, slug=slug, number=number, base_names=base_names, beyond=beyond)
    return made


def render(template: str, *, made_from: str = "", **values: Any) -> str:
    """A page from a template that extends `base.html.j2`; `values` holds at least its `title`.

    Args:
        template: its file name in `templates/`.
        made_from: digest of what the page says, kept in its head: see `is_made_from`.
        values: what the template names.
    """
    style, script = _asset("style.css"), _asset("page.js")
    return (
        environment()
        .get_template(template)
        .render(
            made_from=made_from,
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            version=__version__,
            **values,
        )
    )


@cache
def _asset(name: str) -> str:
    return resources.files("somite.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def code_digest() -> str:
    """Digest of all that decides how a page looks: modules, templates, texts, and the version."""
    digest = hashlib.sha256(__version__.encode())
    root = Path(str(resources.files("somite.report")))
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".j2", ".css", ".js", ".bib"):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def is_made_from(page: Path, made_from: str) -> bool:
    """Whether the page at this path was made from what has this digest."""
    try:
        with page.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return f'name="somite-made-from" content="{made_from}"'.encode() in head


def write_changed(path: Path, text: str) -> bool:
    """Write a text unless the file holds it already; returns whether it was written."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass
    write_atomically(path, text)
    return True


def cut(text: object, limit: int = 60) -> Markup:
    """A text of at most `limit` characters; a longer one keeps its whole in the title attribute."""
    whole = str(text)
    if len(whole) <= limit:
        return escape(whole)
    short = whole[: limit - 1].rstrip() + "…"
    return Markup('<span title="{}">{}</span>').format(whole, short)


def beyond(text: str, other: str) -> str:
    """The sentences of a text that the other lacks: of two captions that say mostly the same."""
    known = set(re.split(r"(?<=[.]) ", other))
    return " ".join(part for part in re.split(r"(?<=[.]) ", text) if part not in known)


def slug(text: object) -> str:
    """A text as an id or class of HTML: `not reached` -> `not-reached`."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-") or "unnamed"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without exponents; empty where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def base_names(text: str) -> str:
    """A text whose absolute paths are cut to their last part: a page is sent to others."""
    return _ABSOLUTE.sub(r"\1", text)
