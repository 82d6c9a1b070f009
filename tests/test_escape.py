"""What a hostile file says is not done: no path leads out, no line breaks a script, no bomb is eaten."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import skeleton
from cohort import SOMITE, call
from fakes import put_fsl
from toysteps import Toy

from somite import arguments, bids, cli, containers, images, record, rerun, roll, submissions, voxel_check
from somite.bids import read_description
from somite.configs import document, reader
from somite.configs.cluster import Cluster
from somite.dataset.series import read_header
from somite.errors import ConfigError, DatasetError, Problem, SomiteError, ToolError
from somite.interfaces import mask
from somite.interfaces.load import read_sidecar
from somite.label_sources import nnunet
from somite.norms import read_norms
from somite.registry import Context
from somite.report import picture_files, style
from somite.segments import read_label_table
from somite.workflows import pool, slurm

DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
NAMES = """a b $(touch pwned) `touch pwned` 'q" %j;&"""
"""A folder that a shell would make something of."""


def code_of(error: pytest.ExceptionInfo[SomiteError]) -> str:
    (problem,) = error.value.problems
    return problem.code


# Records and what else lies in an output


def edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


@pytest.mark.parametrize(
    "leads", ["../precious.nii.gz", "sub-01/../../precious.nii.gz", "{root}/precious.nii.gz"]
)
def test_a_record_that_leads_out_of_the_output_removes_and_reads_nothing(
    leads: str, toy: Toy, number: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run(number)
    precious = toy.root / "precious.nii.gz"
    precious.write_text("1")
    sidecar = toy.root / "precious.json"
    sidecar.write_text("{}")
    path = record.path_of(toy.root / "out", "sub-01")
    item = {"path": leads.format(root=toy.root), "sha256": "", "size": 1, "source": ""}
    edit(path, lambda stored: stored["outputs"].append(item))  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match="RECORD_LEADS_OUT"):
        toy.run(number)
    assert precious.exists() and sidecar.exists()
    assert cli.main(["status", str(toy.root / "out")]) == 2
    assert f"in:       {path}" in capsys.readouterr().err


def test_labels_in_an_output_are_names_of_sessions(toy: Toy, number: Path) -> None:
    toy.run(number)
    out = toy.root / "out"
    edit(record.path_of(out, "sub-01"), lambda stored: stored.update(label="../../sub-01"))
    assert record.read_all(out) == [], "its page would be written elsewhere"
    expected = {"sub-01": "r", "../../sub-02": "r", "sub-03\n": "r", "sub-04_ses-1": 4}
    (out / "logs" / "roll").mkdir()
    (out / "logs" / "roll" / "1-x.json").write_text(json.dumps(expected))
    assert roll.read(out) == {"sub-01": "r", "sub-04_ses-1": "4"}


@pytest.mark.parametrize(
    "change",
    [
        {"stamp": "../../../x"},
        {"group": "--user=me"},
        {"collect": True},
        {"arrays": [{"job": 7, "elements": [["../../x"]], "memory_mb": 1, "minutes": 1}]},
        {"strange": 1},
    ],
)
def test_what_was_given_to_the_cluster_is_not_believed(change: dict[str, object], tmp_path: Path) -> None:
    array = submissions.Array(7, [["sub-01"]], 1, 1)
    path = submissions.write(submissions.Submission("s", "", str(tmp_path), [array], 8), tmp_path)
    assert submissions.read_all(tmp_path)[0].jobs == [8, 7]
    edit(path, lambda stored: stored.update(change))
    with pytest.raises(DatasetError) as error:
        submissions.read_all(tmp_path)
    assert code_of(error) == "SUBMISSION_UNREADABLE"


def test_an_image_of_a_record_is_no_option_of_the_runtime(tmp_path: Path) -> None:
    said = SimpleNamespace(software={"container": "--volume=/:/host"})
    finished = rerun.Finished(tmp_path, tmp_path, {"sub-01": said})  # type: ignore[dict-item]
    with pytest.raises(ToolError) as error:
        rerun.container_command(finished, tmp_path)
    assert code_of(error) == "NO_IMAGE"


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("1")
    log = tmp_path / "out" / "logs" / "sub-01.txt"
    log.parent.mkdir(parents=True)
    log.symlink_to(precious)
    with pool.open_log(tmp_path / "out", "sub-01") as file:
        file.write("what was said")
    assert precious.read_text() == "1"
    assert log.read_text() == "what was said"


def test_only_results_are_pruned_and_no_link_is_followed(tmp_path: Path) -> None:
    """`--work-dir` may be given by mistake: a folder `cache` is nothing rare."""
    mine = tmp_path / "home" / "project" / "cache" / "photographs"
    mine.mkdir(parents=True)
    result = tmp_path / "elsewhere" / "cache" / f"python-{'0' * 32}"
    result.mkdir(parents=True)
    (tmp_path / "home" / "link").symlink_to(tmp_path / "elsewhere")
    for path in (mine, result):
        os.utime(path, (0, 0))
    words = ["cache", "prune", str(tmp_path), "--work-dir", str(tmp_path / "home"), "--older-than", "1"]
    assert cli.main(words) == 0
    assert mine.is_dir() and result.is_dir()


