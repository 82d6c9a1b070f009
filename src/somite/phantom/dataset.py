"""A phantom as a BIDS dataset: scans, labels and truth of a small cohort, the same bytes for a seed.

Participants are by turns controls and patients with a lesion, or a cohort whose group difference is known.
Every participant is made from (seed, number) alone: the first two of four are the two of two. Knows no
protocol: what is particular to one is in its `Protocol`.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from shutil import rmtree

import numpy as np

import somite
from somite.errors import ConfigError, Problem
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import change, paint, phenotype, simulate
from somite.phantom import protocol as protocol_module
from somite.phantom.bids_files import description, write_image, write_json, write_labels
from somite.phantom.change import Change
from somite.phantom.cohort import Cohort, Person, Recruitment, by_turns
from somite.phantom.make import make
from somite.phantom.person_files import LABELS, TRUTH, Order, write_person
from somite.phantom.protocol import Drawn, Protocol, unknown_variant
from somite.phantom.scan import Scan
from somite.segments import Segment, dictionary, write_table

ATLAS = Path("derivatives/atlas")
_README = """\
A synthetic {title}, made by Somite {version}:
    somite phantom {name} OUT_DIR {options}

No person was scanned; age and sex are drawn at random. Diffusion series:
{scheme}, TE {te:g} ms, {noise}.
{about}
{group}
{labels}
derivatives/truth/segments.tsv holds what a fit without noise should find: for each segment, mean and standard
deviation over its pure voxels of the true FA and diffusivities of each voxel. Where a tissue changes along
the segment, as in the first 15 mm of a root, the mean is that of the voxels' values. Noise raises FA: compare
a measurement at finite SNR with a simulation at the same SNR (somite.phantom.make.expected), not with the
truth itself. Where the labels are not the segments, sub-XX_desc-segments_dseg holds these on the grid of the
series; sub-XX_landmarks.tsv and sub-XX_centrelines.tsv are points and curves of the body, where it has some,
in world millimetres (RAS+).
{faults}"""
_WHERE_LABELS = {
    "segments": "derivatives/labels holds the segments on the grid of the series.\n",
    "whole": """\
derivatives/labels holds whole structures on the grid of the series; the segments are parts of them.
""",
    "anatomy": """\
derivatives/labels holds whole structures on the grid of the anatomical image; the segments are parts of them.
The body lies elsewhere in that image: derivatives/truth/sub-XX_from-anat_to-dwi.tsv has the first three rows
of the affine in world millimetres (RAS+) from there to the series.
""",
    "none": "There are no labels beside the scans; derivatives/atlas has a template with its labels.\n",
}
_LABELS_README = """\
{what} of the {name} phantom, as the program that made it knows them. The files are named as
those of a rater would be.

