"""What can go wrong around a session: it fails in words or goes on, and the next run is right."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from toysteps import Toy

from somite import record
from somite.errors import Problem
from somite.files import link_or_copy
from somite.lease import Lease, Owner
from somite.workflows import pool, session
from somite.workflows.engine import Event

RESULT = "3 7.0 positive"
ALL = ["scale", "shift", "collect"]


def in_a_process(run: Callable[[], object]) -> int:
    """Call in a process of its own; returns its wait status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


BOUNDARIES = [(step, state) for step in ALL for state in ("started", "run")]


@pytest.mark.parametrize(("step", "state"), BOUNDARIES)
def test_a_kill_at_a_step_boundary_costs_that_step(step: str, state: str, toy: Toy, number: Path) -> None:
    def listen(event: Event) -> None:
        if (event.step, event.state) == (step, state):
            os.kill(os.getpid(), signal.SIGKILL)

    status = in_a_process(lambda: session.run(toy.unit(number), listen))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (toy.root / "out" / "sub-01").exists()
    # The event comes before the result is written: a step that was killed there runs once more.
    assert toy.ran(number) == ALL[ALL.index(step) :]
    assert toy.result == RESULT
    assert toy.ran(number) == []


def end_this_process(out_dir: Path, label: str) -> Sequence[Problem]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError((out_dir, label))


def test_a_kill_after_the_record_takes_only_what_is_made_of_it(toy: Toy, number: Path) -> None:
    told: list[pool.Told] = []
    unit = toy.unit(number, nodes=(), targets={})
    (ended,) = pool.run([unit], pool.Limits(1, 8.0), told.append, then=end_this_process)
    assert ended.verdict == "done" and not any(isinstance(one.what, pool.After) for one in told)
    assert record.read_all(toy.root / "out")[0].verdict == "done"


def test_what_is_made_in_a_process_of_its_own_comes_back_or_is_told_as_lost() -> None:
    assert pool.apart(max, 3, 7) == 7
    with pytest.raises(ZeroDivisionError):
        pool.apart(divmod, 3, 0)
    with pytest.raises(ChildProcessError, match="-6"):
        pool.apart(os.abort)


