"""A result in the words of a results section.

Whether something is called a difference or a relation is decided by the corrected p-value and the analysis's
alpha; the number, its interval and n always stand beside it.
"""

from __future__ import annotations

import math
import re

from somite.analysis.families import Adjusted
from somite.analysis.results import Result

_METRICS = {
    "fa": "FA",
    "md": "MD",
    "ad": "AD",
    "rd": "RD",
    "s0": "S0",
    "residual": "residual",
    "fa_of_mean_eigenvalues": "FA of the mean eigenvalues",
}
_SIDES = {"L": "left", "R": "right", "midline": "midline"}
_CORRELATION = re.compile(r"^(?P<name>[^(]+)\((?P<a>[^,()]+), (?P<b>[^()]+)\)$")


def subject(row: Result) -> str:
    """What was measured and where: `Mean FA of the left L5 nerve root, foraminal drg`."""
    metric = _METRICS.get(row.metric, row.metric.replace("_", " "))
    statistic = row.statistic.upper() if row.statistic in ("sd", "iqr") else row.statistic
    what = f"{statistic} {metric}".strip()
    if row.metric == "fa_of_mean_eigenvalues":
        what = metric
    side = _SIDES.get(row.side, "" if row.side in ("", "*") else row.side)
    level = "" if row.level in ("", "*") else row.level
    region = "several regions" if row.region in ("", "*") else row.region.replace("_", " ")
    article = "" if row.region in ("", "*") else "the"
    place = " ".join(part for part in (article, side, level, region) if part)
    part = "" if row.segment in ("", "*") else f", {row.segment.replace('_', ' ')}"
    text = f"{what} of {place}{part}"
    return text[:1].upper() + text[1:]


def sentence(row: Result, adjusted: Adjusted, unit: str = "", alpha: float = 0.05) -> str:
    """One sentence on one row."""
    about = subject(row)
    if row.reason:
        what = f" ({row.contrast})" if row.contrast else ""
        return f"{about}{what}: no estimate, because {row.reason}."
    p = adjusted.p_adjusted
    head = _head(about, row, significant=p < alpha, tested=math.isfinite(p))
    tail = "; ".join(part for part in (_effect(row, alpha), _test(row), _corrected(adjusted)) if part)
    numbers = _estimate(row, unit, alpha)
    size = f"n = {row.n_groups}" if row.n_groups else f"n = {row.n}"
    note = f" Note: {row.warnings.replace(';', '; ')}." if row.warnings else ""
    return f"{head}: {'; '.join(part for part in (numbers, tail, size) if part)}.{note}"


def _head(about: str, row: Result, *, significant: bool, tested: bool) -> str:
    related = _CORRELATION.match(row.contrast)
    if tested and " - " in row.contrast and "difference" in row.estimate_name:
        a, b = row.contrast.split(" - ", 1)
        if not significant:
            return f"{about} did not differ detectably between {a} and {b}"
        word = "lower" if row.estimate < 0 else "higher"
        return f"{about} was {word} in {a} than in {b}"
    if tested and related and abs(row.estimate) <= 1 and "correlation" in _words(row):
        if not significant:
            return f"{about}: no correlation of {related['a']} and {related['b']} was detected"
        word = "negatively" if row.estimate < 0 else "positively"
        return f"{about}: {related['a']} and {related['b']} were {word} correlated"
    return f"{about}, {row.contrast}" if row.contrast else about


def _words(row: Result) -> str:
    name = row.estimate_name.casefold()
    known = ("pearson", "spearman", "correlation", "kendall")
    return name + (" correlation" if any(word in name for word in known) else "")


def number(value: float) -> str:
    """A number with three significant digits, its minus sign a minus."""
    if math.isinf(value):
        return "infinity" if value > 0 else "−infinity"
    text = f"{value:.3g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """`= 0.012`, `< 0.001`."""
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.3f}" if p < 0.9995 else "> 0.999"


def _interval(low: float, high: float, alpha: float) -> str:
    if math.isnan(low) and math.isnan(high):
        return ""
    return f" ({100 * (1 - alpha):g} % CI {number(low)} to {number(high)})"


def _estimate(row: Result, unit: str, alpha: float) -> str:
    if math.isnan(row.estimate):
        return ""
    of_metric = "difference" in row.estimate_name or row.estimate_name == "mean"
    shown = f" {unit}" if unit not in ("", "1") and of_metric else ""
    interval = _interval(row.ci_low, row.ci_high, alpha)
    return f"{row.estimate_name} {number(row.estimate)}{shown}{interval}".strip()


def _effect(row: Result, alpha: float) -> str:
    if math.isnan(row.effect) or row.effect_name in ("", row.estimate_name):
        return ""
    return f"{row.effect_name} {number(row.effect)}{_interval(row.effect_ci_low, row.effect_ci_high, alpha)}"


def _test(row: Result) -> str:
    if math.isnan(row.p):
        return ""
    value = ""
    if not math.isnan(row.statistic_value):
        df = f"({', '.join(_df(part) for part in row.df.split(', '))})" if row.df else ""
        value = f", {row.statistic_name}{df} = {number(row.statistic_value)}"
    return f"{row.test}{value}, p {p_text(row.p)}"


def _df(text: str) -> str:
    return text if text.isdigit() else f"{float(text):.1f}"


def _corrected(adjusted: Adjusted) -> str:
    if math.isnan(adjusted.p_adjusted):
        return ""
    if adjusted.correction == "none":
        return "not corrected for multiple comparisons"
    tests = "1 test" if adjusted.family_size == 1 else f"{adjusted.family_size} tests"
    return f"corrected p {p_text(adjusted.p_adjusted)} ({adjusted.correction}, {tests})"
