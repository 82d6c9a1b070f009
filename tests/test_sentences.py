"""Results in the words of a results section: every kind of row, its units, intervals, n, tests and notes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from somite.analysis import (
    agreement,
    compare,
    correlate,
    families,
    logistic,
    mixed,
    profile,
    roc,
    symptomatic_level,
)
from somite.analysis.families import Adjusted
from somite.analysis.figures import number, p_text, unit_text
from somite.analysis.results import Result
from somite.analysis.selection import Selected
from somite.analysis.sentences import sentence

MD = "1e-3 mm2/s"
DIFFERENCE = Result(
    "l5",
    "compare",
    region="nerve_root",
    side="L",
    level="L5",
    segment="foraminal_drg",
    metric="md",
    statistic="mean",
    contrast="patient - control",
    n=100,
    n_groups="31/69",
    estimate_name="mean difference",
    estimate=0.1234,
    ci_low=0.051,
    ci_high=0.196,
    effect_name="Hedges g",
    effect=0.62,
    effect_ci_low=0.19,
    effect_ci_high=1.05,
    test="Welch's t test",
    statistic_name="t",
    statistic_value=2.912345,
    df="57.312",
    p=0.00512,
)


def said(change: dict[str, Any], p: float = 0.0207, method: str = "Holm", size: int = 4) -> str:
    row = Result(**{**{k: getattr(DIFFERENCE, k) for k in DIFFERENCE.__dataclass_fields__}, **change})
    return sentence(row, Adjusted(p, method, "l5", size), MD)


def test_a_difference_is_a_sentence_of_a_results_section() -> None:
    assert said({}) == (
        "Mean MD of the left L5 nerve root (foraminal drg) was higher in patient than in control: mean "
        "difference 0.123 × 10⁻³ mm²/s (95 % CI 0.0510 to 0.196); Hedges g 0.620 (95 % CI 0.190 to 1.05); "
        "Welch's t test, t(57.3) = 2.91, p = 0.005; corrected p = 0.021 (Holm, 4 tests); n = 31/69."
    )
    assert "was lower in patient than in control: mean difference −0.120 " in said({"estimate": -0.12})


def test_the_words_follow_the_corrected_p() -> None:
    assert "did not differ detectably between patient and control" in said({}, p=0.0501)
    assert "was higher" in said({}, p=0.0499)
    assert "not corrected for multiple comparisons" in said({}, method="none")
    assert "corrected p < 0.001 (Holm, 1 test)" in said({"p": 1e-9}, p=1e-8, size=1)
    assert "p < 0.001; corrected" in said({"p": 1e-9}, p=1e-8)
    assert "Note: snr differs; few." in said({"warnings": "snr differs;few"})
    told = said({"corrected_for": "all clusters of the profile"}, method="by its own test", size=0)
    assert "p = 0.005; corrected by the test itself for all clusters of the profile; n" in told


def test_a_row_without_a_number_says_why_and_what_to_mind() -> None:
    text = said(
        {"estimate": math.nan, "reason": "nobody of group x has a value", "side": "*", "warnings": "few"},
        p=math.nan,
    )
    assert text == (
        "Mean MD of the L5 nerve root (foraminal drg) (patient - control): no estimate, because nobody of "
        "group x has a value. Note: few."
    )


def test_what_a_row_lacks_is_not_said() -> None:
    bare = dict.fromkeys(("ci_low", "ci_high", "effect", "p", "statistic_value"), math.nan)
    text = said(bare | {"segment": "", "n_groups": "", "contrast": "x"}, p=math.nan)
    assert text == "Mean MD of the left L5 nerve root, x: mean difference 0.123; n = 100."
    assert "nan" not in said({"ci_low": math.nan})


def test_numbers_have_three_digits_and_units_their_signs() -> None:
    values = (0.7, -0.05, 12345.6, 7.0, 0.99999999999, 1e-7, -math.inf, 0.0)
    assert [number(v) for v in values] == [
        *("0.700", "−0.0500", "12346", "7", "1", "1.00e−07", "−infinity", "0")
    ]
    assert [unit_text(unit) for unit in ("1", MD, "mm2", "arbitrary", "ms")] == [
        *("", " × 10⁻³ mm²/s", " mm²", " arbitrary units", " ms")
    ]


def test_small_p_values_are_not_written_as_zero() -> None:
    assert [p_text(p) for p in (0.0, 0.00099, 0.0012, 0.0499, 0.99999)] == [
        *("< 0.001", "< 0.001", "= 0.001", "= 0.050", "> 0.999")
    ]


# Every kind, as it comes out of the analysis

N = 40
ROOT = {"region": "nerve_root", "side": "L", "level": "L5"}


def people(metric: str = "md", slope: float = 0.3, **place: str) -> Selected:
    random = np.random.default_rng([3, len(metric)])
    sick = np.arange(N) % 2 == 0
    frame = {
        "participant_id": [f"sub-{i:02d}" for i in range(N)],
        "value": 1.2 + slope * sick + random.normal(0, 0.25, N),
        "diagnosis": np.where(sick, "ALS", "control"),
        "third": np.array(["a", "b", "c"])[np.arange(N) % 3],
        "age": 50 + np.round(random.normal(0, 8, N)),
        "sex": np.where(np.arange(N) % 4 < 2, "F", "M"),
    }
    frame["odi"] = 20 + 30 * frame["value"] + random.normal(0, 3, N)
    return Selected.of(pd.DataFrame(frame), metric, **(place or ROOT))


def visits() -> Selected:
    random = np.random.default_rng(5)
    one = people().frame.drop(columns="session_id")
    own = random.normal(0, 0.1, N)
    later = [one.assign(session_id=f"ses-{k}", year=k, value=one["value"] + own * (k > 1)) for k in (1, 2)]
    return Selected.of(pd.concat(later).sort_values(["participant_id", "session_id"]), "md", **ROOT)


def nodes() -> Selected:
    random = np.random.default_rng(6)
    one = people(slope=0.0).frame.drop(columns="segment")
    shift = np.where(one["diagnosis"] == "ALS", -0.6, 0.0)
    along = [
        one.assign(segment=f"node_{j}", value=one["value"] + (3 <= j < 7) * shift + random.normal(0, 0.1, N))
        for j in range(9)
    ]
    place = {"region": "CST", "side": "L", "segment": "*"}
    return Selected.of(pd.concat(along).sort_values(["participant_id", "segment"]), "fa", **place)


def roots() -> Selected:
    random = np.random.default_rng(7)
    rows = [  # lower by 0.2 at L5 of the affected side
        (f"sub-{i:02d}", level, side, random.normal(0.4, 0.02) - 0.2 * (level + side == f"L5{'LR'[i % 2]}"))
        for i in range(8) for level in ("L4", "L5", "S1") for side in "LR"
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["participant_id", "level", "side", "value"])
    sides = ["LR"[int(who[-2:]) % 2] for who in frame["participant_id"]]
    recorded = frame.assign(affected_level="L5", affected_side=sides)
    return Selected.of(recorded, "fa", region="nerve_root", side="*", level="*")


def told(kind: ModuleType, measures: Sequence[Selected], **options: Any) -> list[str]:
    """Sentences with # for every number, each checked to hold its row's own."""
    config = kind.Config(name="x", **options)
    rows = kind.run(measures, config)
    texts = []
    for row, adjusted in zip(rows, families.adjust(rows, {"x": config}), strict=True):
        text = sentence(row, adjusted, MD if row.metric == "md" else "1", config.alpha)
        assert (
            math.isnan(row.estimate) or number(row.estimate) in text or "%" in text or ": all" in row.contrast
        )
        for end in (row.ci_low, row.ci_high):
            assert math.isnan(end) or number(end) in text or "coefficient of variation" in text
        assert "nan" not in text
        assert "  " not in text
        assert text.endswith(".")
        texts.append(short(text))
    return texts


