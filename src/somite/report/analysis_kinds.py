"""The figures that a kind of analysis has of its own: curves, limits of agreement, maps, means, profiles."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from somite.report import analysis_figures as draw
from somite.report.analysis_estimates import (
    MOST_PANELS,
    estimate,
    family_words,
    in_parts,
    labels_of,
    measure_of,
    name_of,
    why_nothing,
)
from somite.report.analysis_figures import Estimate
from somite.report.analysis_files import Analysis, Lack, Row
from somite.report.figure_files import Drawn, plain_name


def roc(analysis: Analysis) -> Iterator[Drawn]:
    """ROC curves with area and cut-off, from the data; only those whose area is that of the table."""
    areas = [
        row for row in analysis.rows
        if row.text("estimate_name") == "AUC" and row.has_interval and "+" not in row.text("contrast")
        and "~" in row.text("formula")
    ]  # fmt: skip
    curves, lacks = [], []
    for row, label in zip(areas, labels_of(areas), strict=True):
        try:
            curves.append(_curve(analysis, row, label))
        except Lack as lack:
            lacks.append(f"{label}: {lack}")
    yield from in_parts(analysis, "roc", "ROC curves", curves, lacks, draw.roc,
        f"{analysis.options.get('outcome')} = {analysis.options.get('event')}; area with its interval; the "
        "diamond is the cut-off. Drawn from the data that were kept; each area agrees with the table.",
    )  # fmt: skip


def _curve(analysis: Analysis, row: Row, label: str) -> draw.Roc:
    data, options = analysis.values(row), analysis.options
    outcome = str(options.get("outcome"))
    if outcome not in data:
        raise Lack(f"the data have no column {outcome}")
    labels = data[outcome].astype(str)
    others = {str(options["other"])} if options.get("other") else set(labels) - {str(options.get("event"))}
    data = data[labels.isin({str(options.get("event")), *others}) & data[outcome].notna()]
    event = (data[outcome].astype(str) == str(options.get("event"))).to_numpy(bool)
    sign = -1 if "~ -" in row.text("formula") else 1
    score = sign * data["value"].to_numpy(float)
    if not event.any() or event.all():
        raise Lack("the data have one outcome only")
    area = draw.area_under(*draw.roc_points(score, event)[:2])
    if abs(area - row.number("estimate")) > 1e-6:
        raise Lack(f"the data give an area of {area:.4f}, the table has {row.number('estimate'):.4f}")
    cut = next((r for r in analysis.rows if r.identity == row.identity
                and r.text("estimate_name") == "Youden's cut-off"), None)  # fmt: skip
    at = cut.number("estimate") if cut is not None else math.nan
    words = f"cut-off {'below' if sign < 0 else 'above'} {at:.3g}" if math.isfinite(at) else ""
    return draw.Roc(label, score, event, estimate(row, analysis, label), sign * at, words)


def bland_altman(analysis: Analysis) -> Iterator[Drawn]:
    """Differences against means, with bias and limits of agreement."""
    by_metric: dict[str, list[draw.Agreement]] = {}
    lacks = []
    for row in analysis.rows:
        if row.text("estimate_name") != "Bland-Altman bias" or not row.has_interval:
            continue
        try:
            by_metric.setdefault(row.text("metric"), []).append(_agreement(analysis, row))
        except Lack as lack:
            lacks.append(str(lack))
    for metric, panels in by_metric.items():
        yield from in_parts(
            analysis, f"bland-altman-{metric}", f"Bland-Altman, {metric}", panels, [],
            partial(draw.bland_altman, measure=measure_of(metric)),
            f"Difference against mean, {measure_of(metric)}; grey: intervals of the bias and of the limits.",
        )  # fmt: skip
    if lacks:
        yield from in_parts(analysis, "bland-altman", "Bland-Altman", [], lacks, draw.roc, "")


def _agreement(analysis: Analysis, row: Row) -> draw.Agreement:
    data, factor = analysis.values(row), str(analysis.options.get("repeated"))
    if factor not in data:
        raise Lack(f"the data have no column {factor}")
    first, _, second = row.text("contrast").partition(" - ")
    table = data.pivot_table(index="participant_id", columns=factor, values="value", aggfunc="first")
    if first not in table or second not in table:
        raise Lack(f"the data lack {first} or {second}")
    compared = analysis.options.get("of") or list(table.columns)
    whole = table[[name for name in compared if name in table]].dropna()
    lines = [row, *(
        r for end in ("lower", "upper") for r in analysis.rows
        if r.identity == row.identity and r.text("contrast") == row.text("contrast")
        and r.text("estimate_name").startswith(f"{end} limit")
    )]  # fmt: skip
    return draw.Agreement(
        f"{row.place} {row.text('contrast')}".strip(), whole[first].to_numpy(float),
        whole[second].to_numpy(float), [estimate(line, analysis, "") for line in lines], (first, second),
    )  # fmt: skip


_PAIR = re.compile(r"^\w+\((?P<a>.+), (?P<b>[^,]+)\)$")


def heat_maps(analysis: Analysis) -> Iterator[Drawn]:
    """Correlations as maps: left with right, measures with each other or with clinical columns."""
    if analysis.options.get("between") == "sides":
        words, parted = "Left (rows) against right (columns)", True
    elif analysis.options.get("between") == "measures":
        words, parted = "Measures with each other", False
    else:
        words, parted = "Measures (rows) with clinical columns", False
    groups: dict[str, list[tuple[str, str, Row]]] = {}
    for row in analysis.rows:
        found = _PAIR.match(row.text("contrast"))
        if found is not None and math.isfinite(row.number("estimate")):
            groups.setdefault(" ".join(row.identity[:2]) if parted else "", []).append(
                (*_cell(row, found["a"], found["b"]), row)
            )
    for name, cells in groups.items():
        rows, columns = list(dict.fromkeys(c[0] for c in cells)), list(dict.fromkeys(c[1] for c in cells))
        title = f"Correlations, {name}" if name else "Correlations"
        files = plain_name(analysis.name, "correlations", name)
        if len(cells) < 4:
            continue
        if max(len(rows), len(columns)) > 60:
            yield Drawn(files, title, missing=f"A map of {len(rows)} by {len(columns)} could not be read.")
            continue
        r, stars = np.full((len(rows), len(columns)), np.nan), np.zeros((len(rows), len(columns)), bool)
        for a, b, row in cells:
            at = rows.index(a), columns.index(b)
            r[at], stars[at] = row.number("estimate"), estimate(row, analysis, "").found
        n = sorted({int(row.number("n")) for *_, row in cells})
        people = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
        label = cells[0][2].text("estimate_name") or "correlation"
        yield Drawn(
            files, title,
            f"{words}; star: corrected p below {analysis.alpha:g}. {family_words([c[2] for c in cells])}",
            f"Heat map of {len(cells)} correlations, from {np.nanmin(r):.2f} to {np.nanmax(r):.2f}",
            draw.heat_map(r, stars, rows, columns, f"{label} (unitless)", people),
        )  # fmt: skip


def _cell(row: Row, a: str, b: str) -> tuple[str, str]:
    """Names of the row and the column of a correlation."""
    if (a, b) == ("L", "R"):
        region, _, level, segment = row.identity[2:]
        places = (
            " ".join(part for part in (region, side, level, segment) if part not in ("", "*"))
            for side in "LR"
        )
        return next(places), next(places)
    if row.text("metric") == a:
        return f"{row.place} {a}".strip(), b
    return a, b


def scatters(analysis: Analysis) -> Iterator[Drawn]:
    """Scatter plots of the strongest correlations."""
    pairs = []
    for row in analysis.rows:
        found = _PAIR.match(row.text("contrast"))
        if found is None or not math.isfinite(row.number("estimate")):
            continue
        if (found["a"], found["b"]) == ("L", "R") or found["a"] == row.text("metric"):
            pairs.append((row, found["a"], found["b"]))
    pairs.sort(key=lambda pair: -abs(pair[0].number("estimate")))
    panels, lacks = [], []
    for row, a, b in pairs[: 2 * MOST_PANELS]:
        try:
            panels.append(_scatter(analysis, row, a, b))
        except Lack as lack:
            lacks.append(str(lack))
    given = (
        " The correlation is partial, the points are as measured."
        if analysis.options.get("covariates")
        else ""
    )
    capped = f" The {2 * MOST_PANELS} strongest of {len(pairs)}." if len(pairs) > 2 * MOST_PANELS else ""
    yield from in_parts(analysis, "scatter", "Scatter plots", panels, lacks, draw.scatters,
                         f"With the line of least squares.{given}{capped}")  # fmt: skip


def _scatter(analysis: Analysis, row: Row, a: str, b: str) -> draw.Scatter:
    data, measure = analysis.values(row), measure_of(row.text("metric"))
    if (a, b) == ("L", "R"):
        halves = [data[data["side"] == side].set_index("participant_id")["value"] for side in "LR"]
        both = pd.concat(halves, axis=1, keys=["x", "y"]).dropna()
        labels = f"left, {measure}", f"right, {measure}"
    else:
        if b not in data:
            raise Lack(f"the data have no column {b}")
        both = pd.DataFrame({"x": pd.to_numeric(data[b], errors="coerce"), "y": data["value"]}).dropna()
        labels = b, measure
    if both.empty:
        raise Lack("nobody has both values")
    p = estimate(row, analysis, "").p
    words = f"{'r' if 'earson' in row.text('estimate_name') else 'rho'} = {row.number('estimate'):.2f}"
    words += f", p {draw.p_text(p)} corrected" if math.isfinite(p) else ""
    return draw.Scatter(row.place or a, both["x"].to_numpy(), both["y"].to_numpy(), *labels, words)


def means(analysis: Analysis) -> Iterator[Drawn]:
    """Adjusted means of groups."""
    by_metric: dict[str, dict[str, list[Estimate]]] = {}
    for row in analysis.rows:
        if row.text("estimate_name") == "adjusted mean" and row.has_interval:
            places = by_metric.setdefault(row.text("metric"), {})
            where = " ".join(filter(None, [row.place, row.text("statistic").replace("mean", "")]))
            places.setdefault(where, []).append(estimate(row, analysis, _group_of(row)))
    covariates = ", ".join(map(str, analysis.options.get("covariates", ())))
    for metric, found in by_metric.items():
        yield from in_parts(
            analysis, f"means-{metric}", f"Adjusted means of {name_of(metric)}", list(found.items()), [],
            partial(draw.means, measure=measure_of(metric)),
            f"Means of the groups at the typical values of {covariates or 'the covariates'}, with intervals.",
            most=15,
        )  # fmt: skip


def _group_of(row: Row) -> str:
    return row.text("contrast").removeprefix("mean of ")


def calibration(analysis: Analysis) -> Iterator[Drawn]:
    """Share of events against the predicted probability."""
    models: dict[str, list[Row]] = {}
    for row in analysis.rows:
        if row.text("contrast").startswith("calibration group") and math.isfinite(row.number("effect")):
            name = " ".join(filter(None, [row.place, row.text("metric").replace("*", "")])) or row.text(
                "formula"
            )
            models.setdefault(f"{name}\0{row.text('formula')}", []).append(row)
    panels = [
        (key.partition("\0")[0], np.array([row.number("effect") for row in rows]),
         [replace(estimate(row, analysis, ""), n=row.text("n")) for row in rows])
        for key, rows in models.items()
    ]  # fmt: skip
    yield from in_parts(
        analysis, "calibration", "Calibration", panels, [], draw.calibration,
        "Share of events in groups of people by their predicted probability, with Wilson's interval; on the "
        "dotted line the prediction holds.",
    )  # fmt: skip


def along(analysis: Analysis) -> Iterator[Drawn]:
    """Effects node by node, with clusters."""
    step = str(analysis.options.get("along", "segment"))
    nodes: dict[tuple[str, ...], list[Row]] = {}
    clusters: dict[tuple[str, ...], list[Row]] = {}
    for row in analysis.rows:
        contrast = row.text("contrast")
        key = tuple(text for name, text in zip(("metric", "statistic", "region", "side", "level", "segment"),
                    row.identity, strict=True) if name != step)  # fmt: skip
        if contrast.startswith("cluster: "):
            clusters.setdefault((*key, contrast.removeprefix("cluster: ")), []).append(row)
        elif row.has_interval:
            nodes.setdefault((*key, contrast), []).append(row)
    by_metric: dict[tuple[str, str], list[draw.Nodes]] = {}
    for key, rows in nodes.items():
        names = [row.text(step) for row in rows]
        spans = [_span(names, row.text(step), row.number("p")) for row in clusters.get(key, ())]
        title = " ".join(part for part in key[2:] if part not in ("", "*"))
        axis = rows[0].text("estimate_name"), key[0]
        by_metric.setdefault(axis, []).append(
            draw.Nodes(title, names, [estimate(row, analysis, row.text(step)) for row in rows],
                       [span for span in spans if span is not None])
        )  # fmt: skip
    for (name, metric), panels in by_metric.items():
        yield from in_parts(
            analysis, f"along-{metric}", f"Along the profile: {name} of {name_of(metric)}", panels, [],
            partial(draw.along, label=f"{name}, {measure_of(metric)}", alpha=analysis.alpha),
            "Estimate at each node with its interval. Bars: clusters with their p, corrected for all "
            f"clusters of the profile; red below {analysis.alpha:g}.",
        )  # fmt: skip
    if not by_metric:
        yield Drawn(plain_name(analysis.name, "along"), "Along the profile", missing=why_nothing(analysis))


def _span(names: Sequence[str], place: str, p: float) -> tuple[int, int, float] | None:
    first, _, last = place.partition("..")
    if first not in names or (last or first) not in names or math.isnan(p):
        return None
    return names.index(first), names.index(last or first), p


OWN: Mapping[str, Sequence[Callable[[Analysis], Iterator[Drawn]]]] = {
    "roc": (roc,),
    "agreement": (bland_altman,),
    "correlate": (heat_maps, scatters),
    "logistic": (calibration,),
    "profile": (along,),
}
"""Kind of analysis -> its figures."""
