"""Gauss-Newton steps for the displacement that makes two images of opposite distortion agree.

The cost is the squared difference of the undistorted images plus a weight times the bending energy of the
displacement. Its unknowns are coefficients of cosines, in which the bending energy is diagonal and conjugate
gradients need few steps. The weight is that of the largest evidence (MacKay, Neural Computation 4 (1992)
415), with the trace that it needs from one random sample.

Arrays have phase encoding last; displacements are of faces, in voxels (`somite.columns`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from somite.columns import Columns, at_centres

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Volume = NDArray[np.floating[Any]]

DARK = 0.1
"""Signal, in the unit of the images, below which voxels tell little of the field and much of noise."""
MOST_WAVES = 3
"""Most half waves of the receive sensitivity along an axis."""
_LONGEST_STEP, _SMALL_STEP = 1.5, 3e-3
"""Voxels: the largest change of a displacement in a step, and the mean change that ends the steps."""


@dataclass
class State:
    """What is estimated, in the units of one level."""

    faces: Float32
    """Displacement (u, v, n + 1), voxels of the level."""
    scales: Float
    """Log of the factor of the second image, then the coefficients of the cosines."""
    weight: float
    """Of the bending energy, mm2 per voxel."""
    variance: float = 1e-3
    """Of the noise at the level."""


@dataclass(frozen=True)
class Level:
    """A pair of images on one level of resolution, and its regularisation in the space of cosines."""

    images: tuple[Volume, Volume]
    factors: tuple[float, float]
    voxel_mm: Float
    waves: tuple[tuple[int, ...], ...]
    threads: int
    columns: list[Columns] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        u, v, n = self.images[0].shape
        return u, v, n

    @property
    def faces_shape(self) -> tuple[int, int, int]:
        """Voxels, and along phase encoding faces."""
        return (*self.shape[:2], self.shape[2] + 1)

    @cached_property
    def bending(self) -> Float32:
        """Square of the Laplacian's eigenvalues, mm-4, of displacements in mm by those in voxels, mm2."""
        parts = [
            (2 - 2 * np.cos(np.pi * np.arange(n) / n)) / mm**2
            for n, mm in zip(self.faces_shape, self.voxel_mm, strict=True)
        ]
        laplacian = parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :]
        return np.asarray(laplacian**2 * self.voxel_mm[2] ** 2, np.float32)

    @cached_property
    def along(self) -> Float32:
        """Eigenvalues of the second difference along phase encoding."""
        n = self.faces_shape[2]
        return np.asarray(2 - 2 * np.cos(np.pi * np.arange(n) / n), np.float32)[None, None, :]

    def to_waves(self, faces: Volume) -> Float32:
        """Coefficients of orthonormal cosines."""
        return np.asarray(dctn(faces, norm="ortho", workers=self.threads), np.float32)

    def to_faces(self, waves: Volume) -> Float32:
        """Values at faces of coefficients of cosines."""
        return np.asarray(idctn(waves, norm="ortho", workers=self.threads), np.float32)

    def without_scales(self, scales: Float) -> list[Columns]:
        """Both images without the sensitivity and the factor."""
        axes = [(np.arange(n) + 0.5) / n for n in self.shape]
        log = np.zeros(self.shape)
        for wave, size in zip(self.waves, scales[1:], strict=True):
            log += (
                size
                * _cosine(wave[0], axes[0])[:, None, None]
                * (_cosine(wave[1], axes[1])[:, None] * _cosine(wave[2], axes[2]))
            )
        first, second = self.images
        return [Columns.of(first * np.exp(-log)), Columns.of(second * np.exp(-log - scales[0]))]

    def effect_of_scales(self, faces: Float32, signal: Float32) -> Float32:
        """Derivative (1 + waves, voxels) of the residual to the factor and to each cosine."""
        axes = [(np.arange(n) + 0.5) / n for n in self.shape]
        moved = [axes[2] + factor * at_centres(faces) / self.shape[2] for factor in self.factors]
        apart = [_cosine(k, moved[1]) - _cosine(k, moved[0]) for k in range(MOST_WAVES + 1)]
        effect = [signal.astype(np.float64)]
        for u, v, n in self.waves:
            plane = _cosine(u, axes[0])[:, None] * _cosine(v, axes[1])
            effect.append(signal * plane[..., None] * apart[n])
        return np.stack(effect).reshape(len(effect), -1).astype(np.float32)


def _cosine(waves: int, position: Float) -> Float:
    return np.asarray(np.cos(np.pi * waves * position))


def _spread(residual: Float32) -> Float32:
    """Transpose of the difference along the last axis."""
    spread = np.zeros((*residual.shape[:2], residual.shape[2] + 1), np.float32)
    spread[..., 1:] = residual
    spread[..., :-1] -= residual
    return spread


