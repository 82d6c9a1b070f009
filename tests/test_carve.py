"""Carving: zones, discs, slabs, thirds and erosion agree with known anatomy on any grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roots_on_grid import CANAL, ORIENTATIONS, dice, draw, grid_of, labelled, write_table
from scipy.spatial.transform import Rotation

from somite import images, levels
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import carve
from somite.label_sources import shipped
from somite.phantom import roots as phantom_roots
from somite.registry import Context, discover
from somite.rootline import points_of
from somite.segments import Label, Segment, read_label_table
from somite.selection import read_flags


def run(
    folder: Path,
    labels: np.ndarray,
    grid: Grid,
    table: Sequence[Label],
    config: Mapping[str, Any],
    landmarks: str | None = None,
) -> tuple[dict[Segment, np.ndarray], dict[Segment, dict[str, str]], Context]:
    """Segment -> its voxels; segment -> its row of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(folder)
    products = {
        "labels_dwi": images.write(folder / "labels.nii", labels.astype(np.int32), grid),
        "label_table": write_table(folder / "labels.tsv", table),
    }
    if landmarks is not None:
        products["landmarks"] = folder / "landmarks.tsv"
        products["landmarks"].write_text(landmarks)
    made = discover()["carve"](carve.Config.model_validate(config), context, **products)
    found, own = images.read_labels(made["segments_dwi"])
    assert own.matches(grid, 1e-3)
    segments = read_label_table(made["segment_table"])
    header, *lines = made["segment_table"].read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    masks = {one.segment: found == one.index for one in segments}
    return masks, {one.segment: row for one, row in zip(segments, rows, strict=True)}, context


def codes(context: Context) -> list[str]:
    return [problem.code for problem in context.warnings]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_roots_are_cut_where_the_truth_has_its_zones(tmp_path: Path, orientation: str) -> None:
    grid = grid_of(orientation, 1.5)
    drawn, canal, _ = draw(grid)
    labels, table = labelled(drawn, canal)
    masks, _, context = run(tmp_path, labels, grid, table, {"roots": {}})
    scores = []
    for one in drawn:
        for zone, (low, high) in phantom_roots.ZONES.items():
            truth = one.mask & (one.s >= low) & (one.s < high)
            place = Segment("nerve_root", one.segment.side, one.segment.level, zone)
            if truth.sum() > 20:
                scores.append(dice(masks[place], truth))
    assert np.mean(scores) > 0.95
    assert min(scores) > 0.85
    assert np.array_equal(masks[Segment("canal", "midline")], labels == CANAL)
    assert context.numbers["segments_carved"] == 1 + 3 * len(drawn)


def test_a_landmark_goes_before_the_canal(tmp_path: Path) -> None:
    grid = grid_of("LAS", 1.5)
    drawn, canal, _ = draw(grid)
    labels, table = labelled(drawn[4:5], canal)
    x, y, z = drawn[4].points[50]  # 5 mm along
    header = "x\ty\tz\tregion\tside\tlevel\n"
    row = f"{x}\t{y}\t{z}\tnerve_root\tL\tL5\n"
    masks, _, _ = run(tmp_path, labels, grid, table, {"roots": {}}, header + row)
    truth = drawn[4].mask & (drawn[4].s >= 5) & (drawn[4].s < 15)
    assert dice(masks[Segment("nerve_root", "L", "L5", "intraspinal")], truth) > 0.95
    far = header + f"{x + 20}\t{y}\t{z}\tnerve_root\tL\tL5\n"
    _, rows, context = run(tmp_path / "far", labels, grid, table, {"roots": {}}, far)
    assert "landmark lies" in rows[Segment("nerve_root", "L", "L5", "intraspinal")]["reason"]
    assert "SEGMENT_EMPTY" in codes(context)
    with pytest.raises(DatasetError, match="two landmarks"):
        run(tmp_path / "twice", labels, grid, table, {"roots": {}}, header + row + row)


def test_without_canal_and_landmark_there_is_a_reason(tmp_path: Path) -> None:
    grid = grid_of("LAS", 1.5)
    drawn, canal, _ = draw(grid)
    labels, table = labelled(drawn[:1], canal & False)
    masks, rows, _ = run(tmp_path, labels, grid, table, {"roots": {}})
    row = rows[Segment("nerve_root", "L", "L3", "intraspinal")]
    assert "no dural exit: neither a label of canal nor a landmark" in row["reason"]
    assert not masks[Segment("nerve_root", "L", "L3", "extraforaminal")].any()
    far = np.zeros_like(canal)
    far[:3, :3, :3] = True
    labels, table = labelled(drawn[:1], far)
    _, rows, _ = run(tmp_path / "far", labels, grid, table, {"roots": {}})
    assert "does not cross" in rows[Segment("nerve_root", "L", "L3", "intraspinal")]["reason"]


