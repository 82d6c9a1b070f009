"""Profiles: true arc length and true values on any grid, and reasons for what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roots_on_grid import ORIENTATIONS, draw, grid_of, labelled, write_table

from somite import images, profiles
from somite.bundles import Bundles, read_bundles, write_bundles
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import profile, tensor
from somite.phantom import lumbar, noise, scheme
from somite.phantom import roots as phantom_roots
from somite.phantom.make import Phantom
from somite.registry import Context, discover
from somite.rootline import Canal, RootOptions, points_of, root_line
from somite.segments import Label, Segment
from somite.tensorfit import design_matrix

Row = dict[str, str]


def run(
    folder: Path,
    maps: Mapping[str, np.ndarray],
    grid: Grid,
    config: Mapping[str, Any] | None = None,
    **products: Any,
) -> tuple[list[Row], Context]:
    """Run the step; rows as a reader of the TSV finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: images.write(folder / f"{name}.nii", data, grid) for name, data in maps.items()}
    for name, value in products.items():
        if isinstance(value, np.ndarray):
            given[name] = images.write(folder / f"{name}.nii", value, grid)
        elif isinstance(value, Path):
            given[name] = value
        else:
            given[name] = write_table(folder / f"{name}.tsv", value)
    context = Context(folder)
    made = discover()["profile"](profile.Config.model_validate(config or {}), context, **given)
    header, *lines = made["profiles"].read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines], context


def constant_maps(grid: Grid, fa: np.ndarray) -> dict[str, np.ndarray]:
    """Maps with a given FA and MD 1.5, AD 2, RD 1.25e-3 mm2/s, fitted everywhere."""
    maps = {
        name: np.full(grid.shape, v, np.float32)
        for name, v in (("md", 1.5e-3), ("ad", 2e-3), ("rd", 1.25e-3))
    }
    return {"fa": fa.astype(np.float32), **maps, "mask": np.ones(grid.shape, np.uint8)}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("voxel", [1.5, 2.0])
def test_positions_are_true_arc_lengths_from_the_canal(
    tmp_path: Path, orientation: str, voxel: float
) -> None:
    # A map whose value is the true arc length: the profile is then its own position.
    grid = grid_of(orientation, voxel)
    drawn, canal, _ = draw(grid)
    labels, table = labelled(drawn, canal)
    s = np.zeros(grid.shape)
    for one in drawn:
        s[one.mask] = one.s[one.mask]
    rows, _ = run(tmp_path, constant_maps(grid, s), grid, labels_dwi=labels, label_table=table)
    errors: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"] == "fa" and row["value"] != "n/a" and 0 < int(row["node"]) < 18:
            name = row["side"] + row["level"]
            errors.setdefault(name, []).append(float(row["value"]) - float(row["position_mm"]))
    assert len(errors) == 8
    offsets = np.array([np.median(values) for values in errors.values()])
    within = [np.abs(np.array(v) - np.median(v)).max() for v in errors.values()]
    assert np.median(within) < 0.5  # along the nerve
    assert np.abs(offsets).mean() < (0.25 if voxel < 2 else 0.45)  # where it begins
    assert abs(offsets.mean()) < 0.25


