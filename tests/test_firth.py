"""Firth's logistic regression, against a published example, closed forms, statsmodels and an optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from statsmodels.discrete.discrete_model import Logit

from somite.analysis import firth

# Endometrial cancer (Heinze and Schemper 2002, Stat Med 21:2409): pulsatility index and endometrium height of
# low grades, of high grades without neovasculation, and with it: all who have it are of a high grade.
LOW = """13 1.64, 16 2.26, 8 3.14, 34 2.68, 20 1.28, 5 2.31, 17 1.8, 10 1.68, 26 1.56, 17 2.31, 8 2.01,
7 1.89, 20 3.15, 10 1.23, 18 1.27, 16 1.76, 18 2, 28 1.5, 11 1.33, 19 2.37, 10 1.82, 10 3.13, 18 1.31,
14 1.92, 21 1.64, 11 2.01, 17 1.88, 25 1.93, 16 2.11, 19 1.29, 15 1.72, 33 0.75, 24 1.92, 29 2.02,
15 2.29, 12 2.33, 3 2.9, 20 1.7, 23 1.41, 12 2.25, 22 1.54, 42 1.97, 15 1.75, 13 2.16, 14 2.57,
19 1.37, 12 3.61, 13 2.04, 10 2.17"""
HIGH_WITHOUT = """8 2.64, 29 0.88, 12 1.27, 20 1.37, 7 0.97, 48 1.84, 12 1.11, 19 1.61, 2 1.18, 21 1.19,
15 1.06, 12 1.69, 6 1.84, 5 1.3, 17 0.96, 5 0.35, 33 0.85"""
HIGH_WITH = """38 0.97, 22 1.14, 7 0.88, 25 0.91, 15 0.58, 22 1.44, 40 1.18, 5 0.93, 0 1.17, 49 0.27, 11 1.01,
21 0.98, 19 1.02"""


def endometrial() -> tuple[np.ndarray, np.ndarray]:
    """Design (79, 4) and outcome."""
    rows = [
        [1.0, vessels, *map(float, pair.split())]
        for vessels, text in ((0.0, LOW), (0.0, HIGH_WITHOUT), (1.0, HIGH_WITH))
        for pair in text.replace("\n", " ").split(",")
    ]
    return np.array(rows), np.arange(79) >= 49


def study(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    design = np.column_stack([np.ones(n), random.normal(0.4, 0.05, n), random.normal(60, 10, n)])
    chance = expit(12 * (design[:, 1] - 0.4) + 0.05 * (design[:, 2] - 60))
    return design, random.uniform(size=n) < chance


def test_the_published_example_with_separation() -> None:
    design, outcome = endometrial()
    found = firth.fit(design, outcome)
    assert found.converged
    # logistf 1.24, as quoted in jzluo/firthlogist, tests/test_firthlogist.py at 0b24e49
    np.testing.assert_allclose(
        found.coefficients, [3.77455951, 2.92927330, -0.03475175, -2.60416387], rtol=3e-7
    )
    published = [
        (1.0825371, 7.20928050),
        (0.6097244, 7.85463171),
        (-0.1244587, 0.04045547),
        (-4.3651832, -1.23272106),
    ]
    for column, ends in enumerate(published):
        profile = firth.profile(design, outcome, column)
        np.testing.assert_allclose((profile.low, profile.high), ends, rtol=1e-6)
    assert firth.separation(design, outcome) == "quasi-complete"
    assert not firth.fit(design, outcome, penalised=False).converged


@pytest.mark.parametrize("cells", [(5, 9, 3, 12), (0, 7, 6, 5), (8, 0, 0, 8), (0, 10, 0, 10)])
def test_a_two_by_two_table_has_half_a_person_more_in_each_cell(cells: tuple[int, int, int, int]) -> None:
    a, b, c, d = cells
    exposed = np.repeat([1.0, 1.0, 0.0, 0.0], cells)
    event = np.repeat([True, False, True, False], cells)
    found = firth.fit(np.column_stack([np.ones(len(event)), exposed]), event)
    ratio = np.log((a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5)))
    assert found.coefficients[1] == pytest.approx(ratio, abs=1e-8)


def test_without_the_penalty_it_is_the_maximum_likelihood_of_statsmodels() -> None:
    for seed in range(3):
        design, outcome = study(seed)
        ours, peer = firth.fit(design, outcome, penalised=False), Logit(outcome * 1.0, design).fit(disp=0)
        np.testing.assert_allclose(ours.coefficients, peer.params, rtol=1e-6)
        np.testing.assert_allclose(ours.covariance, peer.cov_params(), rtol=1e-5)
        assert ours.log_likelihood == pytest.approx(peer.llf)
        null = Logit(outcome * 1.0, design[:, [0, 2]]).fit(disp=0)
        statistic = firth.profile(design, outcome, 1, penalised=False).statistic
        assert statistic == pytest.approx(2 * (peer.llf - null.llf), rel=1e-6)


def test_a_general_optimiser_finds_the_same_maximum_and_the_profile_ends_drop_by_the_quantile() -> None:
    design, outcome = study(7, 30)
    scale = design.std(0) + (design.std(0) == 0)
    x = design / scale

    def loss(beta: np.ndarray) -> float:
        eta = x @ beta
        weight = expit(eta) * expit(-eta)
        return -float(
            log_expit(np.where(outcome, eta, -eta)).sum() + 0.5 * np.linalg.slogdet((x.T * weight) @ x)[1]
        )

    peer = minimize(
        loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9000}
    )
    found = firth.fit(design, outcome)
    np.testing.assert_allclose(found.coefficients, peer.x / scale, rtol=1e-4)
    profile = firth.profile(design, outcome, 1, alpha=0.1)
    for end in (profile.low, profile.high):
        held = minimize(
            lambda free, end=end: loss(np.array([free[0], end * scale[1], free[1]])),
            peer.x[[0, 2]],
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9000},
        )
        assert 2 * (held.fun - peer.fun) == pytest.approx(2.705543454, rel=1e-5)


def test_the_unit_of_a_column_changes_only_its_coefficient() -> None:
    design, outcome = study(3)
    factor = np.array([1.0, 1000.0, 1e-3])
    one, other = firth.fit(design, outcome), firth.fit(design * factor, outcome)
    np.testing.assert_allclose(one.coefficients, other.coefficients * factor, rtol=1e-6)
    assert firth.profile(design, outcome, 1).p == pytest.approx(firth.profile(design * factor, outcome, 1).p)
    assert firth.separation(design * factor, outcome) == "none"


def test_separation_is_told_apart() -> None:
    ones, marker = np.ones(8), np.arange(8.0)
    design = np.column_stack([ones, marker])
    assert firth.separation(design, marker > 3) == "complete"
    assert firth.separation(np.column_stack([ones, np.maximum(marker, 3)]), marker > 2.5) == "quasi-complete"
    assert firth.separation(design, np.array([0, 1, 0, 0, 1, 1, 0, 1], bool)) == "none"
    found = firth.profile(design, marker > 3, 1)
    assert 0 < found.low < firth.fit(design, marker > 3).coefficients[1] < found.high < np.inf
    assert found.p < 0.02


def test_dependent_columns_are_refused() -> None:
    design, outcome = study(1)
    with pytest.raises(ValueError, match="dependent"):
        firth.fit(np.column_stack([design, design[:, 1] * 2]), outcome)
