"""The whole path, as a user goes it: what reruns, what fails alone, what an interruption costs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort import FAST, SOMITE, Cohort, call
from fakes import put_script

from somite.review import verdicts

STEPS = 15
"""Steps of a session."""
TRACK = "track: {method: deterministic, seeds_per_voxel: 1}\n"
GROUP = 4
"""Steps of the group level."""
EVERYTHING = 4 * STEPS + GROUP
"""Steps of the cohort: four sessions and the group."""


@pytest.fixture
def cohort(finished: Cohort, tmp_path: Path) -> Cohort:
    """A finished cohort of the test's own."""
    return finished.copy(tmp_path)


def test_the_first_run_runs_everything_and_makes_the_tables(finished: Cohort) -> None:
    table = finished.table()
    assert set(table["participant_id"]) == {"sub-01", "sub-02", "sub-03", "sub-04"}
    assert {"nerve_root", "disc", "canal", "multifidus"} <= set(table["region"])
    status = finished.table("status")
    assert list(status["verdict"]) == ["done"] * 4
    assert list(status["steps_run"]) == [STEPS] * 4
    assert (finished.out / "group" / "segments.parquet").stat().st_size > 0
    assert len(finished.table("segments_wide")) == 4


def test_a_second_run_executes_nothing(cohort: Cohort) -> None:
    again = cohort.run()
    assert again.code == 0, again.err
    assert again.steps == (0, EVERYTHING, 0)


def test_a_home_that_cannot_be_written_is_not_needed(cohort: Cohort) -> None:
    """As that of a user whom a container or a node does not know."""
    again = call(cohort.command("participant", "group"), HOME="/proc/nowhere", XDG_CACHE_HOME="")
    assert again.code == 0, again.err
    assert again.steps == (0, EVERYTHING, 0)


def test_a_moved_work_folder_and_output_execute_nothing(cohort: Cohort) -> None:
    before = cohort.results()
    (cohort.out / ".work").rename(cohort.root / "elsewhere")
    shutil.rmtree(cohort.out)
    moved = cohort.run(options=("--work-dir", str(cohort.root / "elsewhere")))
    assert moved.steps == (0, EVERYTHING, 0)
    assert cohort.results() == before


def test_touched_and_copied_inputs_execute_nothing(cohort: Cohort, tmp_path: Path) -> None:
    for path in cohort.bids.rglob("*"):
        os.utime(path)
    assert cohort.run().steps == (0, EVERYTHING, 0)
    shutil.copytree(cohort.bids, tmp_path / "copy")
    shutil.rmtree(cohort.bids)
    (tmp_path / "copy").rename(tmp_path / "bids")
    assert cohort.run().steps == (0, EVERYTHING, 0)


def test_an_option_reruns_its_step_and_what_follows_and_back_again_nothing(cohort: Cohort) -> None:
    cohort.set(FAST + "tensor: {method: ols}\n")
    changed = cohort.run()
    # The labels here are segments: no whole root has a profile, and their table stays as it was.
    assert changed.steps == (4 * 7 + GROUP - 1, EVERYTHING - 4 * 7 - GROUP + 1, 0)
    follow = {"tensor", "gradient_orientation", "qc", "profile", "roi", "derived", "pictures"}
    assert follow | {"table", "reference", "qc_table"} == {
        line.split()[1] for line in changed.out.splitlines() if " (" in line and " s)" in line
    }
    cohort.set(FAST)
    assert cohort.run().steps == (0, EVERYTHING, 0)


def test_an_edited_gradient_table_reruns_only_its_participant(cohort: Cohort) -> None:
    cohort.run()  # where the copy lies is new: its files are read once for their checksums
    bvec = cohort.bids / "sub-03" / "dwi" / "sub-03_dwi.bvec"
    rows = np.loadtxt(bvec)
    np.savetxt(bvec, -rows, fmt="%.6f")
    planned = cohort.plan()
    assert "runs:   load: input bvec changed" in planned.out
    done = cohort.run("participant")
    assert done.steps[0] < STEPS
    assert done.steps[1] > 3 * STEPS
    assert "sub-03  load" in done.out
    assert not [line for line in done.out.splitlines() if line.startswith("sub-01  load")]


