"""One resampling of a whole study, drawn once and used for every column: each pipeline, metric and paired difference
sees the same resampled repeats and cases.

    TwoLevel()             repeats with replacement, then cases within each drawn repeat (K26; the draws are those of
                           `hierarchical_bootstrap`)
    ByGroup()              whole groups of the pool, all their rows in all repeats with them; the repeats stay as they
                           are
    ByGroup(repeats=True)  groups and, independently, repeats (the pigeonhole bootstrap of Owen 2007)

The statistic is the mean over repeats of the means of their cases, which is linear in the values: a scheme is a sparse
matrix of weights (replicates, rows) made from integer counts. Promises: the same bits for any number of threads, of
columns computed together, and any order of the rows (they are sorted by repeat and case first). NaN is dropped before
drawing, column by column, so a column with NaN has draws of its own sizes, and a paired difference is NaN where either
side is. Fewer than two groups under `ByGroup`: no interval. A replicate of `ByGroup` in which no drawn repeat has a
drawn group is left out. Cost: 12 bytes for each row and replicate that was drawn (30 repeats of 400 cases: some 130
MB), and one multiplication for each of them and each column. Which scheme covers what it says is measured in
`segcal.metrics.statistics.coverage`. Source: definitions 7.9 and 16; deviation: sums run in another order than in
`hierarchical_bootstrap`, so its last bits differ.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from segcal.errors import UsageError
from segcal.metrics.statistics.estimate import LEVEL, REPLICATES, Estimate, bare, check, percentile
from segcal.metrics.statistics.hierarchical import draws

_CHUNK = 2**22
_COLUMNS = 512


class Scheme(Protocol):
    """What is drawn.

    * `weights` gives a sparse (replicates, rows) matrix; a replicate's statistic is its row times the values; a row of
    zeros is a replicate without a value. * `repeat` and `group` (rows,) are numbers from 0 without gaps, rows sorted by
    repeat. * `units` is what an estimate reports as its groups; `shortage` says why there is too little for an
    interval, or nothing.
    """

    @property
    def name(self) -> str:
        """As tables and the measured coverage call it."""

    def units(self, repeats: int, groups: int) -> int:
        """Number of what is resampled first."""

    def shortage(self, rows: int, groups: int) -> str:
        """Why no interval can be made of so many rows in so many groups; empty where one can."""

    def weights(self, repeat: NDArray[np.int64], group: NDArray[np.int64], seed: int, replicates: int) -> Any:
        """Seeded weights, a SciPy CSR array."""


@dataclass(frozen=True)
class TwoLevel:
    """Repeats, then cases within each drawn repeat, anew each time it comes up.

    It takes the cases of different repeats for different cases.
    """

    name = "two-level"

    def units(self, repeats: int, groups: int) -> int:
        """The repeats."""
        return repeats

    def shortage(self, rows: int, groups: int) -> str:
        """One row alone does not vary."""
        return "one value: it says nothing about others" if rows < 2 else ""

    def weights(self, repeat: NDArray[np.int64], group: NDArray[np.int64], seed: int, replicates: int) -> Any:
        """Counts of each row, over the cases of its repeat and the number of repeats."""
        sizes = np.bincount(repeat)
        starts = np.cumsum(sizes) - sizes
        counts = np.zeros((replicates, repeat.size), np.uint16)
        for which, part, cases in draws(sizes.tolist(), seed, replicates):
            counts[part, starts[which] : starts[which] + sizes[which]] += _multiplicities(
                cases, int(sizes[which])
            ).astype(np.uint16)
        weights = sparse.csr_array(counts)
        return sparse.csr_array(
            (weights.data / (sizes[repeat] * sizes.size)[weights.indices], weights.indices, weights.indptr),
            weights.shape,
        )


@dataclass(frozen=True)
class ByGroup:
    """Whole groups over the pool; with `repeats`, the repeats too."""

    repeats: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return "groups and repeats" if self.repeats else "groups"

    def units(self, repeats: int, groups: int) -> int:
        """The groups."""
        return groups

    def shortage(self, rows: int, groups: int) -> str:
        """One group alone does not vary."""
        return "one group: its spread says nothing about other groups" if groups < 2 else ""

    def weights(self, repeat: NDArray[np.int64], group: NDArray[np.int64], seed: int, replicates: int) -> Any:
        """How often its group was drawn, over that of all rows of its repeat, averaged over the drawn repeats that have
        any.
        """
        rng = np.random.default_rng(seed)
        count, clusters = int(repeat[-1]) + 1, int(group.max()) + 1
        often = _multiplicities(rng.integers(clusters, size=(replicates, clusters)), clusters)
        taken = (
            _multiplicities(rng.integers(count, size=(replicates, count)), count)
            if self.repeats
            else np.ones((replicates, count), np.int64)
        )
        starts = np.searchsorted(repeat, np.arange(count))
        parts = []
        for begin in range(0, replicates, step := max(1, _CHUNK // repeat.size)):
            rows = often[begin : begin + step, group]
            totals = np.add.reduceat(rows, starts, axis=1)
            drawn = np.where(totals > 0, taken[begin : begin + step], 0)
            divisor = np.maximum(totals, 1) * np.maximum(drawn.sum(1, keepdims=True), 1)
            parts.append(sparse.csr_array(rows * (drawn / divisor)[:, repeat]))
        return sparse.vstack(parts, format="csr")


def _multiplicities(drawn: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How often each of `count` things occurs in each row of `drawn` (n, k)."""
    shifted = drawn + count * np.arange(len(drawn))[:, None]
    return np.bincount(shifted.ravel(), minlength=len(drawn) * count).reshape(len(drawn), count)


