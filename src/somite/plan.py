"""Dataset and configuration -> every session as it would be run, and every problem, before any computing.

Reads names, headers and text. What needs the voxels is looked at by `deep_check`, and by the step `load`.
Knows no engine and no cache.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from somite import bids
from somite.bids import File
from somite.configs.model import Settings
from somite.dataset.atlases import Atlases, find_atlases
from somite.dataset.beside import Beside, find_beside
from somite.dataset.choosing import passes
from somite.dataset.deep import deep_check
from somite.dataset.deviations import deviations
from somite.dataset.grouping import Group, group
from somite.dataset.index import Dataset, Visit, read_dataset, visits
from somite.dataset.label_tables import Wanted
from somite.dataset.labelling import Labelling, Search, find_labels, find_mask
from somite.dataset.pairing import Candidates, find_pairing
from somite.dataset.regions import Tables
from somite.dataset.series import Sidecars, check_joined, read_series
from somite.dataset.sessions import (
    AtlasImages,
    Deviation,
    Plan,
    Probabilities,
    Series,
    Session,
    listing,
)
from somite.errors import DatasetError, Problem
from somite.interfaces.load import Config as LoadConfig
from somite.interfaces.roi import Config as RoiConfig
from somite.registry import Fact
from somite.segments import expand

__all__ = ["Deviation", "Plan", "Series", "Session", "deep_check", "make_plan"]


@dataclass(frozen=True)
class _Study:
    """What is needed to plan any of the participants."""

    dataset: Dataset
    settings: Settings
    labels: Dataset | None
    transforms: Dataset | None
    masks: Dataset | None
    wanted: Wanted
    atlases: Atlases
    b0_max: float
    mask_required: bool
    undistort: bool
    """Whether distortion by susceptibility is to be corrected, where a session tells it."""
    sidecars: Sidecars = field(default_factory=Sidecars)
    tables: Tables = field(default_factory=Tables)


@dataclass(frozen=True)
class _Beside:
    """A visit, and the files of the same session in the datasets of labels, transforms and masks."""

    visit: Visit
    labels: Visit | None
    transforms: Visit | None
    masks: Visit | None

    def all(self) -> tuple[Visit, ...]:
        """Those that there are, each once."""
        there = (self.visit, self.labels, self.transforms, self.masks)
        return tuple({id(visit): visit for visit in there if visit is not None}.values())


@dataclass(frozen=True)
class _Part:
    """The plan of one visit."""

    visit: Visit
    sessions: tuple[Session, ...] = ()
    left_out: tuple[Fact, ...] = ()


def make_plan(
    bids_dir: Path,
    settings: Settings,
    participants: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
) -> Plan:
    """Plan a dataset. Never raises for what is wrong with it: everything is in the plan, as Problems.

    Args:
        bids_dir: the dataset.
        settings: the configuration.
        participants: those that are asked for, with or without `sub-`; None for all.
        sessions: those that are asked for, with or without `ses-`; None for all.
    """
    root = bids_dir.absolute()
    try:
        dataset = read_dataset(root)
    except DatasetError as error:
        return Plan(root, problems=error.problems)
    study, problems = _study(dataset, settings)
    wanted, absent = _asked(dataset.participants, participants, "participant", "sub-")
    found = [visit for participant in wanted for visit in visits(dataset, participant, ("dwi", "fmap"))]
    chosen, no_session = _choose_sessions(found, participants, sessions)
    parts = [
        part
        for participant, mine in groupby(chosen, key=lambda visit: visit.participant)
        for part in _plan_participant(participant, mine, study)
    ]
    planned = tuple(session for part in parts for session in part.sessions)
    strange = (*dataset.strange, *(path for visit in chosen for path in visit.strange))
    return Plan(
        root,
        planned,
        (*problems, *absent, *no_session, *_not_bids_names(strange), *_without_dwi(parts)),
        deviations(planned),
        (*(fact for part in parts for fact in part.left_out), *map(_left_out_name, strange)),
        study.wanted.expected,
    )


def _study(dataset: Dataset, settings: Settings) -> tuple[_Study, list[Problem]]:
    """What is needed to plan any participant, and the problems of the dataset's top."""
    problems: list[Problem] = []
    try:
        bids.read_description(dataset.root)
    except DatasetError as error:
        problems += error.problems

    def side_dataset(folder: Path | None, what: str) -> Dataset | None:
        if folder is None:
            return None
        try:
            return read_dataset(folder)
        except DatasetError as error:
            problems.extend(_no_folder(problem, what) for problem in error.problems)
            return None

    wanted = _wanted(dataset, settings)
    atlases = find_atlases(settings.labels.atlas, dataset.root, wanted.expected)
    problems += atlases.problems
    home = settings.labels.path(dataset.root)
    # With an atlas, no session needs labels of its own.
    labels = side_dataset(home if not settings.labels.atlas or home.exists() else None, "labels")
    transforms = settings.labels.transforms
    load = settings.step("load")
    assert isinstance(load, LoadConfig)
    study = _Study(
        dataset,
        settings,
        labels,
        labels if transforms is None else side_dataset(dataset.root / transforms, "transforms"),
        side_dataset(settings.masks.path(dataset.root), "masks"),
        wanted,
        atlases,
        load.b0_max_s_per_mm2,
        getattr(settings.step("mask"), "method", "") == "given",
        getattr(getattr(settings, "susceptibility", None), "method", "none") != "none",
    )
    return study, problems


