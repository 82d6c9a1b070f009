"""Bring a volume onto a target: Gauss-Newton steps over motion, distortion and a plane of gain.

The derivatives are the target's, which has far less noise than a volume, so they are computed once (inverse
composition: Baker and Matthews, IJCV 56 (2004) 221). The gain - a factor and its slopes along three axes -
takes up what is no displacement: the receive field, which stands still while the body moves in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from somite.correction.series import Float, Float32, Ints, Series
from somite.jit import compiled

Mask = NDArray[np.bool_]

N_GAIN = 4
_FIRMNESS = 20.0
"""Of the expectation of the motion: variances of the residuals per mm2."""
_RIDGE = 1e-6
"""Of each parameter's own curvature: parameters of which nothing is seen stay."""


@compiled
def _fill(
    target: Float32,
    core: Ints,
    neighbours: Ints,
    to_scanner: Float32,
    turn: Float32,
    points: Float32,
    along: Float32,
    values: Float32,
    slopes: Float32,
    radius: float,
    rows: Float32,
) -> None:
    n_terms = values.shape[1]
    half = np.float32(0.5)
    for i in range(core.shape[0]):
        height = target[core[i]]
        beside = neighbours[i]
        a = half * (target[beside[0]] - target[beside[1]])
        b = half * (target[beside[2]] - target[beside[3]])
        c = half * (target[beside[4]] - target[beside[5]])
        gx = to_scanner[0, 0] * a + to_scanner[0, 1] * b + to_scanner[0, 2] * c
        gy = to_scanner[1, 0] * a + to_scanner[1, 1] * b + to_scanner[1, 2] * c
        gz = to_scanner[2, 0] * a + to_scanner[2, 1] * b + to_scanner[2, 2] * c
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        u = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
        v = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
        w = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
        rows[i, 0] = (v * gz - w * gy) / radius
        rows[i, 1] = (w * gx - u * gz) / radius
        rows[i, 2] = (u * gy - v * gx) / radius
        rows[i, 3], rows[i, 4], rows[i, 5] = gx, gy, gz
        across = gx * along[0] + gy * along[1] + gz * along[2]
        for k in range(n_terms):
            rows[i, 6 + k] = across * values[i, k] + height * slopes[i, k]
        rows[i, 6 + n_terms] = height
        rows[i, 7 + n_terms] = height * x / radius
        rows[i, 8 + n_terms] = height * y / radius
        rows[i, 9 + n_terms] = height * z / radius


def change(series: Series, volume: int, target: Float32, distorts: bool) -> Float32:
    """Change (c, 6 + k + 4) of a volume's values at the core per mm of motion and distortion, and per gain.

    Args:
        series: with the volume's present place.
        volume: its number.
        target: (m,) what the volume should show, at all sites.
        distorts: whether its distortion is looked for too.
    """
    sites, core, axis = series.sites, series.core, int(series.encoding.axes[volume])
    n_terms = len(series.powers) if distorts and axis >= 0 else 0
    rows = np.empty((len(sites.core), 6 + n_terms + N_GAIN), np.float32)
    turn = series.pose.rotations[volume]
    slopes = core.slopes[axis][:, :n_terms] if n_terms else core.values[:, :0]
    _fill(
        target,
        sites.core,
        sites.neighbours,
        (turn @ series.world_to_voxel[:3, :3].T).astype(np.float32),
        turn.astype(np.float32),
        core.points,
        series.directions[volume].astype(np.float32),
        core.values[:, :n_terms],
        slopes * np.float32(series.encoding.signs[volume]),
        float(sites.radius),
        rows,
    )
    return rows


def fit(
    series: Series,
    volume: int,
    target: Float32,
    weights: Float32,
    expected: Float,
    *,
    distorts: bool,
    most_steps: int = 4,
    tolerance_mm: float = 0.004,
) -> None:
    """Move a volume so that it shows the target: changes `series.pose`.

    Args:
        series: the volumes.
        volume: the one to move.
        target: (m,) at all sites, of the volume's own contrast up to a gain.
        weights: (c,) of the core, 0 where the target is not known.
        expected: (6,) mm, where the motion is expected, as of `Pose.vectors`.
        distorts: whether to look for the distortion too, where phase encoding is known.
        most_steps: at most.
        tolerance_mm: a step below which the fit has ended.
    """
    rows = change(series, volume, target, distorts)
    n = rows.shape[1] - N_GAIN
    turns, shifts = series.sites.seen
    weighted = rows * (weights * series.values(volume, series.core)[1])[:, None]
    normal = (weighted.T @ rows).astype(np.float64)
    normal[np.diag_indices(n + N_GAIN)] *= 1 + _RIDGE
    normal += 1e-9 * max(np.trace(normal), 1e-12) / len(normal) * np.eye(len(normal))
    wanted, radius = target[series.sites.core], series.sites.radius
    least, best, step, size = np.inf, series.pose.of(volume), np.zeros(n), 1.0
    for _ in range(most_steps + 1):
        values, inside = series.values(volume, series.core)
        left = (wanted - values) * inside * weights
        pull = (weighted.T @ left).astype(np.float64)
        gain = pull[n:] @ np.linalg.solve(normal[n:, n:], pull[n:])
        cost = (float(left @ left) - gain) / max(float(weights @ inside), 1.0)
        if cost < least:
            if (
                np.abs(step[:6]).max() + 0.4 * np.abs(step[6:]).max(initial=0.0) < tolerance_mm
                and least < np.inf
            ):
                return
            least, best, size = cost, series.pose.of(volume), 1.0
            firm = _FIRMNESS * max(cost, 1e-12)
            held = normal + np.diag(np.r_[np.full(6, firm), np.zeros(len(normal) - 6)])
            pull[:6] += firm * (expected - series.pose.vectors_of(volume, radius))
            step = np.linalg.solve(held, pull)[:n]
            step[:3], step[3:6] = turns @ step[:3], shifts @ step[3:6]
        else:
            # A blurred target has gentler slopes than the volume, and the step leads beyond.
            series.pose.put(volume, best)
            size /= 2
        series.pose.move(volume, step * size, radius)
    series.pose.put(volume, best)


def known(series: Series, there: Mask) -> Float32:
    """Weights (c,) of the core: 1 where a point and its neighbours lie in half of the volumes at least.

    Args:
        series: the volumes.
        there: (v, m) where each volume has a value.
    """
    enough = 2 * there.sum(0) >= len(there)
    return np.asarray(enough[series.sites.core] & enough[series.sites.neighbours].all(1), np.float32)
