"""The data that an analysis rests on, joined with the clinical columns, for other software."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from somite.analysis.selection import FRAME, IDENTITY, MANY, Selected
from somite.segments import field_text
from somite.wide_table import wide_name

MOST = 100_000
"""Values that are written without being asked for."""
_KEYS = ("participant_id", "session_id", "run", "site", "rater")


def as_wide(measures: Iterable[Selected]) -> pd.DataFrame:
    """A row per person, session and run, and per value of what varies within them; a column per measure.

    The columns of measures are named as in the wide table of segments: `fa__mean__nerve_root__L__L5`. Who has
    no value in a measure has NaN there.
    """
    keys: list[str] = list(_KEYS)
    columns: dict[str, pd.Series[float]] = {}
    people: list[pd.DataFrame] = []
    for measure in measures:
        keys = [*_KEYS, *(name for name in IDENTITY[2:] if getattr(measure, name) == MANY)]
        name = wide_name(tuple(getattr(measure, part).replace(MANY, "") for part in IDENTITY))
        columns[name] = measure.frame.set_index(keys)["value"]
        people.append(measure.frame.drop(columns=[n for n in FRAME if n not in keys]).drop_duplicates(keys))
    if not people:
        return pd.DataFrame(columns=keys)
    clinical = pd.concat(people).drop_duplicates(keys).set_index(keys)
    return clinical.join(pd.concat(columns, axis=1)).sort_index().reset_index()


def as_long(measures: Iterable[Selected]) -> pd.DataFrame:
    """The frames of all measures below each other, with metric and statistic; places that vary stay."""
    frames = [m.frame.assign(metric=m.metric, statistic=m.statistic) for m in measures]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*FRAME, *IDENTITY[:2]])


def write(path: Path, measures: Sequence[Selected], shape: str) -> bool:
    """Write the data as TSV: `wide`, `long`, `auto`, or nothing but a line for `none`.

    Returns:
        Whether they are there: `auto` writes only the columns where there are more values than `MOST`.
    """
    if shape == "none":
        path.write_text("no data asked for\n", encoding="utf-8")
        return False
    fits = shape != "auto" or sum(len(measure.frame) for measure in measures) <= MOST
    table = as_wide(measures) if shape == "wide" else as_long(measures if fits else measures[:1])
    with path.open("w", encoding="utf-8", newline="\n") as text:
        text.write("\t".join(map(str, table.columns)) + "\n")
        for row in table.itertuples(index=False, name=None) if fits else ():
            text.write("\t".join(map(field_text, row)) + "\n")
    return fits
