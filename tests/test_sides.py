"""Left and right against world coordinates, on any orientation; what is wrong, and what only may be."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from somite.errors import Problem
from somite.images import Grid
from somite.phantom import lumbar
from somite.segments import Label, Segment
from somite.sides import check_sides

OTHER = {"L": "R", "R": "L"}


def ball(grid: Grid, centre: tuple[float, float, float], radius: float = 4) -> np.ndarray:
    ijk = np.indices(grid.shape).reshape(3, -1)
    points = (grid.affine[:3, :3] @ ijk).T + grid.affine[:3, 3]
    return (np.linalg.norm(points - centre, axis=1) < radius).reshape(grid.shape)


def grid_of(order: tuple[int, ...], signs: tuple[int, ...], angle: float = 12) -> Grid:
    """A grid of 40 x 36 x 30 mm about the origin, its axes permuted, flipped and turned."""
    turn = Rotation.from_euler("xyz", [angle, -angle, angle], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag(np.array([2.0, 1.5, 2.5])))[:, list(order)] * np.array(signs)
    shape = np.array([40, 48, 24])[list(order)]
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return Grid(tuple(int(n) for n in shape), affine)  # type: ignore[arg-type]


def image(grid: Grid, *places: tuple[Segment, tuple[float, float, float]]) -> tuple[np.ndarray, list[Label]]:
    values = np.zeros(grid.shape, np.int32)
    labels = []
    for index, (segment, centre) in enumerate(places, start=1):
        values[ball(grid, centre)] = index
        labels.append(Label(index, str(segment), segment))
    return values, labels


def found(grid: Grid, *places: tuple[Segment, tuple[float, float, float]]) -> list[Problem]:
    values, labels = image(grid, *places)
    return check_sides(values, grid, labels, "dseg.nii.gz")


def codes(problems: list[Problem]) -> list[str]:
    return [problem.code for problem in problems]


RIGHT, LEFT = Segment("gracilis", "R"), Segment("gracilis", "L")
PLAIN = grid_of((0, 1, 2), (1, 1, 1), 0)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_a_pair_is_told_right_from_left_on_any_grid(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    grid = grid_of(order, signs)
    assert found(grid, (RIGHT, (14, 3, 0)), (LEFT, (-14, 3, 0))) == []
    (problem,) = found(grid, (RIGHT, (-14, 3, 0)), (LEFT, (14, 3, 0)))
    assert (problem.code, problem.severity) == ("LABEL_SIDES", "error")
    assert "gracilis R (label 1) at x = -1" in problem.found
    assert "counterpart gracilis L (label 2) at x = 1" in problem.found


def test_only_counterparts_of_one_level_and_segment_are_compared() -> None:
    one, other = Segment("nerve_root", "R", "L4", "x"), Segment("nerve_root", "L", "L5", "x")
    assert "LABEL_SIDES" not in codes(found(PLAIN, (one, (12, 0, 10)), (other, (20, 0, -10))))


def test_a_single_right_label_left_of_the_midline_of_its_level_is_an_error() -> None:
    canal = Segment("canal", "midline", "L4-L5")
    muscle = Segment("multifidus", "R", "L4-L5")
    far = (Segment("canal", "midline", "L5-S1"), (-20.0, 0.0, -20.0))
    assert found(PLAIN, (muscle, (-4, 0, 8)), (canal, (-14, 0, 8)), far) == []
    (problem,) = found(PLAIN, (muscle, (-24, 0, 8)), (canal, (-14, 0, 8)), far)
    assert problem.code == "LABEL_SIDES"
    assert "multifidus R L4-L5" in problem.found and "canal midline L4-L5) at x = -14" in problem.found


def test_a_midline_that_bends_is_followed_from_height_to_height() -> None:
    """Discs that lean 8 mm per 10 mm of height: a left root beside its own disc lies right of the mean."""
    discs = [
        (Segment("disc", "midline", level), (8.0 * k, 0.0, 10.0 * k))
        for k, level in enumerate(("L5-S1", "L4-L5", "L3-L4"), start=-1)
    ]
    left = (Segment("nerve_root", "L", "L4"), (2.0, 12.0, 10.0))
    assert found(PLAIN, *discs, left) == []
    wrong = (Segment("nerve_root", "R", "L4"), (2.0, 12.0, 10.0))
    assert codes(found(PLAIN, *discs, wrong)) == ["LABEL_SIDES"]


def test_a_single_label_on_the_other_side_of_the_field_is_a_warning() -> None:
    (problem,) = found(PLAIN, (RIGHT, (-14, 0, 0)))
    assert (problem.code, problem.severity) == ("LABEL_SIDE_DOUBTFUL", "warning")
    assert "gracilis R" in problem.found and "field of view" in problem.found
    assert found(PLAIN, (RIGHT, (14, 0, 0))) == []


def test_a_field_that_holds_one_leg_says_nothing_of_its_muscles() -> None:
    affine = PLAIN.affine.copy()
    affine[0, 3] += 90  # the right leg alone
    leg = Grid(PLAIN.shape, affine)
    sartorius = Segment("sartorius", "R")
    assert found(leg, (RIGHT, (75, 0, 0)), (sartorius, (105, 0, 0))) == []


def test_less_than_half_a_voxel_is_only_doubtful() -> None:
    values = np.zeros(PLAIN.shape, np.int32)
    values[20, 20:24, 5], values[20, 30:34, 5], values[19, 34, 5] = 1, 2, 2  # 0.4 mm of a voxel of 2 mm
    labels = [Label(1, "l", LEFT), Label(2, "r", RIGHT)]
    assert codes(check_sides(values, PLAIN, labels, "x")) == ["LABEL_SIDE_DOUBTFUL"]


def test_several_labels_of_a_segment_are_one_and_absent_ones_none() -> None:
    values = np.zeros(PLAIN.shape, np.int32)
    values[30, 20, 5], values[5, 20:22, 5], values[2, 20, 5] = 1, 2, 3
    labels = [Label(1, "a", RIGHT), Label(3, "b", RIGHT), Label(2, "c", LEFT), Label(9, "d", LEFT)]
    assert check_sides(values, PLAIN, labels, "x") == []
    assert check_sides(np.zeros_like(values), PLAIN, labels, "x") == []


def swapped(labels: tuple[Label, ...]) -> list[Label]:
    return [
        replace(one, segment=replace(one.segment, side=OTHER.get(one.segment.side, one.segment.side)))
        for one in labels
    ]


def test_the_phantoms_labels_are_right_and_swapped_they_are_wrong() -> None:
    phantom = lumbar.make_lumbar((1, 1), float("inf"), grid=lumbar.lumbar_grid(3.0))
    values, table = np.asarray(phantom.labels, np.int32), phantom.label_table
    assert check_sides(values, phantom.grid, table, "x") == []
    (problem,) = check_sides(values, phantom.grid, swapped(table), "x")
    assert problem.code == "LABEL_SIDES"
    roots = tuple(one for one in table if one.segment.region in ("nerve_root", "canal"))
    one_sided = tuple(one for one in roots if one.segment.side != "L")
    assert check_sides(values, phantom.grid, one_sided, "x") == []
    assert codes(check_sides(values, phantom.grid, swapped(one_sided), "x")) == ["LABEL_SIDES"]
