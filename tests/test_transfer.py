"""Labels on the grid of the series: exact where they can be, through a transform the right way round."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from somite import images, itk
from somite.errors import DatasetError
from somite.images import Grid
from somite.interfaces import transfer
from somite.registry import Context

LPS = np.diag([-1.0, -1, 1, 1])


def oblique(shape: tuple[int, int, int], voxel: tuple[float, ...], angles: tuple[float, ...]) -> Grid:
    """A grid about the point (5, -8, 12) mm; a negative voxel size flips an axis."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(voxel)
    affine[:3, 3] = np.array([5, -8, 12]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


DWI = oblique((20, 18, 9), (2, -2, 4), (15, -20, 30))
ANATOMY = oblique((44, 38, 50), (-1, 1, 1), (-10, 5, 80))
# Where the tissue at a point of the series lies in the anatomical scan: in world RAS, rotated and shifted.
MOVE = np.eye(4)
MOVE[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()
MOVE[:3, 3] = (6, -4, 3)


def shapes(points: np.ndarray) -> np.ndarray:
    """Labels as a function of anatomical world position: three balls without any symmetry."""
    labels = np.zeros(points.shape[:-1], np.int32)
    for label, centre, radius in ((3, (12, -10, 12), 7), (40, (0, -2, 20), 5), (7, (8, -18, 8), 4)):
        labels[np.linalg.norm(points - centre, axis=-1) < radius] = label
    return labels


def points(grid: Grid) -> np.ndarray:
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    return ijk @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    dwi = images.write(tmp_path / "dwi.nii", np.zeros((*DWI.shape, 2), np.float32), DWI)
    table = tmp_path / "dseg.tsv"
    table.write_text("index\tname\n3\tthree\n7\tseven\n40\tforty\n")
    return {
        "dwi": dwi,
        "label_table": table,
        "labels": images.write(tmp_path / "dseg.nii", shapes(points(ANATOMY)), ANATOMY),
    }


def run(folder: Path, **files: Path) -> tuple[np.ndarray, Context]:
    context = Context(folder / "out")
    context.folder.mkdir()
    several = {name: (path,) for name, path in files.items() if name in ("labels", "labels_transform")}
    path, _ = transfer.run(**{**files, **several}, config=transfer.Config(), context=context)
    data, grid = images.read_labels(path)
    assert grid.matches(DWI, 1e-3)
    return data, context


def write_affine(path: Path, matrix: np.ndarray) -> Path:
    """An ITK transform of a matrix in world RAS."""
    lps = LPS @ matrix @ LPS
    transform = sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))
    return path


def test_labels_on_the_grid_are_copied_to_the_bit(tmp_path: Path, files) -> None:
    labels = np.random.default_rng(0).integers(0, 2000, DWI.shape).astype(np.int32)
    files["labels"] = images.write(tmp_path / "on.nii", labels, DWI)
    found, context = run(tmp_path, **files)
    assert np.array_equal(found, labels)
    assert not context.facts and not context.warnings


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, -1), (-1, -1, 1), (1, 1, 1)])
def test_the_same_voxels_stored_otherwise_are_put_in_order(tmp_path: Path, files, axes, flips) -> None:
    labels = np.random.default_rng(0).integers(0, 5, DWI.shape).astype(np.int32)
    affine = DWI.affine.copy()
    stored = labels
    for axis, sign in enumerate(flips):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (DWI.shape[axis] - 1)
            affine[:3, axis] *= -1
            stored = np.flip(stored, axis)
    stored = stored.transpose(axes)
    grid = Grid(stored.shape, affine[:, [*axes, 3]])
    files["labels"] = images.write(tmp_path / "las.nii", np.ascontiguousarray(stored), grid)
    found, _ = run(tmp_path, **files)
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("suffix", ["txt", "tfm", "mat", "h5"])
def test_a_transform_takes_points_of_the_series_to_the_labels(tmp_path: Path, files, suffix: str) -> None:
    transform = write_affine(tmp_path / f"move.{suffix}", MOVE)
    found, context = run(tmp_path, **files, labels_transform=transform)
    there = points(DWI) @ MOVE[:3, :3].T + MOVE[:3, 3]
    truth = shapes(there)
    # Only voxels whose centres lie within half a voxel of a boundary may differ.
    assert (found != truth).sum() < 0.2 * (truth > 0).sum()
    for label in (3, 40, 7):
        gap = there[found == label].mean(0) - there[truth == label].mean(0)
        assert np.linalg.norm(gap) < 1.0
    assert "move" in context.facts[0].reason