def _wanted(dataset: Dataset, settings: Settings) -> Wanted:
    """What the configuration says of the labels' table."""
    roi, given = settings.step("roi"), settings.labels
    assert isinstance(roi, RoiConfig)
    table = None if given.table is None else dataset.root / given.table
    expected = None if roi.segments == "all" else expand(roi.segments)
    if isinstance(given.source, str):
        return Wanted(given.source, table, given.names, expected)
    return Wanted("auto", table, given.names, expected, given.source)


def _no_folder(problem: Problem, what: str) -> Problem:
    """What is wrong with a folder of labels, transforms or masks. Without labels, maps are still made."""
    absent = problem.code == "NOT_BIDS"
    option = "labels: transforms:" if what == "transforms" else f"{what}: folder:"
    return replace(
        problem,
        code=f"NO_{what.upper()}" if absent else problem.code,
        what=f"the folder of {what} cannot be used",
        do=f"correct {option} of the configuration, or make the folder: sub-*/ as in the dataset",
        severity="warning" if absent and what == "labels" else "error",
    )


def _asked(
    there: Sequence[str], asked: Sequence[str] | None, what: str, prefix: str
) -> tuple[list[str], list[Problem]]:
    """Those that are to be planned, and `NO_SUCH_PARTICIPANT` or `NO_SUCH_SESSION` for those not there."""
    if asked is None:
        return list(there), []
    labels = dict.fromkeys(label.removeprefix(prefix) for label in asked)
    problems = [_no_such(label, there, what, prefix) for label in labels if label not in there]
    return [label for label in there if label in labels], problems


def _no_such(label: str, there: Sequence[str], what: str, prefix: str) -> Problem:
    near = difflib.get_close_matches(label, there, n=3, cutoff=0.5)
    return Problem(
        f"NO_SUCH_{what.upper()}",
        f"the {what} that was asked for is not in the dataset",
        found=f"{prefix}{label}",
        expected=listing([prefix + other for other in there]) or f"no {what} has a name here",
        do=f"did you mean {' or '.join(prefix + other for other in near)}?"
        if near
        else f"check --{what}-label",
    )


