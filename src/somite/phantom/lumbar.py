"""The lumbar phantom in memory: signal, gradients, labels, and the truth that they were made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from somite.errors import ConfigError, Problem
from somite.gradients import Gradients
from somite.images import Grid
from somite.phantom import noise, paint, scheme, tissue
from somite.phantom.anatomy import SEGMENTS, Anatomy, Build, label_table, rigid
from somite.phantom.anatomy import lumbar as lumbar_anatomy
from somite.phantom.tissue import Floats
from somite.segments import METRICS, Label, MetricName, Segment

NERVE_SIGNAL = 1000.0
"""Signal of nerve at b=0, units of the scanner."""
_AXES = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
_CENTRE_MM = (0.0, 6.0, 0.0)
_FIELD_OF_VIEW_MM = (144.0, 144.0, 60.0)


@dataclass(frozen=True)
class Truth:
    """Truth of one segment: over its pure voxels, the mean and the standard deviation (n - 1)."""

    segment: Segment
    n_voxels: int
    mean: dict[MetricName, float]
    """Metric -> value in the units of the maps: diffusivities in mm2/s."""
    sd: dict[MetricName, float]


@dataclass(frozen=True)
class Phantom:
    """One participant of the lumbar phantom."""

    dwi: NDArray[np.float32]
    """(x, y, z, n volumes). Nerve at b=0 is about 1000."""
    gradients: Gradients
    grid: Grid
    sigma: float
    """Standard deviation of the noise, units of `dwi`; 0 without noise."""
    labels: NDArray[np.int16]
    """(x, y, z): 0 where nothing is measured."""
    label_table: tuple[Label, ...]
    """The segments, then their partial-volume edges (region `partial_volume`, index + 100)."""
    fa: NDArray[np.float32]
    """True FA (x, y, z): the mean over the voxel. It is the tissue's own where the voxel is pure."""
    md: NDArray[np.float32]
    """True MD, mm2/s."""
    s0: NDArray[np.float32]
    """True signal at b=0, units of `dwi`."""
    truth: tuple[Truth, ...]
    """One of each segment, in the order of `label_table`. At the pose of the first volume."""
    motion: Floats
    """Affines (n, 4, 4) in world mm: where the body of volume 0 lies in each volume."""


