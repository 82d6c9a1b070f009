"""The browser of the tests hears what it should: a page that is wrong is not taken for one that is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import Tab


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<h1>good</h1>", ""),
        ("<script>console.error('bad')</script>", "error: bad"),
        ("<script>undefined_name()</script>", "undefined_name"),
        ("<img src='https://example.org/a.png' alt=''>", "asked the network for https://example.org/a.png"),
        ("<script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script>", "asked the network"),
    ],
)
def test_a_complaint_is_heard(
    open_page: Callable[..., Tab], tmp_path: Path, body: str, complaint: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>t</title>{body}")
    tab = open_page(path)
    tab.page.wait_for_timeout(100)
    if complaint:
        assert any(complaint in said for said in tab.complaints), tab.complaints
    else:
        assert tab.complaints == []


def test_webgl_is_drawn(open_page: Callable[..., Tab], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>t</title><canvas id=c></canvas>")
    tab = open_page(path)
    assert tab.page.evaluate("document.getElementById('c').getContext('webgl2') !== null")
