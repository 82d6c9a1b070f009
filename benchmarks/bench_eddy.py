"""Motion and eddy currents: where tissue is said to lie against where it lay; real scans of both ways."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import moving
import numpy as np
from dipy.align import motion_correction
from dipy.core.gradients import gradient_table, reorient_bvecs
from harness import THREADS, Row
from moving import Case, Scan
from numpy.typing import NDArray
from real_pair import agreement_rows

from somite.body import body_mask
from somite.correction import corrector, estimation
from somite.correction.estimation import Acquisition, Options
from somite.correction.series import Encoding
from somite.gradients import Gradients
from somite.images import Grid
from somite.interfaces.eddy import FEW_VOLUMES

NAME = "eddy"
HARD = Case(shells=(1000.0, 2000.0), oblique=True, cubic_mm=1.0, within=1.0, dropped=30)
SMALL = Case(directions=12, voxel_mm=(4.0, 4.0, 4.0))
"""What dipy can do in a minute."""
WIDER = {
    "12 directions": SMALL,
    "30 directions": replace(SMALL, directions=30),
    "60 directions": replace(SMALL, directions=60),
    "SNR 10": replace(SMALL, snr=10),
    "SNR 30": replace(SMALL, snr=30),
    "seed 2": replace(SMALL, seed=2),
    "two shells": replace(SMALL, directions=24, shells=(1000.0, 2000.0)),
    "motion to 6 degrees": replace(SMALL, largest_deg=6.0),
    "oblique": replace(SMALL, oblique=True),
    "voxels 3x3x3 mm": replace(SMALL, voxel_mm=(3.0, 3.0, 3.0)),
    "voxels 2.5x2.5x5 mm": replace(SMALL, voxel_mm=(2.5, 2.5, 5.0)),
    "cubic terms": replace(SMALL, cubic_mm=1.0),
    "eddy currents differing by 20 % between slices": replace(SMALL, by_slice=0.2),
    "motion within volumes": replace(SMALL, within=1.0),
    "6 dropped slices": replace(SMALL, dropped=6),
    "susceptibility, known": replace(SMALL, field=1.0),
    "two thighs": replace(SMALL, limbs=True),
    "two thighs, 30 directions, SNR 10": replace(SMALL, limbs=True, directions=30, snr=10),
}
DROPS = (
    replace(SMALL, dropped=6),
    replace(SMALL, directions=30, voxel_mm=(3.0, 3.0, 3.0), dropped=30),
    replace(SMALL, seed=2, directions=30, voxel_mm=(3.0, 3.0, 3.0), dropped=30, snr=10),
    replace(SMALL, directions=30, voxel_mm=(3.0, 3.0, 3.0), dropped=30, largest_deg=6.0, within=1.0),
)

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A corrected series, with what was found."""

    lay: Float
    """(n, m, 3) where the tissue inside lay in each volume, in the axes of the image."""
    gradients: Gradients
    data: NDArray[np.float32]
    lost: set[tuple[int, int]]
    seconds: float


@dataclass(frozen=True)
class Errors:
    """Distances in mm, angles in degrees: means."""

    weighted: float
    specific: float
    """Of the weighted volumes, without the part that all of them share."""
    shared: float
    b0: float
    turn: float
    """Of the gradients."""


def ours(scan: Scan) -> Found:
    """What the corrector finds, with the options that the step `eddy` takes."""
    n, start = scan.n, time.perf_counter()
    encoding = Encoding(np.full(n, scan.case.phase_axis), np.ones(n), np.ones(n))
    return _found(scan, scan.data, scan.gradients, encoding, scan.grid, np.argwhere(scan.inside), start)


def _found(
    scan: Scan,
    data: NDArray[np.float32],
    gradients: Gradients,
    encoding: Encoding,
    grid: Grid,
    voxels: NDArray[np.intp],
    start: float,
) -> Found:
    is_b0 = gradients.is_b0(50)
    options = Options(degree=2 if (~is_b0).sum() >= FEW_VOLUMES else 1)
    mask = body_mask(data[..., is_b0].mean(3))
    acquired = Acquisition(data, gradients, encoding, mask, grid, scan.field_voxels)
    estimate = estimation.estimate(acquired, options, THREADS)
    corrected = corrector.resampled(estimate)
    corrector.replace_lost(corrected, estimate, corrector.kriging_of(estimate))
    seconds = time.perf_counter() - start
    series = estimate.series
    frame = series.frame_at(voxels)
    places = np.stack([series.places(volume, frame)[0] for volume in range(series.n)])
    world = places @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    lost = {(int(v), int(s)) for v, s in np.argwhere(series.lost)}
    return Found(world @ scan.axes, estimate.gradients, corrected, lost, seconds)


