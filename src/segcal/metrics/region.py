"""O22's two numbers in its region of interest, the labelled foreground and its margin: ECE and SCE over 10 bins.

ECE is that of `segcal.metrics.calibration`. SCE is the classwise error with one difference: bins are open below, so
that a probability of exactly 0 lies in none and its voxel counts in the number of voxels alone (definitions 17).
Source: O22 section 4 and its released code. Promises: counts are int64 and other sums exact, so that case and cohort
are two readings of the same states. Costs: the voxels of the region once more, one search a class. No voxel in it: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segcal.data.places.place import Place
from segcal.data.places.region import ForegroundRegion
from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities

AROUND_FOREGROUND = ForegroundRegion()


@dataclass(frozen=True, eq=False)
class RegionScores:
    """`ece`, `sce`, and the reliability `curve` of the confidence, over `voxels` voxels."""

    ece: float
    sce: float
    curve: Curve
    voxels: int


@dataclass(frozen=True)
class RegionCalibration:
    """Sums for `classes` classes over `bins` bins, where the `region` is above 0."""

    classes: int
    bins: int = 10
    region: Place = AROUND_FOREGROUND

    def __post_init__(self) -> None:
        bin_counts((self.bins,))

    @property
    def needs(self) -> frozenset[Place]:
        """The region."""
        return frozenset((self.region,))

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Histograms of the confidence, and of each class's probability."""
        top, each = (self.bins,), (self.classes, self.bins)
        sums: dict[str, Leaf] = {"counts": Count(top), "hits": Count(top), "confidence": ExactSum(top)}
        return sums | {"class_hits": Count(each), "class_probability": ExactSum(each)}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        inside = (rows.place(self.region) > 0).nonzero()[:, 0]
        p, targets, decision = probabilities(rows)[:, inside], rows.targets[inside], rows.decision[inside]
        binning, confidence = Binning((self.bins,)), at(p, decision)
        top = binning.index(confidence)
        hits, sums = [], []
        for k in range(self.classes):
            index, above = binning.index(p[k]), p[k] > 0
            hits.append(torch.bincount(index[above & (targets == k)], minlength=self.bins))
            sums.append(torch.bincount(index, p[k], minlength=self.bins))
        return {
            "counts": torch.bincount(top, minlength=self.bins),
            "hits": torch.bincount(top[decision == targets], minlength=self.bins),
            "confidence": torch.bincount(top, confidence, minlength=self.bins),
            "class_hits": torch.stack(hits),
            "class_probability": torch.stack(sums),
        }

    def result(self, values: Mapping[str, Array]) -> RegionScores:
        """Both errors."""
        curve = Curve(values["counts"], values["confidence"], values["hits"])
        n = curve.voxels
        # n_b |mean p - mean hit| = |sum of p - hits|: how many voxels a bin holds cancels out
        gaps = np.abs(values["class_probability"] - values["class_hits"])
        return RegionScores(curve.ece, float(gaps.sum()) / (n * self.classes) if n else math.nan, curve, n)
