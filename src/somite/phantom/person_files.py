"""The files of one participant: scans, labels and truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import somite
from somite import gradients
from somite.images import Grid
from somite.phantom import truth
from somite.phantom.anatomy import EDGE
from somite.phantom.bids_files import (
    REPETITION_TIME_S,
    about_labels,
    anatomical_sidecar,
    sidecar,
    write_image,
    write_json,
    write_labels,
    write_signal,
    write_tsv,
)
from somite.phantom.cohort import Person
from somite.phantom.make import Phantom
from somite.phantom.protocol import Drawn, Protocol
from somite.phantom.scan import Scan
from somite.phantom.still import Still, make_still

LABELS, TRUTH = (Path("derivatives") / name for name in ("labels", "truth"))
_EVERY = 5
"""Samples of a centreline, of which one is written."""


@dataclass(frozen=True)
class Order:
    """What is to be written."""

    protocol: Protocol
    snr: float
    grid: Grid
    variant: str
    faults: Scan
    labels: Drawn


def write_person(root: Path, order: Order, person: Person, phantom: Phantom) -> list[dict[str, object]]:
    """Write scans, labels and truth of one participant; returns the rows of the truth."""
    _write_scan(root / person.name, order, person.name, phantom)
    still = None
    if order.labels == "anatomy" and order.protocol.anatomical is not None:
        still = make_still(order.protocol, order.protocol.anatomical, phantom, person.seeds)
        _write_still(root / person.name / "anat", order.protocol, person.name, still)
    _write_labels(root / LABELS / person.name, order, person.name, phantom, still)
    _write_truth(root / TRUTH, order, person.name, phantom)
    _write_faults(root / TRUTH, person.name, phantom, still)
    known = {
        "participant_id": person.name,
        "site": "phantom",
        "protocol": order.protocol.name,
        "rater": "phantom",
        "roi_source": "phantom",
        "model": "truth",
        "pipeline_version": somite.__version__,
    }
    return [known | row for row in truth.rows(phantom.truth, phantom.grid.voxel_mm3)]


def _write_scan(folder: Path, order: Order, participant: str, phantom: Phantom) -> None:
    stem = folder / "dwi" / f"{participant}_dwi"
    grid, noisy, te_ms = phantom.grid, phantom.sigma > 0, order.protocol.te_ms
    write_signal(stem.with_name(f"{stem.name}.nii.gz"), phantom.dwi, grid, noisy, REPETITION_TIME_S)
    gradients.write_fsl(phantom.gradients, stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    write_json(stem.with_suffix(".json"), sidecar(grid, te_ms))
    if phantom.reverse_b0 is not None:
        epi = folder / "fmap" / f"{participant}_dir-PA_epi"
        write_signal(epi.with_name(f"{epi.name}.nii.gz"), phantom.reverse_b0, grid, noisy)
        intended = {"IntendedFor": f"bids::{participant}/dwi/{stem.name}.nii.gz"}
        write_json(epi.with_suffix(".json"), sidecar(grid, te_ms, reverse=True) | intended)


def _write_still(folder: Path, about: Protocol, participant: str, still: Still) -> None:
    assert about.anatomical is not None
    image = folder / f"{participant}_{about.anatomical.suffix}.nii.gz"
    write_signal(image, still.image, still.grid, noisy=True)
    write_json(
        image.with_name(f"{participant}_{about.anatomical.suffix}.json"),
        anatomical_sidecar(about.anatomical.te_ms, about.anatomical.tr_ms),
    )


def _write_labels(
    folder: Path, order: Order, participant: str, phantom: Phantom, still: Still | None
) -> None:
    if order.labels == "none":
        return
    said = f"seg-{order.protocol.name.replace('-', '')}_desc-manual_dseg"
    if still is not None and order.protocol.anatomical is not None:
        suffix = order.protocol.anatomical.suffix
        stem = folder / "anat" / f"{participant}_space-{suffix}_{said}"
        write_labels(stem, still.labels, still.grid, phantom.anatomy.wholes)
        source = f"{participant}/anat/{participant}_{suffix}.nii.gz"
        words = "Whole structures of the phantom, as a rater would draw them"
        write_json(stem.with_suffix(".json"), about_labels(words, f"that of the {suffix} image", source))
        return
    stem = folder / "dwi" / f"{participant}_space-dwi_{said}"
    whole = order.labels == "whole"
    image, table = (phantom.whole, phantom.whole_table) if whole else (phantom.labels, phantom.label_table)
    write_labels(stem, image, phantom.grid, table)
    last = max(label.index for label in table) - EDGE
    what = "Whole structures" if whole else "Segments"
    words = (
        f"{what} of the phantom, drawn by the program that made it and named as a rater's would be: 1 to "
        f"{last} are voxels wholly in one {'structure' if whole else 'segment'}, {EDGE + 1} to {last + EDGE} "
        "those that it shares"
    )
    source = f"{participant}/dwi/{participant}_dwi.nii.gz"
    write_json(stem.with_suffix(".json"), about_labels(words, "that of the diffusion series", source))


def _write_truth(folder: Path, order: Order, participant: str, phantom: Phantom) -> None:
    """The segments, where they are not the labels, and points and curves of the body in the world."""
    stem = f"{folder}/{participant}"
    if order.labels != "segments":
        image = Path(f"{stem}_desc-segments_dseg")
        write_labels(image, phantom.labels, phantom.grid, phantom.label_table)
    body = phantom.anatomy
    if body.landmarks:
        points = body.to_world(np.array([mark.point for mark in body.landmarks]).T).T.tolist()
        rows = [
            (mark.name, mark.structure.region, mark.structure.side, mark.structure.level, *point)
            for mark, point in zip(body.landmarks, points, strict=True)
        ]
        write_tsv(Path(f"{stem}_landmarks.tsv"), ("name", "region", "side", "level", "x", "y", "z"), rows)
    if body.lines:
        rows = []
        for line in body.lines:
            points = body.to_world(line.points[::_EVERY].T).T.tolist()
            name = (line.structure.region, line.structure.side, line.structure.level)
            rows += [(*name, s, *p) for s, p in zip(line.s[::_EVERY].tolist(), points, strict=True)]
        header = ("region", "side", "level", "s_mm", "x", "y", "z")
        write_tsv(Path(f"{stem}_centrelines.tsv"), header, rows)


def _write_faults(folder: Path, participant: str, phantom: Phantom, still: Still | None) -> None:
    """What went wrong in the scan."""
    stem = f"{folder}/{participant}"
    affine = [f"m{i}{j}" for i in range(3) for j in range(4)]
    if phantom.moves:
        rows = [(n, *pose[:3].ravel().tolist()) for n, pose in enumerate(phantom.motion)]
        write_tsv(Path(f"{stem}_motion.tsv"), ("volume", *affine), rows)
    if still is not None:
        write_tsv(Path(f"{stem}_from-anat_to-dwi.tsv"), affine, [still.to_dwi[:3].ravel().tolist()])
    if phantom.displacement is not None:
        write_image(Path(f"{stem}_displacement.nii.gz"), phantom.displacement, phantom.grid)
    if phantom.eddies is not None:
        rows = [(n, *terms) for n, terms in enumerate(phantom.eddies.tolist())]
        write_tsv(Path(f"{stem}_eddy.tsv"), ("volume", "shift_mm", "x", "y", "z"), rows)
    if phantom.lost:
        write_tsv(Path(f"{stem}_lost.tsv"), ("volume", "slice"), phantom.lost)
