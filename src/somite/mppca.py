"""MP-PCA: random-matrix denoising of a series of images, real or complex, with a map of the noise.

Does not know gradients, masks, labels or files. It expects the series as it was acquired: resampling
beforehand correlates the noise of neighbouring voxels, and the estimate no longer holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from somite.images import FloatArray

Float32 = NDArray[np.float32]
Signal = NDArray[Any]  # of float32 or complex64
Positions = NDArray[np.int64]

BATCH_VALUES = 1 << 21
"""Signal values decomposed at once by a thread: bounds its working memory to some 50 MB."""


def patch_shape(shape: tuple[int, int, int], patch_voxels: int) -> tuple[int, int, int]:
    """Shape of the patch for an image of `shape`: a cube where it fits.

    Along an axis that is shorter than the patch it takes the whole axis, and grows along the others to hold
    about as many voxels as the cube: 5 voxels in a single slice give (11, 11, 1).
    """
    wanted = patch_voxels**3
    edges = [0, 0, 0]
    edge = float(patch_voxels)
    # Shortest axis first: what it cannot hold is shared out among the longer ones.
    for done, axis in enumerate(np.argsort(shape, kind="stable"), start=1):
        edges[axis] = min(shape[axis], int(edge + 0.5))
        wanted /= edges[axis]
        edge = max(float(patch_voxels), wanted ** (1 / (3 - done))) if done < 3 else edge
    return edges[0], edges[1], edges[2]


def patch_starts(size: int, extent: int, stride: int) -> Positions:
    """First voxel of each patch along an axis; the last patch ends at the border, so none is left out."""
    return np.unique(np.append(np.arange(0, size - extent + 1, min(stride, extent)), size - extent))


def noise_components(
    eigenvalues: FloatArray, n_voxels: NDArray[np.int64], n_volumes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many components of each patch are noise, and its standard deviation.

    Args:
        eigenvalues: (b, r) ascending, of the Gram matrix X'X or XX' of a patch X (voxels x volumes), signal
            units squared; r is the smaller side of X.
        n_voxels: (b,) voxels of the patch that hold a signal, at least 2. The others, rows of zeros as in
            masked data, add eigenvalues of zero that tell nothing of the noise.
        n_volumes: volumes of the series, at least 2.

    Returns:
        Components of noise (b,), counted from the smallest eigenvalue, those of empty voxels included; and
        the standard deviation of the noise (b,), signal units.

    Source: Cordero-Grande et al., NeuroImage 200 (2019) 391 (estimator "Exp2" of MRtrix3's dwidenoise): the
        largest p whose p smallest eigenvalues spread no wider than the Marchenko-Pastur law allows. The
        variance is then their sum over its degrees of freedom, p (q - k) for k components of signal and
        q the larger side; dwidenoise divides by p q, which is lower by k / q (2 to 4 % of the variance).
    """
    size = eigenvalues.shape[1]
    small = np.minimum(n_voxels, n_volumes)[:, None]
    large = np.maximum(n_voxels, n_volumes)[:, None]
    # 1, 2, ... for the eigenvalues from the smallest; 0 and less for those of empty voxels.
    rank = np.arange(1, size + 1) - (size - small)
    variance = np.where(rank > 0, np.maximum(eigenvalues, 0), 0).astype(np.float64)
    total = np.cumsum(variance, 1)
    smallest = np.take_along_axis(variance, size - small, 1)
    signal = small - rank
    spread = (variance - smallest) / (4 * np.sqrt(np.maximum(rank, 1) / (large - signal)))
    is_noise = (rank > 0) & (spread <= total / np.maximum(rank, 1))
    count = size - np.argmax(is_noise[:, ::-1], 1)
    freedom = (rank * (large - signal))[np.arange(len(count)), count - 1]
    return count, np.sqrt(total[np.arange(len(count)), count - 1] / freedom)


@dataclass
class Sums:
    """Weighted sums over the patches that cover each voxel."""

    signal: Signal
    """(..., volumes); 0 volumes where only the noise is wanted."""
    sigma: Float32
    weight: Float32

    @classmethod
    def zeros(cls, shape: tuple[int, ...], n_volumes: int, dtype: np.dtype[Any]) -> Sums:
        """Nothing summed yet, over voxels of `shape`."""
        return cls(np.zeros((*shape, n_volumes), dtype), *np.zeros((2, *shape), np.float32))


