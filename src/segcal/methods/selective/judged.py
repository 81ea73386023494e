"""What a selector is worth, on voxels of cases it did not learn from, beside the entropy, which needs no training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal.fitting.sample import Sample
from segcal.methods.selective.map import SelectiveMap
from segcal.methods.selective.selector import Selector
from segcal.metrics.probabilities import entropy
from segcal.metrics.statistics.clustered import clustered_mean
from segcal.metrics.statistics.estimate import Estimate


@dataclass(frozen=True)
class Judged:
    """What a selector does on cases it did not learn from: the share of mispredicted voxels that it picks (`recall`),
    the share of picked ones that are (`precision`), its `auroc` and that of the `entropy`, means over cases; mean
    `confidence` and `accuracy` of the voxels that it leaves.
    """

    recall: float
    precision: float
    auroc: Estimate
    entropy: Estimate
    confidence: float
    accuracy: float

    @classmethod
    def of(cls, selector: Selector, cases: Sequence[Sample], groups: Sequence[str]) -> Judged:
        """On samples of cases."""
        net = SelectiveMap(selector.layers, 1.0, 1.0)
        doubts = [net.doubt(torch.from_numpy(s.log_probs)).numpy() for s in cases]
        entropies = [entropy(torch.from_numpy(s.log_probs)).numpy() for s in cases]
        doubt, right = np.concatenate(doubts), np.concatenate([s.right for s in cases])
        sure = np.concatenate([np.exp(s.log_probs[s.decided, np.arange(len(s.decided))]) for s in cases])
        picked = doubt >= 0
        return cls(
            _mean(picked[~right]),
            _mean(~right[picked]),
            clustered_mean([auroc(d, ~s.right) for d, s in zip(doubts, cases, strict=True)], groups),
            clustered_mean([auroc(e, ~s.right) for e, s in zip(entropies, cases, strict=True)], groups),
            _mean(sure[~picked]),
            _mean(right[~picked]),
        )

    @property
    def learnt(self) -> bool:
        """Whether its AUROC is above .5, by its interval over groups, or, with one group, as it is."""
        low = self.auroc.low
        return bool((self.auroc.mean if math.isnan(low) else low) > 0.5)

    def sentence(self) -> str:
        """For a person."""
        share = "it picks none" if math.isnan(self.precision) else f"and {self.precision:.0%} of those it picks are"
        found = f"it finds {self.recall:.0%} of the mispredicted voxels, {share}"
        among = f"AUROC {self.auroc.mean:.3f} ({self.auroc.low:.3f} to {min(self.auroc.high, 1.0):.3f})"
        return f"{found}; {among}, that of the entropy {self.entropy.mean:.3f}"

    def told(self) -> dict[str, float]:
        """As data."""
        return {
            "recall": self.recall,
            "precision": self.precision,
            "auroc": self.auroc.mean,
            "auroc_low": self.auroc.low,
            "auroc_high": self.auroc.high,
            "entropy_auroc": self.entropy.mean,
            "confidence_of_others": self.confidence,
            "accuracy_of_others": self.accuracy,
        }


def auroc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """How probably a voxel that is `positive` scores above one that is not, a tie counting half; NaN without either."""
    if positive.all() or not positive.any():
        return math.nan
    from scipy import stats  # half a second, which only this needs

    found = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic").statistic
    return float(found) / (int(positive.sum()) * int((~positive).sum()))


def _mean(values: NDArray[Any]) -> float:
    """NaN of none."""
    return float(values.mean()) if len(values) else math.nan
