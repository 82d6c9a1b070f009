"""Linear mixed models: fixed columns and random intercepts and slopes, by statsmodels' MixedLM.

What statsmodels leaves to its caller is done here: values and columns are brought to one scale first (its
optimisers and its warnings of a variance at 0 take variances of about 1 for granted), several optimisers are
tried, and what did not converge or lies on the boundary is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

OPTIMISERS = ("lbfgs", "bfgs", "cg", "powell")
"""Tried in this order until one converges."""
BOUNDARY = 1e-4
"""Share of the variance below which a random effect is taken to be 0."""
CROSSED_ROWS = 3000
"""Rows above which crossed effects, one dense matrix of rows * rows, are not tried."""


@dataclass(frozen=True)
class Fixed:
    """Fixed effects (k,): estimates, and their covariance (k, k)."""

    estimates: Array
    covariance: Array

    @property
    def errors(self) -> Array:
        """Standard errors."""
        return np.sqrt(np.diag(self.covariance))

    def wald(self, columns: Sequence[int]) -> tuple[float, int, float]:
        """Chi-square of the test that some estimates are all 0, its degrees of freedom and p."""
        chosen = np.array(columns)
        part = self.estimates[chosen]
        chi2 = float(part @ np.linalg.solve(self.covariance[np.ix_(chosen, chosen)], part))
        return chi2, len(chosen), float(stats.chi2.sf(chi2, len(chosen)))


@dataclass(frozen=True)
class Mixed:
    """A fitted mixed model, in the units of the values."""

    fixed: Fixed
    variances: Mapping[str, float]
    """Variance of each random effect, `residual` last."""
    optimiser: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NotFitted:
    """A model that could not be fitted, and why."""

    reason: str


def indicators(codes: Codes) -> Array:
    """(n, number of different codes): 1 where a row has the code."""
    _, compact = np.unique(codes, return_inverse=True)
    return np.eye(int(compact.max()) + 1)[compact]


def fit(
    values: Array,
    columns: Array,
    people: Codes,
    nested: Mapping[str, Codes],
    crossed: Mapping[str, Codes],
    slope: tuple[str, Array] | None,
    reml: bool,
) -> Mixed | NotFitted:
    """Fit values ~ columns with a random intercept per person.

    Args:
        values: (n,).
        columns: (n, k) fixed columns, the intercept among them, of full rank.
        people: (n,) whose row it is.
        nested: name -> (n,) codes of what has random intercepts of its own within a person.
        crossed: name -> (n,) codes of what has random intercepts of its own across people.
        slope: name and (n,) numbers whose slope varies between people, correlated with the intercept.
        reml: restricted maximum likelihood, otherwise maximum likelihood.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM  # a second that planning does not need

    if crossed and len(values) > CROSSED_ROWS:
        return NotFitted(f"crossed effects of {len(values)} rows are too many: at most {CROSSED_ROWS}")
    unit = float(values.std())
    scale = np.sqrt((columns**2).mean(axis=0))
    effects = np.ones((len(values), 1))
    if slope is not None:
        effects = np.column_stack([effects, slope[1] / np.sqrt((slope[1] ** 2).mean())])
    if crossed:
        groups = np.zeros(len(values), np.intp)
        components = {"participant": people, **crossed, **nested}
        model = MixedLM(values / unit, columns / scale, groups, None, _components(groups, components))
    else:
        groups = np.unique(people, return_inverse=True)[1]
        model = MixedLM(values / unit, columns / scale, groups, effects, _components(groups, nested))
    found, optimiser, words = _optimise(model, reml)
    if found is None:
        return NotFitted(f"the model did not converge with {', '.join(OPTIMISERS)}: {words}")
    covariance = np.asarray(found.cov_params())[: len(scale), : len(scale)]
    covariance = covariance * unit**2 / np.outer(scale, scale)
    if not (np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()):
        return NotFitted("the fit has no finite standard errors")
    fixed = Fixed(np.asarray(found.fe_params) * unit / scale, covariance)
    variances = _variances(found, "" if slope is None else slope[0])
    notes = tuple(
        f"the variance of {name} is 0: the fit is on the boundary"
        for name, share in variances.items()
        if share < BOUNDARY * sum(variances.values())
    )
    scaled = {name: share * unit**2 for name, share in variances.items()}
    if slope is not None:
        scaled[f"slope of {slope[0]}"] /= float((slope[1] ** 2).mean())
    return Mixed(fixed, scaled, optimiser, notes)


