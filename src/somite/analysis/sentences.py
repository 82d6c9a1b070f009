"""A result in the words of a results section.

Whether something is called a difference or a relation is decided by the corrected p-value and the analysis's
alpha; the number, its interval and n always stand beside it. The words of each kind are in `findings`.
"""

from __future__ import annotations

import math

from somite.analysis import findings
from somite.analysis.families import Adjusted
from somite.analysis.figures import interval, number, p_text, unit_text
from somite.analysis.findings import Finding
from somite.analysis.results import Result
from somite.analysis.subjects import subject

_SYMBOLS = {"chi2": "χ²", "chi-square": "χ²"}


def sentence(row: Result, adjusted: Adjusted, unit: str = "", alpha: float = 0.05) -> str:
    """One sentence on one row, and a note where there is something to mind.

    Args:
        row: the result.
        adjusted: its p, corrected.
        unit: of the metric.
        alpha: below it a corrected p is called a finding; 1 - alpha is the level of the intervals.
    """
    if math.isnan(row.estimate):
        what = f" ({row.contrast})" if row.contrast else ""
        text = f"{subject(row)}{what}: no estimate, because {row.reason or 'there is none'}"
        return _finished(text, row.warnings)
    tested = math.isfinite(adjusted.p_adjusted)
    found = findings.finding(row, tested=tested, significant=tested and adjusted.p_adjusted < alpha)
    parts = (_effect(row, found, alpha), _test(row), _corrected(adjusted, row), found.people)
    numbers = "; ".join(part for part in (_estimate(row, found, unit, alpha), *parts) if part)
    text = f"{found.text}{' ' if found.name is None else ': '}{numbers}"
    return _finished(text, ";".join(part for part in (row.reason, row.warnings) if part))


def _finished(text: str, notes: str) -> str:
    note = f" Note: {notes.replace(';', '; ')}." if notes else ""
    return f"{text[:1].upper()}{text[1:]}.{note}"


def _estimate(row: Result, found: Finding, unit: str, alpha: float) -> str:
    if found.name == "":
        return ""
    scale = 100 if found.percent else 1
    end = " %" if found.percent else ""
    shown = end or (unit_text(unit) if found.of_metric else "") + found.per
    value = f"{number(row.estimate * scale)}{shown}"
    text = f"{value}{interval(row.ci_low * scale, row.ci_high * scale, alpha, end)}"
    return text if found.name is None else f"{found.name} {text}"


def _effect(row: Result, found: Finding, alpha: float) -> str:
    if math.isnan(row.effect) or found.effect == "":
        return ""
    name = row.effect_name if found.effect is None else found.effect
    return f"{name} {number(row.effect)}{interval(row.effect_ci_low, row.effect_ci_high, alpha)}"


def _test(row: Result) -> str:
    if math.isnan(row.p):
        return ""
    value = ""
    if not math.isnan(row.statistic_value) and not row.statistic_name.startswith("cluster"):
        df = f"({', '.join(_df(part) for part in row.df.split(', '))})" if row.df else ""
        name = _SYMBOLS.get(row.statistic_name, row.statistic_name)
        value = f", {name}{df} = {number(row.statistic_value)}"
    return f"{row.test}{value}, p {p_text(row.p)}"


def _df(text: str) -> str:
    return text if text.isdigit() else f"{float(text):.1f}"


def _corrected(adjusted: Adjusted, row: Result) -> str:
    if math.isnan(adjusted.p_adjusted):
        return ""
    if row.corrected_for:
        return f"corrected by the test itself for {row.corrected_for}"
    if adjusted.correction == "none":
        return "not corrected for multiple comparisons"
    tests = "1 test" if adjusted.family_size == 1 else f"{adjusted.family_size} tests"
    return f"corrected p {p_text(adjusted.p_adjusted)} ({adjusted.correction}, {tests})"
