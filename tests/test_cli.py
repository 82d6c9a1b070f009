"""What a person types, and what comes back: texts, exit codes, and nothing written after a mistake."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cohort import SOMITE, call

from somite import __version__, cli


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, word in (("--version", __version__), ("--help", "phantom")):
        with pytest.raises(SystemExit) as end:
            cli.main([option])
        assert end.value.code == 0
        assert word in capsys.readouterr().out


def test_init_prints_a_protocol_that_runs(tmp_path: Path) -> None:
    done = call([*SOMITE, "init", "lumbar"])
    assert done.code == 0
    assert "nerve_root" in done.out
    unknown = call([*SOMITE, "init", "lumber"])
    assert unknown.code == 2
    assert "lumbar" in unknown.err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "tensor" in schema["properties"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["run", "nowhere", "out", "participant"], "NOT_BIDS"),
        (["plan", "nowhere", "out"], "NOT_BIDS"),
        (["run", ".", "out", "participant", "-c", "missing.yaml"], "CONFIG_NOT_FOUND"),
        (["status", "nowhere"], "NOT_AN_OUTPUT"),
        (["phantom", "lumbar", ".", "--participants", "1"], "OUT_DIR_NOT_EMPTY"),
    ],
)
def test_mistakes_of_use_end_with_2_and_write_nothing(
    arguments: list[str],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main(arguments) == 2
    assert word in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_mistake_leaves_no_work_folder_behind(tmp_path: Path) -> None:
    """Nor does the server that loads the steps meanwhile, and lives a little longer."""
    command = [*SOMITE, "run", str(tmp_path / "nowhere"), str(tmp_path / "out"), "participant"]
    assert call(command).code == 2
    time.sleep(6)  # what loads does so within this time
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "a", "b"],
        ["run", "a", "b", "cohort"],
        ["run", "a", "b", "participant", "--n-procs", "0"],
        ["run", "a", "b", "participant", "--mem-gb", "nan"],
        ["phantom", "lumbar", "x", "--snr", "-1"],
        ["dance"],
    ],
)
def test_wrong_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_phantom_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = call(
            [*SOMITE, "phantom", "lumbar", str(tmp_path / name), "--participants", "1", "--snr", "inf"]
        )
        assert done.code == 0, done.err
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) > 8
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        f"{SOMITE[0]} -m somite schema | head -n 1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
