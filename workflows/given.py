"""What the plan gives to a session's steps: files, and texts that are made into files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from somite import bids
from somite.dataset.sessions import Opposed, Session
from somite.interfaces.transfer import Route, routes_text
from somite.segments import label_table_text

# What the plan gives for every session, and what it may give.
GIVEN = ("dwi", "bval", "bvec", "sidecar", "identity")
OPTIONAL = (
    "labels",
    "label_table",
    "label_routes",
    "labels_transform",
    "anatomy",
    "probabilities",
    "probability_table",
    "probabilities_transform",
    "landmarks",
    "fat_given",
    "fat_transform",
    "mask_given",
    "pairing",
    "opposed",
)
# What an atlas gives in place of a session's own.
_ATLAS = {"labels": "atlas_labels", "probabilities": "atlas_probabilities"}


def every_kind() -> Iterator[frozenset[str]]:
    """All that may be given together: with a session's own labels and probabilities, and with an atlas's."""
    yield frozenset(OPTIONAL)
    for lacking in (("labels",), ("probabilities",), ("labels", "probabilities")):
        atlas = {"atlas_template", *(_ATLAS[name] for name in lacking)}
        yield frozenset(OPTIONAL) - set(lacking) | atlas


def given_files(session: Session) -> dict[str, Path | tuple[Path, ...]]:
    """Optional product -> its file or files, of those that there are."""
    labels, probabilities, atlas = session.labels, session.probabilities, session.atlas
    own = None if atlas is not None and atlas.probabilities is not None else probabilities
    transforms = dict.fromkeys(one.transform for one in labels if one.transform is not None)
    given: dict[str, Path | tuple[Path, ...] | None] = {
        "labels": tuple(one.path for one in labels),
        "label_table": labels[0].table if len(labels) == 1 else None,
        "labels_transform": tuple(transforms),
        "anatomy": session.anatomy,
        "probabilities": () if own is None else own.images,
        "probabilities_transform": None if own is None else own.transform,
        "landmarks": session.landmarks,
        "fat_given": session.fat,
        "fat_transform": session.fat_transform,
        "mask_given": session.mask,
        "opposed": tuple(image.path for image in session.opposed or ()),
    }
    if atlas is not None:
        given["atlas_template"] = atlas.template
        given["atlas_labels"] = (atlas.labels,) if atlas.labels else ()
        given["atlas_probabilities"] = (atlas.probabilities,) if atlas.probabilities else ()
    return {name: files for name, files in given.items() if files}


def given_texts(session: Session) -> dict[str, str]:
    """Optional product -> the text of a file that is made for it."""
    texts = {} if session.opposed is None else {"pairing": pairing_of(session.opposed)}
    if session.label_rows and not (len(session.labels) == 1 and session.labels[0].table is not None):
        texts["label_table"] = label_table_text(session.label_rows)
    if session.probabilities is not None:
        texts["probability_table"] = label_table_text(session.probabilities.rows)
    if session.labels:
        transforms = list(dict.fromkeys(one.transform for one in session.labels if one.transform is not None))
        texts["label_routes"] = routes_text(
            [
                Route(
                    one.values,
                    None if one.transform is None else transforms.index(one.transform),
                    one.anatomy is not None,
                )
                for one in session.labels
            ]
        )
    return texts


def pairing_of(opposed: tuple[Opposed, ...]) -> str:
    """What the step `susceptibility` is told of the images of opposite phase encoding, as JSON."""
    keys = ("phase_encoding_direction", "total_readout_time_s", "b0_volumes")
    images = [{"name": bids.stem(one.path)} | {key: getattr(one, key) for key in keys} for one in opposed]
    return json.dumps({"opposed": images}, sort_keys=True)