def test_it_agrees_with_itk_to_the_voxel(tmp_path: Path, files) -> None:
    transform = write_affine(tmp_path / "move.tfm", MOVE)
    found, _ = run(tmp_path, **files, labels_transform=transform)
    resampled = sitk.Resample(
        sitk.ReadImage(str(files["labels"]), sitk.sitkInt32),
        sitk.ReadImage(str(images.write(tmp_path / "grid.nii", np.zeros(DWI.shape, np.float32), DWI))),
        sitk.ReadTransform(str(transform)),
        sitk.sitkNearestNeighbor,
        0,
    )
    assert (found != sitk.GetArrayFromImage(resampled).T).sum() == 0


def test_a_displacement_field_is_read_as_itk_writes_it(tmp_path: Path, files) -> None:
    affine = sitk.ReadTransform(str(write_affine(tmp_path / "move.tfm", MOVE)))
    wide = oblique((40, 36, 20), (2, -2, 4), (15, -20, 30))
    reference = sitk.ReadImage(str(images.write(tmp_path / "w.nii", np.zeros(wide.shape, np.float32), wide)))
    field = sitk.TransformToDisplacementField(
        affine, sitk.sitkVectorFloat64, reference.GetSize(), reference.GetOrigin(), reference.GetSpacing(),
        reference.GetDirection(),
    )  # fmt: skip
    sitk.WriteImage(field, str(tmp_path / "warp.nii.gz"))
    by_field, _ = run(tmp_path, **files, labels_transform=tmp_path / "warp.nii.gz")
    shutil.rmtree(tmp_path / "out")
    by_matrix, _ = run(tmp_path, **files, labels_transform=tmp_path / "move.tfm")
    assert (by_field != by_matrix).mean() < 1e-3 and by_matrix.any()


def test_an_identity_transform_joins_grids_of_one_space(tmp_path: Path, files) -> None:
    found, _ = run(tmp_path, **files, labels_transform=write_affine(tmp_path / "same.tfm", np.eye(4)))
    assert (found == shapes(points(DWI))).mean() > 0.99


def test_a_transform_is_used_even_on_the_same_grid(tmp_path: Path, files) -> None:
    labels = shapes(points(DWI))
    files["labels"] = images.write(tmp_path / "on.nii", labels, DWI)
    one_voxel = np.eye(4)
    one_voxel[:3, 3] = DWI.affine[:3, 0]
    found, _ = run(tmp_path, **files, labels_transform=write_affine(tmp_path / "step.tfm", one_voxel))
    assert np.array_equal(found[:-1], labels[1:]) and not found[-1].any()


def fails(folder: Path, code: str, **files: Path) -> None:
    with pytest.raises(DatasetError) as error:
        run(folder, **files)
    (problem,) = error.value.problems
    assert problem.code == code and problem.where and problem.found and problem.do
    assert not list((folder / "out").iterdir())


def test_another_grid_without_transform_is_an_error(tmp_path: Path, files) -> None:
    fails(tmp_path, "LABEL_GRID", **files)


def test_a_transform_the_wrong_way_round_is_an_error(tmp_path: Path, files) -> None:
    far = np.eye(4)
    far[:3, 3] = (200, 0, 0)
    fails(tmp_path, "LABEL_OUTSIDE", **files, labels_transform=write_affine(tmp_path / "far.tfm", far))


