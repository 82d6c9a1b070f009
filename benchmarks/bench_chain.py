"""The whole chain: seconds of each step from files to files, and the memory of a large session."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import moving
import numpy as np
from harness import THREADS, Row
from moving import Case, Scan

from somite import images, record
from somite.gradients import Gradients, read_fsl, write_fsl
from somite.interfaces import degibbs, denoise, eddy, mask, tensor
from somite.registry import Context

NAME = "chain"
LARGE = Case(voxel_mm=(1.5, 1.5, 1.6), directions=57)
LARGE_VOLUMES = 65


def rows() -> list[Row]:
    """Rows of this benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        return [*_steps(Path(scratch) / "steps"), *_session(Path(scratch) / "session")]


def _written(scan: Scan, stem: Path, volumes: int, suffix: str) -> None:
    stem.parent.mkdir(parents=True)
    gradients = Gradients(scan.gradients.bvals[:volumes], scan.gradients.bvecs[:volumes])
    write_fsl(gradients, stem.with_suffix(".bval"), stem.with_suffix(".bvec"), scan.grid.affine)
    images.write(stem.with_suffix(suffix), scan.data[..., :volumes], scan.grid)


def _steps(folder: Path) -> list[Row]:
    scan = Scan(Case(), THREADS)
    stem = folder / "dwi"
    _written(scan, stem, scan.n, ".nii")
    about = folder / "scan.json"
    volume = {"series": 0, "phase_encoding_direction": "j", "total_readout_time_s": 0.05}
    about.write_text(json.dumps({"volumes": [volume] * scan.n, "series": [{"name": "dwi"}]}))
    context = Context(folder, threads=THREADS)
    bval, bvec = stem.with_suffix(".bval"), stem.with_suffix(".bvec")
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], tuple[Path, ...] | Path]) -> list[Path]:
        start = time.perf_counter()
        made = work()
        seconds[name] = time.perf_counter() - start
        return [made] if isinstance(made, Path) else list(made)

    dwi = stem.with_suffix(".nii")
    dwi = timed("denoise", lambda: denoise.run(dwi, denoise.Config(), context, bval))[0]
    dwi = timed("degibbs", lambda: degibbs.run(dwi, about, degibbs.Config(), context))[0]
    dwi, bvec, *_ = timed("eddy", lambda: eddy.run(dwi, bval, bvec, about, eddy.Config(), context))
    inside = timed("mask", lambda: mask.run(dwi, bval, mask.Config(), context))[0]
    timed("tensor", lambda: tensor.run(dwi, bval, bvec, inside, tensor.Config(), context))
    note = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    size = "x".join(map(str, scan.data.shape))
    data, grid = images.read_float(dwi)
    fa = moving.fa_of(data[scan.inside], read_fsl(bval, bvec, grid.affine))
    error = np.sqrt(((fa - scan.true_fa)[scan.tissue[scan.inside]] ** 2).mean())
    return [
        Row(NAME, f"denoise to FA map, {size}, files to files", "s", sum(seconds.values()), at_most=90,
            note=note),
        Row(NAME, "the same: FA RMSE", "", float(error)),
    ]  # fmt: skip


def _session(folder: Path) -> list[Row]:
    """A session through the command line, by the default protocol."""
    scan = Scan(LARGE, THREADS)
    stem = folder / "bids" / "sub-01" / "dwi" / "sub-01_dwi"
    _written(scan, stem, LARGE_VOLUMES, ".nii.gz")
    size = "x".join(map(str, (*scan.shape, LARGE_VOLUMES)))
    del scan
    about = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05, "EchoTime": 0.08, "RepetitionTime": 6.0}
    stem.with_suffix(".json").write_text(json.dumps(about))
    description = {"Name": "large session", "BIDSVersion": "1.10.0"}
    (folder / "bids" / "dataset_description.json").write_text(json.dumps(description))
    command = [sys.executable, "-m", "somite", "run", str(folder / "bids"), str(folder / "out")]
    start = time.perf_counter()
    subprocess.run([*command, "participant", "--n-procs", str(THREADS)], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    (found,) = record.read_all(folder / "out")
    by_step = ", ".join(f"{step.step} {step.peak_mb / 1024:.1f}" for step in found.steps)
    times = ", ".join(f"{step.step} {step.seconds:.0f}" for step in found.steps if step.seconds >= 1)
    return [
        Row(NAME, f"session of {size}: peak memory", "GB", found.peak_mb / 1024, at_most=4, note=by_step),
        Row(NAME, "the same: time", "s", seconds, note=times),
    ]
