"""Probabilities by bin that minimise a binned binary log-likelihood: non-decreasing ones by pooling adjacent violators,
or free ones, both within bounds.

Given the share of events `share` (B,) and weights `weight` (B,), minimise sum_i w_i (-y_i log f_i - (1 - y_i) log (1 -
f_i)) / sum w over low <= f_i <= high. The non-decreasing minimiser is that of the squared error too (Barlow et al.
1972), which SciPy finds exactly by pooling adjacent violators; bounds only clip it. A certificate comes with it: by
convexity the gap is at most g.f - min g.v over feasible v, g the gradient, and the minimum is attained at a step
function from `low` to `high` (non-decreasing) or bin by bin (free). Costs: O(B). No bin: empty results and a gap of 0.
A bin of weight 0 takes part in no sum; it weighs next to nothing when bins are pooled, so its value is that of the bins
it is pooled with, or its own share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Vector = NDArray[np.float64]

NEXT_TO_NOTHING = 1e-100
"""Weight of an empty bin: SciPy takes positive ones only, and no sum with a voxel in it notices this."""


def pooled(share: Vector, weight: Vector) -> Vector:
    """The non-decreasing f (B,) of least sum w (f - y)^2."""
    if not share.size:
        return share
    return np.asarray(isotonic_regression(share, weights=weight.clip(min=NEXT_TO_NOTHING)).x, np.float64)


def binned_nll(values: Vector, share: Vector, weight: Vector) -> float:
    """The objective at `values`, each strictly between 0 and 1."""
    total = float(weight.sum())
    return float((weight * -(share * np.log(values) + (1 - share) * np.log1p(-values))).sum() / total) if total else 0.0


def gap_non_decreasing(values: Vector, share: Vector, weight: Vector, low: float, high: float) -> float:
    """A bound on the objective at `values` minus that of the best non-decreasing one within the bounds."""
    gradient = _gradient(values, share, weight)
    # v is low before the step and high from it on, for every place of the step
    best: float = min(
        (high * np.append(gradient[::-1].cumsum()[::-1], 0.0) + low * np.append(0.0, gradient.cumsum())).tolist()
    )
    return max(float(gradient @ values) - best, 0.0)


def gap_free(values: Vector, share: Vector, weight: Vector, low: float, high: float) -> float:
    """A bound on the objective at `values` minus that of the best one within the bounds."""
    gradient = _gradient(values, share, weight)
    return float(np.maximum(gradient * (values - low), gradient * (values - high)).clip(min=0).sum())


def _gradient(values: Vector, share: Vector, weight: Vector) -> Vector:
    return np.asarray(
        weight * (values - share) / (values * (1 - values)) / max(float(weight.sum()), np.finfo(np.float64).tiny)
    )
