"""Collections of command-line tools: what belongs to each, from which version on, and how to get it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Suite:
    """A collection of tools that is installed and versioned as one."""

    name: str
    key: str
    """Its section below `tools` in the YAML."""
    install: str
    executables: frozenset[str]
    """Names, or patterns of names: `eddy_cuda*`."""
    anchor: str
    """The executable that stands for the suite."""
    oldest: tuple[int, ...]
    """The first version whose options and outputs are those that are used here."""


FSL = Suite(
    "FSL",
    "fsl",
    "install FSL (https://fsl.fmrib.ox.ac.uk), set FSLDIR, and put $FSLDIR/bin in PATH; "
    "or name a container that holds it (tools.fsl.container in the YAML); or choose another method",
    frozenset({"bet", "dtifit", "eddy", "eddy_cpu", "eddy_openmp", "eddy_cuda*", "topup", "applytopup"}),
    "bet",
    (5, 0, 11),
)
MRTRIX3 = Suite(
    "MRtrix3",
    "mrtrix3",
    "install MRtrix3 (https://www.mrtrix.org; on Debian: apt-get install mrtrix3), or name a container that "
    "holds it (tools.mrtrix3.container in the YAML), or choose another method",
    frozenset(
        {"dwidenoise", "mrdegibbs", "dwi2mask", "dwi2tensor", "tensor2metric", "dwibiascorrect", "mrinfo"}
    ),
    "dwidenoise",
    (3, 0),
)
SUITES = (FSL, MRTRIX3)


def suite_of(executable: str) -> Suite | None:
    """The suite that an executable belongs to, where it is a known one."""
    return next((s for s in SUITES if any(fnmatchcase(executable, name) for name in s.executables)), None)


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (6, 0, 7, 4) of `6.0.7.4`; none of a digest."""
    stated = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in stated[0].split(".")) if stated else ()
