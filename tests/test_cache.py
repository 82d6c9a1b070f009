"""The work folder tells its size and is cleared while others run, and needs are told before a run."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from toysteps import Toy

from somite import cache, cli, record, resources_table
from somite.lease import Lease
from somite.workflows import forecast
from somite.workflows.group import Member
from somite.workflows.session import Unit

RESULT = "3 7.0 positive"


def two_variants(toy: Toy, number: Path) -> None:
    toy.run(number)
    toy.settings["shift"] = {"by": 5.0}
    toy.run(number)


def prune(toy: Toy, *options: str) -> int:
    words = ["cache", "prune", str(toy.root / "out"), "--work-dir", str(toy.root / "work"), *options]
    return cli.main(words)


def names(toy: Toy, number: Path) -> set[str]:
    return {path.name for path in toy.unit(number).cache_root.glob("*")}


def test_the_size_of_each_cache_is_told(toy: Toy, number: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_variants(toy, number)
    (found,) = cache.read(toy.root / "work")
    files = [path for path in toy.unit(number).cache_root.rglob("*") if path.is_file()]
    assert (found.label, len(found.entries)) == ("sub-01", 5)
    assert found.bytes == sum(path.stat().st_size for path in files)
    out = str(toy.root / "out")
    assert cli.main(["cache", "size", out, "--work-dir", str(toy.root / "work")]) == 0
    assert "sub-01  5 results" in capsys.readouterr().out


def test_what_is_unused_goes_and_what_is_used_stays(toy: Toy, number: Path) -> None:
    two_variants(toy, number)
    before = names(toy, number)
    assert prune(toy, "--unused", "--dry-run") == 0
    assert names(toy, number) == before
    assert prune(toy, "--unused") == 0
    assert len(names(toy, number)) == 3
    assert toy.ran(number) == []
    toy.settings.clear()
    assert toy.ran(number) == ["shift", "collect"]
    assert toy.result == RESULT


def test_what_a_run_that_did_not_end_has_made_counts_as_used(toy: Toy, number: Path) -> None:
    toy.run(number)
    (toy.root / "toy" / "broken").touch()
    toy.settings["scale"] = {"factor": 3.0}
    assert toy.run(number).verdict == "failed"
    prune(toy, "--unused")
    (toy.root / "toy" / "broken").unlink()
    assert toy.ran(number) == ["shift", "collect"]


def test_what_is_old_goes_by_when_it_was_last_used(toy: Toy, number: Path) -> None:
    two_variants(toy, number)
    long_ago = time.time() - 40 * cache.DAY_S
    for entry in toy.unit(number).cache_root.iterdir():
        os.utime(entry, (long_ago, long_ago))
    toy.run(number)
    assert prune(toy, "--older-than", "30") == 0
    assert len(names(toy, number)) == 3
    assert toy.ran(number) == []


def test_a_cache_that_a_run_works_on_is_left_alone(
    toy: Toy, number: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_variants(toy, number)
    with Lease(toy.unit(number).folder / "lease.json"):
        assert prune(toy, "--unused") == 0
        assert next(iter(cache.read(toy.root / "work"))).in_use
    assert "in use by process" in capsys.readouterr().out
    assert len(names(toy, number)) == 5


def test_nothing_is_removed_unless_it_is_said_what(
    toy: Toy, number: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run(number)
    assert prune(toy) == 2
    assert "PRUNE_WHAT" in capsys.readouterr().err
    assert toy.ran(number) == []


# Needs


def sized(toy: Toy, number: Path, label: str, gb: float) -> Unit:
    return toy.unit(number, label, dwi_gb=gb)


def test_needs_are_measured_else_scaled_from_others_else_defaults(toy: Toy, number: Path) -> None:
    done = toy.run(number, "sub-01", dwi_gb=0.05)
    steps = [replace(step, cpu_seconds=10.0, disk_mb=100.0, peak_mb=700.0) for step in done.steps]
    measured = replace(done, steps=steps, outputs=[replace(done.outputs[0], size=50_000_000)])
    units = [sized(toy, number, "sub-01", 0.05), sized(toy, number, "sub-02", 0.1)]
    own, other = forecast.needs(units, [measured])
    assert (own.basis, own.done, own.core_s, own.work_gb, own.output_gb) == ("measured", True, 30, 0.3, 0.05)
    assert (other.basis, other.done) == ("like others", False)
    assert (other.core_s, other.work_gb, other.output_gb) == pytest.approx((60, 0.6, 0.1))
    assert other.memory_gb == pytest.approx(0.7)
    assert {need.basis for need in forecast.needs(units, [])} == {"defaults"}
    text = "\n".join(forecast.lines([own, other], "all"))
    assert "all sessions: 2; 0.025 core-hours" in text
    assert "not done: 1; 0.0167 core-hours" in text
    assert "1 measured themselves, 1 like those that were, 0 by shipped defaults" in text


def test_a_session_whose_code_is_another_now_is_not_done(toy: Toy, number: Path) -> None:
    done = toy.run(number, dwi_gb=0.5)
    other = replace(done, steps=[replace(step, code="other") for step in done.steps])
    (need,) = forecast.needs([sized(toy, number, "sub-01", 0.5)], [other])
    assert (need.basis, need.done) == ("measured", False)


@pytest.mark.parametrize(("basis", "severity"), [("like others", "error"), ("defaults", "warning")])
def test_a_disk_that_will_not_hold_the_sessions_is_told_before(
    basis: forecast.Basis, severity: str, tmp_path: Path
) -> None:
    def check(work_gb: float, keep: str) -> list[str]:
        many = [forecast.Need(f"sub-{i}", 1, 1, work_gb, 0, basis) for i in range(10)]
        found = forecast.check_disk(many, tmp_path / "out", tmp_path / "w", keep=keep, at_once=2)
        return [problem.severity for problem in found]

    free_gb = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e9
    assert check(free_gb / 5, "all") == [severity]
    assert check(free_gb / 5, "final") == []
    assert check(free_gb / 11, "all") == ["warning"]
    assert check(free_gb / 20, "all") == []


def test_the_table_of_resources_has_a_row_for_each_step(toy: Toy, number: Path) -> None:
    done = toy.run(number, dwi_gb=0.25, identity={"participant_id": "sub-01"})
    path = resources_table.write(toy.root / "out", [done])
    head, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert head == list(resources_table.COLUMNS)
    table = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["step"] for row in table] == ["scale", "shift", "collect"]
    assert {row["participant_id"] for row in table} == {"sub-01"}
    assert all(float(row["peak_memory_mb"]) > 1 and float(row["disk_mb"]) >= 0 for row in table)
    assert {row["dwi_gb"] for row in table} == {"0.25"}
    stored = record.read(record.path_of(toy.root / "out", "sub-01"))
    assert stored is not None
    assert [step.cpu_seconds for step in stored.steps] == [step.cpu_seconds for step in done.steps]


def test_what_the_cohort_holds_of_a_session_in_brief_fills_the_same_tables(toy: Toy, number: Path) -> None:
    done = toy.run(number, dwi_gb=0.25)
    steps = [replace(step, cpu_seconds=2.5 + i, disk_mb=1.5 + i) for i, step in enumerate(done.steps)]
    whole = replace(done, steps=steps)
    table = resources_table.write(toy.root / "out", [whole]).read_text()
    assert resources_table.write(toy.root / "out", [whole.brief]).read_text() == table
    in_brief, in_full = (Member("sub-01", "sub-01", "", "", "done", "", one) for one in (whole.brief, whole))
    assert in_brief.row == in_full.row
    assert len(json.dumps(asdict(whole.brief))) < len(json.dumps(asdict(whole))) / 2, "it is held for nothing"
