"""Label descriptions of ITK-SNAP: text files of index, colour, visibility and name."""

from __future__ import annotations

import re
from pathlib import Path

from somite.errors import DatasetError, Problem

# IDX  -R-  -G-  -B-  -A--  VIS MSH  "LABEL", as the header of the file says.
_LINE = re.compile(r'\s*(\d+)((?:\s+\S+){6})\s+"(.*)"\s*')


def read_names(path: Path) -> dict[int, str]:
    """Index -> name of every label but 0, the clear label.

    Raises:
        DatasetError: `LABEL_TABLE`, one Problem for each mistake: the file cannot be read, a line has
            another form, an index is given twice, a name is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(_problem("the label description cannot be read", str(path), str(error))) from error
    names: dict[int, str] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        match = _LINE.fullmatch(line)
        name = " ".join(match[3].split()) if match else ""
        if match is None:
            problems.append(_problem("a line is no label of ITK-SNAP", where, line.strip()))
        elif int(match[1]) in names:
            problems.append(_problem("an index is given twice", where, match[1]))
        elif not name:
            problems.append(_problem("a label has no name", where, line.strip()))
        else:
            names[int(match[1])] = name
    if problems:
        raise DatasetError.of(problems)
    return {index: name for index, name in names.items() if index != 0}


def _problem(what: str, where: str, found: str) -> Problem:
    return Problem(
        "LABEL_TABLE",
        what,
        where=where,
        found=found,
        expected='lines of IDX R G B A VIS MSH "LABEL", each index once',
        do="save the label descriptions again in ITK-SNAP (Segmentation, Export Label Descriptions)",
    )
