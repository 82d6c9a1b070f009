"""The brain phantom: its truth, its sides, its fibres, and the template that its people are bent from."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorFit, TensorModel
from numpy.typing import NDArray

from somite.phantom import brain_als, make, paint, protocol, scheme
from somite.phantom.anatomy import EDGE
from somite.phantom.brain_als import brain_grid
from somite.phantom.make import Phantom
from somite.segments import Segment

BRAIN = protocol.find("brain-als")
SNUG = (128.0, 148.0, 132.0)
GRIDS = {
    "of the design": brain_grid(2.0, field_of_view_mm=SNUG),
    "permuted and oblique": brain_grid((2.2, 1.8, 2.1), "PSR", (7.0, -5.0, 4.0), field_of_view_mm=SNUG),
}
FEW = scheme.shells(1, (1000.0, 12))
DESIGN = {
    "CST": (0.60, 0.75),
    "PLIC": (0.58, 0.75),
    "GCC": (0.65, 0.89),
    "BCC": (0.59, 1.02),
    "SCP": (0.592, 0.80),
    "ICP": (0.479, 0.76),
    "MCP": (0.502, 0.75),
}


@pytest.fixture(scope="module", params=GRIDS)
def clean(request: pytest.FixtureRequest) -> Phantom:
    """A patient without noise."""
    return make.make(BRAIN, 3, math.inf, grid=GRIDS[request.param], gradients=FEW, changes=BRAIN.lesion)


def fitted(phantom: Phantom, inside: NDArray[np.bool_]) -> TensorFit:
    table = gradient_table(phantom.gradients.bvals, bvecs=phantom.gradients.bvecs)
    return TensorModel(table, fit_method="WLS").fit(phantom.dwi[inside].astype(float))


def world(phantom: Phantom, index: int) -> NDArray[np.float64]:
    at = np.argwhere(phantom.labels == index)
    return at @ phantom.grid.affine[:3, :3].T + phantom.grid.affine[:3, 3]


def test_noise_free_fit_finds_the_truth_of_every_segment(clean: Phantom) -> None:
    inside = (clean.labels > 0) & (clean.labels < EDGE)
    fit = fitted(clean, inside)
    assert len(clean.truth) == 4 + 2 * 9
    for truth, label in zip(clean.truth, clean.label_table[:22], strict=True):
        mine = clean.labels[inside] == label.index
        assert truth.segment == label.segment
        assert mine.sum() == truth.n_voxels >= 25, truth.segment
        # Fibres turn within a voxel: what a fit sees of a curved bundle is a little less anisotropic.
        assert abs(fit.fa[mine].mean() - truth.mean["fa"]) < 0.002
        assert fit.md[mine].mean() == pytest.approx(truth.mean["md"], rel=0.002)


def test_truth_is_that_of_the_design_and_of_als() -> None:
    grid = GRIDS["of the design"]
    made = [
        make.make(BRAIN, 3, math.inf, grid=grid, gradients=scheme.shells(1), changes=changes)
        for changes in ((), BRAIN.lesion)
    ]
    healthy, ill = ({truth.segment: truth.mean for truth in phantom.truth} for phantom in made)
    for segment, mean in healthy.items():
        if segment.region in DESIGN:
            fa, md = DESIGN[segment.region]
            assert (mean["fa"], mean["md"] * 1e3) == pytest.approx((fa, md), rel=1e-4)
        if segment.region in ("CST", "CP", "PLIC", "SCR"):
            assert ill[segment]["fa"] == pytest.approx(mean["fa"] - 0.04, abs=1e-4)
            assert ill[segment]["rd"] == pytest.approx(mean["rd"] + 0.05e-3, rel=1e-4)
        else:
            assert ill[segment] == mean


def test_labels_have_the_numbers_of_the_atlas_and_the_right_is_at_positive_x(clean: Phantom) -> None:
    numbers = {label.segment: label.index for label in clean.label_table}
    # ICBM-DTI-81: 7 is the corticospinal tract of the right side, 8 that of the left.
    assert numbers[Segment("CST", "R")] == 7
    assert numbers[Segment("CST", "L")] == 8
    assert numbers[Segment("GCC", "midline")] == 3
    assert numbers[Segment("uncinate", "L")] == 46
    for segment, index in numbers.items():
        if segment.side != "midline" and index < EDGE:
            x = world(clean, index)[:, 0].mean()
            assert x > 0 if segment.side == "R" else x < 0, segment


def test_parts_of_the_motor_tract_stand_on_each_other(clean: Phantom) -> None:
    numbers = {label.segment: label.index for label in clean.label_table}
    for side in ("L", "R"):
        parts = [world(clean, numbers[Segment(r, side)]) for r in ("CST", "CP", "PLIC", "SCR")]
        heights = [part[:, 2].mean() for part in parts]
        assert np.diff(heights).min() > 8
        for below, above in pairwise(parts):
            apart = np.linalg.norm(below[:, None] - above[None], axis=2).min()
            assert apart < 7


def test_fibres_run_along_their_bundles(clean: Phantom) -> None:
    """The tangent of the centreline in the world, by differences, is what a fit finds beside it."""
    numbers = {label.segment: label.index for label in clean.label_table}
    for line in clean.anatomy.lines:
        at = world(clean, numbers[line.structure])
        points = clean.anatomy.to_world(line.points.T).T
        tangents = np.gradient(points, axis=0)
        nearest = np.linalg.norm(at[:, None] - points[None, ::5], axis=2).argmin(axis=1) * 5
        wanted = tangents[nearest] / np.linalg.norm(tangents[nearest], axis=1, keepdims=True)
        axes = fitted(clean, clean.labels == numbers[line.structure]).evecs[..., 0]
        along = np.abs((axes * wanted).sum(axis=1))
        assert np.median(along) > 0.995, line.structure
    body = fitted(clean, clean.labels == numbers[Segment("BCC", "midline")]).evecs[..., 0]
    assert np.median(np.abs(body[:, 0])) > 0.9


def test_a_person_is_the_template_bent_by_millimetres() -> None:
    shifts = []
    for seed in range(8):
        bend = brain_als.build(np.random.default_rng(seed)).bend
        assert bend is not None
        points = np.random.default_rng(0).uniform(-70, 70, (3, 300))
        there = bend.to_template(points)
        assert bend.from_template(there) == pytest.approx(points, abs=1e-6)
        shifts.append(np.linalg.norm(there - points, axis=0).max())
    assert 1.5 < np.median(shifts) < 6
    assert max(shifts) < 9


def test_the_template_becomes_the_person_by_its_own_deformation() -> None:
    grid = brain_grid(3.0, field_of_view_mm=SNUG)
    body = brain_als.build(np.random.default_rng([3, 0]))
    atlas = brain_als.template()
    there, here = (paint.paint(who, grid, 2) for who in (atlas, body))
    of_template, of_person = (
        paint.drawn(painting, [piece.label for piece in who.pieces])
        for painting, who in ((there, atlas), (here, body))
    )
    assert set(np.unique(of_template)) == {0, *brain_als.segments().values()}
    index = np.argwhere(of_person > 0)
    at = np.linalg.inv(body.pose) @ grid.affine @ np.concatenate([index.T, np.ones((1, len(index)))])
    assert body.bend is not None
    back = body.bend.to_template(at[:3])
    found = np.linalg.inv(grid.affine) @ np.concatenate([back, np.ones((1, back.shape[1]))])
    ijk = np.clip(found[:3].round().astype(int), 0, np.array(grid.shape)[:, None] - 1)
    mine = of_person[tuple(index.T)]
    assert (of_template[tuple(ijk)] == mine).mean() > 0.75
    assert (of_template[tuple(index.T)] == mine).mean() < 0.6


def test_same_seed_same_bits() -> None:
    grid = brain_grid(4.0, field_of_view_mm=SNUG)
    one, again = (make.make(BRAIN, 5, grid=grid, gradients=FEW) for _ in range(2))
    assert one.dwi.tobytes() == again.dwi.tobytes()
    assert one.labels.tobytes() == again.labels.tobytes()


def test_scheme_is_five_b0_and_thirty_directions() -> None:
    table = BRAIN.gradients()
    assert [(table.bvals == b).sum() for b in (0, 1000)] == [5, 30]
    assert brain_grid().shape == (96, 96, 96)
