"""Lines for a person on stdout, which may be gone: in `| head` nobody reads it to the end."""

from __future__ import annotations

import os
import sys


def say(*lines: str) -> None:
    """Print lines at once; where nobody reads them any more, to nowhere: the work itself goes on."""
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