def test_the_plan_says_what_is_cached_and_what_would_run(cohort: Cohort) -> None:
    assert "load: input bval changed or was not read before" in cohort.plan().out
    cohort.run()
    assert f"steps: 0 to run, {4 * STEPS} cached" in cohort.plan().out
    cohort.set(FAST + "tensor: {method: ols}\n")
    planned = cohort.plan()
    assert "runs:   tensor: option tensor.method: wls -> ols" in planned.out
    assert "runs:   roi: follows a step that runs" in planned.out


def test_a_corrupt_participant_fails_alone_and_after_repair_runs_alone(
    pristine: Cohort, tmp_path: Path
) -> None:
    cohort = pristine.copy(tmp_path)
    image = cohort.bids / "sub-02" / "dwi" / "sub-02_dwi.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    first = cohort.run()
    assert first.code == 1
    assert first.out.splitlines()[-1].startswith("sessions: 3 done, 1 failed")
    status = cohort.table("status").set_index("participant_id")
    assert status.loc["sub-02", "verdict"] == "failed"
    assert "sub-02_dwi.nii.gz" in status.loc["sub-02", "reason"]
    assert not (cohort.out / "sub-02").exists()
    assert set(cohort.table()["participant_id"]) == {"sub-01", "sub-03", "sub-04"}
    assert call([*SOMITE, "status", str(cohort.out)]).code == 1
    image.write_bytes(whole)
    repaired = cohort.run()
    assert repaired.code == 0
    assert repaired.steps == (STEPS + GROUP, 3 * STEPS, 0)
    assert call([*SOMITE, "status", str(cohort.out)]).code == 0


def test_a_session_whose_step_fails_brings_up_the_reason(pristine: Cohort, tmp_path: Path) -> None:
    cohort = pristine.copy(tmp_path)
    path = cohort.bids / "sub-04" / "dwi" / "sub-04_dwi.nii.gz"
    image = nib.load(path)
    data = np.asarray(image.dataobj).astype(np.float32)
    data[..., 5] = np.nan
    nib.save(nib.Nifti1Image(data, image.affine), path)
    done = cohort.run()
    assert done.code == 1
    assert done.steps[2] == 1
    reason = cohort.table("status").set_index("participant_id").loc["sub-04", "reason"]
    assert "NONFINITE_VOLUME" in reason
    assert "5" in reason
    assert not (cohort.out / "sub-04").exists()
    deep = cohort.plan("--deep")
    assert "NONFINITE_VOLUME" in deep.out
    assert deep.code == 1


def test_stop_on_first_crash_ends_the_others(pristine: Cohort, tmp_path: Path) -> None:
    cohort = pristine.copy(tmp_path)
    (cohort.bids / "sub-01" / "dwi" / "sub-01_dwi.bval").unlink()
    done = cohort.run("participant", options=("--stop-on-first-crash",))
    assert done.code == 1
    assert not list(cohort.out.glob("sub-0[234]"))


def test_asking_for_a_participant_who_is_not_there_is_a_mistake_of_use(cohort: Cohort) -> None:
    done = cohort.run(options=("--participant-label", "01", "05"))
    assert done.code == 2
    assert "NO_SUCH_PARTICIPANT" in done.err
    assert "05" in done.err


def test_only_the_participants_asked_for_run(pristine: Cohort, tmp_path: Path) -> None:
    cohort = pristine.copy(tmp_path)
    done = cohort.run("participant", options=("--participant-label", "sub-02", "03"))
    assert done.code == 0
    assert done.steps == (2 * STEPS, 0, 0)
    assert sorted(p.name for p in cohort.out.glob("sub-*/")) == ["sub-02", "sub-03"]


def test_an_element_of_an_array_leaves_the_page_of_the_cohort_to_the_others(cohort: Cohort) -> None:
    (cohort.out / "index.html").unlink()
    assert cohort.run("participant", options=("--only", "sub-01")).steps == (0, STEPS, 0)
    assert not (cohort.out / "index.html").exists()
    cohort.run("participant")
    assert "sub-04" in (cohort.out / "index.html").read_text()


