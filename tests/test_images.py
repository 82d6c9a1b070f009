"""Reading voxels: nibabel's values, in the memory of the result, whatever the file's type and scaling."""

from __future__ import annotations

import gzip
import tracemalloc
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from somite import images
from somite.errors import DatasetError

SHAPE = (9, 8, 7, 5)


def stored(path: Path, data: np.ndarray, slope: float = 1.0, inter: float = 0.0, order: str = "<") -> Path:
    """A NIfTI file with these stored numbers and this scaling; nibabel's own writer would change both."""
    header = nib.Nifti1Header(endianness=order)
    header.set_data_shape(data.shape)
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(slope, inter)
    header.set_sform(np.diag([2.0, 2, 3, 1]), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    raw = header.binaryblock + bytes(4) + data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")
    path.write_bytes(gzip.compress(raw, 1) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    ("kind", "order", "extension"),
    list(product(["u1", "i2", "u2", "i4", "i8", "f4", "f8"], "<>", [".nii", ".nii.gz"])),
)
def test_values_are_the_scaled_ones_rounded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, order: str, extension: str
) -> None:
    monkeypatch.setattr(images, "_PIECE", 97)  # many pieces, the last one short
    data = np.random.default_rng(0).uniform(0, 250, SHAPE).astype(kind)
    for slope, inter in ((1.0, 0.0), (0.37, -12.5), (3e-5, 0.0)):
        path = stored(tmp_path / f"a{extension}", data, slope, inter, order)
        found, grid = images.read_float(path)
        slope, inter = nib.load(path).dataobj.slope, nib.load(path).dataobj.inter  # as the header rounds them
        assert found.dtype == np.float32 and grid.shape == SHAPE[:3]
        np.testing.assert_array_equal(found, (data.astype(float) * slope + inter).astype(np.float32))
        np.testing.assert_allclose(found, nib.load(path).get_fdata(), rtol=1e-6, atol=2e-5)


def test_a_plain_float_file_is_mapped_and_others_are_read(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    assert isinstance(images.read_float(stored(tmp_path / "a.nii", data))[0], np.memmap)
    for path in (stored(tmp_path / "b.nii.gz", data), stored(tmp_path / "c.nii", data, 2.0)):
        assert not isinstance(images.read_float(path)[0], np.memmap)


@pytest.mark.parametrize(("kind", "extension"), [("i2", ".nii"), ("i2", ".nii.gz"), ("f4", ".nii")])
def test_reading_a_scaled_series_takes_little_more_than_the_result(
    tmp_path: Path, kind: str, extension: str
) -> None:
    path = stored(tmp_path / f"a{extension}", np.ones((64, 64, 40, 20), kind), 1.7, 3.0)
    images.read_float(path)
    tracemalloc.start()
    data, _ = images.read_float(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes + 12e6  # nibabel's way takes four times the result: 52 MB here


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_file_that_ends_early_is_named(tmp_path: Path, extension: str) -> None:
    path = stored(tmp_path / f"a{extension}", np.random.default_rng(0).integers(0, 99, SHAPE, np.int16), 2.0)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DatasetError, match="IMAGE_UNREADABLE") as error:
        images.read_float(path)
    (problem,) = error.value.problems
    assert problem.where == str(path)
    assert (
        problem.found
        == {
            ".nii": "the file ends before its last voxel",
            ".nii.gz": "Compressed file ended before the end-of-stream marker was reached",
        }[extension]
    )


def test_garbage_inside_of_a_compressed_file_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, SHAPE, np.int16))
    raw = bytearray(path.read_bytes())
    raw[600:1400] = bytes(range(200)) * 4
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="IMAGE_UNREADABLE"):
        images.read_float(path)
