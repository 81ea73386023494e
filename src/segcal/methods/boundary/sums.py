"""The NLL of a field of temperatures as a function of its weights, and its sums over voxels.

With 1/T(v) = beta(v) = sum_k w_k phi_k(v) the NLL of a voxel, log sum exp(beta x) - beta x_y, is convex in beta and so
in w. Its gradient in w_k is phi_k (E_p[x] - x_y), its curvature phi_k phi_l Var_p(x): temperature scaling's two sums,
dealt out to the two or four entries of each voxel whose phi is not 0. No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segcal.data.rows import Rows
from segcal.data.surroundings import Surroundings
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.fitting.evaluation import Evaluation, at_once
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.map import BoundaryMap
from segcal.methods.context import Network, OfCase


@dataclass(frozen=True)
class Looked:
    """What a `part` of the head draws of an open case for a `look` at one quantity: the context of a fit, before there
    are weights. Methods that look at the same share it.
    """

    look: Look
    part: int

    @property
    def numbers(self) -> int:
        """One a voxel."""
        return self.look.numbers

    def on(self, around: Surroundings) -> OfCase:
        """For an open case: what any map with this look draws."""
        cohort = around.cohort
        classes = len(cohort.head.part_classes(self.part))
        network = Network(None, cohort.head, cohort.pooled_kind, cohort.resolution, cohort.unit)
        anyone = BoundaryMap(self.look.spread(1.0, classes), self.look, classes)
        return OfCase(anyone, self.part, around, network)


@dataclass(frozen=True)
class BoundaryNLL:
    """Value, gradient (`order` 1) and curvature (2) in all weights of a `look` of a `part`, at `weight`."""

    look: Look
    part: int
    weight: tuple[float, ...]
    order: int = 2

    @property
    def looked(self) -> tuple[Looked, ...]:
        """What its rows must bring, in order."""
        return tuple(Looked(one, self.part) for one in self.look.quantities)

    @property
    def contexts(self) -> frozenset[Looked]:
        """What its rows must bring."""
        return frozenset(self.looked)

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """The sums there are at this order."""
        d = len(self.weight)
        leaves: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        if self.order >= 1:
            leaves["gradient"] = ExactSum((d,))
        if self.order >= 2:
            leaves["curvature"] = ExactSum((d, d))
        return leaves

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        d = len(self.weight)
        weight = torch.tensor(self.weight, dtype=torch.float64)
        value = 0.0
        gradient, curvature = torch.zeros(d, dtype=torch.float64), torch.zeros(d * d, dtype=torch.float64)
        context = torch.cat([rows.contexts[one] for one in self.looked])
        step = at_once(len(rows.log_probs))
        for low in range(0, rows.voxels, step):
            some = slice(low, low + step)
            x = rows.log_probs[:, some].contiguous()
            entries, hats = self.look.cells(context[:, some], rows.decision[some], len(x))
            beta = (weight[entries] * hats).sum(0)
            picked = x.gather(0, rows.targets[None, some])[0]
            p = beta * x
            top = p.amax(0)
            p.sub_(top).exp_()
            total = p.sum(0)
            value += float((total.log() + top - beta * picked).sum())
            if self.order < 1:
                continue
            mean = (p * x).sum(0) / total
            gradient += torch.bincount(entries.flatten(), (hats * (mean - picked)).flatten(), d)
            if self.order < 2:
                continue
            # the variance is taken around the mean: the difference of moments cancels for confident voxels
            spread = p.mul_((x - mean).square_()).sum(0) / total
            pairs = (entries[:, None] * d + entries).flatten()
            curvature += torch.bincount(pairs, (hats[:, None] * hats * spread).flatten(), d * d)
        sums: dict[str, Any] = {"voxels": rows.voxels, "value": value}
        sums |= {
            "gradient": gradient.numpy(),
            "curvature": curvature.reshape(d, d).numpy(),
        }
        return {name: sums[name] for name in self.leaves}

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        gradient = values["gradient"] * scale if self.order >= 1 else np.zeros(len(self.weight))
        curvature = values["curvature"] * scale if self.order >= 2 else None
        return Evaluation(float(values["value"]) * scale, gradient, curvature, n)