def short(text: str) -> str:
    """A sentence without its numbers: # for each, CI for an interval, ROOT for the usual subject."""
    for words, sign in ((" × 10⁻³ mm²/s", " UNIT"), ("ean MD of the left L5 nerve root", "ROOT")):
        text = text.replace(words, sign)
    text = re.sub(r"(?<![\w-])−?\d+(\.\d+)?(?![\w-])", "#", text)
    return text.replace("(# % CI # to #)", "CI").replace("FDR, Benjamini-Hochberg", "FDR")


OUTCOME = {"outcome": "diagnosis", "event": "ALS"}


def has(texts: Sequence[str], *wanted: str) -> None:
    """Every wanted text is the beginning of a sentence."""
    for text in wanted:
        assert any(one.startswith(text) for one in texts), "\n".join([text, "is not in", *texts])


def test_comparisons() -> None:
    has(
        told(compare, [people()], group="diagnosis", groups=("ALS", "control"), covariates=("age",)),
        "MROOT was higher in ALS than in control, adjusted for age: adjusted mean difference # UNIT "
        "CI; Hedges g (residual SD) # CI; analysis of covariance (HC3), t test, t(#) = #, p < #; "
        "corrected p < # (FDR, # test); n = #/#.",
        "In ALS, mROOT, adjusted for age, was # UNIT CI; n = #/#.",
    )
    has(
        told(compare, [people()], group="third"),
        "MROOT did not differ detectably between the groups of third (a, b, c): omega squared # CI; "
        "Welch analysis of variance, F(#, #) = #, p = #; corrected p = #",
        "MROOT did not differ detectably between a and b: mean difference",
    )
    has(
        told(compare, [people()], group="diagnosis", test="mann_whitney"),
        "MROOT was higher in ALS than in control: Hodges-Lehmann shift # UNIT CI; "
        "probability of superiority # CI; Mann-Whitney U test, U = #, p < #",
    )


