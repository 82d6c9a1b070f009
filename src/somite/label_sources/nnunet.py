"""Labels of nnU-Net: the names and integers in `dataset.json`, of version 1 or 2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from somite.errors import DatasetError, Problem
from somite.files import read_json


def read_names(path: Path) -> dict[int, str]:
    """Index -> name of every label but 0, the background, and without `ignore`.

    Version 2 writes name -> integer, version 1 the integer as text -> name. A region of several integers,
    in region-based training, is left out: predictions hold integers, each with a name of its own or none.

    Raises:
        DatasetError: `LABEL_TABLE`, one Problem for each mistake.
    """
    labels = _labels(path)
    names: dict[int, str] = {}
    problems = []
    for key, value in labels.items():
        if isinstance(value, list):
            continue
        index, name = (int(key), value) if key.isdigit() and isinstance(value, str) else (value, key)
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            problems.append(_problem("a label has no integer", path, f"{key}: {json.dumps(value)}"))
        elif index in names:
            problems.append(_problem("an integer is given twice", path, f"{index}: {names[index]}, {name}"))
        else:
            names[index] = " ".join(name.split())
    if problems:
        raise DatasetError.of(problems)
    return {index: name for index, name in names.items() if index != 0 and name != "ignore"}


def _labels(path: Path) -> Mapping[str, object]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(_problem("dataset.json cannot be read", path, str(error))) from error
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise DatasetError(_problem("dataset.json holds no labels", path, "no mapping `labels`"))
    return labels


def _problem(what: str, path: Path, found: str) -> Problem:
    return Problem(
        "LABEL_TABLE",
        what,
        where=f"{path}, labels",
        found=found,
        expected='"labels": {"background": 0, "name": 1, ...}, as nnU-Net writes it',
        do="take the dataset.json from the folder of the trained model",
    )
