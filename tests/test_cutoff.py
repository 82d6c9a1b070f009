"""Cut-offs and what they do, against pROC's numbers, and resamples against curves of resampled rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from somite.analysis import cutoff, delong, resampling


def test_the_best_cut_off_is_that_of_proc(real_data: Path) -> None:
    table = pd.read_csv(real_data / "tables" / "asah.csv")
    score, poor = table["s100b"].to_numpy(float), (table["outcome"] == "Poor").to_numpy()
    found = cutoff.youden(score, poor)
    # xrobin/pROC, tests/testthat/helper-coords-expected.R at 13196e3: the row of threshold 0.205
    assert found.cutoff == pytest.approx(0.205)
    assert found.index == pytest.approx(1.43970189701897 - 1)
    rates = cutoff.table(score, poor, found.cutoff)
    counts = {name: (rate.events, rate.people) for name, rate in rates.items()}
    assert counts == {
        "specificity": (58, 72),
        "sensitivity": (26, 41),
        "PPV": (26, 40),
        "NPV": (58, 73),
    }
    curve = cutoff.curve(score, poor)
    assert -np.trapezoid(curve.sensitivity, 1 - curve.specificity) == pytest.approx(
        delong.placements(score, poor).auc
    )


def test_wilsons_interval() -> None:
    # Newcombe (1998, Stat Med 17:857), Table I, method 3
    for events, people, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        found = cutoff.rate(events, people)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert np.isnan(cutoff.rate(0, 0).value)


def test_of_equal_cut_offs_the_most_sensitive_and_none_without_information() -> None:
    score = np.array([1.0, 2, 3, 4])
    assert cutoff.youden(score, np.array([False, True, False, True])).cutoff == 1.5
    assert cutoff.youden(score, np.array([True, True, False, False])).cutoff == -np.inf


def test_predictive_values_at_the_prevalence_of_the_sample_are_those_of_the_sample() -> None:
    sensitivity, specificity = cutoff.rate(26, 41), cutoff.rate(58, 72)
    found = cutoff.predictive(sensitivity, specificity, 41 / 113)
    assert found["PPV"].value == pytest.approx(26 / 40)
    assert found["NPV"].value == pytest.approx(58 / 73)
    rare = cutoff.predictive(sensitivity, specificity, 0.01)
    assert rare["PPV"].value < 0.05 < 0.99 < rare["NPV"].value
    perfect = cutoff.predictive(cutoff.rate(41, 41), cutoff.rate(72, 72), 0.3)
    assert perfect["PPV"].value == 1
    assert 0.5 < perfect["PPV"].low < 1


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, outcomes, participants: people with one outcome and people with both."""
    random = np.random.default_rng(2)
    cluster = np.repeat(np.arange(12), 3)
    positive = np.where(cluster < 4, True, np.where(cluster < 8, False, random.uniform(size=36) < 0.5))
    return np.round(random.normal(size=36) + positive, 1), positive, cluster


def test_resamples_are_curves_of_the_resampled_rows(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    score, positive, cluster = rows
    drawn = resampling.draws(cluster, positive, np.random.default_rng(1), 50)
    areas, (cuts, indices) = (
        resampling.areas(score, positive, drawn),
        resampling.youdens(score, positive, drawn),
    )
    for i, counts in enumerate(drawn):
        s, p = np.repeat(score, counts), np.repeat(positive, counts)
        assert areas[i] == pytest.approx(delong.placements(s, p).auc)
        best = cutoff.youden(s, p)
        assert (cuts[i], indices[i]) == pytest.approx((best.cutoff, best.index))
        rates = resampling.rates(score, positive, 0.3, drawn)
        for name, rate in cutoff.table(s, p, 0.3).items():
            assert rates[name][i] == pytest.approx(rate.value)


def test_whole_people_are_drawn_within_their_kind(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, positive, cluster = rows
    drawn = resampling.draws(cluster, positive, np.random.default_rng(1), 400)
    people = drawn[:, ::3]
    assert (np.repeat(people, 3, axis=1) == drawn).all()
    for members in (slice(0, 4), slice(4, 8)):
        assert (people[:, members].sum(1) == 4).all()
    assert np.abs(people.mean(0) - 1).max() < 0.2


def test_the_bootstrap_spreads_as_scipys_does() -> None:
    random = np.random.default_rng(4)
    up, down = random.normal(1, 1, 31), random.normal(0, 1, 69)
    score, positive = np.concatenate([up, down]), np.arange(100) < 31
    drawn = resampling.draws(np.arange(100), positive, np.random.default_rng(1), 4000)
    low, high = resampling.percentiles(resampling.areas(score, positive, drawn), 0.05)
    peer = bootstrap(
        (up, down),
        lambda a, b: (a[:, None] > b).mean(),
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.01)


def test_percentiles_of_equal_values_are_none() -> None:
    assert np.isnan(resampling.percentiles(np.ones(100), 0.05)).all()
