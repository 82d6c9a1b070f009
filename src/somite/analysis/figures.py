"""Numbers as a results section writes them: digits, intervals, units and p-values."""

from __future__ import annotations

import math
import re

_UNITS = {"1": "", "": "", "arbitrary": " arbitrary units"}
_POWER = re.compile(r"^1e(-?\d+) (.*)$")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """A number with three significant digits, whole ones without a point, its minus sign a minus."""
    if math.isinf(value):
        return "infinity" if value > 0 else "−infinity"
    if math.isnan(value):
        return "not known"
    whole = abs(value) < 1e6 and abs(value - round(value)) < 1e-9
    text = f"{round(value)}" if whole else f"{value:#.3g}".rstrip(".")
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """`= 0.012`, `< 0.001`."""
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.3f}" if p < 0.9995 else "> 0.999"


def interval(low: float, high: float, alpha: float, end: str = "") -> str:
    """` (95 % CI 0.1 to 0.3)`; `""` where there is none. `end` stands after the upper end."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f" ({100 * (1 - alpha):g} % CI {number(low)} to {number(high)}{end})"


def unit_text(unit: str) -> str:
    """What stands after a number: `1e-3 mm2/s` -> ` × 10⁻³ mm²/s`; nothing for a number without unit."""
    if unit in _UNITS:
        return _UNITS[unit]
    power = _POWER.match(unit)
    factor = f" × 10{power[1].translate(_SUPERSCRIPT)}" if power else ""
    name = re.sub(
        r"(?<=m)([23])", lambda found: found[1].translate(_SUPERSCRIPT), power[2] if power else unit
    )
    return f"{factor} {name}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
