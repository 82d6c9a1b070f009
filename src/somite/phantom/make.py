"""One participant of a phantom in memory: signal, gradients, labels, and their truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.errors import ConfigError, Problem
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import change, kspace, noise, paint, scan
from somite.phantom.anatomy import Anatomy, rigid, with_edges
from somite.phantom.change import Change
from somite.phantom.protocol import Protocol, seeds_of, unknown_variant
from somite.phantom.scan import Scan
from somite.phantom.tissue import Floats
from somite.phantom.truth import Truth, of_labels
from somite.segments import Label

REFERENCE_SIGNAL = 1000.0
"""Signal of the reference tissue at b=0, units of the scanner."""
_AXES = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
_B0 = Gradients(np.zeros(1), np.zeros((1, 3)))


@dataclass(frozen=True)
class Phantom:
    """One participant of a phantom."""

    dwi: NDArray[np.float32]
    """(x, y, z, n volumes). The reference tissue at b=0 is about 1000."""
    gradients: Gradients
    grid: Grid
    sigma: float
    """Standard deviation of the noise, units of `dwi`; 0 without noise."""
    labels: NDArray[np.int16]
    """The segments (x, y, z): 0 where nothing is measured."""
    label_table: tuple[Label, ...]
    """The segments, then their partial-volume edges (region `partial_volume`, index + 100)."""
    whole: NDArray[np.int16]
    """The whole structures that the segments are parts of (x, y, z)."""
    whole_table: tuple[Label, ...]
    """The same of them."""
    fa: NDArray[np.float32]
    """True FA (x, y, z): the mean over the voxel. It is the tissue's own where the voxel is pure."""
    md: NDArray[np.float32]
    """True MD, mm2/s."""
    s0: NDArray[np.float32]
    """True signal at b=0, units of `dwi`."""
    truth: tuple[Truth, ...]
    """One of each segment, in the order of `label_table`. At the pose of the first volume, undistorted."""
    motion: Floats
    """Affines (n, 4, 4) in world mm: where the body of volume 0 lies in each volume."""
    moves: bool
    """Whether it lies elsewhere in any."""
    anatomy: Anatomy
    """At the pose of the first volume."""
    reverse_b0: NDArray[np.float32] | None = None
    """(x, y, z): a b=0 image of the opposite phase encoding, where the series is distorted."""
    displacement: NDArray[np.float32] | None = None
    """(x, y, z): of what lies in each voxel of volume 0, towards posterior along phase encoding, mm."""
    eddies: Floats | None = None
    """(n, 4), as of `scan.eddies`."""
    lost: tuple[tuple[int, int], ...] = ()
    """Volumes and slices without signal."""


