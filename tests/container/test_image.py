"""The images, built and run for real, give what a run outside gives. `make test-container` runs it.

As root: with a Docker engine, or with buildah and podman. Their storage is kept in SOMITE_CONTAINER_DIR, else
in build/container, so that the base image is fetched or made once.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import definition
import pytest
from cohort import SOMITE, Cohort, Ran, call

import somite
from somite import record
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TAG = "localhost/somite-test:1"
APPTAINER_TAG = "localhost/somite-apptainer-test:1"
REVISION = "0123456789abcdef"
LARGEST = 1.5e9
SEALED = (
    *("--rm", "--network=none", "--read-only", "--tmpfs=/tmp:rw,mode=1777"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
)
PROTOCOL = """\
extends: lumbar
labels: {folder: derivatives/labels}
pictures: {planes: {axial: 1, coronal: 1, sagittal: 1}}
"""
OWN = "10001:10001"
"""The user that the image names."""

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def engine(need_tool: Callable[[str], Path]) -> Iterator[str]:
    """`docker` or `podman`, which has the image of this checkout."""
    if os.getuid() != 0:
        pytest.skip("builds images, and gives folders to other users, as root")
    folder = Path(os.environ.get("SOMITE_CONTAINER_DIR", ROOT / "build" / "container")).resolve()
    with pytest.MonkeyPatch.context() as patch:
        if call(["docker", "info"]).code != 0:
            for tool in ("buildah", "podman", "runc", "debootstrap"):
                need_tool(tool)
            patch.setenv("CONTAINERS_STORAGE_CONF", str(folder / "storage.conf"))
            patch.setenv("CONTAINERS_CONF", str(folder / "containers.conf"))
        script = ["bash", str(HERE / "rehearse.sh"), str(folder), str(ROOT), TAG]
        built = call(script, VERSION=somite.__version__, VCS_REF=REVISION)
        assert built.code == 0, built.err
        yield built.out.strip()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two participants of coarse voxels, run on this machine by the whole protocol."""
    cohort = Cohort(tmp_path_factory.mktemp("outside"))
    write_dataset(cohort.bids, participants=2, snr=25.0, grid=lumbar_grid(4.5))
    cohort.set(PROTOCOL)
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    return cohort


@dataclass
class Inside:
    """What a container made of the same dataset."""

    cohort: Cohort
    done: Ran
    user: str
    before: dict[str, str]


@pytest.fixture(scope="module", params=[OWN, "54321:54321"])
def inside(
    request: pytest.FixtureRequest, engine: str, outside: Cohort, tmp_path_factory: pytest.TempPathFactory
) -> Inside:
    """The image as a BIDS App: by its own user, told of its name, and by a user that it does not know."""
    cohort = Cohort(tmp_path_factory.mktemp("inside"))
    shutil.copytree(outside.bids, cohort.bids)
    cohort.set(PROTOCOL)
    uid, gid = map(int, request.param.split(":"))
    cohort.out.mkdir()
    os.chown(cohort.out, uid, gid)
    who = [f"--env=SOMITE_IMAGE={TAG}"] if request.param == OWN else [f"--user={request.param}"]
    before = sums(cohort.bids)
    binds = [f"-v={cohort.bids}:/data/in:ro", f"-v={cohort.out}:/data/out", f"-v={cohort.config}:/c.yaml:ro"]
    arguments = ["/data/in", "/data/out", "participant", "group", "-c", "/c.yaml"]
    done = call([engine, "run", *SEALED, *who, *binds, TAG, *arguments])
    return Inside(cohort, done, request.param, before)


def sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def results(cohort: Cohort) -> dict[str, bytes]:
    """Every table, map, figure and text; the methods text tells the patch release of Python."""
    found = cohort.results()
    found["group/methods.md"] = re.sub(rb"under Python 3\.11\.\d+", b"", found["group/methods.md"])
    return found


def said(engine: str, cohort: Cohort, mode: str, *words: str) -> Ran:
    """Another command than `run`, in the image, as the owner of the output."""
    user = f"--user={cohort.out.stat().st_uid}:{cohort.out.stat().st_gid}"
    bind = f"-v={cohort.out}:/data/out:{mode}"
    return call([engine, "run", *SEALED, user, bind, "--entrypoint=somite", TAG, *words])


def test_the_tables_and_maps_are_those_of_a_run_outside_to_the_bit(inside: Inside, outside: Cohort) -> None:
    assert inside.done.code == 0, inside.done.out + inside.done.err
    one, other = (record.read(record.path_of(c.out, "sub-01")) for c in (inside.cohort, outside))
    assert one is not None and other is not None
    assert one.processor_flags == other.processor_flags
    found, expected = results(inside.cohort), results(outside)
    assert "group/segments.tsv" in found
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def test_input_is_left_alone_and_all_belongs_to_the_user(inside: Inside) -> None:
    assert sums(inside.cohort.bids) == inside.before
    made = list(inside.cohort.out.rglob("*"))
    assert {f"{path.lstat().st_uid}:{path.lstat().st_gid}" for path in made} == {inside.user}
    assert inside.done.err == "", "nothing was refused a place to write to"


def test_status_and_report_in_the_image(inside: Inside, engine: str) -> None:
    status = said(engine, inside.cohort, "ro", "status", "/data/out")
    assert status.code == 0, status.out + status.err
    assert re.search(r"^sub-02 +done ", status.out, re.MULTILINE)
    report = said(engine, inside.cohort, "rw", "report", "/data/out")
    assert report.code == 0, report.err
    assert "0 written, 3 unchanged" in report.out


