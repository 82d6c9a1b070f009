"""CONTRIBUTING's example is done as it is written: one new file, one line, one test file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cohort import Cohort

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository's code."""
    root = tmp_path / "checkout"
    for name in ("src", "workflows", "interfaces", "configs"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests").mkdir()
    shutil.copy(ROOT / "setup.cfg", root)
    return root


def test_the_example_step_runs_in_a_copy_of_the_repository(
    checkout: Path, finished: Cohort, tmp_path: Path
) -> None:
    blocks = dict(re.findall(r"```python (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL))
    assert list(blocks) == ["interfaces/smooth_fa.py", "workflows/steps.py", "tests/test_smooth_fa.py"]
    for new in ("interfaces/smooth_fa.py", "tests/test_smooth_fa.py"):
        assert not (checkout / new).exists()
        (checkout / new).write_text(blocks[new])
    line = blocks["workflows/steps.py"]
    assert len(line.strip().splitlines()) == 1
    workflow = checkout / "workflows" / "steps.py"
    workflow.write_text(workflow.read_text().replace("STEPS = (\n", f"STEPS = (\n{line}", 1))

    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_smooth_fa.py"]
    done = subprocess.run(test, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

    cohort = finished.copy(tmp_path / "cohort")
    command = cohort.command("participant")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps: 4 run, 60 cached, 0 failed" in done.stdout.splitlines()[-1]
    maps = list(cohort.out.glob("sub-*/dwi/*_param-fasmooth_dwimap.nii.gz"))
    assert len(maps) == 4
    assert maps[0].with_name(maps[0].name.replace(".nii.gz", ".json")).is_file()

    cohort.set(cohort.config.read_text() + "smooth_fa: {fwhm_mm: 4}\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "steps: 4 run, 60 cached, 0 failed" in done.stdout.splitlines()[-1]
