"""How many voxels carry each class as their label: what tells a fit that a class is absent.

Costs one count a voxel. No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, Leaf


@dataclass(frozen=True)
class LabelCount:
    """Voxels by label, (C,)."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """One count a class."""
        return {"voxels": Count((self.classes,))}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Counts of a block."""
        return {"voxels": torch.bincount(rows.targets, minlength=self.classes).numpy()}

    def result(self, values: Mapping[str, Array]) -> Array:
        """Counts, int64 (C,)."""
        return values["voxels"]