def mppca(
    dwi: Signal,
    patch: tuple[int, int, int] = (5, 5, 5),
    stride: int = 2,
    *,
    precision: str = "float32",
    threads: int = 1,
    only_noise: bool = False,
) -> tuple[Signal, Float32]:
    """Denoise by overlapping patches, each cut to its signal components, averaged by 1 / (1 + rank).

    Voxels of zeros in every volume (masked data) stay zeros with sigma 0, and do not bias their neighbours.
    The sums are formed in a fixed order, so the result is the same to the bit for any number of threads.

    Args:
        dwi: (x, y, z, volumes), finite; it is not changed. Complex where the phase is known, and steady
            from volume to volume (`somite.phase`).
        patch: shape of the patch, voxels, at most the image's.
        stride: step between patches, voxels.
        precision: of the decomposition, "float32" or "float64".
        threads: how many batches of patches to decompose at a time.
        only_noise: estimate sigma alone, which is faster; the series comes back as it was given.

    Returns:
        The denoised series (x, y, z, volumes) and the standard deviation of the noise (x, y, z), both in
        the units of the signal; of a complex series, that of the real and of the imaginary part.

    Sources: Veraart et al., NeuroImage 142 (2016) 394 (MP-PCA); Cordero-Grande et al., NeuroImage 200 (2019)
        391 (threshold); Manjon et al., PLoS ONE 8 (2013) e73021 (overlapping patches weighted by rank).
    """
    # The patches are walked in slabs across the longest axis, so that there are enough for every thread.
    first = int(np.argmax(dwi.shape[:3]))
    order = (first, *(axis for axis in range(3) if axis != first))
    stored = np.dtype(np.complex64 if np.iscomplexobj(dwi) else np.float32)
    data = np.ascontiguousarray(dwi.transpose(*order, 3), stored)
    extent = tuple(patch[axis] for axis in order)
    sums = Sums.zeros(data.shape[:3], 0 if only_noise else data.shape[3], stored)
    calculated = np.result_type(precision, stored)
    starts = patch_starts(data.shape[0], extent[0], stride)

    def slab(start: np.int64) -> Sums:
        return _slab_sums(data[start : start + extent[0]], extent, stride, calculated, only_noise)

    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for start, part in zip(starts, _in_order(pool, slab, starts, 2 * threads), strict=True):
            here = slice(start, start + extent[0])
            sums.signal[here] += part.signal
            sums.sigma[here] += part.sigma
            sums.weight[here] += part.weight
    signal, sigma = _averages(sums, data)
    back = np.argsort(order)
    return dwi if only_noise else signal.transpose(*back, 3), sigma.transpose(back)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Any], Sums], items: Iterable[Any], ahead: int
) -> Iterator[Sums]:
    """Results in the order of `items`, at most `ahead` of them waiting: bounds the memory."""
    waiting: deque[Future[Sums]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _averages(sums: Sums, data: Signal) -> tuple[Signal, Float32]:
    """Turn the sums into averages, in place: signal and sigma."""
    covered = sums.weight > 0
    weight = np.where(covered, sums.weight, np.float32(1))
    empty = _is_empty(data)
    sums.sigma /= weight
    sums.sigma[empty] = 0
    if sums.signal.shape[-1]:
        sums.signal /= weight[..., None]
        # No patch here had components to tell apart: a voxel alone among empty ones.
        sums.signal[~covered] = data[~covered]
        sums.signal[empty] = 0
    return sums.signal, sums.sigma


def _is_empty(data: Signal) -> NDArray[np.bool_]:
    """Voxels without a signal in any volume."""
    return np.asarray(~data.any(-1), np.bool_)


def _slab_sums(
    slab: Signal, extent: tuple[int, ...], stride: int, precision: np.dtype[Any], only_noise: bool
) -> Sums:
    """Sums over the patches of one slab (extent[0], y, z, volumes), as thick as a patch."""
    _, n_y, n_z, n_volumes = slab.shape
    sums = Sums.zeros((extent[0] * n_y * n_z,), 0 if only_noise else n_volumes, slab.dtype)
    voxels = slab.reshape(-1, n_volumes)
    occupied = ~_is_empty(voxels)
    corners = (
        patch_starts(n_y, extent[1], stride)[:, None] * n_z + patch_starts(n_z, extent[2], stride)
    ).ravel()
    i, j, k = np.indices(extent).reshape(3, -1)
    offsets = (i * n_y + j) * n_z + k
    batch = max(1, BATCH_VALUES // (len(offsets) * n_volumes))
    for at in range(0, len(corners), batch):
        members = corners[at : at + batch, None] + offsets
        n_voxels = occupied[members].sum(1)
        # Two components at least are needed to tell noise from signal.
        members, n_voxels = members[n_voxels > 1], n_voxels[n_voxels > 1]
        if len(members) == 0 or n_volumes < 2:
            continue
        signal, sigma, weight = _cut_patches(
            voxels[members].astype(precision, copy=False), n_voxels, only_noise
        )
        # The patches of one batch start at different voxels, so their n-th voxels are all different too.
        for n, rows in enumerate(members.T):
            if not only_noise:
                sums.signal[rows] += signal[:, n]
            sums.sigma[rows] += sigma
            sums.weight[rows] += weight
    shape = slab.shape[:3]
    return Sums(sums.signal.reshape(*shape, -1), sums.sigma.reshape(shape), sums.weight.reshape(shape))


def _cut_patches(
    patches: NDArray[np.inexact[Any]], n_voxels: NDArray[np.int64], only_noise: bool
) -> tuple[Signal, Float32, Float32]:
    """Signal components of patches (b, n, volumes) and their sigma (b,), both times the weight (b,)."""
    transposed = patches.conj().transpose(0, 2, 1)
    wide = patches.shape[2] > patches.shape[1]
    gram = patches @ transposed if wide else transposed @ patches
    if only_noise:
        eigenvalues = np.linalg.eigvalsh(gram)
    else:
        eigenvalues, vectors = np.linalg.eigh(gram)
    n_noise, sigma = noise_components(eigenvalues, n_voxels, patches.shape[2])
    if np.iscomplexobj(patches):
        sigma /= np.sqrt(2)  # the real and the imaginary part share the variance
    weight = 1 / (1 + gram.shape[1] - n_noise)
    weighted_sigma = (weight * sigma).astype(np.float32)
    if only_noise:
        return np.empty(0, np.float32), weighted_sigma, weight.astype(np.float32)
    keep = np.arange(gram.shape[1]) >= n_noise[:, None]
    weighted = vectors * (keep * weight[:, None]).astype(gram.dtype)[:, None]
    projection = weighted @ vectors.conj().transpose(0, 2, 1)
    signal = projection @ patches if wide else patches @ projection
    single = np.complex64 if np.iscomplexobj(patches) else np.float32
    return signal.astype(single, copy=False), weighted_sigma, weight.astype(np.float32)