def _choose_sessions(
    found: list[Visit], participants: Sequence[str] | None, sessions: Sequence[str] | None
) -> tuple[list[Visit], list[Problem]]:
    if sessions is None:
        return found, []
    there = sorted({visit.session for visit in found if visit.session})
    wanted, problems = _asked(there, sessions, "session", "ses-")
    chosen = [visit for visit in found if visit.session in wanted]
    have = {visit.participant for visit in chosen}
    lack = tuple(dict.fromkeys(f"sub-{v.participant}" for v in found if v.participant not in have))
    if wanted and lack and participants is not None:
        problems.append(
            Problem(
                "NO_SUCH_SESSION",
                "participants that were asked for have none of the sessions that were asked for",
                found=listing(lack),
                expected=f"ses-{' or ses-'.join(wanted)}",
                do="nothing if they were not scanned then",
                severity="warning",
            )
        )
    return chosen, problems


def _plan_participant(participant: str, mine: Iterable[Visit], study: _Study) -> list[_Part]:
    def by_session(dataset: Dataset | None) -> Mapping[str | None, Visit]:
        return {v.session: v for v in visits(dataset, participant)} if dataset is not None else {}

    labels, masks = by_session(study.labels), by_session(study.masks)
    transforms = labels if study.transforms is study.labels else by_session(study.transforms)
    return [
        _plan_visit(
            _Beside(
                visit,
                labels.get(visit.session),
                transforms.get(visit.session),
                masks.get(visit.session),
            ),
            study,
        )
        for visit in mine
    ]


def _plan_visit(beside: _Beside, study: _Study) -> _Part:
    visit = beside.visit
    files, left_out = _triage(visit, study)
    read = [read_series(file, visit.levels(file), study.sidecars) for file in files]
    problems = {series.dwi: found for series, found in read}
    groups = group([series for series, _ in read], study.settings.runs.combine)
    candidates = Candidates(visit, tuple(series for series, _ in read), study.sidecars, study.b0_max)
    sessions = [_session(one, beside, problems, left_out, candidates, study) for one in groups]
    if visit.problems and not groups:
        sessions = [Session(visit.participant, visit.session, {}, problems=visit.problems)]
    return _Part(visit, tuple(sessions), left_out)


def _triage(visit: Visit, study: _Study) -> tuple[list[File], tuple[Fact, ...]]:
    """The series that are taken, and those that are not, with the reason."""
    taken, left_out = [], []
    for file in visit.files:
        if file.name.suffix == "dwi" and file.name.is_image:
            entities = file.name.entities
            if "desc" in entities:
                reason = f"desc-{entities['desc']}: made from another image"
            elif entities.get("part", "mag") != "mag":
                reason = f"part-{entities['part']}: only magnitudes are processed"
            elif not passes(entities, study.settings.runs.filter):
                reason = "not among those of runs: filter: in the configuration"
            else:
                taken.append(file)
                continue
            left_out.append(Fact(str(file.path.relative_to(study.dataset.root)), "left out", reason))
    return taken, tuple(left_out)