@pytest.mark.parametrize("where", ["place", "write_sidecar", "touch", "record"])
def test_a_kill_while_results_are_delivered_costs_no_step(
    where: str, toy: Toy, number: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    place = {
        "place": (session.derivatives, "place"),
        "write_sidecar": (session.fingerprint, "sha256"),
        "touch": (session.engine, "touch"),
        "record": (session.record, "write"),
    }[where]
    if where == "write_sidecar":
        toy.run(number)
        (toy.root / "out" / "sub-01" / "collected.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(*place, kill)
        assert os.WTERMSIG(in_a_process(lambda: toy.run(number))) == signal.SIGKILL
    assert toy.ran(number) == []
    assert toy.result == RESULT
    assert not list(toy.root.rglob("*.part"))


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own with these options; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for _ in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("free_kb", [0, 8, 32, 96, 128, 160])
def test_a_full_disk_is_told_and_after_making_room_the_run_goes_on(
    free_kb: int, toy: Toy, number: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=1m")
    fill = disk / "fill"
    fill.write_bytes(bytes((1024 - free_kb) * 1024))
    places = {"work_dir": disk / "work"}
    result = toy.run(number, **places)
    if result.verdict == "failed":
        assert {problem.code for problem in result.problems} == {"DISK_FULL"}, result.reason
        assert not (toy.root / "out" / "sub-01").exists()
    fill.unlink()
    if result.verdict == "done":
        assert free_kb > 96
    again = toy.run(number, **places)
    assert again.verdict == "done", again.reason
    assert toy.result == RESULT
    assert toy.ran(number, **places) == []
    assert not list(disk.rglob("*.part"))


def test_a_full_disk_below_the_output_keeps_the_results_that_were_there(
    toy: Toy, number: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=64k")
    (toy.root / "out").symlink_to(disk)
    assert toy.ran(number) == ALL
    toy.settings["shift"] = {"by": 5.0}
    fill = disk / "fill"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    failed = toy.run(number)
    assert {problem.code for problem in failed.problems} == {"DISK_FULL"}, failed.reason
    assert toy.result == RESULT
    fill.unlink()
    assert toy.ran(number) == []
    assert toy.result == "3 11.0 positive"
    assert not list(disk.rglob("*.part"))


@pytest.mark.parametrize("number_of_error", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_that_is_used_up_is_told_as_a_full_disk(
    number_of_error: int, toy: Toy, number: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Path:
        raise OSError(number_of_error, os.strerror(number_of_error), "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(session.derivatives, "place", refuse)
        result = toy.run(number)
    assert [problem.code for problem in result.problems] == ["DISK_FULL"]
    assert toy.ran(number) == []


def test_an_output_that_is_read_only_is_told(
    toy: Toy, number: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=64k,ro")
    (toy.root / "out").symlink_to(disk)
    result = toy.run(number)
    assert [problem.code for problem in result.problems] == ["FILE_ERROR"]
    assert "Read-only file system" in result.reason
    (toy.root / "out").unlink()
    assert toy.ran(number) == [], "what was computed is kept"


# Clocks, caches, locks, links


def test_a_clock_that_jumped_back_runs_what_changed_and_nothing_else(toy: Toy, number: Path) -> None:
    toy.ran(number)
    for path in [*toy.root.rglob("out/**/*"), *toy.root.rglob("work/**/*"), number]:
        os.utime(path, (time.time() + 1e8,) * 2)  # made in what is the future now
    assert toy.ran(number) == []
    number.write_text("4")
    os.utime(number, (1e9, 1e9))
    assert toy.ran(number) == ALL
    assert toy.result == "4 9.0 positive"


@pytest.mark.parametrize("pattern", ["*/_result.pklz", "*/shifted.txt", "*/*.txt", "python-*", "*/*", "."])
def test_a_cache_of_which_parts_were_deleted_gives_the_right_result(
    pattern: str, toy: Toy, number: Path
) -> None:
    toy.ran(number)
    cache = toy.unit(number).cache_root
    for path in sorted(cache.glob(pattern)) if pattern != "." else [cache]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert toy.ran(number) in ([], ALL), "what was delivered is whole"
    toy.settings["shift"] = {"by": 5.0}
    toy.run(number)
    assert toy.result == "3 11.0 positive"
    (toy.root / "out" / "sub-01" / "collected.txt").unlink()
    toy.settings.clear()
    toy.run(number)
    assert toy.result == RESULT


def test_half_a_folder_of_checksums_and_leases_does_not_stop_a_run(toy: Toy, number: Path) -> None:
    toy.ran(number)
    folder = toy.unit(number).folder
    (folder / "hashes.json").write_text('{"a": [[1')
    shutil.rmtree(folder / "pydra-hashes", ignore_errors=True)
    assert toy.ran(number) == []


def test_a_lease_of_another_host_that_stands_still_is_taken_over(
    toy: Toy, number: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toy.unit(number).folder / "lease.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(Owner("other", "elsewhere", 1, "1", beat=3).__dict__))
    before = Lease.__init__
    monkeypatch.setattr(Lease, "__init__", lambda self, p, **kw: before(self, p, **kw, expire_s=0.3))
    assert toy.ran(number) == ALL
    assert toy.result == RESULT


def test_an_output_and_a_work_folder_without_hard_links(
    toy: Toy, number: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert toy.ran(number) == ALL
    assert toy.result == RESULT
    assert link_or_copy(number, toy.root / "copy").read_text() == "3"
    assert not list(toy.unit(number).folder.glob("*lease*"))


def test_without_hard_links_a_lease_that_came_first_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(Owner("new", "elsewhere", 1, "1").__dict__))
    Lease(path)._take_from(Owner("stale", "elsewhere", 1, "1"))
    assert json.loads(path.read_text())["token"] == "new"


def test_two_runs_at_once_run_each_step_once(toy: Toy, number: Path) -> None:
    log = toy.root / "log"

    def run() -> None:
        def listen(event: Event) -> None:
            with log.open("a") as file:
                file.write(f"{event.state} {event.step}\n")

        session.run(toy.unit(number), listen)

    children = []
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            run()
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    assert sorted(log.read_text().splitlines()) == sorted(
        f"{state} {step}" for state in ("started", "run") for step in ALL
    )
    last = record.read(record.path_of(toy.root / "out", "sub-01"))
    assert last is not None
    assert last.verdict == "done"
    assert toy.result == RESULT