def test_correlations() -> None:
    has(
        told(correlate, [people()], columns=("odi", "age"), covariates=("sex",)),
        "MROOT was positively correlated with odi, given sex: partial Pearson r # CI; t test of partial "
        "Pearson r, t(#) = #, p < #; corrected p < # (FDR, # tests); n = #.",
        "No correlation of mROOT with age, given sex, was detected: partial Pearson r # CI",
    )
    both = [people(), people("fa", slope=0.0)]
    has(
        told(correlate, both, between="measures"),
        "Several metrics of the left L5 nerve root: nerve_root L L5 md and nerve_root L L5 fa were ",
    )


def test_odds_ratios() -> None:
    texts = told(logistic, [people()], **OUTCOME, covariates=("age", "sex"))
    event = "n = # with diagnosis ALS, # without."
    has(
        texts,
        "Higher mROOT went with higher odds of diagnosis ALS, adjusted for age and sex: odds ratio per SD "
        "# CI; penalised likelihood ratio test (Firth), χ²(#) = #, p < #; corrected p",
        "In the model of mROOT, age was not detectably related to the odds of diagnosis ALS, adjusted for "
        "MD and sex: odds ratio per unit of age # CI",
        "In the model of mROOT, sex M rather than F was not detectably related to the odds",
        f"In the model of mROOT, the variance inflation factor of MD was #; {event}",
        f"In the model of mROOT, the calibration slope after cross-validation was # CI; {event}",
        "In the model of mROOT, the share with diagnosis ALS in group # of # by predicted probability "
        "(mean #, cross-validated) was # CI; n = #.",
    )
    assert texts[0].endswith(f"; {event} Note: # events per variable, fewer than #.")
    has(
        told(logistic, [people(), people("fa", slope=0.0)], **OUTCOME, models="multivariable"),
        "In the model of several metrics of the left L5 nerve root, higher MD went with higher odds of "
        "diagnosis ALS, adjusted for FA: odds ratio per SD #",
    )


def test_curves_and_cut_offs() -> None:
    direction = {"md": "higher", "fa": "lower"}
    both = [people(), people("fa", slope=0.0)]
    texts = told(
        roc, both, **OUTCOME, direction=direction, compare=("metric",), combine=("metric",), between="sex",
        prevalence=0.1, resamples=200,
    )  # fmt: skip
    event = "n = # with diagnosis ALS, # without."
    has(
        texts,
        f"Higher mROOT pointed to diagnosis ALS: AUC # CI; Mann-Whitney test, U = #, p < #; "
        f"corrected p < # (FDR, # tests); {event}",
        "Mean FA of the left L5 nerve root did not detectably tell diagnosis ALS from the others: AUC #",
        f"The cut-off of mROOT for diagnosis ALS by Youden's index was # UNIT CI; Youden's index "
        f"# CI; {event}",
        "The sensitivity of mROOT above # for diagnosis ALS was # CI; n = #. Note: at the cut-off that "
        "these data chose: too large.",
        "Where # % have diagnosis ALS, the negative predictive value of mROOT above # for ",
        "MD of the left L5 nerve root told diagnosis ALS from the others better than FA: AUC(MD) − "
        "AUC(FA) # CI; DeLong test, paired, z = #, p = #; corrected p",
        "MROOT told diagnosis ALS from the others better in sex F than in sex M: AUC(sex F) − AUC(sex M) # "
        "CI; DeLong test, unpaired, t(#) = #, p = #; corrected p = # (FDR, # tests); n = #/#.",
        "MD and FA of the left L5 nerve root, combined, as a marker of diagnosis ALS: cross-validated AUC #",
    )
    has(
        told(roc, [people()], **OUTCOME, direction="lower", cutoff=1.5),
        "MROOT told diagnosis ALS from the others the other way round than declared: AUC #",
        "The specificity of mROOT below #",
    )


def test_agreement() -> None:
    texts = told(agreement, [visits()], repeated="session_id")
    n = "n = # people, # repeats."
    has(
        texts,
        f"Between ses-1 and ses-2, mROOT had an ICC(#,#) (one measurement, random repeats, absolute "
        f"agreement) of # CI; F test of ICC = #, one-sided, F(#, #) = #, p < #; "
        f"corrected p < # (FDR, # tests); {n}",
        "Between ses-1 and ses-2, mROOT had an ICC(#,k) (mean of #, fixed repeats, consistency) of #",
        f"Between ses-1 and ses-2, the standard error of measurement of mROOT was # UNIT CI; {n}",
        f"Between ses-1 and ses-2, the minimal detectable difference of mROOT was # UNIT CI; {n}",
        f"Between ses-1 and ses-2, the within-subject coefficient of variation of mROOT was # % (# % CI # to "
        f"# %); {n}",
        "MROOT was higher in ses-1 than in ses-2: bias # UNIT CI",
        f"The lower limit of agreement (bias − # SD) of mROOT, ses-1 minus ses-2, was # UNIT CI; {n}",
    )


