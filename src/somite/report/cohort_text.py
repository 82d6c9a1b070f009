"""What the page of the cohort says: who is in it, how good the scans are, what was measured and found.

It is made from the output dataset alone: records, delivered tables, `group/` and `group/analyses/`. Its
figures lie as files in `group/figures/` too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from somite.record import Record
from somite.report import (
    analysis_estimates,
    analysis_files,
    analysis_pictures,
    cohort_data,
    cohort_pictures,
    cohort_review,
    cohort_tables,
    distributions,
)
from somite.report.analysis_files import Analysis
from somite.report.cohort_data import Groups, Member
from somite.report.cohort_page import checksums
from somite.report.figure_files import Drawn, Folder
from somite.report.methods import Told
from somite.report.pages import render
from somite.report.session_page import delivered
from somite.report.tables import Table

LIMIT_BYTES = 20_000_000
"""Most that the page may weigh."""
_HEAD_ROOM = 200_000
_SENTENCES = 40


@dataclass(frozen=True)
class Section:
    """An analysis on the page."""

    id: str
    name: str
    words: str
    """Its kind, and what it asks."""
    family: str
    pictures: Sequence[str]
    sentences: Sequence[str]
    more_sentences: int
    table: Table | None
    more_rows: int
    lack: str
    data: Sequence[str]
    """Its files."""


def text(out_dir: Path, records: Sequence[Record], told: Told | None, made_from: str = "") -> str:
    """The page as HTML; its figures are written on the way."""
    groups = cohort_data.read_groups(out_dir)
    found = cohort_data.members(out_dir, records, groups)
    folder, review = Folder(out_dir), cohort_review.read(out_dir)
    tables = {member.label: member.quality for member in found if member.quality}
    spreads = distributions.spreads(tables)
    named = {
        "flow": _add(folder, "flow-sessions", lambda: [cohort_pictures.sessions_flow(found)]),
        "quality": _add(folder, "quality", lambda: cohort_pictures.quality(spreads)),
        "segments": _add(folder, "segments", lambda: _segments(out_dir, groups)),
        "profiles": _add(folder, "profiles", lambda: _profiles(out_dir, found, groups)),
    }
    analyses = [_section(one, folder) for one in analysis_files.read(out_dir / "group" / "analyses")]
    folder.finish()
    pages = {member.label: member.page for member in found}
    apart = distributions.outliers(spreads)
    values: dict[str, Any] = {
        "title": _title(out_dir),
        "members": found,
        "tiles": _tiles(found, groups),
        "group_column": groups.column,
        "group_names": groups.names,
        "groups_drawn": cohort_pictures.shown_groups(groups),
        "named": named,
        "sessions": cohort_tables.sessions(found, groups.column, review),
        "review_lack": review.lack,
        "raters": cohort_review.raters(review, found),
        "kappas": cohort_review.kappas(review),
        "noted": cohort_review.noted(review, found),
        "outliers": cohort_tables.outliers(apart, pages),
        "outliers_left": max(0, len(apart) - cohort_tables.MOST_OUTLIERS),
        "rule": distributions.RULE,
        "troubles": cohort_tables.troubles(found),
        "missing": cohort_data.missing_participants(groups, found),
        "analyses": analyses,
        "methods": told,
        "software": cohort_tables.software(records),
        "checksums": cohort_tables.checksums(checksums(out_dir)),
        "config": _text_of(out_dir / "code" / "config.yaml"),
    }
    bare = render("cohort.html.j2", made_from=made_from, shown=folder.shown(0), **values)
    room = LIMIT_BYTES - len(bare.encode()) - _HEAD_ROOM
    return render("cohort.html.j2", made_from=made_from, shown=folder.shown(max(room, 0)), **values)


def _add(folder: Folder, name: str, draw: Callable[[], Iterable[Drawn]]) -> list[str]:
    """Names of the figures that were drawn; one that could not be is told with the reason."""
    names = []
    try:
        for drawn in draw():
            names.append(folder.add(drawn))
    except Exception as error:
        why = f"This figure could not be drawn ({type(error).__name__}: {error})."
        names.append(folder.add(Drawn(f"{name}-not-drawn", "Not drawn", missing=why)))
    return names


def _segments(out_dir: Path, groups: Groups) -> Iterable[Drawn]:
    path = out_dir / "group" / "segments.parquet"
    try:
        frame = cohort_data.segments(path)
    except FileNotFoundError:
        why = (
            "The table of all sessions is made at the group level, which has not run: "
            "somite run BIDS_DIR OUT_DIR group."
        )
        return [Drawn("segments", "Segments", missing=why)]
    except (OSError, pa.ArrowException) as error:
        return [
            Drawn(
                "segments", "Segments", missing=f"segments.parquet cannot be read ({type(error).__name__})."
            )
        ]
    return cohort_pictures.segments(frame, groups)


def _profiles(out_dir: Path, found: Sequence[Member], groups: Groups) -> Iterable[Drawn]:
    done = [member.last for member in found if member.verdict == "done" and member.last is not None]
    files = [
        path for last in done if (path := delivered(out_dir, last, "_desc-profiles_stats.tsv")) is not None
    ]
    return cohort_pictures.profiles(cohort_data.profiles(files), groups)


def _section(analysis: Analysis, folder: Folder) -> Section:
    pictures = _add(folder, f"{analysis.name}-figures", lambda: analysis_pictures.pictures(analysis))
    flow = _add(folder, f"{analysis.name}-flow", lambda: [cohort_pictures.analysis_flow(analysis)])
    sentences = [row.text("sentence") for row in analysis.rows if row.text("sentence")]
    base = folder.path.parent / "analyses"
    files = [
        path.name
        for path in sorted(base.glob(f"{analysis.name}.*"))
        if path.stem.partition(".")[0] == analysis.name
    ]
    return Section(
        id=f"analysis-{analysis.name}",
        name=analysis.name,
        words=_question(analysis),
        family=analysis_estimates.family_words(analysis.rows) if analysis.rows else "",
        pictures=[*pictures, *flow],
        sentences=sentences[:_SENTENCES],
        more_sentences=max(0, len(sentences) - _SENTENCES),
        table=cohort_tables.results(analysis),
        more_rows=max(0, len(analysis.rows) - cohort_tables.MOST_RESULTS),
        lack=analysis.lack,
        data=files,
    )


def _question(analysis: Analysis) -> str:
    """`compare: group diagnosis (patient, control); covariates age, sex`."""
    options = analysis.options
    parts = []
    for name in (
        "group",
        "paired",
        "outcome",
        "event",
        "repeated",
        "columns",
        "between",
        "fixed",
        "groups",
        "covariates",
    ):
        value = options.get(name)
        if value:
            words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            parts.append(f"{name} {words}")
    return analysis.kind + (f": {'; '.join(parts)}" if parts else "")


def _title(out_dir: Path) -> str:
    found = re.search(r"^protocol: *(\S+)", _text_of(out_dir / "code" / "config.yaml"), re.MULTILINE)
    return f"Cohort: {found[1]}" if found else "Cohort"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _tiles(found: Sequence[Member], groups: Groups) -> list[tuple[str, str]]:
    verdicts = Counter(member.verdict for member in found)
    judged = Counter(member.judged[0] for member in found if member.verdict == "done")
    tiles = [
        ("Sessions", str(len(found))),
        ("Participants", str(len({member.participant_id for member in found}))),
        ("Done", str(verdicts["done"])),
        ("Not done", str(len(found) - verdicts["done"])),
    ]
    if judged.total() > judged[""]:
        tiles.append(
            ("Quality pass | warn | fail", f"{judged['pass']} | {judged['warn']} | {judged['fail']}")
        )
    if groups.names:
        people = {(member.participant_id, member.group) for member in found}
        counts = Counter(group for _, group in people)
        shown = groups.names[:4]
        words = " | ".join(f"{name[:24]} {counts[name]}" for name in shown)
        tiles.append(
            (f"People by {groups.column or 'group'}"[:60], words + (" ..." if len(groups.names) > 4 else ""))
        )
    return tiles
