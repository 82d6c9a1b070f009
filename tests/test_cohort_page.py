"""The page of a cohort, in a browser as a reader opens it: from disk, without a network."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import made_cohort
import numpy as np
import pytest
from browser import Tab
from pages import session, tsv

from somite import record
from somite.report import analysis_files, analysis_kinds, cohort_data, cohort_text, picture_files, writing
from somite.report.cohort_data import Groups
from somite.report.writing import Written
from somite.review import verdicts

SCRIPT = "<script>document.title = 'taken'</script>"
Open = Callable[..., Tab]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a cohort of 22 with analyses, and its pages."""
    out = made_cohort.make(tmp_path_factory.mktemp("cohort"), 10, 12)
    assert writing.write_all(out).problems == []
    return out


def test_it_opens_from_disk_without_a_complaint(open_page: Open, out: Path) -> None:
    tab = open_page(out / "index.html")
    text = tab.page.inner_text("body")
    for words in ("Sessions of the cohort", "Bland-Altman", "ROC curves", "Adjusted means", "Calibration",
                  "Missing and failed", "Benjamini-Hochberg", "modified z score"):  # fmt: skip
        assert words.lower() in text.lower() or words in tab.page.content()
    assert "/home/somebody" not in tab.page.content()
    assert tab.page.locator("img").count() > 20
    assert tab.page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert tab.page.evaluate("[...document.images].every(i => i.alt && i.width && i.getAttribute('height'))")
    wide = tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert wide
    assert tab.complaints == []


