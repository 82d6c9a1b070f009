"""The methods text: every step has words, every citation an entry, and only what ran is told."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pages import session, step_record

from somite.analysis import model
from somite.errors import Problem
from somite.record import Record
from somite.registry import Fact, discover
from somite.report import methods
from somite.report.acquisition import Acquisition, acquisition_of
from somite.report.references import bibtex, read_bib
from somite.workflows import group
from somite.workflows.participant import STEPS

SESSION_STEPS = sorted({use.step for use in STEPS})
FOLDER = Path(methods.__file__).parent / "methods"


GROUP_STEPS = sorted({use.step for use in group.STEPS})


def tell(*steps: Any, facts: tuple[Fact, ...] = (), **changes: Any) -> methods.Told:
    made = Record("sub-01", "sub-01", "", "", "done", steps=list(steps), facts=list(facts), **changes)
    return methods.tell([made], {})


def ways(step: str) -> list[dict[str, Any]]:
    """The default options of a step, and each of the other values of its choices."""
    config = discover()[step].config
    found: list[dict[str, Any]] = [{}]
    for name, field in config.model_fields.items():
        if get_origin(field.annotation) is Literal:
            found += [{name: value} for value in get_args(field.annotation)]
        elif field.annotation is bool:
            found += [{name: True}, {name: False}]
    return found


@pytest.mark.parametrize("step", SESSION_STEPS + GROUP_STEPS)
def test_every_step_of_a_session_has_words_for_all_its_choices(step: str) -> None:
    assert (FOLDER / f"{step}.md.j2").is_file()
    assert step in set(itertools.chain(*methods.CHAPTERS.values()))
    texts = set()
    for options in ways(step):
        try:
            ran = step_record(step, **options)
        except ValueError:  # options that exclude each other
            continue
        told = tell(ran)
        assert f"The step {step} ran" not in told.markdown, options
        assert not re.search(r"\{\{|\{%|None|\s[.,;]|\.[A-Z]|True|False", told.markdown), told.markdown
        texts.add(told.markdown)
    methods_of = [options["method"] for options in ways(step) if "method" in options]
    assert len(texts) >= len(set(methods_of) - {"auto"}), texts


DECLARED: dict[str, dict[str, Any]] = {
    "agreement": {"repeated": "rater"},
    "compare": {"group": "diagnosis"},
    "correlate": {"columns": ["age"]},
    "logistic": {"outcome": "diagnosis", "event": "patient"},
    "mixed": {"fixed": ["diagnosis"], "repeated": ["side"]},
    "profile": {"group": "diagnosis"},
    "reference": {"group": "diagnosis", "reference": ["control"]},
    "roc": {"outcome": "diagnosis", "event": "patient"},
    "symptomatic_level": {},
}
CITED = {"agreement": {"shrout1979", "bland1986"}, "logistic": {"firth1993"}, "profile": {"maris2007"},
         "reference": {"crawford1998"}, "roc": {"delong1988", "youden1950"}}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(model.discover()))
def test_every_kind_of_analysis_is_told_with_its_citations(kind: str) -> None:
    config = model.discover()[kind].config
    options = config.model_validate({"kind": kind, **DECLARED[kind]}).model_dump(mode="json")
    told = methods.tell([], {}, [], [methods.Analysed("mine_<b>", options, ["Welch's t"], ["Wald, 95 %"])])
    text = told.markdown.partition("## Statistics")[2]
    assert r"Analysis mine\_\<b\>: " in text
    assert "fdr_bh" not in text  # the options as they are: what stands in where a text is lacking
    assert f"kind {kind}" not in text
    assert "Tests: Welch's t. Intervals: Wald, 95 %." in text
    assert not re.search(r"\{\{|\{%|None|\s[.,;]|True|False", text), text
    keys = {entry.key for entry in told.references}
    assert CITED.get(kind, set()) | {"benjamini1995"} <= keys
    others = set().union(*(cited for other, cited in CITED.items() if other != kind))
    assert not keys & others
    assert "<b>" not in told.html


def test_only_what_ran_at_the_group_level_is_told() -> None:
    made = Record("group", "group", "", "", "done", steps=[step_record("table"), step_record("norms")])
    text = methods.tell([], {}, [made]).markdown
    assert "joined to one long and one wide table" in text
    assert "at least 5 controls" in text
    for absent in ("affected side", "published reference", "## Statistics", "quality numbers"):
        assert absent not in text


def test_every_citation_has_an_entry_and_every_entry_is_cited() -> None:
    cited = {
        key
        for path in FOLDER.glob("*.j2")
        for group in re.findall(r"@([a-z]+\d{4}\w*|somite|nibabel)", path.read_text())
        for key in [group]
    }
    assert cited == set(methods.library())


def test_entries_are_whole_and_written_again_as_they_are() -> None:
    entries = methods.library()
    for entry in entries.values():
        assert {"author", "title", "year"} <= set(entry.fields), entry.key
        assert set(entry.fields) & {"journal", "booktitle", "publisher"}, entry.key
        assert entry.fields["year"] in entry.in_words
        assert "{" not in entry.in_words
    assert read_bib(bibtex(entries.values())) == dict(entries)
    assert entries["veraart2016"].short == "Veraart et al., 2016"
    assert entries["koay2006"].short == "Koay and Basser, 2006"
    assert entries["otsu1979"].in_words == (
        "Otsu N. A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man, "
        "and Cybernetics 9(1):62–66, 1979."
    )


def test_the_text_says_what_ran_and_nothing_else(tmp_path: Path) -> None:
    made = session(tmp_path)
    bval = tmp_path / "sub-01" / "dwi" / "sub-01_desc-preproc_dwi.bval"
    told = methods.tell([made], {"sub-01": acquisition_of(bval, None)})
    text = told.markdown
    assert "4 volumes at b=0, 33 at b=800 s/mm2" in text
    assert "patches of 5³ voxels, 2 voxels apart" in text
    assert "4 volumes of b=0 and 33 weighted volumes" in text
    assert "11 of 12 segments" in text
    assert "2 slices lost signal" in text
    for absent in ("dwidenoise", "FSL", "N4", "Tracts were followed", "topup", "atlas"):
        assert absent not in text
    keys = {entry.key for entry in told.references}
    assert {"veraart2016", "kellner2016", "basser1994"} <= keys
    assert keys.isdisjoint({"tournier2019", "tustison2010", "avants2008"})
    assert set(read_bib(told.bibtex)) == keys


def test_a_tool_is_told_with_its_version() -> None:
    ran = replace(step_record("denoise", method="dwidenoise"), versions={"dwidenoise": "3.0.4"})
    assert "dwidenoise of MRtrix3 3.0.4 [@tournier2019" in tell(ran).markdown
    assert "degree" not in tell(step_record("eddy", method="rigid")).markdown
    off = (Fact("eddy currents", "not corrected", "no direction"),)
    assert "eddy currents by" not in tell(step_record("eddy"), facts=off).markdown


def test_a_step_that_did_not_end_well_is_not_told() -> None:
    told = tell(step_record("denoise"), step_record("tensor", "failed"), step_record("roi", "not reached"))
    assert "denoised" in told.markdown
    assert "tensor" not in told.markdown


def test_sessions_are_told_together_with_ranges_and_apart_where_they_differ() -> None:
    def one(label: str, sigma: float, **options: Any) -> Record:
        step = replace(step_record("denoise", **options), numbers={"noise_sigma_median": sigma})
        return Record(label, label, "", "", "done", steps=[step])

    records = [one("sub-01", 10.0), one("sub-02", 12.0), one("sub-03", 11.0, method="none")]
    text = methods.tell(records, {"sub-01": Acquisition({0: 1})}).markdown
    assert "of 3 sessions" in text
    assert "In 2 of 3 sessions: The series was denoised" in text
    assert "10.0 to 12.0" in text
    assert "In 1 of 3 sessions: The series was not denoised" in text


def test_a_step_without_words_is_told_with_its_options() -> None:
    ran = replace(step_record("denoise"), step="smooth_fa", config={"fwhm_mm": 3.0, "name": "<b>*x*"})
    told = tell(ran)
    assert r"The step smooth\_fa ran with fwhm\_mm: 3.0" in told.markdown
    assert "<b>" not in told.html
    assert "<b>" not in re.sub(r"\\<", "", told.markdown)
    assert "&lt;b&gt;*x*" in told.html


def test_an_older_record_without_an_option_is_told_all_the_same() -> None:
    old = replace(step_record("tensor"), config={"method": "wls"})
    assert "The step tensor ran with method: wls." in tell(old).markdown


def test_citations_in_the_page_lead_to_the_references() -> None:
    told = tell(step_record("denoise"))
    assert '<a href="#ref-veraart2016">Veraart et al., 2016</a>' in told.html
    assert "[@" not in told.html


def test_what_cannot_be_read_of_a_series_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "a.bval").write_text("no numbers")
    (tmp_path / "a.nii").write_text("no image")
    assert acquisition_of(tmp_path / "a.bval", tmp_path / "a.nii") == Acquisition()
    assert acquisition_of(tmp_path / "absent.bval", None).in_words == ""
    assert Problem("A", "b").severity == "error"
