"""From the long table and the clinical data to the measures of one analysis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from somite.analysis.long import Coded, Long, together
from somite.analysis.measures import Measures, Sorted
from somite.analysis.model import Affected, AnalysisConfig
from somite.analysis.people import KEYS, Key, People
from somite.analysis.rows import Left, affected, aggregate, matching
from somite.analysis.selection import Selected
from somite.analysis.visits import chosen, visits_of


@dataclass(frozen=True)
class Selection:
    """All measures of an analysis, and who had no part in any of them."""

    measures: Measures
    left: tuple[Left, ...] = ()


def select(
    long: Long, people: People, config: AnalysisConfig, names: Affected | None = None
) -> Iterator[Selected]:
    """The measures of an analysis, in the order of region, level, side, segment, metric and statistic.

    Args:
        long: the table of segments, exclusions taken off.
        people: the clinical data.
        config: the analysis.
        names: the clinical columns of the affected side and level.

    Raises:
        DatasetError: the problems of `rows.matching`, `rows.affected` and `visits.check`; `MANY_ROWS`, a
            participant has several rows in one measure; `MISSING_VALUES`, with `missing: error`.
    """
    yield from selection(long, people, config, names).measures


def selection(long: Long, people: People, config: AnalysisConfig, names: Affected | None = None) -> Selection:
    """As `select`, with who was left out before any measure was looked at."""
    long = with_sites(long, people)
    everyone = people_of(long)
    rows, out = only(matching(long, config), people, config)
    left = [out] if out.participants else []
    rows, more = affected(rows, people, config, names or Affected())
    left += more
    before = together([rows.texts[key] for key in KEYS])[1]
    if config.aggregate is not None and len(rows):
        rows = aggregate(rows, config.aggregate)
    codes, keys = together([rows.texts[key] for key in KEYS])
    members: list[list[Key]] = []
    if config.aggregate is not None and set(config.aggregate.over) & set(KEYS):
        members = [[old for old in before if _is_of(old, key)] for key in keys]
    table = Sorted.of(rows, codes, visits_of(people, keys, config, members), config)
    table.check_single()
    gone = {who for one in left for who in one.participants}
    return Selection(table.measures(people, sorted(everyone - gone)), tuple(left))


def people_of(long: Long) -> set[str]:
    """Who has a row."""
    ids = long.texts["participant_id"]
    return {ids.words[code] for code in np.unique(ids.codes)}


def only(long: Long, people: People, config: AnalysisConfig) -> tuple[Long, Left]:
    """The rows of the people whom the analysis names by clinical columns, and who the others are.

    Raises:
        DatasetError: the problems of `People.find`.
    """
    if not config.only:
        return long, Left("", ())
    codes, keys = together([long.texts[key] for key in KEYS])
    taken = chosen(people, keys, config)
    rows = long.take(taken[codes])
    words = ", ".join(f"{name}: {'/'.join(values)}" for name, values in config.only.items())
    return rows, Left(f"not {words}", tuple(sorted(people_of(long) - people_of(rows))))


def with_sites(long: Long, people: People) -> Long:
    """The table with the sites of the clinical data, where it has none of its own."""
    own = long.texts["site"]
    known = [source for source in people.sources if "site" in source.columns]
    if len(known) != 1 or own.where(bool).any():
        return long
    codes, keys = together([long.texts[key] for key in KEYS])
    sites = Coded.of([str(text) for text in known[0].values("site", keys)])
    return replace(long, texts={**long.texts, "site": Coded(sites.codes[codes], sites.words)})


def _is_of(old: Key, key: Key) -> bool:
    """Whether a visit is one of those that were joined to `key`."""
    return all(mine in ("", theirs) for mine, theirs in zip(key, old, strict=True))
