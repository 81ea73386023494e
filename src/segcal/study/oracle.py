"""An oracle in the place of selective scaling's net: a share of the mispredicted voxels is made as unsure as can be
(W23 Fig. 4).

At rate r each mispredicted voxel is found with probability r, by a lot it draws, the same at every rate: those found at
a lower rate are found at a higher one. What is found gets 1/C of every class, the limit of T1; all else stays. In
closed form, per image and for any bins: without an oracle the ECE of mispredicted voxels is their mean confidence; at
rate 1 the ECE is at most acc E[1 - c | correct] + err / C (definitions 17). Promises: counts are int64 and sums exact.
Costs: one histogram a rate, in one pass. No voxel: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.data.files.reading import shown
from segcal.data.rows import Rows
from segcal.data.scores import FLOOR
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.errors import UsageError
from segcal.fitting.sample import Lots
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the mispredicted voxels that are found."""


@dataclass(frozen=True, eq=False)
class OracleScores:
    """By rate (R,): ECE, NLL and Brier score; `error`, the share of mispredicted voxels, of so many `voxels`."""

    ece: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]
    error: float
    voxels: int


@dataclass(frozen=True)
class OracleSweep:
    """Sums for `classes` classes at each of the `rates`; `bins` of the ECE; voxels draw `lots`.

    UsageError for rates outside 0 to 1.
    """

    classes: int
    lots: Lots
    rates: tuple[float, ...] = RATES
    bins: int = 10

    def __post_init__(self) -> None:
        bin_counts((self.bins,))
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise UsageError(
                "rates",
                found=shown(self.rates),
                expected="shares from 0 to 1",
                do="Leave it out for steps of a tenth.",
            )

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Histograms and sums of each rate."""
        fine, rates = (len(self.rates), Binning((self.bins,)).fine), (len(self.rates),)
        sums: dict[str, Leaf] = {"counts": Count(fine), "hits": Count(fine), "confidence": ExactSum(fine)}
        return sums | {"nll": ExactSum(rates), "brier": ExactSum(rates), "wrong": Count()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        p, right = probabilities(rows), rows.decision == rows.targets
        nll = -at(rows.log_probs, rows.targets).double().clamp_min(math.log(FLOOR))
        brier = p.square().sum(0) - 2 * at(p, rows.targets) + 1
        confidence, drew = at(p, rows.decision), torch.from_numpy(self.lots.of(rows))
        binning, unsure = Binning((self.bins,)), 1 / self.classes
        out: dict[str, list[Any]] = {name: [] for name in self.leaves if name != "wrong"}
        for rate in self.rates:
            found = ~right & (drew < rate)
            c = confidence.masked_fill(found, unsure)
            index = binning.index(c)
            out["counts"].append(torch.bincount(index, minlength=binning.fine))
            out["hits"].append(torch.bincount(index[right], minlength=binning.fine))
            out["confidence"].append(torch.bincount(index, c, minlength=binning.fine))
            out["nll"].append(nll.masked_fill(found, math.log(self.classes)).sum())
            out["brier"].append(brier.masked_fill(found, 1 - unsure).sum())
        return {name: torch.stack(values) for name, values in out.items()} | {"wrong": int((~right).sum())}

    def result(self, values: Mapping[str, Array]) -> OracleScores:
        """Means over voxels."""
        binning, n = Binning((self.bins,)), int(values["counts"][0].sum())
        fine = zip(values["counts"], values["confidence"], values["hits"], strict=True)
        curves = [Curve(*(binning.regroup(self.bins, sums) for sums in one)) for one in fine]
        nll, brier = (values[name] / n if n else np.full(len(self.rates), np.nan) for name in ("nll", "brier"))
        error = int(values["wrong"]) / n if n else math.nan
        return OracleScores(np.array([curve.ece for curve in curves]), nll, brier, error, n)