def test_a_rerun_in_the_recorded_image_or_the_one_that_is_named(inside: Inside, engine: str) -> None:
    again = [*SOMITE, "rerun", str(inside.cohort.out), "--bids-dir", str(inside.cohort.bids), "--image"]
    done = call(again)
    if inside.user == OWN:
        assert done.code == 0, done.out + done.err
        assert f"{engine} run " in done.out
        assert "nothing: inputs, options, versions and code are the same" in done.out
        assert done.out.splitlines()[-1] == "rerun: 3 equal, 0 differ"
    else:
        assert "NO_IMAGE" in done.err and "--image IMAGE" in done.err
        named = call([*again, TAG, "--check"])
        (change,) = named.out.split("has changed:\n")[1].splitlines()
        assert change.strip() == f"version of container: absent -> {TAG}"


def test_elements_of_an_array_run_in_it(engine: str, outside: Cohort, tmp_path: Path) -> None:
    """The commands that `submit` gives to a cluster."""
    run_elements(outside, tmp_path, f"{engine} run --rm --network none {TAG}")


def run_elements(outside: Cohort, folder: Path, container: str) -> None:
    cohort = Cohort(folder)
    shutil.copytree(outside.bids, cohort.bids)
    cohort.set(PROTOCOL + f"cluster: {{container: {container}, group: {{memory_gb: 4}}}}\n")
    where = [str(cohort.bids), str(cohort.out), "-c", str(cohort.config)]
    listed = call([*SOMITE, "submit", *where, "--print-commands"])
    elements = listed.out.splitlines()
    last = listed.err.strip().splitlines()[-1]
    assert len(elements) == 2, listed.err
    for command in (*elements, last[last.index(shlex.split(container)[0]) :]):
        done = call(["bash", "-c", command])
        assert done.code == 0, command + done.out + done.err
    found, expected = results(cohort), results(outside)
    assert [name for name in expected if found.get(name) != expected[name]] == []
    assert (cohort.out / "group" / "segments.tsv").stat().st_uid == os.getuid()


def test_every_module_finds_its_libraries(engine: str) -> None:
    script = (
        "import importlib, pkgutil, somite\n"
        "for module in pkgutil.walk_packages(somite.__path__, 'somite.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    done = call([engine, "run", *SEALED, "--user=7:7", "--entrypoint=python", TAG, "-c", script])
    assert done.code == 0, done.err


def test_size_and_labels(engine: str) -> None:
    (image,) = json.loads(call([engine, "image", "inspect", TAG]).out)
    assert image["Size"] < LARGEST
    labels = image["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    about = configparser.ConfigParser()
    about.read(ROOT / "setup.cfg")
    assert labels[f"{prefix}title"] == about["metadata"]["name"]
    assert labels[f"{prefix}description"] == about["metadata"]["description"]
    assert labels[f"{prefix}licenses"] == about["metadata"]["license"]
    assert labels[f"{prefix}version"] == somite.__version__
    assert labels[f"{prefix}revision"] == REVISION


def test_the_linter_has_nothing_to_say(need_tool: Callable[[str], Path]) -> None:
    said = call([str(need_tool("hadolint")), "--no-color", str(ROOT / "Dockerfile")])
    assert (said.code, said.out + said.err) == (0, "")


# Apptainer


@pytest.fixture(scope="module")
def apptainer(
    engine: str, need_tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The image of Apptainer.def: by Apptainer where it is, else by buildah, with a stand-in to run it."""
    file = tmp_path_factory.mktemp("images") / "somite.sif"
    if shutil.which("apptainer"):
        subprocess.run(["apptainer", "build", str(file), "Apptainer.def"], cwd=ROOT, check=True)
        yield file
        return
    if engine != "podman":
        need_tool("apptainer")
    definition.build(ROOT / "Apptainer.def", APPTAINER_TAG)
    file.write_text(APPTAINER_TAG)
    command = file.parent / "bin" / "apptainer"
    command.parent.mkdir()
    shutil.copy(HERE / "apptainer_stand_in.sh", command)
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(command.parent), prepend=os.pathsep)
        yield file


def test_the_definition_passes_its_own_test(apptainer: Path) -> None:
    script = definition.read(ROOT / "Apptainer.def")[-1].sections["%test"]
    done = call(["apptainer", "exec", str(apptainer), "sh", "-c", script])
    assert done.code == 0, done.err
    assert done.out.strip() == f"somite {somite.__version__}"
    kept = call(["apptainer", "exec", str(apptainer), "env"], PYTHONPATH="/of/a/module").out
    assert "PATH=/opt/venv/bin:" in kept and "PYTHONPATH=" not in kept
    told = call(["apptainer", "run", str(apptainer), "--help"])
    assert told.out.startswith("usage: somite run "), told.err


def test_elements_of_an_array_run_in_apptainers_image(
    apptainer: Path, outside: Cohort, tmp_path: Path
) -> None:
    run_elements(outside, tmp_path, f"apptainer exec {apptainer}")
    again = call([*SOMITE, "rerun", str(tmp_path / "out"), "--image"])
    assert f"--bind={tmp_path / 'bids'}:{tmp_path / 'bids'}:ro" in again.out
    assert again.out.splitlines()[-1] == "rerun: 3 equal, 0 differ", again.out + again.err
