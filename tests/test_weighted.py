"""Weighted statistics: equal weights are none, whole weights are repeats, errors are those of simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from somite import estimates, weighted

X = np.sort(np.random.default_rng(0).gamma(4, 0.1, 41))
ONES = np.ones_like(X)


@pytest.mark.parametrize("scale", [1.0, 0.5, 7.0])
def test_equal_weights_are_no_weights(scale: float) -> None:
    w = ONES * scale
    assert weighted.effective_number(w) == pytest.approx(41)
    for mine, plain in ((weighted.mean, estimates.mean), (weighted.sd, estimates.sd)):
        found, expected = mine(X, w), plain(X)
        for name in ("value", "se", "ci_low", "ci_high"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)
    assert weighted.median(X, w).value == pytest.approx(np.median(X))
    assert weighted.median(X[1:], w[1:]).value == pytest.approx(np.median(X[1:]))
    assert weighted.median(X, w).se == pytest.approx(estimates.median(X).se, rel=0.25)
    assert weighted.iqr(X, w).value == pytest.approx(
        np.subtract(*np.quantile(X, (0.75, 0.25), method="hazen"))
    )


def test_whole_weights_are_repeats() -> None:
    w = np.random.default_rng(1).integers(1, 6, X.size).astype(float)
    repeated = pd.Series(np.repeat(X, w.astype(int)))
    assert weighted.mean(X, w).value == pytest.approx(repeated.mean())
    assert weighted.mean(X, w).value == pytest.approx(np.average(X, weights=w))
    assert abs(weighted.median(X, w).value - repeated.median()) <= np.diff(X).max()


def test_the_standard_deviation_is_that_of_numpy_for_reliability_weights() -> None:
    w = np.random.default_rng(2).uniform(0.1, 1, X.size)
    assert weighted.sd(X, w).value == pytest.approx(float(np.sqrt(np.cov(X, aweights=w))))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    w = np.r_[np.full(20, 1.0), np.full(20, 0.3)]
    rng = np.random.default_rng(3)
    hits = {"mean": 0, "median": 0, "sd": 0}
    for _ in range(1000):
        x = rng.normal(0.4, 0.05, 40)
        order = np.argsort(x)
        for name, truth in (("mean", 0.4), ("median", 0.4), ("sd", 0.05)):
            found = getattr(weighted, name)(x[order], w[order])
            hits[name] += found.ci_low <= truth <= found.ci_high
    assert 930 <= hits["mean"] <= 970
    assert 930 <= hits["sd"] <= 970
    assert 915 <= hits["median"] <= 985


def test_standard_errors_are_those_of_simulation() -> None:
    rng = np.random.default_rng(4)
    w = rng.uniform(0.05, 1, 60)
    drawn = rng.normal(0.4, 0.05, (2000, 60))
    order = np.argsort(drawn, 1)
    rows = [(x[o], w[o]) for x, o in zip(drawn, order, strict=True)]
    tolerances = {weighted.mean: 0.05, weighted.sd: 0.05, weighted.median: 0.2, weighted.iqr: 0.2}
    for function, tolerance in tolerances.items():
        found = [function(*row) for row in rows]
        spread = np.std([one.value for one in found])
        assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=tolerance), function.__name__


def test_a_fraction_has_the_interval_of_wilson() -> None:
    marks = np.r_[np.ones(7), np.zeros(33)]
    found = weighted.fraction(marks, np.ones(40))
    low, high = stats.binomtest(7, 40).proportion_ci(0.95, "wilson")
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((7 / 40, low, high))
    none = weighted.fraction(np.zeros(40), np.ones(40))
    assert (none.value, none.ci_low) == (0, 0)
    assert none.ci_high > 0.05


def test_fa_of_the_weighted_mean_eigenvalues() -> None:
    rng = np.random.default_rng(5)
    eigenvalues = -np.sort(-rng.normal([1.7e-3, 1.2e-3, 1.0e-3], 1e-4, (50, 3)), 1)
    w = rng.uniform(0.2, 1, 50)
    found = weighted.fa_of_mean_eigenvalues(eigenvalues, w)
    assert found.value == pytest.approx(float(estimates.fa_of(np.average(eigenvalues, axis=0, weights=w))))
    plain = estimates.fa_of_mean_eigenvalues(eigenvalues)
    equal = weighted.fa_of_mean_eigenvalues(eigenvalues, np.ones(50))
    assert equal.value == pytest.approx(plain.value)
    assert equal.se == pytest.approx(plain.se, rel=0.05)


def test_one_voxel_has_a_mean_only() -> None:
    one = np.array([0.3])
    assert weighted.mean(one, one).value == 0.3
    assert np.isnan(weighted.mean(one, one).se)
    assert np.isnan(weighted.sd(one, one).value)
    assert weighted.median(one, one).value == 0.3