def lumbar_grid(
    voxel_mm: float | Sequence[float] = 1.5,
    axes: str = "LAS",
    tilt_deg: Sequence[float] = (3.0, 0.0, 0.0),
    field_of_view_mm: Sequence[float] = _FIELD_OF_VIEW_MM,
) -> Grid:
    """A grid around the phantom. The default is that of a real axial-oblique series, 96 x 96 x 40 at 1.5 mm:
    stored to the left, anterior, superior (negative determinant, as DICOM converters write it), and tilted
    by 3 degrees about the left-right axis.

    Args:
        voxel_mm: voxel size, or three along the stored axes.
        axes: direction of each stored axis, as `LAS` or `PSR`.
        tilt_deg: how the whole grid is turned about x, y and z (right-handed).
        field_of_view_mm: extent along x, y and z before the tilt.
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
    affine[:3, 3] = np.asarray(_CENTRE_MM) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def make_lumbar(
    seed: int | Sequence[int] = 1,
    snr: float = 25.0,
    *,
    grid: Grid | None = None,
    gradients: Gradients | None = None,
    patient: bool = False,
    motion: Floats | None = None,
    points_per_axis: int = 3,
) -> Phantom:
    """Make one participant. The same arguments give the same arrays, to the bit.

    Args:
        seed: decides the anatomy, and apart from it the noise: the anatomy is the same at any SNR.
        snr: signal of nerve at b=0 over the standard deviation of the noise; infinity for none. The signal
            of every other tissue follows from its own proton density and T2 at TE 73.7 ms.
        grid: default 96 x 96 x 40 voxels of 1.5 mm, stored as LAS with a slight tilt (`lumbar_grid`).
        gradients: directions in world axes; default 4 b=0 and 33 at b=800 s/mm2.
        patient: whether the right L5 root has FA 0.26 and MD 1.79e-3 mm2/s over its whole length.
        motion: affines (n, 4, 4), rigid, world mm: where the body of volume 0 lies in each volume.
        points_per_axis: a voxel's signal is the mean over this number cubed of points.

    Raises:
        ConfigError: `SNR`, the SNR is not above 0.
    """
    if not snr > 0:
        raise ConfigError(
            Problem("SNR", "the SNR is not above 0", found=f"{snr:g}", expected="above 0, or inf")
        )
    grid = grid or lumbar_grid()
    gradients = gradients or scheme.lumbar()
    seeds = [seed] if isinstance(seed, int) else list(seed)
    anatomy = lumbar_anatomy(Build.draw(np.random.default_rng([*seeds, 0])), patient)
    painting = paint.paint(anatomy, grid, points_per_axis)
    scale = NERVE_SIGNAL / tissue.NERVE.brightness(scheme.TE_MS)
    if motion is None:
        motion = np.broadcast_to(np.eye(4), (len(gradients.bvals), 4, 4))
        dwi = paint.average(painting, *paint.signal(anatomy, painting, gradients, scheme.TE_MS))
    else:
        dwi = _moved(anatomy, grid, gradients, motion, points_per_axis)
    dwi *= np.float32(scale)
    sigma = 0.0 if math.isinf(snr) else NERVE_SIGNAL / snr
    if sigma:
        noise.add_rician(dwi, sigma, np.random.default_rng([*seeds, 1]))
    still = Gradients(np.zeros(1), np.zeros((1, 3)))
    s0 = paint.average(painting, *paint.signal(anatomy, painting, still, scheme.TE_MS)) * np.float32(scale)
    maps = paint.average(painting, *paint.diffusion(anatomy, painting))
    fa, md = (maps[:, i].reshape(grid.shape) for i in (0, 1))
    labels = paint.label(anatomy, painting)
    return Phantom(
        dwi=dwi.reshape(*grid.shape, -1),
        gradients=gradients,
        grid=grid,
        sigma=sigma,
        labels=labels,
        label_table=label_table(),
        fa=fa,
        md=md,
        s0=s0.reshape(grid.shape),
        truth=tuple(_truth(labels, fa, md)),
        motion=motion,
    )


def _moved(
    anatomy: Anatomy, grid: Grid, gradients: Gradients, motion: Floats, points_per_axis: int
) -> NDArray[np.float32]:
    """Signal (voxels, n) of a body that lies elsewhere in each volume."""
    volumes = []
    for pose, b, direction in zip(motion, gradients.bvals, gradients.bvecs, strict=True):
        moved = Anatomy(pose @ anatomy.pose, anatomy.pieces, anatomy.shapes)
        painting = paint.paint(moved, grid, points_per_axis)
        one = Gradients(np.array([b]), direction[None])
        volumes.append(paint.average(painting, *paint.signal(moved, painting, one, scheme.TE_MS)))
    return np.concatenate(volumes, axis=1)


def drift(
    volumes: int, seed: int | Sequence[int], shift_mm: float = 1.0, turn_deg: float = 0.5
) -> NDArray[np.float64]:
    """Rigid motion (n, 4, 4) for `make_lumbar`: a smooth random walk that starts at rest.

    Its largest shift along any axis is `shift_mm`, its largest turn about any axis `turn_deg`.
    """
    rng = np.random.default_rng([seed, 2] if isinstance(seed, int) else [*seed, 2])
    walk = np.cumsum(rng.standard_normal((volumes, 6)), axis=0)
    walk -= walk[0]
    largest = np.maximum([np.abs(walk[:, :3]).max(), np.abs(walk[:, 3:]).max()], 1e-12)
    walk *= np.repeat([shift_mm, turn_deg] / largest, 3)
    return np.stack([rigid(row[:3], row[3:]) for row in walk])


def _truth(labels: NDArray[np.int16], fa: NDArray[np.float32], md: NDArray[np.float32]) -> Iterator[Truth]:
    for index, segment in enumerate(SEGMENTS, start=1):
        inside = labels == index
        yield segment_truth(segment, fa[inside].astype(np.float64), md[inside].astype(np.float64))


def segment_truth(segment: Segment, fa: Floats, md: Floats) -> Truth:
    """Truth of a segment from the FA and MD of its pure voxels (n,).

    The mean of FA is that of the voxels' own; `fa_of_mean_eigenvalues` is the FA of mean AD and RD. NaN where
    there are no voxels.
    """
    ad, rd = tissue.eigenvalues(fa, md)
    n = len(fa)
    values: dict[MetricName, Floats] = {"fa": fa, "md": md, "ad": ad, "rd": rd}
    mean = {name: float(v.mean()) if n else math.nan for name, v in values.items()}
    sd = {name: float(v.std(ddof=1)) if n > 1 else math.nan for name, v in values.items()}
    mean["fa_of_mean_eigenvalues"] = float(tissue.anisotropy(np.array(mean["ad"]), np.array(mean["rd"])))
    return Truth(segment, n, mean, sd)


def truth_rows(phantom: Phantom) -> list[dict[str, object]]:
    """The truth as rows of the long table (`somite.segments.COLUMNS`), without the participant's name."""
    rows: list[dict[str, object]] = []
    for truth in phantom.truth:
        s = truth.segment
        for metric in truth.mean:
            about = METRICS[metric]
            for statistic, values in (("mean", truth.mean), ("sd", truth.sd)):
                if statistic not in about.statistics:
                    continue
                rows.append(
                    {
                        "region": s.region,
                        "side": s.side,
                        "level": s.level,
                        "segment": s.segment,
                        "metric": metric,
                        "statistic": statistic,
                        "value": values[metric] * about.scale,
                        "unit": about.unit,
                        "n_voxels": truth.n_voxels,
                        "volume_mm3": truth.n_voxels * phantom.grid.voxel_mm3,
                        "weighting": "uniform",
                        "extraction": "label",
                        "space": "dwi",
                    }
                )
    return rows


def expected(phantom: Phantom, index: int | Sequence[int], n: int = 20000, seed: int = 0) -> noise.Means:
    """What the voxels of a label, or of several, give on average when fitted by WLS, noise bias included."""
    inside = np.isin(phantom.labels, index)
    s0 = phantom.s0[inside].astype(np.float64)
    ratio = s0 / phantom.sigma if phantom.sigma else np.full_like(s0, np.inf)
    fa, md = (m[inside].astype(np.float64) for m in (phantom.fa, phantom.md))
    return noise.expected(fa, md, ratio, phantom.gradients, n=n, seed=seed)
