"""Of what a header tells about a person nothing is written; files are made with the user's umask."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
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
    for path in bids.rglob("*_dwi.json"):
        about = json.loads(path.read_text()) | {key: f"{WORD} {key}" for key in SIDECAR}
        path.write_text(json.dumps(about))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    cohort = Cohort(tmp_path_factory.mktemp("planted"))
    write_dataset(cohort.bids, participants=1, snr=25.0, grid=lumbar_grid(6))
    plant(cohort.bids)
    cohort.set(FAST + "pictures: {planes: {axial: 1, coronal: 1, sagittal: 1}}\n")
    done = subprocess.run(
        ["sh", "-c", 'umask 027; exec "$@"', "sh", *cohort.command("participant", "group")],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_CACHING": "1"},
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
    for path in planted.out.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o027 == 0, (path, oct(mode))
            assert mode & 0o400, (path, oct(mode))
