"""The gradient table that fits best is found among 24, on any affine; what cannot be told is left alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from somite import images
from somite.body import body_mask
from somite.fibre_course import Course, course
from somite.gradients import Gradients, read_fsl, voxel_to_world
from somite.images import Grid
from somite.interfaces import gradient_orientation as step
from somite.interfaces import tensor
from somite.phantom import brain_als, lumbar, make, thigh
from somite.phantom.make import Phantom
from somite.registry import Context
from somite.tensorfit import design_matrix
from somite.turned_tables import TABLES, Table


def grid_of(shape: tuple[int, int, int], voxel: tuple[float, ...], turned: bool = True) -> Grid:
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", (8, -14, 21) if turned else (0, 0, 0), degrees=True).as_matrix()
    affine[:3, :3] = axes @ np.diag(voxel)
    return Grid(shape, affine)


def tubes(grid: Grid, n: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Straight bundles that cross: fibres (x, y, z, 3) in world axes, with noise, and where they are."""
    rng = np.random.default_rng(seed)
    points = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T
    fibre, inside = np.zeros_like(points), np.zeros(len(points), bool)
    for middle in points[rng.integers(0, len(points), n)]:
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        along = (points - middle) @ axis
        within = (np.abs(along) < 24) & (np.linalg.norm(points - middle - along[:, None] * axis, axis=1) < 5)
        fibre[within], inside[within] = axis, True
    fibre += rng.normal(0, 0.15, fibre.shape)
    fibre /= np.linalg.norm(fibre, axis=1, keepdims=True)
    return fibre.reshape(*grid.shape, 3), inside.reshape(grid.shape)


def as_if(table: Table, vectors: np.ndarray, grid: Grid) -> np.ndarray:
    """The eigenvectors of a fit with a bvec file that `table` would put right."""
    turn = voxel_to_world(grid.affine)
    return np.asarray(vectors @ (turn @ table.matrix.T @ turn.T).T)


GRIDS = [
    grid_of((48, 48, 48), (2.0, 2.0, 2.0)),
    grid_of((52, 50, 36), (-2.0, 2.0, 3.0)),
    grid_of((36, 51, 49), (-3.0, -2.0, 2.0)),
]


@pytest.mark.parametrize("which", range(3))
def test_every_wrong_table_is_found_and_the_right_one_is_left(which: int) -> None:
    grid = GRIDS[which]
    vectors, inside = tubes(grid)
    config = step.Config()
    for table in TABLES[which::3]:
        found = course(as_if(table, vectors, grid), inside, grid)
        assert TABLES[found.order[0]] == table
        assert step.leads(found, config)


def test_there_are_24_different_tables_and_the_first_changes_nothing() -> None:
    dyads = {tuple(np.outer(t.matrix.ravel(), t.matrix.ravel()).ravel()) for t in TABLES}
    assert len(dyads) == 24
    assert np.array_equal(TABLES[0].matrix, np.eye(3)) and str(TABLES[0]) == "as given"
    signed = {
        tuple((np.diag(signs) @ np.eye(3)[list(order)]).ravel())
        for order in {t.order for t in TABLES}
        for signs in product((1, -1), repeat=3)
    }
    assert {tuple(s * t.matrix.ravel()) for t in TABLES for s in (1, -1)} == signed


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_the_words_do_to_the_rows_what_the_matrix_does(table: Table) -> None:
    rows = {"x": np.array([1.0, 2]), "y": np.array([3.0, 4]), "z": np.array([5.0, 6])}
    before = np.stack(list(rows.values()))
    for part in str(table).split(", then ") if str(table) != "as given" else []:
        names = part.replace(",", "").split()
        if part.startswith("swap"):
            rows[names[1]], rows[names[3]] = rows[names[3]], rows[names[1]]
        elif part.startswith("flip"):
            rows[names[1]] = -rows[names[1]]
        else:
            rows = dict(zip("xyz", [rows[name] for name in names[-3:]], strict=True))
    assert np.array_equal(np.stack([rows[name] for name in "xyz"]), table.matrix @ before)


