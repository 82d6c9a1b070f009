"""The anatomical image that labels were drawn on, where no transform brings them to the diffusion series.

Only names and headers are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from somite.bids import File, comparable
from somite.dataset.index import Dataset, Visit, visits
from somite.dataset.series import read_header
from somite.dataset.sessions import listing
from somite.errors import DatasetError, Problem
from somite.registry import Fact

_SPACE_OF = ("acq", "ce", "rec", "run")
"""Entities that tell one scan of a session from another of its kind."""


def find_anatomy(
    labels: File, own: Visit, dataset: Dataset | None
) -> tuple[Path | None, tuple[Problem, ...], tuple[Fact, ...]]:
    """The image `sub-*_T2w.nii.gz` that a label image `space-T2w` was drawn on, problems and facts.

    It is looked for in the same session of the dataset, then among the labels. Of several that fit, the
    one that has no other `acq`, `ce`, `rec` or `run` than the label image; where that is not one, none.

    Args:
        labels: the label image; its `space` is the suffix of the image that it was drawn on.
        own: the files of the session in the dataset of the labels.
        dataset: the dataset of the scans; None where there is none.
    """
    scans = visits(dataset, own.participant, ("anat",)) if dataset else []
    places = [*(visit for visit in scans if visit.session == own.session), own]
    space = labels.name.entities.get("space", "dwi")
    fitting = [_fitting(labels, visit, space) for visit in places]
    found: list[File] = next((files for files in fitting if files), [])
    if len(found) != 1:
        return None, (_missing(labels, space, found),), ()
    try:
        _, shape = read_header(found[0].path, "the anatomical image")
    except DatasetError as error:
        return None, error.problems, ()
    if any(n != 1 for n in shape[3:]):
        return None, (_missing(labels, space, found),), ()
    reason = f"the labels are in the space {space}, without a transform to dwi: it is registered"
    return found[0].path, (), (Fact("anatomy", found[0].path.name, reason),)


def _fitting(labels: File, visit: Visit, space: str) -> list[File]:
    mine = labels.name.entities
    files = [
        file
        for file in visit.files
        if file.name.suffix == space
        and file.name.is_image
        and not {"desc", "space"} & set(file.name.entities)
        and all(
            comparable(key, file.name.entities.get(key, "")) == comparable(key, mine[key])
            for key in _SPACE_OF
            if key in mine
        )
    ]
    # One without these entities is the plain scan; others are others of it.
    plain = [file for file in files if not set(_SPACE_OF) & (set(file.name.entities) - set(mine))]
    return plain if len(plain) == 1 else files


def _missing(labels: File, space: str, found: Sequence[File]) -> Problem:
    entities = labels.name.entities
    session = f"_ses-{entities['ses']}" if "ses" in entities else ""
    return Problem(
        "ANATOMY_MISSING",
        "the image that the labels were drawn on cannot be told, and there is no transform to the series",
        where=str(labels.path),
        found=listing([file.path.name for file in found]) or f"no *_{space}.nii.gz in the session",
        expected=f"one 3D image, sub-{entities.get('sub', '')}{session}_{space}.nii.gz in the folder anat",
        do=f"add it (or choose by acq or run in the labels' name), or give the ITK transform "
        f"*_from-{space}_to-dwi_mode-image_xfm.txt",
    )
