"""Profiles: t of scipy at every node, p of all permutations, clusters that keep their error rate."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from measures import complete, ms_cohort, repeats
from pydantic import ValidationError
from scipy import ndimage, stats

from somite.analysis import permutation, profile
from somite.analysis.results import Result
from somite.analysis.selection import Selected

NODES = [f"node_{j + 1}" for j in range(12)]


def smooth(random: np.random.Generator, n: int, nodes: int = 12) -> np.ndarray:
    """Profiles whose neighbouring nodes go together."""
    noise = ndimage.gaussian_filter1d(random.normal(size=(n, nodes + 20)), 2, axis=1)
    return np.asarray(noise[:, 10:-10] / 0.37)


def rows(measure: Selected, **options: Any) -> list[Result]:
    found = profile.run([measure], profile.Config(name="x", **options))
    complete(found)
    return found


def parts(found: list[Result]) -> tuple[list[Result], list[Result]]:
    """Rows of the nodes, rows of the clusters."""
    nodes = [row for row in found if not row.contrast.startswith("cluster")]
    return nodes, [row for row in found if row.contrast.startswith("cluster")]


def brute(t_of: Any, orders: list[Any], threshold: float) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """|t| and the largest cluster mass under every order: one at a time, clusters by scipy.ndimage."""
    ts = [t_of(order) for order in orders]
    largest = []
    for t in ts:
        masses = [0.0]
        for sign in (1, -1):
            labels, count = ndimage.label(sign * t >= threshold)
            masses += list(ndimage.sum(np.abs(t), labels, range(1, count + 1))) if count else []
        largest.append(max(masses))
    return np.abs(ts), np.array(largest), largest


@pytest.mark.parametrize("test", ["welch", "student"])
def test_all_permutations_of_two_groups_are_those_written_out(test: str) -> None:
    random = np.random.default_rng(1)
    values = smooth(random, 9)
    values[:4, 3:9] += 2.2
    group = ["a"] * 4 + ["b"] * 5
    measure = repeats(values, "segment", NODES, g=group)
    options: dict[str, Any] = {"group": "g", "test": test, "permutations": 200}
    nodes, clusters = parts(rows(measure, node_p="permutation", **options))
    truth = stats.ttest_ind(values[:4], values[4:], equal_var=test == "student")
    np.testing.assert_allclose([row.statistic_value for row in nodes], truth.statistic)
    direct = stats.permutation_test(
        (values[:4], values[4:]),
        lambda a, b, axis: stats.ttest_ind(a, b, equal_var=test == "student", axis=axis).statistic,
        vectorized=True, n_resamples=np.inf, alternative="two-sided",
    )  # fmt: skip
    orders = [list(c) for c in combinations(range(9), 4)]

    def t_of(first: list[int]) -> np.ndarray:
        second = [i for i in range(9) if i not in first]
        return np.asarray(
            stats.ttest_ind(values[first], values[second], equal_var=test == "student").statistic
        )

    absolute, largest, _ = brute(t_of, orders, stats.t.ppf(0.975, 7))
    pointwise = (absolute >= absolute[0] * (1 - 1e-9)).mean(axis=0)
    np.testing.assert_allclose([row.p for row in nodes], pointwise)
    joint = np.abs(direct.null_distribution)
    np.testing.assert_allclose(pointwise, (joint >= np.abs(direct.statistic) * (1 - 1e-9)).mean(axis=0))
    masses = [row.estimate for row in clusters]
    np.testing.assert_allclose(
        [row.p for row in clusters], [(largest >= m * (1 - 1e-9)).mean() for m in masses]
    )
    assert clusters and all(row.seed is None and "all 126" in row.test for row in clusters)
    corrected, _ = parts(rows(measure, node_p="max_t", **options))
    most = absolute.max(axis=1)
    np.testing.assert_allclose(
        [row.p for row in corrected], [(most >= m * (1 - 1e-9)).mean() for m in absolute[0]]
    )


def test_all_signs_of_pairs_are_those_written_out() -> None:
    random = np.random.default_rng(2)
    differences = smooth(random, 7) + np.where(np.arange(12) > 6, 1.2, 0)
    left = smooth(random, 7)
    frames = [
        repeats(v, "segment", NODES).frame.assign(side=s) for v, s in ((left, "L"), (left - differences, "R"))
    ]
    measure = Selected.of(pd.concat(frames), region="CST", side="*", segment="*")
    nodes, clusters = parts(rows(measure, paired="side", permutations=128, node_p="permutation"))
    truth = stats.ttest_1samp(differences, 0)
    np.testing.assert_allclose([row.statistic_value for row in nodes], truth.statistic)
    signs = [np.array(s)[:, None] for s in product((1, -1), repeat=7)]
    t_of = lambda s: np.asarray(stats.ttest_1samp(differences * s, 0).statistic)  # noqa: E731
    absolute, largest, _ = brute(t_of, signs, stats.t.ppf(0.975, 6))
    np.testing.assert_allclose([row.p for row in nodes], (absolute >= absolute[0] * (1 - 1e-9)).mean(axis=0))
    masses = [row.estimate for row in clusters]
    np.testing.assert_allclose(
        [row.p for row in clusters], [(largest >= m * (1 - 1e-9)).mean() for m in masses]
    )
    assert nodes[0].contrast == "L - R" and nodes[0].n_groups == "7 pairs"


def test_covariates_are_dealt_with_as_freedman_and_lane_do() -> None:
    """The residuals on the covariates permuted, the whole model fitted anew by statsmodels each time."""
    random = np.random.default_rng(3)
    values, x, age = smooth(random, 20), random.normal(size=20), random.normal(60, 9, 20)
    values += 0.05 * (age - 60)[:, None] + np.where(np.arange(12) < 5, 0.6, 0) * x[:, None]
    scheme = permutation.regression(values, x, age[:, None], 40, np.random.default_rng(5))
    reduced = sm.OLS(values, sm.add_constant(age)).fit()
    full = np.column_stack([x, np.ones(20), age])
    again = np.random.default_rng(5)
    (found,) = [scheme.t(block) for block in scheme.blocks()]
    for t in found:
        order = again.permutation(20)
        moved = np.empty_like(values)
        moved[order] = reduced.resid  # the model's row i meets the residual that went there
        truth = [sm.OLS(column + fitted, full).fit().tvalues[0]
                 for column, fitted in zip(moved.T, reduced.fittedvalues.T, strict=True)]  # fmt: skip
        np.testing.assert_allclose(t, truth, atol=1e-8)
    measure = repeats(values, "segment", NODES, score=x, age=age)
    nodes, _ = parts(rows(measure, column="score", covariates=("age",), permutations=99))
    direct = [sm.OLS(column, full).fit() for column in values.T]
    np.testing.assert_allclose([row.estimate for row in nodes], [fit.params[0] for fit in direct])
    np.testing.assert_allclose([row.p for row in nodes], [fit.pvalues[0] for fit in direct])
    np.testing.assert_allclose([row.ci_low for row in nodes], [fit.conf_int()[0, 0] for fit in direct])
    assert nodes[0].formula == "value ~ score + age" and nodes[0].contrast == "slope of score"


def test_groups_with_covariates_have_the_adjusted_difference() -> None:
    random = np.random.default_rng(3)
    values, age = smooth(random, 20), random.normal(60, 9, 20)
    group = ["a"] * 9 + ["b"] * 11
    nodes, _ = parts(rows(repeats(values, "segment", NODES, g=group, age=age), group="g", covariates=("age",),
                          permutations=99))  # fmt: skip
    full = np.column_stack([np.array(group) == "a", np.ones(20), age]).astype(float)
    fit = sm.OLS(values[:, 4], full).fit()
    np.testing.assert_allclose([nodes[4].estimate, nodes[4].p], [fit.params[0], fit.pvalues[0]])
    assert nodes[4].effect_name == "Hedges g (residual SD)"


def test_clusters_are_runs_of_one_sign_that_gaps_break() -> None:
    t = np.array([3.0, 2.5, -2.2, -4, 0, 2.1, 2.3, 2.2])
    joined = np.ones(8, bool)
    joined[6] = False
    found = [(c.first, c.last, c.sign) for c in permutation.clusters(t, 2, joined)]
    assert found == [(0, 1, 1), (2, 3, -1), (5, 5, 1), (6, 7, 1)]
    np.testing.assert_allclose(permutation.largest_mass(t[None], 2, joined, by_length=False), [6.2])
    np.testing.assert_allclose(permutation.largest_mass(t[None], 2, joined, by_length=True), [2])
    joined[6] = True
    np.testing.assert_allclose(permutation.largest_mass(np.array([t, -t]), 2, joined, by_length=True), [3, 3])


def test_nodes_stand_in_the_order_of_their_numbers() -> None:
    values = np.random.default_rng(0).normal(size=(6, 12))
    measure = repeats(values[:, ::-1], "segment", NODES[::-1], g=list("aaabbb"))
    nodes, _ = parts(rows(measure, group="g", permutations=99))
    assert [row.segment for row in nodes] == NODES
    named = ("distal", "middle", "proximal")
    given = repeats(values[:, :3], "segment", named, g=list("aaabbb"))
    nodes, _ = parts(rows(given, group="g", permutations=99, order=named[::-1]))
    assert [row.segment for row in nodes] == list(named[::-1])


def test_a_missing_node_costs_the_person_or_the_node() -> None:
    values = smooth(np.random.default_rng(0), 14)
    values[:7, 2:9] += 3
    values[3, 5] = np.nan
    measure = repeats(values, "segment", NODES, g=list("a" * 7 + "b" * 7))
    nodes, clusters = parts(rows(measure, group="g", permutations=99))
    assert (
        nodes[0].n_groups == "6/7" and len(nodes) == 12 and "lack a node: 1 participant" in nodes[0].warnings
    )
    nodes, clusters = parts(rows(measure, group="g", permutations=99, gaps="nodes"))
    assert nodes[0].n_groups == "7/7" and len(nodes) == 11 and "lacks them: 1 node" in nodes[0].warnings
    assert not any("node_5" in row.segment and "node_7" in row.segment for row in clusters)
    assert any(row.segment.endswith("..node_5") for row in clusters)


def test_the_seed_decides() -> None:
    measure = repeats(smooth(np.random.default_rng(0), 24), "segment", NODES, g=list("ab" * 12))
    options: dict[str, Any] = {"group": "g", "permutations": 200, "node_p": "permutation"}
    assert rows(measure, **options) == rows(measure, **options)
    assert [r.p for r in rows(measure, **options)] != [r.p for r in rows(measure, seed=2, **options)]


@pytest.mark.slow
@pytest.mark.parametrize("covariates", [(), ("age",)])
def test_clusters_keep_their_error_rate(covariates: tuple[str, ...]) -> None:
    """400 cohorts of 31 and 69 that do not differ: false in 5 %; the 99.9 % band ends at 9.2 %."""
    random = np.random.default_rng(6)
    false = np.zeros(2)
    for _ in range(400):
        values = smooth(random, 100, 40)
        first, age = np.arange(100) < 31, random.normal(size=(100, 1))
        if covariates:
            scheme = permutation.regression(values + age, first.astype(float), age, 199, random)
        else:
            scheme = permutation.two_groups(values, first, True, 199, random)
        found = permutation.run(scheme, stats.t.ppf(0.975, 98), np.ones(40, bool), by_length=False)
        false += [min(found.p_cluster, default=1) <= 0.05, found.p_max.min() <= 0.05]
    assert (false / 400 >= 0.02).all() and (false / 400 <= 0.092).all(), false


@pytest.mark.parametrize(
    ("values", "group", "reason"),
    [
        (np.empty((0, 12)), [], "no values"),
        (np.ones((6, 12)), list("aaabbb"), "all values are the same at node_1"),
        (np.eye(6, 12), list("aaaaab"), "fewer than two people in a group: 5/1"),
        (np.eye(6, 12), list("aaaaaa"), "all are of one group: g is a"),
        (np.eye(6, 12), list("aabbcc"), "two are compared, but there are 3: a, b, c"),
        (np.where(np.eye(12) > 0, np.nan, 1.0), list("ab" * 6), "nobody has all nodes"),
    ],
)
def test_what_cannot_be_compared_says_why(values: np.ndarray, group: list[str], reason: str) -> None:
    (row,) = rows(repeats(values, "segment", NODES, g=group), group="g", permutations=99)
    assert reason in row.reason


def test_no_cluster_is_told() -> None:
    measure = repeats(smooth(np.random.default_rng(4), 24), "segment", NODES, g=list("ab" * 12))
    _, (row,) = parts(rows(measure, group="g", permutations=99, threshold_p=0.0001))
    assert "no node beyond the threshold" in row.reason and row.segment == "*"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": "g", "column": "x"},
        {"paired": "segment"},
        {"paired": "side", "covariates": ("age",)},
        {"group": "g", "test": "welch", "covariates": ("age",)},
        {"group": "g", "groups": ("a", "b", "c")},
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        profile.Config(**options)


def test_profiles_of_the_ms_cohort_are_those_of_scipy(real_data: Path) -> None:
    first = ms_cohort(real_data).query("visit == 1")
    nodes = [f"cca_{j}" for j in range(1, 94)]
    values = first[nodes].to_numpy()
    measure = repeats(values, "segment", nodes, g=first["group"].tolist())
    options: dict[str, Any] = {"group": "g", "groups": ("MS", "control"), "threshold_p": 0.001}
    found, clusters = parts(rows(measure, permutations=199, **options))
    whole = np.isfinite(values).all(axis=1)
    ms = (first["group"] == "MS").to_numpy()
    truth = stats.ttest_ind(values[whole & ms], values[whole & ~ms], equal_var=False)
    np.testing.assert_allclose([row.p for row in found], truth.pvalue)
    threshold = stats.t.ppf(1 - 0.0005, whole.sum() - 2)
    labels, count = ndimage.label(truth.statistic <= -threshold)
    masses = ndimage.sum(-truth.statistic, labels, range(1, count + 1))
    np.testing.assert_allclose([row.estimate for row in clusters], masses)
    # the null distribution by scipy.stats.permutation_test, whose nodes are permuted together
    rng = np.random.default_rng(1)
    direct = stats.permutation_test(
        (values[whole & ms], values[whole & ~ms]),
        lambda a, b, axis: stats.ttest_ind(a, b, equal_var=False, axis=axis).statistic,
        vectorized=True, n_resamples=999, rng=rng, batch=50,
    )  # fmt: skip
    largest = permutation.largest_mass(
        direct.null_distribution, threshold, np.ones(93, bool), by_length=False
    )
    expected = [(1 + (largest >= m).sum()) / 1000 for m in masses]
    _, again = parts(rows(measure, permutations=4999, **options))
    np.testing.assert_allclose([row.p for row in again], expected, atol=0.012)