def slowly(vectors: np.ndarray, fibrous: np.ndarray, grid: Grid) -> np.ndarray:
    """The same measure, straight from its description."""
    sums, looks = np.zeros(24), 0
    turn, to_voxels = voxel_to_world(grid.affine), np.linalg.inv(grid.affine[:3, :3])
    for voxel in np.argwhere(fibrous):
        own = vectors[tuple(voxel)]
        ahead = [turn @ table.matrix @ turn.T @ own for table in TABLES]
        for distance in (-3, -2, -1, 1, 2, 3):
            steps = [to_voxels @ (distance * grid.voxel_mm.max() * a) for a in ahead]
            met = [np.floor(voxel + s + 0.5).astype(int) for s in steps]
            if not all((m >= 0).all() and (m < grid.shape).all() for m in met):
                continue
            looks += 1
            sums += [(own @ vectors[tuple(m)]) ** 2 if fibrous[tuple(m)] else 0.0 for m in met]
    return sums / looks


def test_coherence_is_the_mean_squared_cosine_along_the_fibre_above_that_of_all_tables() -> None:
    grid = grid_of((9, 10, 8), (2.0, -2.0, 2.5))
    vectors, inside = tubes(grid)
    expected = slowly(vectors, inside, grid)
    expected = (expected - expected.mean()) / (1 - expected.mean())
    np.testing.assert_allclose(course(vectors, inside, grid).coherence, expected, rtol=1e-9, atol=1e-12)


def bent_slowly(vectors: np.ndarray, fibrous: np.ndarray, grid: Grid) -> np.ndarray:
    """Straightness, voxel by voxel, with numpy's least squares."""
    longest, turn = grid.voxel_mm.max(), voxel_to_world(grid.affine)
    voxels = np.argwhere(fibrous)
    dyads = np.einsum("ni,nj->nij", vectors[fibrous], vectors[fibrous]).reshape(-1, 9)
    along, mean, change = [], [], []
    for voxel in voxels:
        away = (voxels - voxel) @ grid.affine[:3, :3].T / (0.5 * longest)
        near = np.linalg.norm(away, axis=1) <= 3 + 1e-9
        weight = np.exp(-(away**2).sum(1) / 2)
        slopes = []
        for colour in (0, 1):
            chosen = near & ((voxels - voxel).sum(1) % 2 == colour)
            w, terms = weight[chosen], np.column_stack([np.ones(chosen.sum()), away[chosen]])
            if chosen.sum() < 4 or np.linalg.det(np.cov(away[chosen].T, ddof=0, aweights=w)) < 1e-3:
                break
            rows = np.vstack([terms * np.sqrt(w)[:, None], np.sqrt(1e-3 * w.sum()) * np.eye(4)])
            right = np.vstack([dyads[chosen] * np.sqrt(w)[:, None], np.zeros((4, 9))])
            slopes.append(np.linalg.lstsq(rows, right, rcond=None)[0][1:])
        if len(slopes) < 2:
            continue
        own = vectors[tuple(voxel)]
        led = [turn @ table.matrix @ turn.T @ own for table in TABLES]
        along.append([(a @ slopes[0]) @ (a @ slopes[1]) for a in led])
        mean.append((slopes[0] * slopes[1]).sum() / 3)
        change.append((slopes[0] ** 2 + slopes[1] ** 2).sum())
    floor = max(np.quantile(change, 0.05), 1e-3 * np.mean(change))
    weights = (floor / (np.array(change) + floor)) ** 2
    return np.asarray(1 - weights @ np.array(along) / (weights @ np.array(mean)))


def test_straightness_is_the_change_along_the_fibre_against_that_in_all_directions() -> None:
    grid = grid_of((12, 11, 9), (2.0, -2.0, 2.5))
    vectors, inside = tubes(grid)
    found = course(vectors, inside, grid)
    np.testing.assert_allclose(found.straightness, bent_slowly(vectors, inside, grid), rtol=1e-6)
    np.testing.assert_allclose([found.straightness.mean(), found.coherence.mean()], 0, atol=1e-9)


