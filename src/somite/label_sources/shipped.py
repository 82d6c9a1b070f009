"""The published numberings of segmentation tools and atlases, as tables that ship with Somite."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from somite.segments import Label, read_label_table

ShippedName = Literal[
    "totalspineseg",
    "totalsegmentator_mr",
    "totalsegmentator_thigh",
    "musclemap_thigh",
    "musclemap_abdomen",
    "jhu_icbm_dti_81",
    "jhu_tracts",
]
SHIPPED: tuple[ShippedName, ...] = get_args(ShippedName)

_FOLDER = Path(__file__).parent / "tables"


def is_shipped(source: str) -> TypeGuard[ShippedName]:
    """Whether a source is one of the published numberings."""
    return source in SHIPPED


@cache
def read_shipped(name: ShippedName) -> tuple[Label, ...]:
    """The labels of a published numbering."""
    return read_label_table(_FOLDER / f"{name}.tsv")


@cache
def about(name: ShippedName) -> dict[str, Any]:
    """Where a numbering was read from: its Name, Source, Files with their commits, and Notes."""
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