def grid(
    voxel_mm: float | Sequence[float],
    axes: str,
    tilt_deg: Sequence[float],
    field_of_view_mm: Sequence[float],
    centre_mm: Sequence[float],
) -> Grid:
    """A grid around a phantom.

    Args:
        voxel_mm: voxel size, or three along the stored axes.
        axes: direction of each stored axis, as `LAS` or `PSR`.
        tilt_deg: how the whole grid is turned about x, y and z (right-handed).
        field_of_view_mm: extent along x, y and z before the tilt.
        centre_mm: of the field of view, world.
    """
    sizes = np.broadcast_to(np.asarray(voxel_mm, np.float64), 3)
    columns = np.zeros((3, 3))
    shape = [0, 0, 0]
    for stored, code in enumerate(axes):
        axis, sign = _AXES[code]
        columns[axis, stored] = sign * sizes[stored]
        shape[stored] = max(1, round(field_of_view_mm[axis] / sizes[stored]))
    affine = np.eye(4)
    affine[:3, :3] = rigid((0.0, 0.0, 0.0), tilt_deg)[:3, :3] @ columns
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def make(
    protocol: Protocol,
    seed: int | Sequence[int] = 1,
    snr: float | None = None,
    *,
    grid: Grid | None = None,
    gradients: Gradients | None = None,
    changes: tuple[Change, ...] = (),
    variant: str = "",
    faults: Scan | None = None,
    motion: Floats | None = None,
    points_per_axis: int | None = None,
) -> Phantom:
    """Make one participant. The same arguments give the same arrays, to the bit.

    Args:
        protocol: whose phantom.
        seed: decides the anatomy, and apart from it the noise: the anatomy is the same at any SNR.
        snr: signal of the reference tissue at b=0 over the standard deviation of the noise; infinity for
            none, None for the protocol's own. The signal of every other tissue follows from its own proton
            density and T2.
        grid: default the protocol's.
        gradients: directions in world axes; default the protocol's.
        changes: lesions, and what sets this participant apart.
        variant: of the anatomy, one of `protocol.variants`; `""` for the ordinary one.
        faults: what goes wrong in the scan.
        motion: affines (n, 4, 4), rigid, world mm, in place of a drift by `faults`: where the body of volume
            0 lies in each volume.
        points_per_axis: a voxel's signal is the mean over this number cubed of points; where it rings, this
            is by how much finer the image is that its k-space is cut from.

    Raises:
        ConfigError: every one of `SNR`, `VARIANT` and `LESION` that applies.
    """
    snr = protocol.snr if snr is None else snr
    _check(protocol, snr, variant)
    grid = grid or protocol.grid()
    gradients = gradients or protocol.gradients()
    faults = faults or Scan()
    seeds = seeds_of(seed)
    anatomy = protocol.build(np.random.default_rng([*seeds, 0]), variant, changes)
    if problems := change.check(changes, tuple(label.segment for label in anatomy.segments)):
        raise ConfigError.of(problems)
    per_axis = points_per_axis or protocol.points_per_axis
    painting = paint.paint(anatomy, grid, per_axis)
    scale = np.float32(REFERENCE_SIGNAL / protocol.reference.brightness(protocol.te_ms))
    camera = _Camera(anatomy, grid, protocol.te_ms, per_axis, painting, faults, scale)
    if motion is None and faults.moves:
        motion = scan.drift(len(gradients.bvals), seed, faults.motion_mm, faults.motion_deg)
    eddy = scan.eddies(gradients, faults.eddy_percent, seeds) if faults.eddy_percent else None
    dwi = camera.series(gradients, motion, eddy)
    lost = scan.lost_slices(gradients, grid.shape[2], faults.dropouts, seeds)
    for volume, place in lost:
        dwi.reshape(*grid.shape, -1)[:, :, place, volume] *= np.float32(scan.LEFT_OF_SIGNAL)
    reverse = camera.volume(_B0, polarity=-1.0) if camera.field else None
    sigma = 0.0 if math.isinf(snr) else REFERENCE_SIGNAL / snr
    if sigma:
        noise.add_rician(dwi, sigma, np.random.default_rng([*seeds, 1]))
        if reverse is not None:
            noise.add_rician(reverse, sigma, np.random.default_rng([*seeds, 7]))
    maps = paint.average(painting, *paint.diffusion(anatomy, painting))
    fa, md = (maps[:, i].reshape(grid.shape) for i in (0, 1))
    labels = paint.label(painting, [piece.label for piece in anatomy.pieces])
    whole = paint.label(painting, [piece.whole for piece in anatomy.pieces])
    truth = list(of_labels(anatomy.segments, labels, fa, md))
    if protocol.wholes_are_measured:
        truth += of_labels(anatomy.measured_wholes(), whole, fa, md)
    return Phantom(
        dwi=dwi.reshape(*grid.shape, -1),
        gradients=gradients,
        grid=grid,
        sigma=sigma,
        labels=labels,
        label_table=with_edges(anatomy.segments),
        whole=whole,
        whole_table=with_edges(anatomy.wholes),
        fa=fa,
        md=md,
        s0=camera.still(_B0).reshape(grid.shape),
        truth=tuple(truth),
        motion=np.broadcast_to(np.eye(4), (len(gradients.bvals), 4, 4)) if motion is None else motion,
        moves=motion is not None,
        anatomy=anatomy,
        reverse_b0=None if reverse is None else reverse.reshape(grid.shape),
        displacement=camera.displacement(),
        eddies=eddy,
        lost=lost,
    )


def _check(protocol: Protocol, snr: float, variant: str) -> None:
    problems = []
    if not snr > 0:
        problems.append(
            Problem("SNR", "the SNR is not above 0", found=f"{snr:g}", expected="above 0, or inf")
        )
    if variant and variant not in protocol.variants:
        problems.append(unknown_variant(protocol, variant))
    if problems:
        raise ConfigError.of(problems)


