"""The lumbar phantom: what a fit finds in it is the truth that it claims, wherever its voxels lie."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorFit, TensorModel
from numpy.typing import NDArray

from somite.errors import ConfigError
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import anatomy, lumbar, make, noise, paint, roots, scheme, tissue
from somite.phantom.lumbar import lumbar_grid, make_lumbar
from somite.phantom.make import Phantom
from somite.phantom.scan import drift
from somite.phantom.truth import segment_truth
from somite.segments import Label, Segment

GRIDS = {
    "default": lumbar_grid(),
    "permuted and oblique": lumbar_grid(
        (1.3, 1.7, 1.5), axes="SPR", tilt_deg=(8.0, -6.0, 15.0), field_of_view_mm=(112.0, 102.0, 66.0)
    ),
    "right-handed": lumbar_grid(1.6, "RAS", (0.0, 0.0, 0.0), (108.0, 96.0, 60.0)),
}
B0_ONLY = Gradients(np.zeros(1), np.zeros((1, 3)))
COARSE = lumbar_grid(3.0)
SNUG = lumbar_grid(field_of_view_mm=(108.0, 96.0, 60.0))


@pytest.fixture(scope="module", params=GRIDS)
def clean(request: pytest.FixtureRequest) -> Phantom:
    """A patient without noise."""
    return make_lumbar(2, math.inf, grid=GRIDS[request.param], patient=True)


@pytest.fixture(scope="module")
def noisy() -> list[Phantom]:
    return [make_lumbar(seed, 25.0, grid=SNUG) for seed in (1, 2)]


def dipy_wls(phantom: Phantom, inside: NDArray[np.bool_]) -> TensorFit:
    table = gradient_table(phantom.gradients.bvals, bvecs=phantom.gradients.bvecs)
    return TensorModel(table, fit_method="WLS").fit(phantom.dwi[inside].astype(np.float64))


def pure(phantom: Phantom) -> NDArray[np.bool_]:
    return (phantom.labels > 0) & (phantom.labels < anatomy.EDGE)


def world(grid: Grid, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.argwhere(inside) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def of_region(phantom: Phantom, region: str, **parts: str) -> Iterable[Label]:
    for label in phantom.label_table:
        if label.segment.region == region and all(getattr(label.segment, k) == v for k, v in parts.items()):
            yield label


def test_noise_free_fit_finds_the_truth_of_every_segment(clean: Phantom) -> None:
    inside = pure(clean)
    fit = dipy_wls(clean, inside)
    of = clean.labels[inside]
    assert len(clean.truth) == 54
    for index, truth in enumerate(clean.truth, start=1):
        mine = of == index
        assert mine.sum() == truth.n_voxels
        assert abs(fit.fa[mine].mean() - truth.mean["fa"]) < 0.002, truth.segment
        for metric in ("md", "ad", "rd"):
            assert getattr(fit, metric)[mine].mean() == pytest.approx(truth.mean[metric], rel=0.01)
        assert fit.fa[mine].std(ddof=1) == pytest.approx(truth.sd["fa"], abs=0.002)


def test_every_segment_has_voxels_to_measure(clean: Phantom) -> None:
    at_least = {"nerve_root": 10, "disc": 50, "canal": 100}
    for truth in clean.truth:
        assert truth.n_voxels >= at_least.get(truth.segment.region, 300), truth.segment


def test_truth_is_that_of_the_design() -> None:
    control, patient = (
        make_lumbar(2, math.inf, grid=SNUG, gradients=B0_ONLY, patient=p) for p in (False, True)
    )
    by_segment = [{t.segment: t.mean for t in p.truth} for p in (control, patient)]
    healthy, lesioned = by_segment
    plateau = Segment("nerve_root", "R", "L5", "extraforaminal")
    assert (healthy[plateau]["fa"], healthy[plateau]["md"]) == pytest.approx((0.40, 1.3e-3))
    assert 0.25 < healthy[Segment("nerve_root", "L", "L4", "intraspinal")]["fa"] < 0.35
    assert healthy[Segment("canal", "midline", "L4-L5")]["fa"] == 0
    assert healthy[Segment("canal", "midline", "L4-L5")]["md"] == pytest.approx(2.72e-3)
    assert healthy[Segment("disc", "midline", "L4-L5", "np")]["fa"] == pytest.approx(0.12)
    assert healthy[Segment("disc", "midline", "L4-L5", "af_posterior")]["md"] == pytest.approx(1.0e-3)
    for segment, mean in lesioned.items():
        if (segment.side, segment.level) == ("R", "L5"):
            assert (mean["fa"], mean["md"]) == pytest.approx((0.26, 1.79e-3))
        else:
            assert mean == healthy[segment]


def test_fa_rises_and_md_falls_over_15_mm_from_the_dural_exit() -> None:
    fa, md = roots.profile(np.array([0.0, 7.5, 15.0, 30.0]))
    assert fa == pytest.approx([0.25, 0.325, 0.40, 0.40])
    assert md == pytest.approx([1.6e-3, 1.45e-3, 1.3e-3, 1.3e-3])


def test_a_root_turns_from_its_first_direction_to_its_last_and_ends_flat() -> None:
    root = roots.grow((1.0, 2.0, 3.0), (1.0, 0.0, -2.0), (2.0, 1.0, -1.0), drg_diameter_mm=7.0)
    assert root.points[0] == pytest.approx([1.0, 2.0, 3.0])
    assert root.tangents[0] == pytest.approx(np.array([1.0, 0.0, -2.0]) / math.sqrt(5))
    assert root.tangents[-1] == pytest.approx(np.array([2.0, 1.0, -1.0]) / math.sqrt(6))
    steps = np.linalg.norm(np.diff(root.points, axis=0), axis=1)
    assert steps.sum() == pytest.approx(30.0, abs=0.01)
    before, after = (root.points[0] + d * root.tangents[0] for d in (-0.2, 0.2))
    beside = root.points[20] + 2.6 * np.cross(root.tangents[20], [0.0, 1.0, 0.0])
    assert root.nearest(np.stack([before, after, beside], axis=1))[1].tolist() == [False, True, False]


def test_fa_of_mean_eigenvalues_is_not_the_mean_fa() -> None:
    fa, md = np.array([0.1, 0.7]), np.array([1e-3, 1e-3])
    truth = segment_truth(Segment("x"), fa, md)
    values = np.array([truth.mean["ad"], truth.mean["rd"], truth.mean["rd"]])
    by_hand = math.sqrt(1.5 * ((values - values.mean()) ** 2).sum() / (values**2).sum())
    assert truth.mean["fa_of_mean_eigenvalues"] == pytest.approx(by_hand)
    assert truth.mean["fa_of_mean_eigenvalues"] > truth.mean["fa"] + 0.005


def test_right_is_at_positive_x_and_levels_descend(clean: Phantom) -> None:
    for label in clean.label_table:
        if label.segment.side not in ("L", "R"):
            continue
        x = world(clean.grid, clean.labels == label.index)[:, 0]
        assert (x > 0).all() if label.segment.side == "R" else (x < 0).all(), label.name
    for region, levels in (("nerve_root", lumbar.NERVE_LEVELS), ("canal", lumbar.DISC_LEVELS)):
        heights = [
            world(clean.grid, np.isin(clean.labels, [m.index for m in of_region(clean, region, level=v)]))[
                :, 2
            ]
            for v in levels
        ]
        assert all(np.diff([h.mean() for h in heights]) < -10)


def test_roots_run_down_outward_and_forward_and_their_fibres_along_them(clean: Phantom) -> None:
    zones = list(roots.ZONES)
    for side, sign in anatomy.SIDES.items():
        for level in lumbar.NERVE_LEVELS[::2]:
            places = []
            for zone in zones:
                (label,) = of_region(clean, "nerve_root", side=side, level=level, segment=zone)
                places.append(world(clean.grid, clean.labels == label.index).mean(axis=0))
            step = places[2] - places[1]
            assert step[0] * sign > 3
            assert step[1] > 1
            assert step[2] < -2
            axes = dipy_wls(clean, clean.labels == label.index).evecs[..., 0]
            along = np.abs(axes @ (step / np.linalg.norm(step)))
            assert along.min() > 0.96, label.name


def test_fibres_run_around_the_disc_and_up_and_inward_in_the_multifidus(clean: Phantom) -> None:
    (front,) = of_region(clean, "disc", level="L4-L5", segment="af_anterior")
    inside = clean.labels == front.index
    x = world(clean.grid, inside)[:, 0]
    axes = dipy_wls(clean, inside).evecs[..., 0]
    assert np.abs(axes[np.abs(x) < 3, 0]).min() > 0.95
    assert np.abs(axes[np.abs(x) > 20, 1]).mean() > 0.85
    for side, sign in anatomy.SIDES.items():
        (muscle,) = of_region(clean, "multifidus", side=side, level="L4-L5")
        axis = dipy_wls(clean, clean.labels == muscle.index).evecs[0, :, 0]
        assert axis[2] * axis[0] * sign < -0.1


def test_drg_is_the_widest_part_of_a_root() -> None:
    s = np.linspace(0, roots.LENGTH_MM, 301)
    width = 2 * roots.radius(s, 7.0)
    assert width.max() == pytest.approx(7.0, abs=0.01)
    low, high = roots.ZONES["foraminal_drg"]
    assert low < s[width.argmax()] < high
    assert (width[(s < low) | (s > high)] == 5.0).all()


def test_partial_volume_has_labels_of_its_own(clean: Phantom) -> None:
    indices = [label.index for label in clean.label_table]
    assert len(set(indices)) == len(indices) == 108
    assert set(np.unique(clean.labels)) == {0, *indices}
    edges = [label for label in clean.label_table if label.index > anatomy.EDGE]
    assert {label.segment.region for label in edges} == {"partial_volume"}
    # A pure voxel's signal is that of the tissue: all canal voxels alike, edges between canal and fat.
    b0 = clean.dwi[..., 0]
    canal = [label.index for label in of_region(clean, "canal")]
    csf = make.REFERENCE_SIGNAL * tissue.CSF.brightness(73.7) / tissue.NERVE.brightness(73.7)
    assert np.ptp(b0[np.isin(clean.labels, canal)]) < 0.01
    assert b0[np.isin(clean.labels, canal)].mean() == pytest.approx(csf, rel=1e-5)
    edge = b0[np.isin(clean.labels, np.array(canal) + anatomy.EDGE)]
    assert edge.min() < 0.5 * csf


def test_csf_is_about_five_times_brighter_than_nerve() -> None:
    ratio = tissue.CSF.brightness(scheme.TE_MS) / tissue.NERVE.brightness(scheme.TE_MS)
    assert ratio == pytest.approx(2 * math.exp(-73.7 / 1500) / math.exp(-73.7 / 80))
    assert 4.5 < ratio < 5.2


def test_a_voxel_holds_the_share_of_a_shape() -> None:
    ball = anatomy.Anatomy(anatomy.rigid((2.0, -1.0, 0.5), (10.0, 20.0, 30.0)))
    ball.ellipsoid(ball.piece(tissue.NERVE), (0, 0, 0), (6.0, 8.0, 5.0))
    grid = lumbar_grid((1.3, 1.7, 2.1), axes="PSL", tilt_deg=(5, 5, 5), field_of_view_mm=(30, 40, 30))
    painting = paint.paint(ball, grid, per_axis=3)
    share = paint.average(painting, np.array([[0.0], [1.0]]), np.zeros((0, 1)))
    assert share.sum() * grid.voxel_mm3 == pytest.approx(4 / 3 * np.pi * 6 * 8 * 5, rel=0.01)
    centre = (share.reshape(-1, 1) * world(grid, np.ones(grid.shape, bool))).sum(axis=0) / share.sum()
    assert centre == pytest.approx([2.0, -1.0, 0.5], abs=0.05)


def test_same_seed_same_bits_and_noise_apart_from_anatomy() -> None:
    one, again, other = (make_lumbar(s, 25.0, grid=COARSE) for s in (3, 3, 4))
    assert one.dwi.tobytes() == again.dwi.tobytes()
    assert one.labels.tobytes() == again.labels.tobytes()
    assert (one.labels != other.labels).any()
    clean = make_lumbar(3, math.inf, grid=COARSE)
    assert (one.labels == clean.labels).all()
    assert (one.fa == clean.fa).all()
    assert np.abs(one.dwi - clean.dwi).max() < 8 * one.sigma


def test_noise_is_rician_of_the_snr_of_nerve(noisy: list[Phantom]) -> None:
    phantom = noisy[0]
    assert phantom.sigma == pytest.approx(make.REFERENCE_SIGNAL / 25)
    air = np.zeros((100, 400), np.float32)
    noise.add_rician(air, phantom.sigma, np.random.default_rng(0))
    assert air.mean() == pytest.approx(phantom.sigma * math.sqrt(math.pi / 2), rel=0.01)
    nerve = [label.index for label in of_region(phantom, "nerve_root", segment="extraforaminal")]
    b0 = phantom.dwi[np.isin(phantom.labels, nerve)][:, phantom.gradients.is_b0()]
    assert b0.mean() == pytest.approx(1000, rel=0.01)
    assert b0.std(axis=1, ddof=1).mean() == pytest.approx(0.921 * phantom.sigma, rel=0.08)


@pytest.mark.parametrize(
    ("fa", "md", "at_15", "at_25"),
    [
        (0.402, 1.3e-3, 0.410, 0.405),
        (0.26, 1.79e-3, 0.279, 0.266),
        (0.25, 1.6e-3, 0.271, None),
        (0.12, 1.6e-3, 0.174, 0.142),
    ],
)
def test_expected_values_are_those_calculated_before(
    fa: float, md: float, at_15: float, at_25: float | None
) -> None:
    table = scheme.lumbar()
    assert noise.expected(fa, md, math.inf, table, n=200).fa == pytest.approx(fa, abs=1e-4)
    assert noise.expected(fa, md, 15.0, table, n=8000).fa == pytest.approx(at_15, abs=0.002)
    if at_25 is not None:
        means = noise.expected(fa, md, 25.0, table, n=8000)
        assert means.fa == pytest.approx(at_25, abs=0.002)
        assert means.md == pytest.approx(md, rel=0.003)


def test_expected_fa_of_csf_is_small_for_it_is_bright() -> None:
    ratio = tissue.CSF.brightness(scheme.TE_MS) / tissue.NERVE.brightness(scheme.TE_MS)
    for snr, fa in ((15.0, 0.04), (25.0, 0.024)):
        assert noise.expected(0.0, 2.72e-3, snr * ratio, scheme.lumbar(), n=4000).fa == pytest.approx(
            fa, abs=0.002
        )


def test_expected_is_what_dipy_fits_to_the_same_tissue() -> None:
    table = scheme.lumbar()
    rng = np.random.default_rng(7)
    axes = rng.standard_normal((3, 3000))
    signal = 25 * tissue.attenuation(
        np.full(3000, 0.4), np.full(3000, 1.3e-3), axes / np.linalg.norm(axes, axis=0), table
    )
    signal = np.abs(signal + rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    fit = TensorModel(gradient_table(table.bvals, bvecs=table.bvecs), fit_method="WLS").fit(signal)
    means = noise.expected(0.4, 1.3e-3, 25.0, table, n=3000)
    assert means.fa == pytest.approx(fit.fa.mean(), abs=0.004)
    assert (means.md, means.ad, means.rd) == pytest.approx(
        (fit.md.mean(), fit.ad.mean(), fit.rd.mean()), rel=0.01
    )


def test_fits_at_snr_25_agree_with_what_is_expected(noisy: list[Phantom]) -> None:
    """Pooled over seeds to at least 200 pure voxels: FA within 0.01, MD within 1 % (CSF 3 %)."""
    kinds = {
        "nerve": [label.index for label in of_region(noisy[0], "nerve_root", segment="extraforaminal")],
        "drg": [label.index for label in of_region(noisy[0], "nerve_root", segment="foraminal_drg")],
        "intraspinal": [label.index for label in of_region(noisy[0], "nerve_root", segment="intraspinal")],
        "canal": [label.index for label in of_region(noisy[0], "canal")],
        "nucleus": [label.index for label in of_region(noisy[0], "disc", segment="np")],
        "annulus": [label.index for label in of_region(noisy[0], "disc", segment="af_anterior")],
    }
    for kind, indices in kinds.items():
        fits = [dipy_wls(p, np.isin(p.labels, indices)) for p in noisy]
        fa = np.concatenate([fit.fa for fit in fits])
        md = np.concatenate([fit.md for fit in fits])
        assert len(fa) >= 200
        means = make.expected(noisy[0], indices, n=6000)
        assert fa.mean() == pytest.approx(means.fa, abs=0.01), kind
        assert md.mean() == pytest.approx(means.md, rel=0.03 if kind == "canal" else 0.01), kind


def test_scheme_is_four_b0_and_33_well_spread_directions() -> None:
    table = scheme.lumbar()
    assert (table.bvals == 0).sum() == 4
    assert (table.bvals == 800).sum() == 33
    assert table.bvals[0] == 0
    axes = table.bvecs[table.bvals > 0]
    assert np.linalg.norm(axes, axis=1) == pytest.approx(np.ones(33))
    cosine = np.abs(axes @ axes.T) - 2 * np.eye(33)
    assert np.rad2deg(np.arccos(cosine.max(axis=1))).min() > 22
    # Directions on one hemisphere only would let eddy currents and drift pass for diffusion.
    assert 10 < (axes[:, 2] > 0).sum() < 23


def test_grid_is_that_of_the_protocol_and_of_any_storage_order() -> None:
    grid = lumbar_grid()
    assert grid.shape == (96, 96, 40)
    assert grid.voxel_mm == pytest.approx([1.5, 1.5, 1.5])
    assert np.linalg.det(grid.affine[:3, :3]) < 0
    turned = GRIDS["permuted and oblique"]
    assert turned.shape == (51, 60, 75)
    centre = turned.affine @ [*((np.array(turned.shape) - 1) / 2), 1]
    assert centre[:3] == pytest.approx([0, 6, 0])
    assert turned.affine[2, 0] > 0.9 * 1.3  # first stored axis: superior


def test_motion_by_a_voxel_shifts_the_image_by_a_voxel() -> None:
    still = Gradients(np.zeros(2), np.zeros((2, 3)))
    step = COARSE.affine[:3, 1]
    motion = np.stack([np.eye(4), np.eye(4)])
    motion[1, :3, 3] = step
    phantom = make_lumbar(1, math.inf, grid=COARSE, gradients=still, motion=motion)
    first, second = phantom.dwi[..., 0], phantom.dwi[..., 1]
    assert second[:, 1:] == pytest.approx(first[:, :-1], rel=1e-4, abs=0.01)
    assert (phantom.labels == make_lumbar(1, math.inf, grid=COARSE, gradients=B0_ONLY).labels).all()


def test_motion_turns_the_fibres_with_the_body() -> None:
    """Body, voxels and gradient turned alike give the same image; the gradient left behind does not."""
    turn = anatomy.rigid((3.0, -2.0, 1.0), (10.0, -7.0, 12.0))
    direction = np.array([[0.6, 0.0, 0.8]])
    still = make_lumbar(1, math.inf, grid=COARSE, gradients=Gradients(np.array([800.0]), direction))
    moved_grid = Grid(COARSE.shape, turn @ COARSE.affine)

    def moved(g: NDArray[np.float64]) -> NDArray[np.float32]:
        table = Gradients(np.array([800.0]), g)
        return make_lumbar(1, math.inf, grid=moved_grid, gradients=table, motion=turn[None]).dwi

    assert moved(direction @ turn[:3, :3].T) == pytest.approx(still.dwi, rel=1e-3, abs=0.01)
    assert np.abs(moved(direction) - still.dwi).max() > 10


def test_drift_starts_at_rest_and_stays_within_bounds() -> None:
    motion = drift(37, 1, shift_mm=1.5, turn_deg=0.5)
    assert motion[0] == pytest.approx(np.eye(4))
    assert np.abs(motion[:, :3, 3]).max() == pytest.approx(1.5)
    for pose in motion:
        assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)
    angles = np.rad2deg(np.arccos((np.trace(motion[:, :3, :3], axis1=1, axis2=2) - 1) / 2))
    assert 0.4 < angles.max() < 0.9


@pytest.mark.parametrize("snr", [0.0, -3.0, math.nan])
def test_an_snr_of_nothing_is_refused(snr: float) -> None:
    with pytest.raises(ConfigError) as raised:
        make_lumbar(1, snr, grid=COARSE)
    assert [problem.code for problem in raised.value.problems] == ["SNR"]
