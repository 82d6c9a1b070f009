"""Profiles of all sessions in one table, and the analysis that runs along them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from long_tables import write_tsv
from scipy import stats
from study import Study

from somite.errors import DatasetError
from somite.interfaces import profile_table
from somite.profiles import write_profiles
from somite.registry import Context
from somite.segments import COLUMNS

PLACE = {"region": "nerve_root", "side": "L", "level": "L5", "extraction": "label", "weighting": "central"}


def profile_of(folder: Path, who: str, values: list[float], reason: str = "", **place: str) -> Path:
    """The table that the step `profile` writes for a session: FA at nodes 1.5 mm apart."""
    rows = [
        PLACE
        | {"node": k, "position_mm": 1.5 * k, "position_frac": k / 20, "metric": "fa", "value": value}
        | {"se": 0.01, "n_voxels": 7, "weight": 3.5, "reason": reason}
        | place
        for k, value in enumerate(values)
    ]
    path = folder / f"{who}_desc-profiles_stats.tsv"
    return write_profiles(path, rows, {"participant_id": who})


def joined(folder: Path, paths: list[Path]) -> pd.DataFrame:
    (folder / "out").mkdir(exist_ok=True)
    run = profile_table.run(tuple(paths), profile_table.Config(), Context(folder / "out"))
    return pd.read_parquet(run[0])


def test_a_node_is_a_segment_with_its_place_on_the_curve(tmp_path: Path) -> None:
    first = profile_of(tmp_path, "sub-01", [0.3, np.nan], reason="few voxels")
    second = profile_of(tmp_path, "sub-02", [0.4, 0.5], segment="proximal")
    table = joined(tmp_path, [second, first])
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(table["participant_id"]) == ["sub-01", "sub-01", "sub-02", "sub-02"]
    assert list(table["segment"]) == ["node_0", "node_1", "proximal_node_0", "proximal_node_1"]
    assert list(table["position_mm"]) == [0, 1.5, 0, 1.5]
    assert table["value"].tolist()[2:] == [0.4, 0.5] and np.isnan(table["value"][1])
    assert set(table["statistic"]) == {"mean"} and set(table["n_voxels"]) == {7}
    assert table["reason"][1] == "few voxels" and table["session_id"].isna().all()


def test_without_profiles_there_are_columns_and_no_rows(tmp_path: Path) -> None:
    assert joined(tmp_path, []).shape == (0, len(COLUMNS) + 4)


def test_what_is_wrong_is_told_of_all_files_together(tmp_path: Path) -> None:
    good = profile_of(tmp_path, "sub-01", [0.3])
    again = tmp_path / "again.tsv"
    again.write_bytes(good.read_bytes())
    other, broken = tmp_path / "other.tsv", tmp_path / "z_broken.tsv"
    other.write_text("participant_id\tvalue\nsub-03\t1\n")
    broken.write_text(good.read_text().replace("\t0.3\t", "\tthree\t"))
    with pytest.raises(DatasetError) as error:
        joined(tmp_path, [good, again, other, broken])
    codes = {problem.code: problem.where for problem in error.value.problems}
    assert codes == {
        "TABLE_DUPLICATE": str(good),
        "TABLE_COLUMNS": str(other),
        "TABLE_VALUE": str(broken),
    }


def test_an_analysis_runs_along_the_profiles_of_the_cohort(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    people = [f"sub-{i}" for i in range(101, 113)]
    values = np.round(0.4 + 0.02 * rng.normal(size=(12, 9)), 6)
    values[:6, 3:6] -= 0.1
    study = Study(tmp_path, pd.DataFrame())
    paths = [profile_of(tmp_path, who, list(v)) for who, v in zip(people, values, strict=True)]
    joined(tmp_path, paths).to_parquet(study.out / "group" / "profiles.parquet")
    write_tsv(
        study.bids / "participants.tsv",
        {"participant_id": people, "diagnosis": ["patient"] * 6 + ["control"] * 6},
    )
    study.exclude({"participant_id": [], "reason": []})
    yaml = """\
extends: default
analyses:
  along_l5:
    kind: profile
    group: diagnosis
    groups: [patient, control]
    permutations: 500
    select: {region: nerve_root, level: L5, metric: fa}
"""
    done = study.run(yaml)["along_l5"]
    assert done.verdict == "done", done.reason
    assert any("profiles.parquet" in name for name in done.inputs)
    assert not any("segments.parquet" in name for name in done.inputs)
    rows = pd.read_csv(study.out / "group" / "analyses" / "along_l5.tsv", sep="\t")
    nodes = rows[~rows["contrast"].str.contains("cluster")]
    want = stats.ttest_ind(values[:6], values[6:], equal_var=False)
    np.testing.assert_allclose(nodes["statistic_value"], want.statistic, rtol=1e-7)
    cluster = rows[rows["contrast"].str.contains("cluster")]
    assert cluster["p"].min() < 0.05