def untouched(scan: Scan) -> Found:
    """The series as it is."""
    lay = np.broadcast_to(scan.tissue_mm, scan.lay.shape)
    return Found(lay, scan.gradients, scan.data, set(), 0.0)


def dipy_affine(scan: Scan) -> Found:
    """dipy's motion_correction as it comes: centre of mass, translation, rigid, affine."""
    logging.getLogger("dipy").setLevel(logging.ERROR)
    table = gradient_table(scan.gradients.bvals, bvecs=scan.gradients.bvecs)
    start = time.perf_counter()
    image, affines = motion_correction(scan.data.astype(np.float64), table, affine=scan.grid.affine)
    affines = np.moveaxis(affines, -1, 0)
    table = reorient_bvecs(table, list(affines[~table.b0s_mask]))
    seconds = time.perf_counter() - start
    world = scan.tissue_mm @ scan.axes.T
    lay = np.einsum("nij,mj->nmi", affines[:, :3, :3], world) + affines[:, None, :3, 3]
    gradients = Gradients(scan.gradients.bvals, table.bvecs)
    return Found(lay @ scan.axes, gradients, np.asarray(image.dataobj, np.float32), set(), seconds)


def errors_of(scan: Scan, found: Found) -> Errors:
    """Against where the tissue lay."""
    weighted = ~scan.gradients.is_b0(50)
    apart = found.lay - scan.lay
    shared = apart[weighted].mean(0)
    cosine = (found.gradients.bvecs * scan.seen_directions()).sum(1)[weighted]
    return Errors(
        float(np.linalg.norm(apart[weighted], axis=2).mean()),
        float(np.linalg.norm(apart[weighted] - shared, axis=2).mean()),
        float(np.linalg.norm(shared, axis=1).mean()),
        float(np.linalg.norm(apart[~weighted], axis=2).mean()),
        float(np.degrees(np.arccos(np.clip(np.abs(cosine), 0, 1))).mean()),
    )


def fa_error(scan: Scan, signal: NDArray[np.floating], gradients: Gradients) -> float:
    """RMSE of FA where there is hardly any fluid; signal (m, n) of the voxels inside."""
    apart = moving.fa_of(signal, gradients) - scan.true_fa
    return float(np.sqrt((apart[scan.tissue[scan.inside]] ** 2).mean()))


def rows() -> list[Row]:
    """Rows of this benchmark."""
    return [
        *(row for seed in (1, 2, 3) for row in _head(seed)),
        *_combined(),
        *_reoriented(),
        *_dropped(),
        *(row for name, case in WIDER.items() for row in _wider(name, case)),
        *agreement_rows(NAME),
    ]


def _row(case: str, unit: str, figure: float, at_most: float | None = None, note: str = "") -> Row:
    return Row(NAME, case, unit, figure, at_most=at_most, note=note)


def _accuracy(scan: Scan, found: Found, case: str, goals: dict[str, float]) -> Iterator[Row]:
    errors, before = errors_of(scan, found), errors_of(scan, untouched(scan))
    yield _row(f"{case}: residual of weighted volumes", "mm", errors.weighted, goals.get("weighted"),
               f"{before.weighted:.2f} before")  # fmt: skip
    yield _row(f"{case}: of it specific to a volume", "mm", errors.specific, goals.get("specific"))
    yield _row(f"{case}: of it shared by all", "mm", errors.shared, goals.get("shared"))
    yield _row(f"{case}: residual of b=0 volumes", "mm", errors.b0, goals.get("b0"))
    yield _row(f"{case}: gradient directions", "deg", errors.turn, goals.get("turn"),
               f"{before.turn:.2f} before")  # fmt: skip
    error = fa_error(scan, found.data[scan.inside], found.gradients)
    best = fa_error(scan, scan.oracle(), Gradients(found.gradients.bvals, scan.seen_directions()))
    yield _row(f"{case}: FA RMSE", "", error, goals.get("fa"), f"{best:.4f} by the true places")
    yield _row(f"{case}: time", "s", found.seconds, goals.get("seconds"))


def _size(scan: Scan) -> str:
    return "x".join(map(str, scan.data.shape))


def _head(seed: int) -> Iterator[Row]:
    scan = Scan(Case(seed=seed), THREADS)
    goals = {"weighted": 0.13, "specific": 0.095, "shared": 0.09, "b0": 0.02, "turn": 0.075, "fa": 0.0477}
    found = ours(scan)
    yield from _accuracy(scan, found, f"head {_size(scan)}, seed {seed}", goals | {"seconds": 50})
    if seed == 1:
        longer = _with_more_rounds(lambda: ours(scan))
        yield Row(
            NAME, f"head, seed {seed}: residual after 4 more rounds", "mm", errors_of(scan, longer).weighted,
            "as many as usual", errors_of(scan, found).weighted, 1.0,
        )  # fmt: skip


