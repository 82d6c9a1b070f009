"""The review page in a real browser: keys, verdicts that outlive the server, slices and segments."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import reviewed
from browser import Tab
from PIL import Image

from somite.review import verdicts

SEGMENTS = "#canvas[data-shown~=segments]"


@contextmanager
def serving(out_dir: Path, rater: str = "AB") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`somite review` in a process of its own; its address and the process."""
    command = [sys.executable, "-m", "somite", "review", str(out_dir), "--rater", rater, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
        assert found is not None
        try:
            yield found[0], process
        finally:
            process.send_signal(signal.SIGINT)


def opened(open_page: Callable[..., Tab], url: str, **options: object) -> Tab:
    tab = open_page(url, allow=url.partition("?")[0], **options)
    tab.page.set_default_timeout(10_000)
    tab.page.wait_for_selector("#pictures[data-of]")
    return tab


def pixels(tab: Tab) -> np.ndarray:
    """What the canvas shows, (rows, columns, 3)."""
    shot = tab.page.locator("#canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def near(shown: np.ndarray, colour: list[int]) -> int:
    """How many pixels have this colour."""
    return int((np.abs(shown - colour).max(-1) < 12).sum())


def press(tab: Tab, key: str) -> None:
    """Press a key that judges, and wait until it is saved and the next session is there."""
    before = tab.page.locator("#label").inner_text()
    tab.page.keyboard.press(key)
    tab.page.locator("#label", has_not_text=re.compile(f"^{re.escape(before)}$")).wait_for()
    tab.page.wait_for_selector("#pictures[data-of]")


@pytest.mark.slow
def test_ten_of_two_hundred_by_keyboard_outlive_a_kill(open_page: Callable[..., Tab], tmp_path: Path) -> None:
    reviewed.write_output(tmp_path, 200, {150: "fail", 60: "warn"})
    keys = "fpupfppfup"
    with serving(tmp_path) as (url, process):
        tab = opened(open_page, url)
        assert "token" not in tab.page.url
        judged = []
        for key in keys:
            judged.append(tab.page.locator("#label").inner_text())
            press(tab, key)
        assert tab.page.locator("#seen").inner_text() == "10 of 200 seen"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        rows = verdicts.read(tmp_path)
        assert judged[:3] == ["sub-150", "sub-060", "sub-001"]
        assert [one.participant_id for one in rows] == judged
        assert "".join(one.verdict[0] for one in rows) == keys
        assert {one.rater for one in rows} == {"AB"}
        assert tab.complaints == []
        # What is pressed now is not saved, and the page says so and stays.
        tab.page.keyboard.press("p")
        tab.page.locator("#problem", has_text="does not answer").wait_for()
        assert tab.page.locator("#seen").inner_text() == "10 of 200 seen"
    with serving(tmp_path) as (url, _):
        tab = opened(open_page, url)
        assert tab.page.locator("#seen").inner_text() == "10 of 200 seen"
        assert tab.page.locator("#sessions .mark.fail").count() == keys.count("f")


def test_a_note_undo_and_the_other_keys(open_page: Callable[..., Tab], tmp_path: Path) -> None:
    reviewed.write_output(tmp_path, 3)
    said = "<script>document.title='x'</script> \t=1+1"
    with serving(tmp_path) as (url, _):
        tab = opened(open_page, url)
        page = tab.page
        page.keyboard.press("n")
        page.keyboard.type(said)
        page.keyboard.press("Enter")
        page.locator("#saved", has_text="sub-001").wait_for()
        press(tab, "f")
        press(tab, "p")
        page.keyboard.press("z")
        page.locator("#label", has_text="sub-002").wait_for()
        page.locator("[data-verdict=pass][aria-pressed=false]").wait_for()
        page.keyboard.press("ArrowLeft")
        page.locator("#label", has_text="sub-001").wait_for()
        assert page.locator("#note").input_value() == " ".join(said.split())
        assert page.locator("[data-verdict=fail]").get_attribute("aria-pressed") == "true"
        page.keyboard.press("j")
        page.locator("#label", has_text="sub-002").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("003")
        page.keyboard.press("Enter")
        page.locator("#label", has_text="sub-003").wait_for()
        page.locator(".flicker").wait_for()
        page.keyboard.press("v")
        assert page.locator("span:has(+ .flicker)").inner_text() == "Before"
        assert page.locator("#pictures figure").count() == 4  # the one before is behind the one after
        page.keyboard.press("?")
        page.locator("#help[open]").wait_for()
        page.keyboard.press("p")  # behind a dialogue no key judges
        page.keyboard.press("Escape")
        assert tab.complaints == []
    rows = verdicts.read(tmp_path)
    assert [(one.participant_id, one.verdict) for one in rows] == [
        ("sub-001", ""),
        ("sub-001", "fail"),
        ("sub-002", "pass"),
        ("sub-002", ""),
    ]
    assert {one.note for one in rows if one.participant_id == "sub-001"} == {" ".join(said.split())}


def test_the_viewer_draws_the_segments_in_their_colours(
    open_page: Callable[..., Tab], tmp_path: Path
) -> None:
    reviewed.write_output(tmp_path, 1)
    with serving(tmp_path) as (url, _):
        tab = opened(open_page, url)
        page = tab.page
        page.wait_for_selector(SEGMENTS)
        layer = page.evaluate("review.viewer.layers.find((one) => one.name === 'segments')")
        right, left = (one["colour"] for one in layer["segments"][:2])
        for _ in range(6):
            page.keyboard.press("]")
        both = pixels(tab)
        assert near(both, left) > 200
        assert near(both, right) > 200
        # Radiological: the patient's left is on the right of an axial and of a coronal slice.
        page.select_option("#view", "axial")
        axial = pixels(tab)
        columns = [np.flatnonzero((np.abs(axial - c).max(-1) < 12).any(0)).mean() for c in (left, right)]
        assert columns[0] > columns[1]
        page.locator("#canvas").blur()
        page.keyboard.press("s")
        page.wait_for_selector("#canvas:not([data-shown~=segments])")
        bare = pixels(tab)
        assert near(bare, left) == near(bare, right) == 0
        for name in ("dwi", "md", "fa"):
            page.locator(f"[data-layer={name}]").check()
            page.wait_for_selector(f"#canvas[data-shown~={name}]")
        assert page.locator("#viewer-says").inner_text() == ""
        page.locator("#segments button", has_text="root_left").click()
        assert "FA 0.4" in page.locator("#cursor").inner_text()
        assert "MD 0.001" in page.locator("#cursor").inner_text()
        assert tab.complaints == []


def test_hostile_names_and_missing_things_harm_nothing(open_page: Callable[..., Tab], tmp_path: Path) -> None:
    reviewed.write_output(tmp_path, 2, failed=(2,))
    evil = "<img src=x onerror=document.title='owned'>"
    (tmp_path / "sub-001" / "dwi" / "sub-001_pictures.zip").write_bytes(reviewed.pictures(evil))
    table = tmp_path / "sub-001" / "dwi" / f"sub-001_{reviewed.ENDINGS[5]}"
    table.write_text(table.read_text().replace("root_left", f"{evil}{'x' * 300}"))
    record = tmp_path / "logs" / "sub-001.json"
    record.write_text(
        record.read_text().replace('"participant_id": "sub-001"', '"participant_id": "<script>"')
    )
    (tmp_path / "logs" / "sub-x<script>alert(1)<.json").write_text(
        record.read_text().replace('"label": "sub-001"', '"label": "sub-x<script>alert(1)<"')
    )
    (tmp_path / "sub-001" / "dwi" / f"sub-001_{reviewed.ENDINGS[3]}").write_bytes(b"no image")
    with serving(tmp_path, f"{evil}") as (url, _):
        tab = opened(open_page, url)
        page = tab.page
        page.wait_for_selector(SEGMENTS)
        page.locator("#pictures h2", has_text=evil).wait_for()
        page.locator(".missing", has_text="This picture is missing").wait_for()
        page.keyboard.press("3")
        page.locator("#viewer-says", has_text="MD cannot be shown").wait_for()
        press(tab, "p")
        page.locator("#label", has_text="sub-x<script>").wait_for()
        press(tab, "u")
        page.locator("#pictures", has_text="NO_LABELS").wait_for()
        page.keyboard.press("a")
        page.locator("#agreement[open]").wait_for()
        assert "Somite review" in page.title()
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        assert tab.complaints == []
    assert {one.participant_id for one in verdicts.read(tmp_path)} == {"<script>"}


def test_two_raters_see_where_they_differ(open_page: Callable[..., Tab], tmp_path: Path) -> None:
    names = reviewed.write_output(tmp_path, 6)
    for number, name in enumerate(names):
        verdicts.append(tmp_path, verdicts.row("CD", (name, "", ""), "fail" if number < 2 else "pass"))
    with serving(tmp_path) as (url, _):
        tab = opened(open_page, url, color_scheme="dark")
        assert tab.page.locator("#sessions .mark.fail").count() == 0  # another's verdicts are not shown
        for key in "fpppp":
            press(tab, key)
        tab.page.keyboard.press("p")
        tab.page.locator("#saved", has_text="All sessions are seen").wait_for()
        tab.page.keyboard.press("a")
        told = tab.page.locator("#agreement-body")
        told.locator("table").wait_for()
        # By hand: 5 of 6 alike, 0.6111 by chance.
        assert "6 sessions seen by both, the same verdict on 5. Cohen's kappa 0.57" in told.inner_text()
        told.get_by_role("button", name="sub-002").click()
        tab.page.locator("#label", has_text="sub-002").wait_for()
        assert tab.complaints == []


def test_every_control_is_reached_by_tab_and_has_a_name(
    open_page: Callable[..., Tab], tmp_path: Path
) -> None:
    reviewed.write_output(tmp_path, 2)
    with serving(tmp_path) as (url, _):
        tab = opened(open_page, url, viewport={"width": 700, "height": 768})
        tab.page.wait_for_selector(SEGMENTS)
        nameless = tab.page.evaluate(
            """[...document.querySelectorAll('button, input, select')].filter((one) => one.tabIndex < 0 ||
              !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).length"""
        )
        assert nameless == 0
        seen = set()
        for _ in range(60):
            tab.page.keyboard.press("Tab")
            seen.add(tab.page.evaluate("document.activeElement.id || document.activeElement.dataset.verdict"))
        assert {"canvas", "pass", "fail", "unsure", "note", "view", "find"} <= seen
        assert tab.complaints == []