def fan(grid: Grid, noise: float, seed: int = 0) -> np.ndarray:
    """Fibres that run to one point, as to a tendon, all over the image: no bundle ends anywhere."""
    rng = np.random.default_rng(seed)
    points = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T
    fibre = points - points.mean(0) - [35.0, 25.0, 90.0]
    fibre /= np.linalg.norm(fibre, axis=1, keepdims=True)
    fibre += rng.normal(0, noise, fibre.shape)
    return np.asarray((fibre / np.linalg.norm(fibre, axis=1, keepdims=True)).reshape(*grid.shape, 3))


def test_straightness_is_1_on_straight_fibres_and_noise_does_not_lower_it() -> None:
    for voxel in ((3.0, -3.0, 6.0), (3.0, 3.0, 3.0)):
        grid = grid_of((40, 36, 26), voxel)
        inside = np.ones(grid.shape, bool)
        assert course(fan(grid, 0.0), inside, grid).straightness[0] == pytest.approx(1, abs=0.01)
        noisy = [course(fan(grid, 0.1, seed), inside, grid).straightness[0] for seed in range(2)]
        assert np.mean(noisy) == pytest.approx(1, abs=0.1)


def index_of(matrix: np.ndarray) -> int:
    return next(i for i, one in enumerate(TABLES) if abs(np.trace(one.matrix.T @ matrix)) == 3)


def test_turned_fibres_have_turned_scores() -> None:
    """So one table that is found tells that all would be."""
    grid = GRIDS[2]
    vectors, inside = tubes(grid)
    straight = course(vectors, inside, grid)
    for table in (TABLES[2], TABLES[9], TABLES[18]):
        turned = course(as_if(table, vectors, grid), inside, grid)
        same = [index_of(one.matrix @ table.matrix.T) for one in TABLES]
        np.testing.assert_allclose(turned.values, straight.values[same], atol=2e-3)


def test_directions_that_do_not_lead_anywhere_lead_to_no_table() -> None:
    """Smooth directions without any relation to place, in patches, on four shapes of voxels."""
    for seed, voxel in enumerate([(2.0, 2.0, 2.0), (1.5, -1.5, 4.0), (3.0, 3.0, 6.0), (2.0, 2.0, 2.5)]):
        rng = np.random.default_rng(seed)
        grid = grid_of((44, 44, 30), voxel)
        smooth = (2.0 + seed) / np.abs(voxel)
        vectors = np.stack([gaussian_filter(rng.standard_normal(grid.shape), smooth) for _ in range(3)], -1)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        found = course(vectors, gaussian_filter(rng.standard_normal(grid.shape), 2) > 0, grid)
        assert found.behind[found.order[1:]].min() < 2.5 and not step.leads(found, step.Config())


def test_the_voxel_shape_and_the_edge_of_the_image_favour_no_table() -> None:
    """Directions without any relation to place: all tables fit alike, in thick slices and in a thin stack."""
    for shape, voxel in (((60, 60, 12), (1.0, 1.0, 5.0)), ((64, 64, 9), (2.0, 2.0, 2.0))):
        rng = np.random.default_rng(1)
        grid = grid_of(shape, voxel)
        vectors = rng.standard_normal((*shape, 3))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        found = course(vectors, np.ones(shape, bool), grid)
        np.testing.assert_allclose(found.coherence, 0, atol=0.03)
        assert not step.leads(found, step.Config())


@pytest.mark.parametrize(
    ("lead", "behind", "blocks", "leads"),
    [
        (0.06, 5.0, 40, True),
        (0.04, 5.0, 40, False),  # too small a difference, however sure
        (0.06, 3.0, 40, False),  # not sure
        (0.06, 5.0, 10, False),  # too little to be sure by
    ],
)
def test_it_speaks_only_of_a_clear_lead(lead: float, behind: float, blocks: int, leads: bool) -> None:
    values, apart = np.full(24, 0.4 * (1 - lead)), np.full(24, behind)
    values[7], apart[7] = 0.4, 0
    context = Context(Path())
    step._tell(Course(values, values, values, apart, blocks), step.Config(), context)
    assert [problem.code for problem in context.warnings] == ["BVEC_ORIENTATION"] * leads


