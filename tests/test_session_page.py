"""The page of a session, in a browser as a reader opens it: from disk, without a network."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Tab
from pages import FILES, INDEX, archive, picture, png, session, step_record

from somite import cli, record
from somite.errors import Problem
from somite.report import picture_files, session_page, writing
from somite.report.pages import PAGE_LIMIT_BYTES, base_names, cut

SCRIPT = "<script>document.title = 'taken'</script>"
Open = Callable[..., Tab]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a session that is done."""
    session_page.write(tmp_path, session(tmp_path))
    return tmp_path / "sub-01.html"


def column(tab: Tab, index: int) -> list[str]:
    """Texts of a column of the segment table, of the rows that are seen."""
    rows = tab.page.locator("#segments-table tbody tr:visible")
    return [text.strip() for text in rows.locator(f"xpath=./*[{index}]").all_inner_texts()]


def test_it_opens_from_disk_without_a_complaint(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    text = tab.page.inner_text("body")
    for words in ("37 volumes", "Look at this", "region of motion", "MP-PCA", "Veraart", "ab" * 32):
        assert words in text
    assert "/home/somebody" not in tab.page.content()
    assert tab.page.locator("img").count() == 4
    assert tab.page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert tab.page.evaluate("[...document.images].every(i => i.alt && i.width && i.getAttribute('height'))")
    assert tab.complaints == []


def test_the_segment_table_sorts_and_filters_by_keyboard(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    head = tab.page.locator("#segments-table thead th", has_text="FA")
    head.locator("button").focus()
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(text.split()[0]) if text else None for text in column(tab, 4)]
    assert values[-1] is None  # what was not measured comes last, either way
    assert values[:-1] == sorted(values[:-1], reverse=True)  # type: ignore[type-var]
    assert len(set(values)) == 12
    tab.page.keyboard.press("Enter")
    assert float(column(tab, 4)[0].split()[0]) == pytest.approx(0.4)
    assert column(tab, 4)[-1] == ""
    tab.page.get_by_label("Filter").focus()
    tab.page.keyboard.type("disc l1")
    assert column(tab, 1) == ["disc"]
    assert tab.page.locator(".bar output").inner_text() == "1 of 12 rows"
    tab.page.get_by_label("Filter").fill("")
    tab.page.locator("select").first.select_option("nerve_root")
    assert set(column(tab, 1)) == {"nerve_root"}
    assert tab.complaints == []


def test_a_pair_of_pictures_takes_turns_by_keyboard(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    swap = tab.page.get_by_role("button", name="Swap")
    cut = "getComputedStyle(document.querySelector('.stack')).getPropertyValue('--cut')"
    assert tab.page.evaluate(cut) == "100%"
    swap.focus()
    tab.page.keyboard.press("Space")
    assert tab.page.evaluate(cut) == "0%"
    assert swap.get_attribute("aria-pressed") == "true"
    slider = tab.page.get_by_role("slider")
    slider.focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.evaluate(cut) == "1%"
    flicker = tab.page.get_by_role("button", name="Flicker")
    flicker.focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_timeout(1000)
    assert tab.page.evaluate(cut) in ("0%", "100%")
    assert flicker.get_attribute("aria-pressed") == "true"
    tab.page.keyboard.press("Enter")
    assert flicker.get_attribute("aria-pressed") == "false"
    tab.page.locator(".stack").click()
    assert tab.complaints == []


def test_what_is_seen_in_a_pair_is_what_its_slider_says(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    top = "document.elementFromPoint(...(r => [r.x + r.width * X, r.y + 25])(\
        document.querySelector('.stack img').getBoundingClientRect())).alt"
    tab.page.locator(".stack").scroll_into_view_if_needed()
    tab.page.get_by_role("slider").fill("50")
    assert tab.page.evaluate(top.replace("X", "0.25")) == "What dwi_loaded shows"
    assert tab.page.evaluate(top.replace("X", "0.75")) == "What dwi_denoised shows"


def test_light_dark_and_print(open_page: Open, page: Path) -> None:
    tab = open_page(page, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert tab.page.evaluate(paper) == "rgb(20, 23, 27)"
    theme = tab.page.locator("#theme")
    theme.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate(paper) == "rgb(255, 255, 255)"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate(paper) == "rgb(20, 23, 27)"
    tab.page.emulate_media(media="print")
    assert tab.page.evaluate(paper) == "rgb(255, 255, 255)"
    assert not tab.page.locator(".controls").is_visible()
    assert tab.page.locator(".stack img").nth(1).is_visible()
    assert tab.complaints == []


@pytest.mark.parametrize("width", [1366, 400])
def test_nothing_is_wider_than_the_window(open_page: Open, page: Path, width: int) -> None:
    tab = open_page(page, viewport={"width": width, "height": 768})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_first_tab_leads_to_the_content(open_page: Open, page: Path) -> None:
    tab = open_page(page)
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"


def test_names_that_are_code_stay_text(open_page: Open, tmp_path: Path) -> None:
    long = "r" * 300
    made = session(tmp_path, region=long)
    bad = Problem("CODE", SCRIPT, f"/data/{SCRIPT}", SCRIPT, SCRIPT, SCRIPT)
    made = replace(
        made,
        participant_id=SCRIPT,
        problems=[bad],
        warnings=[bad],
        verdict="failed",
        failed_step=SCRIPT,
        processor=SCRIPT,
        inputs={SCRIPT: SCRIPT},
        facts=[made.facts[0].__class__(SCRIPT, SCRIPT, SCRIPT)],
        software={"somite": SCRIPT, "python": SCRIPT},
    )
    evil = [
        picture(SCRIPT, SCRIPT, ["fa_segments.png"]),
        picture("x", "maps", ["../../x.png", "/etc/passwd"]),
    ]
    archive(tmp_path / "sub-01" / "dwi" / "sub-01_pictures.zip", evil, {**FILES, "../../x.png": png()})
    session_page.write(tmp_path, made)
    tab = open_page(tmp_path / "sub-01.html")
    assert tab.page.title() == "sub-01"
    assert tab.page.locator("script").count() == 1
    assert tab.complaints == []
    assert not list(tmp_path.parent.glob("x.png"))
    assert "could not be read from the archive" in tab.page.inner_text("#maps")
    shown = tab.page.locator(f"#segments-table span[title='{long}']").first
    assert shown.inner_text().endswith("…")
    assert len(shown.inner_text()) <= 40
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 1366
    writing.write_methods(tmp_path, [replace(made, verdict="done")], found := writing.Written())
    assert found.problems == []
    assert "<script>" not in (tmp_path / "group" / "methods.md").read_text()


def test_a_script_that_came_in_all_the_same_does_not_run(open_page: Open, page: Path) -> None:
    page.write_text(
        page.read_text().replace("</main>", f"{SCRIPT}<img src=x onerror='document.title=1'></main>")
    )
    tab = open_page(page)
    assert tab.page.title() == "sub-01"
    assert any("Content Security Policy" in said for said in tab.complaints)


def test_what_is_missing_is_told(open_page: Open, tmp_path: Path) -> None:
    made = session(tmp_path)
    folder = tmp_path / "sub-01" / "dwi"
    (folder / "sub-01_desc-segments_stats.tsv").unlink()
    (folder / "sub-01_desc-qc_stats.tsv").write_bytes(b"\xff\xfe\x00")
    (folder / "sub-01_desc-preproc_dwi.bval").write_text("nonsense")
    (folder / "sub-01_pictures.zip").write_bytes(b"PK nothing")
    session_page.write(tmp_path, made)
    tab = open_page(tmp_path / "sub-01.html")
    text = tab.page.inner_text("main")
    for words in ("no longer there", "cannot be read", "scheme is not known", "There are no pictures here"):
        assert words in text
    (folder / "sub-01_pictures.zip").unlink()
    session_page.write(tmp_path, made)
    assert "archive of pictures is not there" in (tmp_path / "sub-01.html").read_text()
    assert tab.complaints == []


def test_a_missing_or_broken_picture_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    made = session(tmp_path)
    files = {**FILES, "dwi_denoised.png": b"no picture"}
    del files["fa_segments.png"]
    archive(tmp_path / "sub-01" / "dwi" / "sub-01_pictures.zip", files=files)
    session_page.write(tmp_path, made)
    text = (tmp_path / "sub-01.html").read_text()
    assert text.count("This picture is missing") == 2
    assert text.count("<img ") == 2
    assert "data-pair" not in text.partition("<body>")[2].partition("<script>")[0]


def test_a_failed_session_says_why_and_what_to_do(open_page: Open, tmp_path: Path) -> None:
    problem = Problem(
        "IMAGE_UNREADABLE", "the image cannot be read", "/data/sub-02_dwi.nii.gz", do="copy it again"
    )
    steps = [step_record("load"), step_record("denoise", "failed"), step_record("tensor", "not reached")]
    made = replace(
        session(tmp_path, "sub-02"),
        verdict="failed",
        problems=[problem],
        failed_step="denoise",
        steps=steps,
        outputs=[],
    )
    session_page.write(tmp_path, made)
    tab = open_page(tmp_path / "sub-02.html")
    summary = tab.page.inner_text("#summary")
    for words in ("failed in denoise", "The image cannot be read", "copy it again", "sub-02_dwi.nii.gz"):
        assert words in summary
    states = tab.page.locator("#steps-table tbody td:nth-child(2)").all_inner_texts()
    assert states == ["done", "failed", "not reached"]
    assert "least squares" not in tab.page.inner_text("#methods")
    assert tab.complaints == []


def test_a_session_that_its_plan_stops_has_a_page(tmp_path: Path) -> None:
    made = replace(
        session(tmp_path), verdict="failed", steps=[], outputs=[], inputs={}, software={}, failed_step="plan"
    )
    session_page.write(tmp_path, made)
    text = (tmp_path / "sub-01.html").read_text()
    assert "No step was reached" in text
    assert "No step has run" in text


def test_a_page_is_written_when_something_changed_and_only_then(tmp_path: Path) -> None:
    made = session(tmp_path)
    assert session_page.write(tmp_path, made)
    again = replace(
        made,
        started="later",
        seconds=99.0,
        command="somite run",
        steps=[replace(step, state="cached") for step in made.steps],
    )
    assert not session_page.write(tmp_path, again)
    (tmp_path / "sub-01" / "figures" / "sub-01_scheme.svg").unlink()
    assert not session_page.write(tmp_path, made)  # the page is the same, the picture comes back
    assert (tmp_path / "sub-01" / "figures" / "sub-01_scheme.svg").read_bytes() == FILES["scheme.svg"]
    assert session_page.write(tmp_path, replace(made, facts=[]))
    (tmp_path / "sub-01" / "dwi" / "sub-01_desc-segments_stats.tsv").unlink()
    assert session_page.write(tmp_path, replace(made, facts=[]))
    assert not list(tmp_path.rglob("*.part"))


def test_a_page_weighs_at_most_five_megabytes(tmp_path: Path) -> None:
    made = session(tmp_path)
    heavy = {f"p{i}.png": png() + bytes(1_000_000 + 100_000 * i) for i in range(6)}
    index = [picture(f"p{i}", "maps", [f"p{i}.png"]) for i in range(6)]
    archive(tmp_path / "sub-01" / "dwi" / "sub-01_pictures.zip", index, heavy)
    session_page.write(tmp_path, made)
    page = tmp_path / "sub-01.html"
    assert 3_000_000 < page.stat().st_size <= PAGE_LIMIT_BYTES
    text = page.read_text()
    assert text.count("<img ") + text.count("too large; it lies in sub-01/figures") == 6
    assert len(list((tmp_path / "sub-01" / "figures").glob("*.png"))) == 6


def test_pictures_are_unpacked_by_stable_names_and_old_ones_go(tmp_path: Path) -> None:
    folder, path = tmp_path / "figures", tmp_path / "a.zip"
    picture_files.unpack(picture_files.read_archive(archive(path)), folder, "sub-01")
    other = folder / "sub-01_run-2_scheme.png"
    other.write_bytes(b"of another run")
    names = {item.name for item in folder.iterdir()}
    assert names == {other.name, "sub-01_pictures.json", *(f"sub-01_{name}" for name in FILES)}
    picture_files.unpack(picture_files.read_archive(archive(path, INDEX[:1])), folder, "sub-01")
    kept = {item.name for item in folder.iterdir()}
    assert kept == {other.name, "sub-01_pictures.json", "sub-01_scheme.png", "sub-01_scheme.svg"}
    listed = json.loads((folder / "sub-01_pictures.json").read_text())
    assert listed[0]["files"] == ["sub-01_scheme.svg", "sub-01_scheme.png"]
    assert picture_files.folder_of(Path("sub-01/ses-1/dwi/a.zip")) == Path("sub-01/ses-1/figures")
    assert picture_files.folder_of(Path("sub-01/figures/a.zip")) == Path("sub-01/figures")


@pytest.mark.parametrize("content", ["[1]", "{}", '{"a": 1}', '[{"name": "x"}]', "no json", "null"])
def test_an_index_that_is_none_is_a_fault_and_no_error(tmp_path: Path, content: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("index.json", content)
    found = picture_files.read_archive(tmp_path / "a.zip")
    assert found.pictures == ()


def test_the_command_makes_pages_again_and_removes_those_of_sessions_that_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("sub-01", "sub-02"):
        session(tmp_path, label)
    assert cli.main(["report", str(tmp_path)]) == cli.DONE
    assert "5 written, 0 unchanged, 0 removed" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path)]) == cli.DONE
    assert "0 written, 3 unchanged, 0 removed" in capsys.readouterr().out
    assert "[@veraart2016]" in (tmp_path / "group" / "methods.md").read_text()
    assert "@article{veraart2016," in (tmp_path / "group" / "methods.bib").read_text()
    record.path_of(tmp_path, "sub-02").unlink()
    assert cli.main(["report", str(tmp_path)]) == cli.DONE
    assert not (tmp_path / "sub-02.html").exists()
    assert not (tmp_path / "sub-02" / "figures").exists()
    assert (tmp_path / "sub-01.html").exists()
    assert cli.main(["report", str(tmp_path / "sub-01")]) == cli.MISTAKE


def test_a_page_that_cannot_be_written_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session(tmp_path)
    (tmp_path / "sub-01.html").mkdir()
    assert cli.main(["report", str(tmp_path)]) == cli.SOME_FAILED
    assert "REPORT_NOT_WRITTEN" in capsys.readouterr().err


def test_long_texts_are_cut_with_the_whole_in_the_title() -> None:
    assert cut("short", 10) == "short"
    assert cut("a & b" * 9, 10) == f'<span title="{"a &amp; b" * 9}">a &amp; ba &amp;…</span>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/b/c.nii", "c.nii"),
        ("in /home/x y.nii and /data/z/w.tsv, then", "in /home/x y.nii and w.tsv, then"),
        ("1/2 or mm2/s or sub-01/dwi/x.nii", "1/2 or mm2/s or sub-01/dwi/x.nii"),
    ],
)
def test_absolute_paths_are_cut_to_their_names(text: str, shown: str) -> None:
    assert base_names(text).replace("x y.nii", "/home/x y.nii".removeprefix("/home/")) in (
        shown,
        shown.replace("/home/x", "x"),
    )
