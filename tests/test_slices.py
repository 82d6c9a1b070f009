"""What is left in the body is on the side that is marked L, on any grid; outlines are borders of voxels."""

from __future__ import annotations

import io
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from somite.images import Grid
from somite.report import canvas, slices, style
from somite.report.anatomy import Anatomy
from somite.report.outlines import key_of
from somite.report.scene import overview, scene_of
from somite.report.slices import PLANES, Cut, View
from somite.segments import Label, Segment

SHAPE = (9, 12, 7)
WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def grids() -> list[Grid]:
    """Every order of the axes and every flip, upright and oblique, with voxels of three sizes."""
    turn = Rotation.from_euler("xyz", (14, -21, 17), degrees=True).as_matrix()
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        base = np.zeros((3, 3))
        for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
            base[world, axis] = sign * (1.0, 2.0, 3.5)[axis]
        for rotation in (np.eye(3), turn):
            affine = np.eye(4)
            affine[:3, :3] = rotation @ base
            affine[:3, 3] = (5, -7, 11)
            found.append(Grid(SHAPE, affine))
    return found


@pytest.mark.parametrize("letter", "RLAPSI")
def test_a_marker_lies_towards_the_edge_with_its_letter(letter: str) -> None:
    world, sign = WORLD[letter]
    for grid in grids():
        # The voxel that lies furthest that way from the middle of the grid, along the axis that leads there.
        axis = int(np.abs(grid.axes[world]).argmax())
        far = np.array(SHAPE) // 2
        far[axis] = SHAPE[axis] - 1 if sign * grid.affine[world, axis] > 0 else 0
        volume = np.zeros(SHAPE)
        volume[tuple(far)] = 1
        view = View(grid)
        for plane in PLANES:
            marks = view.marks(plane)
            edges = {marks.left: (1, -1), marks.right: (1, 1), marks.top: (0, -1), marks.bottom: (0, 1)}
            if letter not in edges:
                continue
            shown = view.take(volume, Cut(plane, int(far[view.axis(plane)])))
            row, column = np.argwhere(shown == 1)[0]
            which, way = edges[letter]
            place, n = (row, column)[which], shown.shape[which]
            assert place == (n - 1 if way > 0 else 0), (plane, grid.affine)


def test_right_is_on_the_left_and_superior_and_anterior_are_up() -> None:
    for grid in grids():
        view = View(grid)
        assert view.marks("axial") == slices.Marks("R", "L", "A", "P")
        assert view.marks("coronal") == slices.Marks("R", "L", "S", "I")
        assert view.marks("sagittal") == slices.Marks("A", "P", "S", "I")


def test_pixels_and_voxels_agree_and_have_their_size() -> None:
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for grid in grids():
        view = View(grid)
        for plane in PLANES:
            cut = Cut(plane, 3)
            down, along = view.steps(plane)
            shown = view.take(volume, cut)
            at = view.first(cut) + 2 * down + 4 * along
            assert shown[2, 4] == volume[tuple(at)]
            height, width = view.pixel_mm(plane)
            np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3] @ down), height)
            np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3] @ along), width)


def test_colours_keep_their_last_axis() -> None:
    colours = np.zeros((*SHAPE, 3))
    for grid in grids()[::7]:
        view = View(grid)
        assert all(view.take(colours, Cut(plane, 0)).shape[2:] == (3,) for plane in PLANES)


def test_tilt_and_position_are_of_the_world() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    view = View(Grid((5, 5, 5), affine))
    np.testing.assert_allclose([view.tilt(p) for p in PLANES], [20, 20, 0], atol=1e-5)
    middle = affine[:3, :3] @ (2, 2, 4)
    np.testing.assert_allclose(view.position(Cut("axial", 4)), middle[2])


