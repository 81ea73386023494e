"""The paper's two-level bootstrap of one column: repeats with replacement, then cases within each drawn repeat.

The reference: `Resamples` with `TwoLevel` uses the same draws for many columns at once.
Promises: seeded (numpy's default_rng); the draws depend on the seed and the sizes of the repeats alone. Cost: a gather
of every case drawn. Repeats share cases where they are partitions of one pool, and this scheme does not know: see
`segcal.metrics.statistics.coverage` for what that costs. Source: definitions 7.9 and 16; K26's own code is not
published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcal.metrics.statistics.estimate import REPLICATES, Estimate, bare, check, percentile

_CHUNK = 2**20


def draws(
    sizes: Sequence[int], seed: int, replicates: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Two-level draws for repeats of `sizes` cases: a repeat, the replicates (k,) that have drawn it in one slot, and
    the cases (k, size) drawn in each of them.
    """
    rng = np.random.default_rng(seed)
    count = len(sizes)
    drawn = rng.integers(count, size=(replicates, count))
    for slot in range(count):
        for which, size in enumerate(sizes):
            chosen = np.flatnonzero(drawn[:, slot] == which)
            for part in np.array_split(chosen, max(1, -(-chosen.size * size // _CHUNK))):
                yield which, part, rng.integers(size, size=(part.size, size))


def hierarchical_bootstrap(
    repeats: Sequence[ArrayLike], *, seed: int = 0, replicates: int = REPLICATES, level: float = 0.95
) -> Estimate:
    """Mean of repeat means with a two-level percentile interval: repeats drawn with replacement, then cases within each
    drawn repeat, anew each time it comes up.

    `repeats`: the values of each repeat, any lengths; NaN dropped, and so is a repeat with nothing left. One repeat:
    only its cases vary, and `reason` says so. For a paired difference give the differences of each repeat's cases: the
    resamples are then those of both.
    """
    given = [np.asarray(r, np.float64).ravel() for r in repeats]
    check(level, replicates)
    kept = [known for r in given if (known := r[~np.isnan(r)]).size]
    dropped = sum(r.size for r in given) - sum(r.size for r in kept)
    if not kept:
        return bare(np.empty(0), level, dropped, 0)
    count = len(kept)
    means = np.zeros(replicates)
    for which, part, cases in draws([r.size for r in kept], seed, replicates):
        means[part] += kept[which][cases].mean(1)
    mean = math.fsum(math.fsum(r) / r.size for r in kept) / count
    reason = "one repeat: the interval covers its cases only" if count == 1 else ""
    return percentile(mean, means / count, level, sum(r.size for r in kept), dropped, count, reason)
