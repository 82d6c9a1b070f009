"""The noise floor: its mean and variance, against scipy's Rice distribution, and their inversion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from somite import rician


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 7.0, 25.0])
def test_mean_and_variance_are_those_of_the_rice_distribution(t: float) -> None:
    expected = stats.rice.stats(t, moments="mv")
    np.testing.assert_allclose(rician.mean(np.array(t)), expected[0], rtol=1e-9)
    np.testing.assert_allclose(rician.variance(np.array(t)), expected[1], rtol=1e-6)


def test_signals_come_back_from_their_mean_magnitudes() -> None:
    signal = np.array([[0.0, 5.0, 20.0, 100.0, 299.0, 301.0, 5000.0]])
    magnitude = (rician.mean(signal / 10.0) * 10.0).astype(np.float32)
    np.testing.assert_allclose(rician.signal(magnitude, np.array([10.0])), signal, atol=0.02, rtol=1e-4)


def test_a_magnitude_below_the_floor_is_no_signal_and_never_negative() -> None:
    assert rician.signal(np.array([[1.0, 12.5]]), np.array([10.0])).tolist() == [[0.0, 0.0]]


def test_without_noise_the_magnitude_is_the_signal() -> None:
    magnitude = np.array([[3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(rician.signal(magnitude, np.zeros(1)), magnitude)
    np.testing.assert_array_equal(rician.noise(magnitude, np.zeros(1)), [0])


@pytest.mark.parametrize("snr", [0.5, 1.5, 3.0, 10.0])
def test_sigma_is_found_from_magnitudes_near_the_floor(snr: float) -> None:
    rng = np.random.default_rng(1)
    sigma = 40.0
    noise = rng.normal(0, sigma, (2, 40, 20000))
    magnitude = np.hypot(snr * sigma + noise[0], noise[1])
    spread = magnitude.std(1).mean()
    found = rician.noise(magnitude.mean(1)[None].astype(np.float32), np.array([spread]), rounds=30)
    np.testing.assert_allclose(found, sigma, rtol=0.02)
    assert snr > 2 or spread < 0.95 * sigma
