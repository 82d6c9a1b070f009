"""A small phantom cohort and the command line on it, for the tests of the whole path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid

SOMITE = [sys.executable, "-m", "somite"]

# Coarse voxels leave few pure ones: what is tested with this cohort is the path, not the numbers.
FAST = "extends: lumbar\neddy: {method: none}\n"

# What tells how long things took differs from run to run.
TIMED = ("group/status.tsv", "group/resources.tsv")


@dataclass
class Ran:
    """One call of the command line."""

    code: int
    out: str
    err: str

    @property
    def steps(self) -> tuple[int, int, int]:
        """Run, cached, failed: from the last line."""
        found = re.search(r"steps: (\d+) run, (\d+) cached, (\d+) failed", self.out.splitlines()[-1])
        assert found is not None, self.out + self.err
        return int(found[1]), int(found[2]), int(found[3])


@dataclass
class Cohort:
    """A dataset, an output and a configuration in a folder of their own."""

    root: Path

    @property
    def bids(self) -> Path:
        return self.root / "bids"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    def command(self, *levels: str, options: tuple[str, ...] = ()) -> list[str]:
        return [*SOMITE, "run", str(self.bids), str(self.out), *levels, "-c", str(self.config), *options]

    def run(self, *levels: str, options: tuple[str, ...] = ()) -> Ran:
        return call(self.command(*(levels or ("participant", "group")), options=options))

    def plan(self, *options: str) -> Ran:
        return call([*SOMITE, "plan", str(self.bids), str(self.out), "-c", str(self.config), *options])

    def set(self, text: str) -> None:
        self.config.write_text(text)

    def copy(self, root: Path) -> Cohort:
        """The same dataset, and output where there is one, elsewhere."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return Cohort(root)

    def table(self, name: str = "segments") -> pd.DataFrame:
        return pd.read_csv(self.out / "group" / f"{name}.tsv", sep="\t", keep_default_na=False)

    def results(self) -> dict[str, bytes]:
        """Every table, map and figure by name: what two runs are compared by. Pages tell times and memory."""
        import gzip

        kept = {}
        for path in sorted(self.out.rglob("*")):
            name = path.relative_to(self.out).as_posix()
            told = name in TIMED or path.suffix == ".html"
            if path.is_file() and name.startswith(("sub-", "group/")) and not told:
                raw = path.read_bytes()
                kept[name] = gzip.decompress(raw) if path.suffix == ".gz" else raw
        return kept


def call(command: list[str], **extra: str) -> Ran:
    """Run a command; its output is not a terminal's."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **extra}, stdin=subprocess.DEVNULL
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Four participants with noise, not run. Copy it, do not change it."""
    root = tmp_path_factory.mktemp("pristine")
    write_dataset(root / "bids", participants=4, snr=25.0, grid=lumbar_grid(4.5))
    cohort = Cohort(root)
    cohort.set(FAST)
    return cohort


@pytest.fixture(scope="session")
def finished(pristine: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The same, run at both levels. Copy it, do not change it."""
    cohort = pristine.copy(tmp_path_factory.mktemp("finished"))
    done = cohort.run()
    assert done.code == 0, done.out + done.err
    return cohort
