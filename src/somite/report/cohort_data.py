"""What the page of a cohort rests on: sessions as they stand, their quality, groups, segments and profiles.

All of it is read from the output dataset alone, so that the page can be made again anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from somite import roll
from somite.files import read_json, write_atomically
from somite.record import Record
from somite.report import session_page, session_tables

GROUPS_FILE = Path("group") / "groups.tsv"
GROUP_COLUMNS = ("participant_id", "session_id", "run", "group")
METRICS = ("fa", "md")
"""Metrics that are drawn."""
_SEGMENT_COLUMNS = ("participant_id", "session_id", "run", "region", "side", "level", "segment", "metric",
                    "statistic", "extraction", "weighting", "rater", "value")  # fmt: skip
_PROFILE_TEXTS = ("participant_id", "session_id", "region", "side", "level", "segment", "extraction",
                  "weighting", "metric")  # fmt: skip
_PROFILE_NUMBERS = ("node", "position_mm", "position_frac", "value")


@dataclass(frozen=True)
class Member:
    """A session of the cohort."""

    label: str
    participant_id: str
    session_id: str
    run: str
    verdict: str
    """`done`, `failed`, `outdated`, `not finished`, or `not run`."""
    reason: str
    last: Record | None
    quality: Sequence[Mapping[str, str]] = ()
    """Rows of its table of quality numbers."""
    group: str = ""
    has_page: bool = False

    @property
    def judged(self) -> tuple[str, str]:
        """The verdict on its quality, and why."""
        for row in self.quality:
            if row.get("metric") == "overall":
                verdict, reason = (row.get(key) or "" for key in ("verdict", "reason"))
                return verdict if verdict != "n/a" else "", reason if reason != "n/a" else ""
        return "", ""

    @property
    def page(self) -> str:
        """Where its page lies, relative to the cohort's."""
        return f"{self.label}.html" if self.has_page else ""


