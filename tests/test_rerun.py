"""A run is repeated from its own record: what has changed is named first, what differs with its reason."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohort import FAST, SOMITE, Cohort, Ran, call

from somite import cli, record, rerun, sameness
from somite.errors import DatasetError, ToolError
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

# One picture of each kind: what is tested is that they are the same again.
SMALL = FAST + "pictures: {planes: {axial: 1, coronal: 1, sagittal: 1}}\n"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """One participant, run at both levels. Copy it, do not change it."""
    cohort = Cohort(tmp_path_factory.mktemp("ran"))
    write_dataset(cohort.bids, participants=1, snr=25.0, grid=lumbar_grid(6))
    cohort.set(SMALL)
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    return cohort


@pytest.fixture
def cohort(ran: Cohort, tmp_path: Path) -> Cohort:
    return ran.copy(tmp_path)


def again(cohort: Cohort, *options: str) -> Ran:
    return call([*SOMITE, "rerun", str(cohort.out), *options])


def changed(cohort: Cohort) -> list[str]:
    finished = rerun.read(cohort.out)
    place = rerun.place_of(finished, cohort.root / "into", "somite rerun")
    return list(rerun.changes(finished, place))


def edit_record(cohort: Cohort, edit: Callable[[dict], None], label: str = "sub-01") -> None:
    path = record.path_of(cohort.out, label)
    stored = json.loads(path.read_text())
    edit(stored)
    path.write_text(json.dumps(stored))


def test_a_rerun_is_equal_to_the_bit_and_leaves_the_output_alone(cohort: Cohort, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in cohort.out.rglob("*") if path.is_file()}
    done = again(cohort, "--into", str(tmp_path / "into"))
    assert done.code == 0, done.out + done.err
    assert "nothing: inputs, options, versions and code are the same" in done.out
    assert done.out.splitlines()[-1] == "rerun: 2 equal, 0 differ"
    assert "to the bit" in done.out
    assert Cohort(tmp_path / "into").root.joinpath("group", "segments.tsv").is_file()
    assert {path: path.read_bytes() for path in cohort.out.rglob("*") if path.is_file()} == before


def test_a_changed_option_is_named_before_and_with_what_differs_after(cohort: Cohort) -> None:
    config = cohort.out / "code" / "config.yaml"
    config.write_text(config.read_text().replace("  method: wls", "  method: ols"))
    done = again(cohort)
    assert done.code == 1, done.out + done.err
    words = "option tensor.method: wls -> ols"
    before, _, after = done.out.partition("sub-01  load")
    assert words in before
    assert "  because: step tensor: " + words in after
    assert "differs: sub-01/dwi/sub-01_space-dwi_model-tensor_param-fa_dwimap.nii.gz: voxels: " in after
    assert "dwi_desc-preproc" not in after, "what comes before the changed step is the same"
    assert done.out.splitlines()[-1] == "rerun: 0 equal, 2 differ"


def test_one_changed_input_byte_is_named(cohort: Cohort) -> None:
    assert changed(cohort) == []
    shutil.rmtree(cohort.root / "into", ignore_errors=True)
    path = cohort.bids / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[-100] ^= 1
    path.write_bytes(gzip.compress(raw))
    assert changed(cohort) == ["input sub-01/dwi/sub-01_dwi.nii.gz changed"]


def test_a_changed_sidecar_is_named(cohort: Cohort) -> None:
    path = cohort.bids / "sub-01" / "dwi" / "sub-01_dwi.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"EchoTime": 0.123}))
    assert "input sidecar changed" in changed(cohort)


def test_one_changed_package_version_is_named_once(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    def older(stored: dict) -> None:
        for step in stored["steps"]:
            step["versions"] = {**step["versions"], "numpy": "1.0"}

    edit_record(cohort, older)
    assert changed(cohort) == [f"version of numpy: 1.0 -> {np.__version__}"]
    assert cli.main(["rerun", str(cohort.out), "--check"]) == 1
    said = capsys.readouterr().out
    assert "version of numpy: 1.0" in said
    assert "load (" not in said, "nothing runs"


def test_changed_code_and_a_new_or_lost_input_are_named(cohort: Cohort) -> None:
    def other(stored: dict) -> None:
        stored["steps"][0]["code"] = "0123"
        stored["inputs"]["sub-01/dwi/lost.bval"] = "00"
        del stored["inputs"]["sub-01/dwi/sub-01_dwi.bvec"]
        stored["software"]["somite"] = "0.0"

    edit_record(cohort, other)
    found = changed(cohort)
    assert "code of step load changed" in found
    assert "input sub-01/dwi/lost.bval is no longer there" in found
    assert "input sub-01/dwi/sub-01_dwi.bvec was not there" in found
    assert found[2].startswith("version of somite: 0.0 -> ")


def test_a_dataset_that_has_moved_is_asked_for(cohort: Cohort, tmp_path: Path) -> None:
    cohort.bids.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="NO_INPUT_DATASET"):
        rerun.read(cohort.out)
    finished = rerun.read(cohort.out, tmp_path / "moved")
    place = rerun.place_of(finished, tmp_path / "into", "")
    assert list(rerun.changes(finished, place)) == []
    with pytest.raises(DatasetError, match="INTO_IN_USE"):
        rerun.place_of(finished, tmp_path, "")


def test_an_output_without_a_finished_session_cannot_be_repeated(cohort: Cohort) -> None:
    edit_record(cohort, lambda stored: stored.update(verdict="failed"))
    with pytest.raises(DatasetError, match="NOTHING_DONE"):
        rerun.read(cohort.out)


def test_results_that_differ_without_a_reason_name_the_step_where_it_begins(cohort: Cohort) -> None:
    """As on another processor: the same inputs, options, versions and code; other bytes."""

    def elsewhere(stored: dict) -> None:
        steps = {step["step"]: step for step in stored["steps"]}
        for made, uses in (("mask", "tensor"), ("tensor", "roi")):
            for product, digest in steps[made]["outputs"].items():
                steps[made]["outputs"][product] = digest[::-1]
                for need, sums in steps[uses]["inputs"].items():
                    steps[uses]["inputs"][need] = [s[::-1] if s == digest else s for s in sums]
        stored["processor"] = "another"

    new = record.read(record.path_of(cohort.out, "sub-01"))
    assert new is not None
    edit_record(cohort, elsewhere)
    old = record.read(record.path_of(cohort.out, "sub-01"))
    assert old is not None
    (reason,) = rerun._causes(old, new)
    assert reason.startswith("step mask: another result from the same inputs")
    assert "processor: another -> " in reason


def test_an_edited_output_is_not_taken_for_the_recorded_one(cohort: Cohort) -> None:
    path = cohort.out / "group" / "segments.tsv"
    finished = rerun.read(cohort.out)
    place = rerun.place_of(finished, cohort.root / "into", "")
    shutil.copytree(cohort.out, place.out_dir)
    assert all(item.same for item in rerun.outcomes(finished, place, finished.records))
    path.write_text(path.read_text().replace("fa", "xx", 1))
    found = {item.label: item for item in rerun.outcomes(finished, place, finished.records)}
    assert found["sub-01"].same
    assert "it was edited" in found["group"].files["group/segments.tsv"].found


# Values


def maps(folder: Path, a: np.ndarray, b: np.ndarray) -> tuple[Path, Path]:
    paths = folder / "a.nii.gz", folder / "b.nii.gz"
    for path, data in zip(paths, (a, b), strict=True):
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), path)
    return paths


@pytest.mark.parametrize(("factor", "state"), [(1, "equal"), (1 + 3e-6, "close"), (1 + 3e-4, "differs")])
def test_maps_of_another_processor_may_differ_a_little(tmp_path: Path, factor: float, state: str) -> None:
    data = np.random.default_rng(1).uniform(1, 2, (5, 4, 3))
    a, b = maps(tmp_path, data, data * factor)
    assert sameness.compare(a, b, exact=False).state == state
    assert sameness.compare(a, b, exact=True).state == ("equal" if factor == 1 else "differs")


def test_how_a_file_is_compressed_does_not_count(tmp_path: Path) -> None:
    for name, level in (("a.nii.gz", 1), ("b.nii.gz", 9)):
        (tmp_path / name).write_bytes(gzip.compress(bytes(range(256)) * 99, level))
    assert sameness.compare(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", exact=True).state == "equal"


@pytest.mark.parametrize("extension", [".tsv", ".parquet"])
def test_tables_of_another_processor_may_differ_a_little_and_not_in_words(
    tmp_path: Path, extension: str
) -> None:
    frame = pd.DataFrame({"region": ["root", "disc"], "value": ["0.4", "n/a"], "n": [3.0, 7.0]})
    close, other = frame.copy(), frame.copy()
    close.loc[0, "value"] = "0.400001"
    close.loc[1, "n"] = 7.00001
    other.loc[1, "region"] = "canal"
    for name, table in (("a", frame), ("close", close), ("other", other)):
        path = tmp_path / f"{name}{extension}"
        table.to_csv(path, sep="\t", index=False) if extension == ".tsv" else table.to_parquet(path)
    a = tmp_path / f"a{extension}"
    assert sameness.compare(a, tmp_path / f"close{extension}", exact=False).state == "close"
    found = sameness.compare(a, tmp_path / f"other{extension}", exact=False)
    assert found.state == "differs"
    assert "disc -> canal" in found.found


def test_what_is_neither_map_nor_table_is_held_to_the_bit_or_not_compared(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.zip").write_text(name)
    assert sameness.compare(tmp_path / "a.zip", tmp_path / "b.zip", exact=False).state == "not compared"
    assert sameness.compare(tmp_path / "a.zip", tmp_path / "b.zip", exact=True).state == "differs"


# Inside of the recorded image


def test_without_a_recorded_image_the_reason_is_said(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rerun", str(cohort.out), "--image"]) == 2
    told = capsys.readouterr().err
    assert "NO_IMAGE" in told and "--image IMAGE" in told


@pytest.mark.parametrize(
    ("runtime", "image", "words"),
    [
        ("apptainer", "/images/somite.sif", ["exec", "--containall", "--bind={bids}:{bids}:ro"]),
        (
            "docker",
            "example.org/somite@sha256:00",
            ["--network=none", "--volume={out}:{out}:ro", f"--user={os.getuid()}:{os.getgid()}"],
        ),
        # The user of podman is root inside, whoever he is outside.
        ("podman", "localhost/somite:1", ["--network=none", "--volume={out}:{out}:ro", "--user=0:0"]),
    ],
)
def test_the_recorded_image_is_called_and_the_command_line_is_shown(
    runtime: str,
    image: str,
    words: list[str],
    cohort: Cohort,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = tmp_path / "bin" / runtime
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    edit_record(cohort, lambda stored: stored["software"].update(container=image))
    assert cli.main(["rerun", str(cohort.out), "--image", "--n-procs", "2"]) == 0
    called = (tmp_path / "called").read_text()
    assert called.strip() in capsys.readouterr().out
    for word in (*words, image, "rerun {out} --bids-dir {bids}", "--n-procs 2"):
        assert word.format(bids=cohort.bids, out=cohort.out) in called
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="NO_RUNTIME"):
        rerun.container_command(rerun.read(cohort.out), tmp_path / "into")


@pytest.mark.parametrize(("podman_has_it", "runtime"), [(True, "podman"), (False, "docker")])
def test_an_image_that_is_named_is_run_by_what_has_it(
    podman_has_it: bool, runtime: str, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where docker is a client without an engine; an image that nobody has is docker's to fetch."""
    for name, status in (("docker", 1), ("podman", 0 if podman_has_it else 1)):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\nexit {status}\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    words = rerun.container_command(rerun.read(cohort.out), tmp_path / "into", image="other:2")
    assert words[:2] == [runtime, "run"]
    assert "other:2" in words
    assert "--env=SOMITE_IMAGE=other:2" in words


@pytest.mark.slow
def test_a_whole_session_gives_the_same_bits_for_any_number_of_threads(ran: Cohort, tmp_path: Path) -> None:
    every = SMALL + "eddy: {method: builtin}\nbias: {method: n4}\ntrack: {method: probabilistic}\n"
    results = []
    for cores in ("1", "2", "8"):
        cohort = Cohort(tmp_path / cores)
        shutil.copytree(ran.bids, cohort.bids)
        cohort.set(every.replace("eddy: {method: none}\n", ""))
        done = cohort.run(options=("--n-procs", cores))
        assert done.code == 0, done.out + done.err
        threads = json.loads(record.path_of(cohort.out, "sub-01").read_text())["threads"]
        assert threads == int(cores)
        results.append(cohort.results())
    assert results[0] == results[1] == results[2]
