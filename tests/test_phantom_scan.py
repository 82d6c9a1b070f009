"""What goes wrong in a scan of a phantom, the labels drawn on its T2w image, and its whole structures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from somite import images
from somite.columns import undistort
from somite.errors import ConfigError
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import lumbar, make, paint, protocol, scan, scheme, still
from somite.phantom.anatomy import EDGE
from somite.phantom.dataset import write_dataset
from somite.phantom.lumbar import lumbar_grid
from somite.phantom.scan import Scan
from somite.segments import Segment, read_label_table

LUMBAR = protocol.find("lumbar")
COARSE = lumbar_grid(3.0)
B0 = scheme.shells(1)
FEW = scheme.shells(1, (800.0, 6))


def world(grid: Grid, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.argwhere(inside) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("axes", ["LAS", "RPI", "PSR"])
def test_a_distorted_image_and_its_reverse_come_back_by_the_true_displacement(axes: str) -> None:
    grid = lumbar_grid(2.0, axes, field_of_view_mm=(96.0, 120.0, 30.0))
    true = make.make(LUMBAR, 1, math.inf, grid=grid, gradients=B0)
    bent = make.make(LUMBAR, 1, math.inf, grid=grid, gradients=B0, faults=Scan(distortion_voxels=3.0))
    assert bent.displacement is not None
    assert bent.reverse_b0 is not None
    assert np.abs(bent.displacement).max() == pytest.approx(3 * 2.0, rel=1e-3)
    axis, sign = scan.phase_axis(grid)
    voxels = bent.displacement / 2.0 * sign
    inner = true.dwi[..., 0] > 50
    apart = {}
    for name, image, polarity in (("series", bent.dwi[..., 0], 1), ("reverse", bent.reverse_b0, -1)):
        back = undistort(image, polarity * voxels, axis)
        before, after = (np.abs(one - true.dwi[..., 0])[inner].mean() for one in (image, back))
        assert after < 0.25 * before, name
        apart[name] = before
        # Signal is kept along each line.
        lines = image.sum(axis=axis), true.dwi[..., 0].sum(axis=axis)
        assert lines[0].sum() == pytest.approx(lines[1].sum(), rel=0.01)
    assert min(apart.values()) > 50
    assert (bent.labels == true.labels).all()
    assert repr(bent.truth) == repr(true.truth)


def test_a_scale_by_eddy_currents_moves_what_lies_off_centre() -> None:
    eddy = np.array([1.0, 0.0, 0.02, 0.0])
    shift = scan.shift(COARSE, eddy=eddy)
    at = scan.centres(COARSE)
    axis, sign = scan.phase_axis(COARSE)
    # Seen at y - (1 + 0.02 (y - middle)), as posterior is at -y: it lies further to the front.
    wanted = (1.0 + 0.02 * (at[1] - at[1].mean())) / 3.0
    assert -sign * shift.centre == pytest.approx(wanted)
    assert shift.axis == axis
    assert shift.density == pytest.approx(np.full(at.shape[1], 1.02), abs=1e-4)


def test_eddy_currents_follow_the_gradients_and_b0_has_none() -> None:
    table = scheme.lumbar()
    terms = scan.eddies(table, 1.5, (1, 1))
    weighted = table.bvals > 0
    assert (terms[~weighted] == 0).all()
    assert np.abs(terms[:, 1:]).max(axis=0) == pytest.approx([0.015] * 3)
    assert np.abs(terms[:, 0]).max() == pytest.approx(1.5)
    fit = np.linalg.lstsq(table.bvecs[weighted], terms[weighted], rcond=None)[0]
    left = terms[weighted] - table.bvecs[weighted] @ fit
    assert left.var() < 0.2 * terms[weighted].var()


def test_lost_slices_are_where_the_truth_says_and_keep_a_tenth() -> None:
    kept, lost = (
        make.make(LUMBAR, 1, math.inf, grid=COARSE, gradients=FEW, faults=faults)
        for faults in (Scan(), Scan(dropouts=2))
    )
    assert len(lost.lost) == 2
    for volume, place in lost.lost:
        assert FEW.bvals[volume] > 0
        whole, rest = kept.dwi[:, :, place, volume], lost.dwi[:, :, place, volume]
        assert rest == pytest.approx(0.1 * whole, rel=1e-5)
    same = np.ones(lost.dwi.shape, bool)
    for volume, place in lost.lost:
        same[:, :, place, volume] = False
    assert (lost.dwi[same] == kept.dwi[same]).all()


def test_motion_and_distortion_go_together() -> None:
    """The field moves with the body: a body and a grid that move alike give the same image."""
    turn = np.eye(4)
    turn[:3, 3] = COARSE.affine[:3, 1] * 2
    body = lumbar.build(np.random.default_rng([1, 0]))
    field = scan.Field.around(COARSE, 6.0)
    moved_grid = Grid(COARSE.shape, turn @ COARSE.affine)
    rest = scan.shift(COARSE, field=field)
    moved = scan.shift(moved_grid, field=field, pose=turn)
    assert moved.centre == pytest.approx(rest.centre, abs=1e-9)
    one = paint.paint(body, COARSE, 2, rest)
    other = paint.paint(body.moved(turn), moved_grid, 2, moved)
    assert (one.first == other.first).mean() > 0.999


@pytest.fixture(scope="module")
def bad_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A participant with everything wrong, labels on the T2w image."""
    return write_dataset(
        tmp_path_factory.mktemp("bad") / "cohort",
        1,
        grid=lumbar_grid(4.0),
        scheme=FEW,
        labels="anatomy",
        faults=scan.ALL_FAULTS,
    )