@pytest.mark.parametrize("shape", [(40, 40, 1), (2, 40, 40), (8, 8, 8)])
def test_thin_and_small_images_cannot_tell(shape: tuple[int, int, int]) -> None:
    grid = grid_of(shape, (2.0, 2.0, 2.0))
    vectors, _ = tubes(grid)
    context = Context(Path())
    found = course(vectors, np.ones(shape, bool), grid)
    step._tell(found, step.Config(), context)
    assert not context.warnings and context.facts[0].value == "undetermined"
    assert "too few" in context.facts[0].reason
    empty = course(vectors, np.zeros(shape, bool), grid)
    assert not step.leads(empty, step.Config()) and np.isfinite(empty.values).all()


def test_parallel_fibres_cannot_tell_and_it_says_whether_the_given_table_is_out() -> None:
    """A cylinder of fibres along z, as a cord: flips change nothing, a swap with z does."""
    grid = grid_of((48, 48, 48), (2.0, 2.0, 2.0), turned=False)
    x, y, _ = np.indices(grid.shape) - 23.5
    vectors = np.zeros((*grid.shape, 3))
    vectors[..., 2] = 1
    inside = np.hypot(x, y) < 6
    for table, words in (
        (TABLES[0], "the given one among them"),
        (Table((2, 1, 0), None), "not among"),
    ):
        context = Context(Path())
        step._tell(course(as_if(table, vectors, grid), inside, grid), step.Config(), context)
        assert not context.warnings
        assert words in context.facts[0].reason and "8 of the 24" in context.facts[0].reason


# The step


def files_of(folder: Path, vectors: np.ndarray, inside: np.ndarray, grid: Grid) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    nine = np.zeros((*grid.shape, 9), np.float32)
    nine[..., :3] = vectors
    return {
        "eigenvectors": images.write(folder / "eigenvectors.nii", nine, grid),
        "fa": images.write(folder / "fa.nii", np.where(inside, 0.5, 0.1).astype(np.float32), grid),
        "mask": images.write(folder / "mask.nii", np.ones(grid.shape, np.uint8), grid),
    }


def ran(files: dict[str, Path], folder: Path, **options: object) -> tuple[list[list[str]], Context]:
    folder.mkdir(exist_ok=True)
    context = Context(folder)
    made = step.run(**files, config=step.Config(**options), context=context)
    return [line.split("\t") for line in made.read_text().splitlines()], context


def test_the_warning_names_the_better_table(tmp_path: Path) -> None:
    grid = GRIDS[1]
    vectors, inside = tubes(grid)
    wrong = Table((1, 0, 2), 2)
    rows, context = ran(files_of(tmp_path, as_if(wrong, vectors, grid), inside, grid), tmp_path / "work")
    (problem,) = context.warnings
    assert problem.code == "BVEC_ORIENTATION" and problem.severity == "warning"
    assert "swap x and y, then flip z" in problem.do and "swap x and y, then flip z" in problem.found
    assert rows[0] == ["change", "score", "coherence", "straightness", "standard_errors_behind"]
    assert len(rows) == 25 and rows[1][0] == str(wrong) and float(rows[1][4]) == 0
    assert context.numbers["bvec_score_best"] > context.numbers["bvec_score"]


def test_the_right_table_gives_no_warning_and_the_record_says_why(tmp_path: Path) -> None:
    grid = GRIDS[0]
    rows, context = ran(files_of(tmp_path, *tubes(grid), grid), tmp_path / "work")
    assert not context.warnings
    assert context.facts[0].value == "as given" and rows[1][0] == "as given"
    assert context.numbers["bvec_score_best"] == context.numbers["bvec_score"]


def test_voxels_of_low_fa_and_of_noise_are_not_used(tmp_path: Path) -> None:
    grid = GRIDS[0]
    files = files_of(tmp_path, *tubes(grid), grid)
    _, context = ran(files, tmp_path / "work", fa_min=0.6)
    assert context.facts[0].value == "undetermined"
    images.write(files["fa"], np.full(grid.shape, 0.99, np.float32), grid)
    _, context = ran(files, tmp_path / "work")
    assert context.facts[0].value == "undetermined"