@dataclass(frozen=True)
class Comparison:
    """A paired difference with its interval and its two-sided bootstrap p-value.

    `p`: twice the share of replicates on the far side of zero, counted with one more replicate there, so never below 2
    / (replicates + 1); NaN where there is no interval, or where every difference is exactly zero (`identical`), which
    is a fact and no test.
    """

    estimate: Estimate
    p: float
    identical: bool


@dataclass(eq=False)
class Resamples:
    """The resampling of rows that each belong to a repeat, a case and a group (the case itself unless given).

    Lengths that differ, or a case twice in a repeat: UsageError.
    """

    scheme: Scheme
    repeats: Sequence[Any]
    cases: Sequence[Any]
    groups: Sequence[Hashable] | None = None
    seed: int = 0
    replicates: int = REPLICATES
    _order: NDArray[np.int64] = field(init=False, repr=False)
    _repeat: NDArray[np.int64] = field(init=False, repr=False)
    _group: NDArray[np.int64] = field(init=False, repr=False)
    _drawn: dict[bytes, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        check(LEVEL, self.replicates)
        groups = self.cases if self.groups is None else self.groups
        if not len(self.repeats) == len(self.cases) == len(groups):
            found = f"{len(self.repeats)} repeats, {len(self.cases)} cases, {len(groups)} groups"
            raise UsageError(
                "rows",
                found=found,
                expected="one of each a row",
                do="Give repeat, case and group of the same rows, in the same order.",
            )
        keys = list(zip(self.repeats, self.cases, strict=True))
        if len(set(keys)) < len(keys):
            twice = next(k for i, k in enumerate(keys) if k in keys[:i])
            raise UsageError(
                "rows",
                found=f"case {twice[1]!r} twice in repeat {twice[0]!r}",
                expected="one row a repeat and case",
                do="Select one cohort, pipeline and metric first.",
            )
        self._order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        self._repeat = _numbered([self.repeats[i] for i in self._order])
        self._group = _numbered([groups[i] for i in self._order])

    def replicated(self, columns: ArrayLike) -> NDArray[np.float64]:
        """Statistics of every replicate (replicates, k) for columns of values (rows, k); NaN where a replicate has no
        value.
        """
        return self._replicated(self._sorted(columns))

    def intervals(self, columns: ArrayLike, *, level: float = LEVEL) -> list[Estimate]:
        """Mean of repeat means of each column (rows, k) with its percentile interval."""
        check(level, self.replicates)
        x = self._sorted(columns)
        return [self._estimate(x[:, k], made, level) for k, made in enumerate(self._replicated(x).T)]

    def interval(self, values: ArrayLike, *, level: float = LEVEL) -> Estimate:
        """The same for one column (rows,)."""
        return self.intervals(np.asarray(values, np.float64).reshape(-1, 1), level=level)[0]

    def compare(self, first: ArrayLike, second: ArrayLike, *, level: float = LEVEL) -> list[Comparison]:
        """Paired differences second - first of columns (rows, k): the same cases and draws on both sides.

        A row with a NaN on either side is dropped.
        """
        check(level, self.replicates)
        a, b = self._sorted(first), self._sorted(second)
        if a.shape != b.shape:
            raise UsageError(
                "second",
                found=f"{b.shape[1]} columns",
                expected=f"{a.shape[1]}, as many as first",
                do="Compare column with column.",
            )
        x = b - a
        out = []
        for k, made in enumerate(self._replicated(x).T):
            estimate, known = self._estimate(x[:, k], made, level), made[~np.isnan(made)]
            identical = bool(estimate.values) and not np.nan_to_num(x[:, k]).any()
            p = (
                math.nan
                if identical or math.isnan(estimate.low)
                else min(1.0, 2 * (1 + min(int((known <= 0).sum()), int((known >= 0).sum()))) / (known.size + 1))
            )
            out.append(Comparison(estimate, p, identical))
        return out

    def _sorted(self, columns: ArrayLike) -> NDArray[np.float64]:
        x = np.asarray(columns, np.float64)
        if x.ndim != 2 or len(x) != len(self._order):
            raise UsageError(
                "columns",
                found=f"shape {x.shape}",
                expected=f"({len(self._order)}, k), one value a row and column",
                do="Give the values of the rows, in their order.",
            )
        return x[self._order]

    def _replicated(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.full((self.replicates, x.shape[1]), np.nan)
        known = ~np.isnan(x)
        patterns: dict[bytes, list[int]] = {}
        for k in range(x.shape[1]):
            patterns.setdefault(np.packbits(known[:, k]).tobytes(), []).append(k)
        for pattern, columns in patterns.items():
            keep = known[:, columns[0]]
            if not keep.any():
                continue
            weights = self._weights(pattern, keep)
            nothing = np.diff(weights.indptr) == 0
            for begin in range(0, len(columns), _COLUMNS):
                chosen = columns[begin : begin + _COLUMNS]
                out[:, chosen] = weights @ np.ascontiguousarray(x[keep][:, chosen])
            out[np.ix_(np.flatnonzero(nothing), np.array(columns))] = np.nan
        return out

    def _weights(self, pattern: bytes, keep: NDArray[np.bool_]) -> Any:
        """Drawn once for complete columns and kept; drawn anew for a pattern of missing values."""
        if pattern in self._drawn:
            return self._drawn[pattern]
        made = self.scheme.weights(
            _numbered(self._repeat[keep].tolist()), _numbered(self._group[keep].tolist()), self.seed, self.replicates
        )
        if keep.all():
            self._drawn[pattern] = made
        return made

    def _estimate(self, x: NDArray[np.float64], made: NDArray[np.float64], level: float) -> Estimate:
        keep = ~np.isnan(x)
        known, repeat = x[keep], self._repeat[keep]
        repeats, groups = np.unique(repeat).size, np.unique(self._group[keep]).size
        units, dropped = self.scheme.units(repeats, groups), int(x.size - known.size)
        if not known.size:
            return bare(known, level, dropped, 0)
        mean = math.fsum(math.fsum(known[repeat == r]) / int((repeat == r).sum()) for r in np.unique(repeat)) / repeats
        if shortage := self.scheme.shortage(known.size, groups):
            return Estimate(mean, math.nan, math.nan, math.nan, level, known.size, dropped, units, shortage)
        reason = "one repeat: the interval covers its cases only" if repeats == 1 else ""
        return percentile(mean, made[~np.isnan(made)], level, known.size, dropped, units, reason)


def _numbered(labels: Sequence[Any]) -> NDArray[np.int64]:
    """Labels as numbers from 0 in the order in which they first appear."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(label, len(number)) for label in labels], np.int64)
