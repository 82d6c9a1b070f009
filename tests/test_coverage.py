"""Intervals hold the truth, and tests reject nothing, as often as they say, at the sizes of two studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from simulated import ALPHA, SIZES, TRIALS, area_at, band, rates

from somite.analysis import correlate
from somite.analysis.selection import Selected

REPETITIONS = 1000
KNOWN_TO_FALL_SHORT = ("AUC, plain DeLong",)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", TRIALS)
def test_coverage_and_false_positives_are_nominal(name: str, sizes: tuple[int, int]) -> None:
    found = rates(TRIALS[name], sizes, REPETITIONS)
    low, high = band(1 - ALPHA, REPETITIONS)
    for quantity, share in found.coverage.items():
        if quantity not in KNOWN_TO_FALL_SHORT:
            assert low <= share <= high, f"{quantity} covers {share}"
    low, high = band(ALPHA, REPETITIONS)
    for test, share in found.rejections.items():
        assert low <= share <= high, f"{test} rejects {share}"


@pytest.mark.slow
def test_at_large_areas_the_plain_interval_falls_short_and_the_default_does_not() -> None:
    found = rates(area_at(0.95), (11, 21), REPETITIONS)
    assert found.coverage["AUC, plain DeLong"] < 0.87
    assert found.coverage["AUC, logit DeLong"] > band(1 - ALPHA, REPETITIONS)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("truth", "covariates"), [(0.0, ()), (-0.5, ()), (0.6, ("age", "gender"))])
def test_correlations_with_the_score_of_real_patients_are_recovered(
    real_data: Path, truth: float, covariates: tuple[str, ...]
) -> None:
    people = pd.read_csv(real_data / "tables" / "als_subjects.csv")
    people = people[people["class"] == "ALS"].reset_index(drop=True)
    design = np.column_stack(
        [np.ones(len(people)), people["age"], people["gender"] == "M"]
        if covariates
        else [np.ones(len(people))]
    ).astype(float)
    score = people["ALSFRS"].to_numpy(float)
    score = score - design @ np.linalg.lstsq(design, score, rcond=None)[0]
    score /= score.std()  # of all that the covariates leave: the population of whom the cohorts are drawn
    random = np.random.default_rng(5)
    config = correlate.Config(name="c", columns="ALSFRS", covariates=covariates)
    rows = []
    for _ in range(500):
        drawn = random.integers(0, len(people), len(people))
        fa = truth * score[drawn] + np.sqrt(1 - truth**2) * random.normal(size=len(drawn))
        if covariates:
            fa += 0.05 * people["age"].to_numpy()[drawn]
        frame = people.iloc[drawn].assign(value=fa, participant_id=[f"sub-{i:02}" for i in range(len(drawn))])
        frame = frame[["participant_id", "value", "ALSFRS", *covariates]].reset_index(drop=True)
        rows += correlate.run([Selected.of(frame)], config)
    r = np.array([row.estimate for row in rows])
    free = len(people) - 1 - len(covariates)
    expected = truth - truth * (1 - truth**2) / (2 * free)  # what the sample r of normal values has itself
    assert abs(r.mean() - expected) < norm.ppf(0.9995) * r.std() / np.sqrt(len(r))
    low, high = band(1 - ALPHA, len(rows))
    assert low <= np.mean([row.ci_low <= truth <= row.ci_high for row in rows]) <= high