def test_a_bad_scan_is_written_with_all_that_is_true_of_it(bad_scan: Path) -> None:
    truth = bad_scan / "derivatives" / "truth"
    assert {p.name.removeprefix("sub-01_") for p in truth.glob("sub-01*")} == {
        "desc-segments_dseg.nii.gz",
        "desc-segments_dseg.tsv",
        "landmarks.tsv",
        "centrelines.tsv",
        "motion.tsv",
        "displacement.nii.gz",
        "eddy.tsv",
        "lost.tsv",
        "from-anat_to-dwi.tsv",
    }
    lost = pd.read_csv(truth / "sub-01_lost.tsv", sep="\t")
    assert list(lost.columns) == ["volume", "slice"]
    assert len(lost) == 2
    main, reverse = (
        json.loads((bad_scan / "sub-01" / name).read_text())
        for name in ("dwi/sub-01_dwi.json", "fmap/sub-01_dir-PA_epi.json")
    )
    assert (main["PhaseEncodingDirection"], reverse["PhaseEncodingDirection"]) == ("j-", "j")
    assert reverse["IntendedFor"] == "bids::sub-01/dwi/sub-01_dwi.nii.gz"
    assert main["TotalReadoutTime"] == reverse["TotalReadoutTime"]
    text = (bad_scan / "README").read_text()
    for words in ("moves during", "distorted along", "Eddy currents", "lost their signal"):
        assert words in text


def test_a_bad_scan_is_the_same_for_a_seed(bad_scan: Path, tmp_path: Path) -> None:
    again = write_dataset(
        tmp_path / "again", 1, grid=lumbar_grid(4.0), scheme=FEW, labels="anatomy", faults=scan.ALL_FAULTS
    )
    for path in again.rglob("sub-01*"):
        if path.is_file():
            assert path.read_bytes() == (bad_scan / path.relative_to(again)).read_bytes(), path


def test_labels_on_the_t2w_image_come_to_the_series_by_the_true_transform(bad_scan: Path) -> None:
    stem = bad_scan / "derivatives/labels/sub-01/anat/sub-01_space-T2w_seg-lumbar_desc-manual_dseg"
    drawn, grid = images.read_labels(stem.with_name(f"{stem.name}.nii.gz"))
    assert grid.voxel_mm == pytest.approx([0.9, 0.9, 3.0])
    table = read_label_table(stem.with_name(f"{stem.name}.tsv"))
    assert [label.segment for label in table] == list(lumbar.wholes())
    rows = np.loadtxt(bad_scan / "derivatives/truth/sub-01_from-anat_to-dwi.tsv", skiprows=1).reshape(3, 4)
    angle = np.rad2deg(np.arccos((np.trace(rows[:, :3]) - 1) / 2))
    assert angle == pytest.approx(3.0, abs=1e-3)
    body = lumbar.build(np.random.default_rng([1, 1, 0]))
    fine = lumbar_grid(1.5)
    painting = paint.paint(body, fine)
    true = paint.drawn(painting, [piece.whole for piece in body.pieces])
    middle = np.array([0.0, 6.0, 0.0])
    assert np.linalg.norm(rows[:, :3] @ middle + rows[:, 3] - middle) == pytest.approx(5.0, abs=0.5)
    for label in table:
        if label.segment.region in ("disc", "nerve_root") and label.segment.level not in ("L3", "S1"):
            there = world(grid, drawn == label.index) @ rows[:, :3].T + rows[:, 3]
            here = world(fine, true == label.index)
            assert there.mean(axis=0) == pytest.approx(here.mean(axis=0), abs=0.8), label.name


