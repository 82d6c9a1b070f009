"""The words of agreement, and of the level and side that stand out."""

from __future__ import annotations

import re

from somite.analysis.figures import listed, number
from somite.analysis.findings import Finding, Said, difference

_PATIENT = re.compile(r"^(?P<who>.+): recorded (?P<recorded>.+), first (?P<first>.+)$")


def agreement(said: Said) -> Finding | None:
    """Intraclass correlations, errors of measurement, bias and limits of agreement."""
    row = said.row
    if row.estimate_name == "Bland-Altman bias" and " - " in row.contrast:
        return Finding(difference(said, row.contrast, row.estimate), "bias", of_metric=True)
    if "limit of agreement" in row.estimate_name:
        pair = row.contrast.replace(" - ", " minus ")
        name = row.estimate_name.replace(" - ", " − ")
        return Finding(f"the {name} of {said.about}, {pair}, was", of_metric=True)
    if ": " not in row.contrast:
        return None
    names = row.contrast.split(": ", 1)[1].split(", ")
    between = f"between {listed(names)}, "
    if row.estimate_name.startswith("ICC"):
        form, meaning = row.estimate_name.split(", ", 1)
        meaning = meaning.replace("mean of k", f"mean of {len(names)}")
        return Finding(f"{between}{said.about} had an {form} ({meaning}) of", effect="")
    share = "coefficient of variation" in row.estimate_name
    text = f"{between}the {row.estimate_name} of {said.about} was"
    return Finding(text, of_metric=not share, percent=share)


def symptomatic_level(said: Said) -> Finding | None:
    """Accuracies, sensitivity and specificity, and each patient."""
    row = said.row
    by = f"by {said.about}, "
    patient = _PATIENT.match(row.contrast)
    if patient is not None:
        which = f"the recorded level and side of {patient['who']} ({patient['recorded']})"
        first = "" if row.estimate == 1 else f", behind {patient['first']}"
        text = f"{by}{which} stood at rank {number(row.estimate)}{first}"
        of = row.n_groups.replace("cells", "levels and sides")
        return Finding(text, "", effect="z", people=f"of {of}")
    counts = row.n_groups.split("/")
    people = f"n = {counts[0]} patients, {counts[1]} others" if len(counts) == 2 else ""
    if "accuracy" in row.estimate_name:
        better = " more often than by chance" if said.significant else ""
        what = {
            "top-1": "a recorded level and side stood first",
            "top-2": "a recorded level and side stood among the first two",
        }.get(row.contrast, f"the recorded {row.contrast} stood first")
        return Finding(f"{by}{what}{better}", "accuracy", effect="of chance", people=people)
    if row.estimate_name == "AUC":
        return Finding(f"{by}the area under the curve of z over levels and sides was", people=people)
    if row.estimate_name in ("sensitivity", "specificity"):
        at = row.contrast.removeprefix(row.estimate_name).strip(" ()")
        text = f"{by}the {row.estimate_name} for a recorded level and side, {at}, was"
        return Finding(text, people=people)
    return None
