"""Which level and side of a patient stands out, and whether it is the one that was recorded.

Every level and side of a patient gets a z score towards disease, its norm being estimated without the
patient. The cells of a patient are ranked by it, and the ranks are held against the clinical record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from somite.analysis import cutoff, ranking, resampling, stand_ins
from somite.analysis.cells import Cells, Evidence, cells_of, combined, opposite, text_of
from somite.analysis.location import level_text
from somite.analysis.model import (
    Affected,
    AnalysisConfig,
    Cohort,
    Factor,
    Requirement,
    Text,
    Texts,
    controls_of,
)
from somite.analysis.outcome import DESCRIPTIVE, groups_of
from somite.analysis.ranking import Bools, Floats
from somite.analysis.results import Result
from somite.analysis.rows import sides_of
from somite.analysis.selection import MANY, Selected

TOWARDS: Mapping[str, Literal["lower", "higher"]] = {
    "fa": "lower",
    "fa_of_mean_eigenvalues": "lower",
    "md": "higher",
    "ad": "higher",
    "rd": "higher",
}
"""Direction of disease of a compressed nerve: FA falls, diffusivities rise (domain notes, L8)."""


class Config(AnalysisConfig):
    """Options of `symptomatic_level`."""

    kind: Literal["symptomatic_level"] = "symptomatic_level"
    against: Literal["self", "other_side", "reference"] = "self"
    """What a level and side is held against. self: the patient's own other levels and side, the usual course
    over the levels taken from other people. other_side: the same level on the other side, in terms of other
    people's differences. Other people are those without a recorded level and side, or all where they are
    fewer than 3. reference: the same level and side of the people of `reference`."""
    group: Text | None = None
    """Clinical column that tells the reference people, with `against: reference`. Default: that of the
    controls of the cohort."""
    reference: Texts | None = None
    """Values of `group` of the reference people. Default: those of the controls of the cohort."""
    affected: Affected | None = None
    """Clinical columns of the recorded side and level. Who has none is no patient here. Default: as the
    cohort says."""
    stand_ins: bool = True
    """Rows of those who have no recorded level and side, each as though he had that of every patient: how
    often a method finds the place where there is nothing to find."""
    towards: Mapping[str, Literal["lower", "higher"]] = Field(default_factory=lambda: dict(TOWARDS))
    """Metric -> whether disease makes it lower or higher."""
    combine: bool = True
    """Rows for the mean of the z scores of all metrics of a structure, beside those of each."""
    cutoff: float | None = None
    """z above which a level and side counts as affected. Default: Youden's, from the other patients."""
    patients: bool = True
    """A row for each patient."""
    resamples: int = Field(2000, ge=200, le=100_000, description="Resamples of a bootstrap")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = self.group is not None and self.reference is not None
        if (given and self.against != "reference") or (self.group is None) != (self.reference is None):
            raise ValueError("against: reference takes both group and reference; the others take neither")
        if self.covariates:
            raise ValueError("covariates: symptomatic_level takes none")
        return self

    def requirements(self) -> tuple[Requirement, ...]:
        """The recorded side and level, which people may lack, and the group of the reference."""
        recorded = (
            Requirement(self.recorded.side, "affected.side", "groups", may_lack=True),
            Requirement(self.recorded.level, "affected.level", "groups", may_lack=True),
        )
        if self.group is None or self.reference is None:
            return recorded
        return (*recorded, Requirement(self.group, "group", "groups", self.reference))

    @property
    def recorded(self) -> Affected:
        """The clinical columns of the recorded side and level."""
        return self.affected or Affected()

    def in_cohort(self, cohort: Cohort) -> Config:
        """With the cohort's columns of the affected side and level, and its controls for the reference."""
        filled: dict[str, Any] = {"affected": self.affected or cohort.affected}
        if self.against == "reference" and self.group is None:
            filled["group"], filled["reference"] = controls_of(cohort, self)
        return self.model_copy(update=filled)

    def within(self) -> tuple[Factor, ...]:
        """Sides and levels."""
        return ("side", "level")


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """Rows of each measure, then of the metrics together."""
    rows: list[Result] = []
    for some in groups_of(measures, ["metric"]):
        scored: list[tuple[Cells, Floats]] = []
        for measure in some:
            found = _score(measure, config)
            if isinstance(found, str):
                rows.append(Result.without(measure, config, found, contrast="symptomatic level"))
                continue
            scored.append(found)
            rows += _rows(measure, *found, config)
        if config.combine and len(scored) > 1:
            rows += _rows(_as_one(some), *combined(scored), config)
    return rows