def _with_more_rounds(work: Callable[[], Found]) -> Found:
    usual = estimation._WIDTHS
    estimation._WIDTHS = (*usual, *[usual[-1]] * 4)
    try:
        return work()
    finally:
        estimation._WIDTHS = usual


def _combined() -> Iterator[Row]:
    scan = Scan(HARD, THREADS)
    found, truth = ours(scan), set(scan.happening.dropped)
    case = f"{_size(scan)}, two shells, oblique, motion within volumes, dropped slices, cubic terms"
    yield from _accuracy(scan, found, case, {"weighted": 0.30, "turn": 0.15, "fa": 0.052, "seconds": 90})
    yield _row(f"the same: of {len(truth)} dropped slices not found", "", len(truth - found.lost), 0)
    yield _row("the same: slices that are no dropouts found", "", len(found.lost - truth), 13)


def _reoriented() -> Iterator[Row]:
    scan = Scan(replace(SMALL, directions=30, voxel_mm=(3.0, 3.0, 3.0)), THREADS)
    n, one = scan.n, ours(scan)
    voxels = np.argwhere(scan.inside)
    fa = moving.fa_of(one.data[scan.inside], one.gradients)
    for name, axes, flips in (
        ("rows for columns, rows flipped, phase axis i", (1, 0, 2), (True, False, False)),
        ("columns and slices flipped", (0, 1, 2), (False, True, True)),
        ("slices first", (2, 0, 1), (False, False, False)),
    ):
        ends, signs = np.where(flips, np.array(scan.shape)[list(axes)] - 1, 0), np.where(flips, -1, 1)
        affine = scan.grid.affine[:, [*axes, 3]].copy()
        affine[:3, 3] += affine[:3, :3] @ ends
        affine[:3, :3] *= signs
        stored = scan.data.transpose(*axes, 3)[tuple(slice(None, None, s) for s in signs)]
        grid, along = Grid(stored.shape[:3], affine), axes.index(scan.case.phase_axis)
        encoding = Encoding(np.full(n, along), np.full(n, float(signs[along])), np.ones(n))
        there = ends + signs * voxels[:, axes]
        start = time.perf_counter()
        other = _found(scan, np.asfortranarray(stored), scan.gradients, encoding, grid, there, start)
        other_fa = moving.fa_of(other.data[tuple(there.T)], other.gradients)
        case = f"{_size(scan)} stored otherwise: {name}: median difference of FA"
        yield _row(case, "", float(np.median(np.abs(other_fa - fa))), 0.002)


def _dropped() -> Iterator[Row]:
    for case in DROPS:
        scan = Scan(case, THREADS)
        found, truth = ours(scan).lost, set(scan.happening.dropped)
        slices = scan.n * scan.inside.any((0, 1)).sum() - len(truth)
        name = f"{_size(scan)}, seed {case.seed}, SNR {case.snr:g}"
        name += ", motion to 6 degrees and within volumes" if case.within else ""
        missed = len(truth - found) / len(truth)
        yield _row(f"dropped slices, {name}: share not found", "", missed, 0.05)
        yield _row(f"dropped slices, {name}: share of others found", "", len(found - truth) / slices, 0.01)


def _wider(name: str, case: Case) -> Iterator[Row]:
    scan = Scan(case, THREADS)
    found, peer = ours(scan), dipy_affine(scan)
    errors, before, theirs = (errors_of(scan, one) for one in (found, untouched(scan), peer))
    note = f"{found.seconds:.1f} s, dipy {peer.seconds:.0f} s"
    what = f"{name}, {_size(scan)}"
    yield Row(NAME, f"{what}: residual", "mm", errors.weighted, "no correction", before.weighted, 1.0)
    yield Row(NAME, f"{what}: residual", "mm", errors.weighted, "dipy affine", theirs.weighted, 1.0, note)
    yield Row(NAME, f"{what}: gradient directions", "deg", errors.turn, "no correction", before.turn, 1.0)
    yield Row(NAME, f"{what}: gradient directions", "deg", errors.turn, "dipy affine", theirs.turn, 1.0)
    fa, fa_before = (fa_error(scan, one.data[scan.inside], one.gradients) for one in (found, untouched(scan)))
    yield Row(NAME, f"{what}: FA RMSE", "", fa, "no correction", fa_before, 1.0)
