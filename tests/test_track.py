"""Tracking: roots are followed along their true course on any grid, within all limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roots_on_grid import Drawn, draw, grid_of, labelled, write_table
from scipy.spatial import cKDTree
from test_profile import fitted

from somite import images
from somite.bundles import Bundles, read_bundles
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import profile, tensor, track
from somite.phantom import lumbar
from somite.phantom.tissue import eigenvalues
from somite.registry import Context, discover
from somite.segments import Label, Segment, read_label_table
from somite.tensorfit import design_matrix


def run(
    folder: Path,
    maps: Mapping[str, np.ndarray],
    grid: Grid,
    labels: np.ndarray,
    table: Sequence[Label],
    config: Mapping[str, Any],
    threads: int = 1,
) -> tuple[Bundles, np.ndarray, Path, Context]:
    """Run the step; streamlines, density, table of the tracts."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        name: images.write(folder / f"{name}.nii", maps[name], grid) for name in ("tensor", "fa", "mask")
    }
    given["labels_dwi"] = images.write(folder / "labels.nii", labels.astype(np.int32), grid)
    given["label_table"] = write_table(folder / "labels.tsv", table)
    context = Context(folder, threads=threads)
    made = discover()["track"](track.Config.model_validate(config), context, **given)
    density, own = images.read_float(made["tract_density"])
    assert own.matches(grid, 1e-3) and density.ndim == 4
    return read_bundles(made["tracts"], given["fa"]), density, made["tract_table"], context


def straight(
    affine: np.ndarray, shape: tuple[int, int, int], direction: Sequence[float]
) -> tuple[Grid, dict[str, np.ndarray], np.ndarray]:
    """Maps of a fibre of 6 mm across, through the middle of the field along `direction` (world)."""
    grid = Grid(shape, affine)
    world = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    u = np.asarray(direction) / np.linalg.norm(direction)
    along = (world - middle) @ u
    off = np.linalg.norm(world - middle - along[:, None] * u, axis=1)
    inside = (off <= 3).reshape(shape)
    ad, rd = eigenvalues(np.array(0.4), np.array(1.3e-3))
    d = rd * np.eye(3) + (ad - rd) * np.outer(u, u)
    data = np.zeros((*shape, 6), np.float32)
    data[inside] = d[[0, 0, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]]
    maps = {
        "tensor": data,
        "fa": np.where(inside, 0.4, 0).astype(np.float32),
        "mask": np.ones(shape, np.uint8),
    }
    labels = np.where(inside & (np.abs(along).reshape(shape) < 4), 1, 0)
    return grid, maps, labels


TABLE = [Label(1, "root", Segment("nerve_root", "L", "L5", "foraminal_drg"))]
OBLIQUE = np.array([[-1.4, 0.2, -0.4, 9], [0.3, 1.9, 0.2, -5], [0.4, -0.2, 2.4, 11], [0, 0, 0, 1.0]])
# At right angles, with voxels of 1.5 x 2 x 2.5 mm.
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] @ np.diag([1.5, -2, 2.5])


@pytest.mark.parametrize("method", ["deterministic", "probabilistic"])
@pytest.mark.parametrize("affine", [np.diag([2.0, 2, 2, 1]), OBLIQUE])
def test_a_fibre_is_followed_in_world_axes(tmp_path: Path, affine: np.ndarray, method: str) -> None:
    direction = (0.5, 0.3, 0.8)
    grid, maps, labels = straight(affine, (20, 18, 16), direction)
    found, density, _, context = run(tmp_path, maps, grid, labels, TABLE, {"method": method})
    ways = np.array([line[-1] - line[0] for line in found.streamlines])
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    cosine = np.abs(ways @ (np.array(direction) / np.linalg.norm(direction)))
    assert np.median(cosine) > np.cos(np.deg2rad(6))
    assert context.numbers["tracts"] == 1 and context.numbers["streamlines"] == len(ways) > 50
    assert density.shape == (*grid.shape, 1) and 0.2 < density.max() <= 1
    assert not density[..., 0][maps["fa"] == 0].any()


@pytest.mark.parametrize("method", ["deterministic", "probabilistic"])
def test_the_same_on_any_number_of_cores(tmp_path: Path, method: str) -> None:
    grid, maps, labels = straight(OBLIQUE, (20, 18, 16), (0.5, 0.3, 0.8))
    one, density, _, _ = run(tmp_path / "1", maps, grid, labels, TABLE, {"method": method})
    two, again, _, _ = run(tmp_path / "2", maps, grid, labels, TABLE, {"method": method}, threads=2)
    assert len(one.streamlines) == len(two.streamlines)
    for a, b in zip(one.streamlines, two.streamlines, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(density, again)


def test_limits_hold(tmp_path: Path) -> None:
    grid, maps, labels = straight(np.diag([2.0, 2, 2, 1]), (20, 18, 16), (0.2, 0.1, 1))
    config = {"length_min_mm": 5, "length_max_mm": 100}
    free, _, _, _ = run(tmp_path / "free", maps, grid, labels, TABLE, config)
    lengths = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in free.streamlines]
    assert np.median(lengths) > 20
    near, _, _, _ = run(tmp_path / "near", maps, grid, labels, TABLE, config | {"confine_mm": 2.0})
    reach = [np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in near.streamlines]
    assert max(reach) < 20
    _, _, tracts, context = run(tmp_path / "fa", maps, grid, labels, TABLE, config | {"fa_min": 0.5})
    assert "0 streamlines, min_streamlines is 5" in tracts.read_text()
    assert [problem.code for problem in context.warnings] == ["TRACT_NOT_FOUND"]
    _, _, tracts, _ = run(
        tmp_path / "long", maps, grid, labels, TABLE, {"length_min_mm": 40, "length_max_mm": 60}
    )
    assert "0 streamlines" in tracts.read_text()


