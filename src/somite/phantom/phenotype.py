"""What is known of made-up people: participants.tsv, and the clinical tables of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from somite.phantom.bids_files import write_json, write_tsv
from somite.phantom.change import Change
from somite.phantom.cohort import Person
from somite.phantom.protocol import Score


def place_words(lesion: Sequence[Change]) -> str:
    """Where a lesion is: `lesion of nerve_root R L5`."""
    places = [" ".join(p for p in (c.region, c.side, c.level, c.segment) if p) for c in lesion]
    return f"lesion of {', '.join(places)}" if places else "no lesion"


def write_participants(root: Path, people: Sequence[Person], lesion: str) -> None:
    """Write participants.tsv and its dictionary."""
    write_tsv(
        root / "participants.tsv",
        ("participant_id", "age", "sex", "group"),
        [(p.name, p.age, p.sex, "patient" if p.patient else "control") for p in people],
    )
    about = {
        "age": {"Description": "Age, made up", "Units": "year"},
        "sex": {"Description": "Sex, made up", "Levels": {"F": "female", "M": "male"}},
        "group": {
            "Description": "Group of the participant",
            "Levels": {"control": "no lesion", "patient": lesion},
        },
    }
    write_json(root / "participants.json", about)


def write_clinic(root: Path, people: Sequence[Person], score: Score) -> None:
    """Write the tables of the folder phenotype: the score, and the side and level that are affected."""
    folder = root / "phenotype"
    write_tsv(
        folder / f"{score.name}.tsv", ("participant_id", score.name), [(p.name, p.score) for p in people]
    )
    units = {"Units": score.units} if score.units else {}
    tool = {"Description": f"{score.description}, made up; of patients only"}
    column = {"Description": f"{score.description}, {score.low:g} to {score.high:g}"} | units
    write_json(folder / f"{score.name}.json", {"MeasurementToolMetadata": tool, score.name: column})
    write_tsv(
        folder / "clinical.tsv",
        ("participant_id", "affected_side", "affected_level"),
        [(p.name, *p.affected) for p in people],
    )
    write_json(folder / "clinical.json", _CLINICAL)


_CLINICAL: dict[str, Any] = {
    "MeasurementToolMetadata": {"Description": "Findings of a clinical examination, made up"},
    "affected_side": {
        "Description": "Side of the lesion; n/a without a lesion, and where it is on both",
        "Levels": {"L": "left", "R": "right"},
    },
    "affected_level": {"Description": "Level of the lesion; n/a where it has none"},
}
