"""Classwise calibration error: the bins of each class's own probability against how often that class is there.

CECE_k = sum_b n_b / n |mean_b p_k - mean_b [y = k]|, CECE = mean over all classes, background and absent ones included
(definitions 7.5; Nixon's SCE is the same formula). Promises: exact, mergeable sums; 15 bins unless given. Costs: one
search a voxel and class. No voxel: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities


@dataclass(frozen=True, eq=False)
class OneClass:
    """One class against the rest: its reliability `curve`, `frequency` (share of labels) and mean `probability`; they
    differ by the class's overall bias.
    """

    curve: Curve
    frequency: float
    probability: float

    @property
    def ece(self) -> float:
        """Calibration error of this class's probability."""
        return self.curve.ece


@dataclass(frozen=True, eq=False)
class ClasswiseCalibration:
    """One row a class, in the order of the classes."""

    table: tuple[OneClass, ...]

    @property
    def cece(self) -> float:
        """Mean calibration error over classes. No voxel: NaN."""
        return math.fsum(row.ece for row in self.table) / len(self.table)


@dataclass(frozen=True)
class ClasswiseCalibrationError:
    """Histogram of each class's probability for `classes` classes over `bins` equal bins."""

    classes: int
    bins: int = 15

    def __post_init__(self) -> None:
        bin_counts((self.bins,))

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts, labels and summed probability, each (classes, bins)."""
        shape = (self.classes, self.bins)
        return {"counts": Count(shape), "hits": Count(shape), "probability": ExactSum(shape)}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        binning, p = Binning((self.bins,)), probabilities(rows)
        counts = torch.empty((self.classes, self.bins), dtype=torch.int64)
        sums = torch.empty((self.classes, self.bins), dtype=torch.float64)
        # class by class: the working set stays in cache, and no (C, n) array of indices is made
        for k in range(self.classes):
            index = binning.index(p[k])
            counts[k] = torch.bincount(index, minlength=self.bins)
            sums[k] = torch.bincount(index, p[k], minlength=self.bins)
        hit = binning.index(at(p, rows.targets)) + self.bins * rows.targets
        return {"counts": counts, "hits": torch.bincount(hit, minlength=self.classes * self.bins), "probability": sums}

    def result(self, values: Mapping[str, Array]) -> ClasswiseCalibration:
        """The table of classes."""
        counts, hits, sums = values["counts"], values["hits"], values["probability"]
        table = []
        for k in range(self.classes):
            curve = Curve(counts[k], sums[k], hits[k])
            n = curve.voxels
            table.append(
                OneClass(curve, int(hits[k].sum()) / n if n else math.nan, float(sums[k].sum()) / n if n else math.nan)
            )
        return ClasswiseCalibration(tuple(table))
