"""Standard errors and intervals, against scipy, against other implementations, and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from somite import estimates
from somite.estimates import Estimate

SIZES = [2, 3, 5, 6, 7, 20, 87, 400]


def sample(n: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng((seed, n)).normal(1.5, 0.3, n))


@pytest.mark.parametrize("n", SIZES)
def test_mean_against_scipy(n: int) -> None:
    x = sample(n)
    found = estimates.mean(x)
    low, high = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    np.testing.assert_allclose(
        [found.value, found.se, found.ci_low, found.ci_high], [x.mean(), stats.sem(x), low, high], rtol=1e-12
    )


@pytest.mark.parametrize("n", SIZES)
def test_sd_against_scipy(n: int) -> None:
    x = sample(n)
    found = estimates.sd(x)
    low, high = np.sqrt((n - 1) * x.var(ddof=1) / stats.chi2.ppf([0.975, 0.025], n - 1))
    np.testing.assert_allclose(
        [found.value, found.se, found.ci_low, found.ci_high],
        [np.std(x, ddof=1), np.std(x, ddof=1) / np.sqrt(2 * (n - 1)), low, high],
        rtol=1e-10,
    )


@pytest.mark.parametrize("n", [6, 7, 10, 20, 87, 400, 5000])
def test_interval_of_the_median_against_scipy(n: int) -> None:
    x = sample(n)
    found = estimates.median(x)
    expected = stats.quantile_test(x, p=0.5).confidence_interval(0.95)
    assert (found.value, found.ci_low, found.ci_high) == (np.median(x), *expected)


def test_the_median_of_few_values_has_no_interval() -> None:
    found = estimates.median(sample(5))
    assert math.isnan(found.ci_low)
    assert math.isnan(found.ci_high)
    assert found.se > 0


@pytest.mark.parametrize("n", [8, 9, 20, 87, 400])
def test_se_of_the_median_is_mckean_and_schraders(n: int) -> None:
    x = sample(n)
    z = stats.norm.ppf(0.995)
    c = round((n + 1) / 2 - z * math.sqrt(n / 4))  # as Wilcox's msmedse
    assert estimates.median(x).se == pytest.approx((x[n - c] - x[c - 1]) / (2 * z), rel=1e-12)


def test_quartiles_of_mirrored_samples_have_mirrored_errors() -> None:
    for n in SIZES:
        x = sample(n)
        assert estimates.quantile_se(x, 0.25) == pytest.approx(
            estimates.quantile_se(-x[::-1], 0.75), rel=1e-12
        )


def test_iqr_against_numpy() -> None:
    x = sample(87)
    found = estimates.iqr(x)
    assert found.value == pytest.approx(np.subtract(*np.quantile(x, [0.75, 0.25])), rel=1e-12)
    assert found.ci_low < found.value < found.ci_high
    assert estimates.iqr(np.array([0.0, 1, 10])).ci_low == 0


@pytest.mark.parametrize(
    ("statistic", "truth"),
    [
        (estimates.mean, 1.5),
        (estimates.sd, 0.3),
        (estimates.median, 1.5),
        (estimates.iqr, 0.3 * 2 * stats.norm.ppf(0.75)),
    ],
)
@pytest.mark.parametrize("n", [12, 40, 150])
def test_intervals_hold_the_truth_and_errors_match_the_spread(
    statistic: Callable[[np.ndarray], Estimate], truth: float, n: int
) -> None:
    rng = np.random.default_rng(7)
    found = [statistic(np.sort(rng.normal(1.5, 0.3, n))) for _ in range(1500)]
    covered = np.mean([one.ci_low <= truth <= one.ci_high for one in found])
    # Binomial error of 1500 repeats: 0.6 %. Order statistics err on the safe side in small samples.
    assert 0.935 <= covered <= 0.99
    ratio = np.mean([one.se for one in found]) / np.std([one.value for one in found])
    assert 0.9 <= ratio <= 1.45


def test_fa_of_known_eigenvalues() -> None:
    t = 0.4 / math.sqrt(3 - 2 * 0.4**2)
    axial, radial = 1.3e-3 * (1 + 2 * t), 1.3e-3 * (1 - t)
    cases = np.array([[axial, radial, radial], [1e-3, 1e-3, 1e-3], [1e-3, 0, 0], [0, 0, 0], [1e-3, 0, -1e-4]])
    np.testing.assert_allclose(estimates.fa_of(cases), [0.4, 0, 1, 0, 1], atol=1e-12)


def test_fa_of_mean_eigenvalues_against_a_plain_jackknife() -> None:
    e = -np.sort(-np.random.default_rng(1).normal(1e-3, 2e-4, (30, 3)), axis=1)
    found = estimates.fa_of_mean_eigenvalues(e)
    without = [float(estimates.fa_of(np.delete(e, i, 0).mean(0))) for i in range(30)]
    se = math.sqrt(29 / 30 * np.sum((np.array(without) - np.mean(without)) ** 2))
    half = stats.t.ppf(0.975, 29) * se
    value = float(estimates.fa_of(e.mean(0)))
    np.testing.assert_allclose(
        [found.value, found.se, found.ci_low, found.ci_high],
        [value, se, value - half, value + half],
        rtol=1e-9,
    )
    assert found.value < estimates.fa_of(e).mean()


def test_fa_of_mean_eigenvalues_covers() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([1.7e-3, 1.2e-3, 1.0e-3])
    expected = float(estimates.fa_of(truth))
    found = [estimates.fa_of_mean_eigenvalues(rng.normal(truth, 5e-5, (40, 3))) for _ in range(800)]
    assert 0.93 <= np.mean([one.ci_low <= expected <= one.ci_high for one in found]) <= 0.97


def test_one_value_has_no_spread() -> None:
    one = np.array([0.4])
    assert estimates.mean(one).value == estimates.median(one).value == 0.4
    assert math.isnan(estimates.mean(one).se)
    assert math.isnan(estimates.sd(one).value)
    assert math.isnan(estimates.iqr(one).value)
    assert math.isnan(estimates.fa_of_mean_eigenvalues(np.array([[3.0, 2, 1]])).se)


def test_equal_values_have_no_error() -> None:
    x = np.full(20, 0.25)
    for statistic, value in (("mean", 0.25), ("sd", 0), ("median", 0.25), ("iqr", 0)):
        assert getattr(estimates, statistic)(x) == Estimate(value, 0, value, value)