def polygons_to_mask(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Even-odd filling, by counting the vertical edges left of each pixel's middle."""
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in pairwise(polygon):
            assert x0 == x1 or y0 == y1
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


@pytest.mark.parametrize("seed", range(12))
def test_an_outline_is_the_border_of_the_mask_and_nothing_else(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < (0.3, 0.5, 0.8)[seed % 3]
    polygons = slices.outline(mask)
    np.testing.assert_array_equal(polygons_to_mask(polygons, mask.shape), mask)
    length = sum(np.abs(np.diff(polygon, axis=0)).sum() for polygon in polygons)
    padded = np.pad(mask, 1).astype(int)
    assert length == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    assert all((polygon[0] == polygon[-1]).all() for polygon in polygons)


def test_an_empty_mask_has_no_outline() -> None:
    assert slices.outline(np.zeros((4, 5), bool)) == []


def test_slices_go_where_the_segments_are() -> None:
    labels = np.zeros((10, 10, 30), int)
    for value, k in ((1, 4), (2, 14), (3, 25)):
        labels[3:6, 3:6, k - 1 : k + 2] = value
        labels[2:7, 2:7, k] = value
    assert slices.slices_through(labels, 2, 3) == [4, 14, 25]
    assert len(slices.slices_through(labels, 2, 9)) == 3
    assert slices.slices_through(np.zeros((3, 3, 3), int), 2, 3) == []


def test_slices_without_labels_are_evenly_spread() -> None:
    inside = np.zeros((6, 6, 40), bool)
    inside[2:4, 2:4, 10:30] = True
    assert slices.slices_across(inside, 2, 2) == [15, 25]
    assert slices.slices_across(np.zeros((2, 2, 1), bool), 2, 3) == [0]


def test_the_overview_takes_planes_by_turns() -> None:
    assert overview({"axial": 3, "coronal": 2, "sagittal": 2}) == {"axial": 1, "coronal": 1, "sagittal": 1}
    assert overview({"axial": 3}) == {"axial": 3}
    assert overview({"axial": 5, "sagittal": 1}) == {"axial": 2, "sagittal": 1}


def test_windows_know_nothing_of_nan() -> None:
    assert slices.window(np.array([np.nan, np.nan])) == (0.0, 1.0)
    assert slices.window(np.array([3.0, 3.0])) == (3.0, 4.0)
    shown = canvas.coloured(np.array([[0.0, np.nan, 1.0]]), (0.0, 1.0))
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert shown[0, 2].tolist() == [255, 255, 255]
    assert shown[0, 1].tolist() not in ([0, 0, 0], [255, 255, 255])


def test_greys_show_dark_tissue_beside_fluid_and_outlines_on_bright_tissue() -> None:
    fluid = np.concatenate([np.full(900, 50.0), np.full(100, 1000.0), np.zeros(50)])
    dark = slices.greys_of(fluid)
    assert dark.power < 1
    assert 90 < canvas.grey(np.array([[50.0]]), dark)[0, 0, 0] < 140
    bright = slices.greys_of(np.concatenate([np.full(900, 100.0), np.full(100, 0.0)]))
    assert canvas.grey(np.array([[100.0]]), bright)[0, 0, 0] < 170


def picture_of(grid: Grid, labels: np.ndarray, table: tuple[Label, ...]) -> tuple[np.ndarray, canvas.Panel]:
    scene = scene_of(grid, np.ones(grid.shape, bool), labels, {"axial": 1}, 0)
    key = key_of(table)
    part = labels[scene.box]
    panels = scene.panels(
        scene.greys(np.zeros(grid.shape), slices.Greys((0, 1))),
        lambda cut: key.outlines(scene.view.take(part, cut)),
    )
    data = canvas.draw(canvas.Sheet(panels))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int), panels[0]


def test_a_drawn_outline_is_where_the_segment_is_and_at_its_true_proportions() -> None:
    affine = np.diag([-2.0, 1.0, 4.0, 1.0])
    labels = np.zeros((30, 40, 3), int)
    labels[20:24, 6:30, 1] = 1
    table = (Label(1, "x", Segment("nerve_root", "R", "L5")),)
    pixels, panel = picture_of(Grid((30, 40, 3), affine), labels, table)
    np.testing.assert_allclose(panel.width_mm / panel.height_mm, 60 / 40)
    places, _, _ = canvas.laid_out([panel], 1)
    assert places[0].width / places[0].height == pytest.approx(1.5, rel=0.01)
    # The affine turns the first axis to the left: index 20 to 24 lies left of the middle of the body, so on
    # the right of the picture, whose columns are the indices themselves.
    yellow = np.argwhere((pixels[..., 0] > 150) & (pixels[..., 1] > 150) & (pixels[..., 2] < 120))
    scale = places[0].width / 30, places[0].height / 40
    low, high = yellow.min(0), yellow.max(0)
    assert abs(low[1] - 20 * scale[0]) < 2.5
    assert abs(high[1] - 24 * scale[0]) < 2.5
    assert abs(low[0] - (40 - 30) * scale[1]) < 2.5
    assert abs(high[0] - (40 - 6) * scale[1]) < 2.5


def test_numbers_tell_levels_and_lines_tell_sides() -> None:
    table = tuple(
        Label(i, f"{i}", Segment("nerve_root", side, level))
        for i, (level, side) in enumerate(product(("L4", "L5"), "LR"), start=1)
    )
    key = key_of((*table, Label(9, "9", Segment("partial_volume", "L"))), ("partial_volume",))
    labels = np.zeros((8, 20), int)
    for i in range(1, 5):
        labels[2:5, 4 * i : 4 * i + 3] = i
    labels[7] = 9
    drawn = key.outlines(labels)
    assert [one.label for one in drawn] == ["1", "1", "2", "2"]
    assert drawn[0].line == drawn[2].line != drawn[1].line == drawn[3].line
    assert drawn[0].colour == drawn[1].colour != drawn[2].colour
    words = [entry.name for entry in key.legend([labels])]
    assert words == ["1  nerve_root L4", "2  nerve_root L5", "left: full line", "right: dashed"]
    assert key.outlines(np.zeros((3, 3), int)) == []


def test_a_name_of_three_hundred_letters_is_cut() -> None:
    name = "r" * 300
    table = (Label(1, name, Segment(name, "L")),)
    labels = np.ones((12, 12, 1), int)
    pixels, _ = picture_of(Grid((12, 12, 1), np.diag([3.0, 3, 3, 1])), labels, table)
    assert pixels.shape[1] <= canvas.WIDTH
    assert len(canvas.short(name)) < 40


def test_left_and_right_differ_in_grey_too() -> None:
    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float((0.2126, 0.7152, 0.0722) @ rgb**2.2)

    left, right = style.SIDES["L"], style.SIDES["R"]
    brighter = (luminance(right.colour) + 0.05) / (luminance(left.colour) + 0.05)
    assert brighter > 2
    assert left.line != right.line
    assert left.marker != right.marker


def test_the_anatomy_is_where_its_transform_says() -> None:
    fine = Grid((40, 50, 30), np.array([[1, 0, 0, -20], [0, 1, 0, -25], [0, 0, 1, -15], [0, 0, 0, 1.0]]))
    x, y, z = (fine.affine[:3, :3] @ np.indices(fine.shape).reshape(3, -1)) + fine.affine[:3, 3:]
    ramp = (x + 100 * y + 10_000 * z).reshape(fine.shape)
    shift = np.array([1.5, -2.0, 0.5])
    anatomy = Anatomy(ramp, fine, lambda points: points + shift)
    for grid in grids()[::5]:
        small = Grid((4, 4, 3), grid.affine - np.outer([*grid.affine[:3, 3].tolist(), 0], [0, 0, 0, 1]))
        view = View(small)
        cut = Cut("axial", 1)
        shown = anatomy.slice(view, cut)
        down, along = view.steps("axial")
        shape = [int(np.abs(s) @ small.shape) for s in (down, along)]
        parts = shown.shape[0] // shape[0], shown.shape[1] // shape[1]
        for row, column in ((0, 0), (1, 2)):
            voxel = view.first(cut) + row * down + column * along
            point = small.affine[:3, :3] @ voxel + small.affine[:3, 3] + shift
            block = shown[row * parts[0] : (row + 1) * parts[0], column * parts[1] : (column + 1) * parts[1]]
            np.testing.assert_allclose(block.mean(), point @ (1, 100, 10_000), rtol=1e-3, atol=0.5)


def test_the_anatomy_of_one_slice_and_beyond_its_field_of_view() -> None:
    anatomy = Anatomy(np.ones((6, 6, 6)), Grid((6, 6, 6), np.eye(4)), lambda points: points)
    view = View(Grid((1, 8, 1), np.diag([2.0, 2.0, 2.0, 1.0])))
    shown = anatomy.slice(view, Cut("axial", 0))
    assert np.isfinite(shown).any()
    assert np.isnan(shown).any()