def test_none_does_not_look(tmp_path: Path) -> None:
    grid = GRIDS[0]
    wrong = as_if(TABLES[5], tubes(grid)[0], grid)
    rows, context = ran(files_of(tmp_path, wrong, tubes(grid)[1], grid), tmp_path / "work", method="none")
    assert len(rows) == 1 and not context.warnings and not context.numbers


# Phantoms


def fit(
    data: np.ndarray, mask: np.ndarray, gradients: Gradients, change: Table, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """First eigenvectors and fibrous voxels by a fit with a table that `change` would put right."""
    turn = voxel_to_world(grid.affine)
    wrong = Gradients(gradients.bvals, gradients.bvecs @ turn @ change.matrix @ turn.T)
    estimate = tensor.estimate_by(tensor.Config(method="ols"), design_matrix(wrong))
    used = np.ones(len(wrong.bvals), bool)
    with np.errstate(over="ignore"):
        maps = tensor.fit_maps(np.asfortranarray(data), mask, wrong, estimate, used=used).maps
    return maps["eigenvectors"][..., :3], mask & (maps["fa"] > 0.2) & (maps["fa"] < 0.95)


def fitted_phantom(phantom: Phantom, change: Table, b_min: float = 0) -> tuple[np.ndarray, np.ndarray, Grid]:
    used = phantom.gradients.bvals >= b_min
    gradients = Gradients(phantom.gradients.bvals[used], phantom.gradients.bvecs[used])
    mask = body_mask(phantom.dwi[..., phantom.gradients.is_b0()].mean(3))
    return (*fit(phantom.dwi[..., used], mask, gradients, change, phantom.grid), phantom.grid)


def test_a_flipped_axis_is_found_in_the_thigh_phantom() -> None:
    phantom = make.make(thigh.PROTOCOL)
    for index in (0, 2, 21):
        found = course(*fitted_phantom(phantom, TABLES[index], b_min=200))
        assert found.order[0] == index and step.leads(found, step.Config())
        assert found.lead > 0.15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "seed", "snr"),
    [
        *[("thigh", seed, 40.0) for seed in (1, 2, 3)],
        ("thigh", 4, 20.0),
        ("brain", 1, 30.0),
        ("brain", 2, 15.0),
    ],
)
def test_all_wrong_tables_of_phantoms_are_found(protocol: str, seed: int, snr: float) -> None:
    made = {"thigh": thigh.PROTOCOL, "brain": brain_als.PROTOCOL}[protocol]
    phantom = make.make(made, seed, snr, points_per_axis=1)
    for index, table in enumerate(TABLES):
        found = course(*fitted_phantom(phantom, table, b_min=200 if protocol == "thigh" else 0))
        assert found.order[0] == index and step.leads(found, step.Config())
        assert found.lead > 0.15