@dataclass(frozen=True)
class Normal:
    """The normal equations of one Gauss-Newton step; unknowns: cosine coefficients of faces, then scales."""

    level: Level
    residual: Float32
    density: Float32
    weights: Float32
    penalty: Float32
    effect: Float32
    """(scales, voxels); empty where the scales are held."""
    prior: Float

    @classmethod
    def at(cls, level: Level, state: State, prior: Float) -> Normal:
        """Linearised about a state; with an empty `prior` the scales are held."""
        columns = level.columns or level.without_scales(state.scales)
        (one, at_one), (two, at_two) = (
            c.displaced(state.faces, f) for c, f in zip(columns, level.factors, strict=True)
        )
        brightest = np.maximum(np.maximum(one, two), 0)
        effect = np.zeros((0, one.size), np.float32)
        if len(prior):
            effect = level.effect_of_scales(state.faces, 0.5 * (one + two))
        return cls(
            level,
            one - two,
            np.float32(level.factors[0]) * at_one - np.float32(level.factors[1]) * at_two,
            np.clip(brightest**2 / (brightest**2 + np.float32(DARK**2)), np.float32(0.01), 1),
            state.weight * level.bending,
            effect,
            prior,
        )

    def gradient(self, state: State) -> Float32:
        """Of half the cost, at the state."""
        pull = self._pull(self.residual) + self._flat(self.penalty * self.level.to_waves(state.faces))
        pull[self._n :] += (self.prior * state.scales[: len(self.prior)]).astype(np.float32)
        return pull

    @property
    def _n(self) -> int:
        return self.density.size

    def _flat(self, waves: Float32) -> Float32:
        return np.concatenate([waves.ravel(), np.zeros(len(self.prior), np.float32)])

    def _pull(self, residual: Float32) -> Float32:
        weighted = self.weights * residual
        waves = self.level.to_waves(self.density * _spread(weighted))
        return np.concatenate([waves.ravel(), self.effect @ weighted.ravel()])

    def times(self, unknowns: Float32) -> Float32:
        """The matrix times a vector."""
        waves = unknowns[: self._n].reshape(self.density.shape)
        change = np.diff(self.density * self.level.to_faces(waves), axis=-1)
        if len(self.prior):
            change += (unknowns[self._n :] @ self.effect).reshape(change.shape)
        out = self._pull(change)
        out[: self._n] += (self.penalty * waves).ravel()
        out[self._n :] += self.prior.astype(np.float32) * unknowns[self._n :]
        return out

    @cached_property
    def preconditioner(self) -> Callable[[Float32], Float32]:
        """Approximate inverse: as if the density were the same everywhere."""
        mean = np.float32((self.density**2).mean(dtype=np.float64))
        diagonal = self.penalty + mean * (self.level.along + np.float32(0.02))
        inverse: Float32 = np.asarray(1 / np.maximum(diagonal, 1e-12), np.float32).ravel()
        if not len(self.prior):
            return lambda vector: inverse * vector
        square = (self.effect * self.weights.ravel()) @ self.effect.T + np.diag(self.prior)
        of_scales = np.linalg.inv(square.astype(np.float64)).astype(np.float32)
        return lambda v: np.concatenate([inverse * v[: self._n], of_scales @ v[self._n :]])

    def solve(self, right: Float32, most: int, tolerance: float) -> Float32:
        """Conjugate gradients until the residual has fallen to `tolerance` of its length."""
        x = np.zeros_like(right)
        residual = right.copy()
        z = self.preconditioner(residual)
        direction, size = z.copy(), float(residual @ z)
        enough = tolerance**2 * size
        for _ in range(most):
            image = self.times(direction)
            steepness = float(direction @ image)
            if size <= enough or steepness <= 0:
                break
            length = np.float32(size / steepness)
            x += length * direction
            residual -= length * image
            z = self.preconditioner(residual)
            before, size = size, float(residual @ z)
            direction = z + np.float32(size / before) * direction
        return x

    def evidence(self, state: State) -> tuple[float, float]:
        """Weight of the bending energy and noise variance of the largest evidence, by MacKay's fixed point.

        The trace of the penalty over the posterior comes from one sample of it (Hutchinson's estimator with
        the sample drawn by perturbing data and prior).
        """
        rng = np.random.default_rng(0)
        noise = rng.standard_normal(self.residual.shape, np.float32)
        sample = self._pull(np.asarray(noise / np.sqrt(self.weights), np.float32))
        wave_noise = np.sqrt(self.penalty) * rng.standard_normal(self.penalty.shape, np.float32)
        sample += self._flat(wave_noise)
        sample[self._n :] = 0
        found = self.solve(sample, 80, 0.03)[: self._n].reshape(self.penalty.shape)
        told = max(self._n - float((self.penalty * found**2).sum(dtype=np.float64)), 1.0)
        energy = float((self.level.bending * self.level.to_waves(state.faces) ** 2).sum(dtype=np.float64))
        seen = float(self.weights.sum(dtype=np.float64))
        squares = float((self.weights * self.residual**2).sum(dtype=np.float64))
        variance = max(squares / max(seen - told, 0.05 * seen), 1e-9)
        return told * variance / max(energy, 1e-12), variance


def refine(level: Level, state: State, prior_sd: Float, steps: int, adapt: bool) -> State:
    """Gauss-Newton steps on one level; `adapt`: the smoothness and the scales are estimated along."""
    if not adapt:
        level.columns.extend(level.without_scales(state.scales))
    for number in range(steps):
        prior = state.variance / prior_sd**2 if adapt else np.zeros(0)
        normal = Normal.at(level, state, prior)
        if adapt and number:
            weight, state.variance = normal.evidence(state)
            state.weight *= float(np.clip(weight / state.weight, 0.2, 5))
            normal = Normal.at(level, state, state.variance / prior_sd**2)
        change = normal.solve(-normal.gradient(state), 40, 0.1)
        faces = level.to_faces(change[: state.faces.size].reshape(state.faces.shape))
        fraction = np.float32(min(1.0, _LONGEST_STEP / max(float(np.abs(faces).max()), 1e-12)))
        state.faces = state.faces + fraction * faces
        if adapt:
            state.scales = state.scales + fraction * change[state.faces.size :]
        elif fraction == 1 and np.abs(faces).mean() < _SMALL_STEP:
            break
    return state
