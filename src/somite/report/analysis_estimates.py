"""What figures of analyses share: rows as estimates, names, families in words, figures of some panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from somite.analysis.figures import unit_text
from somite.analysis.outputs import units
from somite.report.analysis_figures import Estimate
from somite.report.analysis_files import Analysis, Row
from somite.report.figure_files import Drawn, chunks, plain_name

MOST_PANELS = 9


def name_of(metric: str) -> str:
    """`FA`, `MD`, `fa of mean eigenvalues`."""
    return metric.upper() if len(metric) == 2 else metric.replace("_", " ")


def measure_of(metric: str) -> str:
    """`FA (unitless)`, `MD (10⁻³ mm²/s)`."""
    unit = unit_text(units().get(metric, "")).strip().removeprefix("×").strip()
    return f"{name_of(metric)} ({unit or 'unitless'})"


def estimate(row: Row, analysis: Analysis, name: str, which: str = "") -> Estimate:
    """A row as a line of a forest plot; `which` is `effect_` for the effect size."""
    p = row.number("p_adjusted")
    p = p if math.isfinite(p) else row.number("p") if row.text("corrected_for") else math.nan
    keys = ("effect", "effect_ci_low", "effect_ci_high") if which else ("estimate", "ci_low", "ci_high")
    value, low, high = (row.number(key) for key in keys)
    found = math.isfinite(p) and p < analysis.alpha
    return Estimate(name, value, low, high, row.text("n_groups") or row.text("n"), p, found)


def labels_of(rows: Sequence[Row]) -> list[str]:
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


def why_nothing(analysis: Analysis) -> str:
    """Why no row of an analysis can be drawn."""
    reasons = list(dict.fromkeys(row.text("reason") for row in analysis.rows if row.text("reason")))
    if reasons:
        return "No estimate has an interval: " + "; ".join(reasons[:5]) + "."
    return analysis.lack or "No row of this analysis is an estimate with an interval."


def in_parts(
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
