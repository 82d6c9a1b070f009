"""Which figures an analysis has: its rows and data made into the panels that `analysis_figures` draws."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from somite.analysis.figures import unit_text
from somite.analysis.outputs import units
from somite.report import analysis_figures as draw
from somite.report.analysis_figures import Estimate, Scale
from somite.report.analysis_files import Analysis, Lack, Row
from somite.report.figure_files import Drawn, chunks, plain_name

MOST_ROWS = 34
MOST_FORESTS = 6
MOST_PANELS = 9
_DIAGNOSTIC = ("sensitivity", "specificity", "PPV", "NPV")
_OF_METRIC = ("mean difference", "adjusted mean difference", "Hodges-Lehmann", "fixed effect", "slope")
_PLAIN = ("ICC", "accuracy", "omega", "standard", "minimal", "within-subject", "SD", "residual SD")
_NOT_IN_FOREST = ("adjusted mean", "share of events", "variance inflation", "cluster ", "Youden", "calibration",
                  "Bland-Altman", "lower limit", "upper limit", "rank of")  # fmt: skip


def pictures(analysis: Analysis) -> Iterator[Drawn]:
    """Every figure of an analysis; what cannot be drawn is told with the reason."""
    special: dict[str, Sequence[Callable[[Analysis], Iterator[Drawn]]]] = {
        "roc": (_roc,),
        "agreement": (_bland_altman,),
        "correlate": (_heat_maps, _scatters),
        "logistic": (_calibration,),
        "profile": (_along,),
    }
    if any(row.text("estimate_name") == "adjusted mean" for row in analysis.rows):
        yield from _means(analysis)
    for one in special.get(analysis.kind, ()):
        yield from one(analysis)
    if analysis.kind != "profile":
        yield from _forests(analysis)


def measure_of(metric: str) -> str:
    """`FA (unitless)`, `MD (10⁻³ mm²/s)`."""
    unit = unit_text(units().get(metric, "")).strip().removeprefix("×").strip()
    shown = metric.upper() if len(metric) == 2 else metric.replace("_", " ")
    return f"{shown} ({unit or 'unitless'})"


def estimate(row: Row, analysis: Analysis, name: str, which: str = "") -> Estimate:
    """A row as a line of a forest plot; `which` is `effect_` for the effect size."""
    p = row.number("p_adjusted")
    p = p if math.isfinite(p) else row.number("p") if row.text("corrected_for") else math.nan
    value, low, high = (
        ("effect", "effect_ci_low", "effect_ci_high") if which else ("estimate", "ci_low", "ci_high")
    )
    return Estimate(
        name,
        *(row.number(key) for key in (value, low, high)),
        n=row.text("n_groups") or row.text("n"),
        p=p,
        found=math.isfinite(p) and p < analysis.alpha,
    )


def _labels(rows: Sequence[Row]) -> list[str]:
    """What tells the rows apart: place, metric and statistic where they differ, and contrast."""
    varied = [
        name for name in ("metric", "statistic", "contrast") if len({row.text(name) for row in rows}) > 1
    ]
    names = [
        " ".join(filter(None, [row.place, *(row.text(name) for name in varied if name != "contrast")]))
        for row in rows
    ]
    if "contrast" in varied and len(set(names)) < len(names):
        names = [
            ": ".join(filter(None, [name, row.text("contrast")]))
            for name, row in zip(names, rows, strict=True)
        ]
    return [
        name or row.text("contrast") or row.text("analysis") for name, row in zip(names, rows, strict=True)
    ]


def _forests(analysis: Analysis) -> Iterator[Drawn]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in analysis.rows:
        name = row.text("estimate_name")
        if row.has_interval and not name.startswith(_NOT_IN_FOREST):
            of_metric = name.startswith(_OF_METRIC)
            key = "diagnostic values at the cut-off" if name in _DIAGNOSTIC else name
            groups.setdefault((key, row.text("metric") if of_metric else ""), []).append(row)
    if not groups and analysis.kind not in ("correlate",):
        yield Drawn(plain_name(analysis.name, "forest"), "Estimates", missing=_why_nothing(analysis))
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


def _why_nothing(analysis: Analysis) -> str:
    reasons = list(dict.fromkeys(row.text("reason") for row in analysis.rows if row.text("reason")))
    if reasons:
        return "No estimate has an interval: " + "; ".join(reasons[:5]) + "."
    return analysis.lack or "No row of this analysis is an estimate with an interval."


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
    names = [f"{row.text('estimate_name')} {label}" if name.startswith("diagnostic") else label
             for row, label in zip(rows, _labels(rows), strict=True)]  # fmt: skip
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
    title = f"{name[:1].upper()}{name[1:]}" + (f" of {metric}" if metric else "") + more
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


def family_words(rows: Sequence[Row]) -> str:
    """What was corrected together, in words."""
    found = dict.fromkeys(
        (row.text("family"), row.text("correction"), row.text("family_size"))
        for row in rows
        if row.text("family") and math.isfinite(row.number("p_adjusted"))
    )
    own = dict.fromkeys(row.text("corrected_for") for row in rows if row.text("corrected_for"))
    texts = [
        f"family {name}: {size} {'test' if size == '1' else 'tests'}, "
        f"{'not corrected' if how == 'none' else 'corrected by ' + how}"
        for name, how, size in found
    ] + [f"corrected by the test itself for {what}" for what in own]
    if not texts:
        return "No row has a p-value that is corrected."
    shown = texts[:4] + ([f"and {len(texts) - 4} further families"] if len(texts) > 4 else [])
    return _sentence("; ".join(shown))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _roc(analysis: Analysis) -> Iterator[Drawn]:
    areas = [
        row for row in analysis.rows
        if row.text("estimate_name") == "AUC" and row.has_interval and "+" not in row.text("contrast")
        and "~" in row.text("formula")
    ]  # fmt: skip
    curves, lacks = [], []
    for row, label in zip(areas, _labels(areas), strict=True):
        try:
            curves.append(_curve(analysis, row, label))
        except Lack as lack:
            lacks.append(f"{label}: {lack}")
    yield from _in_parts(analysis, "roc", "ROC curves", curves, lacks, draw.roc,
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


def _in_parts(
    analysis: Analysis,
    name: str,
    title: str,
    panels: Sequence[Any],
    lacks: Sequence[str],
    figure: Callable[[Sequence[Any]], Any],
    caption: str,
    most: int = MOST_PANELS,
) -> Iterator[Drawn]:
    """Figures of some panels each, at most four; what is left is told."""
    parts = list(chunks(panels, most))
    for number, part in enumerate(parts[:4], start=1):
        more = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        listed = ", ".join(
            str(getattr(one, "name", one[0] if isinstance(one, tuple) else one)) for one in part
        )
        yield Drawn(plain_name(analysis.name, name, str(number) if len(parts) > 1 else ""), title + more,
                    caption, f"{title}: {listed}", figure(part))  # fmt: skip
    left = [f"{sum(map(len, parts[4:]))} further panels are not drawn"] if len(parts) > 4 else []
    told = list(dict.fromkeys(text.split(": ", 1)[-1] for text in lacks))
    if told or left:
        words = "; ".join([*told[:4], *left])
        yield Drawn(plain_name(analysis.name, name, "not-drawn"), f"{title}, not drawn",
                    missing=f"{len(lacks) or 'Some'} not drawn: {words}.")  # fmt: skip


def _bland_altman(analysis: Analysis) -> Iterator[Drawn]:
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
        yield from _in_parts(
            analysis, f"bland-altman-{metric}", f"Bland-Altman, {metric}", panels, [],
            lambda some, metric=metric: draw.bland_altman(some, measure_of(metric)),
            f"Difference against mean, {measure_of(metric)}; grey: intervals of the bias and of the limits.",
        )  # fmt: skip
    if lacks:
        yield from _in_parts(analysis, "bland-altman", "Bland-Altman", [], lacks, draw.means, "")


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


def _heat_maps(analysis: Analysis) -> Iterator[Drawn]:
    if analysis.options.get("between") == "sides":
        words, by = "Left (rows) against right (columns)", lambda row: " ".join(row.identity[:2])
    elif analysis.options.get("between") == "measures":
        words, by = "Measures with each other", lambda row: ""
    else:
        words, by = "Measures (rows) with clinical columns", lambda row: ""
    groups: dict[str, list[tuple[str, str, Row]]] = {}
    for row in analysis.rows:
        found = _PAIR.match(row.text("contrast"))
        if found is not None and math.isfinite(row.number("estimate")):
            groups.setdefault(by(row), []).append((*_cell(row, found["a"], found["b"]), row))
    for name, cells in groups.items():
        rows, columns = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
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
            f"{words}; star: corrected p below {analysis.alpha:g}. {family_words([row for *_, row in cells])}",
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


def _scatters(analysis: Analysis) -> Iterator[Drawn]:
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
    partial = (
        " The correlation is partial, the points are as measured."
        if analysis.options.get("covariates")
        else ""
    )
    capped = f" The {2 * MOST_PANELS} strongest of {len(pairs)}." if len(pairs) > 2 * MOST_PANELS else ""
    yield from _in_parts(analysis, "scatter", "Scatter plots", panels, lacks, draw.scatters,
                         f"With the line of least squares.{partial}{capped}")  # fmt: skip


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


def _means(analysis: Analysis) -> Iterator[Drawn]:
    by_metric: dict[str, dict[str, list[Estimate]]] = {}
    for row in analysis.rows:
        if row.text("estimate_name") == "adjusted mean" and row.has_interval:
            places = by_metric.setdefault(row.text("metric"), {})
            where = " ".join(filter(None, [row.place, row.text("statistic").replace("mean", "")]))
            places.setdefault(where, []).append(estimate(row, analysis, _group_of(row)))
    covariates = ", ".join(map(str, analysis.options.get("covariates", ())))
    for metric, found in by_metric.items():
        yield from _in_parts(
            analysis, f"means-{metric}", f"Adjusted means of {metric}", list(found.items()), [],
            lambda some, metric=metric: draw.means(some, measure_of(metric)),
            f"Means of the groups at the typical values of {covariates or 'the covariates'}, with intervals.",
            most=15,
        )  # fmt: skip


def _group_of(row: Row) -> str:
    return row.text("contrast").removeprefix("mean of ")


def _calibration(analysis: Analysis) -> Iterator[Drawn]:
    models: dict[str, list[Row]] = {}
    for row in analysis.rows:
        if row.text("contrast").startswith("calibration group") and math.isfinite(row.number("effect")):
            name = " ".join(filter(None, [row.place, row.text("metric").replace("*", "")])) or row.text(
                "formula"
            )
            models.setdefault(f"{name}\0{row.text('formula')}", []).append(row)
    panels = [
        (key.partition("\0")[0], np.array([row.number("effect") for row in rows]),
         [Estimate("", *(row.number(k) for k in ("estimate", "ci_low", "ci_high")), n=row.text("n")) for row in rows])
        for key, rows in models.items()
    ]  # fmt: skip
    yield from _in_parts(
        analysis, "calibration", "Calibration", panels, [], draw.calibration,
        "Share of events in groups of people by their predicted probability, with Wilson's interval; on the "
        "dotted line the prediction holds.",
    )  # fmt: skip


def _along(analysis: Analysis) -> Iterator[Drawn]:
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
            draw.Nodes(title, names, [estimate(row, analysis, name) for row, name in zip(rows, names, strict=True)],
                       [span for span in spans if span is not None])
        )  # fmt: skip
    for (name, metric), panels in by_metric.items():
        yield from _in_parts(
            analysis, f"along-{metric}", f"{name[:1].upper()}{name[1:]} along the profile, {metric}", panels, [],
            lambda some, name=name, metric=metric: draw.along(some, f"{name}, {measure_of(metric)}"),
            "Estimate at each node with its interval; red bars: clusters with their p, corrected for all "
            "clusters of the profile.",
        )  # fmt: skip
    if not by_metric:
        yield Drawn(plain_name(analysis.name, "along"), "Along the profile", missing=_why_nothing(analysis))


def _span(names: Sequence[str], place: str, p: float) -> tuple[int, int, float] | None:
    first, _, last = place.partition("..")
    if first not in names or (last or first) not in names or math.isnan(p):
        return None
    return names.index(first), names.index(last or first), p
