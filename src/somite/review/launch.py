"""The address of the review page to a browser, and not to the other users of this machine."""

from __future__ import annotations

import html
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def browser(url: str) -> Iterator[bool]:
    """Open `url` in the browser; yields whether one was found.

    The command line of a browser can be read by every user of the machine, and the address holds the token:
    the browser gets the name of a file instead, which only this user may read and which leads on.
    """
    with tempfile.TemporaryDirectory(prefix="somite-review-") as folder:
        page = Path(folder) / "open.html"
        leads = html.escape(url)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={leads}">'
            f'<title>Somite review</title><p><a href="{leads}">Open the review page</a></p>\n',
            encoding="utf-8",
        )
        page.chmod(0o600)
        try:
            opened = webbrowser.open(page.as_uri())
        except webbrowser.Error:
            opened = False
        yield opened