{edges}{about}
"""
_EDGES = """\
Labels below 100 are voxels that lie wholly in one of them. Voxels that they share with something else carry
the label + 100, of the region `partial_volume`, which no protocol measures.
"""
_MOTION = """
The body moves during the series. derivatives/truth/sub-XX_motion.tsv has, for each volume, the first three
rows of the affine in world millimetres (RAS+) that takes the body from its place in the first volume to that
in this one. Labels and truth are those of the first volume.
"""
_DISTORTED = """
The series is distorted along phase encoding. derivatives/truth/sub-XX_displacement.nii.gz has, for what lies
in each voxel, how far towards posterior it is seen, in mm; fmap has a b=0 image of the opposite phase
encoding. Labels and truth are undistorted.
"""
_EDDIES = """
Eddy currents shear and scale each volume along phase encoding. derivatives/truth/sub-XX_eddy.tsv has their
shift towards posterior in mm, and its slope along x, y and z of the world about the middle of the grid.
"""
_LOST = """
Slices have lost their signal: derivatives/truth/sub-XX_lost.tsv has their volumes and places, from 0.
"""
_RINGING = """
The series is made from a finer image by leaving out what a scanner does not measure of k-space: edges ring
within the slices. The truth is that of the body.
"""


def write_dataset(
    out_dir: Path,
    participants: int = 4,
    seed: int = 1,
    snr: float | None = None,
    *,
    protocol: str = "lumbar",
    grid: Grid | None = None,
    scheme: Gradients | None = None,
    variant: str = "",
    faults: Scan | None = None,
    labels: Drawn | None = None,
    lesion: tuple[Change, ...] | None = None,
    cohort: Cohort | None = None,
) -> Path:
    """Write the dataset; returns `out_dir`. It appears whole or not at all.

    Args:
        out_dir: a folder that does not exist, or an empty one.
        participants: at least 1; by turns controls and patients.
        seed: at least 0.
        snr: signal of the reference tissue (nerve, muscle, white matter) at b=0 over the standard deviation
            of the noise; infinity for none; None for the protocol's own.
        protocol: one of `somite.phantom.NAMES`.
        grid: where the voxels lie; default the protocol's.
        scheme: gradients in world axes; default the protocol's.
        variant: of the anatomy, one of the protocol's; `""` for the ordinary one.
        faults: what goes wrong in the scan.
        labels: which a rater has drawn; None: the protocol's own.
        lesion: of patients; None: the protocol's own.
        cohort: who takes part instead, with a known difference between the groups. Its effect takes the place
            of the lesion's.

    Raises:
        ConfigError: every one of `PROTOCOL`, `PARTICIPANTS`, `SEED`, `SNR`, `SCAN`, `LABELS`, `VARIANT`,
            `LESION`, `COHORT` and `OUT_DIR_NOT_EMPTY` that applies.
    """
    faults = faults or Scan()
    problems = _problems(out_dir, participants, seed, snr, faults)
    about, more = _found(protocol, variant, lesion, cohort, labels)
    if about is None or problems or more:
        raise ConfigError.of([*problems, *more])
    order = Order(
        about, about.snr if snr is None else snr, grid or about.grid(), variant, faults, labels or about.drawn
    )
    people = _people(about, participants, seed, variant, lesion, cohort)
    words = (
        about.lesion_words
        if lesion is None and cohort is None
        else phenotype.place_words(about.lesion if lesion is None else lesion)
    )
    with _draft(out_dir) as draft:
        _write_top(draft, order, people, words, _options(len(people), seed, order.snr, cohort))
        if cohort is not None:
            phenotype.write_clinic(draft, people, about.score)
        rows: list[dict[str, object]] = []
        for person in people:
            phantom = make(
                about,
                person.seeds,
                order.snr,
                grid=order.grid,
                gradients=scheme,
                changes=person.changes,
                variant=variant,
                faults=faults,
            )
            rows.extend(write_person(draft, order, person, phantom))
        write_table(draft / TRUTH / "segments.tsv", rows)
    return out_dir


def write_cohort_table(
    out_dir: Path,
    cohort: Cohort,
    seed: int = 1,
    *,
    protocol: str = "lumbar",
    variant: str = "",
    lesion: tuple[Change, ...] | None = None,
) -> Path:
    """Write a cohort as if it had been scanned and measured, without images; returns `out_dir`.

    `group/segments.tsv` is the long table, beside participants.tsv and the clinical tables.

    Raises:
        ConfigError: as `write_dataset`.
    """
    problems = _problems(out_dir, cohort.patients + cohort.controls, seed, None, Scan())
    about, more = _found(protocol, variant, lesion, cohort, None)
    if about is None or problems or more:
        raise ConfigError.of([*problems, *more])
    people = _people(about, 0, seed, variant, lesion, cohort)
    with _draft(out_dir) as draft:
        name = f"Somite {about.name} phantom: table of a cohort"
        write_json(draft / "dataset_description.json", description(name, "derivative", _command(about)))
        phenotype.write_participants(draft, people, phenotype.place_words(lesion or about.lesion))
        phenotype.write_clinic(draft, people, about.score)
        (draft / "group").mkdir()
        table = simulate.long_table(about, people, simulate.typical(about, variant))
        table.to_csv(draft / "group" / "segments.tsv", sep="\t", index=False, float_format="%.9g")
        write_json(draft / "group" / "segments.json", dictionary())
    return out_dir


@contextmanager
def _draft(out_dir: Path) -> Iterator[Path]:
    """A folder that takes the name `out_dir` when all went well, and is removed when not."""
    draft = out_dir.absolute().parent / f".{out_dir.name}.{uuid.uuid4().hex[:12]}"
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(out_dir)
    finally:
        rmtree(draft, ignore_errors=True)


def _problems(out_dir: Path, participants: int, seed: int, snr: float | None, faults: Scan) -> list[Problem]:
    occupied = out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir()))
    sizes = [float(getattr(faults, part.name)) for part in fields(faults)]
    steady = min(sizes) >= 0 and all(map(math.isfinite, sizes))
    noise = snr is None or snr > 0
    checks: list[tuple[bool, str, str, object, str]] = [
        (participants >= 1, "PARTICIPANTS", "there is nobody to make", participants, "at least 1"),
        (seed >= 0, "SEED", "the seed is below 0", seed, "0, 1, 2, ..."),
        (noise, "SNR", "the SNR is not above 0", snr, "above 0, or inf"),
        (steady, "SCAN", "a fault of the scan is not a size", faults, "0 or above"),
        (not occupied, "OUT_DIR_NOT_EMPTY", "the folder is not empty", out_dir, "a new or an empty folder"),
    ]
    return [
        Problem(code, what, found=str(found), expected=expected)
        for fine, code, what, found, expected in checks
        if not fine
    ]


def _found(
    name: str,
    variant: str,
    lesion: tuple[Change, ...] | None,
    cohort: Cohort | None,
    labels: Drawn | None,
) -> tuple[Protocol | None, list[Problem]]:
    """The protocol, if there is one, and what is wrong with what is asked of it."""
    try:
        about = protocol_module.find(name)
    except ConfigError as error:
        return None, list(error.problems)
    problems = [] if cohort is None else cohort.problems()
    if variant and variant not in about.variants:
        problems.append(unknown_variant(about, variant))
        variant = ""
    problems += change.check(lesion or (), _segments(about, variant))
    if labels == "anatomy" and about.anatomical is None:
        problems.append(
            Problem("LABELS", "the phantom has no anatomical image", found=labels, expected="segments, whole")
        )
    return about, problems


def _people(
    about: Protocol,
    participants: int,
    seed: int,
    variant: str,
    lesion: tuple[Change, ...] | None,
    cohort: Cohort | None,
) -> list[Person]:
    chosen = about.lesion if lesion is None else lesion
    if cohort is None:
        return by_turns(participants, seed, chosen)
    return Recruitment.of(about, cohort, seed, chosen, _segments(about, variant)).people()


def _segments(about: Protocol, variant: str) -> tuple[Segment, ...]:
    anatomy = about.build(np.random.default_rng(0), variant, ())
    return tuple(label.segment for label in anatomy.segments)


def _command(about: Protocol) -> str:
    return f"somite phantom {about.name}"


def _options(participants: int, seed: int, snr: float, cohort: Cohort | None) -> str:
    who = (
        f"--participants {participants}"
        if cohort is None
        else f"--patients {cohort.patients} --controls {cohort.controls}"
    )
    return f"{who} --seed {seed} --snr {snr:g}"


def _write_top(root: Path, order: Order, people: Sequence[Person], lesion: str, options: str) -> None:
    about, faults = order.protocol, order.faults
    write_json(
        root / "dataset_description.json",
        description(f"Somite {about.name} phantom", "raw", _command(about)),
    )
    noise = f"SNR {order.snr:g} in {about.reference.name} at b=0, Rician noise"
    said = [
        text
        for holds, text in (
            (faults.moves, _MOTION),
            (faults.distortion_voxels, _DISTORTED),
            (faults.eddy_percent, _EDDIES),
            (faults.dropouts, _LOST),
            (faults.ringing, _RINGING),
        )
        if holds
    ]
    text = _README.format(
        version=somite.__version__,
        title=about.title,
        name=about.name,
        options=options,
        scheme=about.scheme,
        te=about.te_ms,
        noise="without noise" if math.isinf(order.snr) else noise,
        about=about.about,
        group=f"Participants of the group `patient` have a {lesion}.\n",
        labels=_WHERE_LABELS[order.labels],
        faults="".join(said),
    )
    (root / "README").write_text(text, encoding="utf-8")
    phenotype.write_participants(root, people, lesion)
    # Tables and images of names that BIDS does not know. Without a dataset_description.json the validator
    # lets a folder of derivatives be; with one, its --recursive mode would read no .bidsignore there.
    write_json(root / TRUTH / "segments.json", dictionary())
    if order.labels != "none":
        _write_labels_top(root / LABELS, order)
    if about.template is not None:
        _write_template(root / ATLAS, about, order.grid)


def _write_labels_top(folder: Path, order: Order) -> None:
    about = order.protocol
    name = f"Somite {about.name} phantom: segments"
    write_json(folder / "dataset_description.json", description(name, "derivative", _command(about), "../.."))
    what = "Segments" if order.labels == "segments" else "Whole structures"
    edges = "" if order.labels == "anatomy" else _EDGES
    text = _LABELS_README.format(what=what, name=about.name, edges=edges, about=about.about_labels)
    (folder / "README").write_text(text, encoding="utf-8")


def _write_template(folder: Path, about: Protocol, grid: Grid) -> None:
    """The atlas: FA of the body that all participants are deformed from, and its labels."""
    assert about.template is not None
    anatomy = about.template()
    painting = paint.paint(anatomy, grid, about.points_per_axis)
    fa = paint.average(painting, *paint.diffusion(anatomy, painting))[:, 0].reshape(grid.shape)
    write_image(folder / "tpl-phantom_param-fa_dwimap.nii.gz", fa, grid)
    image = paint.drawn(painting, [piece.label for piece in anatomy.pieces])
    write_labels(folder / "tpl-phantom_dseg", image, grid, anatomy.segments)