def test_the_ganglion_is_the_foraminal_zone(tmp_path: Path) -> None:
    grid = grid_of("LAS", 1.5)
    drawn, canal, _ = draw(grid)
    one = drawn[4]
    labels, table = labelled([one], canal)
    ganglion = one.mask & (one.s > 12) & (one.s < 17)
    labels[ganglion] = 50
    table = (*table, Label(50, "ganglion", Segment("drg", "L", "L5")))
    masks, rows, context = run(tmp_path, labels, grid, table, {"roots": {}})
    found = {zone: masks[Segment("nerve_root", "L", "L5", zone)] for zone in phantom_roots.ZONES}
    assert not (ganglion & ~found["foraminal_drg"]).any()
    assert found["foraminal_drg"].sum() < 1.3 * ganglion.sum()
    assert one.s[found["intraspinal"]].max() < 13
    assert one.s[found["extraforaminal"]].min() > 16
    assert Segment("drg", "L", "L5") not in rows
    assert "ganglion" in context.facts[0].value


def spine(values: Sequence[int], grid: Grid) -> np.ndarray:
    """Blocks of these labels from below to above, before a canal of label 2."""
    labels = np.zeros(grid.shape, np.int32)
    labels[9:12, 2:5] = 2
    for place, value in enumerate(values):
        labels[4:16, 8:18, 4 * place : 4 * place + 4] = value
    return labels


def test_the_disc_under_l6_that_totalspineseg_calls_l5_s1_is_named_and_flagged(tmp_path: Path) -> None:
    """Its label 100 is the disc above the sacrum, whichever vertebra lies above it."""
    grid = Grid((20, 20, 36), np.diag([2.0, 2, 2, 1]))
    table = [*shipped.read_shipped("totalspineseg"), Label(300, "m", Segment("multifidus", "L"))]
    labels = spine([50, 100, 46, 96, 45, 95, 44, 94, 43], grid)
    labels[13:16, 2:5] = 300
    masks, rows, context = run(tmp_path, labels, grid, table, {"slabs": {}, "discs": {}})
    assert codes(context)[:2] == ["TRANSITIONAL_ANATOMY", "LEVEL_DOUBTFUL"]
    assert context.warnings[0].found == "L6, L5-L6"
    told = context.warnings[1]
    assert told.found == "L5-S1, although L6, L5-L6 lies between" and "level_doubtful" in told.do
    flagged = {one for one, row in rows.items() if "level_doubtful" in row["flags"]}
    assert {one.level for one in flagged} == {"L5-S1"}
    assert {one.region for one in flagged} == {"disc", "canal", "multifidus"}
    assert {one.segment for one in flagged if one.region == "disc"} == {"np", "af_anterior", "af_posterior"}
    disc = [mask for one, mask in masks.items() if (one.region, one.level) == ("disc", "L5-S1")]
    assert np.array_equal(np.any(disc, axis=0), labels == 100)  # not renumbered
    assert "L6-S1" not in {one.level for one in rows}


def test_a_usual_spine_of_totalspineseg_is_not_transitional(tmp_path: Path) -> None:
    """Its table names L6 and L7, which few spines have."""
    grid = Grid((20, 20, 36), np.diag([2.0, 2, 2, 1]))
    labels = spine([50, 100, 45, 95, 44, 94, 43], grid)
    _, rows, context = run(tmp_path, labels, grid, shipped.read_shipped("totalspineseg"), {})
    assert "TRANSITIONAL_ANATOMY" not in codes(context) and "LEVEL_DOUBTFUL" not in codes(context)
    assert not any(row["flags"] not in ("", "n/a") for row in rows.values())


@pytest.mark.parametrize(
    ("disc", "present", "between"),
    [
        ("L5-S1", ["L5", "S1", "L4-L5"], ()),
        ("L5-S1", ["L5", "L6", "L6-S1"], ("L6", "L6-S1")),
        ("L4-S1", ["L4", "S1", "L3-L4"], ()),
        ("T12-L1", ["T12", "T13", "L1"], ("T13",)),
        ("C7-T1", ["C7", "C8", "T1"], ()),
        ("L5", ["L6"], ()),
        ("sacral", ["L6"], ()),
    ],
)
def test_a_disc_passes_over_what_lies_between_its_vertebrae(
    disc: str, present: list[str], between: tuple[str, ...]
) -> None:
    assert levels.passed_over(disc, [*present, disc]) == between


