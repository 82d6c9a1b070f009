"""What a rater failed is in no table and no analysis, and everybody is told who and why."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from cohort import FAST, Cohort
from long_tables import frame, ids, long, write_tsv

from somite.analysis import exclusions, outputs
from somite.analysis.model import Exclude
from somite.analysis.people import read_people
from somite.configs import reader
from somite.errors import DatasetError
from somite.plan import make_plan
from somite.registry import discover
from somite.review import verdicts
from somite.workflows import group
from somite.workflows.group import Member
from somite.workflows.participant import Place

ANALYSIS = """
analyses:
  groups: {kind: compare, group: group, select: {metric: fa, level: L5, side: L, region: nerve_root}}
"""


def judge(cohort: Cohort, rater: str, who: str, said: str, note: str = "") -> None:
    verdicts.append(cohort.out, verdicts.row(rater, (who, "", ""), said, note))  # type: ignore[arg-type]


def flow(cohort: Cohort) -> pd.DataFrame:
    path = cohort.out / "group" / "analyses" / "groups.flow.tsv"
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    return table[table["step"] == "cohort"].set_index("reason")


def members(cohort: Cohort, yaml: str) -> list[Member]:
    cohort.set(FAST + yaml)
    settings = reader.read(cohort.config, discover())
    plan = make_plan(cohort.bids, settings, None, None)
    return group.members(Place(plan, settings, cohort.out, cohort.out / ".work"))


def out(cohort: Cohort, yaml: str) -> list[str]:
    return [one.label for one in members(cohort, yaml) if one.verdict == "excluded"]


@pytest.mark.slow
def test_the_group_level_honours_the_review(finished: Cohort, tmp_path: Path) -> None:
    cohort = finished.copy(tmp_path / "copy")
    cohort.set(FAST + ANALYSIS)
    judge(cohort, "AB", "sub-02", "fail", "roots cut off")
    judge(cohort, "AB", "sub-03", "unsure")
    judge(cohort, "CD", "sub-02", "pass")
    done = cohort.run("group")
    assert done.code == 0, done.out + done.err
    assert "3 done, 1 excluded, 0 failed" in done.out
    status = cohort.table("status").set_index("participant_id")
    assert status["verdict"].to_dict() == {
        "sub-01": "done",
        "sub-02": "excluded",
        "sub-03": "done",
        "sub-04": "done",
    }
    assert status.loc["sub-02", "reason"] == "review: fail by AB (roots cut off)"
    for name in ("segments", "segments_wide", "derived", "qc"):
        assert set(cohort.table(name)["participant_id"]) == {"sub-01", "sub-03", "sub-04"}
    told = flow(cohort).loc["review: fail"]
    assert (told["n_out"], told["n_left"], told["participants"]) == (1, 3, "sub-02")

    assert out(cohort, "") == out(cohort, "cohort: {review: any}\n") == ["sub-02"]
    assert out(cohort, "cohort: {review: all}\n") == out(cohort, "cohort: {review: ignore}\n") == []
    judge(cohort, "CD", "sub-02", "fail")
    assert out(cohort, "cohort: {review: all}\n") == ["sub-02"]
    judge(cohort, "AB", "sub-02", "pass")
    judge(cohort, "CD", "sub-02", "pass")
    cohort.set(FAST + ANALYSIS)
    done = cohort.run("group")
    assert "4 done" in done.out
    assert done.steps[0] > 0
    assert set(cohort.table()["participant_id"]) == set(status.index)
    assert "review: fail" not in flow(cohort).index

    path = verdicts.path_of(cohort.out)
    path.write_text(path.read_text() + "a line of another kind\n")
    with pytest.raises(DatasetError, match="REVIEW_TABLE"):
        members(cohort, "")


def test_the_flow_counts_who_was_failed_and_nobody_twice(tmp_path: Path) -> None:
    rows = frame(ids(4), metrics=("fa",), sides=("L",))
    rows["session_id"] = "ses-1"
    people = read_people([])
    lines = {"participant_id": ["sub-001", "sub-003", "sub-009"], "session_id": ["ses-1", "ses-2", "ses-1"]}
    listed = exclusions.read_list(write_tsv(tmp_path / "x.tsv", {**lines, "reason": ["withdrew"] * 3}))
    # sub-001 lost its first session to the list and its second to the review; sub-009 its only one; sub-002
    # has one left. The list may name what the review has taken away.
    failed = [
        ("sub-001", "ses-2", ""),
        ("sub-002", "ses-2", ""),
        ("sub-009", "ses-1", ""),
        ("sub-003", "ses-2", ""),
    ]
    table, left = exclusions.apply(long(tmp_path, rows), people, Exclude(), listed, failed)
    assert [(one.reason, one.participants) for one in left] == [
        ("review: fail", ("sub-001", "sub-002", "sub-009", "sub-003")),
        ("excluded: withdrew", ("sub-001",)),
    ]
    start = set(table.texts["participant_id"].words) - {"sub-001"}

    class Nothing:
        left = ()

        class measures:
            @staticmethod
            def account() -> list[object]:
                return []

    class Config:
        name = "x"

    told = outputs.flow(Config(), 5, left, Nothing(), start)  # type: ignore[arg-type]
    assert [(row["n_out"], row["n_left"]) for row in told] == [(0, 5), (4, 4), (1, 3)]