def test_too_little_memory_refuses_in_words(cohort: Cohort) -> None:
    cohort.set(FAST + "tensor: {method: ols}\n")
    done = cohort.run("participant", options=("--mem-gb", "0.1"))
    assert done.code == 1
    assert "--mem-gb" in json.dumps(json.loads((cohort.out / "logs" / "sub-01.json").read_text()))
    assert "GB needed" in done.out


def test_sessions_made_with_other_options_stay_out_of_the_table(cohort: Cohort) -> None:
    cohort.set(FAST + "tensor: {method: ols}\n")
    cohort.run("participant", options=("--participant-label", "01"))
    done = cohort.run("group")
    assert done.code == 1
    assert list(cohort.table("status")["verdict"]) == ["done", "outdated", "outdated", "outdated"]
    assert set(cohort.table()["participant_id"]) == {"sub-01"}


def add_reverse_image(cohort: Cohort, readout_s: float | None) -> None:
    """Give sub-01 an image of the opposite phase encoding, and its sidecars this readout time."""
    series = cohort.bids / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    sidecar = series.with_name("sub-01_dwi.json")
    about = json.loads(sidecar.read_text()) | {"TotalReadoutTime": readout_s}
    about = {k: v for k, v in about.items() if v is not None and k != "EffectiveEchoSpacing"}
    sidecar.write_text(json.dumps(about))
    image = nib.load(series)
    target = cohort.bids / "sub-01" / "fmap" / "sub-01_dir-PA_epi.nii.gz"
    target.parent.mkdir()
    first = np.asarray(image.dataobj)[..., 0]
    nib.save(nib.Nifti1Image(np.roll(first, 1, 1), image.affine), target)
    other = about | {"PhaseEncodingDirection": "j", "IntendedFor": "bids::sub-01/dwi/sub-01_dwi.nii.gz"}
    target.with_name("sub-01_dir-PA_epi.json").write_text(json.dumps(other))


@pytest.mark.parametrize(("readout_s", "units"), [(0.05, "Hz"), (None, "voxels of displacement")])
def test_a_reverse_image_gives_a_field_map_in_its_units(
    readout_s: float | None, units: str, pristine: Cohort, tmp_path: Path
) -> None:
    """The image lies one voxel beside the series: half a voxel each, in opposite directions."""
    cohort = pristine.copy(tmp_path)
    add_reverse_image(cohort, readout_s)
    cohort.set("extends: lumbar\neddy: {method: rigid}\n")
    done = cohort.run("participant", options=("--participant-label", "01"))
    assert done.code == 0, done.out + done.err
    assert done.steps == (STEPS + 1, 0, 0)
    (field,) = cohort.out.glob("sub-*/dwi/*_fieldmap.nii.gz")
    about = json.loads(field.with_name(field.name.replace(".nii.gz", ".json")).read_text())
    assert about["Units"] == units
    assert "bids:raw:sub-01/fmap/sub-01_dir-PA_epi.nii.gz" in about["Sources"]
    mask = nib.load(cohort.out / "sub-01/dwi/sub-01_space-dwi_mask.nii.gz").get_fdata() > 0
    shift = nib.load(field).get_fdata()[mask] * (readout_s or 1)
    assert np.median(shift) == pytest.approx(0.5, abs=0.05)
    # Without its reverse image the session is run without, and what it gave is taken away.
    shutil.rmtree(cohort.bids / "sub-01" / "fmap")
    cohort.run("participant", options=("--participant-label", "01"))
    assert not list(cohort.out.glob("sub-*/dwi/*_fieldmap.*"))


