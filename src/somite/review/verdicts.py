"""The verdicts of the raters: `qc/review.tsv`, a row for every key that was pressed.

Rows are only ever added: the last row of a rater for a session is that rater's verdict. Each time the file is
replaced as a whole and is on the disk before the rater is told so: a kill, or a loss of power, loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from somite.errors import DatasetError, Problem, ResourceError
from somite.files import write_durably
from somite.segments import NA

Verdict = Literal["pass", "fail", "unsure", ""]
"""`""`: none yet, or taken back."""
Rule = Literal["any", "all", "ignore"]
Key = tuple[str, str, str]
"""participant_id, session_id and run of a session."""
NOTE_LENGTH = 2000
RATER_LENGTH = 100


@dataclass(frozen=True)
class Row:
    """What a rater said of a session, once."""

    rater: str
    participant_id: str
    session_id: str
    run: str
    time: str
    """UTC, ISO 8601."""
    verdict: str
    note: str

    @property
    def key(self) -> Key:
        """The session."""
        return self.participant_id, self.session_id, self.run


COLUMNS = tuple(field.name for field in fields(Row))


def path_of(out_dir: Path) -> Path:
    """Where the verdicts on an output dataset lie."""
    return out_dir / "qc" / "review.tsv"


def one_line(text: str, length: int) -> str:
    """Text for a cell: its spaces and line ends as single spaces, without control characters, cut."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())[:length].rstrip()


def row(rater: str, key: Key, verdict: Verdict, note: str = "") -> Row:
    """A row of now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Row(one_line(rater, RATER_LENGTH), *key, now, verdict, one_line(note, NOTE_LENGTH))


def read(out_dir: Path) -> tuple[Row, ...]:
    """Every row, in the order in which they were written; none where there is no file.

    Raises:
        DatasetError: every `REVIEW_TABLE`: the file is no table of verdicts.
    """
    path = path_of(out_dir)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError as error:
        raise DatasetError(_unfit(str(path), str(error), "a UTF-8 text file")) from error
    if lines[0].rstrip("\r").split("\t") != list(COLUMNS):
        raise DatasetError(_unfit(f"{path}, line 1", lines[0][:200], ", ".join(COLUMNS)))
    found, problems = [], []
    for number, line in enumerate(lines[1:], start=2):
        cells = ["" if cell == NA else cell for cell in line.rstrip("\r").split("\t")]
        if cells == [""]:
            continue
        if fault := _fault(cells):
            problems.append(_unfit(f"{path}, line {number}", line[:200], fault))
        else:
            found.append(Row(*cells))
    if problems:
        raise DatasetError.of(problems)
    return tuple(found)


def _fault(cells: Sequence[str]) -> str:
    if len(cells) != len(COLUMNS):
        return f"{len(COLUMNS)} fields"
    named = Row(*cells)
    if not (named.rater and named.participant_id):
        return "a rater and a participant_id"
    return "" if named.verdict in get_args(Verdict) else "the verdict pass, fail, unsure or n/a"


def _unfit(where: str, found: str, expected: str) -> Problem:
    return Problem(
        "REVIEW_TABLE",
        "the table of verdicts cannot be read, so nothing is added to it and nobody is excluded by it",
        where,
        found,
        expected,
        "correct the line, or put the file aside; it is tab-separated",
    )


def append(out_dir: Path, new: Row, *, wait_s: float = 10.0) -> tuple[Row, ...]:
    """Add a row; returns all rows. Raters whose servers write at the same time do not lose each other's.

    Raises:
        DatasetError: as `read`.
        ResourceError: `REVIEW_LOCKED`.
    """
    path = path_of(out_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The system gives the lock up when its owner dies, however it dies.
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=wait_s)
    try:
        with lock:
            rows = (*read(out_dir), new)
            write_durably(path, _text(rows))
    except Timeout as error:
        raise ResourceError(
            Problem(
                "REVIEW_LOCKED",
                "another process has held the table of verdicts all the while",
                where=lock.lock_file,
                expected=f"the lock to be free within {wait_s:g} s",
                do="press the key again; if it stays so, look for a review server that hangs",
            )
        ) from error
    return rows


def _text(rows: Iterable[Row]) -> str:
    lines = [COLUMNS, *(astuple(one) for one in rows)]
    return "".join("\t".join(cell or NA for cell in cells) + "\n" for cells in lines)


def latest(rows: Iterable[Row]) -> dict[Key, dict[str, Row]]:
    """Session -> rater -> that rater's last row."""
    found: dict[Key, dict[str, Row]] = {}
    for one in rows:
        found.setdefault(one.key, {})[one.rater] = one
    return found


def excluded(rows: Iterable[Row], rule: Rule) -> Mapping[Key, str]:
    """Session -> why the review excludes it, for the sessions that it excludes.

    Args:
        rows: of the table.
        rule: any: one rater's verdict is fail. all: that of every rater who has one. ignore: none is.
    """
    if rule == "ignore":
        return {}
    found = {}
    for key, by_rater in latest(rows).items():
        said = [one for one in by_rater.values() if one.verdict]
        against = [one for one in said if one.verdict == "fail"]
        if against and (rule == "any" or len(against) == len(said)):
            found[key] = "review: fail by " + "; ".join(_told(one) for one in against)
    return found


def _told(one: Row) -> str:
    return f"{one.rater} ({one.note})" if one.note else one.rater
