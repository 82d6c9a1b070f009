"""The stand-in of bet, which first does to a session what the file of its name in $FAULTS says."""

import os
import re
import sys
import time
from pathlib import Path

session = re.search(r"/(sub-\w+)/", f"{Path(sys.argv[1]).absolute()}")[1]
fault = Path(os.environ["FAULTS"]) / session
if fault.exists():
    fault.with_suffix(".reached").touch()
    eaten = []
    for _ in range(1500):
        if fault.read_text() == "eat" and len(eaten) < 30:
            eaten.append(b"x" * 200_000_000)
        time.sleep(0.2)
