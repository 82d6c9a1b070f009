"""Reference values: read, matched with what was measured, and made from the controls of a cohort.

A reference is a TSV with a row for each region, side, level, segment and metric. In region to segment, `n/a`
means that the measure must have none, `*` that it may have any. Those shipped with Somite are published
values; FA of healthy roots lies near 0.20 in one publication and near 0.40 in another: none is portable from
one protocol to another, and each score says so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from scipy import special

from somite.errors import DatasetError, Problem
from somite.segments import NA, SCHEMA, Column, field_text

ANY = "*"
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Norm:
    """Mean and standard deviation of a measure in people without disease."""

    region: str
    side: str
    level: str
    segment: str
    metric: str
    statistic: str = "mean"
    mean: float = math.nan
    """For a man or woman of mean age, where it was adjusted."""
    sd: float = math.nan
    """Between people; what age and sex leave, where it was adjusted."""
    n: float = math.nan
    unit: str = ""
    protocol: str = ""
    source: str = ""
    """DOI, or another address."""
    portable: str = "no"
    """Whether it holds for other protocols than its own."""
    note: str = ""
    extraction: str = ANY
    age_mean: float = math.nan
    """Years; NaN where there is no adjustment for age."""
    age_slope: float = 0.0
    """Change of the mean per year."""
    male_share: float = math.nan
    """Fraction of men; NaN where there is no adjustment for sex."""
    male_effect: float = 0.0
    """Men minus women."""
    c_age_age: float = 0.0
    c_age_male: float = 0.0
    c_male_male: float = 0.0
    """Inverse of the centred squares and products of age and sex: what extrapolation adds to the variance."""

    def fits(self, place: Mapping[str, str]) -> bool:
        """Whether it is the reference for a row with these columns."""
        return all(
            getattr(self, name) in (ANY, place[name])
            for name in ("region", "side", "level", "segment", "metric", "statistic", "extraction")
        )


_NAMES = tuple(one.name for one in fields(Norm))
_KNOWN = {column.name: column for column in SCHEMA}
_PLACES = ("region", "side", "level", "segment", "metric", "statistic", "extraction", "unit", "protocol")
_OF_UNIT = "see the column unit"
NORMS_SCHEMA: tuple[Column, ...] = tuple(
    {
        **{name: _KNOWN[name] for name in _PLACES},
        "mean": Column("mean", "number", "Mean, at mean age and the share of men where adjusted", _OF_UNIT),
        "sd": Column("sd", "number", "SD between people; what age and sex leave where adjusted", _OF_UNIT),
        "n": Column("n", "number", "People of the reference"),
        "source": Column("source", "text", "DOI or address; own controls: those of a cohort"),
        "portable": Column("portable", "text", "Whether it holds for other protocols: yes or no"),
        "note": Column("note", "text", "What the reference says of itself"),
        "age_mean": Column("age_mean", "number", "Mean age; n/a: not adjusted for age", "year"),
        "age_slope": Column("age_slope", "number", "Change of the mean per year of age", _OF_UNIT),
        "male_share": Column("male_share", "number", "Share of men; n/a: not adjusted for sex", "1"),
        "male_effect": Column("male_effect", "number", "Men minus women", _OF_UNIT),
        **{
            name: Column(name, "number", f"Inverse of the centred squares and products, {words}")
            for name, words in (
                ("c_age_age", "age by age"),
                ("c_age_male", "age by male"),
                ("c_male_male", "male by male"),
            )
        },
    }[name]
    for name in _NAMES
)
"""Columns of a table of references, in order."""
_REQUIRED = ("region", "side", "level", "segment", "metric", "mean", "sd", "n", "unit")


_UNREADABLE = (OSError, UnicodeDecodeError, RecursionError)


def read_norms(path: Path) -> tuple[Norm, ...]:
    """Read a TSV or a YAML list of references.

    Raises:
        DatasetError: `NORMS`, one Problem for each mistake: the file cannot be read, a column is missing or
            not known, a number is not one, a standard deviation is not above 0.
    """
    try:
        rows = _read_yaml(path) if path.suffix in (".yaml", ".yml") else _read_tsv(path)
    except (*_UNREADABLE, YAMLError, csv.Error, TypeError, AttributeError) as error:
        found = str(error) or type(error).__name__
        raise DatasetError(_problem("the reference values cannot be read", str(path), found)) from error
    norms, problems = [], []
    for number, row in rows:
        try:
            norms.append(_norm(row))
        except ValueError as error:
            problems.append(_problem("a reference value is not valid", f"{path}, {number}", str(error)))
    if problems:
        raise DatasetError.of(problems)
    return tuple(norms)


def _read_tsv(path: Path) -> list[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        (f"line {number}", {key: text or "" for key, text in row.items()})
        for number, row in enumerate(rows, start=2)
    ]


def _read_yaml(path: Path) -> list[tuple[str, dict[str, str]]]:
    listed = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return [
        (f"entry {number}", {key: _scalar(key, value) for key, value in row.items()})
        for number, row in enumerate(listed or (), start=1)
    ]


def _scalar(key: str, value: object) -> str:
    """A value as text. Lists are refused before they are written out: aliases make them grow without end."""
    if isinstance(value, dict | list | set):
        raise TypeError(f"{key} holds several values, not one")
    return "" if value is None else str(value)


def _norm(row: Mapping[str, str]) -> Norm:
    if unknown := [name for name in row if name not in _NAMES]:
        raise ValueError(f"columns that are not known: {', '.join(map(str, unknown))}")
    if absent := [name for name in _REQUIRED if name not in row]:
        raise ValueError(f"columns that are missing: {', '.join(absent)}")
    texts = {name: "" if text.strip() == NA else text.strip() for name, text in row.items()}
    values: dict[str, object] = {}
    for name, text in texts.items():
        if name not in NUMBERS:
            values[name] = text
        elif text:
            values[name] = float(text)
    if not values.get("extraction", ANY):
        values["extraction"] = ANY
    values.setdefault("statistic", "mean")
    norm = Norm(**values)  # type: ignore[arg-type]
    if norm.sd <= 0:
        raise ValueError(f"sd {norm.sd:g} is not above 0")
    return norm


def _problem(what: str, where: str, found: str) -> Problem:
    return Problem(
        "NORMS",
        what,
        where=where,
        found=found,
        expected=f"a TSV or a YAML list with {', '.join(_REQUIRED)}, and of others {', '.join(_NAMES)}",
        do="correct the file; `n/a` stands for none, `*` for any",
    )


def shipped() -> tuple[Norm, ...]:
    """The published values that come with Somite."""
    with as_file(files("somite") / "norms.tsv") as path:
        return read_norms(path)


def write_norms(path: Path, norms: Iterable[Norm]) -> Path:
    """Write references as a TSV that `read_norms` takes."""
    lines = ["\t".join(_NAMES)]
    lines += ["\t".join(map(field_text, astuple(norm))) for norm in norms]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


@dataclass(frozen=True)
class Score:
    """How far a value lies from a reference."""

    expected: float = math.nan
    """Mean for this age and sex."""
    z: float = math.nan
    """Distance over the standard deviation between people, as though mean and SD were known exactly."""
    z_prediction: float = math.nan
    """The same with what the reference's sample leaves open: the normal deviate of Student's t of a new
    person's value. NaN where the reference does not tell its n."""
    reason: str = ""


