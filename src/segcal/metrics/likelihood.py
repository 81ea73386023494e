"""Negative log-likelihood and Brier score: proper scores, summed over voxels; and the entropy beside them.

Promises: NLL = mean of -log max(p_y, 1e-12) (definitions 7.1 and 16: the metric has the floor, the fitted objective has
none), Brier = mean of sum_k (p_k - [y = k])^2 over all classes, from 0 to 2, entropy = mean of -sum_k p_k log p_k in
nats, what the NLL would be were the probabilities right. Costs: one pass over the probabilities. No
voxel: all are NaN. The Brier sum is taken as sum p^2 - 2 p_y + 1, which is exact to some 1e-16 a voxel; what rounding
leaves below zero is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.rows import Rows
from segcal.data.scores import FLOOR
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.metrics.probabilities import at, probabilities

LEAST = -745.0
"""A log-probability below which a float64 probability is 0, so that its part of the entropy is 0 and not NaN."""


@dataclass(frozen=True)
class Likelihood:
    """Means over `voxels` voxels."""

    nll: float
    brier: float
    voxels: int
    entropy: float = math.nan


@dataclass(frozen=True)
class LogLikelihood:
    """Sums of the negative log-likelihood, of the Brier score and of the entropy for `classes` classes."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels and sums."""
        return {"voxels": Count(), "nll": ExactSum(), "brier": ExactSum(), "entropy": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        p = probabilities(rows)
        log_likelihood = at(rows.log_probs, rows.targets).double().clamp_min(math.log(FLOOR))
        squares = torch.linalg.vector_norm(p).square()
        return {
            "voxels": rows.voxels,
            "nll": -log_likelihood.sum().item(),
            "brier": (squares - 2 * at(p, rows.targets).sum() + rows.voxels).item(),
            "entropy": -(p * rows.log_probs.clamp_min(LEAST)).sum().item(),
        }

    def result(self, values: Mapping[str, Array]) -> Likelihood:
        """Mean NLL in nats, mean Brier score, mean entropy in nats."""
        n = int(values["voxels"])
        if n == 0:
            return Likelihood(math.nan, math.nan, 0)
        nll, brier, entropy = (max(float(values[name]), 0.0) / n for name in ("nll", "brier", "entropy"))
        return Likelihood(nll, brier, n, entropy)