def test_mixed_models() -> None:
    n = "n = # rows of # people."
    fixed = ("diagnosis", "year", "diagnosis:year", "third")
    texts = told(mixed, [visits()], fixed=fixed, repeated=("session_id",))
    has(
        texts,
        "MROOT was lower in diagnosis control than in diagnosis ALS: difference by the model # UNIT CI; "
        "mixed model (REML), Wald, z = #, p < #; corrected p",
        "MROOT did not change detectably with year: slope by the model # UNIT per unit of year CI",
        "The effects of diagnosis control - ALS and year on mROOT did not depend detectably on each other: "
        "interaction # UNIT CI",
        "MROOT did not differ detectably between the values of third: mixed model (REML), Wald, χ²(#) = #, "
        "p = #; corrected p = #",
        f"In the mixed model of mROOT, the SD between participants was # UNIT; share of the variance #; {n}",
        "In the mixed model of mROOT, the SD of the residuals was # UNIT; share of the variance #",
    )
    has(
        told(
            mixed,
            [visits()],
            fixed=("diagnosis",),
            repeated=("session_id",),
            reference={"diagnosis": "control"},
        ),
        "MROOT was higher in diagnosis ALS than in diagnosis control: difference by the model #",
    )


def test_profiles() -> None:
    texts = told(profile, [nodes()], group="diagnosis", groups=("ALS", "control"), permutations=200)
    has(
        texts,
        "Mean FA of the left CST (node #) was lower in ALS than in control: mean difference",
        "Mean FA of the left CST (node # to node #) was lower in ALS than in control: cluster mass #; "
        "cluster mass permutation, #, |t| > #, p = #; corrected by the test itself for all clusters of the "
        "profile; n = #/#.",
    )
    has(
        told(profile, [nodes()], column="age", permutations=200, threshold_p=0.001),
        "Mean FA of the left CST (node #) did not change detectably with age: slope # per unit of age CI",
        "Mean FA of the left CST (cluster: slope of age): no estimate, because no node beyond the threshold",
    )


def test_the_level_and_side_that_stand_out() -> None:
    has(
        told(symptomatic_level, [roots()], resamples=200),
        "By mean FA of the nerve root, a recorded level and side stood first more often than by chance: "
        "accuracy # CI; of chance #; exact test of more hits than by chance, one-sided, hits = #, p < #",
        "By mean FA of the nerve root, the sensitivity for a recorded level and side, at its own cut-off by "
        "Youden from the others, was #",
        "By mean FA of the nerve root, the recorded level and side of sub-00 (L5 L) stood at rank #: z #; of "
        "# levels and sides.",
    )


def test_the_unit_of_a_reference_is_that_of_the_metric_and_a_score_has_none() -> None:
    group = {"kind": "reference", "contrast": "control", "effect_name": ""}
    assert ", control: mean 0.123 × 10⁻³ mm²/s (95 % CI" in said(group | {"estimate_name": "mean"})
    slope = said(group | {"estimate_name": "effect of age"})
    assert ": effect of age 0.123 × 10⁻³ mm²/s per unit of age (95 % CI" in slope
    score = said(group | {"contrast": "sub-01: patient", "estimate_name": "z against control"})
    assert ", sub-01: patient: z against control 0.123 (95 % CI" in score


def test_a_kind_that_is_not_known_is_told_plainly() -> None:
    text = said({"kind": "new", "contrast": "this of that", "estimate_name": "index"}, p=math.nan)
    assert text.startswith(
        "Mean MD of the left L5 nerve root (foraminal drg), this of that: index 0.123 (95 %"
    )


@pytest.mark.parametrize("event", ["MS (relapsing)", "1", "a = b"])
def test_the_outcome_is_told_as_it_is_written(event: str) -> None:
    frame = people().frame.assign(outcome=np.where(people().frame["diagnosis"] == "ALS", event, "none"))
    measure = Selected.of(frame, "md", **ROOT)
    for kind in (logistic, roc):
        config = kind.Config(name="x", outcome="outcome", event=event)  # type: ignore[attr-defined]
        rows = kind.run([measure], config)  # type: ignore[attr-defined]
        told_first = sentence(rows[0], families.adjust(rows, {"x": config})[0], MD)
        assert f" outcome {event}: " in told_first
