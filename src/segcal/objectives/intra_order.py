"""NLL of an intra-order-preserving map in the parameters of its net; value and gradient, the gradient by torch's
differentiation of each block.

Not convex. Theta is flat: each layer's weight, row-major, then its bias (`segcal.intra_order.unpacked`). No voxel:
zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segcal.accumulate import Array, Count, ExactSum, Leaf
from segcal.cases import Rows
from segcal.intra_order import scores, unpacked
from segcal.objectives.evaluation import COLUMNS, Evaluation
from segcal.ranking import descending, winner


@dataclass(frozen=True)
class IntraOrderNLL:
    """Value (`order` 0) and gradient (1) at `theta`, for nets of `hidden` units a layer."""

    classes: int
    hidden: int
    theta: tuple[float, ...]
    order: int = 1

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums of what was asked for."""
        out: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        return out | ({"gradient": ExactSum((len(self.theta),))} if self.order else {})

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        value, gradient = 0.0, torch.zeros(len(self.theta), dtype=torch.float64)
        for low in range(0, rows.voxels, COLUMNS):
            given = rows.log_probs[:, low : low + COLUMNS]
            places = descending(given)
            x, rank = given.gather(0, places), winner(places == rows.targets[None, low : low + COLUMNS])
            with torch.set_grad_enabled(self.order > 0):
                theta = torch.tensor(self.theta, dtype=torch.float64, requires_grad=self.order > 0)
                total = (
                    -torch.log_softmax(scores(x, unpacked(theta, self.classes, self.hidden)), 0)
                    .gather(0, rank[None])
                    .sum()
                )
            value += total.item()
            if self.order:
                gradient += torch.autograd.grad(total, theta)[0]
        out: dict[str, Any] = {"voxels": rows.voxels, "value": value}
        return out | ({"gradient": gradient.numpy()} if self.order else {})

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        gradient = values["gradient"] / max(n, 1) if self.order else np.zeros(len(self.theta))
        return Evaluation(float(values["value"]) / max(n, 1), gradient, None, n)