def _components(groups: Codes, components: Mapping[str, Codes]) -> Any:
    """statsmodels' description of variance components: indicator columns for every group."""
    from statsmodels.regression.mixed_linear_model import VCSpec

    if not components:
        return None
    rows = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    matrices = [[indicators(codes[chosen]) for chosen in rows] for codes in components.values()]
    names = [[[str(i) for i in range(m.shape[1])] for m in of_group] for of_group in matrices]
    return VCSpec(list(components), names, matrices)


def _optimise(model: Any, reml: bool) -> tuple[Any, str, str]:
    """The first fit that converges, its optimiser, and what the others said."""
    words: list[str] = []
    for optimiser in OPTIMISERS:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                found = model.fit(reml=reml, method=optimiser)
            except (np.linalg.LinAlgError, ValueError) as error:
                words.append(f"{optimiser}: {error}")
                continue
        if found.converged and np.isfinite(found.fe_params).all():
            return found, optimiser, ""
        words.extend(f"{optimiser}: {' '.join(str(w.message).split())}" for w in heard[:1])
    return None, "", "; ".join(words).replace("\t", " ")


def _variances(found: Any, slope: str) -> dict[str, float]:
    """In the scaled unit."""
    variances: dict[str, float] = {}
    if found.k_re:
        cov = np.asarray(found.cov_re)
        variances["participant"] = float(cov[0, 0])
        if slope:
            variances[f"slope of {slope}"] = float(cov[1, 1])
    names = found.model.exog_vc.names
    variances |= {name: float(v) for name, v in zip(names, np.atleast_1d(found.vcomp), strict=True)}
    variances["residual"] = float(found.scale)
    return variances


def between_within(columns: Array, people: Codes) -> Array:
    """Degrees of freedom of each column (n, k) of the fixed effects, by where it varies.

    What is the same in all rows of every person has those of the people, what varies within people those of
    the rows (Pinheiro and Bates 2000, section 2.4.2); the intercept counts as the former.
    """
    codes = np.unique(people, return_inverse=True)[1]
    count = np.bincount(codes)
    means = np.array([np.bincount(codes, column) / count for column in columns.T]).T
    spread = np.abs(columns - means[codes]).max(axis=0)
    within = spread > 1e-9 * np.abs(columns).max(axis=0)
    n_within = len(columns) - len(count) - int(within.sum())
    return np.where(within, n_within, len(count) - int((~within).sum())).astype(float)


def cluster_bootstrap(
    values: Array, columns: Array, people: Codes, strata: Codes, samples: int, random: np.random.Generator
) -> Array:
    """Least-squares estimates (samples, k) with whole people drawn with replacement within strata.

    Args:
        values: (n,).
        columns: (n, k), of full rank.
        people: (n,) whose row it is.
        strata: (number of people,) in the order of the sorted people.
        samples: how many; those whose columns are not of full rank are left out.
        random: the random numbers.
    """
    scale = np.sqrt((columns**2).mean(axis=0))
    scaled = columns / scale
    codes = np.unique(people, return_inverse=True)[1]
    n_people, k = int(codes.max()) + 1, columns.shape[1]
    cross = np.zeros((n_people, k, k + 1))
    np.add.at(cross, codes, scaled[:, :, None] * np.column_stack([scaled, values])[:, None, :])
    counts = np.zeros((samples, n_people))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        counts[:, members] = random.multinomial(
            len(members), np.full(len(members), 1 / len(members)), samples
        )
    total = np.einsum("sp,pij->sij", counts, cross)
    normal, right = total[..., :k], total[..., k:]
    good = np.linalg.cond(normal) < 1e12
    return np.asarray(np.linalg.solve(normal[good], right[good])[..., 0] / scale)
