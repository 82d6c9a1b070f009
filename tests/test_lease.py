"""A session has one owner, and the death of its owner does not leave it locked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from somite.files import write_atomically
from somite.lease import Lease, Owner, read_owner


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_it_is_held_inside_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "session" / "lease.json"
    with Lease(path):
        owner = read_owner(path)
        assert owner is not None
        assert not owner.is_dead
    assert list(path.parent.iterdir()) == []


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with pytest.raises(ValueError, match="inside"), Lease(path):
        raise ValueError("inside")
    assert not path.exists()


def test_a_second_owner_waits_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    order: list[str] = []
    waited: list[Owner] = []

    def second() -> None:
        with Lease(path, on_wait=waited.append):
            order.append("second")

    with Lease(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert len(waited) == 1


def test_a_dead_process_of_this_host_is_followed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    gone = replace(Owner.myself(), token="old", pid=dead_process(), started="1")
    write_atomically(path, json.dumps(asdict(gone)))
    waited: list[Owner] = []
    with Lease(path, on_wait=waited.append):
        owner = read_owner(path)
    assert owner is not None
    assert owner.token != "old"
    assert waited == []


def test_a_reused_process_number_is_not_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    write_atomically(path, json.dumps(asdict(replace(Owner.myself(), token="old", started="1"))))
    with Lease(path):
        pass
    assert not path.exists()


def test_another_hosts_lease_is_taken_when_its_counter_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    write_atomically(path, json.dumps(asdict(Owner("other", "elsewhere", 1, "1", beat=3))))
    begin = time.monotonic()
    with Lease(path, expire_s=0.6):
        waited = time.monotonic() - begin
    assert waited >= 0.6


def test_another_hosts_lease_is_respected_while_its_counter_rises(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    owner = Owner("other", "elsewhere", 1, "1")
    write_atomically(path, json.dumps(asdict(owner)))
    taken = threading.Event()

    def second() -> None:
        with Lease(path, expire_s=1.0):
            taken.set()

    thread = threading.Thread(target=second)
    thread.start()
    for beat in range(1, 8):
        time.sleep(0.3)
        assert not taken.is_set()
        write_atomically(path, json.dumps(asdict(replace(owner, beat=beat))))
    path.unlink()
    thread.join(10)
    assert taken.is_set()


def test_the_counter_rises_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "beat_s", 0.05)
    path = tmp_path / "lease.json"
    with Lease(path):
        time.sleep(0.5)
        owner = read_owner(path)
    assert owner is not None
    assert owner.beat >= 2


def test_a_damaged_lease_does_not_lock_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text("{half")
    with Lease(path, expire_s=0.3):
        assert read_owner(path) != Owner("damaged", "", 0, "")


def test_of_many_waiting_processes_one_at_a_time_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    gone = replace(Owner.myself(), token="old", pid=dead_process(), started="1")
    write_atomically(path, json.dumps(asdict(gone)))
    code = (
        "import sys, time, pathlib\n"
        "from somite.lease import Lease\n"
        "with Lease(pathlib.Path(sys.argv[1])):\n"
        "    log = pathlib.Path(sys.argv[2])\n"
        "    log.open('a').write('in\\n'); time.sleep(0.05); log.open('a').write('out\\n')\n"
    )
    log = tmp_path / "log"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), str(log)]) for _ in range(6)]
    assert [child.wait(60) for child in children] == [0] * 6
    assert log.read_text().split() == ["in", "out"] * 6