# Archives


def bomb(path: Path, name: str, megabytes: int) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))


def test_a_bomb_among_the_pictures_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb(tmp_path / "index.zip", "index.json", 64)
    found = picture_files.read_archive(tmp_path / "index.zip")
    assert "larger than any picture" in found.fault
    listed = [{"name": name, "files": [name]} for name in ("a.png", "b.png", "..", "../x.png")]
    many = tmp_path / "many.zip"
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("index.json", json.dumps(listed))
        archive.writestr("../x.png", b"x")
    bomb(many, "a.png", 2)
    bomb(many, "b.png", 2)
    assert set(picture_files.read_archive(many).contents or ()) == {"a.png", "b.png"}
    monkeypatch.setattr(picture_files, "MOST_BYTES", 3 << 20)
    assert "larger than any session's" in picture_files.read_archive(many).fault
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr("index.json", DEEP)
    assert "nested too deeply" in picture_files.read_archive(tmp_path / "deep.zip").fault


def test_the_list_of_figures_names_figures_only(tmp_path: Path) -> None:
    (tmp_path / picture_files.LISTING).write_text(json.dumps(["a.svg", "..", "", "../b.svg", "/c.svg", ".d"]))
    assert picture_files.listed(tmp_path) == ["a.svg"]


# Images


def header(shape: tuple[int, ...], offset: float = 352) -> bytes:
    made = nib.Nifti1Header()
    made["dim"][: len(shape) + 1] = (len(shape), *shape)
    made.set_data_dtype(np.int16)
    made.set_sform(np.eye(4), 1)
    made["vox_offset"] = offset
    made["magic"] = b"n+1"
    return bytes(made.binaryblock) + bytes(4)


def forged(path: Path, content: bytes, length: int) -> Path:
    """A gzip file whose last bytes tell this length of its content."""
    path.write_bytes(gzip.compress(content)[:-4] + struct.pack("<I", length % 2**32))
    return path


def test_a_header_that_promises_terabytes_is_refused_before_a_voxel_is_read(tmp_path: Path) -> None:
    shape = (30000, 30000, 30000, 7)
    small = forged(tmp_path / "a_dwi.nii.gz", header(shape) + bytes(1000), 352 + 2 * int(np.prod(shape)))
    sparse = tmp_path / "b_dwi.nii"
    with sparse.open("wb") as file:
        file.write(header((10000, 10000, 10000, 7)))
        file.truncate(2 * 7 * 10**12 + 352)
    for path in (small, sparse):
        with pytest.raises(DatasetError) as error:
            images.open_image(path)
        assert code_of(error) == "IMAGE_UNREADABLE"
        assert "0 x " in error.value.problems[0].found and "bytes" in error.value.problems[0].found
        with pytest.raises(DatasetError):
            read_header(path, "the image")


def test_a_stream_without_end_is_left_as_soon_as_it_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sub-01_dwi.nii.gz"
    path.write_bytes(gzip.compress(header((4, 4, 4, 2)) + bytes(64 << 20)))
    read = []
    opened = voxel_check.igzip.open

    def counting(path: Path) -> SimpleNamespace:
        file = opened(path)
        file.read = lambda size, read_it=file.read: read.append(size) or read_it(size)
        return file

    monkeypatch.setattr(voxel_check.igzip, "open", counting)
    with pytest.raises(DatasetError) as error:
        read_header(path, "the image")
    assert error.value.problems[0].what == "the compressed image holds far more than its header promises"
    assert sum(read) <= 16 << 20
    assert [problem.code for problem in voxel_check.check_file(path)] == ["IMAGE_UNREADABLE"]


def test_an_extension_that_promises_gigabytes_is_not_read(tmp_path: Path) -> None:
    start = header((4, 4, 4, 2), offset=2.0**31)[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 4)
    path = tmp_path / "sub-01_dwi.nii.gz"
    path.write_bytes(gzip.compress(start + bytes(1 << 20)))
    with pytest.raises(DatasetError) as error:
        read_header(path, "the image")
    assert "2.15e+09 bytes before the first voxel" in error.value.problems[0].found


# JSON and YAML


def test_json_that_is_nested_without_end_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dataset_description.json"
    path.write_text(DEEP)
    reads = {
        "SIDECAR_UNREADABLE": read_sidecar,
        "NOT_BIDS": lambda path: read_description(path.parent),
        "LABEL_TABLE": nnunet.read_names,
    }
    for code, read in reads.items():
        with pytest.raises(DatasetError) as error:
            read(path)
        assert code_of(error) == code
        assert "nested too deeply" in error.value.problems[0].found
        assert str(path) in error.value.problems[0].where
    assert record.read(path) is None


