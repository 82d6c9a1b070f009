"""A cohort of many tiny sessions through the whole path: overhead, memory of the driver, status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from skeleton import build

from somite import roll

NAME = "scale"
SESSIONS = int(os.environ.get("SOMITE_BENCH_SESSIONS", "100"))
"""1000 and 10000 are what the goals speak of; 100 is what a loaded machine can do."""
PLANNED = int(os.environ.get("SOMITE_BENCH_PLANNED", str(10 * SESSIONS)))

_YAML = """\
extends: default
denoise: {method: none}
degibbs: {method: none}
eddy: {method: none}
mask: {method: median_otsu}
gradient_orientation: {method: none}
pictures: {planes: {axial: 0, coronal: 0, sagittal: 0}}
roi: {segments: [{region: nerve_root, sides: [L, R], levels: [L5]}]}
"""
_SIDECAR = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05, "EchoTime": 0.08}


def dataset(root: Path, sessions: int) -> Path:
    """A dataset of so many sessions with tiny real images and their labels."""
    files: dict[str, object] = {}
    for number in range(sessions):
        name = f"sub-{number:05d}"
        files[f"{name}/dwi/{name}_dwi"] = {"shape": (12, 12, 6), "json": _SIDECAR}
        files[f"derivatives/labels/{name}/dwi/{name}_space-dwi_dseg"] = {"shape": (12, 12, 6)}
    files["derivatives/labels/dataset_description.json"] = {
        "Name": "labels",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "by hand"}],
    }
    return build(root, files)


def _call(*words: object) -> tuple[float, float, str]:
    """Seconds, peak MB of the process itself (not of its children), and what it said."""
    code = (
        "import resource, sys\nfrom somite.cli import main\ncode = main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(f'peak {used}', file=sys.stderr)\nsys.exit(0 if code < 2 else code)\n"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    found = re.search(r"peak ([\d.]+)", done.stderr)
    assert found is not None
    return seconds, float(found[1]), done.stdout


def _multiply(out: Path, sessions: int) -> None:
    """Make so many records of the first, with their lines in the roll."""
    first = (out / "logs" / "sub-00000.json").read_text()
    for number in range(sessions):
        (out / "logs" / f"sub-{number:05d}.json").write_text(first.replace("sub-00000", f"sub-{number:05d}"))
    recipe = json.loads(first)["recipe"]
    roll.add(out, {f"sub-{number:05d}": recipe for number in range(sessions)})


def rows() -> list[Row]:
    """Run, status, plan."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "bids", Path(folder) / "out"
        dataset(root, SESSIONS)
        config = Path(folder) / "config.yaml"
        config.write_text(_YAML)
        cores = len(os.sched_getaffinity(0))
        seconds, peak, said = _call("run", root, out, "participant", "-c", config, "--n-procs", cores)
        records = [json.loads(path.read_text()) for path in (out / "logs").glob("sub-*.json")]
        steps = [step for item in records for step in item["steps"]]
        assert len(records) == SESSIONS, said
        own = sum(step["seconds"] for step in steps)
        overhead = (seconds * cores - own) / len(steps) * 1e3
        again, again_peak, _ = _call("run", root, out, "participant", "-c", config, "--n-procs", cores)
        status, status_peak, _ = _call("status", out)
        _multiply(out, PLANNED)
        statuses, statuses_peak, _ = _call("status", out)
        many = dataset(Path(folder) / "many", PLANNED)
        plan, plan_peak, _ = _call("plan", many, Path(folder) / "none", "-c", config)
    what = f"{SESSIONS} tiny sessions of {len(steps) // SESSIONS} steps"
    return [
        Row(NAME, f"{what}: per session and step, on {cores} cores", "ms", overhead, at_most=150),
        Row(NAME, f"{what}: peak memory of the driver", "MB", peak, at_most=300),
        Row(NAME, f"{what}: a run that executes nothing", "s", again),
        Row(NAME, f"{what}: a run that executes nothing, peak memory of the driver", "MB", again_peak),
        Row(NAME, f"status of {SESSIONS} sessions", "s", status, at_most=2),
        Row(NAME, f"status of {SESSIONS} sessions: peak memory", "MB", status_peak, at_most=1000),
        Row(NAME, f"status of {PLANNED} sessions", "s", statuses, at_most=60),
        Row(NAME, f"status of {PLANNED} sessions: peak memory", "MB", statuses_peak, at_most=1000),
        Row(NAME, f"plan of {PLANNED} sessions", "s", plan, at_most=60),
        Row(NAME, f"plan of {PLANNED} sessions: peak memory", "MB", plan_peak, at_most=1000),
    ]


if __name__ == "__main__":
    for row in rows():
        print(f"{row.ours:10.4g} {row.unit:3} {row.case}  met: {row.met}")
