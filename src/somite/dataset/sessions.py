"""What a plan is made of: frozen records of series, sessions and the cohort. Opens no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from somite.bids import join_entities
from somite.errors import Problem
from somite.images import Grid
from somite.registry import Fact
from somite.segments import Label, Segment

Affine = tuple[tuple[float, float, float, float], ...]
"""4 x 4, voxel indices to world RAS+ mm, by rows: an array could not be compared or hashed."""


@dataclass(frozen=True)
class Shell:
    """The volumes of one b-value of a series."""

    b: int
    """s/mm2, rounded to 50."""
    volumes: int
    directions: int
    """Distinct, opposites counted once; 0 at b=0."""


@dataclass(frozen=True)
class Series:
    """One diffusion series: an image, its gradients, and what its sidecars say of the acquisition."""

    dwi: Path
    bval: Path | None
    bvec: Path | None
    entities: Mapping[str, str]
    """All of the image's name, `sub` and `ses` among them."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of BIDS sidecars that the physics needs, inheritance honoured; nothing that identifies."""
    shape: tuple[int, int, int] = (0, 0, 0)
    """Of one volume; zeros where the header cannot be read."""
    affine: Affine = ()
    n_volumes: int = 0
    shells: tuple[Shell, ...] = ()
    """Ascending; empty where the gradient files have a problem."""

    @property
    def grid(self) -> Grid | None:
        """Where its voxels lie; None where the header cannot be read."""
        return Grid(self.shape, np.array(self.affine)) if self.affine else None


@dataclass(frozen=True)
class Opposed:
    """An image of the phase encoding opposite to that of a session's series."""

    path: Path
    phase_encoding_direction: str
    """Along its own voxel axes: `j-`."""
    total_readout_time_s: float | None
    b0_volumes: tuple[int, ...]


@dataclass(frozen=True)
class LabelImage:
    """A label image as it was drawn, what its values mean, and how it comes to the series."""

    path: Path
    rows: tuple[Label, ...] = ()
    """What its own values mean."""
    source: str = ""
    """Kind of the source: bids, itksnap, nnunet, or the tool or atlas whose numbering it is."""
    table: Path | None = None
    """Where it is a TSV; a table is made for labels of any other source."""
    transform: Path | None = None
    anatomy: Path | None = None
    """The image that it was drawn on, where that is to be registered."""
    made_by: str = ""
    """As its name, else its source tells it."""
    values: Mapping[int, int] = field(default_factory=dict)
    """Its own values -> those among the labels of the session, where they differ."""


@dataclass(frozen=True)
class Probabilities:
    """Probability images of regions or tracts, and how they come to the series."""

    images: tuple[Path, ...]
    """One 4D image, or one for each row."""
    rows: tuple[Label, ...]
    transform: Path | None = None
    anatomy: Path | None = None


@dataclass(frozen=True)
class AtlasImages:
    """Images in the space of an FA template, of those that a session lacks."""

    template: Path
    labels: Path | None = None
    probabilities: Path | None = None


@dataclass(frozen=True)
class Session:
    """What is processed as one: series of a session of a participant, their labels, and what is wrong."""

    participant: str
    """Without `sub-`."""
    session: str | None
    """Without `ses-`; None where the participant has no session folders."""
    entities: Mapping[str, str]
    """What tells this group of runs from the others of the session: {"dir": "AP"}."""
    series: tuple[Series, ...] = ()
    """Empty only where a folder cannot be read."""
    labels: tuple[LabelImage, ...] = ()
    """Label images of its own; several are one labelling."""
    label_rows: tuple[Label, ...] = ()
    """What the values mean, of all label images together or of the atlas."""
    label_entities: Mapping[str, str] = field(default_factory=dict)
    """What the names of the label images say about themselves, such as {"seg": "lumbar"}."""
    anatomy: Path | None = None
    """The image that labels were drawn on, where they are to be brought to the series by registration."""
    probabilities: Probabilities | None = None
    """Probability images of its own, or those of the atlas."""
    atlas: AtlasImages | None = None
    """Images of an atlas that are brought to the session, which lacks such of its own."""
    landmarks: Path | None = None
    """Dural exits, TSV."""
    fat: Path | None = None
    """Map of the fat fraction."""
    fat_transform: Path | None = None
    mask: Path | None = None
    opposed: tuple[Opposed, ...] | None = None
    """Images that tell its distortion; none where its own series do, None where it is not corrected."""
    roi_source: str = ""
    rater: str = ""
    problems: tuple[Problem, ...] = ()
    facts: tuple[Fact, ...] = ()

    @property
    def label(self) -> str:
        """`sub-01_ses-02_dir-AP`: unique in a plan, and fit for a file name."""
        return join_entities({"sub": self.participant, "ses": self.session or "", **self.entities})

    @property
    def folder(self) -> str:
        """Folder of the results, relative to the output: `sub-01/ses-02/dwi`."""
        session = f"/ses-{self.session}" if self.session else ""
        return f"sub-{self.participant}{session}/dwi"

    @property
    def run_label(self) -> str:
        """`dir-AP`; empty where the session is one group whose series have no entity in common."""
        return join_entities(self.entities)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems for which the session is not run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that are carried to its record."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


@dataclass(frozen=True)
class Deviation:
    """A parameter of the protocol over the cohort: its most frequent value, and the sessions with another."""

    parameter: str
    """With its unit, and the group of runs where sessions have several: `TE (ms), dir-AP`."""
    mode: str
    n_mode: int
    n_sessions: int
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Other value -> labels of the sessions that have it; the most frequent first."""

    def cells(self, most_named: int = 5) -> tuple[str, str, str, str]:
        """Parameter, most frequent value, `9 of 10`, and the others: `80: sub-03; 90: sub-04, sub-05`."""
        others = "; ".join(
            f"{value}: {listing(labels, most_named)}" for value, labels in self.others[:most_named]
        )
        if len(self.others) > most_named:
            others += f"; and {len(self.others) - most_named} more values"
        return self.parameter, self.mode, f"{self.n_mode} of {self.n_sessions}", others


@dataclass(frozen=True)
class Plan:
    """Every session of a dataset as it would be run, and everything that is wrong."""

    bids_dir: Path
    sessions: tuple[Session, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Of the dataset as a whole."""
    deviations: tuple[Deviation, ...] = ()
    """A row for each parameter of the protocol, also where no session deviates."""
    left_out: tuple[Fact, ...] = ()
    """Series that belong to no session of the plan, each with the reason."""
    expected: tuple[Segment, ...] | None = None
    """Segments that the configuration names; None: those of the label tables."""

    def only(self, labels: Sequence[str]) -> Plan:
        """The same of these sessions alone; one that is not there is a problem, `NO_SUCH_SESSION`."""
        there = {session.label for session in self.sessions}
        absent = [label for label in labels if label not in there]
        problem = Problem(
            "NO_SUCH_SESSION",
            "a session that was asked for is not in the dataset",
            found=listing(absent),
            expected=listing(sorted(there)) or "no session of these participants can be read",
            do="check --only: names are those that `somite plan` and `somite status` print",
        )
        chosen = tuple(session for session in self.sessions if session.label in labels)
        return replace(self, sessions=chosen, problems=(*self.problems, *([problem] if absent else [])))


def listing(items: Sequence[object], most: int = 8) -> str:
    """`sub-03, sub-04 and 7 more`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