def test_a_yaml_has_an_end(tmp_path: Path) -> None:
    """Tags and aliases of a configuration: tests/test_configs_mistakes.py."""
    path = tmp_path / "my.yaml"
    for text, words in (
        ("# \n" * (document.MOST_BYTES // 3 + 1), "4,000,000 bytes"),
        (f"a: {'[' * 2_000}", "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="CONFIG_SYNTAX") as error:
            reader.read(path, {})
        assert words in str(error.value)
    path.write_text("- {region: &a [x, x], side: &b [*a, *a]}\n")
    with pytest.raises(DatasetError, match="several values"):
        read_norms(path)


# Names and lines


def test_a_path_that_would_break_a_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("out\nrm -rf /", "out\r", "\x1b[2J", "out\u2028", "out\udcff"):
        with pytest.raises(SystemExit) as ended:
            arguments.parser().parse_args(["submit", "bids", path])
        assert ended.value.code == 2
        assert f"{path!r} holds a character" in capsys.readouterr().err
    assert arguments.parser().parse_args(["status", NAMES]).out_dir == Path(NAMES)
    with pytest.raises(ToolError, match="CONTAINER_PATH"):
        container = containers.parse("docker run --rm image")
        containers.enclosing(container, Path("/out"), [Path("/in\n--privileged/x")], {})


def test_scripts_hold_any_folder_as_one_word(tmp_path: Path) -> None:
    folder = tmp_path / NAMES
    folder.mkdir()
    command = shlex.join(["printf", "%s|", str(folder)])
    request = slurm.Request(1, 1, 1)
    texts = [
        slurm.group_script(Cluster(), folder, command),
        slurm.session_script(Cluster(), request, folder, folder, command),
    ]
    (folder / "sessions.txt").write_text("sub-01\n")
    for text in texts:
        options = [line for line in text.splitlines() if line.startswith("#SBATCH --output")]
        assert len(options) == 1 and "%%j" in options[0]
        said = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert f"{folder}|" in said.stdout
    assert not list(tmp_path.rglob("pwned"))


def test_a_line_of_the_section_cluster_stays_one_line() -> None:
    for key, value in {
        "partition": "a\nrm",
        "account": "a b",
        "sbatch": ["--x\nrm"],
        "modules": ["a;rm"],
        "setup": ["a\nb"],
        "container": "x\ny",
    }.items():
        with pytest.raises(ValueError, match=key):
            Cluster.model_validate({key: value})


def test_a_tool_gets_any_folder_as_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nipype gives its command lines to a shell."""
    monkeypatch.setenv("FSLDIR", str(put_fsl(tmp_path / "fsl", "6.0.7.4", "bet").parent.parent))
    monkeypatch.chdir(tmp_path)
    context = Context(folder=tmp_path / NAMES, threads=1)
    context.folder.mkdir()
    grid = images.Grid((6, 6, 6), np.eye(4))
    data = np.arange(216, dtype=np.float32).reshape(6, 6, 6)
    made = mask._bet_mask(data, grid, mask.Config(method="bet", bet_fraction=0.4), context)
    assert made.any()
    assert not list(tmp_path.rglob("pwned"))


def test_names_that_break_tables_or_pages_are_refused_and_others_drawn(tmp_path: Path) -> None:
    path = tmp_path / "dseg.tsv"
    for name in ("red\x1b[31m", 'quo"te', "nul\0", "ne\x85xt"):
        for row in (f"1\tfine\t{name}", f"1\t{name}\tfine"):
            path.write_text(f"index\tname\tregion\n{row}\n")
            with pytest.raises(DatasetError) as error:
                read_label_table(path)
            assert code_of(error) == "LABEL_TABLE"
    for name in ("$\\foo{$", "<script>", "../../x", "=1+1", "%s", "{{7*7}}"):
        path.write_text(f"index\tname\n1\t{name}\n")
        assert read_label_table(path)[0].segment.region == name
        with style.style():
            figure = style.new_figure(1, 1)
            figure.add_subplot().set_title(name)
            assert style.encoded(figure, "svg")


def test_what_a_file_is_called_does_not_steer_the_terminal() -> None:
    problem = Problem("X", "what", where="a\x1b]0;owned\x07\nerror Y: told by a name", found="\x9b2J\tb\nc")
    assert "\x1b" not in str(problem) and "\x07" not in str(problem) and "\x9b" not in str(problem)
    assert "\\x1b]0;owned\\x07\\nerror Y" in str(problem)
    assert "\\x9b2J\tb\nc" in str(problem)


def test_a_dataset_of_links_into_an_annex_is_read_as_any_other(tmp_path: Path) -> None:
    skeleton.build(tmp_path / "bids", {"sub-01/dwi/sub-01_dwi": {}})
    plan = [*SOMITE, "plan", str(tmp_path / "bids"), str(tmp_path / "out")]
    plain = call(plan)
    objects = tmp_path / "bids" / ".git" / "annex" / "objects"
    objects.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in (tmp_path / "bids").rglob("*") if p.is_file())):
        key = objects / f"MD5E-{number}{''.join(path.suffixes)}"
        path.rename(key)
        path.symlink_to(os.path.relpath(key, path.parent))
    assert call(plan) == plain
    assert "1 to run" in plain.out
    assert bids.parse_name("../sub-01_dwi.nii.gz") is None