def near_axial(grid: Grid, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Roots of a cauda equina: ten of them, within 4 degrees of the axis of the body."""
    rng = np.random.default_rng(seed)
    points = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T
    middle = points.mean(0)
    fibre, inside = np.tile([0.0, 0.0, 1.0], (len(points), 1)), np.zeros(len(points), bool)
    for start in rng.uniform(-12, 12, (10, 2)):
        axis = np.array([*np.tan(np.deg2rad(rng.uniform(-2.8, 2.8, 2))), 1.0])
        away = points - middle - [*start, 0.0]
        away -= away[:, 2:] * axis
        within = np.linalg.norm(away[:, :2], axis=1) < 3
        fibre[within], inside[within] = axis, True
    fibre += rng.normal(0, 0.1, fibre.shape)
    fibre /= np.linalg.norm(fibre, axis=1, keepdims=True)
    return fibre.reshape(*grid.shape, 3), inside.reshape(grid.shape)


@pytest.mark.parametrize("seed", range(4))
def test_near_axial_roots_leave_it_undetermined(seed: int) -> None:
    grid = grid_of((40, 40, 70), (1.5, -1.5, 2.0), turned=False)
    found = course(*near_axial(grid, seed), grid)
    context = Context(Path())
    step._tell(found, step.Config(), context)
    assert found.blocks >= step.MIN_BLOCKS and found.lead < 0.05
    assert context.facts[0].value == "undetermined" and "the given one among them" in context.facts[0].reason


@pytest.mark.parametrize("seed", [1, 2])
def test_the_lumbar_phantom_is_left_undetermined_and_its_oblique_roots_never_doubted(seed: int) -> None:
    phantom = make.make(lumbar.PROTOCOL, seed, points_per_axis=1)
    vectors, fibrous, grid = fitted_phantom(phantom, TABLES[0])
    assert not step.leads(course(vectors, fibrous, grid), step.Config())
    roots = [one.index for one in phantom.whole_table if one.segment.region == "nerve_root"]
    context = Context(Path())
    step._tell(course(vectors, fibrous & np.isin(phantom.whole, roots), grid), step.Config(), context)
    assert not context.warnings


# Real scans


SCANS = {
    "brain-bids/sub-uih/dwi/sub-uih_dir-AP_dwi": True,
    "brain-bids/sub-uih/dwi/sub-uih_dir-PA_dwi": True,
    "brain-bids/sub-canon/dwi/sub-canon_dir-AP_dwi": True,
    "brain-bids/sub-canon/dwi/sub-canon_dir-PA_dwi": True,
    "brain-bids/sub-philips/dwi/sub-philips_dwi": True,
    "cord-bids/sub-01/dwi/sub-01_dwi": False,
    "cord-bids/sub-02/dwi/sub-02_dwi": False,
    "water-phantom/water_dwi": False,
}
"""Scan -> whether it can tell."""


def fitted(stem: Path, change: Table) -> tuple[np.ndarray, np.ndarray, Grid]:
    """First eigenvectors and fibrous voxels of a scan whose bvec file `change` would put right."""
    data, grid = images.read_float(stem.with_suffix(".nii.gz"))
    table = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    mask = body_mask(data[..., table.is_b0()].mean(3))
    return (*fit(data, mask, table, change, grid), grid)


@pytest.mark.parametrize("scan", [scan for scan in SCANS if "philips" not in scan])
def test_real_scans_are_never_doubted_and_brains_are_confirmed(real_data: Path, scan: str) -> None:
    found = course(*fitted(real_data / scan, TABLES[0]))
    assert step.leads(found, step.Config()) == SCANS[scan]
    if SCANS[scan]:
        assert found.order[0] == 0


@pytest.mark.parametrize("index", [1, 9, 18])
def test_a_real_scan_fitted_with_a_wrong_table_is_found_out(real_data: Path, index: int) -> None:
    vectors, fibrous, grid = fitted(real_data / next(iter(SCANS)), TABLES[index])
    found = course(vectors, fibrous, grid)
    assert found.order[0] == index and step.leads(found, step.Config())


@pytest.mark.slow
@pytest.mark.parametrize("scan", [scan for scan, tells in SCANS.items() if tells])
def test_all_wrong_tables_of_all_brains_are_found_out(real_data: Path, scan: str) -> None:
    vectors, fibrous, grid = fitted(real_data / scan, TABLES[0])
    for index, table in enumerate(TABLES):
        found = course(as_if(table, vectors, grid), fibrous, grid)
        assert found.order[0] == index and step.leads(found, step.Config())


def test_mrtrix_finds_the_same_table_of_a_real_scan(
    real_data: Path, need_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the length of streamlines. Of the thigh phantom it names a wrong one."""
    tool = need_tool("dwigradcheck")
    stem = real_data / next(iter(SCANS))
    data, grid = images.read_float(stem.with_suffix(".nii.gz"))
    gradients = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    mask = body_mask(data[..., gradients.is_b0()].mean(3)).astype(np.uint8)
    files = [str(stem.with_suffix(suffix)) for suffix in (".nii.gz", ".bvec", ".bval")]
    given = ["-fslgrad", *files[1:], "-mask", str(images.write(tmp_path / "mask.nii", mask, grid))]
    options = ["-number", "500", "-nthreads", "1", "-scratch", str(tmp_path)]
    made = subprocess.run([tool, files[0], *given, *options], capture_output=True, text=True, check=True)
    best = made.stderr.split("Axis basis\n")[1].splitlines()[0]
    assert "none" in best and "(0, 1, 2)" in best
    assert course(*fitted(stem, TABLES[0])).order[0] == 0
