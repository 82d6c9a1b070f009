"""Which sessions are to be there: known to all, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from somite import roll


def test_runs_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    labels = [f"sub-{number:02d}" for number in range(40)]

    def work(label: str) -> None:
        roll.add(tmp_path, {label: "recipe"})
        if label.endswith("5"):
            roll.merge(tmp_path)

    with ThreadPoolExecutor(8) as runs:
        list(runs.map(work, labels))
    assert sorted(roll.read(tmp_path)) == labels


def test_the_last_recipe_counts_and_is_kept_once(tmp_path: Path) -> None:
    roll.add(tmp_path, {"sub-01": "a", "sub-02": "a"})
    roll.add(tmp_path, {"sub-01": "b"})
    roll.add(tmp_path, {"sub-01": "b", "sub-02": "a"})
    assert roll.read(tmp_path) == {"sub-01": "b", "sub-02": "a"}
    files = list((tmp_path / "logs" / "roll").iterdir())
    assert len(files) == 2
    roll.merge(tmp_path)
    roll.add(tmp_path, {"sub-02": "c"})
    assert roll.read(tmp_path) == {"sub-01": "b", "sub-02": "c"}


def test_a_damaged_file_loses_only_what_it_said(tmp_path: Path) -> None:
    roll.add(tmp_path, {"sub-01": "a"})
    (tmp_path / "logs" / "roll" / "99999999999999999999-x.json").write_text('{"sub-02"')
    assert roll.read(tmp_path) == {"sub-01": "a"}
