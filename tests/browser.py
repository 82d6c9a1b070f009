"""Debian's Chromium, headless, driven by Playwright: the network is blocked, and whatever is wrong is kept.

    def test_it_opens(open_page: Callable[..., Tab], page_on_disk: Path) -> None:
        tab = open_page(page_on_disk)
        tab.page.keyboard.press("Tab")
        assert tab.complaints == []

The browser lives as long as a test file: Playwright's event loop must not outlive it, since steps that run
in the same process start loops of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

LAPTOP = {"width": 1366, "height": 768}
# Root needs no sandbox of its own in a container; WebGL is drawn in software, the same everywhere.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@dataclass
class Tab:
    """A page in the browser, and what it had to complain of: errors, warnings, requests to the network."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium(need_tool: Callable[[str], Path]) -> Iterator[Browser]:
    """The browser of the system; nothing is downloaded."""
    path = need_tool("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Tab]]:
    """Open a file, or an address of this machine that is named, in a tab of its own.

    `allow` is the beginning of the addresses that may be asked for, as "http://127.0.0.1:8000/"; further
    options are those of Playwright's `new_page`: color_scheme, viewport, reduced_motion.
    """
    tabs: list[Tab] = []

    def opened(target: Path | str, *, allow: str = "file:", **options: object) -> Tab:
        page = chromium.new_page(**{"viewport": LAPTOP, **options})
        tab = Tab(page)
        tabs.append(tab)

        def guard(route: Route) -> None:
            if route.request.url.startswith((allow, "data:", "blob:")):
                route.continue_()
            else:
                tab.complaints.append(f"asked the network for {route.request.url}")
                route.abort()

        page.route("**/*", guard)
        page.on("console", lambda said: _hear(tab, said.type, said.text))
        page.on("pageerror", lambda error: tab.complaints.append(f"error: {error}"))
        page.goto(target.absolute().as_uri() if isinstance(target, Path) else target)
        return tab

    yield opened
    for tab in tabs:
        tab.page.close()


def _hear(tab: Tab, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        tab.complaints.append(f"{kind}: {text}")
