"""Files appear whole or not at all, checksums follow contents, and equal input gives equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from somite import derivatives, fingerprint
from somite.files import beside, link_or_copy, remove_drafts, write_atomically


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "new" / "file.txt", "old")
    with pytest.raises(KeyboardInterrupt), beside(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_drafts_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_dir-AP_dwi.nii.gz"
    with pytest.raises(KeyboardInterrupt), beside(tmp_path / "sub-01_dir-PA_dwi.nii.gz") as other:
        other.touch()
        with beside(path) as draft:
            draft.touch()
            remove_drafts(path)
            assert not draft.exists()
            assert other.exists(), "the draft of another file is somebody else's"
            raise KeyboardInterrupt


def test_a_copy_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    source = write_atomically(tmp_path / "a", "text")
    monkeypatch.setattr(os, "link", refuse)
    assert link_or_copy(source, tmp_path / "b").read_text() == "text"


def test_compression_is_read_by_gzip_and_does_not_depend_on_name_or_time(tmp_path: Path) -> None:
    source = tmp_path / "a.nii"
    source.write_bytes(bytes(range(256)) * 9999)
    one = derivatives.place(source, tmp_path / "one.nii.gz")
    os.utime(source, (0, 0))
    two = derivatives.place(source.rename(tmp_path / "b.nii"), tmp_path / "two.nii.gz")
    assert gzip.decompress(one.read_bytes()) == bytes(range(256)) * 9999
    assert one.read_bytes() == two.read_bytes()


def test_checksums_are_kept_and_follow_the_contents(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a", "one")
    with fingerprint.HashCache(tmp_path / "hashes.json") as cache:
        assert cache.peek(path) is None
        assert cache.sha256(path) == hashlib.sha256(b"one").hexdigest()
    cache = fingerprint.HashCache(tmp_path / "hashes.json")
    assert cache.peek(path) == hashlib.sha256(b"one").hexdigest()
    path.write_text("two")
    assert cache.peek(path) is None
    assert cache.sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_verify_reads_every_file_once_more(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a", "one")
    with fingerprint.HashCache(tmp_path / "hashes.json") as cache:
        cache.sha256(path)
    strict = fingerprint.HashCache(tmp_path / "hashes.json", verify=True)
    assert strict.peek(path) is None
    strict.sha256(path)
    assert strict.peek(path) is not None


def test_a_damaged_cache_of_checksums_is_read_anew(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a", "one")
    (tmp_path / "hashes.json").write_text('{"a": 1')
    assert fingerprint.HashCache(tmp_path / "hashes.json").sha256(path) == hashlib.sha256(b"one").hexdigest()


def test_code_of_a_step_covers_the_project_modules_that_it_imports() -> None:
    digests, outside = fingerprint._closure("somite.interfaces.tensor")
    assert {"somite.interfaces.tensor", "somite.registry", "somite.images"} <= set(digests)
    assert "numpy" in outside
    assert "numpy" in fingerprint.libraries("somite.interfaces.tensor")
