"""NLL of temperature scaling as a function of beta = 1/T: u = beta x (K26 Eq. 3; convex in beta, not in T).

d/dbeta = E_p[x] - x_y and d2/dbeta2 = Var_p(x), averaged over voxels (definitions 9.2). No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segcal.accumulate import Array, Count, ExactSum, Leaf
from segcal.cases import Rows
from segcal.objectives.evaluation import COLUMNS, Evaluation

_LEAVES: Mapping[str, Leaf] = {"voxels": Count(), "value": ExactSum(), "gradient": ExactSum(), "curvature": ExactSum()}


@dataclass(frozen=True)
class ScaleNLL:
    """Value, slope and curvature at `beta`. Rows: (C, n)."""

    beta: float

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Four sums."""
        return _LEAVES

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        sums = torch.zeros(3, dtype=torch.float64)
        for low in range(0, rows.voxels, COLUMNS):
            x = rows.log_probs[:, low : low + COLUMNS].contiguous()
            picked = x.gather(0, rows.targets[None, low : low + COLUMNS])[0]
            p = self.beta * x
            top = p.amax(0)
            p.sub_(top).exp_()
            total = p.sum(0)
            mean = (p * x).sum(0) / total
            # the variance is taken around the mean: the difference of moments cancels for confident voxels
            spread = p.mul_((x - mean).square_()).sum(0) / total
            sums += torch.stack([(total.log() + top - self.beta * picked).sum(), (mean - picked).sum(), spread.sum()])
        value, slope, curvature = sums.tolist()
        return {"voxels": rows.voxels, "value": value, "gradient": slope, "curvature": curvature}

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        return Evaluation(
            float(values["value"]) * scale,
            np.array([float(values["gradient"]) * scale]),
            np.array([[float(values["curvature"]) * scale]]),
            n,
        )
