"""Index and plan of 10,000 sessions: time and memory, each in a process of its own, beside BIDS indexers."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from harness import Row

NAME = "plan"
SESSIONS = 10_000

_MEASURE = """
import json, resource, sys, time
from pathlib import Path
root = Path(sys.argv[1])
{imports}
start = time.perf_counter()
count = {call}
seconds = time.perf_counter() - start
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([count, seconds, megabytes]))
"""
_PLAN = (
    "from somite.configs import reader\nfrom somite.plan import make_plan\n"
    "from somite.registry import discover\n"
    "settings = reader.read('lumbar', discover())",
    "sum(not session.errors for session in make_plan(root, settings).sessions)",
)
_OURS = (
    "from somite.dataset.index import read_dataset, visits\n"
    "both = [read_dataset(root), read_dataset(root / 'derivatives/labels')]",
    "sum(len(v.files) for d in both for p in d.participants for v in visits(d, p))",
)
_BIDS2TABLE = (
    "import bids2table",
    "sum(len(bids2table.index_dataset(d)) for d in (root, root / 'derivatives/labels'))",
)
_PYBIDS = (
    "from bids import BIDSLayout\nfrom bids.layout import BIDSLayoutIndexer\n"
    "indexer = BIDSLayoutIndexer(validate=False, index_metadata=False)",
    "len(BIDSLayout(root, derivatives=root / 'derivatives/labels', validate=False, indexer=indexer).files)",
)


def rows() -> list[Row]:
    """Rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_skeleton(root, SESSIONS)
        fine, seconds, megabytes = _measure(root, *_PLAN)
        assert fine == SESSIONS, f"only {fine} sessions have no error"
        case = f"{SESSIONS} sessions, {6 * SESSIONS} files"
        result = [
            Row(NAME, f"index and plan, {case}", "s", seconds, at_most=60.0),
            Row(NAME, f"index and plan, {case}: peak memory", "MB", megabytes, at_most=1000.0),
        ]
        _, seconds, megabytes = _measure(root, *_OURS)
        for peer, module, call in (
            ("bids2table", "bids2table", _BIDS2TABLE),
            ("pybids, no metadata", "bids", _PYBIDS),
        ):
            if importlib.util.find_spec(module) is not None:
                _, peer_seconds, peer_megabytes = _measure(root, *call)
                result += [
                    Row(NAME, f"index alone, {case}", "s", seconds, peer, peer_seconds),
                    Row(NAME, f"index alone, {case}: peak memory", "MB", megabytes, peer, peer_megabytes),
                ]
    return result


def _measure(root: Path, imports: str, call: str) -> tuple[int, float, float]:
    """What was counted, seconds without imports, and the peak memory of the process in MB."""
    code = _MEASURE.format(imports=imports, call=call)
    ran = subprocess.run([sys.executable, "-c", code, str(root)], check=True, capture_output=True, text=True)
    count, seconds, megabytes = json.loads(ran.stdout.splitlines()[-1])
    return count, seconds, megabytes


def make_skeleton(root: Path, sessions: int) -> None:
    """A dataset of two sessions per participant, with labels; real headers over very few voxels."""
    contents = _contents()
    for home in (root, root / "derivatives" / "labels"):
        home.mkdir(parents=True, exist_ok=True)
        (home / "dataset_description.json").write_text('{"Name": "skeleton", "BIDSVersion": "1.10.0"}')
    for number in range(sessions):
        sub, ses = f"sub-{number // 2:05d}", f"ses-{number % 2 + 1}"
        for folder, files in contents.items():
            home = root / folder / sub / ses / "dwi"
            home.mkdir(parents=True)
            for end, content in files.items():
                (home / f"{sub}_{ses}_{end}").write_bytes(content)


def _contents() -> dict[str, dict[str, bytes]]:
    """Folder -> end of the file name -> content: 4 b=0 and 33 directions, 12 labelled segments."""
    affine = np.diag([1.5, 1.5, 1.5, 1])

    def image(shape: tuple[int, ...], dtype: str) -> bytes:
        return gzip.compress(nib.Nifti1Image(np.zeros(shape, dtype), affine).to_bytes(), 1)

    vectors = np.random.default_rng(0).normal(size=(3, 37))
    vectors /= np.linalg.norm(vectors, axis=0)
    vectors[:, :4] = 0
    sidecar = {
        "EchoTime": 0.0737,
        "RepetitionTime": 6,
        "PhaseEncodingDirection": "j-",
        "TotalReadoutTime": 0.05,
        "Manufacturer": "Somite",
        "SliceTiming": [n * 0.15 for n in range(40)],
    }
    table = ["index\tname\tregion\tside\tlevel\tsegment"]
    for level in ("L5", "S1"):
        for side in "LR":
            for part in ("intraspinal", "foraminal_drg", "extraforaminal"):
                table.append(f"{len(table)}\t{level}{side}{part}\tnerve_root\t{side}\t{level}\t{part}")
    return {
        "": {
            "dwi.nii.gz": image((4, 4, 3, 37), "int16"),
            "dwi.bval": " ".join(["0"] * 4 + ["800"] * 33).encode(),
            "dwi.bvec": "\n".join(" ".join(f"{x:.6f}" for x in row) for row in vectors).encode(),
            "dwi.json": json.dumps(sidecar).encode(),
        },
        "derivatives/labels": {
            "space-dwi_seg-lumbar_dseg.nii.gz": image((4, 4, 3), "uint8"),
            "space-dwi_seg-lumbar_dseg.tsv": ("\n".join(table) + "\n").encode(),
        },
    }
