"""Flips: how many delivered labels differ from the label before any calibrator, and whether that helped.

Over flipped voxels (definitions 7.3): harmful (was right, now wrong), beneficial (was wrong, now right), neutral (one
wrong label for another; impossible with two classes). Promises: int64 counts; rates are fractions, not per cent. No
voxel: NaN rate; no flip: NaN shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, Leaf


@dataclass(frozen=True)
class FlipAudit:
    """Counts of flipped voxels by what the flip did, out of `voxels`."""

    harmful: int
    beneficial: int
    neutral: int
    voxels: int

    @property
    def flipped(self) -> int:
        """All flipped voxels."""
        return self.harmful + self.beneficial + self.neutral

    @property
    def rate(self) -> float:
        """Flipped voxels as a fraction of all. No voxel: NaN."""
        return self.flipped / self.voxels if self.voxels else math.nan

    @property
    def shares(self) -> tuple[float, float, float]:
        """Harmful, beneficial and neutral as fractions of the flipped ones. No flip: NaN."""
        n = self.flipped
        return (self.harmful / n, self.beneficial / n, self.neutral / n) if n else (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Flips:
    """Counts of flips for `classes` classes."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Voxels, and flips by kind."""
        return {"voxels": Count(), "harmful": Count(), "beneficial": Count(), "neutral": Count()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial counts of one block."""
        flipped = rows.decision != rows.reference
        total = int(flipped.sum())
        if total == 0:
            return {"voxels": rows.voxels, "harmful": 0, "beneficial": 0, "neutral": 0}
        harmful = int((flipped & (rows.reference == rows.targets)).sum())
        beneficial = int((flipped & (rows.decision == rows.targets)).sum())
        return {
            "voxels": rows.voxels,
            "harmful": harmful,
            "beneficial": beneficial,
            "neutral": total - harmful - beneficial,
        }

    def result(self, values: Mapping[str, Array]) -> FlipAudit:
        """The audit."""
        return FlipAudit(*(int(values[name]) for name in ("harmful", "beneficial", "neutral", "voxels")))
