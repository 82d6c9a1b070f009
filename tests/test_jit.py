"""Machine code is kept from one process to the next, also where Somite lies on a read-only disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SESSION = """
import os, sys
from pathlib import Path
import numpy as np
from somite import jit, sampling
os.access = lambda *_: False  # a read-only disk
jit.keep_in(Path(sys.argv[1]))
sampling.sample(np.zeros((4, 4, 4), np.float32), np.zeros((1, 3), np.float32))
stats = sampling._sample.machine.stats
print(stats.cache_path, sum(stats.cache_hits.values()))
"""


def test_the_code_of_one_session_serves_the_next(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", SESSION, str(tmp_path / "numba")]
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert all(path.startswith(str(tmp_path / "numba")) for path, _ in said)
    assert [hits for _, hits in said] == ["0", "1"]
