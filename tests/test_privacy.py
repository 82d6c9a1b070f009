"""Of what a header tells about a person nothing is written or sent; files are made with the user's umask."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cohort import FAST, Cohort

from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

WORD = "Pl4nted"
SIDECAR = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientWeight",
    "AccessionNumber",
    "StudyID",
    "StudyInstanceUID",
    "SeriesDescription",
    "ImageComments",
    "OperatorsName",
    "PerformingPhysicianName",
    "InstitutionalDepartmentName",
    "InstitutionName",
    "InstitutionAddress",
    "DeviceSerialNumber",
    "StationName",
    "ReferringPhysicianName",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "SeriesInstanceUID",
    "ProtocolName",
)


def plant(bids: Path) -> None:
    """Words that identify a person, wherever a header or a sidecar has room for them."""
    for path in bids.rglob("*.nii.gz"):
        image = nib.Nifti1Image.from_filename(path)
        for key, room in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18)):
            image.header[key] = f"{WORD} {key}"[:room].encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{WORD} extension".encode()))
        nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(path)
    for path in (p for p in bids.rglob("sub-*.json") if "truth" not in p.parts):
        about = json.loads(path.read_text()) | {key: f"{WORD} {key}" for key in SIDECAR}
        path.write_text(json.dumps(about))
    people = bids / "participants.tsv"
    header, *rows = people.read_text().splitlines()
    lines = [f"{header}\tname\tdate_of_birth", *(f"{row}\t{WORD}\t{WORD}" for row in rows)]
    people.write_text("\n".join(lines) + "\n")
    (bids / "sub-01" / "sub-01_scans.tsv").write_text(
        f"filename\tacq_time\toperator\n{WORD}\t{WORD}\t{WORD}\n"
    )


CALLS = """
import os, sys

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        if event in ("socket.connect", "socket.sendto") and arguments[0].family == 1:  # within the machine
            return
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{event} {arguments}\\n")
        raise OSError("no network here")

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """Variables by which every Python process refuses the network, and the file in which it says so."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(CALLS)
    told = {"NO_ET", "NIPYPE_NO_ET"}
    kept = {name: value for name, value in os.environ.items() if name not in told}
    return {**kept, "PYTHONPATH": str(folder), "CALLS": str(folder / "calls")}, folder / "calls"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, offline: tuple[dict[str, str], Path]) -> Cohort:
    cohort = Cohort(tmp_path_factory.mktemp("planted"))
    write_dataset(cohort.bids, participants=1, snr=25.0, grid=lumbar_grid(6), labels="anatomy")
    plant(cohort.bids)
    cohort.set(FAST + "pictures: {planes: {axial: 1, coronal: 1, sagittal: 1}}\n")
    done = subprocess.run(
        ["sh", "-c", 'umask 007; exec "$@"', "sh", *cohort.command("participant", "group")],
        capture_output=True,
        text=True,
        env={**offline[0], "NUMBA_DISABLE_CACHING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert WORD not in done.stdout + done.stderr
    return cohort


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, uncompressed; of an archive those of its members."""
    raw = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
    else:
        yield "", gzip.decompress(raw) if path.suffix == ".gz" else raw


def test_no_word_of_a_header_or_sidecar_is_written(planted: Cohort) -> None:
    told = [path for path in planted.bids.rglob("*_dwi.json") if WORD in path.read_text()]
    assert told, "the words are in the input"
    found = {
        path.relative_to(planted.out).as_posix()
        for path in planted.out.rglob("*")
        if path.is_file()
        for name, content in contents(path)
        if WORD.encode() in content or WORD.encode() in name.encode()
    }
    assert found == set()


def test_files_are_made_with_the_users_umask(planted: Cohort) -> None:
    """Neither more than it allows, nor less, as a file has that was made by `mkstemp`."""
    for path in planted.out.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o770 if path.is_dir() else 0o660), (path, oct(mode))


def test_nobody_is_asked_or_told_anything(planted: Cohort, offline: tuple[dict[str, str], Path]) -> None:
    environment, calls = offline
    assert planted.out.is_dir()
    assert not calls.exists(), calls.read_text()
    # Nipype asks for news in a session without a file only, as in a notebook.
    use = "import somite; somite.as_nipype('mask'); somite.as_pydra('mask'); import somite.tools"
    done = subprocess.run([sys.executable, "-c", use], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not calls.exists(), calls.read_text()
    ask = [sys.executable, "-c", "import socket; socket.getaddrinfo('example.org', 80)"]
    assert subprocess.run(ask, env=environment, capture_output=True).returncode != 0
    assert "example.org" in calls.read_text(), "what is watched is seen"
