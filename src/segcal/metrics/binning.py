"""Equal-width bins on [0, 1], for several bin counts at once, and the reliability curve they give.

Promises: bins are right-closed, (lo, hi], the first one includes 0 (definitions 7.4); edges are k/B in float64. A
probability that equals an edge up to `EDGE_TOLERANCE` is on that edge and in the bin below it: 1/3 stored as float32,
or recovered as exp(log(1/3)), lies above 1/3 and would otherwise move every uniform voxel up a bin. 2^-24 covers the
rounding of a float32 probability (2^-25) together with that of a float32 log-probability (2^-24 / e). The union of the
edges of all bin counts is one fine histogram, so each coarse bin is a whole number of fine ones and one pass serves all
counts exactly. Costs: a look-up and a comparison a value. An empty bin has count 0 and NaN means; a curve without
voxels has NaN errors. Deviation: peers compare with unshifted edges, float32 ones in fiducio; a voxel within 6e-8 above
an edge is counted one bin lower here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.files.reading import shown
from segcal.errors import UsageError

MOST_BINS, MOST_COUNTS = 10_000, 102
"""Largest number of bins, and most numbers of bins at once."""

EDGE_TOLERANCE = 2.0**-24
"""How far above an edge a probability still counts as lying on it."""


def bin_counts(bins: Iterable[int]) -> tuple[int, ...]:
    """Bin counts in ascending order, each once. None, too many, or one that is no whole number from 1 to `MOST_BINS`:
    UsageError.
    """
    given = tuple(bins)
    counts = all(isinstance(b, int) and not isinstance(b, bool) and 1 <= b <= MOST_BINS for b in given)
    if not (counts and 1 <= len(given) <= MOST_COUNTS):
        raise UsageError(
            "bins",
            found=shown(given),
            expected=f"one or more whole numbers from 1 to {MOST_BINS:,}, at most {MOST_COUNTS}",
            do="Give bin counts such as 15 and 50.",
        )
    return tuple(sorted(set(given)))


@dataclass(frozen=True)
class Binning:
    """The fine histogram that serves all of `bins` (as `bin_counts` returns them)."""

    bins: tuple[int, ...]

    @property
    def fine(self) -> int:
        """Number of fine bins."""
        return len(_upper_edges(self.bins))

    def index(self, values: Tensor) -> Tensor:
        """Fine bin of each value: int64, same shape. Values outside [0, 1] fall in the first or the last bin."""
        first, edges = _cells(self.bins)
        # what a search finds, thirty times as fast: a cell of the grid holds at most one edge, so one comparison is
        # left
        flat = values.reshape(-1)
        low = first.index_select(0, flat.mul(len(first) - 1).long().clamp_(0, len(first) - 1))
        return (low + (flat > edges.index_select(0, low))).reshape(values.shape)

    def regroup(self, bins: int, fine: NDArray[Any]) -> NDArray[Any]:
        """Fold a fine histogram (..., fine) into `bins` bins:

        (..., bins), dtype kept. A count that is not among `self.bins`: UsageError.
        """
        if bins not in self.bins:
            raise UsageError(
                "bins",
                found=str(bins),
                expected=f"one of {self.bins}",
                do="Name this number of bins when the metric is made.",
            )
        return np.add.reduceat(fine, _starts(self.bins, bins), axis=-1)


@lru_cache(maxsize=64)
def _upper_edges(bins: tuple[int, ...]) -> tuple[Fraction, ...]:
    return tuple(sorted({Fraction(k, b) for b in bins for k in range(1, b + 1)}))


@lru_cache(maxsize=64)
def _shifted(bins: tuple[int, ...]) -> Tensor:
    return torch.tensor([float(e) + EDGE_TOLERANCE for e in _upper_edges(bins)[:-1]], dtype=torch.float64)


@lru_cache(maxsize=64)
def _cells(bins: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The bin that each cell of a grid begins in, and the upper edge of each bin, infinite for the last.

    The grid is a power of two, so that a value's cell is exact, and finer than twice the least distance of two edges.
    """
    edges = _shifted(bins)
    ends = [Fraction(0), *_upper_edges(bins)]
    cells = 1 << math.ceil(math.log2(2 / min(b - a for a, b in itertools.pairwise(ends))) + 1)
    first = torch.bucketize(torch.arange(cells + 1, dtype=torch.float64) / cells, edges)
    return first, torch.cat([edges, torch.tensor([torch.inf], dtype=torch.float64)])


@lru_cache(maxsize=256)
def _starts(bins: tuple[int, ...], wanted: int) -> NDArray[np.intp]:
    """First fine bin of each of `wanted` bins."""
    ends = [Fraction(0), *_upper_edges(bins)]
    return np.array([ends.index(Fraction(k, wanted)) for k in range(wanted)], np.intp)


@dataclass(frozen=True, eq=False)
class Curve:
    """A reliability curve over B bins:

    `counts` (B,) int64 voxels, `confidence_sum` (B,) float64 sum of probabilities, `hits` (B,) int64 voxels where the
    event happened.
    """

    counts: NDArray[np.int64]
    confidence_sum: NDArray[np.float64]
    hits: NDArray[np.int64]

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.counts)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Bin edges (B + 1,)."""
        return np.arange(self.bins + 1) / self.bins

    @property
    def voxels(self) -> int:
        """Voxels in all bins."""
        return int(self.counts.sum())

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean probability a bin (B,), NaN where it is empty."""
        return _ratio(self.confidence_sum, self.counts)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of hits a bin (B,), NaN where it is empty."""
        return _ratio(self.hits, self.counts)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over voxels of the gap of their bin. No voxel: NaN."""
        return float(np.abs(self.confidence_sum - self.hits).sum() / self.voxels) if self.voxels else float("nan")

    @property
    def ace(self) -> float:
        """Unweighted calibration error: mean gap over non-empty bins (the papers' ACE, not Nixon's adaptive one).

        No voxel: NaN.
        """
        gaps = np.abs(self.confidence - self.accuracy)[self.counts > 0]
        return float(gaps.mean()) if gaps.size else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Edges, counts, mean confidence and accuracy as lists; empty bins hold None."""
        return {
            "edges": self.edges.tolist(),
            "counts": self.counts.tolist(),
            "confidence": [None if np.isnan(v) else v for v in self.confidence.tolist()],
            "accuracy": [None if np.isnan(v) else v for v in self.accuracy.tolist()],
        }


def _ratio(top: NDArray[Any], bottom: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0))