def _score(measure: Selected, config: Config) -> tuple[Cells, Floats] | str:
    """Cells and their z towards disease, or why there are none."""
    if not len(measure.frame):
        return "no values: all are missing or left out"
    if measure.metric not in config.towards:
        return f"towards does not say whether disease makes {measure.metric} lower or higher"
    words = {text_of(word) for word in measure.frame[config.recorded.side]}
    if strange := sorted(word for word in words if sides_of(word) is None):
        return f"{config.recorded.side} holds what is no side: {', '.join(strange)}"
    found = cells_of(measure.frame, config.recorded, config.group, config.reference or ())
    if len(found.cells) < 2:
        return "one level and side only: nothing to rank"
    if not found.recorded.any():
        return "nobody has a recorded level and side that was measured"
    if config.against == "reference":
        z = ranking.against_reference(found.values, found.reference)
    elif config.against == "other_side":
        z = ranking.against_other_side(found.values, opposite(found.cells), found.usual)
    else:
        z = ranking.against_self(found.values, found.usual)
    if np.isnan(z).all():
        return f"no z score: too few other people or cells, or they do not vary (against: {config.against})"
    return found, z if config.towards[measure.metric] == "higher" else -z


def _as_one(measures: Sequence[Selected]) -> Selected:
    names: Any = measures[0].identity | {"metric": MANY}
    frame = pd.concat([m.frame for m in measures], ignore_index=True)
    words = tuple(dict.fromkeys(word for m in measures for word in m.warnings))
    return Selected(**names, frame=frame, warnings=words)


def _rows(measure: Selected, cells: Cells, z: Floats, config: Config) -> Iterator[Result]:
    """All rows of one measure."""
    found = _evidence(measure, cells, z)
    if not found.patients:
        reason = "no patient has a z score of the recorded cell and of another"
        yield Result.without(measure, config, reason, contrast="symptomatic level")
        return
    for top in (1, 2):
        if max(rank.cells for rank in found.ranks) > top:
            yield _accuracy(found, top, config)
            if config.stand_ins:
                yield stand_ins.row(found, top, _common(found, config), config)
    for place, name in ((0, "level"), (1, "side")):
        if len({cell[place] for cell in cells.cells}) > 1:
            yield _part(found, place, name, config)
    yield from _cut(found, config)
    if config.patients:
        yield from (_patient(found, i, config) for i in range(len(found.patients)))


def _evidence(measure: Selected, cells: Cells, z: Floats) -> Evidence:
    """Ranks of the recorded cells of the patients."""
    patients, ranks, without = [], [], 0
    for person in np.flatnonzero(cells.recorded.any(1)):
        found = ranking.rank(z[person], cells.recorded[person])
        if found is None or found.cells < 2:
            without += 1
            continue
        patients.append(int(person))
        ranks.append(found)
    words = (f"{without} patients have no z score of the recorded cell or of another",) if without else ()
    return Evidence(measure, cells, z, tuple(patients), tuple(ranks), words)


def _common(found: Evidence, config: Config) -> dict[str, Any]:
    n = len(found.patients)
    formula = f"z against {'/'.join(config.reference or [config.against])}, the patient left out"
    return {
        "n": n,
        "n_groups": f"{n}/{len(found.cells.people) - n}",
        "formula": formula,
        "warnings": found.words,
    }


def _known(found: Evidence, person: int) -> Bools:
    return np.asarray(~np.isnan(found.z[person]))


def _accuracy(found: Evidence, top: int, config: Config) -> Result:
    """How often a recorded cell is among the first `top`."""
    marked = [int((_known(found, p) & found.cells.recorded[p]).sum()) for p in found.patients]
    cells = np.array([rank.cells for rank in found.ranks])
    chances = ranking.chance(cells, np.array(marked), top)
    hits = sum(rank.rank <= top for rank in found.ranks)
    return _share(found, hits, chances, f"top-{top}", f"top-{top} accuracy", config)


def _part(found: Evidence, place: int, name: str, config: Config) -> Result:
    """How often the cell that stands out the most has a recorded level, or side."""
    hits, chances = 0, []
    for person, rank in zip(found.patients, found.ranks, strict=True):
        recorded, known = found.cells.recorded[person], _known(found, person)
        right = {found.cells.cells[i][place] for i in np.flatnonzero(recorded)}
        hits += found.cells.cells[rank.top][place] in right
        chances.append(np.mean([found.cells.cells[i][place] in right for i in np.flatnonzero(known)]))
    return _share(found, hits, np.array(chances), name, f"accuracy of the {name}", config)


