"""Where the tissue of each volume lay: rounds of fits, each on images less smoothed than those before.

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

from somite.correction import believe, fit, slices
from somite.correction.predict import Kriging
from somite.correction.series import Encoding, Float, Float32, Ints, Pose, Series, Sites
from somite.correction.shells import shells_of
from somite.gradients import Gradients
from somite.images import Grid
from somite.registration import Region, align_by_information, in_threads

Mask = NDArray[np.bool_]

_WIDTHS = (4.0, 2.5, 1.5, 1.5, 1.5)
"""Smoothing in the rounds, full widths at half maximum in mean voxel sizes. Below 1.5 voxels the aliasing
of edges, which stands still while the body moves, pulls at the estimate."""
_B0_ROUNDS = 2
_SEARCHES = 4
_AT_ONCE = 8
_LINK_FWHM_MM = 2.0
_LINK_MM = (0.05, 0.2)
"""What mutual information is off by at best: b=0 against the first group of weighted volumes, and others."""
_LINK_BEYOND = 3.0
"""By what factor it is surer of itself than it should be."""


@dataclass(frozen=True)
class Acquisition:
    """A series as it was acquired, and what is known of it."""

    data: NDArray[np.floating[Any]]
    """(x, y, z, n), finite."""
    gradients: Gradients
    """Of its volumes, world axes."""
    encoding: Encoding
    """Phase encoding of its volumes."""
    mask: Mask
    """(x, y, z) where volumes are compared."""
    grid: Grid
    field: NDArray[np.floating[Any]] | None = None
    """(x, y, z) displacement by susceptibility, voxels per second of readout, in the space of the first b=0
    volume."""
    begins: Sequence[int] = (0,)
    """Volumes with which a series of its own begins: the body may have moved before them."""


@dataclass(frozen=True)
class Options:
    """What is looked for."""

    degree: int = 2
    """Of the polynomial of distortion; 0: motion only."""
    b0_max: float = 50.0
    """s/mm2."""
    find_lost: bool = True
    """Whether slices that lost signal are looked for, and left out of the estimate."""
    replace_lost: bool = True
    """Whether the prediction then takes their place."""
    slice_axis: int = 2
    """Voxel axis along which slices were acquired."""
    moving: bool = True
    """Whether volumes move and eddy currents distort them; if not, the field alone distorts."""


@dataclass(frozen=True)
class Estimate:
    """What was found."""

    acquisition: Acquisition
    options: Options
    series: Series
    groups: list[Ints]
    """Volumes of b=0, then those of each shell and phase encoding."""
    scores: Float
    """(n, s) z-scores of slices."""

    @property
    def pose(self) -> Pose:
        """Motion and distortion."""
        return self.series.pose

    @property
    def searched(self) -> Mask:
        """(n,) volumes in which lost slices were looked for: those with enough others of their contrast."""
        searched = np.zeros(self.series.n, bool)
        for volumes in self.groups:
            looks = self.options.moving and self.options.find_lost
            searched[volumes] = looks and len(volumes) >= slices.FEWEST_VOLUMES
        return searched

    @property
    def gradients(self) -> Gradients:
        """As the tissue saw them."""
        return turned(self.acquisition.gradients, self.pose)


def turned(gradients: Gradients, pose: Pose) -> Gradients:
    """Directions as the tissue saw them (Leemans and Jones, Magn Reson Med 61:1336, 2009)."""
    return Gradients(gradients.bvals, np.einsum("nji,nj->ni", pose.rotations, gradients.bvecs))


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


def estimate(acquisition: Acquisition, options: Options, threads: int = 1) -> Estimate:
    """Motion and distortion of every volume relative to the first b=0 volume.

    Args:
        acquisition: the series.
        options: what is looked for.
        threads: to use; results do not depend on it.
    """
    one = acquisition
    degree = options.degree if options.moving else 0
    sites = Sites.of(one.mask, one.grid)
    series = Series(one.data, one.encoding, sites, degree, one.field, options.slice_axis, threads)
    groups = groups_of(one.gradients, one.encoding, options.b0_max)
    scores = np.zeros(series.lost.shape)
    if not options.moving:
        return Estimate(one, options, series, groups, scores)
    voxel = float(np.prod(one.grid.voxel_mm) ** (1 / 3))
    design = believe.Design.of(one.gradients.bvals, one.gradients.bvecs, one.encoding.readouts, groups[1:])
    with threadpool_limits(1):  # sums must not depend on how many threads BLAS takes
        series.smooth(_WIDTHS[0] * voxel)
        _align_to_first(series, groups[0])
        _start_between(series, groups[0], one.begins)
        expected = series.pose.vectors(series.sites.radius)
        for number, width in enumerate(_WIDTHS):
            first = number == 0
            if not first:
                series.smooth(width * voxel)
            _align_b0s(series, groups[0], expected)
            for volumes in groups[1:]:
                _align(series, volumes, expected, distorts=not first)
            links = [] if first else _links(series, groups)
            _believe(series, groups, design, np.asarray(one.begins), links, distorts=not first)
            if options.find_lost and not first:
                scores = _find_lost(series, groups, one.gradients, number == 1)
    return Estimate(one, options, series, groups, scores)


def _align_to_first(series: Series, b0s: Ints) -> None:
    """Bring the b=0 volumes to the first."""
    target, there = series.values(int(b0s[0]), series.frame)
    weights = fit.known(series, there[None] > 0)
    in_threads(
        lambda v: fit.fit(series, int(v), target, weights, np.zeros(6), distorts=False, most_steps=20),
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
        fit.fit(series, volume, target, weights, expected[volume], distorts=distorts)

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
    region = Region(sites.grid, sites.voxels[sites.deep])
    below = _mean(series, groups[0])

    def link(number: int) -> believe.Link:
        volumes = groups[1 + number]
        mean = _mean(series, volumes)
        found = align_by_information(below, mean, region, _LINK_FWHM_MM)
        turn = Rotation.from_matrix(found.transform[:3, :3]).as_rotvec() * sites.radius
        shift = found.transform[:3, :3] @ sites.centre + found.transform[:3, 3] - sites.centre
        spread = np.sqrt(np.diag(found.covariance)) * np.repeat([sites.radius / region.radius, 1], 3)
        spread = np.hypot(_LINK_BEYOND * spread, _LINK_MM[min(number, 1)])
        return believe.Link(volumes, np.r_[turn @ sites.grid.axes, shift @ sites.grid.axes], spread)

    return [link(number) for number in range(len(groups) - 1)]


def _mean(series: Series, volumes: Ints) -> Float32:
    """Mean (x, y, z) of volumes in the place of the reference."""
    total = np.zeros(series.sites.grid.shape, np.float32)
    for first in range(0, len(volumes), _AT_ONCE):  # so many, and no more, are held in memory
        some = volumes[first : first + _AT_ONCE]
        for one in in_threads(lambda v: series.placed(int(v)), some, series.threads):
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
    # In the image's axes: along one of them eddy currents act, and across the slices less is seen.
    axes = np.kron(np.eye(2), series.sites.grid.axes)
    along, signed = series.directions @ axes[:3, :3], design.signed(series.encoding.signs)
    vectors = believe.motion(pose.vectors(radius) @ axes, signed, along, begins, links) @ axes.T
    turns, shifts = series.sites.seen
    seen = np.hstack([vectors[:, :3] @ turns, vectors[:, 3:] @ shifts])
    pose.set_vectors(weighted, seen[weighted], radius)


def _find_lost(series: Series, groups: Sequence[Ints], gradients: Gradients, first: bool) -> Float:
    """Mark slices that lost signal; returns the z-scores (n, s) of all.

    A loss not yet known dims what its volume foretells of others, and hides theirs: so in the `first`
    search the great ones are suspected, and it goes on, each time over all slices, until it finds the same.
    """
    directions, scores = turned(gradients, series.pose).bvecs, np.zeros(series.lost.shape)
    bounds = [slices.LOST, slices.SUSPECT] if first else [slices.LOST]
    for _ in range(_SEARCHES):
        before, values = series.lost, series.values_of(groups)
        kriging = Kriging.of(slices.by_parts(series, values), directions, groups)
        series.lost, scores = slices.find(series, groups, kriging.without_itself() @ values, bounds)
        if np.array_equal(series.lost, before):
            break
        bounds = [slices.LOST]
    return scores
