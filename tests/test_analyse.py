"""Analyses from YAML to results: cached, rerun when something changes, and equal to direct calls of scipy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from long_tables import frame, ids, write_tsv
from scipy import stats
from study import GROUPS, YAML, Study

from somite import __version__, fingerprint
from somite.analysis import data
from somite.analysis.clinical import check
from somite.analysis.outputs import ALL, FLOW
from somite.analysis.selection import Selected


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, frame(ids(8)))


def test_results_are_those_of_scipy_on_the_people_who_are_left(study: Study) -> None:
    study.states()
    table = study.results("level")
    assert list(table.columns) == list(ALL)
    kept = study.rows[~study.rows["participant_id"].isin(["sub-007", "sub-008"])]
    who = dict(zip(ids(8), GROUPS, strict=True))
    p = {}
    for metric, level, side in [
        ("fa", "L5", "L"),
        ("fa", "L5", "R"),
        *(("md", a, b) for a in ("L4", "L5") for b in "LR"),
    ]:
        mine = kept[(kept["metric"] == metric) & (kept["level"] == level) & (kept["side"] == side)]
        groups = mine["participant_id"].map(who)
        patients, controls = mine["value"][groups == "patient"], mine["value"][groups == "control"]
        p[metric, level, side] = stats.ttest_ind(patients, controls, equal_var=False).pvalue
    for row in table.itertuples():
        want = p[row.metric, row.level, row.side]
        np.testing.assert_allclose(row.p, want, rtol=1e-8)
        np.testing.assert_allclose(row.p_adjusted, min(6 * want, 1), rtol=1e-8)
        assert (row.family, row.family_size, row.correction, row.n_groups) == ("both", 6, "Bonferroni", "3/3")
    assert (table["somite_version"] == __version__).all()
    assert (table["table_sha256"] == fingerprint.sha256(study.out / "group" / "segments.parquet")).all()
    assert table["sentence"].str.startswith("Mean FA of the").all()


def test_every_format_holds_the_same_and_is_described(study: Study) -> None:
    study.states()
    folder = study.out / "group" / "analyses"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}{end}"
        for name in ("level", "md")
        for end in (".tsv", ".parquet", ".json", ".flow.tsv", ".data.tsv", ".md")
    )
    parquet = pq.read_table(folder / "md.parquet").to_pandas()
    text = study.results("md")
    assert list(parquet.columns) == list(text.columns)
    np.testing.assert_allclose(parquet["estimate"], text["estimate"], rtol=1e-8)
    assert parquet["sentence"].tolist() == text["sentence"].tolist()
    told = json.loads((folder / "md.json").read_text())
    assert set(told) == {"Analysis", *ALL, *FLOW}
    about = told["Analysis"]
    assert about["Options"]["group"] == "diagnosis"
    assert about["Formulas"] == ["value ~ C(diagnosis)"]
    assert set(about["Inputs"]) == {"segments.parquet", "participants.tsv", "qc_wide.tsv", "exclusions.tsv"}
    assert {"somite", "python", "scipy"} <= set(about["Versions"])
    assert (folder / "md.md").read_text().count("\n- ") == len(text)


@pytest.mark.parametrize("shape", ["wide", "long"])
def test_the_data_of_an_analysis_have_the_shape_that_is_asked_for(study: Study, shape: str) -> None:
    study.states(YAML.replace("    family", f"    covariates: [age]\n    data: {shape}\n    family", 1))
    written = study.results("level.data")
    assert len(study.results("md.data")) > 0
    assert dict(zip(written["participant_id"], written["age"], strict=True))["sub-003"] == 56
    rows = study.rows
    mine = (rows["metric"] == "fa") & (rows["level"] == "L5") & (rows["side"] == "R")
    want = rows[mine].set_index("participant_id")["value"].drop(["sub-007", "sub-008"])
    if shape == "wide":
        got = written.set_index("participant_id")["fa__mean__nerve_root__R__L5"]
        assert len(written) == 6
    else:
        got = written[written["side"] == "R"].set_index("participant_id")["value"]
        assert len(written) == 12
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_data_that_are_not_wanted_or_too_many_are_not_written(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.states(YAML.replace("    family", "    data: none\n    family", 1))
    assert not (study.out / "group" / "analyses" / "level.data.tsv").exists()
    measures = [Selected.of(pd.DataFrame({"participant_id": ["sub-001"], "value": [1.0]}), "fa")] * 3
    monkeypatch.setattr(data, "MOST", 2)
    assert not data.write(study.root / "many.tsv", measures, "auto")
    assert len((study.root / "many.tsv").read_text().splitlines()) == 1
    assert data.write(study.root / "many.tsv", measures, "long")
    assert len((study.root / "many.tsv").read_text().splitlines()) == 4


def test_the_flow_accounts_for_everybody(study: Study) -> None:
    study.rows.loc[study.rows.index[:2], "value"] = np.nan
    study.measure(study.rows[study.rows["participant_id"] != "sub-003"])
    study.states()
    path = study.out / "group" / "analyses" / "level.flow.tsv"
    flow = pd.read_csv(path, sep="\t", keep_default_na=False)
    cohort = flow[flow["step"] == "cohort"]
    assert cohort[["reason", "n_out", "n_left", "participants"]].to_numpy().tolist() == [
        ["in participants.tsv or the table", 0, 8, "n/a"],
        ["no row in the table of segments", 1, 7, "sub-003"],
        ["excluded: withdrew", 1, 6, "sub-008"],
        ["quality: fail", 1, 5, "sub-007"],
    ]
    measures = flow[flow["step"] != "cohort"]
    for _, rows in measures.groupby(["metric", "side", "level"]):
        assert rows["step"].iloc[-1] == "analysed"
        assert 5 - rows["n_out"].sum() == rows["n_left"].iloc[-1]


def test_an_analysis_reruns_when_what_it_rests_on_changes(study: Study) -> None:
    assert study.states() == {"level": "run", "md": "run"}
    assert study.states() == {"level": "cached", "md": "cached"}
    os.utime(study.bids / "participants.tsv")
    assert study.states() == {"level": "cached", "md": "cached"}
    study.people({"diagnosis": GROUPS[::-1]})
    assert study.states() == {"level": "run", "md": "run"}
    study.exclude({"participant_id": ["sub-001"], "reason": ["withdrew"]})
    assert study.states() == {"level": "run", "md": "run"}
    study.measure(study.rows.assign(value=study.rows["value"] + 0.01))
    assert study.states() == {"level": "run", "md": "run"}
    write_tsv(study.bids / "phenotype" / "odi.tsv", {"participant_id": ids(8), "odi": range(8)})
    assert study.states() == {"level": "run", "md": "run"}


def test_an_analysis_of_its_own_does_not_rerun_for_another(study: Study) -> None:
    alone = YAML.replace("name: both, ", "")
    study.states(alone)
    assert study.states(alone.replace("metric: md", "metric: md, side: L")) == {
        "level": "cached",
        "md": "run",
    }
    # In one family the corrected p-values of one depend on the other.
    study.states(YAML)
    assert study.states(YAML.replace("metric: md", "metric: md, side: L")) == {"level": "run", "md": "run"}


def test_the_results_of_an_analysis_that_is_gone_are_removed(study: Study) -> None:
    study.states()
    study.states(YAML[: YAML.index("  md:")])
    names = {path.name.partition(".")[0] for path in (study.out / "group" / "analyses").iterdir()}
    assert names == {"level"}
    assert [path.name for path in (study.out / "logs").glob("*.json")] == ["analysis-level.json"]


def test_two_runs_write_the_same_bytes(study: Study, tmp_path: Path) -> None:
    other = Study(tmp_path / "again", study.rows)
    study.states()
    other.states()
    for name in ("level.tsv", "level.parquet", "level.json", "level.flow.tsv", "level.md"):
        one, two = (folder.out / "group" / "analyses" / name for folder in (study, other))
        assert one.read_bytes() == two.read_bytes()


def test_a_measure_that_cannot_be_compared_is_a_row_with_the_reason(study: Study) -> None:
    rows = study.rows
    rows.loc[(rows["side"] == "L") & (rows["metric"] == "fa"), "value"] = np.nan
    study.measure(rows)
    done = study.run()
    assert [warning.code for warning in done["level"].warnings] == ["ANALYSIS_GAPS"]
    left = study.results("level").set_index("side").loc["L"]
    assert left["reason"].startswith("no values")
    assert np.isnan(left["p"])
    assert np.isnan(left["p_adjusted"])
    assert (study.results("level")["family_size"] == 5).all()


def test_a_mistake_that_only_the_table_shows_fails_the_analysis_in_words(study: Study) -> None:
    done = study.run(YAML.replace("level: L5", "level: L6"))
    assert (done["level"].verdict, done["md"].verdict) == ("failed", "failed")
    (problem,) = done["level"].problems
    assert (problem.code, problem.expected) == ("SELECT_NOTHING", "L4, L5")


def test_planning_says_what_is_wrong_between_yaml_and_clinical_data(study: Study) -> None:
    yaml = YAML.replace("group: diagnosis", "group: diagnosi").replace("exclusions.tsv", "exclusion.tsv")
    yaml = yaml.replace(
        "    select: {metric: md}", "    covariates: [snr_b0, age, bmi]\n    select: {metric: md}"
    )
    yaml = yaml.replace("method: bonferroni}\n", "method: holm}\n", 1)
    place = study.place(yaml)
    problems = check(study.bids, place.settings.cohort, place.settings.analyses)
    assert [(p.code, p.where.partition(",")[0]) for p in problems[:1]] == [
        ("FAMILY_DIFFERS", "analyses.level.family")
    ]
    assert [(p.code, p.do) for p in problems[2:]] == [
        ("COLUMN_UNKNOWN", "did you mean diagnosis?"),
        ("COLUMN_UNKNOWN", "did you mean diagnosis?"),
        ("COLUMN_UNKNOWN", "name a column of one of these files"),
    ]
    assert problems[1].where.endswith("exclusion.tsv")
    sound = study.place()
    assert check(study.bids, sound.settings.cohort, sound.settings.analyses) == ()


# Real data


def test_tract_fa_of_real_people_equals_scipy_on_the_source(tmp_path: Path, real_data: Path) -> None:
    source = pd.read_csv(real_data / "tables" / "ms_tract_fa.csv", na_values=["n/a"])
    nodes = [name for name in source if name.startswith("cca_")]
    source = source.copy().assign(fa=source[nodes].mean(axis=1))
    who = [f"sub-{int(i)}" for i in source["ID"]]
    rows = pd.DataFrame(
        {
            "participant_id": who,
            "session_id": [f"ses-{int(v)}" for v in source["visit"]],
            "region": "CC",
            "metric": "fa",
            "statistic": "mean",
            "value": source["fa"],
            "unit": "1",
        }
    )
    study = Study(tmp_path, frame(ids(8)))
    study.measure(rows)
    first = source.drop_duplicates("ID")
    write_tsv(
        study.bids / "participants.tsv",
        {
            "participant_id": [f"sub-{int(i)}" for i in first["ID"]],
            "case": ["MS" if case else "control" for case in first["case"]],
        },
    )
    yaml = (
        "extends: default\nanalyses:\n  tract:\n    kind: compare\n    group: case\n"
        "    groups: [MS, control]\n"
        "    select: {region: CC, session: '1'}\n"
    )
    study.states(yaml)
    (row,) = study.results("tract").itertuples()
    visit = source[source["visit"] == 1]
    want = stats.ttest_ind(
        visit["fa"][visit["case"] == 1], visit["fa"][visit["case"] == 0], equal_var=False, nan_policy="omit"
    )
    np.testing.assert_allclose([row.statistic_value, row.p], [want.statistic, want.pvalue], rtol=1e-7)
    assert row.n == visit["fa"].notna().sum()