def test_labels_that_are_segments_pass_unchanged(tmp_path: Path) -> None:
    grid = Grid((6, 6, 6), np.diag([2.0, 2, 2, 1]))
    labels = np.random.default_rng(0).integers(0, 4, grid.shape).astype(np.int32)
    table = [
        Label(1, "one", Segment("nerve_root", "L", "L5", "intraspinal")),
        Label(2, "two", Segment("multifidus", "L", "L4-L5")),
        Label(3, "three", Segment("CST", "R")),
    ]
    config = {"roots": {}, "discs": {}, "slabs": {}}
    masks, rows, context = run(tmp_path, labels, grid, table, config)
    for one in table:
        assert np.array_equal(masks[one.segment], labels == one.index)
        assert rows[one.segment] == {
            "index": str(one.index),
            "name": one.name,
            **{k: getattr(one.segment, k) or "n/a" for k in ("region", "side", "level", "segment")},
            "flags": "n/a",
            "reason": "n/a",
        }
    assert not context.warnings


def posed_disc(pose: np.ndarray, shift: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a disc (1), its canal (2) and muscles (3), and the true parts, in a pose of their own.

    In the frame of the disc: +y anterior, +z superior; the nucleus of the phantom.
    """
    world = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    x, y, z = ((world - shift) @ pose).T.reshape(3, *grid.shape)
    disc = ((x / 23) ** 2 + (y / 15.3) ** 2 <= 1) & (np.abs(z) <= 3.25)
    nucleus = (x / 11) ** 2 + ((y + 1.5) / 7) ** 2 + (z / 2.95) ** 2 <= 1
    canal = (np.hypot(x, y + 25) <= 8) & ~disc
    muscle = (np.hypot(np.abs(x) - 30, y + 10) <= 6) & ~disc
    labels = np.select([disc, canal, muscle], [1, 2, 3], 0).astype(np.int32)
    parts = np.select([disc & nucleus, disc & (y > -1.5), disc], [1, 2, 3], 0)
    slab = np.abs(z) <= 4
    return labels, np.stack([parts == 1, parts == 2, parts == 3, canal & slab, muscle & slab])


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (-20, 12, 30)])
@pytest.mark.parametrize("voxel", [(1.5, 1.5, 1.5), (-1, 1, 3.0)])
def test_discs_and_slabs_in_any_pose(tmp_path: Path, angles, voxel) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (4, -7, 3), degrees=True).as_matrix() @ np.diag(voxel)
    shape = tuple(int(84 / abs(v)) for v in voxel)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    pose = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    labels, truth = posed_disc(pose, np.array([1.0, 5.0, -2.0]), grid)
    table = [
        Label(1, "disc", Segment("disc", "midline", "L4-L5")),
        Label(2, "canal", Segment("canal", "midline")),
        Label(3, "muscle", Segment("multifidus", "L")),
    ]
    fractions = {"nucleus_width_fraction": 11 / 23, "nucleus_depth_fraction": 7 / 15.3}
    fractions |= {"nucleus_height_fraction": 2.95 / 3.25, "nucleus_offset_fraction": 1.5 / 30.6}
    config = {"discs": fractions, "slabs": {"height_mm": 8}}
    masks, _, context = run(tmp_path, labels, grid, table, config)
    names = [Segment("disc", "midline", "L4-L5", part) for part in ("np", "af_anterior", "af_posterior")]
    names += [Segment("canal", "midline", "L4-L5"), Segment("multifidus", "L", "L4-L5")]
    scores = [dice(masks[name], part) for name, part in zip(names, truth, strict=True)]
    assert min(scores[1:]) > 0.93
    assert scores[0] > (0.9 if voxel[2] < 2 else 0.82)
    assert not context.warnings
    # Slabs along the canal's own axis are the same here: it is straight.
    masks, _, _ = run(tmp_path / "canal", labels, grid, table, {"slabs": {"axis": "canal"}})
    assert dice(masks[names[3]], truth[3]) > 0.95
    assert np.array_equal(masks[Segment("disc", "midline", "L4-L5")], labels == 1)


def test_a_disc_without_a_canal_has_a_reason(tmp_path: Path) -> None:
    grid = Grid((40, 40, 10), np.diag([1.5, 1.5, 1.5, 1]))
    labels = np.zeros(grid.shape, np.int32)
    labels[5:35, 10:30, 3:7] = 1
    table = [Label(1, "disc", Segment("disc", "midline", "L4-L5")), Label(4, "m", Segment("multifidus", "L"))]
    _, rows, _ = run(tmp_path, labels, grid, table, {"discs": {}, "slabs": {}})
    assert "no label of canal" in rows[Segment("disc", "midline", "L4-L5", "np")]["reason"]
    assert "no voxel of its label" in rows[Segment("multifidus", "L", "L4-L5")]["reason"]


def test_transitional_anatomy_is_named_and_kept(tmp_path: Path) -> None:
    grid = Grid((20, 20, 40), np.diag([2.0, 2, 2, 1]))
    labels = np.zeros(grid.shape, np.int32)
    table = [Label(9, "canal", Segment("canal", "midline"))]
    labels[9:12, 2:5] = 9
    for index, level in enumerate(("L6-S1", "L5-L6", "L4-L5"), start=1):
        labels[4:16, 8:18, 10 * index : 10 * index + 3] = index
        table.append(Label(index, level, Segment("disc", "midline", level)))
    _, rows, context = run(tmp_path, labels, grid, table, {"slabs": {}})
    assert [s.level for s in rows if s.region == "canal"] == ["L6-S1", "L5-L6", "L4-L5"]
    assert codes(context) == ["TRANSITIONAL_ANATOMY"]
    assert context.warnings[0].found == "L6-S1, L5-L6"
    assert context.facts[0].value == "L6-S1, L5-L6"
    turned = [Label(4 - one.index, one.name, one.segment) if one.index < 9 else one for one in table]
    _, _, context = run(tmp_path / "turned", labels, grid, turned, {"slabs": {}})
    assert "LEVEL_ORDER" in codes(context)


def test_names_of_levels() -> None:
    assert levels.transitional(["L4-L5", "L6", "T13", "L4-S1", "S1", "", "C8", "T12-L1", "mid"]) == (
        "L6",
        "T13",
        "L4-S1",
    )
    assert levels.unknown(["L4/5", "L5", ""]) == ("L4/5",)
    order = ["C7", "T1", "T12", "L1", "L4-L5", "L5", "L5-L6", "L6", "S1"]
    ranks = [levels.rank(level) or 0 for level in order]
    assert all(a < b for a, b in pairwise(ranks))


def thigh(axes: str = "LAS") -> tuple[Grid, np.ndarray, list[Label], np.ndarray]:
    """A tilted femur and two muscles along it, one clipped; and the heights of the voxels along the femur."""
    codes = {"L": (0, -1), "R": (0, 1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    size = {0: 3.0, 1: 3.0, 2: 6.0}
    extent = {0: 90.0, 1: 90.0, 2: 180.0}
    affine, shape = np.zeros((4, 4)), []
    for stored, code in enumerate(axes):
        axis, sign = codes[code]
        affine[axis, stored] = sign * size[axis]
        shape.append(int(extent[axis] / size[axis]))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[3, 3] = 1
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    p = points_of(np.ones(grid.shape, bool), grid)
    axis = np.array([0.15, 0.1, 1.0]) / np.linalg.norm([0.15, 0.1, 1.0])
    height = p @ axis
    away = p - height[:, None] * axis
    beside = np.linalg.norm(away - (20, 0, 0), axis=1)
    labels = np.zeros(len(p), np.int32)
    labels[beside <= 14] = 2
    labels[(np.linalg.norm(away - (-20, 0, 0), axis=1) <= 12) & (np.abs(height) < 60)] = 3
    labels[(np.linalg.norm(away, axis=1) <= 6) & (np.abs(height) < 75)] = 1
    table = [
        Label(1, "femur", Segment("femur", "L")),
        Label(2, "vl", Segment("vastus_lateralis", "L")),
        Label(3, "gracilis", Segment("gracilis", "L")),
    ]
    return grid, labels.reshape(grid.shape), table, height.reshape(grid.shape)


@pytest.mark.parametrize("axes", ["LAS", "SPR", "IRA"])
def test_muscles_in_thirds_along_the_femur(tmp_path: Path, axes: str) -> None:
    grid, labels, table, height = thigh(axes)
    masks, rows, context = run(tmp_path, labels, grid, table, {"thirds": {}})
    bins = {"proximal": height > 25, "middle": np.abs(height) <= 25, "distal": height < -25}
    for region, value in (("vastus_lateralis", 2), ("gracilis", 3)):
        for part, where in bins.items():
            segment = Segment(region, "L", "", part)
            assert dice(masks[segment], where & (labels == value)) > 0.93
            assert rows[segment]["flags"] == ("clipped" if value == 2 else "n/a")
    assert np.array_equal(masks[Segment("femur", "L")], labels == 1)
    (fact,) = context.facts
    assert fact.name == "axis of femur L" and "148 mm, whole" in fact.reason


def test_without_a_femur_the_field_is_cut_in_thirds(tmp_path: Path) -> None:
    grid, labels, table, _ = thigh()
    masks, _, context = run(tmp_path, labels, grid, table[1:], {"thirds": {}})
    assert "no label of femur: the long axis of the field, 180 mm" in context.facts[0].reason
    whole = np.where(labels == 3)[2]
    found = np.where(masks[Segment("gracilis", "L", "", "middle")])[2]
    assert (found.min(), found.max()) == (10, 19)
    assert whole.min() < 10 and whole.max() > 19


def test_erosion_takes_borders_off_and_keeps_a_reason(tmp_path: Path) -> None:
    grid = Grid((12, 12, 6), np.diag([2.0, 2, 5, 1]))
    labels = np.zeros(grid.shape, np.int32)
    labels[2:9, 3:9] = 1  # through all slices
    labels[10:12, 10:12, 2:4] = 2
    table = [Label(1, "big", Segment("gracilis", "L")), Label(2, "small", Segment("sartorius", "L"))]
    masks, rows, context = run(tmp_path, labels, grid, table, {"erosion": {"voxels": 1}})
    assert masks[Segment("gracilis", "L")].sum() == 5 * 4 * 6
    assert masks[Segment("sartorius", "L")].sum() == 1 * 1 * 2  # the field of view is no border
    masks, rows, context = run(tmp_path / "two", labels, grid, table, {"erosion": {"voxels": 2}})
    assert (
        rows[Segment("sartorius", "L")]["reason"] == "none of its 8 voxels is left after eroding 2 voxel(s)"
    )
    assert codes(context) == ["SEGMENT_EMPTY"]
    labels[2:9, 3:9, 5] = 0
    masks, _, _ = run(tmp_path / "3d", labels, grid, table, {"erosion": {"voxels": 1, "within": "space"}})
    assert masks[Segment("gracilis", "L")].sum() == 5 * 4 * 4


def test_a_part_with_a_label_of_its_own_is_kept(tmp_path: Path) -> None:
    grid, labels, table, _ = thigh()
    labels[0, 0, 0] = 7
    table.append(Label(7, "given", Segment("gracilis", "L", "", "middle")))
    masks, _, context = run(tmp_path, labels, grid, table, {"thirds": {}})
    assert masks[Segment("gracilis", "L", "", "middle")].sum() == 1
    assert codes(context) == ["SEGMENT_GIVEN"]


@pytest.mark.parametrize(
    "config",
    [
        {"roots": {"zones": [{"name": "a", "from_mm": 3, "to_mm": 3}]}},
        {"discs": {"nucleus_width_fraction": 0}},
        {"slabs": {"height": 3}},
    ],
)
def test_wrong_options_are_mistakes(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"validation error"):
        carve.Config.model_validate(config)


@pytest.mark.parametrize("voxels", [0, 1])
def test_parts_of_a_clipped_label_at_the_border_are_flagged(tmp_path: Path, voxels: int) -> None:
    """A muscle that goes on below the field: its lowest slab is clipped, and what its table tells stays."""
    grid = Grid((10, 14, 30), np.diag([2.0, 2, 2, 1]))
    labels = np.zeros(grid.shape, np.int32)
    labels[2:8, 2:6, :28] = 1
    for value, low in ((2, 0), (3, 12)):
        labels[1:9, 7:13, low : low + 3] = value
    path = tmp_path / "labels.tsv"
    path.write_text(
        "index\tname\tregion\tside\tlevel\tflags\n1\tm\tmultifidus\tL\tn/a\tclipped;drawn_twice\n"
        "2\tlow\tdisc\tmidline\tL5-S1\tclipped\n3\thigh\tdisc\tmidline\tL4-L5\tn/a\n"
    )
    context = Context(tmp_path)
    _, table = carve.run(
        images.write(tmp_path / "labels.nii", labels, grid),
        path,
        carve.Config.model_validate({"slabs": {}, "erosion": {"voxels": voxels, "within": "space"}}),
        context,
    )
    assert read_flags(table) == {
        Segment("multifidus", "L", "L5-S1"): "clipped;drawn_twice",
        Segment("multifidus", "L", "L4-L5"): "drawn_twice",
        Segment("disc", "midline", "L5-S1"): "clipped",
    }
