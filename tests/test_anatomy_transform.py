"""Labels drawn on a T2w image arrive in the space of the diffusion series."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from spine import Spine, spine

from somite import images, itk
from somite.errors import DatasetError
from somite.interfaces import anatomy_transform, transfer
from somite.position import Aligned
from somite.registry import Context
from somite.selection import read_flags


def files(folder: Path, body: Spine) -> dict[str, Path]:
    (folder / "dwi.bval").write_text("0 800\n")
    dwi = np.stack([body.b0, 0.4 * body.b0], -1)
    about = [{"phase_encoding_direction": "j-"}] * 2
    (folder / "scan.json").write_text(json.dumps({"volumes": about}))
    return {
        "dwi": images.write(folder / "dwi.nii", dwi, body.grid),
        "bval": folder / "dwi.bval",
        "anatomy": images.write(folder / "T2w.nii", body.t2w, body.t2w_grid),
        "scan": folder / "scan.json",
        "field": images.write(folder / "field.nii", np.zeros(body.grid.shape, np.float32), body.grid),
    }


def run(folder: Path, given: dict[str, Path], **options: object) -> tuple[Path, Context]:
    context = Context(folder / str(options.get("method", "rigid")))
    context.folder.mkdir()
    config = anatomy_transform.Config(**options)
    return anatomy_transform.run(**given, config=config, context=context)[0], context


def centreline_mm(body: Spine, labels: np.ndarray) -> np.ndarray:
    """How far each root's label lies beside its true centreline in the series, (8,): the mean over its length
    of the distance to the middle of the label in the plane across."""
    indices = np.argwhere(labels > 0)
    where = indices @ body.grid.affine[:3, :3].T + body.grid.affine[:3, 3]
    mine = labels[tuple(indices.T)]
    errors = []
    for number, (points, _) in enumerate(body.centrelines, start=1):
        true, voxels = body.distorted(points), where[mine == number]
        tangents = np.gradient(true, axis=0)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        apart = []
        for point, tangent in list(zip(true, tangents, strict=True))[6:-6:4]:
            away = voxels - point
            slab = away[(np.abs(away @ tangent) < 1.5) & (np.linalg.norm(away, axis=1) < 8)]
            middle = slab.mean(0) if len(slab) else np.full(3, 8.0)
            apart.append(np.linalg.norm(middle - (middle @ tangent) * tangent))
        errors.append(np.mean(apart))
    return np.array(errors)


def transferred(folder: Path, body: Spine, given: dict[str, Path], found: Path) -> np.ndarray:
    return images.read_labels(transfer_all(folder, body, given, found)[0])[0]


def transfer_all(folder: Path, body: Spine, given: dict[str, Path], found: Path) -> tuple[Path, Path]:
    labels = images.write(folder / "dseg.nii", body.labels, body.t2w_grid)
    context = Context(folder / "transfer")
    context.folder.mkdir()
    table = folder / "dseg.tsv"
    rows = [f"{value}\tlabel {value}\n" for value in np.unique(body.labels)[1:]]
    table.write_text("index\tname\n" + "".join(rows))
    made = transfer.run(
        (labels,),
        table,
        given["dwi"],
        transfer.Config(),
        context,
        anatomy_transform=found,
        anatomy_doubts=found.with_name("anatomy_doubts.json"),
    )
    assert "anatomy_transform.h5" in context.facts[0].reason
    return made


@pytest.mark.parametrize(
    ("strength", "method"), [(0.0, "rigid"), pytest.param(1.0, "deformable", marks=pytest.mark.slow)]
)
def test_drawn_roots_arrive_within_a_millimetre(tmp_path: Path, strength: float, method: str) -> None:
    body = spine(strength)
    given = files(tmp_path, body)
    found, context = run(tmp_path, given, method=method)
    assert not context.warnings and context.numbers["anatomy_overlap_fraction"] > 0.9
    assert centreline_mm(body, transferred(tmp_path, body, given, found)).max() < 1.0


@pytest.mark.parametrize(
    ("strength", "shift"),
    [(0.0, (0, 0, -18)), *(pytest.param(1.0, (0, 0, z), marks=pytest.mark.slow) for z in (18, -18))],
)
def test_an_anatomy_half_a_level_away_is_found(
    tmp_path: Path, strength: float, shift: tuple[float, float, float]
) -> None:
    body = spine(strength, shift_mm=shift)
    given = files(tmp_path, body)
    found, context = run(tmp_path, given, method="deformable" if strength else "rigid")
    assert not context.warnings
    # A part of the roots lies beyond the T2w image.
    assert np.median(centreline_mm(body, transferred(tmp_path, body, given, found))) < 1.0


def test_what_speaks_against_a_registration() -> None:
    good = Aligned(
        spine().grid,
        np.eye(4),
        information=0.5,
        at_start=0.3,
        nearby=0.4,
        overlap=0.9,
        moved_mm=6.0,
        lead=0.02,
    )
    assert anatomy_transform.doubts(good, 20.0) == []
    for change, word in (
        ({"overlap": 0.5}, "body"),
        ({"information": 0.05, "at_start": 0.01, "nearby": 0.01}, "below"),
        ({"at_start": 0.6}, "start"),
        ({"nearby": 0.49}, "10 mm"),
        ({"lead": 0.001, "rival_mm": 12.0}, "12 mm away"),
        ({"moved_mm": 25.0}, "reaches 20"),
    ):
        (told,) = anatomy_transform.doubts(replace(good, **change), 20.0)
        assert word in told


def test_distortion_that_no_linear_transform_follows_is_told_and_flagged(tmp_path: Path) -> None:
    body = spine()
    given = files(tmp_path, body)
    del given["field"]
    path, context = run(tmp_path, given, method="header")
    assert [warning.code for warning in context.warnings] == ["DISTORTION_LEFT"]
    flags = read_flags(transfer_all(tmp_path, body, given, path)[1])
    assert len(flags) == 8 and all("distortion_left" in words.split(";") for words in flags.values())


def test_by_header_nothing_moves(tmp_path: Path) -> None:
    given = files(tmp_path, spine())
    path, context = run(tmp_path, given, method="header")
    transform = itk.read(path)
    assert transform.TransformPoint((1.0, 2.0, 3.0)) == (1.0, 2.0, 3.0)
    assert context.facts[0].value == "identity"


def test_noise_in_place_of_the_anatomy_is_told(tmp_path: Path) -> None:
    body = spine()
    given = files(tmp_path, body)
    noise = np.random.default_rng(3).normal(100, 30, body.t2w.shape).astype(np.float32)
    given["anatomy"] = images.write(tmp_path / "noise.nii", noise, body.t2w_grid)
    path, context = run(tmp_path, given)
    (warning,) = context.warnings
    assert warning.code == "REGISTRATION_DOUBTFUL" and "nats" in warning.found
    assert json.loads(path.with_name("anatomy_doubts.json").read_text()) == ["registration_doubtful"]


def test_a_displacement_needs_the_phase_encoding(tmp_path: Path) -> None:
    given = files(tmp_path, spine())
    del given["scan"]
    with pytest.raises(DatasetError) as error:
        run(tmp_path, given, method="deformable")
    assert error.value.problems[0].code == "NO_PHASE_ENCODING"


def test_a_4d_anatomy_is_an_error(tmp_path: Path) -> None:
    given = files(tmp_path, spine())
    given["anatomy"] = images.write(tmp_path / "four.nii", np.ones((4, 4, 4, 2), np.float32), spine().grid)
    with pytest.raises(DatasetError) as error:
        run(tmp_path, given)
    assert error.value.problems[0].code == "ANATOMY_NOT_3D"


def test_a_field_goes_where_its_points_say(tmp_path: Path) -> None:
    body = spine()
    rng = np.random.default_rng(0)
    here = (
        np.moveaxis(np.indices(body.grid.shape), 0, -1) @ body.grid.affine[:3, :3].T + body.grid.affine[:3, 3]
    )
    there = here + rng.normal(0, 2, here.shape)
    itk.write(itk.field(there, body.grid), tmp_path / "field.h5")
    read = itk.read(tmp_path / "field.h5")
    some = tuple(rng.integers(0, n, 50) for n in body.grid.shape)
    np.testing.assert_allclose(itk.move(read, here[some]), there[some], atol=1e-4)