def score(value: float, norm: Norm, age: float = math.nan, male: float = math.nan) -> Score:
    """Compare a person's value with a reference.

    Args:
        value: in the unit of the reference.
        norm: the reference.
        age: years; needed where the reference is adjusted for age.
        male: 1 or 0; needed where the reference is adjusted for sex.
    """
    numbers = {name: np.array([getattr(norm, name)]) for name in NUMBERS}
    found = scores(np.array([value]), numbers, np.array([age]), np.array([male]))
    reason = str(found.reason[0])
    return Score(float(found.expected[0]), float(found.z[0]), float(found.z_prediction[0]), reason)


NUMBERS: tuple[str, ...] = tuple(one.name for one in fields(Norm) if isinstance(one.default, float))
"""Fields of a `Norm` that are numbers."""


@dataclass(frozen=True)
class Scores:
    """As `Score`, of many values (n,)."""

    expected: Float
    z: Float
    z_prediction: Float
    reason: NDArray[np.str_]


def scores(values: Float, norms: Mapping[str, Float], age: Float, male: Float) -> Scores:
    """Compare values (n,) with a reference each.

    Args:
        values: in the units of the references.
        norms: numbers of the references by name, `NUMBERS`, each (n,).
        age: years (n,); NaN where it is not known.
        male: 1 or 0 (n,); NaN where it is not known.
    """
    by_age, by_sex = np.isfinite(norms["age_mean"]), np.isfinite(norms["male_share"])
    years = np.where(by_age, age - norms["age_mean"], 0.0)
    sex = np.where(by_sex, male - norms["male_share"], 0.0)
    expected = norms["mean"] + norms["age_slope"] * years + norms["male_effect"] * sex
    z = (values - expected) / norms["sd"]
    freedom = norms["n"] - 1 - by_age - by_sex
    leverage = norms["c_age_age"] * years**2 + norms["c_male_male"] * sex**2
    leverage = leverage + 2 * norms["c_age_male"] * years * sex
    known = freedom > 0
    t = z / np.sqrt(1 + 1 / np.where(known, norms["n"], 1.0) + leverage)
    beyond = -special.ndtri(special.stdtr(np.where(known, freedom, 1.0), -np.abs(t)))
    whys = {
        "the reference is adjusted for age, and the age is not known": by_age & np.isnan(age),
        "the reference is adjusted for sex, and the sex is not known": by_sex & np.isnan(male),
        "the reference has no standard deviation": np.isnan(norms["sd"]),
    }
    reason = np.select(list(whys.values()), list(whys), "")
    return Scores(expected, z, np.where(known, np.copysign(beyond, t), np.nan), reason)


