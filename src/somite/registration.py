"""Rigid registration of volumes on one grid, in world millimetres, on any affine and any number of slices.

A transform is a 4x4 matrix that takes a point of the reference, h, to where the same tissue lay when the
volume was acquired, u: resampling looks up the volume at u. Rotations are about the centre of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from somite.images import Grid
from somite.sampling import coefficients, sample, sample_slopes

Float = NDArray[np.float64]
Volume = NDArray[np.floating[Any]]
A = TypeVar("A")
B = TypeVar("B")

_EDGE_VOXELS = 0.05  # this far beyond the outermost voxel centres a sample still counts as inside
_PRIOR_MM = 5.0  # standard deviation of the motion expected
_ALIKE = 500.0  # voxels whose residuals go together, as those of contrast do: they count as one observation
_SCATTER = np.array([[1.7, 2.3, 3.1], [2.9, -1.3, 1.9], [-2.1, 3.7, 1.1]])
"""Rates, per mm: no two voxels of a scan give the same offset."""
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Region:
    """The voxels at which images are compared, and which motions are looked for."""

    grid: Grid
    voxels: NDArray[np.intp]
    """(n, 3) indices."""

    @cached_property
    def points(self) -> Float:
        """World positions (n, 3), mm."""
        return np.asarray(self.voxels @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3])

    @cached_property
    def centre(self) -> Float:
        """Mean of the points, mm: rotations are about it."""
        return np.asarray(self.points.mean(0))

    @cached_property
    def radius(self) -> float:
        """Root mean square distance of the points from the centre, mm."""
        return float(np.sqrt(((self.points - self.centre) ** 2).sum(1).mean())) or 1.0

    @cached_property
    def axes(self) -> Float:
        """(3, 3) as those of the grid."""
        return self.grid.axes

    @cached_property
    def to_voxels(self) -> Float:
        """(4, 4), world to voxel indices."""
        return np.asarray(np.linalg.inv(self.grid.affine))

    @cached_property
    def free(self) -> list[int]:
        """Of three rotations and three translations about and along `axes`, those that can be seen.

        A single slice shows only the motions that keep it in its plane.
        """
        thin = {axis for axis in range(3) if self.grid.shape[axis] == 1}
        rotations = [axis for axis in range(3) if not thin - {axis}]
        return rotations + [3 + axis for axis in range(3) if axis not in thin]

    def take(self, volume: NDArray[Any]) -> Float:
        """Values of a volume at the voxels, (n,)."""
        return np.asarray(volume[tuple(self.voxels.T)], np.float64)


def region_of(mask: NDArray[np.bool_], grid: Grid, most: int = 40_000) -> Region:
    """The region of a mask, thinned evenly to at most `most` voxels; all voxels where the mask is empty."""
    voxels = np.argwhere(mask if mask.any() else np.ones_like(mask))
    return Region(grid, voxels[:: max(1, -(-len(voxels) // most))])


def small_motion(parameters: Float, region: Region) -> Float:
    """Transform of the free parameters (k,), all in mm: a rotation is given as the arc at the radius."""
    full = np.zeros(6)
    full[region.free] = parameters
    rotation = region.axes @ Rotation.from_rotvec(full[:3] / region.radius).as_matrix() @ region.axes.T
    return about(region.centre, rotation, region.axes @ full[3:])


def small_parameters(transform: Float, region: Region) -> Float:
    """The free parameters (k,), in mm, of a transform: the inverse of `small_motion`."""
    # In the axes themselves, as `small_motion` has it: where they are mirrored, a world vector would be too.
    along = region.axes.T @ transform[:3, :3] @ region.axes
    turn = Rotation.from_matrix(along).as_rotvec() * region.radius
    shift = (transform[:3, :3] @ region.centre + transform[:3, 3] - region.centre) @ region.axes
    return np.asarray(np.concatenate([turn, shift])[region.free])


def about(centre: Float, rotation: Float, shift_mm: Float) -> Float:
    """Transform that rotates about a centre, then shifts."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = centre + shift_mm - rotation @ centre
    return transform


