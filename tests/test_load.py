"""Loading: series joined in one frame, and every fault of image, gradients and sidecar named by its code."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from somite.errors import DatasetError
from somite.gradient_check import Series, check_gradients, check_group, count_directions, tensor_rank
from somite.gradients import read_fsl
from somite.images import Grid, read_float
from somite.interfaces import load
from somite.orientation import StorageChange, storage_change
from somite.registry import Context
from somite.voxel_check import check_voxels

SHAPE = (7, 6, 5)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (20, -15, 40), degrees=True).as_matrix() @ np.diag([2, 2.5, 4])
OBLIQUE[:3, 3] = (-12, 30, 7)


def scheme(n: int = 12, n_b0: int = 2, b: float = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    directions = np.random.default_rng(seed).standard_normal((n, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    return np.r_[np.zeros(n_b0), np.full(n, b)], np.r_[np.zeros((n_b0, 3)), directions]


class Scan:
    """Files of one series, to be spoilt."""

    def __init__(self, folder: Path, name: str = "sub-01_dwi", seed: int = 0, **kwargs: Any) -> None:
        self.bvals, self.bvecs = scheme(seed=seed, **kwargs)
        rng = np.random.default_rng(seed)
        self.data = rng.integers(1, 1000, (*SHAPE, len(self.bvals))).astype(np.int16)
        self.affine: np.ndarray = OBLIQUE
        self.dwi = folder / f"{name}.nii.gz"
        self.bval, self.bvec = folder / f"{name}.bval", folder / f"{name}.bvec"
        self.sidecar = folder / f"{name}.json"
        self.sidecar.write_text("{}")
        self.save()

    def save(self) -> Scan:
        nib.save(nib.Nifti1Image(self.data, self.affine), self.dwi)
        np.savetxt(self.bval, self.bvals[None], fmt="%g")
        np.savetxt(self.bvec, self.bvecs.T, fmt="%.6f")
        return self

    def problems(self) -> list[str]:
        n = self.data.shape[3]
        return [problem.code for problem in check_gradients(self.bval, self.bvec, n)]


def run(folder: Path, *scans: Scan) -> tuple[tuple[Path, ...], Context]:
    context = Context(folder / "out")
    context.folder.mkdir()
    columns = [tuple(getattr(scan, name) for scan in scans) for name in ("dwi", "bval", "bvec", "sidecar")]
    return load.run(*columns, config=load.Config(), context=context), context


def codes(folder: Path, *scans: Scan) -> list[str]:
    with pytest.raises(DatasetError) as error:
        run(folder, *scans)
    assert all(problem.where and problem.found and problem.do for problem in error.value.problems)
    assert not list((folder / "out").iterdir())
    return [problem.code for problem in error.value.problems]


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return Scan(tmp_path)


# Gradients


def test_a_good_scan_has_no_problem(scan: Scan) -> None:
    assert check_gradients(scan.bval, scan.bvec, 14) == ()
    assert check_voxels(scan.dwi) == ()


def transposed(scan: Scan) -> None:
    np.savetxt(scan.bvec, scan.bvecs)


def short_bval(scan: Scan) -> None:
    np.savetxt(scan.bval, scan.bvals[None, :-1], fmt="%g")


def short_bvec(scan: Scan) -> None:
    np.savetxt(scan.bvec, scan.bvecs.T[:, :-1])


def ragged(scan: Scan) -> None:
    rows = [" ".join(map(str, row)) for row in scan.bvecs.T]
    scan.bvec.write_text("\n".join([rows[0], rows[1], rows[2].rsplit(maxsplit=1)[0]]))


def short_vectors(scan: Scan) -> None:
    np.savetxt(scan.bvec, scan.bvecs.T * np.where(np.arange(14) > 8, 0.7, 1))


def zero_vector(scan: Scan) -> None:
    scan.bvecs[-1] = 0
    scan.save()


def written(bvals: np.ndarray) -> Any:
    def spoil(scan: Scan) -> None:
        np.savetxt(scan.bval, bvals[None], fmt="%g")

    return spoil


def lines(scan: Scan) -> None:
    np.savetxt(scan.bval, scan.bvals.reshape(2, 7), fmt="%g")


def words(scan: Scan) -> None:
    scan.bval.write_text(scan.bval.read_text().replace("1000", "b1000", 1))


def not_a_number(scan: Scan) -> None:
    scan.bvec.write_text(scan.bvec.read_text().replace("0.000000", "nan", 1))


B = scheme()[0]
OVERFLOWN = np.where(np.arange(14) == 5, -31072, B)
UNSIGNED = np.where(np.arange(14) == 5, 65036, B)


@pytest.mark.parametrize(
    ("spoil", "code", "found"),
    [
        (lambda scan: scan.bval.unlink(), "NO_BVAL", "no such file"),
        (lambda scan: scan.bvec.unlink(), "NO_BVEC", "no such file"),
        (transposed, "BVEC_TRANSPOSED", "14 rows of 3"),
        (short_bval, "GRADIENT_COUNT", "13 b-values"),
        (short_bvec, "GRADIENT_COUNT", "3 rows of 13"),
        (ragged, "GRADIENT_COUNT", "13 or 14"),
        (short_vectors, "BVEC_NOT_UNIT", "0.7"),
        (zero_vector, "BVEC_NOT_UNIT", "volume 13"),
        (written(B * 1e6), "BVAL_UNITS", "1e+09"),
        (written(B / 1000), "BVAL_UNITS", "largest b-value of 1"),
        (written(OVERFLOWN), "BVAL_WRAPPED", "-31072 for volume 5"),
        (written(UNSIGNED), "BVAL_WRAPPED", "65036 for volume 5"),
        (lines, "BVAL_WRAPPED", "2 lines"),
        (words, "GRADIENT_UNREADABLE", "b1000"),
        (not_a_number, "GRADIENT_UNREADABLE", "nan"),
        (written(B + 700), "NO_B0", "700"),
    ],
)
def test_each_fault_of_the_gradient_files_has_its_code(
    tmp_path: Path, scan: Scan, spoil: Any, code: str, found: str
) -> None:
    if code == "NO_B0":
        scan.bvecs[:2] = scan.bvecs[2:4]
        scan.save()
    spoil(scan)
    (problem,) = check_gradients(scan.bval, scan.bvec, 14)
    assert problem.code == code
    assert found in problem.found
    assert problem.where and problem.expected and problem.do
    assert codes(tmp_path, scan) == [code]


def test_files_that_were_not_even_named_are_missing_too() -> None:
    assert [p.code for p in check_gradients(None, None, 5)] == ["NO_BVAL", "NO_BVEC"]


def test_all_faults_are_told_at_once(scan: Scan) -> None:
    short_bval(scan)
    transposed(scan)
    assert scan.problems() == ["GRADIENT_COUNT", "BVEC_TRANSPOSED"]


@pytest.mark.parametrize("n", [3, 5])
def test_opposite_and_repeated_directions_count_once(tmp_path: Path, n: int) -> None:
    scan = Scan(tmp_path, n=n)
    scan.bvals, scan.bvecs = np.tile(scan.bvals, 3), np.concatenate([scan.bvecs, -scan.bvecs, scan.bvecs])
    scan.data = np.tile(scan.data, (1, 1, 1, 3))
    (problem,) = check_gradients(scan.save().bval, scan.bvec, len(scan.bvals))
    assert problem.code == "FEW_DIRECTIONS" and f"{n} distinct" in problem.found


def test_directions_in_one_plane_do_not_make_a_tensor(scan: Scan) -> None:
    angles = np.linspace(0, np.pi, 12, endpoint=False)
    scan.bvecs[2:] = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    assert count_directions(scan.bvecs[2:]) == 12 and tensor_rank(scan.bvecs[2:]) == 3
    assert scan.save().problems() == ["FEW_DIRECTIONS"]


def test_a_group_needs_b0_and_directions_as_a_whole(tmp_path: Path) -> None:
    one, two = Scan(tmp_path, "run-1", n=4), Scan(tmp_path, "run-2", n=4, n_b0=0, seed=1)
    group = [Series(s.bval, s.bvec, s.data.shape[3]) for s in (one, two)]
    assert check_group(group) == ()
    assert one.problems() == ["FEW_DIRECTIONS"]
    assert two.problems() == ["NO_B0", "FEW_DIRECTIONS"]


def test_the_real_scans_have_no_problem(real_data: Path) -> None:
    scans = [*real_data.glob("*-bids/*/dwi/*_dwi.nii.gz"), *real_data.glob("water-phantom/*_dwi.nii.gz")]
    assert len(scans) >= 7
    for dwi in scans:
        n = nib.load(dwi).shape[3]
        stem = str(dwi).removesuffix(".nii.gz")
        assert check_gradients(Path(f"{stem}.bval"), Path(f"{stem}.bvec"), n) == ()


# Voxels


def fill(value: float) -> Any:
    def spoil(scan: Scan) -> None:
        scan.data = scan.data.astype(np.float32)
        scan.data[..., 3] = value
        scan.save()

    return spoil


def one_nan(scan: Scan) -> None:
    scan.data = scan.data.astype(np.float32)
    scan.data[1, 2, 3, 3] = np.nan
    scan.save()


def cut_off(scan: Scan) -> None:
    scan.dwi.write_bytes(scan.dwi.read_bytes()[: -scan.dwi.stat().st_size // 3])


def without_checksum(scan: Scan) -> None:
    scan.dwi.write_bytes(scan.dwi.read_bytes()[:-6])


def one_bit(scan: Scan) -> None:
    content = bytearray(scan.dwi.read_bytes())
    content[len(content) // 2] ^= 4
    scan.dwi.write_bytes(content)


def plain(scan: Scan) -> None:
    scan.dwi.write_bytes(gzip.decompress(scan.dwi.read_bytes()))


def three_axes(scan: Scan) -> None:
    nib.save(nib.Nifti1Image(scan.data[..., 0], scan.affine), scan.dwi)


def five_axes(scan: Scan) -> None:
    nib.save(nib.Nifti1Image(scan.data[:, :, :, None], scan.affine), scan.dwi)


def flat(scan: Scan) -> None:
    image = nib.Nifti1Image(scan.data, None)
    image.header.set_sform(np.diag([2, 2, 0, 1]), code=1)
    image.header["qform_code"] = 0
    nib.save(image, scan.dwi)


@pytest.mark.parametrize(
    ("spoil", "code", "found"),
    [
        (fill(np.nan), "NONFINITE_VOLUME", "volume 3"),
        (fill(np.inf), "NONFINITE_VOLUME", "volume 3"),
        (one_nan, "NONFINITE_VOLUME", "1 such voxels in volume 3"),
        (fill(0), "EMPTY_VOLUME", "volume 3"),
        (cut_off, "GZIP_TRUNCATED", "cut off"),
        (without_checksum, "GZIP_TRUNCATED", "cut off"),
        (one_bit, "IMAGE_UNREADABLE", ""),
        (plain, "IMAGE_UNREADABLE", "gzip"),
        (lambda scan: scan.dwi.write_bytes(b""), "IMAGE_UNREADABLE", "mpty"),
        (three_axes, "NOT_4D", "7 x 6 x 5"),
        (five_axes, "NOT_4D", "7 x 6 x 5 x 1 x 14"),
        (flat, "AFFINE_SINGULAR", "0.0]]"),
    ],
)
def test_each_fault_of_the_image_has_its_code(
    tmp_path: Path, scan: Scan, spoil: Any, code: str, found: str
) -> None:
    spoil(scan)
    (problem,) = check_voxels(scan.dwi)
    assert problem.code == code and found in problem.found
    assert codes(tmp_path, scan) == [code]


def test_faulty_volumes_of_all_series_are_told_together(tmp_path: Path) -> None:
    one, two = Scan(tmp_path, "run-1"), Scan(tmp_path, "run-2", seed=1)
    fill(0)(one)
    one_nan(two)
    assert codes(tmp_path, one, two) == ["EMPTY_VOLUME", "NONFINITE_VOLUME"]


# Joining


def test_one_series_is_kept_to_the_bit(tmp_path: Path, scan: Scan) -> None:
    (dwi, bval, bvec, _), context = run(tmp_path, scan)
    data, grid = read_float(dwi)
    assert data.dtype == np.float32 and np.array_equal(data, scan.data)
    assert grid.matches(Grid(SHAPE, OBLIQUE), 1e-4)
    assert np.array_equal(np.loadtxt(bval), scan.bvals)
    np.testing.assert_allclose(np.loadtxt(bvec).T, scan.bvecs, atol=2e-6)
    assert not context.facts and not context.warnings


def test_rounded_directions_are_normalised_and_said(tmp_path: Path, scan: Scan) -> None:
    np.savetxt(scan.bvec, scan.bvecs.T * 1.004)
    (_, _, bvec, _), context = run(tmp_path, scan)
    np.testing.assert_allclose(np.linalg.norm(np.loadtxt(bvec).T[2:], axis=1), 1, atol=1e-9)
    (fact,) = context.facts
    assert "normalised" in fact.value and "1.004" in fact.reason


ORIENTATIONS = [((0, 1, 2), (-1, 1, 1)), ((1, 0, 2), (1, 1, -1)), ((2, 0, 1), (-1, -1, 1))]


def stored(scan: Scan, axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Store a scan along other axes; nibabel moves voxels and affine, the gradients follow by hand."""
    axcodes = np.array([[axes.index(axis), signs[axes.index(axis)]] for axis in range(3)], float)
    image = nib.Nifti1Image(scan.data, scan.affine).as_reoriented(axcodes)
    world = read_fsl(scan.bval, scan.bvec, scan.affine)
    scan.data, scan.affine = np.asarray(image.dataobj), image.affine
    u, _, vt = np.linalg.svd(scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0))
    along = world.bvecs @ u @ vt
    scan.bvecs = along * ([-1, 1, 1] if np.linalg.det(scan.affine) > 0 else [1, 1, 1])
    scan.save()


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_series_stored_otherwise_joins_in_the_frame_of_the_first(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    first, second = Scan(tmp_path, "run-1"), Scan(tmp_path, "run-2", seed=1, b=2000)
    as_first = (second.data.copy(), second.bvecs.copy())
    second.sidecar.write_text('{"PhaseEncodingDirection": "j-"}')
    stored(second, axes, signs)
    (dwi, bval, bvec, scan), _ = run(tmp_path, first, second)
    assert np.array_equal(read_float(dwi)[0], np.concatenate([first.data, as_first[0]], 3))
    np.testing.assert_allclose(np.loadtxt(bvec).T, np.r_[first.bvecs, as_first[1]], atol=2e-6)
    assert np.array_equal(np.loadtxt(bval), np.r_[first.bvals, second.bvals])
    found = json.loads(scan.read_text())["volumes"][-1]["phase_encoding_direction"]
    steps = np.linalg.solve(OBLIQUE[:3, :3], -second.affine[:3, 1])
    axis = int(np.abs(steps).argmax())
    assert found == "ijk"[axis] + ("-" if steps[axis] < 0 else "")


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_storage_is_changed_as_nibabel_changes_it(axes: Any, signs: Any) -> None:
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    axcodes = np.array([[axes.index(axis), signs[axes.index(axis)]] for axis in range(3)], float)
    image = nib.Nifti1Image(data.astype(np.int32), OBLIQUE).as_reoriented(axcodes)
    change = storage_change(Grid(SHAPE, OBLIQUE), Grid(image.shape, image.affine))
    assert change is not None and np.array_equal(change.apply(data), np.asarray(image.dataobj))
    back = storage_change(Grid(image.shape, image.affine), Grid(SHAPE, OBLIQUE))
    assert back is not None and np.array_equal(back.apply(change.apply(data)), data)


def shifted(scan: Scan) -> None:
    scan.affine = scan.affine.copy()
    scan.affine[:3, 3] += 0.5


def smaller(scan: Scan) -> None:
    scan.data = scan.data[:, 1:]


def rotated(scan: Scan) -> None:
    scan.affine = scan.affine.copy()
    scan.affine[:3, :3] = Rotation.from_rotvec([0, 0, 0.02]).as_matrix() @ scan.affine[:3, :3]


@pytest.mark.parametrize("spoil", [shifted, smaller, rotated])
def test_series_of_other_voxels_do_not_join(tmp_path: Path, spoil: Any) -> None:
    first, second = Scan(tmp_path, "run-1"), Scan(tmp_path, "run-2", seed=1)
    spoil(second)
    second.save()
    assert codes(tmp_path, first, second) == ["SERIES_GRID"]


def test_faults_of_grid_gradients_and_sidecar_are_told_together(tmp_path: Path) -> None:
    first, second = Scan(tmp_path, "run-1"), Scan(tmp_path, "run-2", seed=1)
    shifted(second)
    second.save()
    short_bval(first)
    first.sidecar.write_text('{"EchoTime": 79}')
    assert codes(tmp_path, first, second) == ["GRADIENT_COUNT", "SERIES_GRID", "SIDECAR_INVALID"]


# What is known of the scan


def test_the_scan_holds_an_entry_per_volume_and_series(tmp_path: Path) -> None:
    first, second = Scan(tmp_path, "dir-AP", n=6), Scan(tmp_path, "dir-PA", seed=1, n=6)
    for scan, direction in ((first, "j-"), (second, "j")):
        known = {"PhaseEncodingDirection": direction, "TotalReadoutTime": 0.021, "EchoTime": 0.07}
        scan.sidecar.write_text(json.dumps(known | {"SliceTiming": [0, 2, 4, 1, 3]}))
    (_, _, _, path), _ = run(tmp_path, first, second)
    scan = json.loads(path.read_text())
    assert [v["series"] for v in scan["volumes"]] == [0] * 8 + [1] * 8
    assert [v["phase_encoding_direction"] for v in scan["volumes"]] == ["j-"] * 8 + ["j"] * 8
    assert scan["volumes"][0] == {
        "series": 0,
        "phase_encoding_direction": "j-",
        "total_readout_time_s": 0.021,
        "echo_time_s": 0.07,
        "repetition_time_s": None,
    }
    assert [s["name"] for s in scan["series"]] == ["dir-AP", "dir-PA"]
    assert scan["series"][0]["slice_timing_s"] == [0, 2, 4, 1, 3]


@pytest.mark.parametrize(
    ("known", "seconds", "reason"),
    [
        ({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 101}, 0.05, "EffectiveEchoSpacing"),
        ({"EstimatedTotalReadoutTime": 0.0262651}, 0.0262651, "Estimated"),
        ({}, None, ""),
    ],
)
def test_a_readout_time_that_was_derived_is_said(
    tmp_path: Path, scan: Scan, known: dict[str, float], seconds: float | None, reason: str
) -> None:
    scan.sidecar.write_text(json.dumps(known))
    (_, _, _, path), context = run(tmp_path, scan)
    found = json.loads(path.read_text())["volumes"][0]["total_readout_time_s"]
    assert found == pytest.approx(seconds)
    assert [reason in fact.reason for fact in context.facts] == [True] * (seconds is not None)


def test_slice_times_follow_the_slices() -> None:
    times = {"SliceTiming": [0.0, 1.0, 2.0]}
    flipped = StorageChange((0, 1, 2), (False, False, True))
    same = StorageChange((0, 1, 2), (True, False, False))
    assert load.slice_timing(times, same) == [0, 1, 2]
    assert load.slice_timing(times, flipped) == [2, 1, 0]
    assert load.slice_timing(times | {"SliceEncodingDirection": "k-"}, same) == [2, 1, 0]
    assert load.slice_timing(times | {"SliceEncodingDirection": "i"}, same) is None
    assert load.slice_timing(times, StorageChange((2, 0, 1), (False,) * 3)) is None


def test_how_each_series_covered_k_space_is_told_in_the_axes_of_the_joined_one(tmp_path: Path) -> None:
    first, second = Scan(tmp_path, "run-1"), Scan(tmp_path, "run-2", seed=1)
    known = {"PartialFourier": 0.75, "PartialFourierDirection": "PHASE", "SliceEncodingDirection": "k"}
    second.sidecar.write_text(json.dumps(known))
    stored(second, (2, 0, 1), (-1, -1, 1))
    (_, _, _, path), _ = run(tmp_path, first, second)
    one, other = json.loads(path.read_text())["series"]
    assert (one["slice_encoding_direction"], one["partial_fourier"]) == ("k", None)
    steps = np.linalg.solve(OBLIQUE[:3, :3], second.affine[:3, 2])
    axis = int(np.abs(steps).argmax())
    assert axis != 2
    assert other["slice_encoding_direction"] == "ijk"[axis] + ("-" if steps[axis] < 0 else "")
    assert (other["partial_fourier"], other["partial_fourier_direction"]) == (0.75, "PHASE")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "SIDECAR_UNREADABLE"),
        ("[1]", "SIDECAR_UNREADABLE"),
        ('{"EchoTime": 79}', "SIDECAR_INVALID"),
        ('{"TotalReadoutTime": "0.05"}', "SIDECAR_INVALID"),
        ('{"PhaseEncodingDirection": "AP"}', "SIDECAR_INVALID"),
        ('{"SliceTiming": 3}', "SIDECAR_INVALID"),
        ('{"PartialFourier": "6/8"}', "SIDECAR_INVALID"),
        ('{"PartialFourier": 1.5}', "SIDECAR_INVALID"),
        ('{"PartialFourierDirection": 1}', "SIDECAR_INVALID"),
    ],
)
def test_a_sidecar_that_makes_no_sense_is_named(tmp_path: Path, scan: Scan, text: str, code: str) -> None:
    scan.sidecar.write_text(text)
    assert codes(tmp_path, scan) == [code]
