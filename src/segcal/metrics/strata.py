"""NLL, Brier score and calibration errors in strata of the prediction: its foreground, and what lies near its boundary.

A stratum chosen by labels rewards over-confidence (`docs/results/strata.md`): where only voxels of a label are looked
at, sharper probabilities may come out better than the true ones. These are chosen by the label map that the
uncalibrated scores decide for (`Rows.reference`), so the same voxels are compared before and after a calibrator.
`foreground`: not decided for the background; None is declared: there is no such stratum. `boundary`: closer than `NEAR`
to a boundary of the predicted map, in voxels of the finest spacing. Numbers are pooled over voxels; definitions and
bins are those of `segcal.metrics.likelihood` and `segcal.metrics.calibration`. Promises: counts are int64 and other
sums exact. Costs: the voxels of the strata once more, and the predicted label map of each case, for which its scores
are read again. No voxel in a stratum: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.places.distance import BoundaryDistance
from segcal.data.places.place import Place, Predicted
from segcal.data.rows import Rows
from segcal.data.scores import FLOOR
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.metrics.binning import Binning, Curve, bin_counts
from segcal.metrics.probabilities import at, probabilities
from segcal.metrics.summary import ACE_BINS, ECE_BINS

NEAR = 3.0
"""Below this distance a voxel is at the predicted boundary, as BA-ECE's first band has it."""

AT_BOUNDARY = Predicted(BoundaryDistance(finest=True, reach=NEAR))

FOREGROUND, BOUNDARY = "foreground", "boundary"
STRATA = (FOREGROUND, BOUNDARY)


@dataclass(frozen=True, eq=False)
class Stratum:
    """Means over `voxels` voxels, and a reliability curve for each number of bins."""

    voxels: int
    nll: float
    brier: float
    curves: Mapping[int, Curve]

    def number(self, name: str) -> float:
        """`nll`, `brier`, `ece` (50 bins) or `ace` (15 bins)."""
        if name in ("nll", "brier"):
            return float(getattr(self, name))
        return self.curves[ECE_BINS].ece if name == "ece" else self.curves[ACE_BINS].ace


@dataclass(frozen=True)
class PredictedStrata:
    """Sums over both strata for `classes` classes, `background` among them or None; `bins`: as `CalibrationError`."""

    classes: int
    background: int | None = None
    bins: tuple[int, ...] = (15, 50)
    boundary: Place = AT_BOUNDARY

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", bin_counts(self.bins))

    @property
    def needs(self) -> frozenset[Place]:
        """The distance to the predicted boundary."""
        return frozenset((self.boundary,))

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Of each stratum: sums of NLL and Brier score, and a fine histogram of confidence."""
        fine = (len(STRATA), Binning(self.bins).fine)
        return {
            "nll": ExactSum((len(STRATA),)),
            "brier": ExactSum((len(STRATA),)),
            "counts": Count(fine),
            "hits": Count(fine),
            "confidence": ExactSum(fine),
        }

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        near = rows.place(self.boundary) < NEAR
        inside = torch.zeros_like(near) if self.background is None else rows.reference != self.background
        kept = (near | inside).nonzero()[:, 0]
        p, targets, decision = probabilities(rows)[:, kept], rows.targets[kept], rows.decision[kept]
        own = at(p, targets)
        nll = -at(rows.log_probs[:, kept], targets).double().clamp_min(math.log(FLOOR))
        brier = p.square().sum(0) - 2 * own + 1
        binning = Binning(self.bins)
        confidence = at(p, decision)
        index, right = binning.index(confidence), decision == targets
        out: dict[str, list[Any]] = {name: [] for name in self.leaves}
        for some in (inside[kept], near[kept]):
            cell = index[some]
            out["nll"].append(nll[some].sum())
            out["brier"].append(brier[some].sum())
            out["counts"].append(torch.bincount(cell, minlength=binning.fine))
            out["hits"].append(torch.bincount(index[some & right], minlength=binning.fine))
            out["confidence"].append(torch.bincount(cell, confidence[some], minlength=binning.fine))
        return {name: torch.stack(values) for name, values in out.items()}

    def result(self, values: Mapping[str, Array]) -> dict[str, Stratum]:
        """The strata by name."""
        binning = Binning(self.bins)
        found = {}
        for k, name in enumerate(STRATA):
            n = int(values["counts"][k].sum())
            curves = {
                b: Curve(*(binning.regroup(b, values[sums][k]) for sums in ("counts", "confidence", "hits")))
                for b in self.bins
            }
            nll, brier = (max(float(values[name][k]), 0.0) / n if n else math.nan for name in ("nll", "brier"))
            found[name] = Stratum(n, nll, brier, curves)
        return found
