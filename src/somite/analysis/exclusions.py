"""Who and what is left out of all analyses: by a list, by the quality of sessions and of segments.

The list is a TSV with a column participant_id and a column reason, and where less than a person is meant
session_id, run, or region, side, level, segment, metric, rater. `n/a` stands for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from somite.analysis.long import Coded, Long, Mask, together
from somite.analysis.model import Exclude
from somite.analysis.people import KEYS, QC, Key, People, field_of, lines_of
from somite.analysis.rows import Left
from somite.configs.schema import nearest
from somite.errors import DatasetError, Problem

PARTS = ("region", "side", "level", "segment", "metric", "rater")
"""Columns of the list that mean less than a session."""
_BEYOND: Mapping[str, tuple[str, ...]] = {"none": (), "fail": ("fail",), "warn": ("warn", "fail")}


@dataclass(frozen=True)
class Listed:
    """One line of the list."""

    where: str
    names: Mapping[str, str]
    """Column -> its value, of the columns that are not `n/a`."""
    reason: str

    @property
    def of_rows(self) -> bool:
        """Whether it means some segments only."""
        return any(name in self.names for name in PARTS)


def read_list(path: Path) -> tuple[Listed, ...]:
    """Read the list of exclusions.

    Raises:
        DatasetError: every `EXCLUSIONS_TABLE`: the file cannot be read, a column is missing or not known, a
            row has another length, or no participant or no reason.
    """
    lines = lines_of(path)
    header = [name.strip() for name in lines[0]]
    known = (*KEYS, *PARTS, "reason")
    problems = [
        _unfit(f"the list has no column {name}", str(path), ", ".join(header) or "an empty file", name)
        for name in ("participant_id", "reason")
        if name not in header
    ]
    for name in header:
        if name not in known:
            meant = nearest(name, known)
            do = f"did you mean {meant}?" if meant else "remove the column"
            problems.append(
                replace(
                    _unfit(f"{name} is not a column of the list", str(path), name, ", ".join(known)), do=do
                )
            )
    found = []
    for number, line in enumerate(lines[1:], start=2):
        at = f"{path}, line {number}"
        if len(line) != len(header):
            problems.append(_unfit("a row has not one field per column", at, len(line), len(header)))
            continue
        row = {name: field_of(name, text) for name, text in zip(header, line, strict=True)}
        row = {name: text for name, text in row.items() if text}
        reason = row.pop("reason", "")
        if not reason or "participant_id" not in row:
            problems.append(_unfit("a row has no participant or no reason", at, "n/a", "both"))
        found.append(Listed(at, row, reason))
    if problems:
        raise DatasetError.of(problems)
    return tuple(found)


def _unfit(what: str, where: str, found: object, expected: object) -> Problem:
    do = "a tab-separated file: participant_id, reason, and session_id, run, region, ... where less is meant"
    return Problem("EXCLUSIONS_TABLE", what, where, str(found), str(expected), do)


def apply(
    long: Long,
    people: People,
    how: Exclude,
    listed: Sequence[Listed] = (),
    reviewed: Sequence[Key] = (),
) -> tuple[Long, list[Left]]:
    """The table without what is excluded, and who was left out, reason by reason, in this order: the review
    of sessions, the list, the quality of sessions, that of segments.

    A segment that is excluded keeps its row, without a value and with the reason. Sessions that a rater
    failed, `reviewed`, are not in the table any more: they are counted, and the list may name them.

    Raises:
        DatasetError: every `EXCLUSION_UNKNOWN`, a line of the list that names nothing of the table, where
            the participant is in no clinical file either.
    """
    if problems := _unknown(long, people, listed, reviewed):
        raise DatasetError.of(problems)
    failed = tuple(dict.fromkeys(key[0] for key in reviewed))
    left = [Left("review: fail", failed)] if failed else []
    visit, keys = together([long.texts[key] for key in KEYS])
    gone = np.zeros(len(keys), bool)
    for reason, hit in [*_listed_visits(listed, keys), *_poor_visits(people, keys, how)]:
        new = hit & ~gone
        left += (
            [Left(reason, tuple(dict.fromkeys(keys[i][0] for i in np.flatnonzero(new))))] if new.any() else []
        )
        gone |= new
    kept = long.take(~gone[visit]) if gone.any() else long
    return _without_values(kept, listed, how), left


def _unknown(long: Long, people: People, listed: Sequence[Listed], reviewed: Sequence[Key]) -> list[Problem]:
    problems = []
    for line in listed:
        for name, text in line.names.items():
            words = [word for word in long.texts[name].words if word]
            known = {*words, *(people.participants if name == "participant_id" else ())}
            known |= {key[KEYS.index(name)] for key in reviewed} if name in KEYS else set()
            if text in known:
                continue
            meant = nearest(text, known)
            problems.append(
                Problem(
                    "EXCLUSION_UNKNOWN",
                    f"the table and the clinical files have no {name} {text}, so nothing would be excluded",
                    line.where,
                    text,
                    ", ".join(sorted(known)[:20]),
                    f"did you mean {meant}?" if meant else "correct or remove the line",
                )
            )
    return problems


def _listed_visits(listed: Sequence[Listed], keys: Sequence[tuple[str, ...]]) -> list[tuple[str, Mask]]:
    found = []
    for reason in dict.fromkeys(line.reason for line in listed if not line.of_rows):
        lines = [line for line in listed if line.reason == reason and not line.of_rows]
        hit = [any(_names(line, key) for line in lines) for key in keys]
        found.append((f"excluded: {reason}", np.array(hit, bool)))
    return found


def _names(line: Listed, key: tuple[str, ...]) -> bool:
    return all(line.names.get(name, text) == text for name, text in zip(KEYS, key, strict=True))


def _poor_visits(people: People, keys: Sequence[tuple[str, ...]], how: Exclude) -> list[tuple[str, Mask]]:
    source = next((one for one in people.sources if one.name == QC and "verdict" in one.columns), None)
    if source is None:
        return []
    verdicts = source.values("verdict", keys)
    return [(f"quality: {verdict}", verdicts == verdict) for verdict in _BEYOND[how.qc]]


def _without_values(long: Long, listed: Sequence[Listed], how: Exclude) -> Long:
    reasons: list[tuple[str, Mask]] = []
    for line in listed:
        if line.of_rows:
            hit = np.ones(len(long), bool)
            for name, text in line.names.items():
                hit &= long.texts[name].equal(text)
            reasons.append((f"excluded: {line.reason}", hit))
    beyond = _BEYOND[how.rows]
    status = long.texts["qc_status"]
    measured = np.isfinite(long.numbers["value"])
    reasons += [(f"segment quality: {s}", measured & status.equal(s)) for s in beyond]
    return _with_reasons(long, [(reason, hit) for reason, hit in reasons if hit.any()])


def _with_reasons(long: Long, reasons: Sequence[tuple[str, NDArray[np.bool_]]]) -> Long:
    if not reasons:
        return long
    value, column = long.numbers["value"].copy(), long.texts["reason"]
    words, codes = list(column.words), column.codes.copy()
    for reason, hit in reasons:
        value[hit] = np.nan
        if reason not in words:
            words.append(reason)
        codes[hit] = words.index(reason)
    order = np.argsort(words)
    place = np.empty(len(words), np.int32)
    place[order] = np.arange(len(words))
    told = Coded(place[codes], tuple(words[i] for i in order))
    return Long({**long.texts, "reason": told}, {**long.numbers, "value": value})
