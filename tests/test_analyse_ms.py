"""Real people with multiple sclerosis, all analyses of their tracts from one YAML, held against direct calls.

Data: FA along two tracts, visits of 142 people (the data set DTI of the R package refund).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from long_tables import write_tsv
from measures import ms_cohort
from scipy import stats
from study import Study

YAML = """\
extends: default
analyses:
  tract_by_group:
    kind: compare
    group: diagnosis
    groups: [MS, control]
    select: {region: CC, segment: n/a, session: "1"}
  over_visits:
    kind: mixed
    fixed: [diagnosis, years]
    repeated: [session_id]
    reference: {diagnosis: control}
    select: {region: CC, segment: n/a}
  curve:
    kind: roc
    outcome: diagnosis
    event: MS
    direction: lower
    select: {region: CC, segment: n/a, session: "1"}
  along_the_tract:
    kind: profile
    nodes: segments
    group: diagnosis
    groups: [MS, control]
    permutations: 500
    select: {region: CC, segment: "node_*", session: "1"}
"""
NODES = 93


def long_rows(source: pd.DataFrame) -> pd.DataFrame:
    """The table of segments: mean FA of the callosum, and FA of each of its nodes, of every visit."""
    visit = {
        "participant_id": "sub-" + source["participant_id"],
        "session_id": "ses-" + source["session_id"],
    }
    common = {"region": "CC", "metric": "fa", "statistic": "mean", "unit": "1", "qc_status": "pass"}
    parts = [pd.DataFrame(visit | {"value": source["cca"]})]
    for j in range(1, NODES + 1):
        part = pd.DataFrame(visit | {"value": source[f"cca_{j}"]})
        parts.append(part.assign(segment=f"node_{j}"))
    rows = pd.concat(parts, ignore_index=True).assign(**common)
    return rows.assign(
        segment=rows["segment"].fillna(""), reason=np.where(rows["value"].isna(), "no voxels", "")
    )


@pytest.fixture(scope="module")
def source(real_data: Path) -> pd.DataFrame:
    return ms_cohort(real_data).copy()


@pytest.fixture(scope="module")
def done(source: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The analyses run, by the YAML."""
    study = Study(tmp_path_factory.mktemp("ms"), long_rows(source))
    who = source.drop_duplicates("participant_id")
    write_tsv(
        study.bids / "participants.tsv",
        {"participant_id": "sub-" + who["participant_id"], "diagnosis": who["group"]},
    )
    write_tsv(
        study.bids / "phenotype" / "visits.tsv",
        {
            "participant_id": "sub-" + source["participant_id"],
            "session_id": "ses-" + source["session_id"],
            "years": source["years"],
        },
    )
    study.states(YAML)
    return study


