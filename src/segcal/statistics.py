"""Means with honest intervals: cases come in groups (subjects, sequences), and groups, not voxels or cases, are what is independent.

    clustered_mean           mean over cases, cluster-robust standard error, t interval with G - 1 degrees of freedom
    paired_difference        the same for after - before, case by case
    cluster_bootstrap        percentile interval over whole groups
    hierarchical_bootstrap   percentile interval over repeats, then cases within each (definitions 7.9)
    one_standard_error       what a difference may be and still count as none, a little wider for few groups

The standard error is that of a mean whose groups differ in size: residuals are summed within groups, Var = G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2.
Promises: NaN values are dropped and counted; bootstraps are seeded (numpy's default_rng, 2000 replicates, linear percentiles) and give the same draws for the same
seed and sizes, so pipelines are compared on the same resamples. Nothing to average: NaN mean. One group: no interval (NaN bounds), and `reason` says so.
With fewer than some ten groups the percentile bootstrap is too narrow; the t interval is the one to quote.
Source: definitions 7.9 and 16; K26's own code is not published.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from segcal.errors import UsageError

REPLICATES = 2000
"""Bootstrap replicates unless given (K26)."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval: `low` and `high` at `level`, and its `standard_error`, NaN where there is none, and then `reason` says why.

    `values` were used, `dropped` were NaN; the values used lie in `groups` groups (for a hierarchical bootstrap: repeats).
    """

    mean: float
    low: float
    high: float
    standard_error: float
    level: float
    values: int
    dropped: int
    groups: int
    reason: str = ""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero. No interval: False."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, None where not defined."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high, "standard_error": self.standard_error}
        plain: dict[str, Any] = {k: None if math.isnan(v) else v for k, v in numbers.items()}
        return {**plain, "level": self.level, "values": self.values, "dropped": self.dropped, "groups": self.groups, "reason": self.reason}


def clustered_mean(values: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Mean of `values` (n,) with a cluster-robust t interval; `groups` (n,) names each value's group. Lengths that differ, or a level outside (0, 1): UsageError."""
    x, index, dropped = _known(values, groups, level)
    count, clusters = len(x), _clusters(index)
    if clusters < 2:
        return _bare(x, level, dropped, clusters)
    mean = math.fsum(x) / count
    residual = np.bincount(index, x - mean)
    error = math.sqrt(clusters / (clusters - 1) * math.fsum(residual**2)) / count
    reach = float(stats.t.ppf((1 + level) / 2, clusters - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, error, level, count, dropped, clusters)


def paired_difference(before: ArrayLike, after: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Mean of after - before over cases (each (n,)) with a cluster-robust t interval. A pair with a NaN on either side is dropped."""
    return clustered_mean(_difference(before, after), groups, level=level)


def cluster_bootstrap(values: ArrayLike, groups: Sequence[Hashable], *, seed: int = 0, replicates: int = REPLICATES, level: float = 0.95) -> Estimate:
    """Mean of `values` (n,) with a percentile interval over resampled whole groups; `standard_error` is the spread of the replicates."""
    x, index, dropped = _known(values, groups, level, replicates)
    clusters = _clusters(index)
    if clusters < 2:
        return _bare(x, level, dropped, clusters)
    sums, sizes = np.bincount(index, x), np.bincount(index)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, replicates, step := max(1, _CHUNK // clusters)):
        drawn = rng.integers(clusters, size=(min(step, replicates - start), clusters))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return _percentile(math.fsum(x) / len(x), np.concatenate(means), level, len(x), dropped, clusters)


def hierarchical_bootstrap(repeats: Sequence[ArrayLike], *, seed: int = 0, replicates: int = REPLICATES, level: float = 0.95) -> Estimate:
    """Mean of repeat means with a two-level percentile interval: repeats drawn with replacement, then cases within each drawn repeat, anew each time it comes up.

    `repeats`: the values of each repeat, any lengths; NaN dropped, and so is a repeat with nothing left. One repeat: only its cases vary, and `reason` says so.
    For a paired difference give the differences of each repeat's cases: the resamples are then those of both.
    """
    given = [np.asarray(r, np.float64).ravel() for r in repeats]
    _check(level, replicates)
    kept = [known for r in given if (known := r[~np.isnan(r)]).size]
    dropped = sum(r.size for r in given) - sum(r.size for r in kept)
    if not kept:
        return _bare(np.empty(0), level, dropped, 0)
    rng = np.random.default_rng(seed)
    count = len(kept)
    means = np.zeros(replicates)
    drawn = rng.integers(count, size=(replicates, count))
    for slot in range(count):
        for which, cases in enumerate(kept):
            chosen = np.flatnonzero(drawn[:, slot] == which)
            for part in np.array_split(chosen, max(1, -(-chosen.size * cases.size // _CHUNK))):
                means[part] += cases[rng.integers(cases.size, size=(part.size, cases.size))].mean(1)
    mean = math.fsum(math.fsum(r) / r.size for r in kept) / count
    reason = "one repeat: the interval covers its cases only" if count == 1 else ""
    return _percentile(mean, means / count, level, sum(r.size for r in kept), dropped, count, reason)


def _percentile(mean: float, replicates: NDArray[np.float64], level: float, count: int, dropped: int, groups: int, reason: str = "") -> Estimate:
    low, high = np.percentile(replicates, [round(50 * (1 - level), 10), round(50 * (1 + level), 10)], method="linear")
    return Estimate(mean, float(low), float(high), float(replicates.std(ddof=1)), level, count, dropped, groups, reason)


def _bare(x: NDArray[np.float64], level: float, dropped: int, groups: int) -> Estimate:
    nan = math.nan
    if groups == 0:
        return Estimate(nan, nan, nan, nan, level, 0, dropped, 0, "no value to average")
    return Estimate(math.fsum(x) / len(x), nan, nan, nan, level, len(x), dropped, 1, "one group: its spread says nothing about other groups")


def _known(values: ArrayLike, groups: Sequence[Hashable], level: float, replicates: int = REPLICATES) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Values that are not NaN, the group index of each (numbered as groups first appear), and how many were dropped."""
    x = np.asarray(values, np.float64).ravel()
    _check(level, replicates)
    if len(groups) != x.size:
        raise UsageError("groups", found=f"{len(groups)} groups for {x.size} values", expected="one group a value", do="Give the groups of the same cases, in the same order.")
    keep = ~np.isnan(x)
    number: dict[Hashable, int] = {}
    index = [number.setdefault(g, len(number)) for g, k in zip(groups, keep, strict=True) if k]
    return x[keep], np.array(index, np.int64), int(x.size - keep.sum())


def _clusters(index: NDArray[np.int64]) -> int:
    return int(index.max()) + 1 if index.size else 0


def _difference(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    a, b = np.asarray(before, np.float64).ravel(), np.asarray(after, np.float64).ravel()
    if a.size != b.size:
        raise UsageError("after", found=f"{b.size} values", expected=f"{a.size}, one for each value before", do="Compare the same cases, in the same order.")
    return np.asarray(b - a)


def _check(level: float, replicates: int) -> None:
    if not 0 < level < 1:
        raise UsageError("level", found=str(level), expected="a number between 0 and 1", do="Give a level such as 0.95.")
    if replicates < 2:
        raise UsageError("replicates", found=str(replicates), expected="at least 2", do=f"Use some {REPLICATES}.")


def one_standard_error(difference: Estimate) -> float:
    """The standard error, widened for few groups so that it has the probability that one standard error has under a normal."""
    if difference.groups < 2:
        return math.inf
    return difference.standard_error * float(stats.t.ppf(stats.norm.cdf(1), difference.groups - 1))
