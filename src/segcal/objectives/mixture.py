"""NLL of ensemble temperature scaling's weights at a fixed beta: p = l1 S(beta x) + l2 S(x) + l3 / C (K26 Eq. 6).

Convex in l on the simplex: with q the true-class probabilities of the three components, the gradient is the mean of -q
/ (l.q) and the curvature of q q^T / (l.q)^2 (definitions 9.2). Where l.q is 0 the value is infinite; l3 > 0 rules that
out. No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.accumulate import Array, Count, ExactSum, Leaf
from segcal.cases import Rows
from segcal.objectives.evaluation import Evaluation

_LEAVES: Mapping[str, Leaf] = {
    "voxels": Count(),
    "value": ExactSum(),
    "gradient": ExactSum((3,)),
    "curvature": ExactSum((3, 3)),
}

TINY = 1e-300


@dataclass(frozen=True)
class MixtureNLL:
    """Value, gradient and curvature in the three `weights`, at `beta`."""

    beta: float
    weights: tuple[float, float, float]

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Four sums."""
        return _LEAVES

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        x, at = rows.log_probs, rows.targets[None]
        picked = x.gather(0, at)[0]
        cooled = (self.beta * picked - torch.logsumexp(self.beta * x, 0)).exp_()
        q = torch.stack([cooled, picked.exp(), torch.full_like(picked, 1 / x.shape[0])])
        mixed = (torch.tensor(self.weights, dtype=torch.float64) @ q).clamp_min_(TINY)
        ratio = q / mixed
        return {
            "voxels": rows.voxels,
            "value": -mixed.log().sum().item(),
            "gradient": -ratio.sum(1).numpy(),
            "curvature": (ratio @ ratio.T).numpy(),
        }

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        return Evaluation(float(values["value"]) * scale, values["gradient"] * scale, values["curvature"] * scale, n)
