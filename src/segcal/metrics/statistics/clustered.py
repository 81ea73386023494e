"""Means of cases that come in groups (subjects, sequences): groups, not voxels or cases, are what is independent.

    clustered_mean           mean over cases, cluster-robust standard error, t interval with G - 1 degrees of freedom
    paired_difference        the same for after - before, case by case
    jackknife                the same for any number, from what it would be without each group
    cluster_bootstrap        percentile interval over whole groups
    lowest_probabilities     how probable it is of each of several that its mean is the lowest
    one_standard_error       what a difference may be and still count as none, a little wider for few groups

The standard error is that of a mean whose groups differ in size: residuals are summed within groups, Var = G / (G - 1)
sum_g (sum_{i in g} (x_i - mean))^2 / n^2. Promises: NaN values are dropped and counted. Nothing to average: NaN mean.
One group: no interval (NaN bounds), and `reason` says so. With fewer than some ten groups the percentile bootstrap is
too narrow; the t interval is the one to quote. Source: definitions 7.9 and 16.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from segcal.errors import UsageError
from segcal.metrics.statistics.estimate import REPLICATES, Estimate, bare, check, percentile

_CHUNK = 2**20


def clustered_mean(values: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Mean of `values` (n,) with a cluster-robust t interval; `groups` (n,) names each value's group.

    Lengths that differ, or a level outside (0, 1): UsageError.
    """
    x, index, dropped = _known(values, groups, level)
    count, clusters = len(x), _clusters(index)
    if clusters < 2:
        return bare(x, level, dropped, clusters)
    mean = math.fsum(x) / count
    residual = np.bincount(index, x - mean)
    error = math.sqrt(clusters / (clusters - 1) * math.fsum(residual**2)) / count
    reach = float(special.stdtrit(clusters - 1, (1 + level) / 2)) * error
    return Estimate(mean, mean - reach, mean + reach, error, level, count, dropped, clusters)


def paired_difference(
    before: ArrayLike, after: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95
) -> Estimate:
    """Mean of after - before over cases (each (n,)) with a cluster-robust t interval.

    A pair with a NaN on either side is dropped.
    """
    return clustered_mean(_difference(before, after), groups, level=level)


def jackknife(value: float, without: ArrayLike, *, values: int, dropped: int = 0, level: float = 0.95) -> Estimate:
    """`value` with a t interval from what it is `without` each of G groups (G,), all that went into that group left
    out.

    Var = (G - 1) / G sum_g (v_g - mean)^2, with G - 1 degrees of freedom (Tukey 1958): for a mean over groups of one
    size it is `clustered_mean`, for groups of different sizes a little wider, and it holds for pooled errors, which are
    no means. `values`, `dropped`: cases that went in and that could not. No interval (NaN) for one group, or where a
    number is not defined without some group.
    """
    check(level, REPLICATES)
    v = np.asarray(without, np.float64).ravel()
    if v.size < 2 or math.isnan(value):
        one = bare(np.array([value]), level, dropped, min(v.size, 1))
        return replace(one, values=values) if not math.isnan(value) else bare(np.empty(0), level, dropped, 0)
    if np.isnan(v).any():
        nan = math.nan
        return Estimate(value, nan, nan, nan, level, values, dropped, v.size, "not defined without one of the groups")
    error = math.sqrt((v.size - 1) / v.size * math.fsum((v - v.mean()) ** 2))
    reach = float(special.stdtrit(v.size - 1, (1 + level) / 2)) * error
    return Estimate(value, value - reach, value + reach, error, level, values, dropped, v.size)


def cluster_bootstrap(
    values: ArrayLike, groups: Sequence[Hashable], *, seed: int = 0, replicates: int = REPLICATES, level: float = 0.95
) -> Estimate:
    """Mean of `values` (n,) with a percentile interval over resampled whole groups; `standard_error` is the spread of
    the replicates.
    """
    x, index, dropped = _known(values, groups, level, replicates)
    clusters = _clusters(index)
    if clusters < 2:
        return bare(x, level, dropped, clusters)
    sums, sizes = np.bincount(index, x), np.bincount(index)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, replicates, step := max(1, _CHUNK // clusters)):
        drawn = rng.integers(clusters, size=(min(step, replicates - start), clusters))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return percentile(math.fsum(x) / len(x), np.concatenate(means), level, len(x), dropped, clusters)


def _known(
    values: ArrayLike, groups: Sequence[Hashable], level: float, replicates: int = REPLICATES
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Values that are not NaN, the group index of each (numbered as groups first appear), and how many were dropped."""
    x = np.asarray(values, np.float64).ravel()
    check(level, replicates)
    if len(groups) != x.size:
        raise UsageError(
            "groups",
            found=f"{len(groups)} groups for {x.size} values",
            expected="one group a value",
            do="Give the groups of the same cases, in the same order.",
        )
    keep = ~np.isnan(x)
    number: dict[Hashable, int] = {}
    index = [number.setdefault(g, len(number)) for g, k in zip(groups, keep, strict=True) if k]
    return x[keep], np.array(index, np.int64), int(x.size - keep.sum())


def _clusters(index: NDArray[np.int64]) -> int:
    return int(index.max()) + 1 if index.size else 0


def _difference(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(before, np.float64).ravel(), np.asarray(after, np.float64).ravel()
    if a.size != b.size:
        raise UsageError(
            "after",
            found=f"{b.size} values",
            expected=f"{a.size}, one for each value before",
            do="Compare the same cases, in the same order.",
        )
    return np.asarray(b - a)


def one_standard_error(difference: Estimate) -> float:
    """The standard error, widened for few groups so that it has the probability that one standard error has under a
    normal.
    """
    if difference.groups < 2:
        return math.inf
    return difference.standard_error * float(special.stdtrit(difference.groups - 1, special.ndtr(1)))


def lowest_probabilities(values: ArrayLike, groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """How probable it is, of each of K quantities known case by case, that its mean over cases is the lowest: (K,),
    adding to 1.

    `values`: (K, n), finite; `groups`: n of them. The Bayesian bootstrap over whole groups: their weights are drawn
    from the flat Dirichlet distribution (Rubin 1981), `REPLICATES` times, seeded. Ties go to the first. UsageError
    where there is nothing to compare, or a value is not finite.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise UsageError(
            "values",
            found=f"shape {x.shape}",
            expected="finite numbers of shape (quantities, cases), at least one",
            do="Leave out what has no number.",
        )
    _, index, _ = _known(x[0], groups, 0.95)
    count = np.bincount(index)
    sums = np.stack([np.bincount(index, row) for row in x])
    drawn = np.random.default_rng(0).dirichlet(np.ones(len(count)), REPLICATES)
    lowest = (drawn @ sums.T / (drawn @ count)[:, None]).argmin(1)
    return np.bincount(lowest, minlength=len(x)) / REPLICATES
