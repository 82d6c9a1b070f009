"""Motion and eddy-current distortion of a series, and the series without them, in one resampling.

The b=0 volumes are brought to the first, the volumes of each shell and phase encoding to their mean, each
with its own rigid motion and polynomial; of what is found, `believe` keeps what can be true. Slices that
lost signal are found against what the other volumes foretell, and take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from somite.corrected import Corrected, Outlier, polynomial
from somite.correction import believe, fit, predict, slices
from somite.correction.gaps import touches
from somite.correction.series import Encoding, Float, Float32, Ints, Pose, Series, Sites
from somite.correction.shells import shells_of
from somite.gradients import Gradients
from somite.images import Grid
from somite.registration import Region, align_by_information, displacement_mm, in_threads, region_of
from somite.sampling import coefficients, sample

Mask = NDArray[np.bool_]

_WIDTHS = (4.0, 2.5, 1.5, 1.5, 1.5, 1.5)
"""Smoothing in the rounds, full widths at half maximum in mean voxel sizes. Below 1.5 voxels the aliasing
of edges, which stands still while the body moves, pulls at the estimate."""
_EXPECTED = fit.Prior(np.zeros(6), 20.0)
_B0_ROUNDS = 2
_AT_ONCE = 8
_LINK_FWHM_MM = 2.0
_LINK_MM = (0.05, 0.2)
"""What mutual information is off by between b=0 and the lowest shell, and between shells."""


@dataclass(frozen=True)
class Options:
    """What is corrected."""

    degree: int = 2
    """Of the polynomial of distortion; 0: motion only."""
    b0_max: float = 50.0
    """s/mm2."""
    find_lost: bool = True
    """Whether slices that lost signal are looked for."""
    slice_axis: int = 2
    """Voxel axis along which slices were acquired."""


@dataclass(frozen=True)
class Estimate:
    """Where the tissue of each volume lay."""

    series: Series
    groups: list[Ints]
    """Volumes of b=0, then those of each shell and phase encoding."""
    scores: Float
    """(n, s) z-scores of slices."""

    @property
    def pose(self) -> Pose:
        """Motion and distortion."""
        return self.series.pose


def groups_of(gradients: Gradients, encoding: Encoding, b0_max: float) -> list[Ints]:
    """Volumes of b=0, then of each shell; one of several phase encodings in parts, if not small."""
    is_b0 = gradients.is_b0(b0_max)
    groups = [np.flatnonzero(is_b0)]
    for shell in shells_of(gradients.bvals, is_b0):
        parts = [
            shell[encoding.same_as(v)[shell]]
            for v in sorted({_first_like(encoding, shell, v) for v in shell})
        ]
        groups += parts if min(map(len, parts)) >= 4 else [shell]
    return groups


def _first_like(encoding: Encoding, shell: Ints, volume: int) -> int:
    return int(shell[encoding.same_as(volume)[shell]][0])


def estimate(
    data: NDArray[np.floating[Any]],
    gradients: Gradients,
    encoding: Encoding,
    mask: Mask,
    grid: Grid,
    options: Options,
    *,
    field: NDArray[np.floating[Any]] | None = None,
    begins: Sequence[int] = (0,),
    threads: int = 1,
) -> Estimate:
    """Motion and distortion of every volume relative to the first b=0 volume.

    Args:
        data: (x, y, z, n), finite.
        gradients: of its volumes, world axes.
        encoding: phase encoding of its volumes.
        mask: (x, y, z) where volumes are compared.
        grid: of data.
        options: see `Options`.
        field: (x, y, z) displacement by susceptibility, voxels per second of readout, in the space of the
            first b=0 volume.
        begins: volumes with which a series of its own begins: the body may have moved before them.
        threads: to use; results do not depend on it.
    """
    series = Series(data, encoding, Sites.of(mask, grid), options.degree, field, options.slice_axis, threads)
    groups = groups_of(gradients, encoding, options.b0_max)
    voxel = float(np.prod(grid.voxel_mm) ** (1 / 3))
    design = believe.Design.of(gradients.bvals, gradients.bvecs, encoding.readouts, groups[1:])
    scores = np.zeros(series.lost.shape)
    expected = np.zeros((series.n, 6))
    with threadpool_limits(1):  # sums must not depend on how many threads BLAS takes
        for number, width in enumerate(_WIDTHS):
            series.smooth(width * voxel)
            if number == 0:
                _align_to_first(series, groups[0])
                _start_between(series, groups[0], begins)
                expected = series.pose.vectors(series.sites.radius)
            _align_b0s(series, groups[0], expected)
            for volumes in groups[1:]:
                _align(series, volumes, expected, distorts=number > 0)
            links = _links(series, groups) if number > 0 else []
            _believe(series, groups, design, np.asarray(begins), links, distorts=number > 0)
            if options.find_lost and number > 0:
                series.lost, scores = slices.find(series, groups, foretold(series, groups, gradients))
    return Estimate(series, groups, scores)


def _align_to_first(series: Series, b0s: Ints) -> None:
    """Bring the b=0 volumes to the first."""
    target, there = series.values(int(b0s[0]), series.frame)
    weights = fit.known(series, there[None] > 0)
    in_threads(
        lambda v: fit.fit(series, int(v), target, weights, distorts=False, prior=_EXPECTED, most_steps=20),
        b0s[1:],
        series.threads,
    )


def _align_b0s(series: Series, b0s: Ints, expected: Float) -> None:
    """Bring the b=0 volumes to their mean; the first stays where it is."""
    first = int(b0s[0])
    for _ in range(_B0_ROUNDS if len(b0s) > 1 else 0):
        _align(series, b0s, expected, distorts=False)
        series.pose.refer_to(b0s, series.pose.rotations[first].copy(), series.pose.shifts[first].copy())
        series.pose.put(first, (np.eye(3), np.zeros(3), series.pose.distortion[first].copy()))


def _align(series: Series, volumes: Ints, expected: Float, *, distorts: bool) -> None:
    """Bring each volume to the mean of all: to that of the others, two would change places for ever."""
    if len(volumes) < 2:
        return
    values, there = series.gather(volumes)
    target, weights = values.mean(0), fit.known(series, there)

    def one(number: int) -> None:
        volume = int(volumes[number])
        prior = fit.Prior(expected[volume], _EXPECTED.precision)
        fit.fit(series, volume, target, weights, distorts=distorts, prior=prior)

    in_threads(one, range(len(volumes)), series.threads)


def _start_between(series: Series, b0s: Ints, begins: Sequence[int]) -> None:
    """Start each weighted volume from the motion of the b=0 volumes of its series before and after it."""
    radius = series.sites.radius
    vectors = series.pose.vectors(radius)
    part = np.searchsorted(np.asarray(begins), np.arange(series.n), side="right")
    for number in np.unique(part):
        own = np.flatnonzero(part == number)
        known = np.intersect1d(b0s, own)
        if not len(known):
            known = b0s
        between = np.column_stack([np.interp(own, known, column) for column in vectors[known].T])
        others = ~np.isin(own, b0s)
        series.pose.set_vectors(own[others], between[others], radius)


def _links(series: Series, groups: Sequence[Ints]) -> list[believe.Link]:
    """Where the mean of each group lies beside the b=0 mean, by mutual information."""
    sites = series.sites
    region = Region(sites.grid, sites.voxels[sites.core])
    below, links = mean_volume(series, groups[0]), []
    # Along a limb an image hardly changes, and what is found of a motion along it says little.
    power = (fit.change(series, int(groups[0][0]), below[tuple(sites.voxels.T)], False)[:, :6] ** 2).sum(0)
    vague = np.sqrt(power.max() / np.maximum(power, 1e-2 * power.max()))
    for number, volumes in enumerate(groups[1:]):
        mean = mean_volume(series, volumes)
        common = align_by_information(below, mean, region, _LINK_FWHM_MM)
        turn = Rotation.from_matrix(common[:3, :3]).as_rotvec() * sites.radius
        shift = common[:3, :3] @ sites.centre + common[:3, 3] - sites.centre
        links.append(believe.Link(volumes, np.r_[turn, shift], _LINK_MM[min(number, 1)] * vague))
    return links


def mean_volume(series: Series, volumes: Ints) -> Float32:
    """Mean (x, y, z) of volumes in the place of the reference."""
    total = np.zeros(series.sites.grid.shape, np.float32)
    for first in range(0, len(volumes), _AT_ONCE):  # so many, and no more, are held in memory
        some = volumes[first : first + _AT_ONCE]
        for one in in_threads(lambda v: _placed(series, int(v)), some, series.threads):
            total += one
    return total / np.float32(len(volumes))


def _believe(
    series: Series,
    groups: Sequence[Ints],
    design: believe.Design,
    begins: Ints,
    links: Sequence[believe.Link],
    *,
    distorts: bool,
) -> None:
    pose, radius = series.pose, series.sites.radius
    weighted = np.concatenate([*groups[1:], np.empty(0, np.intp)]).astype(np.intp)
    if not len(weighted):
        return
    if distorts and len(series.powers):
        sizes = np.sqrt((series.core.values**2).mean(0)).astype(np.float64)
        pose.distortion[weighted] = believe.eddy_terms(pose.distortion[weighted], sizes, design, weighted)
    vectors = believe.motion(
        pose.vectors(radius), design.signed(series.encoding.signs), series.directions, begins, links
    )
    turns, shifts = series.sites.seen
    seen = np.hstack([vectors[:, :3] @ turns, vectors[:, 3:] @ shifts])
    pose.set_vectors(weighted, seen[weighted], radius)


def turned(gradients: Gradients, pose: Pose) -> Gradients:
    """Directions as the tissue saw them (Leemans and Jones, Magn Reson Med 61:1336, 2009)."""
    return Gradients(gradients.bvals, np.einsum("nji,nj->ni", pose.rotations, gradients.bvecs))


def foretold(series: Series, groups: Sequence[Ints], gradients: Gradients) -> list[Float32]:
    """For each group, what each volume should show by the others (v, m), at all sites."""
    predicted = [_mean_of_others(series.gather(groups[0])[0])]
    if len(groups) > 1:
        weighted, labels, values = _weighted(series, groups)
        directions = turned(gradients, series.pose).bvecs[weighted]
        rows = predict.without_itself(*predict.covariance(values, directions, labels)) @ values
        predicted += [rows[labels == label] for label in range(len(groups) - 1)]
    return predicted


def _mean_of_others(values: Float32) -> Float32:
    if len(values) < 2:
        return values
    return np.asarray((values.sum(0) - values) / np.float32(len(values) - 1))


def correct(
    data: NDArray[np.floating[Any]],
    gradients: Gradients,
    encoding: Encoding,
    mask: Mask,
    grid: Grid,
    options: Options,
    *,
    field: NDArray[np.floating[Any]] | None = None,
    begins: Sequence[int] = (0,),
    still: bool = False,
    threads: int = 1,
) -> Corrected:
    """The series without motion and distortion, and what was found; arguments as those of `estimate`.

    Args:
        still: take the volumes to be without motion and eddy currents: only the field is corrected.
    """
    if still:
        series = Series(data, encoding, Sites.of(mask, grid), 0, field, options.slice_axis, threads)
        found = Estimate(series, groups_of(gradients, encoding, options.b0_max), np.zeros(series.lost.shape))
    else:
        found = estimate(
            data, gradients, encoding, mask, grid, options, field=field, begins=begins, threads=threads
        )
    corrected = resampled(found)
    replaced = replace_lost(corrected, found, gradients)
    lost = np.argwhere(found.series.lost)
    outliers = [Outlier(int(v), int(s), float(found.scores[v, s]), int(replaced[v])) for v, s in lost]
    gradients = turned(gradients, found.pose)
    return Corrected(corrected, gradients, motion_table(found, mask, grid), outliers, distortion_table(found))


def motion_table(found: Estimate, mask: Mask, grid: Grid) -> Float:
    """(n, 7): shift in mm, rotation vector in degrees, mean displacement over the region in mm.

    World RAS+ axes, about the centre of the region: where the body was when the volume was acquired,
    relative to the first b=0 volume. A constant eddy current along phase encoding is part of the shift.
    """
    region = region_of(mask, grid)
    transforms = found.pose.transforms(found.series.sites.centre)
    rotations = Rotation.from_matrix(transforms[:, :3, :3]).as_rotvec()
    shifts = transforms[:, :3, :3] @ region.centre + transforms[:, :3, 3] - region.centre
    moved = [displacement_mm(transform, region) for transform in transforms]
    return np.column_stack([shifts, np.rad2deg(rotations), moved])


def distortion_table(found: Estimate) -> Float:
    """(n, 11) as `Corrected.distortion`: about the centre of the image, towards higher voxel indices."""
    series = found.series
    sites, grid = series.sites, series.sites.grid
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    points = sites.points[sites.core] + sites.centre - middle
    along = series.core.values.astype(np.float64) @ series.pose.distortion.T * series.encoding.signs
    coefficients_of = np.linalg.lstsq(polynomial(points), along, rcond=None)[0].T
    return np.column_stack([coefficients_of, np.sqrt((along**2).mean(0))])


def resampled(found: Estimate) -> NDArray[np.float32]:
    """The series (x, y, z, n) in the place of the first b=0 volume: one cubic interpolation of each volume.

    Beyond the edge of a volume the nearest edge's value stands. The spline's undershoot below the volume's
    minimum is cut.
    """
    series = found.series
    shape = series.data.shape
    out = np.empty(shape, np.float32, order="F")

    def one(volume: int) -> None:
        out[..., volume] = _placed(series, volume)

    in_threads(one, range(series.n), series.threads)
    return out


def _placed(series: Series, volume: int) -> Float32:
    """A volume (x, y, z) in the place of the reference."""
    raw = np.asarray(series.data[..., volume], np.float32)
    spline, least, edge = coefficients(raw), raw.min(), np.array(raw.shape, np.float32) - 1
    placed = np.empty(raw.shape, np.float32)
    for z, frame in enumerate(series.slabs):
        at, factor = series.places(volume, frame)
        values, _ = sample(spline, np.clip(at, 0, edge))
        placed[:, :, z] = (np.maximum(values, least) * np.maximum(factor, 0)).reshape(raw.shape[:2])
    return placed


def replace_lost(corrected: NDArray[np.float32], found: Estimate, gradients: Gradients) -> Mask:
    """Put the prediction where a volume drew on a lost slice, in place; returns the volumes (n,) with one.

    A volume of b=0 without another has none, and keeps what it has.
    """
    series = found.series
    directions = turned(gradients, series.pose).bvecs
    replaced = np.zeros(series.n, bool)
    if not series.lost.any():
        return replaced
    with threadpool_limits(1):
        weights = _weights_of(found, directions)
    originals: dict[int, Float32] = {}
    for volume in map(int, np.flatnonzero(series.lost.any(1) & weights.any(1))):
        originals[volume] = corrected[..., volume].copy()
        replaced[volume] = True
    for volume in originals:
        for z, frame in enumerate(series.slabs):
            at, _ = series.places(volume, frame)
            lost = touches(at, series.lost[volume], series.slice_axis).reshape(corrected.shape[:2])
            if lost.any():
                others = np.stack(
                    [originals.get(v, corrected[..., v])[:, :, z][lost] for v in range(series.n)]
                )
                corrected[:, :, z, volume][lost] = np.maximum(weights[volume] @ others, 0)
    return replaced


def _weights_of(found: Estimate, directions: Float) -> NDArray[np.float32]:
    """Weights (n, n) by which each volume is foretold from the others; zeros where it cannot be."""
    series, groups = found.series, found.groups
    weights = np.zeros((series.n, series.n), np.float32)
    b0s = groups[0]
    if len(b0s) > 1:
        weights[np.ix_(b0s, b0s)] = (1 - np.eye(len(b0s))) / (len(b0s) - 1)
    if len(groups) > 1:
        weighted, labels, values = _weighted(series, groups)
        of_others = predict.without_itself(*predict.covariance(values, directions[weighted], labels))
        weights[np.ix_(weighted, weighted)] = of_others
    return weights


def _weighted(series: Series, groups: Sequence[Ints]) -> tuple[Ints, Ints, Float32]:
    """The weighted volumes, the group of each, and their values (v, m) at all sites."""
    labels = np.repeat(np.arange(len(groups) - 1), [len(g) for g in groups[1:]])
    values = np.concatenate([series.gather(group)[0] for group in groups[1:]])
    return np.concatenate(groups[1:]), labels, values