def first(source: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """People with MS and controls at their first visit."""
    visit = source[source["session_id"] == "1"]
    return visit[visit["group"] == "MS"], visit[visit["group"] == "control"]


def test_the_groups_differ_as_scipy_says(done: Study, source: pd.DataFrame) -> None:
    (row,) = done.results("tract_by_group").itertuples()
    ms, control = first(source)
    want = stats.ttest_ind(ms["cca"], control["cca"], equal_var=False)
    ends = want.confidence_interval()
    np.testing.assert_allclose(
        [row.statistic_value, row.p, row.ci_low, row.ci_high, row.estimate],
        [want.statistic, want.pvalue, ends.low, ends.high, ms["cca"].mean() - control["cca"].mean()],
        rtol=1e-7,
    )
    assert row.n_groups == f"{len(ms)}/{len(control)}" == "100/42"
    assert row.sentence.startswith(
        "Mean FA of the CC was lower in MS than in control: mean difference −0.0581 "
    )


def test_the_visits_are_modelled_as_statsmodels_does(done: Study, source: pd.DataFrame) -> None:
    rows = done.results("over_visits").set_index("contrast")
    # In hundredths: statsmodels takes variances below 0.01 for zero, and warns.
    table = source.assign(ms=source["group"] == "MS", hundredths=100 * source["cca"])
    model = smf.mixedlm("hundredths ~ ms + years", table, groups=table["participant_id"]).fit()
    for name, term in (("diagnosis MS - control", "ms[T.True]"), ("years", "years")):
        got = rows.loc[name, ["estimate", "se", "ci_low", "ci_high"]].astype(float)
        want = [model.params[term], model.bse[term], *model.conf_int().loc[term]]
        np.testing.assert_allclose(got, np.array(want) / 100, rtol=1e-4)
        np.testing.assert_allclose(rows.loc[name, "p"], model.pvalues[term], rtol=1e-3)
    spread = np.sqrt([float(model.cov_re.iloc[0, 0]), model.scale]) / 100
    np.testing.assert_allclose(
        rows.loc[["SD of participant", "SD of residual"], "estimate"], spread, rtol=1e-4
    )
    assert rows.loc["years", "n_groups"] == "382 rows of 142 people"


def test_the_area_under_the_curve_is_that_of_the_rank_sum(done: Study, source: pd.DataFrame) -> None:
    rows = done.results("curve").set_index("estimate_name")
    ms, control = first(source)
    want = stats.mannwhitneyu(control["cca"], ms["cca"])
    np.testing.assert_allclose(rows.loc["AUC", "estimate"], want.statistic / (len(ms) * len(control)))
    np.testing.assert_allclose(rows.loc["AUC", "p"], want.pvalue, rtol=1e-7)
    cut = rows.loc["Youden's cut-off", "estimate"]
    found = rows.loc[["sensitivity", "specificity"], "estimate"]
    np.testing.assert_allclose(found, [(ms["cca"] < cut).mean(), (control["cca"] >= cut).mean()])
    ends = stats.binomtest(int((ms["cca"] < cut).sum()), len(ms)).proportion_ci(method="wilson")
    np.testing.assert_allclose(rows.loc["sensitivity", ["ci_low", "ci_high"]].astype(float), ends)


def test_nodes_are_tested_as_scipy_does_and_clusters_are_those_of_their_t(
    done: Study, source: pd.DataFrame
) -> None:
    rows = done.results("along_the_tract")
    nodes = rows[~rows["contrast"].str.startswith("cluster")]
    clusters = rows[rows["contrast"].str.startswith("cluster")]
    assert list(nodes["segment"]) == [f"node_{j}" for j in range(1, NODES + 1)]
    columns = [f"cca_{j}" for j in range(1, NODES + 1)]
    ms, control = (part[columns].dropna().to_numpy() for part in first(source))
    want = stats.ttest_ind(ms, control, equal_var=False)
    np.testing.assert_allclose(nodes["statistic_value"], want.statistic, rtol=1e-7)
    np.testing.assert_allclose(nodes["p"], want.pvalue, rtol=1e-6)
    np.testing.assert_allclose(nodes["p_adjusted"], stats.false_discovery_control(want.pvalue), rtol=1e-6)
    threshold = stats.t.ppf(0.975, len(ms) + len(control) - 2)
    beyond = np.flatnonzero(np.abs(want.statistic) > threshold)
    runs = np.split(beyond, np.flatnonzero(np.diff(beyond) > 1) + 1)
    masses = [np.abs(want.statistic[run]).sum() for run in runs]
    np.testing.assert_allclose(clusters["estimate"], masses, rtol=1e-7)
    assert list(clusters["segment"]) == [f"node_{run[0] + 1}..node_{run[-1] + 1}" for run in runs]
    assert (clusters["family"] == "none").all()
    assert clusters["p_adjusted"].equals(clusters["p"])

    # The same test of clusters, written anew: labels exchanged, t of scipy, the largest mass.
    both, random = np.vstack([ms, control]), np.random.default_rng(7)
    largest = []
    for _ in range(200):
        order = random.permutation(len(both))
        t = stats.ttest_ind(both[order[: len(ms)]], both[order[len(ms) :]], equal_var=False).statistic
        signs = np.where(np.abs(t) > threshold, np.sign(t), 0)
        edges = np.flatnonzero(np.diff(signs, prepend=0, append=0))
        parts = [np.abs(t[a:b]).sum() for a, b in pairwise(edges) if signs[a]]
        largest.append(max(parts, default=0.0))
    shares = np.array([(np.array(largest) >= mass).mean() for mass in masses])
    np.testing.assert_allclose(clusters["p"], shares, atol=0.12)
