"""The status says how the tables of the cohort and its analyses stand."""

from __future__ import annotations

from pathlib import Path

from somite import record, show
from somite.errors import Problem
from somite.record import Delivered, Record, StepRecord


def write(out: Path, label: str, *, table: str = "", read: str = "", problem: Problem | None = None) -> None:
    record.write(
        Record(
            label,
            label,
            "",
            "",
            "done" if problem is None else "failed",
            problems=[] if problem is None else [problem],
            steps=[StepRecord("analyse", "run", numbers={"rows": 12.0})],
            inputs={"segments.parquet": read, "participants.tsv": "p"} if read else {},
            outputs=[Delivered("group/segments.parquet", table, 1, "")] if table else [],
        ),
        out,
    )


def words(out: Path) -> tuple[dict[str, list[str]], bool]:
    lines, failed = show.status(out)
    return {line.split()[0]: line.split() for line in lines if line}, failed


def test_analyses_that_are_done_failed_outdated_and_never_begun(tmp_path: Path) -> None:
    write(tmp_path, "sub-01")
    write(tmp_path, "group", table="new")
    write(tmp_path, "analysis-fine", read="new")
    write(tmp_path, "analysis-stale", read="old")
    write(tmp_path, "analysis-bad", problem=Problem("SELECT_NOTHING", "no row has a level L9"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.yaml").write_text(
        "analyses:\n  fine: {kind: compare}\n  later: {kind: roc}\n"
    )
    found, failed = words(tmp_path)
    assert failed
    assert found["tables"][1] == "done"
    assert found["fine"][1:3] == ["done", "12"]
    assert found["bad"][1] == "failed"
    assert "SELECT_NOTHING:" in found["bad"]
    assert found["stale"][1] == "outdated"
    assert "segments.parquet" in found["stale"]
    assert found["later"][1:3] == ["not", "run"]
    assert show.status(tmp_path)[0][-1] == "group level: 2 done, 3 not"


def test_all_done_and_sessions_alone(tmp_path: Path) -> None:
    write(tmp_path, "sub-01")
    lines, failed = show.status(tmp_path)
    assert (lines[-1], failed) == ("sessions: 1 done, 0 not", False)
    write(tmp_path, "group", table="new")
    write(tmp_path, "analysis-fine", read="new")
    assert words(tmp_path)[1] is False
    write(tmp_path, "group", problem=Problem("TABLE_SESSION", "a session stands twice"))
    found, failed = words(tmp_path)
    assert failed
    assert (found["tables"][1], found["fine"][1]) == ("failed", "outdated")