@dataclass(frozen=True)
class Groups:
    """To which group of people a session belongs."""

    column: str = ""
    """The clinical column that says it."""
    of: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Participant, session and run -> group; `""` for none. Without a session: the participant as a whole."""

    def group(self, participant: str, session: str, run: str) -> str:
        """The group of a session."""
        for key in ((participant, session, run), (participant, session, ""), (participant, "", "")):
            if self.of.get(key):
                return self.of[key]
        return ""

    @property
    def names(self) -> list[str]:
        """Groups that occur, sorted."""
        return sorted(set(self.of.values()) - {""})

    @property
    def participants(self) -> set[str]:
        """Everybody in the clinical tables."""
        return {key[0] for key in self.of}


def _plain(text: str | None) -> str:
    return "" if text in (None, "n/a") else str(text)


def members(out_dir: Path, records: Sequence[Record], groups: Groups) -> list[Member]:
    """Every session that has a record, was to be done, or stands in the status of the group level."""
    by_label = {item.label: item for item in records}
    expected = roll.read(out_dir)
    status = _status(out_dir)
    found = []
    for label in sorted({*by_label, *expected, *status}):
        last, row = by_label.get(label), status.get(label, {})
        parts = dict(part.split("-", 1) for part in label.split("_") if "-" in part)
        session = last.session_id if last else _plain(row.get("session_id"))
        participant = last.participant_id if last else f"sub-{parts.get('sub', label)}"
        run = last.run if last else _plain(row.get("run"))
        verdict, reason = _stands(last, expected.get(label), row)
        quality = () if last is None else session_tables.read(
            session_page.delivered(out_dir, last, "_desc-qc_stats.tsv")).rows  # fmt: skip
        group = groups.group(participant, _plain(session), _plain(run))
        page = session_page.path_of(out_dir, label).is_file()
        found.append(
            Member(
                label, participant, _plain(session), _plain(run), verdict, reason, last, quality, group, page
            )
        )
    return found


def _stands(last: Record | None, recipe: str | None, row: Mapping[str, str]) -> tuple[str, str]:
    if last is None:
        if recipe is not None:
            return "not finished", "the run that was to do it ended before: give the same command again"
        return _plain(row.get("verdict")) or "not run", _plain(row.get("reason"))
    if last.verdict == "failed":
        return "failed", last.reason
    if recipe is not None and recipe != last.recipe:
        return "outdated", "the last run was to do it with other options, and ended before"
    if row.get("verdict") == "outdated" and _is_about(row, last):
        return "outdated", _plain(row.get("reason"))
    return last.verdict, last.reason


def _is_about(row: Mapping[str, str], last: Record) -> bool:
    """Whether a row of the status was written about this run of the session, and not an earlier one."""
    seconds = f"{round(sum(step.seconds for step in last.steps), 1)}"
    return (row.get("steps_run"), row.get("steps_cached"), row.get("seconds")) == (
        str(last.count("run")), str(last.count("cached")), seconds)  # fmt: skip


def _status(out_dir: Path) -> dict[str, Mapping[str, str]]:
    found = {}
    path = out_dir / "group" / "status.tsv"
    for row in session_tables.read(path).rows if path.is_file() else ():
        parts = [_plain(row.get(key)) for key in ("participant_id", "session_id", "run")]
        label = "_".join(
            part for part in (parts[0], parts[1] and _prefixed(parts[1], "ses-"), parts[2]) if part
        )
        found[label] = row
    return found


def _prefixed(text: str, prefix: str) -> str:
    return text if text.startswith(prefix) else prefix + text


def read_groups(out_dir: Path) -> Groups:
    """The groups that the group level has written, if it has."""
    path = out_dir / GROUPS_FILE
    if not path.is_file():
        return Groups()
    rows = session_tables.read(path).rows
    try:
        about = read_json(path.with_suffix(".json"))
        column = str(about["group"].get("Column", ""))
    except (OSError, ValueError, KeyError, AttributeError):
        column = ""
    keys = GROUP_COLUMNS[:3]
    return Groups(column, {tuple(_plain(row.get(k)) for k in keys): _plain(row.get("group")) for row in rows})


def write_groups(out_dir: Path, groups: Groups) -> None:
    """Write `group/groups.tsv` and its dictionary, where they differ from what is there."""
    lines = ["\t".join(GROUP_COLUMNS)]
    lines += ["\t".join(text or "n/a" for text in (*key, group)) for key, group in sorted(groups.of.items())]
    about: dict[str, dict[str, Any]] = {
        "participant_id": {"Description": "As in the clinical tables"},
        "session_id": {"Description": "n/a where the row holds for all sessions"},
        "run": {"Description": "n/a where the row holds for all runs"},
        "group": {"Description": f"Group on the page of the cohort: {groups.column or 'not declared'}",
                  "Column": groups.column},
    }  # fmt: skip
    path = out_dir / GROUPS_FILE
    for target, text in (
        (path, "\n".join(lines) + "\n"),
        (path.with_suffix(".json"), json.dumps(about, indent=2) + "\n"),
    ):
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            write_atomically(target, text)


def segments(path: Path) -> pd.DataFrame:
    """Means of FA and MD of all segments, from the table of the group level.

    Raises:
        OSError, pyarrow.ArrowException: it is not there, or cannot be read.
    """
    texts = [name for name in _SEGMENT_COLUMNS if name != "value"]
    filters = [("metric", "in", list(METRICS)), ("statistic", "==", "mean")]
    table = pq.read_table(path, columns=list(_SEGMENT_COLUMNS), filters=filters, read_dictionary=texts)
    table = table.filter(pc.is_valid(table["value"]))
    frame: pd.DataFrame = table.to_pandas()
    for name in texts:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype("category")
    return frame


def profiles(files: Sequence[Path]) -> pd.DataFrame:
    """The profiles of FA and MD of many sessions; rows without a value are left out."""
    types = dict.fromkeys(_PROFILE_TEXTS, pa.dictionary(pa.int32(), pa.string()))
    types |= dict.fromkeys(_PROFILE_NUMBERS, pa.float64())
    options = pa.csv.ConvertOptions(
        column_types=types, include_columns=[*_PROFILE_TEXTS, *_PROFILE_NUMBERS], null_values=["n/a"],
        strings_can_be_null=True, include_missing_columns=True,
    )  # fmt: skip
    parse = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
    tables = []
    for path in files:
        try:
            table = pa.csv.read_csv(path, pa.csv.ReadOptions(use_threads=False), parse, options)
        except (OSError, pa.ArrowException):
            continue
        wanted = pc.and_(
            pc.is_valid(table["value"]), pc.is_in(table["metric"].cast(pa.string()), pa.array(METRICS))
        )
        tables.append(table.filter(wanted))
    if not tables:
        return pd.DataFrame(columns=[*_PROFILE_TEXTS, *_PROFILE_NUMBERS])
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    for name in _PROFILE_TEXTS:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype("category")
    return frame


def missing_participants(groups: Groups, found: Sequence[Member]) -> list[str]:
    """Who stands in the clinical tables and has no session."""
    return sorted(groups.participants - {member.participant_id for member in found} - {""})