def displacement_mm(transform: Float, region: Region) -> float:
    """Mean distance over the region by which a transform moves its points."""
    moved = region.points @ transform[:3, :3].T + transform[:3, 3]
    return float(np.linalg.norm(moved - region.points, axis=1).mean())


def smooth(volume: Volume, fwhm_mm: float, grid: Grid) -> NDArray[np.float32]:
    """Gaussian smoothing by a width in mm, the same along every axis."""
    sigma = fwhm_mm * FWHM_TO_SIGMA / grid.voxel_mm
    return np.asarray(gaussian_filter(volume, sigma, mode="nearest", output=np.float32))


def look_up(spline: NDArray[np.float32], voxels: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Values (n,) at voxel positions (3, n), and which of them lie inside; others take the nearest edge's."""
    top = np.array(spline.shape, float)[:, None] - 1
    inside = ((voxels >= -_EDGE_VOXELS) & (voxels <= top + _EDGE_VOXELS)).all(0)
    held = np.clip(voxels, 0, top)
    return np.asarray(sample(spline, held.T)[0], np.float64), np.asarray(inside)


def resample(volume: Volume, transform: Float, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The volume as it would be without the motion, by a cubic spline, and the voxels that it covers.

    Beyond the volume's edge the nearest edge's value stands. The spline's undershoot below the volume's
    own minimum is cut.
    """
    if np.array_equal(transform, np.eye(4)):
        return np.asarray(volume, np.float32), np.ones(volume.shape, bool)
    matrix = np.linalg.inv(grid.affine) @ transform @ grid.affine
    inside = np.ones(volume.shape, bool)
    for row, length in zip(matrix[:3], volume.shape, strict=True):
        axes = np.ogrid[tuple(slice(n) for n in volume.shape)]
        position = sum(slope * axis for slope, axis in zip(row[:3], axes, strict=True)) + row[3]
        inside &= (position >= -_EDGE_VOXELS) & (position <= length - 1 + _EDGE_VOXELS)
    spline = coefficients(volume)
    values = affine_transform(
        spline, matrix[:3, :3], matrix[:3, 3], order=3, mode="mirror", prefilter=False, output=np.float32
    )
    values[~inside] = look_up(spline, matrix[:3, :3] @ np.argwhere(~inside).T + matrix[:3, 3:])[0]
    return np.maximum(values, volume.min()), inside


def mean_of(
    resampled: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean over the volumes that cover each voxel, and the voxels that at least half of them cover."""
    volumes = list(resampled)
    covered = np.sum([inside for _, inside in volumes], axis=0)
    total = np.sum([volume * inside for volume, inside in volumes], axis=0)
    held = np.mean([volume for volume, _ in volumes], axis=0)
    mean = np.where(covered > 0, total / np.maximum(covered, 1), held)
    return mean.astype(np.float32), 2 * covered >= len(volumes)


class LeastSquares:
    """Aligns volumes to a target of the same contrast, by Gauss-Newton steps on the target's side.

    The inverse compositional method (Baker and Matthews, IJCV 2004): the derivatives are the target's and
    so are computed once. One factor per volume scales its intensity.
    """

    def __init__(self, target: Volume, valid: NDArray[np.bool_], region: Region, fwhm_mm: float) -> None:
        smoothed = smooth(target, fwhm_mm, region.grid)
        self.region, self.fwhm_mm = region, fwhm_mm
        self.values, self.valid = region.take(smoothed), region.take(valid)
        self.derivatives = _derivatives(smoothed, region)

    def align(
        self,
        volume: Volume,
        start: Float,
        expected: Float | None = None,
        most_steps: int = 15,
        tolerance_mm: float = 3e-3,
    ) -> Float:
        """The transform of a volume: of all those passed on the way from `start`, the best fitting.

        What the images leave open is settled by a weak prior about the `expected` transform, or `start`.
        """
        region, spline = self.region, coefficients(smooth(volume, self.fwhm_mm, self.region.grid))
        expected = start if expected is None else expected
        transform, best, least = start, start, np.inf
        for _ in range(most_steps):
            values, inside = look_up(spline, _voxels_of(transform, region))
            weights = inside * self.valid
            seen = weights * values
            scale = float(seen @ self.values) / max(float(seen @ values), 1e-12)
            residuals = scale * values - self.values
            variance = float(weights @ residuals**2) / max(float(weights.sum()), 1.0)
            away = small_parameters(np.linalg.inv(expected) @ transform, region)
            prior = _ALIKE * max(variance, 1e-12) / _PRIOR_MM**2
            cost = variance + prior * float(away @ away) / max(float(weights.sum()), 1.0)
            if not cost < least:
                break
            least, best = cost, transform
            weighted = self.derivatives * weights[:, None]
            normal = weighted.T @ self.derivatives + prior * np.eye(len(away))
            step = np.asarray(np.linalg.solve(normal, weighted.T @ residuals + prior * away), np.float64)
            motion = small_motion(step, region)
            transform = transform @ np.linalg.inv(motion)
            if displacement_mm(motion, region) < tolerance_mm:
                return transform
        return best


def _voxels_of(transform: Float, region: Region) -> Float:
    """Where the region's points lie in a volume with this transform: voxel positions (3, n)."""
    matrix = region.to_voxels @ transform
    return np.asarray(matrix[:3, :3] @ region.points.T + matrix[:3, 3:])


def _derivatives(volume: Volume, region: Region) -> Float:
    """Change (n, k) of a volume's values at the region's points per mm of each free parameter."""
    by_voxel = np.zeros((len(region.voxels), 3))
    for axis in range(3):
        if volume.shape[axis] > 1:
            by_voxel[:, axis] = region.take(np.gradient(volume, axis=axis))
    slopes = by_voxel @ region.to_voxels[:3, :3] @ region.axes
    turning = np.cross((region.points - region.centre) @ region.axes, slopes) / region.radius
    return np.concatenate([turning, slopes], 1)[:, region.free]


@dataclass(frozen=True)
class Alignment:
    """A rigid transform, and how sure it is."""

    transform: Float
    """(4, 4)."""
    covariance: Float
    """(6, 6) mm2, of the rotation vector times the region's radius and of the shift, in the image's axes."""


def align_by_information(fixed: Volume, moving: Volume, region: Region, fwhm_mm: float) -> Alignment:
    """Alignment of `moving`, of another contrast, to `fixed`: the most mutual information.

    Histogram of hard bins of the fixed and cubic Parzen windows of the moving values (Mattes et al., IEEE
    TMI 2003), climbed by BFGS with exact derivatives, under a weak prior of small motion. Images are compared
    between their voxels: at them noise agrees best when nothing moves (Thevenaz et al., IEEE TIP 2008).
    Beyond the edge the nearest value stands: a slice that came in or fell out at once would end the climb.
    """
    n_bins = int(np.clip(np.sqrt(len(region.voxels)) / 2, 8, 48))  # or few points inform of every bin
    top = np.array(region.grid.shape) - 1
    points = region.points + scattered(region.points) * float(np.prod(region.grid.voxel_mm) ** (1 / 3))
    voxels = np.clip(points @ region.to_voxels[:3, :3].T + region.to_voxels[:3, 3], 0, top)
    points = voxels @ region.grid.affine[:3, :3].T + region.grid.affine[:3, 3]
    points = np.column_stack([points, np.ones(len(points))])
    still, spline = (coefficients(smooth(volume, fwhm_mm, region.grid)) for volume in (fixed, moving))
    fixed_values, moving_values = (sample(image, voxels)[0] for image in (still, spline))
    bins = np.clip(Binning.of(fixed_values, n_bins).scale(fixed_values), 0, n_bins - 1).astype(np.intp)
    binning = Binning.of(moving_values, n_bins)
    # N times the information is a log likelihood, beside which the prior stands.
    precision = _ALIKE / (_PRIOR_MM**2 * len(points))

    def cost(parameters: Float) -> tuple[float, Float]:
        matrix = (region.to_voxels @ small_motion(parameters, region))[:3]
        wanted = points @ matrix.T
        held = np.clip(wanted, 0, top)
        values, slopes = sample_slopes(spline, held)
        scaled = binning.scale(values)
        information, pull = mutual_information(bins, np.clip(scaled, 0, n_bins - 1 - 1e-6), n_bins)
        pull *= binning.per_unit * ((scaled > 0) & (scaled < n_bins - 1))
        by_matrix = region.to_voxels[:3, :3].T @ ((slopes * (held == wanted)).T * pull) @ points
        gradient = np.array([(by_matrix * change).sum() for change in _changes(parameters, region)])
        penalty = float(parameters @ parameters) * precision / 2
        return penalty - information, precision * parameters - gradient

    from scipy.optimize import minimize

    start = np.zeros(len(region.free))
    found = minimize(cost, start, (), "BFGS", jac=True, options={"gtol": 1e-4, "maxiter": 50})
    step = 0.1 * np.eye(len(start))
    curvature = np.array([(cost(found.x + s)[1] - cost(found.x - s)[1]) / 0.2 for s in step]) * len(points)
    sizes, axes = np.linalg.eigh((curvature + curvature.T) / 2)
    covariance = np.diag(np.full(6, _PRIOR_MM**2))
    covariance[np.ix_(region.free, region.free)] = (
        axes / np.maximum(sizes, precision * len(points))
    ) @ axes.T
    return Alignment(small_motion(found.x, region), covariance)


def scattered(points: Float) -> Float:
    """Offsets (n, 3) from -0.5 to 0.5 that depend on the place alone, not on the order of the points."""
    return np.asarray(np.modf(np.sin(points @ _SCATTER.T) * 1e3)[0] / 2)


@dataclass(frozen=True)
class Binning:
    """Scaling of values to bins: the first and the last half per cent share the outermost bins."""

    low: float
    per_unit: float

    @classmethod
    def of(cls, values: Volume, n_bins: int) -> Binning:
        """That of an image's values."""
        low, high = np.percentile(values, (0.5, 99.5))
        return cls(float(low), (n_bins - 1) / max(float(high - low), 1e-12))

    def scale(self, values: Volume) -> Float:
        """Values as positions among the bins, from 0 to n_bins - 1 and beyond."""
        return (np.asarray(values, np.float64) - self.low) * self.per_unit


def _changes(parameters: Float, region: Region, step: float = 1e-4) -> Iterator[Float]:
    """Derivative (3, 4) of the transform to each parameter."""
    for column in np.eye(len(parameters)) * step:
        after, before = small_motion(parameters + column, region), small_motion(parameters - column, region)
        yield (after - before)[:3] / (2 * step)


def mutual_information(
    bins: NDArray[np.intp], values: Float, n_bins: int
) -> tuple[float, NDArray[np.float64]]:
    """Mutual information, nats, of bins (n,) and values (n,) in [0, n_bins - 1), and its slope to each."""
    width = n_bins + 3
    whole = np.floor(values).astype(np.intp)
    x = values - whole
    windows = (
        (1 - x) ** 3 / 6,
        (3 * x**3 - 6 * x**2 + 4) / 6,
        (-3 * x**3 + 3 * x**2 + 3 * x + 1) / 6,
        x**3 / 6,
    )
    slopes = (-((1 - x) ** 2) / 2, (3 * x**2 - 4 * x) / 2, (-3 * x**2 + 2 * x + 1) / 2, x**2 / 2)
    cells = bins * width + whole
    counts = sum(np.bincount(cells + k, w, n_bins * width) for k, w in enumerate(windows))
    joint = np.reshape(counts, (n_bins, width)) / max(len(values), 1)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    log_ratio = np.log(np.where(joint > 0, joint, 1) / np.where(joint > 0, apart, 1))
    slope = sum(s * log_ratio.ravel()[cells + k] for k, s in enumerate(slopes)) / max(len(values), 1)
    return float((joint * log_ratio).sum()), np.asarray(slope)


def in_threads(work: Callable[[A], B], items: Iterable[A], threads: int) -> list[B]:
    """Results in the order of the items. Libraries are held to one thread each, so that sums do not vary."""
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