def test_the_t2w_image_has_the_contrast_of_a_turbo_spin_echo() -> None:
    phantom = make.make(LUMBAR, 1, math.inf, grid=COARSE, gradients=B0)
    assert LUMBAR.anatomical is not None
    made = still.make_still(LUMBAR, LUMBAR.anatomical, phantom, 1)
    names = {label.segment.region: label.index for label in phantom.anatomy.wholes}
    bright = {name: np.median(made.image[made.labels == index]) for name, index in names.items()}
    assert bright["canal"] > 3 * bright["disc"]
    assert bright["nerve_root"] > 2 * bright["multifidus"]
    around = np.percentile(made.image, 60)
    assert around > bright["multifidus"]  # fat is not suppressed


def test_whole_structures_hold_their_segments(bad_scan: Path) -> None:
    phantom = make.make(LUMBAR, 2, math.inf, grid=COARSE, gradients=B0)
    whole = {label.segment: label.index for label in phantom.whole_table}
    for label in phantom.label_table:
        if label.index < EDGE:
            s = label.segment
            level = s.level if s.region in ("disc", "nerve_root") else ""
            inside = phantom.whole[phantom.labels == label.index]
            assert (inside == whole[Segment(s.region, s.side, level)]).all(), label.name
    # Between the slabs the muscles go on.
    muscle = whole[Segment("psoas_major", "R")]
    measured = phantom.labels[phantom.whole == muscle]
    assert (measured == 0).sum() > 100


def test_a_root_leaves_the_canal_at_its_landmark(bad_scan: Path) -> None:
    truth = bad_scan / "derivatives" / "truth"
    marks = pd.read_csv(truth / "sub-01_landmarks.tsv", sep="\t")
    lines = pd.read_csv(truth / "sub-01_centrelines.tsv", sep="\t")
    assert len(marks) == 8
    body = lumbar.Build.draw(np.random.default_rng([1, 1, 0]))
    for mark in marks.itertuples():
        assert mark.name == "dural_exit"
        assert (mark.x > 0) == (mark.side == "R")
        line = lines[(lines.side == mark.side) & (lines.level == mark.level)]
        assert line[["x", "y", "z"]].to_numpy()[0] == pytest.approx([mark.x, mark.y, mark.z])
        steps = np.linalg.norm(np.diff(line[["x", "y", "z"]], axis=0), axis=1)
        assert steps.sum() == pytest.approx(30.0, abs=0.05)
        assert line.s_mm.iloc[-1] == pytest.approx(30.0, abs=0.05)
        own = np.linalg.inv(body.pose) @ [mark.x, mark.y, mark.z, 1.0]
        assert math.hypot(own[0], own[1] - lumbar.CANAL_Y) == pytest.approx(body.canal_radius, abs=1e-6)


@pytest.mark.parametrize(("variant", "nerve", "disc"), [("L6", "L6", "L6-S1"), ("four", "L4", "L4-S1")])
def test_transitional_anatomy_is_named(variant: str, nerve: str, disc: str) -> None:
    phantom = make.make(LUMBAR, 1, math.inf, grid=COARSE, gradients=B0, variant=variant)
    ordinary = make.make(LUMBAR, 1, math.inf, grid=COARSE, gradients=B0)
    found = {label.segment for label in phantom.label_table}
    assert Segment("nerve_root", "L", nerve, "foraminal_drg") in found
    assert Segment("canal", "midline", disc) in found
    assert not any(s.level in ("L5", "L5-S1") for s in found) or variant == "L6"
    assert (phantom.labels == ordinary.labels).all()
    with pytest.raises(ConfigError) as raised:
        make.make(LUMBAR, 1, grid=COARSE, variant="L7")
    assert [problem.code for problem in raised.value.problems] == ["VARIANT"]


def test_truth_does_not_depend_on_the_faults_of_the_scan() -> None:
    bad = make.make(
        LUMBAR,
        1,
        25.0,
        grid=lumbar_grid(4.0),
        gradients=Gradients(FEW.bvals, FEW.bvecs),
        faults=scan.ALL_FAULTS,
    )
    good = make.make(LUMBAR, 1, math.inf, grid=lumbar_grid(4.0), gradients=B0)
    assert repr(bad.truth) == repr(good.truth)
    assert bad.moves
    assert bad.motion == pytest.approx(scan.drift(7, 1, 1.0, 0.5))


def test_a_single_slice_of_odd_size_is_made_with_all_faults() -> None:
    grid = lumbar_grid((3.1, 2.9, 6.0), "PLS", (10.0, -5.0, 20.0), field_of_view_mm=(99.0, 101.0, 6.0))
    assert grid.shape[2] == 1
    phantom = make.make(LUMBAR, 1, math.inf, grid=grid, gradients=FEW, faults=scan.ALL_FAULTS)
    assert np.isfinite(phantom.dwi).all()
    assert len(phantom.lost) == 2
    assert {place for _, place in phantom.lost} == {0}
