"""Areas under ROC curves, their intervals and comparisons, against pROC's numbers and counted pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from somite.analysis import delong
from somite.analysis.delong import Placements

MARKERS = ("wfns", "s100b", "ndka")


@pytest.fixture(scope="module")
def asah(real_data: Path) -> dict[str, Placements]:
    table = pd.read_csv(real_data / "tables" / "asah.csv")
    poor = (table["outcome"] == "Poor").to_numpy()
    return {name: delong.placements(table[name].to_numpy(float), poor) for name in MARKERS}


# xrobin/pROC, tests/testthat: test-var.R, test-ci.auc.R, test-roc.test.R (at 0bc764d)
def test_areas_variances_and_intervals_are_those_of_proc(asah: dict[str, Placements]) -> None:
    variances = {"wfns": 0.00146991470882363, "s100b": 0.00266868245717244, "ndka": 0.0031908105493913}
    for name, variance in variances.items():
        assert asah[name].variance == pytest.approx(variance, rel=1e-13)
    found = asah["ndka"]
    ends = delong.interval(found.auc, found.variance, scale="plain")
    assert found.auc == pytest.approx(0.611957994579946, rel=1e-13)
    assert ends == pytest.approx((0.501244999271703, 0.722670989888189), rel=1e-13)


@pytest.mark.parametrize(
    ("pair", "statistic", "p", "low", "high"),
    [
        (("wfns", "s100b"), 2.20898359144091, 0.0271757822291882, 0.0104061769564846, 0.174214419249478),
        (("wfns", "ndka"), 2.79777591868904, 0.00514557970691098, 0.0634011709339876, 0.3600405634833566),
        (("ndka", "s100b"), -1.39077002573558, 0.164295175223054, -0.2876917446341914, 0.0488706064228094),
    ],
)
def test_paired_comparisons_are_those_of_proc(
    asah: dict[str, Placements], pair: tuple[str, str], statistic: float, p: float, low: float, high: float
) -> None:
    found = delong.paired(asah[pair[0]], asah[pair[1]])
    assert (found.statistic, found.p) == pytest.approx((statistic, p), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    turned = delong.paired(asah[pair[1]], asah[pair[0]])
    assert (turned.statistic, turned.p) == pytest.approx((-statistic, p), rel=1e-12)


@pytest.mark.parametrize(
    ("pair", "statistic", "p"),
    [
        (("wfns", "s100b"), 1.43490640926908, 0.152825378808796),
        (("wfns", "ndka"), 3.10125096778969, 0.00220950791756457),
        (("ndka", "s100b"), -1.55995743389685, 0.120192832430845),
    ],
)
def test_unpaired_comparisons_are_those_of_proc(
    asah: dict[str, Placements], pair: tuple[str, str], statistic: float, p: float
) -> None:
    found = delong.unpaired(asah[pair[0]], asah[pair[1]])
    assert (found.statistic, found.p) == pytest.approx((statistic, p), rel=1e-12)


def test_a_marker_against_itself_has_no_difference(asah: dict[str, Placements]) -> None:
    found = delong.paired(asah["wfns"], asah["wfns"])
    assert (found.difference, found.statistic, found.p) == (0, 0, 1)
    assert np.isnan(found.low)


scores = st.lists(st.integers(0, 5), min_size=2, max_size=12)


@given(scores, scores)
def test_the_area_counts_pairs_and_the_variance_is_that_of_the_definition(
    up: list[int], down: list[int]
) -> None:
    wins = (np.subtract.outer(up, down) > 0) + 0.5 * (np.subtract.outer(up, down) == 0)
    found = delong.placements(np.array(up + down, float), np.arange(len(up + down)) < len(up))
    assert found.auc == pytest.approx(wins.mean())
    np.testing.assert_allclose(found.positive, wins.mean(1), atol=1e-15)
    np.testing.assert_allclose(found.negative, wins.mean(0), atol=1e-15)
    variance = wins.mean(1).var(ddof=1) / len(up) + wins.mean(0).var(ddof=1) / len(down)
    assert found.variance == pytest.approx(variance, abs=1e-15)


def test_the_logit_interval_is_that_of_its_formula_and_stays_between_0_and_1() -> None:
    low, high = delong.interval(0.97, 0.02**2)
    odds = np.log(0.97 / 0.03) + np.array([-1, 1]) * 1.959963984540054 * 0.02 / (0.97 * 0.03)
    assert (low, high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))))
    assert delong.interval(0.97, 0.02**2, scale="plain")[1] == 1.0
    assert np.isnan(delong.interval(1.0, 0.0)).all()


def test_newcombes_interval_solves_its_equation_and_says_something_of_a_perfect_marker() -> None:
    z, m, n = 1.959963984540054, 11, 21
    half = (m + n) / 2 - 1
    for auc in (1.0, 0.8, 0.5, 0.1, 0.0):
        low, high = delong.newcombe(auc, m, n)
        for end in {low, high} - {auc}:
            spread = 1 + half * (1 - end) / (2 - end) + half * end / (1 + end)
            assert (end - auc) ** 2 == pytest.approx(z**2 * end * (1 - end) * spread / (m * n), rel=1e-6)
    assert delong.newcombe(1.0, m, n)[0] == pytest.approx(1 - delong.newcombe(0.0, m, n)[1])
