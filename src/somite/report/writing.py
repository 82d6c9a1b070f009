"""All pages of an output dataset, made from what lies in it: by `somite report`, and during a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from somite import record
from somite.errors import Problem
from somite.record import Record
from somite.report import analysis_files, cohort_page, methods, session_page
from somite.report.acquisition import Acquisition, acquisition_of
from somite.report.analysis_files import Analysis
from somite.report.methods import Analysed, Told
from somite.report.pages import write_changed
from somite.report.session_page import delivered


@dataclass
class Written:
    """What became of pages."""

    new: list[Path] = field(default_factory=list)
    """Written, since they were not there or have changed."""
    unchanged: int = 0
    removed: list[Path] = field(default_factory=list)
    """Of sessions that are gone."""
    problems: list[Problem] = field(default_factory=list)
    """Warnings: pages that could not be written."""


def write_all(out_dir: Path) -> Written:
    """Make every page of an output dataset that is not there or not as it should be."""
    written = Written()
    records = record.read_all(out_dir)
    for item in records:
        write_session(out_dir, item.label, written)
    told = write_methods(out_dir, records, written)
    remove_gone(out_dir, records, written)
    write_cohort(out_dir, records, told, written)
    return written


def page_of(out_dir: Path, label: str) -> list[Problem]:
    """Write the page of a session; returns warnings. Never raises."""
    return pages_of(out_dir, [label])


def pages_of(out_dir: Path, labels: Iterable[str]) -> list[Problem]:
    """Write the pages of sessions; returns warnings. Never raises."""
    written = Written()
    for label in labels:
        write_session(out_dir, label, written)
    return written.problems


def write_session(out_dir: Path, label: str, written: Written) -> None:
    """Write the page of a session from its record on disk, which may be newer than that of this run.

    Never raises: a run does not end for the sake of a page.
    """
    found = record.read(record.path_of(out_dir, label))
    if found is None:
        return
    page = session_page.path_of(out_dir, label)
    try:
        if session_page.write(out_dir, found):
            written.new.append(page)
        else:
            written.unchanged += 1
    except Exception as error:
        written.problems.append(not_written(page, error))


def write_cohort(out_dir: Path, records: Sequence[Record], told: Told | None, written: Written) -> None:
    """Write the page of the cohort, with the methods as they were told. Never raises."""
    page = cohort_page.path_of(out_dir)
    try:
        if cohort_page.write(out_dir, records, told):
            written.new.append(page)
        else:
            written.unchanged += 1
    except Exception as error:
        written.problems.append(not_written(page, error))


def write_methods(out_dir: Path, records: Sequence[Record], written: Written) -> Told | None:
    """Write `group/methods.md` and `group/methods.bib`: of the sessions that are done; returns what they say.

    Never raises.
    """
    done = [item for item in records if item.verdict == "done"]
    target = out_dir / "group" / "methods.md"
    if not done:
        return None
    try:
        series = {item.label: _series(out_dir, item) for item in done}
        told = methods.tell(done, series, record.read_group(out_dir), _analysed(out_dir))
        for path, text in ((target, told.with_references), (target.with_suffix(".bib"), told.bibtex)):
            if write_changed(path, text):
                written.new.append(path)
    except Exception as error:
        written.problems.append(not_written(target, error))
        return None
    return told


def _analysed(out_dir: Path) -> list[Analysed]:
    found = analysis_files.read(out_dir / "group" / "analyses")
    return [Analysed(one.name, one.options, _texts(one, "test"), _texts(one, "ci_method")) for one in found]


def _texts(one: Analysis, column: str) -> list[str]:
    return list(dict.fromkeys(text for row in one.rows if (text := row.text(column)) not in ("", "none")))


def _series(out_dir: Path, item: Record) -> Acquisition:
    return acquisition_of(
        delivered(out_dir, item, "_desc-preproc_dwi.bval"), delivered(out_dir, item, "_mask.nii.gz")
    )


def remove_gone(out_dir: Path, records: Iterable[Record], written: Written) -> None:
    """Remove the pages and pictures of sessions that have no record any more."""
    known = {item.label for item in records}
    for page in sorted(out_dir.glob("sub-*.html")):
        if page.stem not in known and not record.path_of(out_dir, page.stem).exists():
            session_page.remove(out_dir, page.stem)
            written.removed.append(page)


def not_written(page: Path, error: Exception) -> Problem:
    """The warning that a page, or the pages of a folder, could not be written."""
    return Problem(
        "REPORT_NOT_WRITTEN",
        "a page could not be written; the results are not touched by this",
        where=str(page),
        found=f"{type(error).__name__}: {error}",
        do="look at the folder's permissions and free space, then call: somite report OUT_DIR",
        severity="warning",
    )