@dataclass(frozen=True)
class Sample:
    """Values of controls, one per person, with their age in years and sex, 1 for male; NaN: not known."""

    values: Float
    age: Float = field(default_factory=lambda: np.zeros(0))
    male: Float = field(default_factory=lambda: np.zeros(0))


def build(sample: Sample) -> dict[str, float]:
    """Mean, SD and n of controls, adjusted linearly for age and sex where both are known and vary.

    Ordinary least squares on centred age and sex: `mean` is that of the sample, `sd` the standard deviation
    of the residuals with the degrees of freedom that are left. Age or sex is left out where it is not known
    of everyone or does not vary, and where the sample leaves no degree of freedom.

    Returns:
        Numbers of a `Norm` by name.
    """
    y = sample.values
    n = len(y)
    columns: dict[str, Float] = {}
    for name, x in (("age", sample.age), ("male", sample.male)):
        if len(x) == n and np.isfinite(x).all() and np.ptp(x) > 0 and n > len(columns) + 3:
            columns[name] = x - x.mean()
    design = np.column_stack(list(columns.values())) if columns else np.zeros((n, 0))
    if np.linalg.matrix_rank(design) < len(columns):
        columns, design = {"age": columns["age"]}, design[:, :1]
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ (y - y.mean())
    left = y - y.mean() - design @ slopes
    numbers = {
        "mean": float(y.mean()),
        "sd": math.sqrt(float((left**2).sum()) / (n - 1 - len(columns))),
        "n": float(n),
    }
    names = list(columns)
    if "age" in columns:
        numbers |= {"age_mean": float(sample.age.mean()), "age_slope": float(slopes[names.index("age")])}
        numbers["c_age_age"] = float(inverse[0, 0])
    if "male" in columns:
        i = names.index("male")
        numbers |= {"male_share": float(sample.male.mean()), "male_effect": float(slopes[i])}
        numbers["c_male_male"] = float(inverse[i, i])
    if len(columns) == 2:
        numbers["c_age_male"] = float(inverse[0, 1])
    return numbers


FEWEST = 3
"""People from which a mean and a standard deviation are estimated."""


def without_each(sample: Sample) -> list[dict[str, float]]:
    """For each person of a sample, `build` of the others: a norm that does not hold the person.

    Numbers are NaN where fewer than 3 others are left, or where they do not vary.
    """
    found = []
    for i in range(len(sample.values)):
        values, age, male = (
            np.delete(x, i) if len(x) else x for x in (sample.values, sample.age, sample.male)
        )
        fit = len(values) >= FEWEST and bool(np.ptp(values) > 0)
        found.append(build(Sample(values, age, male)) if fit else {"mean": math.nan, "sd": math.nan})
    return found


def chosen(norms: Sequence[Norm], place: Mapping[str, str]) -> list[Norm]:
    """The references of a row, in their order."""
    return [norm for norm in norms if norm.fits(place)]