def _share(
    found: Evidence, hits: int, chances: Floats, contrast: str, estimate_name: str, config: Config
) -> Result:
    """Hits among the patients against those by chance."""
    rate = cutoff.rate(hits, len(found.patients), config.alpha)
    law = ranking.hits_by_chance(chances)
    return Result.of(
        found.measure,
        config,
        contrast=contrast,
        estimate_name=estimate_name,
        estimate=rate.value,
        ci_low=rate.low,
        ci_high=rate.high,
        ci_method=f"Wilson, {level_text(config.alpha)}",
        effect_name="accuracy of chance",
        effect=float(chances.mean()),
        test="exact test of more hits than by chance, one-sided",
        statistic_name="hits",
        statistic_value=float(hits),
        p=min(1.0, float(law[hits:].sum())),
        **_common(found, config),
    )


def _cut(found: Evidence, config: Config) -> Iterator[Result]:
    """Sensitivity and specificity of a z above the cut-off, and the area over all cut-offs."""
    rows, columns = np.nonzero(~np.isnan(found.z[list(found.patients)]))
    patient = np.array(found.patients)[rows]
    score, event = found.z[patient, columns], found.cells.recorded[patient, columns]
    common = _common(found, config)
    if event.all():
        yield Result.without(
            found.measure, config, "every cell of the patients was recorded", contrast="sensitivity", **common
        )
        return
    if config.cutoff is None and len(found.patients) < 2:
        reason = "one patient only: no others to take the cut-off from"
        yield Result.without(found.measure, config, reason, contrast="sensitivity", **common)
        return
    cuts = _cutoffs(score, event, rows, config)
    random = found.measure.random(config.seed)
    drawn = resampling.draws(rows, event, random, config.resamples)
    at = "at its own cut-off by Youden from the others" if config.cutoff is None else f"z > {config.cutoff:g}"
    positive = score > cuts
    for name, right, among in (
        ("sensitivity", positive & event, event),
        ("specificity", ~positive & ~event, ~event),
    ):
        with np.errstate(invalid="ignore"):
            shares = drawn[:, right].sum(1) / drawn[:, among].sum(1)
        fields = {
            "contrast": f"{name} ({at})",
            "estimate_name": name,
            "estimate": float(right.sum() / among.sum()),
        }
        yield _resampled(found, shares, fields, config)
    fields = {"contrast": "AUC of z over cells", "estimate_name": "AUC"}
    area = float(resampling.areas(score, event, np.ones((1, len(score)), np.int32))[0])
    yield _resampled(found, resampling.areas(score, event, drawn), fields | {"estimate": area}, config)


def _cutoffs(score: Floats, event: Bools, patient: Any, config: Config) -> Floats:
    """Cut-off (n,) of each cell: the given one, or Youden's of the cells of the other patients."""
    if config.cutoff is not None:
        return np.full(len(score), config.cutoff)
    cuts = np.empty(len(score))
    for one in np.unique(patient):
        own = patient == one
        cuts[own] = cutoff.youden(score[~own], event[~own]).cutoff
    return cuts


def _resampled(found: Evidence, shares: Floats, fields: dict[str, Any], config: Config) -> Result:
    """A row with the interval of the bootstrap of patients; of one value alone, Wilson's over patients."""
    low, high = resampling.percentiles(shares, config.alpha)
    common = _common(found, config)
    method = f"cluster bootstrap percentiles, {config.resamples} resamples"
    if np.isnan(low):
        n = len(found.patients)
        wilson = cutoff.rate(round(fields["estimate"] * n), n, config.alpha)
        low, high, method = wilson.low, wilson.high, "Wilson, patients as events"
        common["warnings"] = (*found.words, "every resample has the same value")
    return Result.of(
        found.measure,
        config,
        ci_low=low,
        ci_high=high,
        ci_method=f"{method}, {level_text(config.alpha)}",
        seed=config.seed,
        **fields,
        **common,
    )


def _patient(found: Evidence, i: int, config: Config) -> Result:
    """Where the recorded cell of one patient stands."""
    person, rank = found.patients[i], found.ranks[i]
    recorded = found.cells.recorded[person]
    names = [" ".join(part for part in cell if part) for cell in found.cells.cells]
    marked = "/".join(name for name, here in zip(names, recorded, strict=True) if here)
    best = float(np.nanmax(found.z[person][recorded]))
    return Result.of(
        found.measure,
        config,
        contrast=f"{found.cells.people[person]}: recorded {marked}, first {names[rank.top]}",
        **(_common(found, config) | {"n": 1, "n_groups": f"{rank.cells} cells"}),
        estimate_name="rank of the recorded level and side",
        estimate=rank.rank,
        ci_method=DESCRIPTIVE,
        effect_name="z of the recorded level and side",
        effect=best,
    )