def test_streamlines_are_kept_or_barred_by_labels(tmp_path: Path) -> None:
    grid, maps, labels = straight(np.diag([2.0, 2, 2, 1]), (20, 18, 16), (0, 0, 1))
    labels = labels.copy()
    labels[:, :, 13] = np.where(labels[:, :, 13] == 0, 5, labels[:, :, 13])  # crossed above
    table = [*TABLE, Label(5, "gate", Segment("gate"))]
    free, _, _, _ = run(tmp_path / "free", maps, grid, labels, table, {})
    gated, _, _, _ = run(tmp_path / "in", maps, grid, labels, table, {"include": ["gate"]})
    barred, _, _, _ = run(tmp_path / "out", maps, grid, labels, table, {"exclude": ["gate"]})
    top = [line[:, 2].max() > 25 for line in free.streamlines]
    assert len(gated.streamlines) == sum(top) > 0
    assert len(barred.streamlines) == len(top) - sum(top)


def test_what_is_missing_has_a_reason(tmp_path: Path) -> None:
    grid, maps, labels = straight(np.diag([2.0, 2, 2, 1]), (20, 18, 16), (0, 0, 1))
    table = [*TABLE, Label(3, "other", Segment("nerve_root", "R", "L5")), Label(4, "x", Segment("canal"))]
    _, density, tracts, _ = run(tmp_path, maps, grid, labels, table, {})
    rows = read_label_table(tracts)
    assert [row.segment for row in rows] == [
        Segment("nerve_root", "L", "L5"),
        Segment("nerve_root", "R", "L5"),
    ]
    assert "no voxel of its label in the label image" in tracts.read_text()
    assert density.shape[3] == 2 and not density[..., 1].any()
    assert track.seed_labels(table, track.Config(seed_segments=("intraspinal",))) == {}
    with pytest.raises(ValueError, match="length_max_mm"):
        track.Config(length_min_mm=50, length_max_mm=20)
    sheared = np.diag([2.0, 2, 2, 1])
    sheared[0, 1] = 0.7
    with pytest.raises(DatasetError, match="TRACT_SHEAR"):
        run(tmp_path / "sheared", maps, Grid(grid.shape, sheared), labels, table, {})


def covered(lines: Sequence[np.ndarray], one: Drawn) -> float:
    """Part of the true length of a root along which a tenth of the streamlines run within it."""
    tree, hits = cKDTree(one.points), np.zeros(30)
    for line in lines:
        distance, index = tree.query(line)
        near = distance <= one.root.radii[index]
        hits[np.unique(np.clip(one.root.s[index[near]].astype(int), 0, 29))] += 1
    return float((hits >= 0.1 * len(lines)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deterministic", "probabilistic"])
def test_tracked_roots_cover_their_length_and_label_and_tract_are_both_told(
    tmp_path: Path, method: str
) -> None:
    grid = grid_of("LAS", 1.5)
    drawn, canal, _ = draw(grid)
    labels, table = labelled(drawn, canal)
    ph = lumbar.make_lumbar(1, 25.0, grid=grid)
    maps = fitted(ph, ph.s0 > 20)
    estimate = tensor.estimate_by(tensor.Config(), design_matrix(ph.gradients))
    used = np.ones(len(ph.gradients.bvals), np.bool_)
    maps["tensor"] = tensor.fit_maps(ph.dwi, ph.s0 > 20, ph.gradients, estimate, used=used).maps["tensor"]
    config = {"method": method, "exclude": ["canal"], "confine_mm": 2.0, "seeds_per_voxel": 4}
    found, _, tracts, _ = run(tmp_path, maps, grid, labels, table, config)
    parts = [covered(found.of(number), one) for number, one in enumerate(drawn, start=1)]
    assert min(parts) >= 0.8
    given = {
        name: images.write(tmp_path / f"{name}.nii", maps[name], grid)
        for name in ("fa", "md", "ad", "rd", "mask")
    }
    context = Context(tmp_path)
    made = discover()["profile"](
        profile.Config(metrics=("fa",)),
        context,
        **given,
        labels_dwi=tmp_path / "labels.nii",
        label_table=tmp_path / "labels.tsv",
        tracts=tmp_path / "tracts.trk",
        tract_density=tmp_path / "tract_density.nii",
        tract_table=tracts,
    )
    header, *lines = made["profiles"].read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    fa = {
        kind: np.mean(
            [
                float(r["value"])
                for r in rows
                if r["extraction"] == kind and 8 < int(r["node"]) < 16 and r["value"] != "n/a"
            ]
        )
        for kind in ("label", "tract")
    }
    assert fa["label"] == pytest.approx(0.4, abs=0.03)
    assert fa["tract"] == pytest.approx(0.4, abs=0.06)
