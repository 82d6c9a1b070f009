"""Rows of the long table for one analysis: patterns, the affected side and level, aggregation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from somite.analysis.long import Coded, Long, Mask, matches, together
from somite.analysis.model import Affected, Aggregate, AnalysisConfig
from somite.analysis.people import KEYS, PREFIXES, Key, People
from somite.analysis.visits import where
from somite.configs.schema import nearest
from somite.errors import DatasetError, Problem
from somite.segments import NA

AFFECTED, UNAFFECTED = "affected", "unaffected"
_SIDES = {"l": "L", "left": "L", "r": "R", "right": "R", "": ""}
_BOTH = ("b", "both", "bilateral")
_COLUMNS = {"session": "session_id"}


@dataclass(frozen=True)
class Left:
    """People who are left out before any measure is looked at, for one reason."""

    reason: str
    participants: tuple[str, ...]


def matching(long: Long, config: AnalysisConfig) -> Long:
    """The rows that match the patterns of `select`; `affected` and `unaffected` match every row here.

    Raises:
        DatasetError: `SELECT_NOTHING`: every pattern that matches no row, with the nearest word; or all
            patterns match some row and no row matches all.
    """
    kept = np.ones(len(long), bool)
    problems: list[Problem] = []
    for option, patterns in config.select.model_dump().items():
        column = long.texts[_COLUMNS.get(option, option)]
        clinical = {"side": (AFFECTED, UNAFFECTED), "level": (AFFECTED,)}.get(option, ())
        if any(pattern in clinical for pattern in patterns):
            if strange := [pattern for pattern in patterns if pattern not in clinical]:
                problems.append(_mixed(config, option, strange))
            continue
        globs = [_with_prefix(_COLUMNS.get(option, option), pattern) for pattern in patterns]
        words = [column.words[i] for i in np.unique(column.codes)]
        problems += [
            _nothing(config, option, pattern, words)
            for pattern, glob in zip(patterns, globs, strict=True)
            if not any(matches(word, [glob]) for word in words)
        ]
        kept &= column.where(lambda word, globs=globs: matches(word, globs))  # type: ignore[misc]
    if not problems and not kept.any():
        problems.append(_together_nothing(config))
    if problems:
        raise DatasetError.of(problems)
    return long if kept.all() else long.take(kept)


def _with_prefix(column: str, pattern: str) -> str:
    prefix = PREFIXES.get(column, "")
    bare = not prefix or pattern in ("", NA) or pattern.startswith((prefix, "*", "?"))
    return pattern if bare else prefix + pattern


def _nothing(config: AnalysisConfig, option: str, pattern: str, words: Iterable[str]) -> Problem:
    names = [word or NA for word in words]
    meant = nearest(pattern, names)
    return Problem(
        "SELECT_NOTHING",
        f"no row of the table has a {option} {pattern}",
        where(config, f"select.{option}"),
        pattern,
        ", ".join(names[:40]) + (", ..." if len(names) > 40 else "") or "no row at all",
        f"did you mean {meant}?" if meant else "write one of these, or a pattern such as *",
    )


def _together_nothing(config: AnalysisConfig) -> Problem:
    given = {"statistic", *config.select.model_fields_set}
    asked = {name: list(value) for name, value in config.select.model_dump().items() if name in given}
    return Problem(
        "SELECT_NOTHING",
        "no row of the table matches all that the analysis selects",
        where(config, "select"),
        "; ".join(f"{name}: {', '.join(value)}" for name, value in asked.items()),
        "rows that match each of these at once",
        "take one of the patterns away",
    )


def _mixed(config: AnalysisConfig, option: str, strange: Sequence[str]) -> Problem:
    return Problem(
        "SELECT_AFFECTED",
        f"{option}: affected cannot stand beside other names",
        where(config, f"select.{option}"),
        ", ".join(strange),
        "affected" + (" and unaffected" if option == "side" else ""),
        "make two analyses",
    )


def affected(
    long: Long, people: People, config: AnalysisConfig, names: Affected
) -> tuple[Long, tuple[Left, ...]]:
    """Keep each participant's affected (or unaffected) side and level, where the analysis asks for them.

    The side or level of a row is then `affected` or `unaffected`; levels that vary within a participant keep
    their names.

    Raises:
        DatasetError: `AFFECTED_SIDE`, a recorded side that is none; the problems of `People.find`.
    """
    left: list[Left] = []
    sides = [name for name in config.select.side if name in (AFFECTED, UNAFFECTED)]
    if sides:
        long, out = _by_side(long, people, sides, names.side, where(config, "select.side"))
        left += out
    if AFFECTED in config.select.level:
        long, out = _by_level(long, people, names.level, where(config, "select.level"))
        left += out
        if "level" not in config.within():
            named = Coded(np.zeros(len(long), np.int32), (AFFECTED,))
            long = replace(long, texts={**long.texts, "level": named})
    return long, tuple(left)


def _visits(long: Long) -> tuple[NDArray[np.int32], list[Key]]:
    return together([long.texts[key] for key in KEYS])


def _by_side(
    long: Long, people: People, wanted: Sequence[str], column: str, at: str
) -> tuple[Long, list[Left]]:
    codes, keys = _visits(long)
    texts = [str(text).strip().casefold() for text in people.values(column, keys, at)]
    if strange := sorted({text for text in texts if text not in _SIDES and text not in _BOTH}):
        raise DatasetError(
            Problem(
                "AFFECTED_SIDE",
                f"{column} holds what is no side",
                at,
                ", ".join(strange),
                "L, R, left, right, both or n/a",
                "correct the clinical table",
            )
        )
    recorded = np.array([_SIDES.get(text, "") for text in texts], object)[codes]
    side = long.texts["side"]
    own = np.array(side.words, object)[side.codes]
    lateral = np.isin(own, ["L", "R"]) & (recorded != "")
    same = own == recorded
    kept = lateral & ((same & (AFFECTED in wanted)) | (~same & (UNAFFECTED in wanted)))
    told = Coded(np.where(same, 0, 1).astype(np.int32), (AFFECTED, UNAFFECTED))
    both = [key[0] for key, text in zip(keys, texts, strict=True) if text in _BOTH]
    none = [key[0] for key, text in zip(keys, texts, strict=True) if text == ""]
    named = replace(long, texts={**long.texts, "side": told}).take(kept)
    return named, _left({"no affected side recorded": none, "both sides affected": both})


def _by_level(long: Long, people: People, column: str, at: str) -> tuple[Long, list[Left]]:
    codes, keys = _visits(long)
    recorded = [levels_of(str(text)) for text in people.values(column, keys, at)]
    level = long.texts["level"]
    hit = np.array([[word in levels for word in level.words] for levels in recorded], bool)
    kept = hit.reshape(len(keys), len(level.words))[codes, level.codes]
    none = [key[0] for key, levels in zip(keys, recorded, strict=True) if not levels]
    return long.take(kept), _left({"no affected level recorded": none})


def levels_of(text: str) -> set[str]:
    """`L4;L5` -> {L4, L5}."""
    return {part.strip() for part in text.replace(",", ";").split(";") if part.strip()}


def sides_of(text: str) -> set[str] | None:
    """`left` -> {L}, `both` -> {L, R}, `` -> {}; None for what is no side."""
    word = text.strip().casefold()
    if word in _BOTH:
        return {"L", "R"}
    return {_SIDES[word]} - {""} if word in _SIDES else None


def _left(by_reason: dict[str, list[str]]) -> list[Left]:
    return [Left(reason, tuple(dict.fromkeys(who))) for reason, who in by_reason.items() if who]


def aggregate(long: Long, how: Aggregate) -> Long:
    """Join the rows of a participant over the columns of `how.over`; their names become `mean(L,R)`.

    Rows without a value count as absent. With `need: all`, who lacks one of the values that others have gets
    a row without a value, with the reason.
    """
    over = tuple(how.over)
    stay = [name for name in (*KEYS, *_IDENTITY, "rater", "site") if name not in over]
    joint, who = together([long.texts[name] for name in stay])
    parts, combined = together([long.texts[name] for name in over])
    measure, _ = together([long.texts[name] for name in _IDENTITY if name not in over])
    there = np.isfinite(long.numbers["value"])
    expected = pd.Series(parts[there]).groupby(measure[there]).nunique()
    frame = pd.DataFrame({"joint": joint, "part": parts, **long.numbers})
    first = frame.drop_duplicates("joint").sort_values("joint").index.to_numpy()
    base = long.take(first)
    value = _joined(frame[there], how.by).reindex(range(len(who)))
    have = frame[there].groupby("joint")["part"].nunique().reindex(range(len(who)), fill_value=0)
    needed = expected.reindex(measure[first], fill_value=0).to_numpy()
    lacking = (have.to_numpy() < needed) if how.need == "all" else (have.to_numpy() == 0)
    value = value.mask(pd.Series(lacking))
    return _named(base, value, lacking, how, combined)


_IDENTITY = ("metric", "statistic", "region", "side", "level", "segment")


def _joined(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Value, voxels and SNR of every joint row that has a value."""
    if by == "weighted":
        weights = frame["n_voxels"].where(frame["n_voxels"] > 0)
        frame = frame.assign(value=frame["value"] * weights, weight=weights)
        sums = frame.groupby("joint")[["value", "weight"]].sum(min_count=1)
        values = sums["value"] / sums["weight"]
    else:
        values = frame.groupby("joint")["value"].agg(by)
    means = frame.groupby("joint")["snr"].mean()
    voxels = frame.groupby("joint")["n_voxels"].sum(min_count=1)
    return pd.DataFrame({"value": values, "n_voxels": voxels, "snr": means})


def _named(
    base: Long,
    value: pd.DataFrame,
    lacking: Mask,
    how: Aggregate,
    combined: Sequence[tuple[str, ...]],
) -> Long:
    """The aggregated rows with the names of what was joined."""
    n = len(base)
    texts = dict(base.texts)
    for i, name in enumerate(how.over):
        if name in KEYS:  # a session that is several has no name of its own
            texts[name] = Coded(np.zeros(n, np.int32), ("",))
            continue
        words = sorted({part[i] for part in combined})
        listed = ",".join(word or NA for word in words) if len(words) <= 4 else f"{len(words)} values"
        texts[name] = Coded(np.zeros(n, np.int32), (f"{how.by}({listed})",))
    short = f"lacks a part of {how.by}({', '.join(how.over)})"
    told = Coded(np.where(lacking, 1, 0).astype(np.int32), ("", short))
    texts["reason"] = told
    numbers = {name: value[name].to_numpy(np.float64) for name in ("value", "n_voxels", "snr")}
    return Long(texts, {**numbers, "se": np.full(n, np.nan)})
