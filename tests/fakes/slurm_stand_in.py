"""sbatch, squeue, scontrol and scancel as seen from outside, by the name that it is called as.

$FAKE_SLURM is a folder: `queue` holds what squeue shows (`12_0|PENDING|Resources`), `shown` what `scontrol
show job` prints, `calls` every call. A new job waits in the queue, each element of its own. sbatch refuses
where a file `refuse` says why; squeue fails where there is a file `silent`.
"""

import os
import re
import shlex
import sys
from pathlib import Path

home = Path(os.environ["FAKE_SLURM"])
name = Path(sys.argv[0]).name
with (home / "calls").open("a") as calls:
    calls.write(shlex.join([name, *sys.argv[1:]]) + "\n")
queue = home / "queue"
rows = queue.read_text().splitlines() if queue.exists() else []
if name == "sbatch":
    if (home / "refuse").exists():
        sys.exit((home / "refuse").read_text())
    job = len(re.findall(r"^sbatch", (home / "calls").read_text(), re.MULTILINE)) + 100
    array = re.search(r"--array=0-(\d+)", shlex.join(sys.argv))
    own = [f"{job}_{i}" for i in range(int(array[1]) + 1)] if array else [str(job)]
    queue.write_text("\n".join([*rows, *(f"{element}|PENDING|Resources" for element in own)]) + "\n")
    print(f"{job};cluster")
if name == "squeue":
    if (home / "silent").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    print("\n".join(rows))
if name == "scontrol":
    print(
        "MaxArraySize            = 3"
        if "config" in sys.argv
        else (home / "shown").read_text()
        if (home / "shown").exists()
        else ""
    )
