"""Clinical columns of participants.tsv: who is a control, how old, of which sex, which side is affected.

They are joined when tables are made, and never reach the steps that measure: those who draw and measure
stay blind to them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from somite.errors import DatasetError, Problem
from somite.segments import NA

Person = Mapping[str, str]
"""Column -> text, empty where there is none."""


def read_clinical(path: Path) -> dict[str, Person]:
    """Participant -> columns of a TSV with a column `participant_id`.

    Raises:
        DatasetError: `CLINICAL_TABLE`, the file cannot be read, has no such column or a participant twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(_problem("the clinical table cannot be read", path, str(error))) from error
    people: dict[str, Person] = {}
    for row in rows:
        name = _text(row.get("participant_id"))
        if not name:
            raise DatasetError(
                _problem("the clinical table has a row without participant_id", path, str(row))
            )
        label = name if name.startswith("sub-") else f"sub-{name}"
        if label in people:
            raise DatasetError(_problem("a participant stands twice in the clinical table", path, label))
        people[label] = {key: _text(text) for key, text in row.items() if key}
    return people


def _text(text: object) -> str:
    words = str(text or "").strip()
    return "" if words == NA else words


def _problem(what: str, path: Path, found: str) -> Problem:
    return Problem(
        "CLINICAL_TABLE",
        what,
        where=str(path),
        found=found,
        expected="a TSV as participants.tsv, one row per participant_id",
        do="correct the table",
    )


def age_of(person: Person | None, column: str) -> float:
    """Age in years; NaN where it is not a number. `89+`, as BIDS writes great age, is 89."""
    text = (person or {}).get(column, "").removesuffix("+")
    try:
        return float(text)
    except ValueError:
        return math.nan


_SEXES = {"m": 1.0, "male": 1.0, "f": 0.0, "female": 0.0}


def male_of(person: Person | None, column: str) -> float:
    """1 for male, 0 for female, NaN for other words and none."""
    return _SEXES.get((person or {}).get(column, "").lower(), math.nan)