def test_sessions_sort_and_filter_and_their_pages_are_there(open_page: Open, out: Path) -> None:
    tab = open_page(out / "index.html")
    rows = tab.page.locator("#sessions-table tbody tr:visible")
    assert rows.count() == 23  # one was never finished
    hrefs = tab.page.eval_on_selector_all(
        "#sessions-table a", "links => links.map(a => a.getAttribute('href'))"
    )
    assert len(hrefs) == 22
    assert all((out / href).is_file() for href in hrefs)
    tab.page.get_by_label("Filter").first.fill("sub-0")
    assert rows.count() == 9
    tab.page.get_by_label("Filter").first.fill("")
    tab.page.locator("#sessions select").nth(1).select_option("failed")
    assert rows.count() == 2
    tab.page.locator("#sessions select").nth(1).select_option("")
    head = tab.page.locator("#sessions-table thead th", has_text="SNR")
    head.locator("button").click()
    column = tab.page.evaluate(
        "[...document.querySelector('#sessions-table').rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )
    at = next(i for i, title in enumerate(column[0]) if title.startswith("SNR"))
    values = [float(row[at]) for row in column[1:] if row[at]]
    assert values == sorted(values)
    assert len(values) == 20
    tab.page.locator("#sessions-table a").first.click()
    assert re.search(r"sub-\d+\.html$", tab.page.url)
    assert tab.complaints == []


def test_what_is_not_done_stands_with_its_reason_and_what_to_do(out: Path) -> None:
    page = (out / "index.html").read_text()
    troubles = page.partition('id="troubles-table"')[2].partition("</table>")[0]
    for words in (
        "no label image was found",
        "draw some",
        "NO_LABELS",
        "not finished",
        "run the participant level",
    ):
        assert words in troubles


def test_figures_lie_as_files_with_stable_names_and_equal_bytes(out: Path) -> None:
    folder = out / "group" / "figures"
    names = picture_files.listed(folder)
    stems = {name.rpartition(".")[0] for name in names}
    assert len(names) == 3 * len(stems)
    expected = {"quality", "segments-fa-nerve-root", "profiles-fa", "curves-roc", "flow-sessions"}
    expected |= {
        "by-group-forest-mean-difference-fa",
        "sides-correlations-fa-mean",
        "agreement-bland-altman-fa",
    }
    assert expected <= stems
    before = {name: (folder / name).read_bytes() for name in names}
    (folder / "of-the-reader.png").write_bytes(b"mine")
    (folder / "quality.png").unlink()
    writing.write_all(out)
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert (folder / "of-the-reader.png").is_file()


def test_an_unchanged_page_is_not_made_again(out: Path) -> None:
    page = out / "index.html"
    stamp = page.stat().st_mtime_ns
    assert writing.write_all(out).new == []
    assert page.stat().st_mtime_ns == stamp


def test_curves_have_the_areas_of_the_table_and_refuse_other_data(out: Path) -> None:
    analyses = {one.name: one for one in analysis_files.read(out / "group" / "analyses")}
    curves = analyses["curves"]
    row = next(row for row in curves.rows if row.text("estimate_name") == "AUC")
    made = analysis_kinds._curve(curves, row, "fa")
    pairs = made.score[made.event][:, None] - made.score[~made.event][None, :]
    assert float(((pairs > 0) + 0.5 * (pairs == 0)).mean()) == pytest.approx(row.number("estimate"), abs=1e-8)
    rate = next(
        r for r in curves.rows if r.text("estimate_name") == "sensitivity" and r.identity == row.identity
    )
    assert (made.score[made.event] > made.cut).mean() == pytest.approx(rate.number("estimate"), abs=1e-6)
    assert curves.data is not None
    curves.data.iloc[:, -1] = "0.1"
    with pytest.raises(analysis_files.Lack, match=r"no value|area"):
        for other in curves.rows:
            if other.text("estimate_name") == "AUC":
                analysis_kinds._curve(curves, other, "fa")
    with pytest.raises(analysis_files.Lack, match="write `data: long`"):
        analyses["no_data"].values(analyses["no_data"].rows[0])


def test_limits_of_agreement_agree_with_the_differences(out: Path) -> None:
    (one,) = [a for a in analysis_files.read(out / "group" / "analyses") if a.name == "agreement"]
    row = next(row for row in one.rows if row.text("estimate_name") == "Bland-Altman bias")
    panel = analysis_kinds._agreement(one, row)
    difference = panel.first - panel.second
    spread = 1.96 * difference.std(ddof=1)
    expected = [difference.mean(), difference.mean() - spread, difference.mean() + spread]
    assert [line.value for line in panel.lines] == pytest.approx(expected, rel=1e-6)
    assert panel.names == ("L", "R")


def test_names_that_are_code_or_too_long_harm_nothing(open_page: Open, tmp_path: Path) -> None:
    long = "region_" + "x" * 293
    session(tmp_path, "sub-01", region=SCRIPT)
    session(tmp_path, "sub-02", participant_id=SCRIPT)
    cohort_data.write_groups(tmp_path, Groups(SCRIPT, {("sub-01", "", ""): SCRIPT, (SCRIPT, "", ""): "b"}))
    folder = tmp_path / "group" / "analyses"
    row = {"analysis": "a", "kind": "compare", "region": long, "side": "L", "metric": "fa"}
    row |= {"contrast": SCRIPT, "sentence": SCRIPT, "reason": SCRIPT, "n": "9"}
    row |= {"estimate_name": "mean difference", "estimate": "1", "ci_low": "0", "ci_high": "2"}
    tsv(folder / "a.tsv", [row])
    tsv(folder / "empty.tsv", [])
    (folder / "a.json").write_text(json.dumps({"Analysis": {"Options": {"kind": SCRIPT, "group": SCRIPT}}}))
    (tmp_path / "group" / "segments.parquet").write_bytes(b"not a table")
    assert writing.write_all(tmp_path).problems == []
    tab = open_page(tmp_path / "index.html")
    assert tab.page.title() == "Cohort"
    text = tab.page.inner_text("body")
    assert "segments.parquet cannot be read" in text
    assert long not in text
    assert SCRIPT in text
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints == []


def test_a_run_without_the_group_level_has_a_page_with_what_there_is(tmp_path: Path) -> None:
    made_cohort.member(tmp_path, "sub-01", np.random.default_rng(1), [])
    written = Written()
    writing.write_cohort(tmp_path, record.read_all(tmp_path), None, written)
    page = (tmp_path / "index.html").read_text()
    assert written.problems == []
    assert "is made at the group level, which has not run" in page
    assert 'id="picture-quality"' in page
    assert 'id="picture-profiles-fa"' in page


def test_a_figure_that_fails_is_told_and_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    made_cohort.member(tmp_path, "sub-01", np.random.default_rng(1), [])
    monkeypatch.setattr("somite.report.cohort_figures.quality", broken)
    text = cohort_text.text(tmp_path, record.read_all(tmp_path), None)
    assert "could not be drawn (RuntimeError: no ink)" in text
    assert 'id="sessions-table"' in text


def test_the_review_is_told_with_the_agreement_and_escaped(open_page: Open, tmp_path: Path) -> None:
    said = {"ann": ["pass", "fail", "fail", "pass"], SCRIPT: ["pass", "fail", "pass", "pass"]}
    for i in range(5):
        made_cohort.member(tmp_path, f"sub-{i}", np.random.default_rng(i), [])
    for rater, given in said.items():
        for i, verdict in enumerate(given):
            key = (f"sub-{i}", "", "")
            verdicts.append(tmp_path, verdicts.row(rater, key, "unsure"))
            note = SCRIPT if (rater, i) == ("ann", 1) else ""
            verdicts.append(tmp_path, verdicts.row(rater, key, verdict, note))  # type: ignore[arg-type]
    assert writing.write_all(tmp_path).problems == []
    tab = open_page(tmp_path / "index.html")

    def texts(rows: str) -> list[str]:
        return [" ".join(text.split()) for text in tab.page.locator(rows).all_inner_texts()]

    (kappa,) = texts("#agreement-table tbody tr")
    # Three of four agree; by chance (2 * 3 + 2 * 1) / 16 would: kappa = (3/4 - 1/2) / (1/2).
    assert f"{SCRIPT} and ann 4 3 0.50" in kappa
    assert texts("#raters-table tbody tr") == [f"{SCRIPT} 3 0 1 1", "ann 2 0 2 1"]
    noted = texts("#noted-table tbody tr")
    assert len(noted) == 3
    assert any(SCRIPT in row and "ann fail" in row for row in noted)
    rows = dict(zip([f"sub-{i}" for i in range(5)], texts("#sessions-table tbody tr"), strict=True))
    assert "differ" in rows["sub-2"]
    assert f"{SCRIPT}: fail; ann: fail ({SCRIPT[:30]}" in rows["sub-1"]
    assert "ann" not in rows["sub-4"]
    assert tab.page.title() == "Cohort"
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints == []
    tab.page.screenshot(path=tmp_path / "page.png", full_page=True)
    before = (tmp_path / "index.html").read_text()
    verdicts.append(tmp_path, verdicts.row("ann", ("sub-4", "", ""), "pass", "at last"))
    writing.write_all(tmp_path)
    assert "at last" in (tmp_path / "index.html").read_text().replace(before, "")


def test_a_review_that_nobody_made_or_can_read_is_told(tmp_path: Path) -> None:
    made_cohort.member(tmp_path, "sub-01", np.random.default_rng(1), [])
    page = cohort_text.text(tmp_path, record.read_all(tmp_path), None)
    assert "Nobody has looked through the sessions" in page
    assert "By rater" not in page
    (tmp_path / "qc").mkdir()
    (tmp_path / "qc" / "review.tsv").write_text("<b>\n")
    page = cohort_text.text(tmp_path, record.read_all(tmp_path), None)
    assert "qc/review.tsv cannot be read" in page
    assert "<b>" not in page.partition('id="review-heading"')[2].partition("</section>")[0]


@pytest.mark.slow
def test_a_thousand_sessions_fit_into_a_minute_and_twenty_megabytes(tmp_path: Path) -> None:
    out = made_cohort.make(tmp_path, 450, 550)
    written, records, started = Written(), record.read_all(out), time.process_time()
    told = writing.write_methods(out, records, written)
    writing.write_cohort(out, records, told, written)
    assert written.problems == []
    assert (out / "index.html").stat().st_size < 20_000_000
    # The processor's time: what else the machine does is no fault of the page.
    assert time.process_time() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4_000_000
