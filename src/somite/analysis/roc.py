"""ROC analysis of measures: areas, their comparison, cut-offs, and markers combined.

Every measure gives a row for the area under the curve, one for the cut-off, and one each for what the cut-off
does. Several rows of one participant (`repeated`) are resampled together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy.special import logit
from scipy.stats import mannwhitneyu
from scipy.stats import t as student

from somite.analysis import crossval, delong, design, firth, resampling
from somite.analysis.cutoff_rows import cutoff_rows
from somite.analysis.location import level_text
from somite.analysis.marker import Marker, MarkerConfig, formula, marker_of
from somite.analysis.outcome import Bools, Floats, chosen, groups_of, names_of, sizes, together, two_classes
from somite.analysis.results import Result, df_text
from somite.analysis.selection import Selected

NO_VARIANCE = "an area of 0 or 1 has no variance: the interval is Newcombe's"


class Config(MarkerConfig):
    """Options of `roc`."""

    kind: Literal["roc"] = "roc"


def run(measures: Sequence[Selected], config: Config) -> list[Result]:
    """Rows of each measure, then of comparisons, then of combinations."""
    rows: list[Result] = []
    for measure in measures:
        rows += _single(measure, config)
    if config.compare:
        for some in groups_of(measures, config.compare):
            rows += [_pair(pair, config) for pair in combinations(some, 2)]
    if config.between is not None:
        rows += [row for measure in measures for row in _between(measure, config.between, config)]
    if config.combine:
        for some in groups_of(measures, config.combine):
            rows += _combined(some, config)
    return rows


def _single(measure: Selected, config: Config) -> Iterator[Result]:
    """Rows of one measure: area, cut-off, what the cut-off does."""
    marker = marker_of(measure, measure.frame["value"].to_numpy(float), config)
    contrast = f"AUC({names_of([measure])[0]})"
    if isinstance(marker, str):
        yield Result.without(
            measure, config, marker, contrast=contrast, formula=formula(config, measure.metric)
        )
        return
    yield _area(marker, contrast, config)
    yield from cutoff_rows(marker, config)


def _area(marker: Marker, contrast: str, config: Config) -> Result:
    """The row of an area; the effect is the same area with the plain interval that pROC gives."""
    placed = delong.placements(marker.score, marker.event)
    auc, variance = placed.auc, placed.variance
    m, n = len(placed.positive), len(placed.negative)
    low, high, se, method = _interval(marker, auc, variance, config)
    fields = marker.common
    if np.isnan(low) and config.repeated:
        fields["warnings"] = (*marker.words, "no interval and no test: every resample has the same area")
    elif np.isnan(low):
        few = "one person of an outcome only: the interval is Newcombe's"
        low, high = delong.newcombe(auc, m, n, config.alpha)
        method = "Newcombe's method 5"
        fields["warnings"] = (*marker.words, NO_VARIANCE if auc in (0.0, 1.0) else few)
    plain = delong.interval(auc, variance, config.alpha, "plain")
    ranks: Any = mannwhitneyu(marker.score[marker.event], marker.score[~marker.event])
    tested = {
        "test": "Mann-Whitney test",
        "statistic_name": "U",
        "statistic_value": float(ranks.statistic),
        "p": float(ranks.pvalue),
    }
    if config.repeated:
        tested = _t_test(float(logit(auc)), se / (auc * (1 - auc)) if 0 < auc < 1 else 0.0, _df(marker))
        tested["test"] = "cluster bootstrap t test, logit"
    elif not np.isnan(plain[0]):
        tested |= {"effect_name": "AUC with plain DeLong interval", "effect": auc}
        tested |= {"effect_ci_low": plain[0], "effect_ci_high": plain[1]}
    return Result.of(
        marker.measure,
        config,
        contrast=contrast,
        estimate_name="AUC",
        estimate=auc,
        se=se,
        ci_low=low,
        ci_high=high,
        ci_method=f"{method}, {level_text(config.alpha)}",
        formula=formula(config, ("-" if marker.sign < 0 else "") + marker.name),
        seed=config.seed if "bootstrap" in method else None,
        **tested,
        **fields,
    )


def _interval(marker: Marker, auc: float, variance: float, config: Config) -> tuple[float, float, float, str]:
    """Ends, standard error, method."""
    scale = config.interval or ("bootstrap" if config.repeated else "logit")
    se = float(np.sqrt(variance))
    if scale == "bootstrap":
        areas = resampling.areas(marker.score, marker.event, marker.drawn)
        spread = float(areas.std(ddof=1))
        low, high = delong.interval(auc, spread**2, config.alpha, df=_df(marker))
        clusters = "cluster bootstrap" if config.repeated else "bootstrap"
        return low, high, spread, f"{clusters}, logit, {config.resamples} resamples"
    if scale == "newcombe":
        up, down = int(marker.event.sum()), int((~marker.event).sum())
        return *delong.newcombe(auc, up, down, config.alpha), se, "Newcombe's method 5"
    low, high = delong.interval(auc, variance, config.alpha, scale)
    return low, high, se, "logit DeLong" if scale == "logit" else "DeLong"


def _pair(measures: Sequence[Selected], config: Config) -> Result:
    """Difference of the areas of two measures of the same people: the first minus the second."""
    names = names_of(measures)
    contrast = f"AUC({names[0]}) - AUC({names[1]})"
    both, values = together(measures)
    found = [
        marker_of(both_as(both, m), column, config) for m, column in zip(measures, values.T, strict=True)
    ]
    one, two = found
    if isinstance(one, str) or isinstance(two, str):
        reason = one if isinstance(one, str) else str(two)
        return Result.without(both, config, reason, contrast=contrast)
    fields = one.common | {"contrast": contrast, "estimate_name": "AUC minus AUC"}
    fields["formula"] = f"AUC of {formula(config, names[0])} against {names[1]}"
    placed = [delong.placements(marker.score, marker.event) for marker in (one, two)]
    if not config.repeated:
        compared = delong.paired(placed[0], placed[1], config.alpha)
        return Result.of(both, config, **fields, **_compared(compared, "DeLong test, paired", config))
    areas = [resampling.areas(marker.score, marker.event, one.drawn) for marker in (one, two)]
    return Result.of(both, config, **fields, **_resampled(placed, areas[0] - areas[1], _df(one), config))


def both_as(both: Selected, measure: Selected) -> Selected:
    """The people of several measures under the name of one of them."""
    names: Any = measure.identity
    return Selected(**names, frame=both.frame, unit=measure.unit, left_out=both.left_out)


def _compared(found: delong.Comparison, test: str, config: Config) -> dict[str, Any]:
    t = np.isfinite(found.df)
    fields: dict[str, Any] = {
        "estimate": found.difference,
        "se": found.se,
        "ci_low": found.low,
        "ci_high": found.high,
        "ci_method": f"{'Welch-Satterthwaite t' if t else 'DeLong'}, {level_text(config.alpha)}",
        "test": test,
        "statistic_name": "t" if t else "z",
        "statistic_value": found.statistic,
        "df": df_text(found.df) if t else "",
        "p": found.p,
    }
    if np.isnan(found.low):
        same = found.p == 1.0
        words = "the markers order the people alike" if same else "neither area has a variance"
        return fields | {"ci_method": f"none: {words}", "reason": "" if same else words}
    return fields


def _resampled(
    placed: Sequence[delong.Placements], differences: Floats, df: int, config: Config
) -> dict[str, Any]:
    estimate, se = placed[0].auc - placed[1].auc, float(differences.std(ddof=1))
    how = f"cluster bootstrap, t, {config.resamples} resamples, {level_text(config.alpha)}"
    fields = {"estimate": estimate, "se": se, "seed": config.seed, "ci_method": how}
    if se == 0:
        return fields | {"ci_method": "none: the difference is the same in every resample"}
    half = float(student.ppf(1 - config.alpha / 2, df)) * se
    ends = {"ci_low": estimate - half, "ci_high": estimate + half}
    return fields | ends | _t_test(estimate, se, df) | {"test": "cluster bootstrap t test, paired"}


def _df(marker: Marker) -> int:
    """Degrees of freedom of the resampled people."""
    return max(1, int(marker.measure.frame["participant_id"].nunique()) - 2)


def _t_test(estimate: float, se: float, df: int) -> dict[str, Any]:
    t = estimate / se if se > 0 else float("nan")
    p = 2 * float(student.sf(abs(t), df))
    return {"statistic_name": "t", "statistic_value": t, "df": df_text(df), "p": p}


def _between(measure: Selected, column: str, config: Config) -> Iterator[Result]:
    """Differences of the areas of groups of different people, in pairs."""
    labels = design.group_text(measure.frame[column])
    groups = sorted(set(labels))
    name = names_of([measure])[0]
    if len(groups) < 2:
        only = "".join(groups) or "n/a"
        reason = f"nothing to compare: {column} is {only} only" if groups else "no values"
        yield Result.without(measure, config, reason, contrast=f"AUC({name}) by {column}")
        return
    whole = marker_of(measure, measure.frame["value"].to_numpy(float), config)
    sign = 1 if isinstance(whole, str) else whole.sign
    fixed = config.model_copy(update={"direction": "higher" if sign > 0 else "lower"})
    markers = {}
    for group in groups:
        part = chosen(measure, np.asarray(labels == group))
        markers[group] = marker_of(part, part.frame["value"].to_numpy(float), fixed)
    for a, b in combinations(groups, 2):
        contrast = f"AUC({name}, {column} {a}) - AUC({name}, {column} {b})"
        one, two = markers[a], markers[b]
        if isinstance(one, str) or isinstance(two, str):
            reason = f"{a}: {one}" if isinstance(one, str) else f"{b}: {two}"
            yield Result.without(measure, config, reason, contrast=contrast)
            continue
        first, second = (delong.placements(marker.score, marker.event) for marker in (one, two))
        compared = delong.unpaired(first, second, config.alpha)
        yield Result.of(
            measure,
            config,
            contrast=contrast,
            n=len(one.event) + len(two.event),
            n_groups=f"{len(one.event)}/{len(two.event)}",
            estimate_name="AUC minus AUC",
            formula=f"AUC of {formula(config, name)}, by {column}",
            **_compared(compared, "DeLong test, unpaired", config),
        )


def _combined(measures: Sequence[Selected], config: Config) -> Iterator[Result]:
    """Area of several measures joined by logistic regression, as it appears and after cross-validation."""
    names = names_of(measures)
    joined, values = together(measures)
    kept, event, reason = two_classes(joined, values, config)
    few, values = chosen(joined, kept), values[kept]
    fields: dict[str, Any] = {"n": len(event), "n_groups": sizes(event), "estimate_name": "AUC"}
    fields["formula"] = f"logit P({config.outcome} = {config.event}) ~ {' + '.join(names)} (Firth)"
    contrast = f"AUC({' + '.join(names)}"
    reason = reason or design.fault(values, names) or _few(event, config.folds)
    if reason:
        yield Result.without(few, config, reason, contrast=f"{contrast})", **fields)
        return
    columns = np.column_stack([np.ones(len(values)), values])
    placed = delong.placements(columns @ firth.fit(columns, event).coefficients, event)
    yield _area_of_model(
        few,
        event,
        placed.auc,
        placed.variance,
        "logit DeLong",
        config,
        contrast=f"{contrast}, apparent)",
        warnings=("apparent: of the people whom the model was fitted to, and so too large",),
        **fields,
    )
    seen = crossval.validate(columns, event, few.random(config.seed), config.folds, config.repeats)
    yield _area_of_model(
        few,
        event,
        seen.auc,
        seen.auc_variance,
        f"logit, influence curve (LeDell), {config.repeats} times {config.folds} folds",
        config,
        contrast=f"{contrast}, cross-validated)",
        seed=config.seed,
        **fields,
    )


def _area_of_model(
    measure: Selected,
    event: Bools,
    auc: float,
    variance: float,
    method: str,
    config: Config,
    **fields: Any,
) -> Result:
    """The row of the area of a fitted model, with its interval on the logit scale."""
    low, high = delong.interval(auc, variance, config.alpha)
    warnings = fields.pop("warnings", ())
    if np.isnan(low):
        up = int(event.sum())
        low, high = delong.newcombe(auc, up, len(event) - up, config.alpha)
        method = "Newcombe's method 5"
        warnings = (*warnings, NO_VARIANCE)
    return Result.of(
        measure,
        config,
        estimate=auc,
        se=float(np.sqrt(variance)),
        ci_low=low,
        ci_high=high,
        ci_method=f"{method}, {level_text(config.alpha)}",
        warnings=warnings,
        **fields,
    )


def _few(event: Bools, folds: int) -> str:
    smaller = min(int(event.sum()), int((~event).sum()))
    return f"too few people of one outcome for {folds} folds: {smaller}" if smaller < folds else ""
