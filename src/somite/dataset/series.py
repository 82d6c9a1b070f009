"""One diffusion series of a dataset: header, gradients and sidecars read, and what is wrong with each.

Reads headers and text, and the last four bytes of a compressed image; never its voxels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from somite.bids import File, inherited, stem
from somite.dataset.grouping import given_direction
from somite.dataset.index import unreadable
from somite.dataset.sessions import Series, Shell
from somite.errors import DatasetError, Problem
from somite.gradient_check import Series as GradientFiles
from somite.gradient_check import check_group, count_directions, read_table
from somite.images import Grid, grid_of, length_of, open_image
from somite.interfaces.load import change_to_first, read_sidecar
from somite.interfaces.roi import shells as shells_of
from somite.voxel_check import check_gzip, check_head, check_shape

METADATA = (
    "EchoTime",
    "RepetitionTime",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
    "EstimatedTotalReadoutTime",
    "EffectiveEchoSpacing",
    "ReconMatrixPE",
    "SliceTiming",
    "SliceEncodingDirection",
    "MultibandAccelerationFactor",
    "ParallelReductionFactorInPlane",
    "PartialFourier",
    "PartialFourierDirection",
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
)
"""The fields of a sidecar that are kept: what the physics of a scan needs, and nothing that identifies."""

LINKS = ("IntendedFor", "B0FieldIdentifier", "B0FieldSource")
"""The fields that tell which images belong together: read, and not kept."""


_OF_THE_SCHEME = ("NO_B0", "FEW_DIRECTIONS")
"""Problems of the volumes that there are, not of the files: these can be read."""


@dataclass
class Sidecars:
    """The JSON files of a dataset, each read once; one at its root may serve every image."""

    _read: dict[Path, Mapping[str, Any] | tuple[Problem, ...]] = field(default_factory=dict)

    def read(self, path: Path) -> Mapping[str, Any]:
        """The fields in `METADATA` and `LINKS` of a sidecar.

        Raises:
            DatasetError: `UNREADABLE`, `SIDECAR_UNREADABLE`, `SIDECAR_INVALID`.
        """
        if path not in self._read:
            try:
                check_access(path, "the sidecar")
                content = read_sidecar(path)
                self._read[path] = {
                    key: _shared(content[key]) for key in (*METADATA, *LINKS) if key in content
                }
            except DatasetError as error:
                self._read[path] = error.problems
        found = self._read[path]
        if isinstance(found, tuple):
            raise DatasetError.of(found)
        return found


def _shared(value: Any) -> Any:
    """A text as one object, however many sidecars hold it."""
    return sys.intern(value) if isinstance(value, str) else value


def read_series(
    file: File, levels: Sequence[Sequence[File]], sidecars: Sidecars
) -> tuple[Series, tuple[Problem, ...]]:
    """A series and what is wrong with its image and sidecars; its gradients are looked at by `check_joined`.

    Args:
        file: the image.
        levels: the files of each folder from the dataset's root to that of the image.
        sidecars: what has been read already.
    """
    problems: list[Problem] = []
    companions: dict[str, Path | None] = {}
    for extension in (".bval", ".bvec"):
        try:
            found = inherited(file.name, extension, levels)
            companions[extension] = found[-1].path if found else None
        except DatasetError as error:
            problems += error.problems
            companions[extension] = None
    content, wrong_sidecars = read_sidecars(file, levels, sidecars)
    problems += wrong_sidecars
    metadata = {key: value for key, value in content.items() if key in METADATA}
    series = Series(file.path, companions[".bval"], companions[".bvec"], file.name.entities, metadata)
    try:
        grid, shape = read_header(file.path, "the diffusion series")
    except DatasetError as error:
        return series, (*problems, *error.problems)
    if wrong := check_shape(shape, str(file.path)):
        return series, (*problems, *wrong)
    affine = tuple((a, b, c, d) for a, b, c, d in grid.affine.tolist())
    return replace(series, shape=grid.shape, affine=affine, n_volumes=shape[3]), tuple(problems)


def read_sidecars(
    file: File, levels: Sequence[Sequence[File]], sidecars: Sidecars
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """What the sidecars of an image say, inheritance honoured, and what is wrong with them.

    Args:
        file: the image.
        levels: the files of each folder from the dataset's root to that of the image.
        sidecars: what has been read already.
    """
    try:
        chain = inherited(file.name, ".json", levels)
    except DatasetError as error:
        return {}, error.problems
    content: dict[str, Any] = {}
    problems: list[Problem] = []
    for sidecar in chain:
        try:
            content |= sidecars.read(sidecar.path)
        except DatasetError as error:
            problems += error.problems
    return content, tuple(problems)


def check_access(path: Path, what: str) -> bytes:
    """Open a file and read its last four bytes, of which an empty file has none.

    Raises:
        DatasetError: `UNREADABLE`, the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(-min(4, stream.seek(0, 2)), 2)
            return stream.read()
    except PermissionError as error:
        raise DatasetError(unreadable(path, what)) from error
    except OSError as error:
        link = path.is_symlink()
        raise DatasetError(
            Problem(
                "UNREADABLE",
                f"{what} cannot be opened",
                where=str(path),
                found="a link to a file that is not there" if link else error.strerror or str(error),
                expected="a file",
                do="fetch its content (datalad get, git annex get)" if link else "restore the file",
            )
        ) from error


