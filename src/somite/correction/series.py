"""Where the tissue of each volume lies: a rigid motion, an eddy-current polynomial, a susceptibility field.

A point of the reference, h, is found in volume v at

    r = R_v (h - c) + c + t_v + e_v (sum_k B_k(h) p_vk + field(h) T_v)

in world RAS+ millimetres: c is the centre of the region, e_v the direction of phase encoding, B_k the terms
of a polynomial, T_v the readout time, field in mm per second of it. The polynomial is of the reference's
coordinates: polynomials of one degree stay among themselves when the coordinates move rigidly. Intensities
are multiplied by the derivative of the displacement along e_v, since signal is moved, not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.transform import Rotation

from somite.corrected import SCALE_MM
from somite.correction.gaps import bridged, touches
from somite.images import Grid
from somite.registration import FWHM_TO_SIGMA, in_threads
from somite.sampling import coefficients, sample

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Ints = NDArray[np.intp]

_DEEP_MM = 8.0
"""Nearer to the border of the mask lie skin and fat: weighted images show them elsewhere (chemical shift), or
hardly."""
_FEWEST_DEEP = 2000


def exponents(degree: int) -> Ints:
    """Powers (k, 3) of x, y, z of the terms of degree 1 to `degree`, 2 at most: x, y, z, xx, yy, zz, xy, ...

    There is no constant: a shift along phase encoding cannot be told from one of the body.
    """
    powers = [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (2, 0, 0),
        (0, 2, 0),
        (0, 0, 2),
        (1, 1, 0),
        (1, 0, 1),
        (0, 1, 1),
    ]
    return np.array(powers[: (0, 3, 9)[degree]], np.intp).reshape(-1, 3)


def terms(points: Float, powers: Ints) -> Float32:
    """Terms (m, k) of the polynomial at points (m, 3), mm from the centre."""
    return np.asarray(np.prod((points[:, None] / SCALE_MM) ** powers, 2), np.float32)


def slopes(points: Float, powers: Ints, along: Float) -> Float32:
    """Derivatives (m, k) of the terms along a unit vector, per mm."""
    total = np.zeros((len(points), len(powers)))
    for axis in range(3):
        lower = powers.copy()
        lower[:, axis] = np.maximum(lower[:, axis] - 1, 0)
        total += along[axis] * powers[:, axis] * np.prod((points[:, None] / SCALE_MM) ** lower, 2)
    return np.asarray(total / SCALE_MM, np.float32)


def derivative(volume: NDArray[np.floating[Any]], axis: int) -> Float:
    """Central differences along an axis, per voxel; 0 along an axis of one voxel."""
    return np.asarray(np.gradient(volume, axis=axis) if volume.shape[axis] > 1 else np.zeros(volume.shape))


@dataclass(frozen=True)
class Encoding:
    """Phase encoding of each volume."""

    axes: Ints
    """(n,) voxel axis, 0 to 2; -1 where it is not known."""
    signs: Float
    """(n,) 1, or -1 where it runs against the axis."""
    readouts: Float
    """(n,) s; 1 for all where they are not known."""

    @classmethod
    def unknown(cls, n: int) -> Encoding:
        """Of n volumes of which nothing is known."""
        return cls(np.full(n, -1), np.ones(n), np.ones(n))

    def directions(self, grid: Grid) -> Float:
        """(n, 3) unit vectors in world axes; zeros where it is not known."""
        unit = np.vstack([(grid.affine[:3, :3] / grid.voxel_mm).T, np.zeros(3)])
        return np.asarray(unit[self.axes] * self.signs[:, None])

    def same_as(self, volume: int) -> NDArray[np.bool_]:
        """Which volumes have the encoding of this one."""
        return np.asarray((self.axes == self.axes[volume]) & (self.signs == self.signs[volume]))


@dataclass(frozen=True)
class Sites:
    """The voxels at which volumes are compared, `core`, and all that are needed for derivatives there."""

    grid: Grid
    voxels: Ints
    """(m, 3) of all."""
    core: Ints
    """(c,) rows of `voxels`."""
    neighbours: Ints
    """(c, 6) rows of `voxels`: up and down along each axis."""
    deep: Ints
    """Rows of `voxels` away from the border of the mask, or the core where nearly nothing is."""

    @classmethod
    def of(cls, mask: NDArray[np.bool_], grid: Grid, most: int = 60_000) -> Sites:
        """At most `most` voxels of a mask, with their neighbours; of the whole grid where the mask is empty.

        They are drawn at random, always the same: a regular subset of a grid sees edges in one phase only.
        """
        chosen = np.argwhere(mask if mask.any() else np.ones_like(mask))
        if len(chosen) > most:
            chosen = chosen[np.sort(np.random.default_rng(0).permutation(len(chosen))[:most])]
        steps = np.concatenate([sign * np.eye(3, dtype=np.intp)[None] for sign in (1, -1)])
        steps = steps.transpose(1, 0, 2).reshape(6, 3)
        beside = np.clip(chosen[:, None] + steps, 0, np.array(grid.shape) - 1)
        wanted = np.zeros(grid.shape, bool)
        wanted[tuple(chosen.T)] = True
        wanted[tuple(beside.reshape(-1, 3).T)] = True
        number = np.cumsum(wanted.ravel()).reshape(grid.shape) - 1
        core = number[tuple(chosen.T)]
        depth = np.full(grid.shape, np.inf)
        if not mask.all():
            depth = distance_transform_edt(mask, grid.voxel_mm)
        deep = core[depth[tuple(chosen.T)] > _DEEP_MM]
        return cls(
            grid,
            np.argwhere(wanted),
            core,
            number[tuple(beside.reshape(-1, 3).T)].reshape(-1, 6),
            deep if len(deep) > max(len(core) / 4, _FEWEST_DEEP) else core,
        )

    @cached_property
    def centre(self) -> Float:
        """Mean of the core, mm."""
        return np.asarray(
            (self.voxels[self.core] @ self.grid.affine[:3, :3].T).mean(0) + self.grid.affine[:3, 3]
        )

    @cached_property
    def points(self) -> Float:
        """(m, 3) mm from the centre, world axes."""
        return np.asarray(self.voxels @ self.grid.affine[:3, :3].T + self.grid.affine[:3, 3] - self.centre)

    @cached_property
    def seen(self) -> tuple[Float, Float]:
        """Projections (3, 3) of rotation vectors and of shifts onto the motions that can be seen.

        A single slice shows only those that keep it in its plane.
        """
        thin = [axis for axis in range(3) if self.grid.shape[axis] == 1]
        if not thin:
            return np.eye(3), np.eye(3)
        axes = self.grid.affine[:3, :3] / self.grid.voxel_mm
        in_plane, _ = np.linalg.qr(np.delete(axes, thin, axis=1))
        shifts = in_plane @ in_plane.T
        return (np.eye(3) - shifts if len(thin) == 1 else np.zeros((3, 3))), shifts

    @cached_property
    def radius(self) -> float:
        """Root mean square distance of the core from its centre, mm: what a turn of 1 rad moves."""
        return float(np.sqrt((self.points[self.core] ** 2).sum(1).mean())) or 1.0


@dataclass
class Pose:
    """Motion and distortion of every volume."""

    rotations: Float
    """(n, 3, 3)."""
    shifts: Float
    """(n, 3) mm."""
    distortion: Float
    """(n, k) mm."""

    @classmethod
    def still(cls, n: int, n_terms: int) -> Pose:
        """Nothing moved and nothing distorted."""
        return cls(np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 3)), np.zeros((n, n_terms)))

    def vectors(self, radius: float) -> Float:
        """(n, 6) mm: rotation vectors times the radius, then shifts."""
        return np.hstack([Rotation.from_matrix(self.rotations).as_rotvec() * radius, self.shifts])

    def set_vectors(self, volumes: Ints, vectors: Float, radius: float) -> None:
        """Take the motion of some volumes from vectors (len(volumes), 6) as `vectors` gives them."""
        self.rotations[volumes] = Rotation.from_rotvec(vectors[:, :3] / radius).as_matrix()
        self.shifts[volumes] = vectors[:, 3:]

    def vectors_of(self, volume: int, radius: float) -> Float:
        """(6,) as `vectors`, of one volume."""
        turn = Rotation.from_matrix(self.rotations[volume]).as_rotvec()
        return np.concatenate([turn * radius, self.shifts[volume]])

    def of(self, volume: int) -> tuple[Float, Float, Float]:
        """A copy of what is held of one volume."""
        return self.rotations[volume].copy(), self.shifts[volume].copy(), self.distortion[volume].copy()

    def put(self, volume: int, held: tuple[Float, Float, Float]) -> None:
        """Take back what `of` gave."""
        self.rotations[volume], self.shifts[volume], self.distortion[volume] = held

    def move(self, volume: int, step: Float, radius: float) -> None:
        """Add a small step: 6 of motion in mm, and those of the distortion, if any."""
        turn = Rotation.from_rotvec(step[:3] / radius).as_matrix()
        self.rotations[volume] = turn @ self.rotations[volume]
        self.shifts[volume] += step[3:6]
        if len(step) > 6:
            self.distortion[volume] += step[6:]

    def refer_to(self, volumes: Iterable[int], turn: Float, shift: Float) -> None:
        """Let the place that tissue has after (turn, shift) be its place in the reference."""
        for volume in volumes:
            self.rotations[volume] = self.rotations[volume] @ turn.T
            self.shifts[volume] = self.shifts[volume] - self.rotations[volume] @ shift

    def transforms(self, centre: Float) -> Float:
        """(n, 4, 4), of the rigid motion, from the reference to each volume, world mm."""
        matrices = np.tile(np.eye(4), (len(self.shifts), 1, 1))
        matrices[:, :3, :3] = self.rotations
        matrices[:, :3, 3] = centre + self.shifts - self.rotations @ centre
        return matrices


@dataclass
class Frame:
    """What is the same for all volumes at a set of points."""

    points: Float32
    """(m, 3) mm from the centre."""
    values: Float32
    """(m, k) terms of the polynomial."""
    slopes: dict[int, Float32]
    """Voxel axis of phase encoding -> derivatives (m, k) of the terms along it."""
    field: Float32
    """(m,) displacement in voxels per second of readout; empty where there is none."""
    field_slopes: dict[int, Float32]
    """Voxel axis -> its derivative (m,) per voxel."""

    def part(self, rows: Ints) -> Frame:
        """The same at some of the points."""
        return Frame(
            self.points[rows],
            self.values[rows],
            {axis: slope[rows] for axis, slope in self.slopes.items()},
            self.field[rows] if self.field.size else self.field,
            {axis: slope[rows] for axis, slope in self.field_slopes.items()},
        )


class Series:
    """The volumes of a series, smoothed, with the place of their tissue."""

    def __init__(
        self,
        data: NDArray[np.floating[Any]],
        encoding: Encoding,
        sites: Sites,
        degree: int,
        field: NDArray[np.floating[Any]] | None = None,
        slice_axis: int = 2,
        threads: int = 1,
    ) -> None:
        self.data, self.encoding, self.sites, self.threads = data, encoding, sites, threads
        self.n = data.shape[3]
        self.powers = exponents(degree)
        self.pose = Pose.still(self.n, len(self.powers))
        self.directions = encoding.directions(sites.grid)
        self.world_to_voxel = np.linalg.inv(sites.grid.affine)
        self.field = field
        self.frame = self.frame_at(sites.voxels)
        self.core = self.frame.part(sites.core)
        self.slabs = self._whole_slices()
        self.slice_axis = slice_axis
        self.lost = np.zeros((self.n, data.shape[slice_axis]), bool)
        self.splines: list[Float32] = []

    def frame_at(self, voxels: Ints) -> Frame:
        """The frame at voxels (m, 3) of the grid."""
        sites = self.sites
        points = voxels @ sites.grid.affine[:3, :3].T + sites.grid.affine[:3, 3] - sites.centre
        axes = sorted({int(axis) for axis in self.encoding.axes if axis >= 0})
        unit = sites.grid.affine[:3, :3] / sites.grid.voxel_mm
        by_axis = {axis: slopes(points, self.powers, unit[:, axis]) for axis in axes}
        field, field_slopes = np.empty(0, np.float32), {}
        if self.field is not None:
            at = tuple(voxels.T)
            field = np.asarray(self.field[at], np.float32)
            field_slopes = {axis: self.field_slopes[axis][at] for axis in axes}
        return Frame(np.asarray(points, np.float32), terms(points, self.powers), by_axis, field, field_slopes)

    @cached_property
    def field_slopes(self) -> dict[int, Float32]:
        """Voxel axis of phase encoding -> derivative (x, y, z) of the field along it, per voxel."""
        axes = {int(axis) for axis in self.encoding.axes if axis >= 0}
        field = np.zeros(self.sites.grid.shape) if self.field is None else self.field
        return {axis: np.asarray(derivative(field, axis), np.float32) for axis in axes}

    def _whole_slices(self) -> list[Frame]:
        """The frames of whole slices, in order: each of its voxels (x, y) by rows."""
        nx, ny, nz = self.sites.grid.shape
        flat = np.indices((nx, ny)).reshape(2, -1).T
        return [self.frame_at(np.column_stack([flat, np.full(len(flat), z)])) for z in range(nz)]

    def smooth(self, fwhm_mm: float) -> None:
        """Take the volumes smoothed by a Gaussian of this width from now on."""
        sigma = fwhm_mm * FWHM_TO_SIGMA / self.sites.grid.voxel_mm

        def one(volume: int) -> Float32:
            values = bridged(self.data[..., volume], self.lost[volume], self.slice_axis)
            return coefficients(gaussian_filter(values, sigma, mode="nearest") if fwhm_mm else values)

        self.splines = []  # or both were held
        self.splines = in_threads(one, range(self.n), self.threads)

    def places(self, volume: int, frame: Frame) -> tuple[Float32, Float32]:
        """Voxel positions (m, 3) of points in a volume, and the factor (m,) of their intensities."""
        to_voxel = self.world_to_voxel
        turned = to_voxel[:3, :3] @ self.pose.rotations[volume]
        start = to_voxel[:3, :3] @ (self.sites.centre + self.pose.shifts[volume]) + to_voxel[:3, 3]
        at = frame.points @ turned.T.astype(np.float32) + start.astype(np.float32)
        axis = int(self.encoding.axes[volume])
        if axis < 0:
            return at, np.ones(len(at), np.float32)
        distortion = self.pose.distortion[volume].astype(np.float32)
        along, factor = frame.values @ distortion, frame.slopes[axis] @ distortion
        if frame.field.size:
            seconds = np.float32(self.encoding.readouts[volume])
            along += frame.field * seconds * np.float32(self.sites.grid.voxel_mm[axis])
            factor += frame.field_slopes[axis] * seconds
        at += along[:, None] * (to_voxel[:3, :3] @ self.directions[volume]).astype(np.float32)
        return at, (1 + factor * self.encoding.signs[volume]).astype(np.float32)

    def values(self, volume: int, frame: Frame) -> tuple[Float32, Float32]:
        """What the tissue at points shows in a volume (m,), and 1 where the volume has it, else 0."""
        at, factor = self.places(volume, frame)
        values, inside = sample(self.splines[volume], at)
        if self.lost[volume].any():
            inside = inside * ~touches(at, self.lost[volume], self.slice_axis)
        return values * factor, inside

    def gather(self, volumes: Sequence[int] | Ints) -> tuple[Float32, NDArray[np.bool_]]:
        """Values (v, m) at all sites, and where (v, m) there are any: others have the mean over volumes."""
        found = in_threads(lambda volume: self.values(volume, self.frame), volumes, self.threads)
        values, there = np.array([a for a, _ in found]), np.array([b for _, b in found]) > 0
        mean = (values * there).sum(0) / np.maximum(there.sum(0), 1)
        return np.where(there, values, mean), there

    def values_of(self, groups: Sequence[Ints]) -> Float32:
        """Values (n, m) of all volumes at all sites, those of one contrast gathered together."""
        values = np.empty((self.n, len(self.sites.voxels)), np.float32)
        for volumes in groups:
            values[volumes] = self.gather(volumes)[0]
        return values

    def placed(self, volume: int) -> Float32:
        """A volume (x, y, z) in the place of the reference: one cubic interpolation.

        Beyond its edge the nearest edge's value stands. The spline's undershoot below its minimum is cut.
        """
        raw = np.asarray(self.data[..., volume], np.float32)
        spline, least, edge = coefficients(raw), raw.min(), np.array(raw.shape, np.float32) - 1
        placed = np.empty(raw.shape, np.float32)
        for z, frame in enumerate(self.slabs):
            at, factor = self.places(volume, frame)
            values, _ = sample(spline, np.clip(at, 0, edge))
            placed[:, :, z] = (np.maximum(values, least) * np.maximum(factor, 0)).reshape(raw.shape[:2])
        return placed