@pytest.mark.parametrize(
    "content", ["1 0 0 5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "", "#Insight Transform File V1.0\n"]
)
def test_a_file_that_is_no_itk_transform_is_an_error(tmp_path: Path, files, content: str) -> None:
    (tmp_path / "fsl.mat.txt").write_text(content)
    fails(tmp_path, "TRANSFORM_UNREADABLE", **files, labels_transform=tmp_path / "fsl.mat.txt")


def test_a_transform_in_two_dimensions_is_an_error(tmp_path: Path, files) -> None:
    sitk.WriteTransform(sitk.AffineTransform(2), str(tmp_path / "flat.tfm"))
    fails(tmp_path, "TRANSFORM_UNREADABLE", **files, labels_transform=tmp_path / "flat.tfm")


def test_a_4d_label_image_is_an_error(tmp_path: Path, files) -> None:
    files["labels"] = images.write(tmp_path / "four.nii", np.zeros((*DWI.shape, 2), np.int32), DWI)
    fails(tmp_path, "LABEL_NOT_3D", **files)


def test_labels_that_get_lost_are_named(tmp_path: Path, files) -> None:
    labels = shapes(points(ANATOMY))
    labels[0, 0, 0], labels[0, 0, 1] = 91, 92
    files["labels"] = images.write(tmp_path / "more.nii", labels, ANATOMY)
    _, context = run(tmp_path, **files, labels_transform=write_affine(tmp_path / "move.tfm", MOVE))
    (warning,) = [one for one in context.warnings if one.code == "LABEL_LOST"]
    assert "91, 92" in warning.found
    assert context.numbers == {"labels_found": 3.0, "labels_lost": 2.0}


def test_labels_on_the_wrong_side_are_not_moved(tmp_path: Path, files) -> None:
    """Label 3 lies about x = 12 mm, label 7 about x = 8 mm."""
    rows = "3\tthree\tgracilis\tL\n7\tseven\tgracilis\tR\n40\tforty\tx\tn/a\n"
    files["label_table"].write_text("index\tname\tregion\tside\n" + rows)
    move = write_affine(tmp_path / "move.tfm", MOVE)
    fails(tmp_path, "LABEL_SIDES", **files, labels_transform=move)


def test_a_label_that_may_be_on_the_wrong_side_is_told_and_moved(tmp_path: Path, files) -> None:
    files["label_table"].write_text("index\tname\tside\n3\tthree\tL\n7\tseven\t\n40\tforty\t\n")
    found, context = run(tmp_path, **files, labels_transform=write_affine(tmp_path / "move.tfm", MOVE))
    assert found.any() and "LABEL_SIDE_DOUBTFUL" in [warning.code for warning in context.warnings]
    header, first, *_ = (tmp_path / "out" / "labels_dwi.tsv").read_text().splitlines()
    assert header.startswith("index\tname\tregion\tside\tlevel\tsegment")
    assert first.startswith("3\tthree\tthree\tL\tn/a\tn/a")


def flags(folder: Path) -> dict[int, str]:
    """Index -> flags, of the table that was made."""
    table = pd.read_csv(folder / "out" / "labels_dwi.tsv", sep="\t", keep_default_na=False)
    return dict(zip(table["index"], table.get("flags", [""] * len(table)), strict=True))


@pytest.mark.parametrize("by_field", [False, True])
def test_labels_that_go_on_beyond_the_series_are_flagged(tmp_path: Path, files, by_field: bool) -> None:
    """A ball at every corner and one in the middle; the anatomy reaches far beyond the series."""
    wide = oblique((90, 90, 90), (-1, 1, 1), (-10, 5, 80))
    centres = {3: (0, 9, 4), 7: (10, 9, 4), 40: (14, 4, 6)}
    at = points(wide)
    labels = np.zeros(wide.shape, np.int32)
    for value, voxel in centres.items():
        there = MOVE[:3, :3] @ (DWI.affine[:3, :3] @ voxel + DWI.affine[:3, 3]) + MOVE[:3, 3]
        labels[np.linalg.norm(at - there, axis=-1) < 5] = value
    files["labels"] = images.write(tmp_path / "wide.nii", labels, wide)
    move = write_affine(tmp_path / "move.tfm", MOVE)
    if by_field:
        here = points(DWI)
        field = itk.field(here @ MOVE[:3, :3].T + MOVE[:3, 3], DWI)
        move = tmp_path / "field.h5"
        sitk.WriteTransform(field, str(move))
    _, context = run(tmp_path, **files, labels_transform=move)
    assert flags(tmp_path) == {3: "clipped", 7: "n/a", 40: "n/a"}
    (warning,) = context.warnings
    assert (warning.code, warning.found) == ("LABEL_CLIPPED", "three")


def test_flags_of_labels_that_are_given_back_stay(tmp_path: Path, files) -> None:
    files["labels"] = images.write(tmp_path / "on.nii", np.full(DWI.shape, 3, np.int32), DWI)
    files["label_table"].write_text("index\tname\tflags\n3\tthree\tclipped\n7\tseven\tn/a\n")
    run(tmp_path, **files)
    assert flags(tmp_path) == {3: "clipped", 7: "n/a"}


def several(folder: Path, *data: np.ndarray, routes: list[transfer.Route]) -> np.ndarray:
    paths = tuple(images.write(folder / f"{n}.nii", one, grid) for n, (one, grid) in enumerate(data))
    (folder / "routes.json").write_text(transfer.routes_text(routes))
    (folder / "table.tsv").write_text("index\tname\n1\ta\n2\tb\n3\tc\n")
    context = Context(folder / "out")
    context.folder.mkdir()
    path, _ = transfer.run(
        paths,
        folder / "table.tsv",
        images.write(folder / "dwi.nii", np.zeros((*DWI.shape, 2), np.float32), DWI),
        transfer.Config(),
        context,
        labels_transform=(write_affine(folder / "same.tfm", np.eye(4)), write_affine(folder / "m.tfm", MOVE)),
        label_routes=folder / "routes.json",
    )
    return images.read_labels(path)[0]


def test_several_images_come_by_ways_of_their_own_and_keep_apart(tmp_path: Path) -> None:
    ball = np.where(shapes(points(ANATOMY)) == 7, 2, 0).astype(np.int32)
    plain = np.zeros(DWI.shape, np.int32)
    plain[:3, :3], plain[0, 0, 0] = 1, 250  # 250: in no table
    found = several(
        tmp_path,
        (plain, DWI),
        (ball, ANATOMY),
        routes=[transfer.Route(), transfer.Route({2: 3}, transform=1)],
    )
    alone = transfer.move(ball, ANATOMY, DWI, itk.read(tmp_path / "m.tfm")).values
    assert np.array_equal(found == 3, alone == 2) and (alone == 2).sum() > 10
    assert np.array_equal(found == 1, plain == 1) and found[0, 0, 0] not in (0, 1, 2, 3)


def test_values_of_no_table_get_numbers_of_no_label() -> None:
    labels = np.array([[[0, 1, 7, 2]]], np.int32)
    assert transfer.renumbered(labels, {1: 9}, {2, 9, 30}).tolist() == [[[0, 9, 31, 2]]]


def test_two_images_that_claim_a_voxel_are_an_error(tmp_path: Path) -> None:
    one, other = np.zeros(DWI.shape, np.int32), np.zeros(DWI.shape, np.int32)
    one[2:5], other[4:6] = 1, 2
    with pytest.raises(DatasetError) as error:
        several(tmp_path, (one, DWI), (other, DWI), routes=[transfer.Route()] * 2)
    (problem,) = error.value.problems
    assert problem.code == "LABEL_OVERLAP" and f"{one[4].size} voxels" in problem.found