def _session(
    one: Group,
    beside: _Beside,
    problems: Mapping[Path, tuple[Problem, ...]],
    left_out: tuple[Fact, ...],
    candidates: Candidates,
    study: _Study,
) -> Session:
    """A group of runs with its labels and mask, and every problem of theirs."""
    visit, settings = beside.visit, study.settings
    pairing = find_pairing(one.series, candidates if study.undistort else None)
    series, joined = check_joined(one.series, study.b0_max, pairing.opposed is not None)
    search = Search(series, beside.labels, beside.transforms, settings.labels.filter, study.dataset)
    labelling = find_labels(search, study.wanted, study.tables, study.atlases.labels)
    more = find_beside(search, study.tables, labelling.anatomy)
    atlas, tracts = _of_atlases(study.atlases, labelling, more)
    mask = find_mask(
        series,
        beside.masks,
        settings.masks.filter,
        wanted=study.masks is not None,
        required=study.mask_required,
    )
    folders = [problem for other in beside.all() for problem in other.problems]
    return Session(
        visit.participant,
        visit.session,
        one.entities,
        series,
        labels=labelling.images,
        label_rows=labelling.rows,
        label_entities=labelling.entities,
        anatomy=labelling.anatomy or (more.probabilities.anatomy if more.probabilities else None),
        probabilities=more.probabilities or tracts,
        atlas=atlas,
        landmarks=more.landmarks,
        fat=more.fat,
        fat_transform=more.fat_transform,
        mask=mask.path,
        opposed=pairing.opposed,
        roi_source=settings.labels.roi_source or labelling.roi_source,
        rater=settings.labels.rater,
        problems=tuple(
            dict.fromkeys(
                (
                    *folders,
                    *(problem for item in series for problem in _misfiled(item, visit)),
                    *(problem for item in series for problem in problems[item.dwi]),
                    *one.problems,
                    *joined,
                    *pairing.problems,
                    *labelling.problems,
                    *more.problems,
                    *mask.problems,
                )
            )
        ),
        facts=(*one.facts, *pairing.facts, *labelling.facts, *more.facts, *mask.facts, *left_out),
    )


def _of_atlases(
    given: Atlases, labelling: Labelling, more: Beside
) -> tuple[AtlasImages | None, Probabilities | None]:
    """What of the atlases a session takes: what it lacks itself."""
    labels = labelling.atlas
    tracts = None if more.probabilities else given.probabilities
    one = labels or tracts
    if one is None:
        return None, None
    images = AtlasImages(
        one.template, None if labels is None else labels.image, None if tracts is None else tracts.image
    )
    return images, None if tracts is None else Probabilities((tracts.image,), tracts.labels)


def _misfiled(series: Series, visit: Visit) -> list[Problem]:
    named = (series.entities.get("sub"), series.entities.get("ses"))
    if named == (visit.participant, visit.session):
        return []
    home = f"sub-{visit.participant}" + (f"_ses-{visit.session}" if visit.session else "")
    return [
        Problem(
            "NAME_FOLDER",
            "the image is named after another participant or session than its folder",
            where=str(series.dwi),
            found=bids.join_entities({"sub": named[0] or "", "ses": named[1] or ""}) or "neither sub nor ses",
            expected=home,
            do="find out whose scan it is, then rename or move it with its bval, bvec and JSON",
        )
    ]


def _not_bids_names(strange: Sequence[Path]) -> list[Problem]:
    if not strange:
        return []
    return [
        Problem(
            "NAME_NOT_BIDS",
            "files or folders are left out: their names are not formed as BIDS names are",
            where=str(strange[0].parent),
            found=listing([path.name for path in strange]),
            expected="sub-01, ses-02, sub-01_ses-02_dir-AP_dwi.nii.gz: pairs of letters and digits",
            do="rename them, or put them elsewhere",
            severity="warning",
        )
    ]


def _left_out_name(path: Path) -> Fact:
    return Fact(str(path), "left out", "its name is not formed as BIDS names are")


def _without_dwi(parts: Sequence[_Part]) -> list[Problem]:
    """`NO_DWI`: an error where there is nothing at all to do."""
    empty = [part for part in parts if not part.sessions]
    if not empty:
        return []
    names = tuple(
        bids.join_entities({"sub": part.visit.participant, "ses": part.visit.session or ""}) for part in empty
    )
    left_out = [fact for part in empty for fact in part.left_out]
    return [
        Problem(
            "NO_DWI",
            f"no diffusion series to process in {len(empty)} of {len(parts)} sessions",
            found=listing(names)
            + (f"; left out: {listing(tuple(f.name for f in left_out))}" if left_out else ""),
            expected="dwi/sub-*_dwi.nii.gz in the folder of each session",
            do="check runs: filter: in the configuration" if left_out else "nothing if they were not scanned",
            severity="warning" if len(empty) < len(parts) else "error",
        )
    ]