def test_the_output_is_valid_bids_and_ignores_only_what_bids_does_not_know(
    cohort: Cohort, need_tool: object
) -> None:
    validator = need_tool("bids-validator-deno")  # type: ignore[operator]
    add_reverse_image(cohort, 0.05)
    verdicts.append(cohort.out, verdicts.row("me", ("sub-01", "", ""), "pass"))
    cohort.set("extends: lumbar\neddy: {method: rigid}\nbias: {method: n4}\n" + TRACK)
    done = cohort.run(options=("--participant-label", "01"))
    assert done.code == 0, done.out + done.err
    done = call([str(validator), str(cohort.out), "--json"])
    issues = json.loads(done.out)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    ignored = (cohort.out / ".bidsignore").read_text().split()
    assert ignored == [
        "*_dwimap.nii.gz",
        "*_dwimap.json",
        "*_desc-preproc_dwi.bval",
        "*_desc-preproc_dwi.bvec",
        "*_dwiref.nii.gz",
        "*_dwiref.json",
        "*_fieldmap.nii.gz",
        "*_fieldmap.json",
        "*_stats.tsv",
        "*_stats.json",
        "*_motion.*",
        "*_outliers.*",
        "*_distortion.*",
        "*_tractogram.trk",
        "*_desc-tracts_probseg.*",
        "figures",
        "/group",
        "/qc",
        "/index.html",
        "/sub-*.html",
    ]
    for pattern in ignored:
        assert list(cohort.out.rglob(pattern.strip("/"))), f"{pattern} ignores nothing"


def test_what_says_nothing_is_not_delivered(finished: Cohort) -> None:
    """Of methods that are none: a motion of zeros, a bias field of ones."""
    names = {path.name.partition("_")[2] for path in finished.out.glob("sub-01/dwi/*")}
    assert {"desc-qc_stats.tsv", "desc-bveccheck_stats.tsv", "desc-preproc_dwi.nii.gz"} <= names
    assert not {"motion.tsv", "outliers.tsv", "space-dwi_param-bias_dwimap.nii.gz"} & names


def test_the_quality_numbers_of_all_sessions_are_in_one_table(finished: Cohort) -> None:
    numbers = finished.table("qc")
    assert list(numbers["participant_id"].unique()) == ["sub-01", "sub-02", "sub-03", "sub-04"]
    wide = finished.table("qc_wide")
    assert set(wide["verdict"]) <= {"pass", "warn"}
    assert wide["snr_b0"].astype(float).between(2, 8).all()


def test_dividing_by_a_bias_field_leaves_fa_and_the_snr_as_they_are(cohort: Cohort) -> None:
    """The noise was estimated before: the signal that it is held against is that of then."""
    keys = ["region", "side", "level", "segment", "metric", "statistic"]
    before = cohort.table()
    cohort.set(FAST + "bias: {method: n4}\n")
    done = cohort.run(options=("--participant-label", "01"))
    assert done.code == 0, done.out + done.err
    both = before[before["participant_id"] == "sub-01"].merge(cohort.table(), on=keys)
    fa = both[(both["metric"] == "fa") & (both["value_x"] != "n/a")]
    np.testing.assert_allclose(fa["value_x"].astype(float), fa["value_y"].astype(float), atol=1e-4)
    np.testing.assert_allclose(fa["snr_x"].astype(float), fa["snr_y"].astype(float), rtol=1e-4)