def fitted(ph: Phantom, where: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of a fit in the voxels `where`."""
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(ph.gradients))
    used = np.ones(len(ph.gradients.bvals), np.bool_)
    maps = tensor.fit_maps(ph.dwi, where, ph.gradients, estimate, used=used).maps
    return {name: maps[name] for name in ("fa", "md", "ad", "rd")} | {"mask": where.astype(np.uint8)}


def fa_along(folder: Path, orientation: str, voxel: float, seed: int, snr: float) -> np.ndarray:
    """FA (8 roots, 21 nodes) of the phantom's roots, labelled by hand as it were."""
    grid = grid_of(orientation, voxel)
    drawn, canal, _ = draw(grid, seed)
    labels, table = labelled(drawn, canal)
    ph = lumbar.make_lumbar(seed, snr, grid=grid)
    maps = fitted(ph, np.any([one.mask for one in drawn], axis=0))
    rows, _ = run(folder, maps, grid, {"metrics": ["fa"]}, labels_dwi=labels, label_table=table)
    return np.array([float(row["value"].replace("n/a", "nan")) for row in rows]).reshape(8, 21)


def expected_fa(snr: float) -> np.ndarray:
    """Mean FA (21,) of fits to noisy nerve at the nodes."""
    fa, md = phantom_roots.profile(np.arange(21) * 1.5)
    table = scheme.lumbar()
    return np.array([noise.expected(f, m, snr, table, n=3000).fa for f, m in zip(fa, md, strict=True)])


def test_fa_along_a_root_without_noise_is_the_truth(tmp_path: Path) -> None:
    found = fa_along(tmp_path, "LAS", 1.5, 1, np.inf)[:, 2:20]
    truth, _ = phantom_roots.profile(np.arange(21) * 1.5)
    assert np.isfinite(found).any(axis=0).all()
    np.testing.assert_allclose(np.nanmean(found, axis=0), truth[2:20], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("voxel", [1.5, 2.0])
def test_fa_along_a_root_is_the_expected_one_at_an_snr(tmp_path: Path, voxel: float) -> None:
    expected = expected_fa(25.0)
    for orientation in ORIENTATIONS:
        runs = [fa_along(tmp_path / f"{k}", orientation, voxel, k, 25.0) for k in (1, 2, 3)]
        found, n = np.concatenate(runs), np.isfinite(np.concatenate(runs)).sum(0)
        # Near the exit few roots have voxels at the node that do not touch the canal: rows with the reason.
        told = n >= 6
        np.testing.assert_allclose(np.nanmean(found[:, told], axis=0), expected[told], atol=0.02)
        assert told[1:].all() and n[3:20].min() >= 23


def test_voxels_that_touch_the_canal_are_left_out_with_a_reason(tmp_path: Path) -> None:
    grid = Grid((40, 21, 21), np.diag([1.0, 1, 1, 1]))
    labels, table = simple_root(grid)
    fa = np.full(grid.shape, 0.3)
    fa[12] = 0.1  # the layer beside the canal, half fluid
    ours: dict[str, Any] = {"labels_dwi": labels, "label_table": table}
    rows, _ = run(tmp_path / "a", constant_maps(grid, fa), grid, {"step_mm": 1.3, "max_mm": 5}, **ours)
    left = [row for row in rows if row["side"] == "L" and row["metric"] == "fa"]
    assert left[0]["value"] == "n/a"
    assert left[0]["reason"] == (
        "0 voxels at the node have a tensor fit and do not touch the canal, 9 do; min_voxels is 2"
    )
    np.testing.assert_allclose([float(row["value"]) for row in left[1:]], 0.3, rtol=1e-6)
    wider = {"step_mm": 1.8, "max_mm": 6, "weighting": "uniform"}
    rows, _ = run(tmp_path / "w", constant_maps(grid, fa), grid, wider, **ours)
    exit_row = next(row for row in rows if row["side"] == "L" and row["metric"] == "fa")
    assert exit_row["reason"] == "9 voxels at the node touch the canal; the others lie at 1.5 mm on average"
    kept = {"leave_out_canal_neighbours": False, "step_mm": 1.3, "max_mm": 5}
    rows, _ = run(tmp_path / "b", constant_maps(grid, fa), grid, kept, **ours)
    left = [row for row in rows if row["side"] == "L" and row["metric"] == "fa"]
    assert float(left[0]["value"]) == pytest.approx(0.1) and left[0]["reason"] == "n/a"


def simple_root(grid: Grid) -> tuple[np.ndarray, list[Label]]:
    """A straight root of 9 voxels across, from x = 12, beside a canal; no right one."""
    labels = np.zeros(grid.shape, np.int32)
    labels[:12] = 9
    labels[12:36, 9:12, 9:12] = 1
    table = [
        Label(9, "canal", Segment("canal", "midline")),
        Label(1, "root", Segment("nerve_root", "L", "L5")),
    ]
    return labels, table


def test_values_errors_and_weights_are_those_of_the_formulas(tmp_path: Path) -> None:
    grid = Grid((40, 21, 21), np.diag([1.0, 1, 1, 1]))
    labels, table = simple_root(grid)
    fa = np.random.default_rng(0).uniform(0.2, 0.4, grid.shape)
    config = {"weighting": "uniform", "step_mm": 1.5, "max_mm": 30}
    rows, context = run(tmp_path, constant_maps(grid, fa), grid, config, labels_dwi=labels, label_table=table)
    left = [row for row in rows if row["side"] == "L" and row["metric"] == "fa"]
    assert [float(row["position_mm"]) for row in left] == [1.5 * k for k in range(21)]
    row = left[6]
    # The canal ends, and the root begins, at x = 11.5 mm.
    x = np.arange(12, 36) - 11.5 - 9.0
    hats = np.repeat(np.maximum(0, 1 - np.abs(x) / 1.5), 9)
    values = fa[12:36, 9:12, 9:12].ravel()
    mean = (hats * values).sum() / hats.sum()
    effective = hats.sum() ** 2 / (hats**2).sum()
    se = np.sqrt((hats * (values - mean) ** 2).sum() / hats.sum() / (effective - 1))
    assert float(row["value"]) == pytest.approx(mean, abs=2e-3)
    assert float(row["se"]) == pytest.approx(se, rel=0.1)
    assert float(row["weight"]) == pytest.approx(hats.sum(), rel=0.02)
    assert int(row["n_voxels"]) == 27
    md = next(row for row in rows if row["side"] == "L" and row["metric"] == "md" and row["node"] == "6")
    assert float(md["value"]) == pytest.approx(1.5) and md["unit"] == "1e-3 mm2/s"
    assert "the structure reaches from 0.0 to 24.0 mm" in left[-1]["reason"]
    right = [row for row in rows if row["side"] == "R"]
    assert len(right) == 21 * 4
    assert {row["reason"] for row in right} == {"no label of this root in the label table"}
    assert context.numbers == {"profiles": 2, "profiles_measured": 1}
    assert [problem.code for problem in context.warnings] == ["PROFILE_NOT_MEASURED"]


def test_the_section_is_weighted_towards_its_middle() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (4000, 2))
    distance = 2.5 * np.linalg.norm(points[(points**2).sum(1) <= 1], axis=1)
    weights = profiles.central(rng.uniform(0, 5, len(distance)), distance, 0.4)
    np.testing.assert_allclose(weights, np.exp(-0.5 * (distance / (0.4 * 2.5)) ** 2), atol=0.02)


def test_hats_of_neighbours_add_up_to_one() -> None:
    nodes = np.arange(10) * 1.5
    total = profiles.hats(np.linspace(0, 13.5, 200), nodes, 1.5).sum(1)
    np.testing.assert_allclose(total, 1)


def test_zones_are_joined_to_their_root_and_a_landmark_is_an_exit(tmp_path: Path) -> None:
    grid = Grid((40, 21, 21), np.diag([1.0, 1, 1, 1]))
    labels, table = simple_root(grid)
    fa = np.broadcast_to(np.arange(40)[:, None, None] / 100, grid.shape)
    whole, _ = run(tmp_path / "whole", constant_maps(grid, fa), grid, labels_dwi=labels, label_table=table)
    labels[24:36][labels[24:36] == 1] = 2
    table = [
        table[0],
        Label(1, "a", Segment("nerve_root", "L", "L5", "intraspinal")),
        Label(2, "b", Segment("nerve_root", "L", "L5", "foraminal_drg")),
    ]
    zones, _ = run(tmp_path / "zones", constant_maps(grid, fa), grid, labels_dwi=labels, label_table=table)
    assert zones == whole
    marks = tmp_path / "marks.tsv"
    marks.write_text("x\ty\tz\tregion\tside\tlevel\n16.5\t10\t10\tnerve_root\tL\tL5\n")
    rows, _ = run(
        tmp_path / "mark",
        constant_maps(grid, fa),
        grid,
        labels_dwi=labels,
        label_table=table[1:],
        landmarks=marks,
    )
    at = {int(row["node"]): row for row in rows if row["metric"] == "fa" and row["side"] == "L"}
    assert float(at[4]["value"]) == pytest.approx((16.5 + 6) / 100, abs=0.003)
    rows, _ = run(tmp_path / "none", constant_maps(grid, fa), grid, labels_dwi=labels, label_table=table[1:])
    assert "no dural exit" in rows[0]["reason"]


def bundle(rng: np.random.Generator, n: int = 30) -> list[np.ndarray]:
    """Streamlines along an arc in x and z, in either direction."""
    lines = []
    for k in range(n):
        angle = np.linspace(-0.5, 0.5, 60)
        line = np.stack([40 * np.sin(angle) + 30, 0 * angle + 10, 40 * np.cos(angle) - 20], axis=1)
        line = line + rng.normal(0, 0.5, 3)
        lines.append(line[::-1] if k % 3 == 0 else line)
    return lines


@pytest.mark.parametrize("suffix", [".trk", ".tck", ".trx"])
def test_bundles_are_read_and_profiled_from_end_to_end(tmp_path: Path, suffix: str) -> None:
    from dipy.io.streamline import load_tractogram, save_tractogram

    grid = Grid((60, 20, 30), np.diag([1.0, 1, 1, 1]))
    fa = np.broadcast_to(np.arange(60)[:, None, None] / 100, grid.shape)
    lines = bundle(np.random.default_rng(0))
    path = write_bundles(tmp_path / "b.trk", Bundles(lines, np.ones(len(lines), np.intp)), grid)
    if suffix != ".trk":
        loaded = load_tractogram(str(path), "same")
        path = tmp_path / f"b{suffix}"
        if suffix == ".tck":
            loaded.data_per_streamline = {}
        save_tractogram(loaded, str(path))
    table = [Label(1, "cst", Segment("CST", "R"))]
    rows, _ = run(tmp_path / "out", constant_maps(grid, fa), grid, tracts=path, tract_table=table)
    values = np.array([float(row["value"]) for row in rows if row["metric"] == "fa"])
    assert len(values) == 100
    true_x = 40 * np.sin(np.linspace(-0.5, 0.5, 100)) + 30
    np.testing.assert_allclose(values, true_x / 100, atol=0.02)
    assert {row["extraction"] for row in rows} == {"tract"}
    assert {row["n_voxels"] for row in rows} == {"30"}


def test_the_weighting_of_a_bundle_is_told_as_it_was(tmp_path: Path) -> None:
    """Too few streamlines, or all in one plane, have no covariance: they are weighted alike, as it says."""
    grid = Grid((60, 20, 30), np.diag([1.0, 1, 1, 1]))
    fa = np.broadcast_to(np.indices((20, 30)).sum(0) / 100, grid.shape)
    rng = np.random.default_rng(0)
    flat = [line * [1, 0, 1] + [0, 10, 0] for line in bundle(rng)]
    bundles = {"CST": bundle(rng), "SLF": bundle(rng, 4), "UF": flat}
    index = np.repeat(np.arange(1, 4), [len(lines) for lines in bundles.values()])
    path = write_bundles(tmp_path / "b.trk", Bundles([*chain(*bundles.values())], index), grid)
    table = [Label(k, name, Segment(name, "R")) for k, name in enumerate(bundles, start=1)]
    rows, context = run(tmp_path / "out", constant_maps(grid, fa), grid, tracts=path, tract_table=table)
    found = {name: {row["weighting"] for row in rows if row["region"] == name} for name in bundles}
    assert found == {"CST": {"gaussian"}, "SLF": {"uniform"}, "UF": {"uniform"}}
    (fact,) = context.facts
    assert fact.name == "weighting of the bundles SLF R, UF R" and fact.value == "uniform"
    few = [float(r["value"]) for r in rows if r["region"] == "SLF" and r["metric"] == "fa"]
    at = np.array([(line if line[0, 0] < line[-1, 0] else line[::-1])[30] for line in bundles["SLF"]])
    assert few[50] == pytest.approx((at[:, 1:].sum(1) / 100).mean(), abs=0.005)  # alike


def test_a_map_of_probabilities_is_profiled_along_its_own_centreline(tmp_path: Path) -> None:
    grid = Grid((60, 20, 30), np.diag([1.0, 1, 1, 1]))
    fa = np.broadcast_to(np.arange(60)[:, None, None] / 100, grid.shape)
    p = np.indices(grid.shape).reshape(3, -1).T.astype(float)
    angle = np.arctan2(p[:, 0] - 30, p[:, 2] + 20)
    off = np.hypot(np.hypot(p[:, 0] - 30, p[:, 2] + 20) - 40, p[:, 1] - 10)
    probability = (np.exp(-0.5 * (off / 1.2) ** 2) * (np.abs(angle) < 0.5)).reshape(*grid.shape, 1)
    table = [Label(1, "cst", Segment("CST", "R")), Label(2, "none", Segment("CST", "L"))]
    rows, _ = run(
        tmp_path,
        constant_maps(grid, fa),
        grid,
        probabilities_dwi=probability.astype(np.float32),
        probability_table=table,
    )
    right = [row for row in rows if row["side"] == "R" and row["metric"] == "fa"]
    values = np.array([float(row["value"]) for row in right])
    true_x = 40 * np.sin(np.linspace(-0.5, 0.5, 100)) + 30
    np.testing.assert_allclose(values, true_x / 100, atol=0.015)
    assert {row["extraction"] for row in rows} == {"prob"}
    assert {row["reason"] for row in rows if row["side"] == "L"} == {
        "the image has 1 volumes and none of index 2"
    }


def test_files_that_are_no_tractograms_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.trk").write_text("nothing")
    with pytest.raises(DatasetError, match="TRACTS_UNREADABLE"):
        read_bundles(tmp_path / "x.trk", tmp_path / "fa.nii")


def test_maps_on_another_grid_are_refused(tmp_path: Path) -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    maps = constant_maps(grid, np.zeros(grid.shape))
    wrong = images.write(tmp_path / "other.nii", np.zeros((5, 5, 5), np.int32), Grid((5, 5, 5), np.eye(4)))
    with pytest.raises(DatasetError, match="IMAGE_GRID"):
        run(tmp_path, maps, grid, labels_dwi=wrong, label_table=[Label(1, "a", Segment("nerve_root", "L"))])


@pytest.mark.parametrize(("voxel", "most", "spread"), [(1.5, 0.5, 0.25), (2.0, 1.1, 0.45)])
def test_positions_are_counted_from_where_the_canal_ends(voxel: float, most: float, spread: float) -> None:
    """Against the analytic arc length: how far all positions of a root are off, over seeds."""
    for orientation in ORIENTATIONS:
        offsets = []
        grid = grid_of(orientation, voxel)
        for seed in (1, 2, 3):
            drawn, canal, _ = draw(grid, seed)
            hidden = np.any([one.mask for one in drawn], axis=0)
            for one in drawn:
                if one.s[one.mask].max() < 29:  # leaves the field
                    continue
                line = root_line(one.mask, Canal(canal, grid, 4.0, hidden), None, RootOptions())
                s, _ = line.project(one.points)
                off = (s - one.root.s)[20:-20]
                offsets.append(np.median(off))
                assert np.abs(off - offsets[-1]).max() < 0.1
        assert np.abs(offsets).max() < most
        assert np.sqrt(np.mean(np.square(offsets))) < spread
        assert abs(np.mean(offsets)) < 0.2


@pytest.mark.parametrize("bulge", [0.0, 0.12, -0.06])
def test_the_exit_is_found_on_canals_that_are_not_round_and_drawn_unsteadily(bulge: float) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for orientation in ORIENTATIONS:
        grid = grid_of(orientation, 1.5)
        drawn, _, build = draw(grid)
        inverse = np.linalg.inv(build.pose)

        def beyond(points: np.ndarray, radius: float, inverse: np.ndarray = inverse) -> np.ndarray:
            """Distance outwards from the border of a canal of three lobes, symmetrical."""
            x, y, _ = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
            angle = np.arctan2(y - lumbar.CANAL_Y, np.abs(x)) - np.deg2rad(20)
            return np.asarray(np.hypot(x, y - lumbar.CANAL_Y) - radius * (1 + bulge * np.cos(3 * angle)))

        voxels = points_of(np.ones(grid.shape, bool), grid)
        unsteady = beyond(voxels, build.canal_radius) + rng.normal(0, 0.4, len(voxels))
        hidden = np.any([one.mask for one in drawn], axis=0)
        canal = (unsteady <= 0).reshape(grid.shape) & ~hidden
        for one in drawn:
            line = root_line(one.mask, Canal(canal, grid, 4.0, hidden), None, RootOptions())
            s = np.arange(-8, 8, 0.01)
            outside = beyond(line.at(s)[0], build.canal_radius) > 0
            errors.append(s[np.flatnonzero(~outside)[-1]])
    assert abs(np.mean(errors)) < 0.35
    assert np.sqrt(np.mean(np.square(errors))) < 0.4
