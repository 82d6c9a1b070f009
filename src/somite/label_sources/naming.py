"""From the names that a person or a model gave its labels to segments, by rules that the user writes.

Nothing is guessed: a name without a rule is a region of that name, without side, level or segment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from somite.errors import DatasetError, Problem
from somite.segments import Label, Segment, Word, word_fault
from somite.zones import zone_of

Part = Literal["region", "side", "level", "segment"]
_PARTS: tuple[Part, ...] = ("region", "side", "level", "segment")
_SIDES = {"l": "L", "left": "L", "r": "R", "right": "R", "midline": "midline", "": ""}


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


class NameRule(BaseModel):
    """What labels of one form of name are. The first rule whose `name` matches the whole name counts.

    A group `(?P<level>...)` in `name` gives the part of that name: region, side, level or segment. Any other
    group is put into an option as `\\g<...>`: `level: '\\g<upper>-\\g<lower>'`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1), AfterValidator(_expression)]
    """Regular expression of the names, such as `root_(?P<level>L5|S1)_(?P<side>left|right)`."""
    region: Word = ""
    """Structure, where the name does not hold it: `nerve_root`."""
    side: Literal["L", "R", "midline", ""] = ""
    """Side of the body, where the name does not hold it. A group `side` takes L, R, left, right, midline."""
    level: Word = ""
    """Level along the spine, where the name does not hold it: `L5`, `L4-L5`."""
    segment: Word = ""
    """Part of the structure, where the name does not hold it: `np`."""

    @model_validator(mode="after")
    def _each_part_once(self) -> NameRule:
        groups = re.compile(self.name).groupindex
        options = "".join(getattr(self, part) for part in _PARTS)
        used = set(re.findall(r"\\g<(\w+)>", options))
        if unknown := sorted(set(groups) - set(_PARTS) - used) or sorted(used - set(groups)):
            raise ValueError(
                f"a group is neither one of {', '.join(_PARTS)} nor put into an option: {', '.join(unknown)}"
                if set(unknown) <= set(groups)
                else f"`name` has no group {', '.join(unknown)}"
            )
        if twice := [part for part in _PARTS if part in groups and getattr(self, part)]:
            raise ValueError(f"given both as an option and by a group: {', '.join(twice)}")
        if not self.region and "region" not in groups:
            raise ValueError("no region: give `region:`, or a group (?P<region>...) in `name`")
        return self


def name_labels(names: Mapping[int, str], rules: Sequence[NameRule], where: str) -> tuple[Label, ...]:
    """The labels of a source that has only names.

    Args:
        names: index -> name.
        rules: the user's, in their order.
        where: the file that the names are from.

    Raises:
        DatasetError: `LABEL_NAME`, one Problem for each name of which a rule makes no segment.
    """
    labels, problems = [], []
    for index, name in names.items():
        try:
            labels.append(Label(index, name, segment_of(name, rules)))
        except ValueError as error:
            problems.append(_bad_name(name, index, where, str(error)))
    if problems:
        raise DatasetError.of(problems)
    return tuple(labels)


def without_rule(labels: Sequence[Label], rules: Sequence[NameRule]) -> tuple[str, ...]:
    """The names that no rule matches."""
    return tuple(label.name for label in labels if _matching(label.name, rules) is None)


def segment_of(name: str, rules: Sequence[NameRule]) -> Segment:
    """The segment that a name means. Raises ValueError, saying why, where a rule makes none of it."""
    found = _matching(name, rules)
    if found is None:
        parts = {"region": name}
    else:
        rule, match = found
        groups = match.groupdict()
        parts = {part: groups.get(part) or match.expand(getattr(rule, part)) for part in _PARTS}
        if parts["side"].lower() not in _SIDES:
            raise ValueError(f"the side {parts['side']!r} is not L, R, left, right or midline")
        parts["side"] = _SIDES[parts["side"].lower()]
    if not parts["region"]:
        raise ValueError("the region is empty")
    for part, text in parts.items():
        if fault := word_fault(text):
            raise ValueError(f"{part} {text!r}: {fault}")
    segment = zone_of(parts["region"], parts.get("segment", ""))
    return Segment(parts["region"], parts.get("side", ""), parts.get("level", ""), segment)


def _matching(name: str, rules: Sequence[NameRule]) -> tuple[NameRule, re.Match[str]] | None:
    return next(((rule, match) for rule in rules if (match := re.fullmatch(rule.name, name))), None)


def _bad_name(name: str, index: int, where: str, fault: str) -> Problem:
    return Problem(
        "LABEL_NAME",
        "the name of a label makes no segment",
        where=where,
        found=f"{name!r} (label {index}): {fault}",
        expected="a name that a rule of labels: names: of the configuration turns into region, side, level "
        "and segment",
        do="rename the label, or write a rule for it",
    )
