"""Which figures an analysis has: those of its kind, and a forest plot of all its estimates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from somite.report import analysis_figures as draw
from somite.report import analysis_kinds
from somite.report.analysis_estimates import (
    estimate,
    family_words,
    labels_of,
    measure_of,
    name_of,
    why_nothing,
)
from somite.report.analysis_figures import Scale
from somite.report.analysis_files import Analysis, Row
from somite.report.figure_files import Drawn, chunks, plain_name

MOST_ROWS = 34
MOST_FORESTS = 6
_DIAGNOSTIC = ("sensitivity", "specificity", "PPV", "NPV")
_OF_METRIC = ("mean difference", "adjusted mean difference", "Hodges-Lehmann", "fixed effect", "slope")
_PLAIN = (
    "intraclass",
    "ICC",
    "accuracy",
    "omega",
    "standard",
    "minimal",
    "within-subject",
    "SD",
    "residual SD",
)
_NOT_IN_FOREST = ("adjusted mean", "share of events", "variance inflation", "cluster ", "Youden",
                  "calibration", "Bland-Altman", "lower limit", "upper limit", "rank of")  # fmt: skip


def pictures(analysis: Analysis) -> Iterator[Drawn]:
    """Every figure of an analysis; what cannot be drawn is told with the reason."""
    if any(row.text("estimate_name") == "adjusted mean" for row in analysis.rows):
        yield from analysis_kinds.means(analysis)
    for one in analysis_kinds.OWN.get(analysis.kind, ()):
        yield from one(analysis)
    if analysis.kind != "profile":
        yield from _forests(analysis)


def _forests(analysis: Analysis) -> Iterator[Drawn]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in analysis.rows:
        name = row.text("estimate_name")
        crossed = row.text("contrast") not in ("r(L, R)", "rho(L, R)") and _is_matrix(analysis)
        if row.has_interval and not crossed and not name.startswith(_NOT_IN_FOREST):
            of_metric = name.startswith(_OF_METRIC)
            key = "diagnostic values at the cut-off" if name in _DIAGNOSTIC else name
            key = "intraclass correlation" if name.startswith("ICC") else key
            groups.setdefault((key, row.text("metric") if of_metric else ""), []).append(row)
    if not groups and analysis.kind not in ("correlate",):
        yield Drawn(plain_name(analysis.name, "forest"), "Estimates", missing=why_nothing(analysis))
    made = 0
    for (name, metric), rows in groups.items():
        parts = _parts(rows)
        for number, part in enumerate(parts, start=1):
            made += 1
            if made > MOST_FORESTS:
                break
            more = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
            yield _forest(analysis, name, metric, part, more, number if len(parts) > 1 else 0)
    if made > MOST_FORESTS:
        words = "Further estimates are in the table of results only: no more than "
        yield Drawn(plain_name(analysis.name, "forest-more"), "More estimates",
                    missing=f"{words}{MOST_FORESTS} figures of estimates are drawn.")  # fmt: skip


def _is_matrix(analysis: Analysis) -> bool:
    """Whether the heat map has all and estimates show a part."""
    return analysis.options.get("between") == "sides"


def _parts(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Rows of a figure each: by region where there are too many, and those in equal parts."""
    if len(rows) <= MOST_ROWS:
        return [rows]
    by_region: dict[str, list[Row]] = {}
    for row in rows:
        by_region.setdefault(row.text("region"), []).append(row)
    parts: list[list[Row]] = []
    for some in by_region.values():
        if parts and len(parts[-1]) + len(some) <= MOST_ROWS:
            parts[-1] += some
        else:
            parts.append(list(some))
    return [part for some in parts for part in chunks(some, MOST_ROWS)]


def _forest(analysis: Analysis, name: str, metric: str, rows: Sequence[Row], more: str, number: int) -> Drawn:
    scale = Scale(_axis(name, metric, rows), _nothing(name), log="ratio" in name)
    names = labels_of(rows)
    if name.startswith(("diagnostic", "intraclass")):
        names = [
            f"{row.place} {row.text('metric')}, {row.text('estimate_name').split(', ')[0]}" for row in rows
        ]
    columns = [(scale, [estimate(row, analysis, label) for row, label in zip(rows, names, strict=True)])]
    effects = {row.text("effect_name") for row in rows} - {""}
    if len(effects) == 1 and name.startswith(_OF_METRIC):
        (effect,) = effects
        sizes = [estimate(row, analysis, label, "effect") for row, label in zip(rows, names, strict=True)]
        columns.append((Scale(effect, 0.0), sizes))
    level = f"{100 * (1 - analysis.alpha):g} %"
    contrasts = list(dict.fromkeys(row.text("contrast") for row in rows))
    of = f"{contrasts[0]}. " if len(contrasts) == 1 and contrasts[0] else ""
    found = sum(one.found for one in columns[0][1])
    caption = (
        f"{of}Estimates with their {level} intervals; diamonds in red have a corrected p below "
        f"{analysis.alpha:g}. {family_words(rows)}"
    )
    title = f"{name[:1].upper()}{name[1:]}" + (f" of {name_of(metric)}" if metric else "") + more
    return Drawn(
        plain_name(analysis.name, "forest", name.split(",")[0], metric, str(number or "")),
        title,
        caption,
        f"Forest plot of {len(rows)} estimates: {title}; {found} with a corrected p below {analysis.alpha:g}",
        draw.forest(columns),
    )


def _axis(name: str, metric: str, rows: Sequence[Row]) -> str:
    if not metric:
        return f"{name} (unitless)" if "unit" not in name else name
    per = {row.text("contrast") for row in rows} if name == "slope" else set()
    return f"{name},\n{measure_of(metric)}" + (f" per unit of {per.pop()}" if len(per) == 1 else "")


def _nothing(name: str) -> float | None:
    if "ratio" in name:
        return 1.0
    if name == "AUC":
        return 0.5
    return None if name.startswith((*_PLAIN, "diagnostic", "share")) else 0.0
