"""Datasets as YAML skeletons: a few lines that name files, built into a folder with tiny real images.

Below `files:` a key that ends in `_dwi`, `_dseg` or `_mask` is an image with what belongs to it (bval, bvec
and JSON; TSV); a key with an extension is a text file, or JSON where its content is a mapping; one that ends
in `/` is an empty folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from ruamel.yaml import YAML

from somite.configs.model import Settings, settings_model
from somite.registry import discover

FOLDER = Path(__file__).parent / "skeletons"
SHAPE = (5, 4, 3)
DESCRIPTION = {"Name": "skeleton", "BIDSVersion": "1.10.0"}
TABLE = (
    ("index", "name", "region", "side", "level", "segment"),
    (0, "background", "n/a", "n/a", "n/a", "n/a"),
    (1, "root L5 left", "nerve_root", "L", "L5", "n/a"),
    (2, "root L5 right", "nerve_root", "R", "L5", "n/a"),
)
SEGMENTS = [{"region": "nerve_root", "sides": ["L", "R"], "levels": ["L5"]}]


@dataclass(frozen=True)
class Skeleton:
    """A dataset, and what is expected of its plan for one or more configurations."""

    name: str
    about: str
    files: Mapping[str, Any]
    plans: Sequence[Mapping[str, Any]]


def load(name: str) -> Skeleton:
    content = YAML(typ="safe").load(FOLDER / f"{name}.yaml")
    return Skeleton(name, content["about"], content["files"], content["plans"])


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def settings(**sections: Any) -> Settings:
    """A configuration with the steps that a plan asks for options, and no other."""
    steps = discover()
    sections = {"roi": {"segments": SEGMENTS}, **sections}
    return settings_model({name: steps[name] for name in ("load", "mask", "roi")})(
        protocol="test", **sections
    )


def build(root: Path, files: Mapping[str, Any]) -> Path:
    """Write the files into `root`, with a dataset_description.json unless they name one; returns it."""
    described = {"dataset_description.json": DESCRIPTION, **files}
    for name, content in described.items():
        if content is not None or "." not in name:
            _write(root / name, name, content)
    return root


def _write(path: Path, name: str, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = name.rpartition("_")[2]
    if name.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "dwi":
        write_series(path, **(content or {}))
    elif kind in ("dseg", "mask"):
        write_labels(path, **{"table": None if kind == "mask" else TABLE, **(content or {})})
    elif isinstance(content, dict | list):
        path.write_text(json.dumps(content), encoding="utf-8")
    else:
        path.write_text(content or "", encoding="utf-8")


def directions(n: int) -> np.ndarray:
    """Unit vectors (n, 3) of a golden spiral over half a sphere: distinct, and in no plane."""
    z = (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)


def write_series(
    base: Path,
    *,
    b: Sequence[float] = (0, *[800] * 6),
    json: Mapping[str, Any] | str | None = None,
    without: Sequence[str] = (),
    ext: str = ".nii.gz",
    shape: Sequence[int] = SHAPE,
    voxel: Sequence[float] = (2, 2, 3),
    origin: Sequence[float] = (0, 0, 0),
) -> None:
    """An image of a volume for each b-value, its bval, bvec, and the JSON if there is content for it."""
    grid = (*shape, len(b)) if len(shape) == 3 else tuple(shape)
    weighted = np.array(b) > 0
    vectors = np.zeros((len(b), 3))
    vectors[weighted] = directions(int(weighted.sum()))
    if "image" not in without:
        base.with_name(base.name + ext).write_bytes(image_bytes(grid, tuple(voxel), tuple(origin), ext))
    if "bval" not in without:
        base.with_name(base.name + ".bval").write_text(" ".join(f"{x:g}" for x in b) + "\n")
    if "bvec" not in without:
        np.savetxt(base.with_name(base.name + ".bvec"), vectors.T, fmt="%.6f")
    if json is not None:
        _write(base.with_name(base.name + ".json"), "sidecar.json", json)


def write_labels(
    base: Path,
    *,
    table: Sequence[Sequence[object]] | str | None = TABLE,
    ext: str = ".nii.gz",
    shape: Sequence[int] = SHAPE,
    voxel: Sequence[float] = (2, 2, 3),
    origin: Sequence[float] = (0, 0, 0),
) -> None:
    """An image of the values 0, 1 and 2, and its table if there is content for it."""
    content = image_bytes(tuple(shape), tuple(voxel), tuple(origin), ext, "uint8")
    base.with_name(base.name + ext).write_bytes(content)
    if table is not None:
        text = table if isinstance(table, str) else "".join("\t".join(map(str, r)) + "\n" for r in table)
        base.with_name(base.name + ".tsv").write_text(text)


@cache
def image_bytes(
    shape: tuple[int, ...],
    voxel: tuple[float, ...],
    origin: tuple[float, ...],
    ext: str,
    dtype: str = "int16",
) -> bytes:
    """A NIfTI file whose voxels count 0, 1, 2, 0, ...: in every volume and label image, several values."""
    data = (np.arange(np.prod(shape)) % 3).reshape(shape, order="F").astype(dtype)
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = origin
    content = nib.Nifti1Image(data, affine).to_bytes()
    return igzip.compress(content, 1, mtime=0) if ext.endswith(".gz") else content
