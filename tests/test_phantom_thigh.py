"""The thigh phantom: what a fit finds in it is its truth; blood and fat do what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorFit, TensorModel
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from somite.gradients import Gradients
from somite.phantom import make, protocol, scheme, thigh, tissue
from somite.phantom.anatomy import EDGE
from somite.phantom.change import Change
from somite.phantom.make import Phantom
from somite.phantom.thigh import MUSCLES, thigh_grid
from somite.segments import Segment

THIGH = protocol.find("thigh")
COARSE = thigh_grid((4.0, 4.0, 12.0))
GRIDS = {
    "default": thigh_grid(),
    "permuted and oblique": thigh_grid(
        (7.0, 3.3, 3.1), "SPR", (6.0, -4.0, 9.0), field_of_view_mm=(279.0, 221.1, 147.0)
    ),
}


@pytest.fixture(scope="module", params=GRIDS)
def clean(request: pytest.FixtureRequest) -> Phantom:
    """A patient without noise, blood and fat."""
    return make.make(THIGH, 1, math.inf, grid=GRIDS[request.param], variant="plain", changes=THIGH.lesion)


def wls(gradients: Gradients, signal: NDArray[np.float64], chosen: NDArray[np.bool_]) -> TensorFit:
    table = gradient_table(gradients.bvals[chosen], bvecs=gradients.bvecs[chosen])
    return TensorModel(table, fit_method="WLS").fit(signal[..., chosen])


def fitted(phantom: Phantom, inside: NDArray[np.bool_]) -> TensorFit:
    chosen = np.ones(len(phantom.gradients.bvals), bool)
    return wls(phantom.gradients, phantom.dwi[inside].astype(float), chosen)


def test_noise_free_fit_finds_the_truth_of_every_third_and_every_muscle(clean: Phantom) -> None:
    inside = (clean.whole > 0) & (clean.whole < EDGE)
    fit = fitted(clean, inside)
    thirds = {label.segment: clean.labels[inside] == label.index for label in clean.label_table}
    muscles = {label.segment: clean.whole[inside] == label.index for label in clean.whole_table}
    assert len(clean.truth) == 24 * 3 + 24
    for truth in clean.truth:
        mine = (thirds if truth.segment.segment else muscles)[truth.segment]
        assert mine.sum() == truth.n_voxels
        if truth.segment.region == "gluteus_maximus" and truth.segment.segment == "distal":
            assert truth.n_voxels == 0
            assert math.isnan(truth.mean["fa"])
            continue
        assert truth.n_voxels >= 30, truth.segment
        assert abs(fit.fa[mine].mean() - truth.mean["fa"]) < 1e-3
        for metric in ("md", "ad", "rd"):
            assert getattr(fit, metric)[mine].mean() == pytest.approx(truth.mean[metric], rel=0.002)


def test_truth_is_that_of_the_compartments_and_the_lesion_is_where_it_is_asked_for() -> None:
    lesion = Change("vastus_lateralis", "L", segment="middle", delta_fa=-0.05, delta_md=0.2e-3)
    phantom = make.make(THIGH, 1, math.inf, grid=COARSE, gradients=scheme.shells(1), changes=(lesion,))
    found = {truth.segment: truth.mean for truth in phantom.truth}
    for name, fa, md in (
        ("rectus_femoris", 0.256, 1.60e-3),
        ("gracilis", 0.233, 1.55e-3),
        ("semitendinosus", 0.304, 1.50e-3),
    ):
        mean = found[Segment(name, "R", segment="middle")]
        assert (mean["fa"], mean["md"]) == pytest.approx((fa, md), rel=1e-5)
    changed = found[Segment("vastus_lateralis", "L", segment="middle")]
    assert (changed["fa"], changed["md"]) == pytest.approx((0.206, 1.80e-3), rel=1e-5)
    for side, third in (("R", "middle"), ("L", "distal")):
        assert found[Segment("vastus_lateralis", side, segment=third)]["fa"] == pytest.approx(0.256)
    whole = found[Segment("vastus_lateralis", "L")]["fa"]
    assert 0.22 < whole < 0.245


def test_left_is_at_negative_x_and_muscles_lie_where_they_belong(clean: Phantom) -> None:
    places = {}
    for label in clean.whole_table:
        at = np.argwhere(clean.whole == label.index) @ clean.grid.affine[:3, :3].T + clean.grid.affine[:3, 3]
        assert (at[:, 0] < 0).all() if label.segment.side == "L" else (at[:, 0] > 0).all()
        places[(label.segment.region, label.segment.side)] = at.mean(axis=0)
    for side, sign in (("L", -1), ("R", 1)):
        bone = places[("femur", side)]
        assert places[("rectus_femoris", side)][1] > bone[1] + 30
        assert places[("semitendinosus", side)][1] < bone[1] - 30
        assert (places[("vastus_lateralis", side)][0] - bone[0]) * sign > 20
        assert (places[("gracilis", side)][0] - bone[0]) * sign < -20
        assert places[("gluteus_maximus", side)][2] > bone[2] + 15


def test_muscles_stand_erosion_by_a_voxel() -> None:
    phantom = make.make(THIGH, 4, math.inf, gradients=scheme.shells(1))
    pure = np.where(phantom.whole < EDGE, phantom.whole, 0)
    along = np.array([float(-i) for i in range(phantom.grid.shape[2])])
    assert len(along) == 24
    for label in phantom.whole_table[:26]:
        drawn = np.isin(phantom.whole, (label.index, label.index + EDGE))
        assert (binary_erosion(drawn) & (pure == label.index)).sum() >= 100, label.name


def test_thirds_are_those_of_the_length_of_the_femur(clean: Phantom) -> None:
    world = np.linalg.inv(clean.grid.affine)
    for line in clean.anatomy.lines:
        ends = clean.anatomy.to_world(line.points[[0, -1]].T)
        length = np.linalg.norm(ends[:, 1] - ends[:, 0])
        assert length == pytest.approx(line.s[-1])
        down = (ends[:, 1] - ends[:, 0]) / length
        assert down[2] < -0.9
        for number, third in enumerate(thigh.THIRDS):
            for label in clean.label_table:
                if (label.segment.side, label.segment.segment) != (line.structure.side, third):
                    continue
                index = np.argwhere(clean.labels == label.index)
                at = index @ clean.grid.affine[:3, :3].T + clean.grid.affine[:3, 3]
                part = (at - ends[:, 0]) @ down / length
                if label.index < EDGE and len(part):
                    assert part.min() > number / 3 - (number == 0)
                    assert part.max() < (number + 1) / 3 + (number == 2)
        middle = (world @ [*ends.mean(axis=1), 1])[:3].round().astype(int)
        femur = next(m.index for m in clean.whole_table if m.segment == Segment("femur", line.structure.side))
        assert clean.whole[tuple(middle)] == femur


def test_blood_and_fat_add_what_their_equations_say() -> None:
    made = {
        v: make.make(THIGH, 2, math.inf, grid=COARSE, variant=v) for v in ("plain", "perfused", "fatty", "")
    }
    inside = (made["plain"].whole > 0) & (made["plain"].whole <= 24)
    b = made["plain"].gradients.bvals
    water = made["plain"].dwi[inside].astype(float) / 1000
    blood, fat = np.exp(-b * 29.7e-3), np.exp(-b * tissue.FAT_DIFFUSION)
    expected = {
        "perfused": 0.89 * water + 0.11 * blood,
        "fatty": 0.95 * water + 0.05 * fat,
        "": 0.95 * (0.89 * water + 0.11 * blood) + 0.05 * fat,
    }
    for variant, signal in expected.items():
        assert made[variant].dwi[inside] / 1000 == pytest.approx(signal, abs=1e-5), variant
        assert (made[variant].labels == made["plain"].labels).all()
        assert made[variant].truth[0].mean == made["plain"].truth[0].mean


def test_fitting_from_b_200_recovers_what_perfusion_hides() -> None:
    """Calculated before: b=0 and b=500 give MD 1.69 and FA 0.202 for 1.46 and 0.233."""
    table = scheme.thigh(b500=True)
    assert sorted(set(table.bvals)) == [0, 200, 500, 600]
    assert [(table.bvals == b).sum() for b in (0, 200, 500, 600)] == [4, 12, 15, 30]
    axis = np.array([[0.48], [0.6], [0.64]])
    signal = tissue.attenuation(np.array([0.233]), np.array([1.46e-3]), axis, table, 0.11, 29.7e-3)
    both = wls(table, signal, np.isin(table.bvals, (0, 500)))
    assert (both.md[0] * 1e3, both.fa[0]) == pytest.approx((1.69, 0.202), abs=0.006)
    high = wls(table, signal, table.bvals >= 200)
    assert (high.md[0] * 1e3, high.fa[0]) == pytest.approx((1.46, 0.233), abs=0.006)


def test_fits_at_snr_40_agree_with_what_is_expected() -> None:
    phantom = make.make(THIGH, 3, 40.0, grid=COARSE)
    used = phantom.gradients.bvals >= 200
    labels = [
        label.index
        for label in phantom.label_table
        if label.index < EDGE and label.segment.region in ("gracilis", "adductor_magnus")
    ]
    inside = np.isin(phantom.labels, labels)
    assert inside.sum() >= 200
    fit = wls(phantom.gradients, phantom.dwi[inside].astype(float), used)
    means = make.expected(phantom, labels, used=used, n=6000)
    assert fit.fa.mean() == pytest.approx(means.fa, abs=0.01)
    assert fit.md.mean() == pytest.approx(means.md, rel=0.01)


def test_fibres_are_oblique_and_mirrored(clean: Phantom) -> None:
    """So that a flipped axis of the gradient table shows."""
    for name, muscle in MUSCLES.items():
        axes = {}
        for side in ("L", "R"):
            index = next(m.index for m in clean.whole_table if m.segment == Segment(name, side))
            axes[side] = fitted(clean, clean.whole == index).evecs[..., 0]
        lateral, forward, up = muscle.fibre
        wanted = np.array([lateral, forward, up]) / np.linalg.norm(muscle.fibre)
        for found in (axes["R"], axes["L"] * [-1, 1, 1]):
            middle = (found * np.sign(found @ wanted)[:, None]).mean(axis=0)
            assert middle @ wanted > np.cos(np.deg2rad(9.0)) * np.linalg.norm(middle), name
            assert np.linalg.norm(middle) < 0.995, name  # they run together, not side by side
    slanted = [np.hypot(*m.fibre[:2]) / np.linalg.norm(m.fibre) for m in MUSCLES.values()]
    assert np.mean(slanted) > 0.3


def test_fat_around_the_muscles_has_five_percent_of_its_signal() -> None:
    at_te = math.exp(-scheme.THIGH_TE_MS / 80.0)
    assert thigh.RIM.brightness(scheme.THIGH_TE_MS) == pytest.approx(0.05 * at_te)
    assert thigh.RIM.brightness_tse(scheme.THIGH_TE_MS) == pytest.approx(at_te)


def test_same_seed_same_bits() -> None:
    one, again = (make.make(THIGH, 5, grid=COARSE, gradients=scheme.shells(2)) for _ in range(2))
    assert one.dwi.tobytes() == again.dwi.tobytes()
    assert one.whole.tobytes() == again.whole.tobytes()
    other = make.make(THIGH, 6, grid=COARSE, gradients=scheme.shells(2))
    assert (one.whole != other.whole).any()