class _Camera:
    """Takes volumes of a body as a sequence with faults sees it; every volume is (v, n)."""

    def __init__(
        self,
        anatomy: Anatomy,
        grid: Grid,
        te_ms: float,
        per_axis: int,
        painting: paint.Painting,
        faults: Scan,
        scale: np.float32,
    ) -> None:
        self.anatomy, self.grid, self.te_ms, self.per_axis = anatomy, grid, te_ms, per_axis
        self.painting, self.scale, self.rings = painting, scale, faults.ringing
        axis, _ = scan.phase_axis(grid)
        largest = faults.distortion_voxels * float(grid.voxel_mm[axis])
        self.field = scan.Field.around(grid, largest) if largest else None

    def series(self, gradients: Gradients, motion: Floats | None, eddy: Floats | None) -> NDArray[np.float32]:
        if motion is None and eddy is None and not self.rings:
            return self.still(gradients) if self.field is None else self.volume(gradients)
        volumes = []
        for number, (b, direction) in enumerate(zip(gradients.bvals, gradients.bvecs, strict=True)):
            one = Gradients(np.array([b]), direction[None])
            pose = None if motion is None else motion[number]
            volumes.append(self.volume(one, pose=pose, eddy=None if eddy is None else eddy[number]))
        return np.concatenate(volumes, axis=1)

    def still(self, gradients: Gradients) -> NDArray[np.float32]:
        return self._signal(self.anatomy, self.painting, gradients)

    def volume(
        self,
        gradients: Gradients,
        *,
        polarity: float = 1.0,
        pose: Floats | None = None,
        eddy: Floats | None = None,
    ) -> NDArray[np.float32]:
        body = self.anatomy if pose is None else self.anatomy.moved(pose)
        # Where k-space ends, the points within the plane are the voxels of a finer image.
        times = self.per_axis if self.rings else 1
        grid = kspace.finer(self.grid, times)
        shift = None
        if self.field is not None or eddy is not None:
            shift = scan.shift(self.grid, field=self.field, polarity=polarity, pose=pose, eddy=eddy)
            shift = shift.finer(self.grid.shape, times)
        within = (self.per_axis // times, self.per_axis // times, self.per_axis)
        painting = paint.paint(body, grid, within, shift)
        taken = self._signal(body, painting, gradients)
        if shift is not None:
            taken *= shift.density.astype(np.float32)[:, None]
        if self.rings:
            images = [kspace.acquired(one.reshape(grid.shape), times).ravel() for one in taken.T]
            taken = np.stack(images, axis=1)
        return taken

    def displacement(self) -> NDArray[np.float32] | None:
        if self.field is None:
            return None
        return self.field.at(scan.centres(self.grid)).reshape(self.grid.shape).astype(np.float32)

    def _signal(self, body: Anatomy, painting: paint.Painting, gradients: Gradients) -> NDArray[np.float32]:
        taken = paint.average(painting, *paint.signal(body, painting, gradients, self.te_ms))
        taken *= self.scale
        return taken


def expected(
    phantom: Phantom,
    index: int | Sequence[int],
    *,
    used: NDArray[np.bool_] | None = None,
    n: int = 20000,
    seed: int = 0,
) -> noise.Means:
    """What the voxels of a label, or of several, give on average when fitted by WLS, noise bias included.

    Args:
        phantom: whose signal, noise and gradients.
        index: of `phantom.labels`. Of several, all are of the same mixture of water, blood and fat.
        used: which volumes are fitted, as many as it has; None: all.
        n: number of simulated voxels.
        seed: of the simulation.
    """
    inside = np.isin(phantom.labels, index)
    s0 = phantom.s0[inside].astype(np.float64)
    ratio = s0 / phantom.sigma if phantom.sigma else np.full_like(s0, np.inf)
    fa, md = (m[inside].astype(np.float64) for m in (phantom.fa, phantom.md))
    (mixture,) = {
        p.tissue.mixture for p in phantom.anatomy.pieces if p.label and p.label in np.atleast_1d(index)
    }
    return noise.expected(fa, md, ratio, phantom.gradients, mixture=mixture, used=used, n=n, seed=seed)
