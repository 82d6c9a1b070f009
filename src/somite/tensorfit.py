"""Log-linear fits of the diffusion tensor, and what is read from a tensor: pure functions on arrays.

Arrays of voxels have the voxel last: log signals (n, v) of n volumes, parameters (7, v), so that one
operation serves all voxels of a block. Does not know images, masks or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from somite.gradients import Gradients

Float = NDArray[np.float64]

PARAMETERS = 7
"""Dxx, Dxy, Dyy, Dxz, Dyz, Dzz and log S0: the order of NIfTI's symmetric matrices, and of dipy."""

PIVOT_MIN = 1e-6
"""A smaller relative pivot of the normal equations loses too many digits; such voxels are solved by SVD."""

SWEEPS_MAX = 20
"""Of Jacobi's rotations; 4 to 6 bring a 3x3 matrix to rounding."""

OUTLIER_SD = 3.0
"""The robust fit leaves out signals this many standard deviations from its prediction (Collier 2015)."""


def largest_b(gradients: Gradients) -> float:
    """The unit of b in a design: the largest b-value, s/mm2; 1 where all are 0."""
    return float(gradients.bvals.max(initial=0.0)) or 1.0


def design_matrix(gradients: Gradients) -> Float:
    """Design (n, 7) of log S = design @ (tensor, log S0), with b in units of `largest_b`.

    Volumes of b=0 keep the b-value and the direction that they were acquired with. Source: Basser, Mattiello
    and Le Bihan, J Magn Reson B 103 (1994) 247.
    """
    x, y, z = gradients.bvecs.T
    quadratic = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, z * z], 1)
    b = gradients.bvals / largest_b(gradients)
    return np.column_stack([-b[:, None] * quadratic, np.ones_like(b)])


def condition(design: Float) -> float:
    """Condition number of a design (n, 7); infinite where the tensor is not determined."""
    if len(design) < PARAMETERS:
        return np.inf
    singular = np.linalg.svd(design, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf


def fit_ols(log_signal: Float, design: Float) -> Float:
    """Ordinary least squares: parameters (7, v) of log signals (n, v)."""
    return np.asarray(np.linalg.pinv(design) @ log_signal)


def fit_weighted(log_signal: Float, design: Float, weights: Float) -> Float:
    """Weighted least squares: parameters (7, v) of log signals (n, v), weights (n, v) of squared residuals.

    Normal equations by Cholesky, all voxels at a time. Where these are nearly singular (hardly a weight
    but on a few volumes), by the pseudo-inverse of the weighted design, as dipy does everywhere.
    """
    result, steady = _solve_normal(log_signal, design, weights)
    if not steady.all():
        root = np.sqrt(weights[:, ~steady].T)
        inverse = np.linalg.pinv(root[:, :, None] * design)
        result[:, ~steady] = np.einsum("vpn,vn->pv", inverse, root * log_signal[:, ~steady].T)
    return result


def _solve_normal(log_signal: Float, design: Float, weights: Float) -> tuple[Float, NDArray[np.bool_]]:
    """Solve the normal equations of all voxels by Cholesky; says which voxels (v,) are well conditioned."""
    rows, columns = np.tril_indices(PARAMETERS)
    normal = np.empty((PARAMETERS, PARAMETERS, log_signal.shape[1]))
    normal[rows, columns] = (design[:, rows] * design[:, columns]).T @ weights
    result = design.T @ (weights * log_signal)
    lower = np.zeros_like(normal)
    steady = np.ones(result.shape[1], np.bool_)
    for j in range(PARAMETERS):
        pivot = normal[j, j] - (lower[j, :j] ** 2).sum(0)
        steady &= pivot > PIVOT_MIN * normal[j, j]
        lower[j, j] = np.sqrt(np.where(steady, pivot, 1))
        inner = (lower[j + 1 :, :j] * lower[j, :j]).sum(1)
        lower[j + 1 :, j] = (normal[j + 1 :, j] - inner) / lower[j, j]
    for j in range(PARAMETERS):
        result[j] = (result[j] - (lower[j, :j] * result[:j]).sum(0)) / lower[j, j]
    for j in reversed(range(PARAMETERS)):
        result[j] = (result[j] - (lower[j + 1 :, j] * result[j + 1 :]).sum(0)) / lower[j, j]
    return result, steady


def fit_wls(log_signal: Float, design: Float, reweightings: int = 0) -> Float:
    """Weighted least squares, weights the squared signal that the OLS fit predicts: parameters (7, v).

    With `reweightings` the weights are renewed so many times from the fit's own prediction.

    Sources: Chung, Lu and Henry, NeuroImage 33 (2006) 531 (as dipy 1.12's WLS); Veraart et al., NeuroImage
        81 (2013) 335 (reweighting).
    """
    parameters = fit_weighted(log_signal, design, np.exp(2 * (design @ fit_ols(log_signal, design))))
    for _ in range(reweightings):
        weights = np.exp(2 * _predicted_log(log_signal, design, parameters))
        parameters = fit_weighted(log_signal, design, weights)
    return parameters


def _predicted_log(log_signal: Float, design: Float, parameters: Float) -> Float:
    """Predicted log signal (n, v), at most twice the largest signal of the voxel: what weights are made of.

    A volume with hardly a weight may be predicted far above; let loose, it would rule the next round.
    """
    return np.asarray(np.minimum(design @ parameters, log_signal.max(0) + np.log(2)))


def fit_robust(log_signal: Float, design: Float, reweightings: int) -> tuple[Float, NDArray[np.bool_]]:
    """Fit that signal dropouts do not pull: parameters (7, v), and which signals (n, v) were left out.

    WLS; reweighted by Geman-McClure's function of the residual; then OLS and WLS without the signals
    further than 3 SD from the prediction, SD by the median absolute deviation in the voxel. Where too few
    signals would remain for a tensor, the reweighted fit stays and none is left out.

    Source: Collier et al., Magn Reson Med 73 (2015) 2174 (IRLLS). The function's scale is 3 SD here instead
        of 1: with 1 the SD shrinks from round to round, and good signals end as outliers.
    """
    parameters = fit_wls(log_signal, design)
    for _ in range(reweightings):
        predicted = _predicted_log(log_signal, design, parameters)
        scaled = _scaled_residual(log_signal, predicted) / OUTLIER_SD
        parameters = fit_weighted(log_signal, design, (np.exp(predicted) / (1 + scaled**2)) ** 2)
    predicted = _predicted_log(log_signal, design, parameters)
    outlier = np.abs(_scaled_residual(log_signal, predicted)) > OUTLIER_SD
    inlier = (~outlier).astype(np.float64)
    unweighted, steady = _solve_normal(log_signal, design, inlier)
    weights = inlier * np.exp(2 * _predicted_log(log_signal, design, unweighted))
    clean, steady_too = _solve_normal(log_signal, design, weights)
    steady &= steady_too
    return np.where(steady, clean, parameters), outlier & steady


def _scaled_residual(log_signal: Float, predicted_log: Float) -> Float:
    """Residual of the signal (n, v), to first order, over its robust standard deviation in the voxel."""
    n = len(log_signal)
    signal = np.exp(predicted_log)
    residual = signal * (log_signal - predicted_log)
    deviation = np.median(np.abs(residual - np.median(residual, 0)), 0)
    sd = 1.4826 * np.sqrt(n / max(n - PARAMETERS, 1)) * deviation
    # As many volumes as parameters fit exactly: no residual, and no outlier.
    return np.asarray(residual / np.maximum(sd, 1e-6 * signal.max(0)))


def eigen(tensor: Float) -> tuple[Float, Float]:
    """Eigenvalues (3, v), descending, and vectors (9, v): the x, y, z of the first, second and third.

    Args:
        tensor: (6, v) Dxx, Dxy, Dyy, Dxz, Dyz, Dzz.

    The sign of a vector means nothing; its largest component is made positive.

    Source: cyclic Jacobi (Golub and Van Loan, Matrix Computations, 8.5), all voxels at a time, which is
        several times faster than LAPACK on 3x3 matrices one by one, and as exact.
    """
    rows, columns = np.tril_indices(3)
    matrix = np.empty((3, 3, tensor.shape[1]))
    matrix[rows, columns] = matrix[columns, rows] = tensor
    vectors = np.zeros_like(matrix)  # of the k-th eigenvalue: vectors[k]
    vectors[range(3), range(3)] = 1
    for _ in range(SWEEPS_MAX):
        if (np.abs(matrix[[1, 2, 2], [0, 0, 1]]) <= 1e-17 * np.abs(tensor).max(0)).all():
            break
        for p, q, r in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
            _rotate(matrix, vectors, p, q, r)
    values = matrix[range(3), range(3)]
    order = np.argsort(-values, 0)
    vectors = np.take_along_axis(vectors, order[:, None], 0)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1)
    return np.take_along_axis(values, order, 0), (vectors * np.where(largest < 0, -1, 1)).reshape(9, -1)


