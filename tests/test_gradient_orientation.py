"""The gradient table that fits best is found among 24, on any affine; what cannot be told is left alone."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from somite import images
from somite.body import body_mask
from somite.gradients import Gradients, read_fsl, voxel_to_world
from somite.images import Grid
from somite.interfaces import gradient_orientation as step
from somite.interfaces import tensor
from somite.registry import Context
from somite.tensorfit import design_matrix


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


def as_if(table: step.Table, vectors: np.ndarray, grid: Grid) -> np.ndarray:
    """The eigenvectors of a fit with a bvec file that `table` would put right."""
    turn = voxel_to_world(grid.affine)
    return np.asarray(vectors @ (turn @ table.matrix.T @ turn.T).T)


GRIDS = [
    grid_of((48, 48, 48), (2.0, 2.0, 2.0)),
    grid_of((52, 50, 36), (-2.0, 2.0, 3.0)),
    grid_of((36, 51, 49), (-3.0, -2.0, 2.0)),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_wrong_table_is_found_and_the_right_one_is_left(grid: Grid) -> None:
    vectors, inside = tubes(grid)
    config = step.Config()
    for table in step.TABLES:
        found = step.coherence(as_if(table, vectors, grid), inside, grid)
        assert step.TABLES[found.order[0]] == table
        assert found.leads(config)


def test_there_are_24_different_tables_and_the_first_changes_nothing() -> None:
    dyads = {tuple(np.outer(t.matrix.ravel(), t.matrix.ravel()).ravel()) for t in step.TABLES}
    assert len(dyads) == 24
    assert np.array_equal(step.TABLES[0].matrix, np.eye(3)) and str(step.TABLES[0]) == "as given"
    signed = {
        tuple((np.diag(signs) @ np.eye(3)[list(order)]).ravel())
        for order in {t.order for t in step.TABLES}
        for signs in product((1, -1), repeat=3)
    }
    assert {tuple(s * t.matrix.ravel()) for t in step.TABLES for s in (1, -1)} == signed


@pytest.mark.parametrize("table", step.TABLES, ids=str)
def test_the_words_do_to_the_rows_what_the_matrix_does(table: step.Table) -> None:
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
        ahead = [turn @ table.matrix @ turn.T @ own for table in step.TABLES]
        for distance in (-3, -2, -1, 1, 2, 3):
            steps = [to_voxels @ (distance * grid.voxel_mm.max() * a) for a in ahead]
            met = [np.floor(voxel + s + 0.5).astype(int) for s in steps]
            if not all((m >= 0).all() and (m < grid.shape).all() for m in met):
                continue
            looks += 1
            sums += [(own @ vectors[tuple(m)]) ** 2 if fibrous[tuple(m)] else 0.0 for m in met]
    return sums / looks


def test_it_is_the_mean_squared_cosine_along_the_fibre() -> None:
    grid = grid_of((10, 12, 9), (2.0, -2.0, 2.5))
    vectors, inside = tubes(grid)
    found = step.coherence(vectors, inside, grid)
    np.testing.assert_allclose(found.values, slowly(vectors, inside, grid), rtol=1e-9)


def test_the_voxel_shape_and_the_edge_of_the_image_favour_no_table() -> None:
    """Directions without any relation to place: all tables fit alike, in thick slices and in a thin stack."""
    for shape, voxel in (((60, 60, 12), (1.0, 1.0, 5.0)), ((64, 64, 9), (2.0, 2.0, 2.0))):
        rng = np.random.default_rng(1)
        grid = grid_of(shape, voxel)
        vectors = rng.standard_normal((*shape, 3))
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        found = step.coherence(vectors, np.ones(shape, bool), grid)
        np.testing.assert_allclose(found.values, 1 / 3, atol=0.03)
        assert not found.leads(step.Config())


@pytest.mark.parametrize(
    ("lead", "behind", "blocks", "leads"),
    [
        (0.05, 5.0, 40, True),
        (0.01, 5.0, 40, False),  # too small a difference, however sure
        (0.05, 3.0, 40, False),  # not sure
        (0.05, 5.0, 10, False),  # too little to be sure by
    ],
)
def test_it_speaks_only_of_a_clear_lead(lead: float, behind: float, blocks: int, leads: bool) -> None:
    values, apart = np.full(24, 0.4 * (1 - lead)), np.full(24, behind)
    values[7], apart[7] = 0.4, 0
    context = Context(Path())
    step._tell(step.Coherence(values, apart, blocks), step.Config(), context)
    assert [problem.code for problem in context.warnings] == ["BVEC_ORIENTATION"] * leads


@pytest.mark.parametrize("shape", [(40, 40, 1), (3, 40, 40), (8, 8, 8)])
def test_thin_and_small_images_cannot_tell(shape: tuple[int, int, int]) -> None:
    grid = grid_of(shape, (2.0, 2.0, 2.0))
    vectors, _ = tubes(grid)
    context = Context(Path())
    found = step.coherence(vectors, np.ones(shape, bool), grid)
    step._tell(found, step.Config(), context)
    assert not context.warnings and context.facts[0].value == "cannot be told"
    assert shape[2] == 40 or "too few" in context.facts[0].reason
    empty = step.coherence(vectors, np.zeros(shape, bool), grid)
    assert not empty.leads(step.Config()) and np.isfinite(empty.values).all()


def test_parallel_fibres_cannot_tell_and_it_says_whether_the_given_table_is_out() -> None:
    """A cylinder of fibres along z, as a cord: flips change nothing, a swap with z does."""
    grid = grid_of((48, 48, 48), (2.0, 2.0, 2.0), turned=False)
    x, y, _ = np.indices(grid.shape) - 23.5
    vectors = np.zeros((*grid.shape, 3))
    vectors[..., 2] = 1
    inside = np.hypot(x, y) < 6
    for table, words in (
        (step.TABLES[0], "the given one among them"),
        (step.Table((2, 1, 0), None), "not among"),
    ):
        context = Context(Path())
        step._tell(step.coherence(as_if(table, vectors, grid), inside, grid), step.Config(), context)
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
    wrong = step.Table((1, 0, 2), 2)
    rows, context = ran(files_of(tmp_path, as_if(wrong, vectors, grid), inside, grid), tmp_path / "work")
    (problem,) = context.warnings
    assert problem.code == "BVEC_ORIENTATION" and problem.severity == "warning"
    assert "swap x and y, then flip z" in problem.do and "swap x and y, then flip z" in problem.found
    assert rows[0] == ["change", "coherence", "standard_errors_behind"] and len(rows) == 25
    assert rows[1][0] == str(wrong) and float(rows[1][2]) == 0
    assert context.numbers["bvec_coherence_best"] > context.numbers["bvec_coherence"]


def test_the_right_table_gives_no_warning_and_the_record_says_why(tmp_path: Path) -> None:
    grid = GRIDS[0]
    rows, context = ran(files_of(tmp_path, *tubes(grid), grid), tmp_path / "work")
    assert not context.warnings
    assert context.facts[0].value == "as given" and rows[1][0] == "as given"
    assert context.numbers["bvec_coherence_best"] == context.numbers["bvec_coherence"]


def test_voxels_of_low_fa_and_of_noise_are_not_used(tmp_path: Path) -> None:
    grid = GRIDS[0]
    files = files_of(tmp_path, *tubes(grid), grid)
    _, context = ran(files, tmp_path / "work", fa_min=0.6)
    assert context.facts[0].value == "cannot be told"
    images.write(files["fa"], np.full(grid.shape, 0.99, np.float32), grid)
    _, context = ran(files, tmp_path / "work")
    assert context.facts[0].value == "cannot be told"


def test_none_does_not_look(tmp_path: Path) -> None:
    grid = GRIDS[0]
    wrong = as_if(step.TABLES[5], tubes(grid)[0], grid)
    rows, context = ran(files_of(tmp_path, wrong, tubes(grid)[1], grid), tmp_path / "work", method="none")
    assert len(rows) == 1 and not context.warnings and not context.numbers


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


def fitted(stem: Path, change: step.Table) -> tuple[np.ndarray, np.ndarray, Grid]:
    """First eigenvectors and fibrous voxels of a scan whose bvec file `change` would put right."""
    data, grid = images.read_float(stem.with_suffix(".nii.gz"))
    table = read_fsl(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), grid.affine)
    turn = voxel_to_world(grid.affine)
    gradients = Gradients(table.bvals, table.bvecs @ turn @ change.matrix @ turn.T)
    mask = body_mask(data[..., gradients.is_b0()].mean(3))
    estimate = tensor.estimate_by(tensor.Config(method="ols"), design_matrix(gradients))
    used = np.ones(len(gradients.bvals), bool)
    with np.errstate(over="ignore"):
        maps = tensor.fit_maps(np.asfortranarray(data), mask, gradients, estimate, used=used).maps
    return maps["eigenvectors"][..., :3], mask & (maps["fa"] > 0.2) & (maps["fa"] < 0.95), grid


@pytest.mark.parametrize("scan", [scan for scan in SCANS if "philips" not in scan])
def test_real_scans_are_never_doubted_and_brains_are_confirmed(real_data: Path, scan: str) -> None:
    found = step.coherence(*fitted(real_data / scan, step.TABLES[0]))
    assert found.leads(step.Config()) == SCANS[scan]
    if SCANS[scan]:
        assert found.order[0] == 0


@pytest.mark.parametrize("index", [1, 9, 18])
def test_a_real_scan_fitted_with_a_wrong_table_is_found_out(real_data: Path, index: int) -> None:
    vectors, fibrous, grid = fitted(real_data / next(iter(SCANS)), step.TABLES[index])
    found = step.coherence(vectors, fibrous, grid)
    assert found.order[0] == index and found.leads(step.Config())


@pytest.mark.slow
@pytest.mark.parametrize("scan", [scan for scan, tells in SCANS.items() if tells])
def test_all_wrong_tables_of_all_brains_are_found_out(real_data: Path, scan: str) -> None:
    vectors, fibrous, grid = fitted(real_data / scan, step.TABLES[0])
    for index, table in enumerate(step.TABLES):
        found = step.coherence(as_if(table, vectors, grid), fibrous, grid)
        assert found.order[0] == index and found.leads(step.Config())