def test_a_container_of_the_yaml_reaches_the_session(
    pristine: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session is a process that did not inherit what the command line knows."""
    cohort = pristine.copy(tmp_path)
    words = tmp_path / "inside"
    words.write_text('#!/bin/sh\necho "$@" >> ' + f"{tmp_path}/called\n" + 'exec "$@"\n')
    words.chmod(0o755)
    put_script(tmp_path / "bin/mrdegibbs", 'echo "== mrdegibbs 3.0.4 =="; for i; do in=$out; out=$i; done')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    cohort.set(FAST + f"degibbs: {{method: mrdegibbs}}\ntools: {{mrtrix3: {{container: {words}}}}}\n")
    done = cohort.run("participant", options=("--participant-label", "01"))
    assert done.code == 1
    assert "TOOL_OUTPUT_MISSING" in done.out
    assert "-nthreads" in (tmp_path / "called").read_text()


def test_the_effective_configuration_runs_to_the_same_result(cohort: Cohort) -> None:
    shutil.copy(cohort.out / "code" / "config.yaml", cohort.config)
    assert cohort.run().steps == (0, EVERYTHING, 0)


def test_images_have_sidecars_with_sources_units_and_versions(finished: Cohort) -> None:
    stem = finished.out / "sub-01" / "dwi" / "sub-01_space-dwi_model-tensor_param-md_dwimap"
    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["Units"] == "mm^2/s"
    assert "bids:raw:sub-01/dwi/sub-01_dwi.nii.gz" in sidecar["Sources"]
    assert sidecar["Options"]["method"] == "wls"
    assert "numpy" in sidecar["Versions"]


def test_every_table_of_a_session_says_what_its_columns_mean(finished: Cohort) -> None:
    folder = finished.out / "sub-01" / "dwi"
    tables = [path for path in folder.glob("*.tsv") if not path.name.endswith("_dseg.tsv")]
    assert len(tables) >= 6
    for path in tables:
        words = json.loads(path.with_suffix(".json").read_text())
        header = path.read_text().splitlines()[0].split("\t")
        assert [name for name in header if not words.get(name, {}).get("Description")] == [], path.name


def processes_of(cohort: Cohort) -> list[str]:
    """Command lines of live processes that name this cohort, and of what they started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"SOMITE_TEST_MARK={cohort.root}".encode() in environment and state != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def start(cohort: Cohort) -> subprocess.Popen[str]:
    return subprocess.Popen(
        cohort.command("participant", "group"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOMITE_TEST_MARK": str(cohort.root)},
        start_new_session=True,
    )


def wait_for_a_step(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def no_process_within(cohort: Cohort, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while processes_of(cohort):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_soon_leaves_no_process_and_the_next_run_goes_on(
    number: signal.Signals, pristine: Cohort, finished: Cohort, tmp_path: Path
) -> None:
    cohort = pristine.copy(tmp_path)
    process = start(cohort)
    wait_for_a_step(process)
    os.kill(process.pid, number)
    process.communicate(timeout=5)
    assert process.returncode == 130
    assert no_process_within(cohort, 1), processes_of(cohort)
    done = cohort.run()
    assert done.code == 0
    assert done.steps[1] > 0
    assert cohort.results() == finished.results()


@pytest.mark.parametrize("child", ["sleep 300", "setsid sleep 300"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_tool_that_runs_ends_with_the_run(
    number: signal.Signals, child: str, pristine: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 7 of Pydra: its pool's workers, and what they started, outlive a killed driver."""
    cohort = pristine.copy(tmp_path)
    cohort.set("extends: lumbar\neddy: {method: fsl}\n")
    tool = tmp_path / "bin" / "eddy"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n[ $1 = --version ] && exit\ntouch {tmp_path}/started\n{child}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    process = start(cohort)
    wait_until(lambda: (tmp_path / "started").exists())
    wait_until(lambda: any("sleep" in command for command in processes_of(cohort)))
    os.kill(process.pid, number)
    process.communicate(timeout=5)
    assert no_process_within(cohort, 5), processes_of(cohort)


@pytest.mark.slow
def test_ten_kills_in_a_row_then_a_run_equal_an_undisturbed_run_to_the_bit(
    pristine: Cohort, finished: Cohort, tmp_path: Path
) -> None:
    cohort = pristine.copy(tmp_path)
    dice = random.Random(7)
    for _ in range(10):
        process = start(cohort)
        time.sleep(dice.uniform(0.5, 6.0))
        process.kill()
        process.communicate()
        assert no_process_within(cohort, 5), processes_of(cohort)
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    assert cohort.results() == finished.results()
    assert cohort.run().steps == (0, EVERYTHING, 0)


@pytest.mark.slow
def test_two_runs_at_once_end_with_equal_results_and_each_step_once(
    pristine: Cohort, finished: Cohort, tmp_path: Path
) -> None:
    cohort = pristine.copy(tmp_path)
    both = [start(cohort), start(cohort)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = [line for out in outs for line in out.splitlines() if line.endswith(" s)")]
    assert len(lines) == len({" ".join(line.split()[:2]) for line in lines}) == EVERYTHING
    assert cohort.results() == finished.results()


def test_results_do_not_depend_on_the_cores(pristine: Cohort, finished: Cohort, tmp_path: Path) -> None:
    cohort = pristine.copy(tmp_path)
    cohort.run(options=("--n-procs", "1"))
    assert cohort.results() == finished.results()


def test_nothing_identifying_and_no_machine_path_is_written(finished: Cohort) -> None:
    home = str(finished.root).encode()
    for path in [*finished.out.rglob("*.json"), *finished.out.rglob("*.tsv")]:
        if path.relative_to(finished.out).parts[0] not in (".work", "logs"):
            named = home in path.read_bytes()
            assert not named or path.name == "dataset_description.json", path


def test_the_group_level_sees_that_an_input_changed_since(cohort: Cohort) -> None:
    bvec = cohort.bids / "sub-03" / "dwi" / "sub-03_dwi.bvec"
    np.savetxt(bvec, -np.loadtxt(bvec), fmt="%.6f")
    done = cohort.run("group")
    assert done.code == 1
    status = cohort.table("status").set_index("participant_id")
    assert list(status["verdict"]) == ["done", "done", "outdated", "done"]
    assert "sub-03_dwi.bvec changed since" in status.loc["sub-03", "reason"]
    assert "sub-03" not in set(cohort.table()["participant_id"])


def test_the_group_level_leaves_a_table_alone_when_nobody_is_done(cohort: Cohort) -> None:
    before = (cohort.out / "group" / "segments.tsv").read_bytes()
    cohort.set(FAST + "tensor: {method: ols}\n")
    done = cohort.run("group")
    assert done.code == 2
    assert "NOBODY_DONE" in done.err
    assert (cohort.out / "group" / "segments.tsv").read_bytes() == before


def test_the_input_or_another_dataset_is_never_written_into(cohort: Cohort, tmp_path: Path) -> None:
    description = cohort.bids / "dataset_description.json"
    before = description.read_bytes()
    done = call([*SOMITE, "run", str(cohort.bids), str(cohort.bids), "participant", "-c", str(cohort.config)])
    assert done.code == 2
    assert "OUT_IS_A_DATASET" in done.err
    assert description.read_bytes() == before
    assert not (cohort.bids / ".work").exists()


def test_a_folder_called_somite_in_the_way_does_no_harm(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "stand" / "somite").mkdir(parents=True)
    script = Path(sys.executable).parent / "somite"
    command = [str(script), *cohort.command("participant")[len(SOMITE) :]]
    done = subprocess.run(command, cwd=tmp_path / "stand", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reader_that_goes_away_does_not_end_the_run(pristine: Cohort, tmp_path: Path) -> None:
    cohort = pristine.copy(tmp_path)
    command = " ".join(cohort.command("participant"))
    subprocess.run(f"{command} | head -n 1", shell=True, check=True, capture_output=True)
    again = cohort.run("participant")
    assert again.steps == (0, 4 * STEPS, 0)


def test_an_input_that_is_a_link_to_a_file_of_another_name(pristine: Cohort, tmp_path: Path) -> None:
    """As in annexed datasets: the target has no extension."""
    cohort = pristine.copy(tmp_path)
    for number, path in enumerate(sorted((cohort.bids / "sub-01" / "dwi").iterdir())):
        target = tmp_path / "annex" / f"SHA256-{number}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        path.symlink_to(target)
    done = cohort.run("participant", options=("--participant-label", "01"))
    assert done.code == 0, done.out + done.err


def test_an_output_that_cannot_be_written_is_a_mistake_in_words(cohort: Cohort, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call(
        [*SOMITE, "run", str(cohort.bids), str(tmp_path / "file"), "participant", "-c", str(cohort.config)]
    )
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "FILE_ERROR" in done.err


def test_status_names_the_sessions_that_an_interrupted_run_did_not_finish(
    pristine: Cohort, tmp_path: Path
) -> None:
    cohort = pristine.copy(tmp_path)
    process = start(cohort)
    wait_for_a_step(process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=5)
    status = call([*SOMITE, "status", str(cohort.out)])
    assert status.code == 1
    assert "not finished" in status.out
    assert "sub-04" in status.out
