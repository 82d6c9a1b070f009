"""The words of logistic models and ROC curves. The outcome is read from the formula of the row."""

from __future__ import annotations

import re

from somite.analysis.figures import listed, number
from somite.analysis.findings import Finding, Said, plain_terms
from somite.analysis.results import Result
from somite.analysis.selection import MANY
from somite.analysis.subjects import named, place

_MODEL = re.compile(r"^logit P\((?P<column>.+?) = (?P<event>.+)\) ~ (?P<terms>.+?)(?: \(Firth\))?$")
_MARKER = re.compile(r"^(?:AUC of )?(?P<column>.+?) = (?P<event>.+) ~ (?P<terms>.+)$")
_RATIO = re.compile(r"^OR\((?P<name>.+?)(?: per (?P<per>SD|unit))?\)$")
_CATEGORY = re.compile(r"^(?P<column>\S+) (?P<a>.+) - (?P<b>.+)$")
_PAIR = re.compile(r"^AUC\((?P<a>.+)\) - AUC\((?P<b>.+)\)$")
_COMBINED = re.compile(r"^AUC\((?P<names>.+), (?P<how>apparent|cross-validated)\)$")
_RATE = re.compile(
    r"^(?P<rate>sensitivity|specificity|PPV|NPV)\(.* (?P<way>above|below) (?P<cut>\S+)\)"
    r"(?: at prevalence (?P<share>\S+))?$"
)
_RATES = {"PPV": "positive predictive value", "NPV": "negative predictive value"}


def _event(row: Result) -> str:
    """`diagnosis patient`."""
    found = _MODEL.match(row.formula) or _MARKER.match(row.formula)
    return f"{found['column']} {found['event']}" if found else "the event"


def _people(row: Result) -> str:
    """`n = 31 with diagnosis patient, 69 without`."""
    counts, _, rows = row.n_groups.partition(" ")
    ends = counts.split("/")
    if len(ends) != 2:
        return f"n = {row.n}"
    text = f"{ends[0]} with {_event(row)}, {ends[1]} without"
    return f"n = {row.n} people; rows: {text}" if rows else f"n = {text}"


def logistic(said: Said) -> Finding | None:
    """Odds ratios, variance inflation, calibration."""
    row = said.row
    model = f"in the model of {said.about}, "
    ratio = _RATIO.match(row.contrast)
    if ratio is not None and said.tested:
        return _ratio(said, ratio["name"], ratio["per"])
    if row.contrast.startswith("VIF("):
        name = named(row.contrast.removeprefix("VIF(").removesuffix(")"))
        text = f"{model}the variance inflation factor of {name} was"
        return Finding(text, people=_people(row))
    if row.contrast.startswith("calibration group"):
        which = row.contrast.removeprefix("calibration ")
        text = (
            f"{model}the share with {_event(row)} in {which} by predicted probability "
            f"(mean {number(row.effect)}, cross-validated) was"
        )
        return Finding(text, effect="", people=f"n = {row.n}")
    if row.contrast.startswith("calibration"):
        return Finding(f"{model}the {row.contrast} after cross-validation was", people=_people(row))
    return None


def _ratio(said: Said, name: str, per: str | None) -> Finding:
    row = said.row
    model = _MODEL.match(row.formula)
    terms = [named(plain_terms(term)) for term in model["terms"].split(" + ")] if model else []
    category = _CATEGORY.match(name) if per is None else None
    own = category["column"] if category else name
    others = listed([term for term in terms if term != named(own)])
    given = f", adjusted for {others}" if others else ""
    alone = per is not None and MANY not in (row.metric, row.region, row.side, row.level, row.segment)
    if category is not None:
        more = what = f"{own} {category['a']} rather than {category['b']}"
    else:
        what = said.about if alone else named(name)
        more = f"higher {what}"
    about = "" if alone else f"in the model of {said.about}, "
    if said.significant:
        odds = "lower" if row.estimate < 1 else "higher"
        text = f"{about}{more} went with {odds} odds of {_event(row)}{given}"
    else:
        text = f"{about}{what} was not detectably related to the odds of {_event(row)}{given}"
    step = f" per {per}" if per else "" if category else f" per unit of {own}"
    return Finding(text, f"odds ratio{step}", effect="", people=_people(row))


def roc(said: Said) -> Finding | None:
    """Areas, their differences, cut-offs and what they do."""
    row = said.row
    pair, combined = _PAIR.match(row.contrast), _COMBINED.match(row.contrast)
    if pair is not None:
        return _pair(said, pair["a"], pair["b"])
    if combined is not None:
        names = listed([named(name) for name in combined["names"].split(" + ")])
        text = f"{names} of {place(row)}, combined, as a marker of {_event(row)}"
        return Finding(text, f"{combined['how']} AUC", people=_people(row))
    if row.contrast.startswith("AUC("):
        return _area(said)
    if row.contrast.startswith("cut-off("):
        text = f"the cut-off of {said.about} for {_event(row)} by Youden's index was"
        return Finding(text, of_metric=True, people=_people(row))
    return _rate(said)


def _area(said: Said) -> Finding:
    row = said.row
    text = f"{said.about} did not detectably tell {_event(row)} from the others"
    if not said.tested:
        text = f"{said.about} as a marker of {_event(row)}"
    elif said.significant:
        found = _MARKER.match(row.formula)
        lower = found is not None and found["terms"].startswith("-")
        if row.estimate < 0.5:
            text = f"{said.about} told {_event(row)} from the others the other way round than declared"
        else:
            text = f"{'lower' if lower else 'higher'} {said.about} pointed to {_event(row)}"
    return Finding(text, "AUC", effect="", people=_people(row))


def _pair(said: Said, a: str, b: str) -> Finding:
    row = said.row
    told = f"told {_event(row)} from the others"
    between = ", " in a and ", " in b
    if between:
        a, b = a.split(", ", 1)[1], b.split(", ", 1)[1]
        people = f"n = {row.n_groups}"
    else:
        a, b = named(a), named(b)
        people = _people(row)
    best, other = (a, b) if row.estimate > 0 else (b, a)
    if not said.significant:
        of = said.about if between else place(row)
        text = f"the AUCs of {of} for {_event(row)} did not differ detectably between {a} and {b}"
    elif between:
        text = f"{said.about} {told} better in {best} than in {other}"
    else:
        text = f"{best} of {place(row)} {told} better than {other}"
    return Finding(text, f"AUC({a}) − AUC({b})", effect="", people=people)


def _rate(said: Said) -> Finding | None:
    row = said.row
    found = _RATE.match(row.contrast)
    if found is None:
        return None
    name = _RATES.get(found["rate"], found["rate"])
    text = f"the {name} of {said.about} {found['way']} {number(float(found['cut']))} for {_event(row)} was"
    if found["share"]:
        text = f"where {100 * float(found['share']):g} % have {_event(row)}, {text}"
    return Finding(text, people=f"n = {row.n}")
