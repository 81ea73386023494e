"""How far probabilities are from the truth of a simulated cohort: KL(q || p), mean over voxels, in nats.

It is the NLL that a method loses against the truth. No voxel: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.rows import Rows
from segcal.data.simulate.truth import Truth
from segcal.data.surroundings import Context
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.engine.ask import Through


@dataclass(frozen=True)
class Divergence:
    """`kl`: mean KL(q || p) in nats over `voxels` voxels."""

    kl: float
    voxels: int


@dataclass(frozen=True)
class DistanceToTruth:
    """Sum of KL(q || p), where q is what `truth` says of the rows and p what `through`, a map of rows such as a
    calibrator's, makes of them (None: the rows themselves).
    """

    truth: Truth
    through: Through | None = None

    @property
    def contexts(self) -> frozenset[Context]:
        """What `through` must be brought."""
        return frozenset() if self.through is None else self.through.contexts

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels and the sum."""
        return {"voxels": Count(), "kl": ExactSum()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of one block."""
        log_q = torch.from_numpy(self.truth.log_posterior(rows.log_probs.double().numpy()))
        log_p = (rows if self.through is None else self.through(rows)).log_probs.double()
        return {"voxels": rows.voxels, "kl": (log_q.exp() * (log_q - log_p)).sum().item()}

    def result(self, values: Mapping[str, Array]) -> Divergence:
        """The mean; rounding below zero is zero."""
        n = int(values["voxels"])
        return Divergence(max(float(values["kl"]), 0.0) / n if n else math.nan, n)