def read_header(path: Path, what: str) -> tuple[Grid, tuple[int, ...]]:
    """Grid and shape of an image, from its header.

    A compressed image whose end does not tell the length that its header asks for is read through.

    Raises:
        DatasetError: `UNREADABLE`, `IMAGE_UNREADABLE`, `GZIP_TRUNCATED`, `AFFINE_SINGULAR`.
    """
    end = check_access(path, what)
    try:
        image = open_image(path)
    except DatasetError:
        if problem := check_head(path):
            raise DatasetError(problem) from None
        raise
    if problem := _truncated(path, image, end):
        raise DatasetError(problem)
    grid = grid_of(image)
    if not (np.isfinite(grid.affine).all() and grid.voxel_mm3 > 0):
        raise DatasetError(_singular(path, grid))
    return grid, tuple(int(n) for n in image.shape)


def _truncated(path: Path, image: nib.Nifti1Image, end: bytes) -> Problem | None:
    size = length_of(image)
    if path.suffix == ".gz":
        # RFC 1952: the last four bytes are the length of the content, modulo 2**32. A file of several gzip
        # members tells that of the last one, so a mismatch is a reason to look, not a verdict.
        whole = int.from_bytes(end, "little") == size % 2**32
        return None if whole else check_gzip(path, size)
    if path.stat().st_size >= size:
        return None
    return Problem(
        "IMAGE_UNREADABLE",
        "the image ends before its last voxel",
        where=str(path),
        found=f"{path.stat().st_size} bytes",
        expected=f"{size} bytes, from its header",
        do="copy or convert the file again, and compare its checksum with the original's",
    )


def _singular(path: Path, grid: Grid) -> Problem:
    return Problem(
        "AFFINE_SINGULAR",
        "the header does not say where the voxels lie",
        where=str(path),
        found=f"an affine of rows {grid.affine[:3, :3].tolist()}",
        expected="three axes of finite, non-zero length, not in one plane",
        do="convert the image again, or copy sform and qform from one of the same grid",
    )


def check_joined(
    series: Sequence[Series], b0_max: float, undistorted: bool = False
) -> tuple[tuple[Series, ...], tuple[Problem, ...]]:
    """Series that are to be joined, with their shells, and what is wrong with their gradients and grids.

    Args:
        series: those of one session.
        b0_max: up to this b-value, s/mm2, a volume counts as b=0.
        undistorted: whether their distortion by susceptibility will be corrected.
    """
    problems = list(_check_gradients([one for one in series if one.n_volumes], b0_max))
    if any(not one.n_volumes for one in series):
        # What the volumes of the others would add is not known.
        return tuple(series), tuple(p for p in problems if p.code not in _OF_THE_SCHEME)
    if all(problem.code in _OF_THE_SCHEME for problem in problems):
        series = [replace(one, shells=_shells(one, b0_max)) for one in series]
    if len(series) > 1:
        problems += _check_grids(series)
        problems += _check_echo_times(series)
        problems += () if undistorted else _check_directions(series)
    return tuple(series), tuple(problems)


def _check_gradients(series: Sequence[Series], b0_max: float) -> tuple[Problem, ...]:
    """What is wrong with the gradient files of series to be joined, each by itself and all together."""
    if not series:
        return ()
    problems: list[Problem] = []
    for path in (path for one in series for path in (one.bval, one.bvec) if path is not None):
        try:
            check_access(path, "the gradient file")
        except DatasetError as error:
            problems += error.problems
    if problems:
        return tuple(problems)
    return check_group([_gradient_files(one) for one in series], b0_max)


def _gradient_files(series: Series) -> GradientFiles:
    """The files of a series; where there is none, the one that would be expected, for the problem to name."""
    beside = {
        extension: series.dwi.with_name(stem(series.dwi) + extension) for extension in (".bval", ".bvec")
    }
    return GradientFiles(series.bval or beside[".bval"], series.bvec or beside[".bvec"], series.n_volumes)


def _shells(series: Series, b0_max: float) -> tuple[Shell, ...]:
    """The shells of a series whose gradient files have passed the checks."""
    assert series.bval is not None and series.bvec is not None
    bvals, directions = read_table(series.bval, series.bvec)
    centres = np.array(shells_of(bvals))
    nearest = centres[np.abs(bvals[:, None] - centres).argmin(1)]
    found = []
    for centre in centres:
        mine = nearest == centre
        weighted = directions[mine & (bvals > b0_max)]
        found.append(Shell(50 * round(centre / 50), int(mine.sum()), count_directions(weighted)))
    return tuple(found)


def _check_grids(series: Sequence[Series]) -> tuple[Problem, ...]:
    grids = [one.grid for one in series]
    try:
        change_to_first([one.dwi for one in series], [grid for grid in grids if grid is not None])
    except DatasetError as error:
        return error.problems
    return ()


def _check_directions(series: Sequence[Series]) -> tuple[Problem, ...]:
    found = {one.dwi.name: direction for one in series if (direction := given_direction(one))}
    if len(set(found.values())) < 2:
        return ()
    return (
        Problem(
            "SERIES_PE_OPPOSED",
            "the series to be joined are distorted in different directions, which is not corrected",
            where=str(series[0].dwi.parent),
            found=", ".join(f"{direction} in {name}" for name, direction in found.items()),
            expected="one direction, or series whose distortion has been corrected",
            do="runs: combine: same_pe processes each direction by itself; joined, the maps are blurred",
            severity="warning",
        ),
    )


def _check_echo_times(series: Sequence[Series]) -> tuple[Problem, ...]:
    times = {one.metadata["EchoTime"]: one.dwi.name for one in series if "EchoTime" in one.metadata}
    if not times or max(times) - min(times) < 1e-4:
        return ()
    return (
        Problem(
            "SERIES_ECHO_TIME",
            "the series to be joined differ in echo time",
            where=str(series[0].dwi.parent),
            found=", ".join(f"{1000 * te:g} ms in {name}" for te, name in sorted(times.items())),
            expected="one echo time: signals of different T2 weighting are fitted together",
            do="process the series separately (runs: combine), or accept the small bias",
            severity="warning",
        ),
    )
