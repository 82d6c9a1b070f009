"""What can be wrong with the voxels of a diffusion series: used by `load` and by `plan --deep`."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from somite.errors import DatasetError, Problem
from somite.gradient_check import name_volumes
from somite.images import length_of, open_image, read_float

_CHUNK = 1 << 22


def check_voxels(dwi: Path) -> tuple[Problem, ...]:
    """All that is wrong with an image: reads every voxel.

    `GZIP_TRUNCATED`, `IMAGE_UNREADABLE`, `NOT_4D`, `AFFINE_SINGULAR`, `NONFINITE_VOLUME`, `EMPTY_VOLUME`.
    """
    problems = check_file(dwi)
    if problems:
        return problems
    try:
        data, _ = read_float(dwi)
    except DatasetError as error:
        return error.problems
    return check_volumes(data, str(dwi))


def check_file(dwi: Path) -> tuple[Problem, ...]:
    """Whether the file is whole and its header is that of a 4D series; gzip's own checksum is compared."""
    try:
        image = open_image(dwi)
    except DatasetError as error:
        problem = check_head(dwi)
        return error.problems if problem is None else (problem,)
    problem = check_gzip(dwi, length_of(image)) if dwi.suffix == ".gz" else None
    if problem is not None:
        return (problem,)
    return check_shape(tuple(image.shape), str(dwi)) + check_affine(image.affine, str(dwi))


def check_shape(shape: tuple[int, ...], where: str) -> tuple[Problem, ...]:
    """`NOT_4D` for an image that is not a series of volumes."""
    if len(shape) == 4 and min(shape) > 0:
        return ()
    return (
        Problem(
            "NOT_4D",
            "the diffusion series is not a 4D image",
            where=where,
            found=" x ".join(str(n) for n in shape),
            expected="four axes: three of space, then one of volumes",
            do="join the volumes into one 4D file, in the order of the b-values",
        ),
    )


def check_affine(affine: NDArray[np.floating[Any]], where: str) -> tuple[Problem, ...]:
    """`AFFINE_SINGULAR` for a header that places voxels on one plane, line or point, or nowhere."""
    if np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-9:
        return ()
    return (
        Problem(
            "AFFINE_SINGULAR",
            "the image's header does not place its voxels in space",
            where=where,
            found=f"an affine whose axes are {np.asarray(affine)[:3, :3].tolist()}",
            expected="three independent axes, in mm",
            do="convert the series again, or set sform or qform in the header",
        ),
    )


def check_gzip(path: Path, length: int) -> Problem | None:
    """`GZIP_TRUNCATED` for a file that ends early, `IMAGE_UNREADABLE` for one whose content is damaged.

    nibabel reads as far as the last voxel and so never compares the checksum that follows it.

    Args:
        path: the file.
        length: bytes that its content should have. A file that goes on and on is not read to its end.
    """
    read, problem = _unpack(path, length + _CHUNK)
    if problem is None and read > length + _CHUNK:
        return _too_long(path, length)
    return problem


def check_head(path: Path) -> Problem | None:
    """The same, of the beginning of a file whose header cannot be read; None where it is not compressed."""
    return _unpack(path, _CHUNK)[1] if path.suffix == ".gz" else None


def _unpack(path: Path, most: int) -> tuple[int, Problem | None]:
    """Read until there is no more, or more than `most` bytes: how many there were, and what is wrong."""
    read = 0
    try:
        with igzip.open(path) as stream:
            while read <= most and (piece := stream.read(_CHUNK)):
                read += len(piece)
    except EOFError:
        return read, Problem(
            "GZIP_TRUNCATED",
            "the compressed image ends before its end",
            where=str(path),
            found=f"a gzip file cut off after {path.stat().st_size} bytes",
            expected="a whole gzip file",
            do="copy or download the file again, and compare its checksum with the original's",
        )
    except (OSError, zlib.error, isal_zlib.error) as error:  # type: ignore[misc]
        return read, Problem(
            "IMAGE_UNREADABLE",
            "the compressed image cannot be read",
            where=str(path),
            found=str(error),
            expected="a gzip file that agrees with its own checksum",
            do="copy or download the file again; if it is not compressed, name it .nii",
        )
    return read, None


def _too_long(path: Path, length: int) -> Problem:
    return Problem(
        "IMAGE_UNREADABLE",
        "the compressed image holds far more than its header promises",
        where=str(path),
        found=f"more than {length + _CHUNK} bytes",
        expected=f"{length} bytes, from its header",
        do="convert the image again, or copy it from its source",
    )


def check_volumes(data: NDArray[np.floating[Any]], where: str) -> tuple[Problem, ...]:
    """Volumes of a series (x, y, z, n) that hold NaN or infinity, or nothing: the same value everywhere."""
    n_volumes = data.shape[3]
    lowest = np.array([data[..., v].min() for v in range(n_volumes)])
    highest = np.array([data[..., v].max() for v in range(n_volumes)])
    # NaN and infinity both show in the extremes.
    nonfinite = np.flatnonzero(~np.isfinite(lowest) | ~np.isfinite(highest))
    empty = np.flatnonzero(lowest == highest)
    empty = np.setdiff1d(empty, nonfinite)
    problems = []
    if len(nonfinite):
        n_bad = sum(int((~np.isfinite(data[..., v])).sum()) for v in nonfinite)
        problems.append(
            Problem(
                "NONFINITE_VOLUME",
                "volumes hold NaN or infinite voxels",
                where=where,
                found=f"{n_bad} such voxels in {name_volumes(nonfinite)}",
                expected="finite numbers",
                do="convert the series again; if an earlier tool wrote the NaN, give its raw input",
            )
        )
    if len(empty):
        problems.append(
            Problem(
                "EMPTY_VOLUME",
                "volumes hold the same value in every voxel",
                where=where,
                found=f"{lowest[empty[0]]:g} throughout {name_volumes(empty)}",
                expected="an image in every volume",
                do="convert the series again, or leave the volumes out of image, bval and bvec",
            )
        )
    return tuple(problems)
