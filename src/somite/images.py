"""NIfTI in and out: float32, memory-mapped between steps, compressed at the end."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem

FloatArray = NDArray[np.floating[Any]]

_PIECE = 1 << 18
"""Voxels that are read and scaled at once: few enough for the processor's cache."""
_READING: tuple[Any, ...] = (OSError, EOFError, ValueError, zlib.error, isal_zlib.error)
"""What reading a damaged image may raise."""
_NIFTI2 = tuple((540).to_bytes(4, order) for order in ("little", "big"))
_LONGEST_HEADER = 1 << 26
"""Bytes before the first voxel: nibabel reads them all, and a few hundred are usual."""
_MOST_BYTES = 10**12
"""Of one image: more than any scanner makes, less than a damaged or hostile header may promise."""


def axes_of(affine: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(3, 3) columns: the orthonormal axes nearest to those of the voxels (polar decomposition)."""
    u, _, vt = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return np.asarray(u @ vt)


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: shape (3,) and the affine (4, 4) from voxel indices to world RAS+ millimetres."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        """Voxel sizes (3,) in mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3) columns: the orthonormal axes nearest to those of the voxels, in world axes."""
        return axes_of(self.affine)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def matches(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether both have the same shape and no corner lies further apart than `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
        corners[:, :3] *= np.array(self.shape) - 1
        apart = corners @ (self.affine - other.affine).T
        return bool(np.abs(apart).max() <= tolerance_mm)


def open_image(path: Path) -> nib.Nifti1Image:
    """The NIfTI image at `path`, its header read and its voxels not yet.

    Raises:
        DatasetError: `IMAGE_UNREADABLE`, the file is not a NIfTI image that can be read.
    """
    try:
        _check_header(path)
        image = nib.load(path)
    except (*_READING, nib.filebasedimages.ImageFileError) as error:
        raise unreadable(path, error) from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise unreadable(path, TypeError(f"a {type(image).__name__}"))
    if (size := length_of(image)) > _MOST_BYTES:
        shape = " x ".join(map(str, image.shape))
        raise unreadable(path, ValueError(f"a header that promises {shape} voxels, {size:.3g} bytes"))
    return image


def length_of(image: nib.Nifti1Image) -> int:
    """Bytes of the uncompressed file, as the header promises them."""
    stored: Any = image.dataobj  # the header's own offset is gone once nibabel has read it
    return int(stored.offset) + math.prod(image.shape) * int(stored.dtype.itemsize)


def _check_header(path: Path) -> None:
    """Raises ValueError where nibabel would read more than a header before the voxels."""
    with nib.openers.ImageOpener(str(path)) as file:
        raw = file.read(nib.Nifti2Header.sizeof_hdr)
    kind: Any = nib.Nifti2Header if raw[:4] in _NIFTI2 else nib.Nifti1Header
    if len(raw) >= kind.sizeof_hdr:
        offset = float(kind(raw[: kind.sizeof_hdr], check=False)["vox_offset"])
        if not offset <= _LONGEST_HEADER:
            raise ValueError(f"a header that promises {offset:.3g} bytes before the first voxel")


def unreadable(path: Path, error: Exception) -> DatasetError:
    """The error for an image that cannot be read."""
    return DatasetError(
        Problem(
            "IMAGE_UNREADABLE",
            "the image cannot be read",
            where=str(path),
            found=str(error) or type(error).__name__,
            expected="a whole NIfTI file (.nii or .nii.gz)",
            do="copy or convert the file again, and compare its checksum with the original's",
        )
    )


def grid_of(image: nib.Nifti1Image) -> Grid:
    """The grid of the first three axes of an image; axes that it lacks have length 1."""
    shape = (*image.shape, 1, 1, 1)[:3]
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), np.asarray(image.affine, np.float64))


def read_float(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """Voxels as float32, scaled as the header says, with their grid.

    An uncompressed float32 file without scaling is memory-mapped, read-only. Any other is read in pieces,
    scaled in float64 and rounded once: the memory is that of the result, the values are those of nibabel.

    Raises:
        DatasetError: `IMAGE_UNREADABLE`.
    """
    image = open_image(path)
    stored: Any = image.dataobj
    mapped = stored.dtype == np.float32 and _unscaled(stored)
    opener: Any = {".nii": open, ".gz": igzip.open}.get(path.suffix)
    try:
        if opener is None or stored.dtype.kind not in "iuf" or (mapped and opener is open):
            return np.asanyarray(stored).astype(np.float32, copy=False), grid_of(image)
        with opener(path, "rb") as file:
            return _read_scaled(file, stored), grid_of(image)
    except _READING as error:
        raise unreadable(path, error) from error


def _unscaled(stored: Any) -> bool:
    return (stored.slope, stored.inter) == (1, 0)


def _read_scaled(file: BinaryIO, stored: Any) -> NDArray[np.float32]:
    """The voxels of an open NIfTI file, described by nibabel's proxy, in Fortran order."""
    data = np.empty(stored.shape, np.float32, order="F")
    values = data.reshape(-1, order="F")
    file.seek(stored.offset)
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        raw = file.read(piece.size * stored.dtype.itemsize)
        if len(raw) < piece.size * stored.dtype.itemsize:
            raise EOFError("the file ends before its last voxel")
        numbers = np.frombuffer(raw, stored.dtype)
        if not _unscaled(stored):
            numbers = np.multiply(numbers, stored.slope, dtype=np.float64) + stored.inter
        piece[:] = numbers
    return data


def read_labels(path: Path) -> tuple[NDArray[np.int32], Grid]:
    """Voxels of a label image as int32, with their grid.

    Raises:
        DatasetError: `IMAGE_UNREADABLE`; `LABEL_NOT_INTEGER` where a value is not a whole number.
    """
    data, grid = read_float(path)
    whole = np.rint(data)
    if not np.array_equal(whole, data):
        raise DatasetError(
            Problem(
                "LABEL_NOT_INTEGER",
                "the label image holds values that are not whole numbers",
                where=str(path),
                found=f"{data[whole != data].flat[0]:g}",
                expected="integers",
                do="save the labels as integers; a probability image is a probseg, not a dseg",
            )
        )
    return whole.astype(np.int32), grid


def write(path: Path, data: NDArray[Any], grid: Grid) -> Path:
    """Write an uncompressed NIfTI-1 image with units mm and s, scanner-space codes; returns `path`.

    float64 is stored as float32, bool as uint8. The file is not compressed: what leaves the
    work folder is, by `somite.derivatives`.
    """
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    elif data.dtype == bool:
        data = data.astype(np.uint8)
    image = nib.Nifti1Image(data, grid.affine)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def check_grid(code: str, path: Path, own: Grid, grid: Grid) -> None:
    """Refuse an image that does not lie on the grid of the diffusion series.

    Args:
        code: of the problem.
        path: of the image.
        own: its grid.
        grid: of the series.

    Raises:
        DatasetError: with this code.
    """
    if not own.matches(grid):
        raise DatasetError(
            Problem(
                code,
                "the image does not lie on the grid of the diffusion series",
                where=str(path),
                found=f"shape {own.shape}, affine {np.round(own.affine, 4).tolist()}",
                expected=f"shape {grid.shape}, affine {np.round(grid.affine, 4).tolist()}",
                do="resample it on the grid of the series, label images with the step transfer",
            )
        )
