"""How the acquisition varies over a cohort: for each parameter the most frequent value, and who differs.

Pure. Sessions are compared with those of the same runs: a reversed b=0 series is not odd among full series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from somite.dataset.grouping import given_direction
from somite.dataset.sessions import Deviation, Series, Session

UNKNOWN = "not known"


def deviations(sessions: Iterable[Session]) -> tuple[Deviation, ...]:
    """The protocol of a cohort, parameter by parameter; sessions whose images cannot be read are left out."""
    known = [s for s in sessions if s.series and all(one.n_volumes for one in s.series)]
    classes = _classes(known)
    return tuple(
        _deviation(name, runs if len(classes) > 1 else "", members, value)
        for name, value in PARAMETERS.items()
        for runs, members in classes.items()
    )


def _classes(sessions: Sequence[Session]) -> Mapping[str, list[Session]]:
    """Sessions of the same runs, by run label. One whose runs nobody else has is compared with the most."""
    classes: dict[str, list[Session]] = {}
    for session in sessions:
        classes.setdefault(session.run_label, []).append(session)
    largest = max(classes, key=lambda runs: len(classes[runs]), default="")
    if len(classes.get(largest, ())) > 1:
        for runs in [runs for runs, members in classes.items() if len(members) == 1]:
            classes[largest] += classes.pop(runs)
    return {runs: classes[runs] for runs in sorted(classes)}


def _deviation(
    name: str, runs: str, sessions: Sequence[Session], value: Callable[[Sequence[Series]], str]
) -> Deviation:
    values = {session.label: value(session.series) for session in sessions}
    counts = Counter(values.values())
    # The most frequent first; of equally frequent ones, that which sorts first.
    ranked = sorted(counts, key=lambda v: (-counts[v], v))
    others = tuple((v, tuple(sorted(k for k in values if values[k] == v))) for v in ranked[1:])
    parameter = f"{name}, {runs}" if runs else name
    return Deviation(parameter, ranked[0], counts[ranked[0]], len(sessions), others)


def _each(value: Callable[[Series], str]) -> Callable[[Sequence[Series]], str]:
    """The values of joined series, equal ones once."""
    return lambda series: " + ".join(dict.fromkeys(value(one) for one in series))


def _number(field: str, factor: float, digits: int) -> Callable[[Sequence[Series]], str]:
    def text(series: Series) -> str:
        value = series.metadata.get(field)
        return UNKNOWN if value is None else _rounded(factor * value, digits)

    return _each(text)


def _rounded(value: float, digits: int) -> str:
    return f"{round(value, digits):g}"


def _voxel(series: Series) -> str:
    grid = series.grid
    return " x ".join(_rounded(mm, 2) for mm in grid.voxel_mm) if grid else UNKNOWN


def _matrix(series: Series) -> str:
    return " x ".join(map(str, series.shape))


def _shells(series: Sequence[Series]) -> dict[int, int]:
    """b-value -> directions, of the series that has most; empty where gradient files have problems."""
    found: dict[int, int] = {}
    for shell in (shell for one in series for shell in one.shells):
        found[shell.b] = max(shell.directions, found.get(shell.b, 0))
    return dict(sorted(found.items())) if all(one.shells for one in series) else {}


def _b_values(series: Sequence[Series]) -> str:
    return ", ".join(map(str, _shells(series))) or UNKNOWN


def _directions(series: Sequence[Series]) -> str:
    shells = _shells(series)
    return ", ".join(str(n) for n in shells.values() if n) or ("0" if shells else UNKNOWN)


def _direction(series: Series) -> str:
    """As on the scanner's console, `AP`; without a sidecar, what the name says."""
    return given_direction(series) or series.entities.get("dir", UNKNOWN)


PARAMETERS: Mapping[str, Callable[[Sequence[Series]], str]] = {
    "voxel (mm)": _each(_voxel),
    "matrix": _each(_matrix),
    "TE (ms)": _number("EchoTime", 1000, 1),
    "TR (ms)": _number("RepetitionTime", 1000, 0),
    "b-values (s/mm2)": _b_values,
    "directions": _directions,
    "phase encoding": _each(_direction),
}
"""Parameter -> its value for the series of a session, as text."""