def _rotate(matrix: Float, vectors: Float, p: int, q: int, r: int) -> None:
    """Jacobi rotation that makes element (p, q) of symmetric matrices (3, 3, v) zero; r is the third axis."""
    off, apart = matrix[p, q].copy(), matrix[q, q] - matrix[p, p]
    root = apart + np.copysign(np.sqrt(apart * apart + 4 * off * off), apart)
    tangent = np.divide(2 * off, root, out=np.zeros_like(off), where=root != 0)
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    sine = tangent * cosine
    matrix[p, p] -= tangent * off
    matrix[q, q] += tangent * off
    matrix[p, q] = matrix[q, p] = 0
    first, second = matrix[r, p].copy(), matrix[r, q].copy()
    matrix[r, p] = matrix[p, r] = cosine * first - sine * second
    matrix[r, q] = matrix[q, r] = sine * first + cosine * second
    vectors[p], vectors[q] = (
        cosine * vectors[p] - sine * vectors[q],
        sine * vectors[p] + cosine * vectors[q],
    )


def from_eigenpairs(values: Float, vectors: Float) -> Float:
    """Tensor (6, v) of eigenvalues (3, v) and unit vectors (3, 3, v): of the first, second and third."""
    full = np.einsum("kv,kiv,kjv->ijv", values, vectors, vectors)
    rows, columns = np.tril_indices(3)
    return np.asarray(full[rows, columns])


def fractional_anisotropy(eigenvalues: Float) -> Float:
    """FA (v,), 0 to 1, of eigenvalues (3, v), those below 0 taken as 0; all zeros give 0.

    Source: Basser and Pierpaoli, J Magn Reson B 111 (1996) 209. Raw negative eigenvalues would give FA > 1.
    """
    physical = np.maximum(eigenvalues, 0)
    first, second, third = physical
    spread = (first - second) ** 2 + (second - third) ** 2 + (third - first) ** 2
    square = (physical**2).sum(0)
    return np.asarray(np.sqrt(0.5 * spread / np.where(square > 0, square, 1)))
