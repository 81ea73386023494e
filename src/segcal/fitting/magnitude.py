"""How large log-probabilities are: what bounds the harm of keeping them in float32.

Costs one maximum a voxel. No voxel: 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf

_LEAVES: Mapping[str, Leaf] = {"voxels": Count(), "total": ExactSum()}


@dataclass(frozen=True)
class Magnitude:
    """The mean over voxels of max_c |x_c|."""

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """A count and a sum."""
        return _LEAVES

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """The sum of a block."""
        total = rows.log_probs.abs().amax(0).double().sum().item() if rows.voxels else 0.0
        return {"voxels": rows.voxels, "total": total}

    def result(self, values: Mapping[str, Array]) -> float:
        """The mean."""
        return float(values["total"]) / max(int(values["voxels"]), 1)
