"""The section `cluster:`: what `somite submit` asks Slurm for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from somite.configs.forms import CommandLine, Form
from somite.registry import StepConfig

SbatchName = Annotated[str, Form("[0-9A-Za-z][0-9A-Za-z_.,@+-]*", "a name as Slurm has it, without spaces")]
SbatchOption = Annotated[str, Form(r"--?[A-Za-z][^\r\n]*", "an option of sbatch, such as --qos=long")]
Module = Annotated[
    str, Form("[0-9A-Za-z][0-9A-Za-z_.+/=-]*", "the name of a module, such as apptainer/1.3.4")
]
ShellLine = Annotated[str, Form(r"[^\r\n]*\S[^\r\n]*", "one line of bash")]


class GroupJob(StepConfig):
    """What the job of the group level gets: the tables and the analyses."""

    time_h: float = Field(2.0, gt=0, le=8760)
    """Time limit, hours."""
    cpus: int = Field(2, ge=1, le=1024)
    """Cores."""
    memory_gb: float = Field(4.0, gt=0, le=10000)
    """Memory, GB."""


class Cluster(StepConfig):
    """What `somite submit` asks a Slurm cluster for. No result depends on it."""

    partition: SbatchName | None = None
    """Partition, or several with commas. Default: that of the cluster."""
    account: SbatchName | None = None
    """Account that is charged. Default: yours."""
    time_h: float | None = Field(None, gt=0, le=8760)
    """Hours that one session may take. Default: twice what the slowest session that is done took; 4 where
    none is done."""
    cpus: int = Field(4, ge=1, le=1024)
    """Cores of an element."""
    memory_gb: float | None = Field(None, gt=0, le=10000)
    """Memory of an element, GB. Default: from the size of the series and the highest peak of the sessions
    that are done."""
    gpus: int = Field(0, ge=0, le=64)
    """GPUs of an element (`--gres=gpu:N`)."""
    sbatch: tuple[SbatchOption, ...] = ()
    """More options of sbatch: [--qos=long, --constraint=avx512]. They stand last, and so win."""
    modules: tuple[Module, ...] = ()
    """Modules that are loaded first: [apptainer/1.3.4]."""
    setup: tuple[ShellLine, ...] = ()
    """Lines of bash that run before Somite, such as `export TMPDIR=/scratch/$USER`."""
    container: CommandLine | None = None
    """Command that starts the container that Somite itself runs in, the image last:
    `apptainer exec /images/somite.sif`. The folders of input and output are shown to it. Default: the
    Python of `somite submit`, which the nodes must see at the same path."""
    at_most: int | None = Field(None, ge=1)
    """How many elements run at once (`%N` of the array). Default: as many as the cluster lets."""
    chunk: int = Field(1, ge=1, le=10000)
    """Sessions of one element: more than one where sessions take minutes and the queue takes hours."""
    group: GroupJob = GroupJob()
    """What the job of the group level gets."""
