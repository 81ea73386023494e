"""Top-1 calibration error, for any number of bin counts in one pass.

Confidence is the probability of the *delivered* decision, correctness whether that decision is the label: the two are
about one and the same label, also where post-processing or a tie made it differ from the arg max. Promises: counts and
hits are int64 and confidences exact sums, so 40 million voxels in one bin are counted as 40 million; states merge over
blocks and images, which makes per-image and pooled errors two readings of the same states. Costs: one search a voxel.
No voxel: NaN. Bins are those of `segcal.metrics.binning` (definitions 7.4, 7.6 and 16).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.errors import UsageError
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the bins say: one reliability curve a bin count, mean `confidence` and `accuracy` over `voxels` voxels (NaN
    without any).
    """

    curves: Mapping[int, Curve]
    confidence: float
    accuracy: float
    voxels: int

    def curve(self, bins: int) -> Curve:
        """The reliability curve over `bins` bins; a count that was not asked for is a UsageError."""
        if bins not in self.curves:
            raise UsageError(
                "bins",
                found=str(bins),
                expected=f"one of {tuple(self.curves)}",
                do="Name this number of bins when the metric is made.",
            )
        return self.curves[bins]

    def ece(self, bins: int) -> float:
        """Expected calibration error over `bins` bins."""
        return self.curve(bins).ece

    def ace(self, bins: int) -> float:
        """Unweighted calibration error over `bins` bins."""
        return self.curve(bins).ace


@dataclass(frozen=True)
class CalibrationError:
    """Histogram of top-1 confidence for `classes` classes; `bins` are the bin counts wanted, in any order."""

    classes: int
    bins: tuple[int, ...] = (15, 50)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", bin_counts(self.bins))

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts, hits and summed confidence of the fine bins."""
        fine = (Binning(self.bins).fine,)
        return {"counts": Count(fine), "hits": Count(fine), "confidence": ExactSum(fine)}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        binning = Binning(self.bins)
        confidence = at(probabilities(rows), rows.decision)
        index = binning.index(confidence)
        return {
            "counts": torch.bincount(index, minlength=binning.fine),
            "hits": torch.bincount(index[rows.decision == rows.targets], minlength=binning.fine),
            "confidence": torch.bincount(index, confidence, minlength=binning.fine),
        }

    def result(self, values: Mapping[str, Array]) -> Calibration:
        """Curves for every bin count."""
        binning = Binning(self.bins)
        counts, hits, confidence = values["counts"], values["hits"], values["confidence"]
        n = int(counts.sum())
        curves = {
            b: Curve(binning.regroup(b, counts), binning.regroup(b, confidence), binning.regroup(b, hits))
            for b in self.bins
        }
        if n == 0:
            return Calibration(curves, math.nan, math.nan, 0)
        return Calibration(curves, float(confidence.sum()) / n, int(hits.sum()) / n, n)
