"""What is installed is what is in the repository, and nothing is a second copy of it."""

from __future__ import annotations

import configparser
import hashlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import definition
import pytest

import somite

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "somite": ROOT / "src" / "somite",
    "somite/analysis": ROOT / "src" / "somite" / "analysis",
    "somite/correction": ROOT / "src" / "somite" / "correction",
    "somite/dataset": ROOT / "src" / "somite" / "dataset",
    "somite/label_sources": ROOT / "src" / "somite" / "label_sources",
    "somite/label_sources/tables": ROOT / "src" / "somite" / "label_sources" / "tables",
    "somite/phantom": ROOT / "src" / "somite" / "phantom",
    "somite/report": ROOT / "src" / "somite" / "report",
    "somite/review": ROOT / "src" / "somite" / "review",
    "somite/workflows": ROOT / "workflows",
    "somite/interfaces": ROOT / "interfaces",
    "somite/configs": ROOT / "configs",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel, built from a copy so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, tracked):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_folders_and_nothing_else(wheel: set[str]) -> None:
    expected = {
        f"{package}/{path.name}"
        for package, folder in FOLDERS.items()
        for path in folder.iterdir()
        if path.suffix in (".py", ".yaml", ".tsv", ".json") or path.name in ("py.typed", "README.md")
    }
    own = ROOT / "src" / "somite"
    folders = ("report/templates", "report/methods", "review/page", "review/niivue")
    texts = (path for folder in folders for path in (own / folder).iterdir())
    assert wheel == expected | {f"somite/{path.relative_to(own).as_posix()}" for path in texts}


def test_top_level_folders_are_the_packages_own_code() -> None:
    for name in ("workflows", "interfaces", "configs"):
        module = importlib.import_module(f"somite.{name}")
        assert module.__file__ is not None
        assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"
        assert (ROOT / "src" / "somite" / name).readlink() == Path("..", "..", name)


def test_only_the_engine_imports_pydra() -> None:
    files = [path for folder in FOLDERS.values() for path in folder.glob("*.py")]
    importing = [
        path.name for path in files if re.search(r"^\s*(import|from) pydra\b", path.read_text(), re.MULTILINE)
    ]
    assert importing == ["engine.py"]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_exactly_and_with_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / lock).read_text().strip())
    for entry in entries:
        assert re.match(r"[a-z0-9_.-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_every_dependency_has_its_reason() -> None:
    config = (ROOT / "setup.cfg").read_text()
    named = re.search(r"install_requires =\n((?:    .*\n)+)", config)
    assert named is not None
    reasons = (ROOT / "docs" / "dependencies.md").read_text().lower()
    for line in named[1].splitlines():
        name = re.split(r"[ =<>]", line.strip())[0].lower()
        assert f"| {name} |" in reasons, name


def test_the_viewer_that_is_shipped_is_the_one_that_is_named() -> None:
    folder = ROOT / "src" / "somite" / "review" / "niivue"
    digest = hashlib.sha256((folder / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in (ROOT / "docs" / "dependencies.md").read_text()
    assert digest in (folder / "THIRD-PARTY.txt").read_text()
    assert "BSD 2-Clause" in (folder / "LICENSE.txt").read_text()


def test_nothing_that_is_locked_is_under_the_gpl() -> None:
    names = re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    found = {}
    for name in names:
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # locked for another platform
        # A whole licence text goes on to name the compiler's runtime: its head says which it is.
        texts = [metadata.get(key, "")[:300] for key in ("License", "License-Expression")]
        texts += [c for c in metadata.get_all("Classifier", []) if c.startswith("License")]
        found[name] = " ".join(texts)
    assert len(found) > 50
    assert [name for name, text in found.items() if re.search(r"\bL?A?GPL|non-?commercial", text, re.I)] == []


def commands(dockerfile: str) -> list[str]:
    """What the first stage of the Dockerfile runs."""
    joined = dockerfile.partition("\nFROM ${BASE_IMAGE}\n")[0].replace("\\\n", "")
    runs = re.findall(r"^RUN (.+)$", joined, re.MULTILINE)
    return [" ".join(command.split()) for run in runs for command in run.split("&&")]


def test_both_images_are_made_of_the_same_files_by_the_same_commands() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    build, final = definition.read(ROOT / "Apptainer.def")
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.+)$", dockerfile, re.MULTILINE)
    assert {build.header["From"], final.header["From"]} == {base}
    assert [line for line in build.lines("%post") if line not in ("set -eu", "cd /src")] == commands(
        dockerfile
    )
    assert final.lines("%files from build") == re.findall(
        r"^COPY --from=build (.+)$", dockerfile, re.MULTILINE
    )
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(line.split()[0] for line in build.lines("%files")) == sorted(allowed)
    assert final.lines("%runscript") == ['exec somite run "$@"']
    assert 'ENTRYPOINT ["somite", "run"]' in dockerfile
    assert "--require-hashes --only-binary :all: -r requirements.lock" in dockerfile


def test_labels_of_the_images_say_what_the_package_says() -> None:
    about = configparser.ConfigParser()
    about.read(ROOT / "setup.cfg")
    own = about["metadata"]
    said = {key: own[key] for key in ("description",)} | {"title": own["name"], "licenses": own["license"]}
    lines = definition.read(ROOT / "Apptainer.def")[-1].lines("%labels")
    labels = dict(line.split(" ", 1) for line in lines)
    for key, value in (said | {"version": somite.__version__}).items():
        assert labels[f"org.opencontainers.image.{key}"] == value
        if key != "version":  # told to the build
            assert f'org.opencontainers.image.{key}="{value}"' in (ROOT / "Dockerfile").read_text()
