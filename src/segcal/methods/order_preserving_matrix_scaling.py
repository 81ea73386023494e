"""Order-preserving class-conditional matrix scaling, CMS_op (K26 3.2): u_(j) = -(sum of the first j - 1 entries of A_i
m + g_i), m the gaps between ranks, A_i, g_i >= 0.

The ranking of all classes is kept, at every voxel, up to ties. Translation-invariant. Only the first place has the
identity of a class; the others are ranks. Deviation: fitted without the gauge of the paper (definitions 4.4) and with
bounds where the paper takes softplus, so that zeros are reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segcal.experts import Coordinates, Gaps
from segcal.methods.penalised_conditional import BoundedExperts


@dataclass(frozen=True)
class OrderPreservingMatrixScaling(BoundedExperts):
    """C^2 (C - 1) parameters, all identifiable; the paper optimises C (C^2 + 1)."""

    name: ClassVar[str] = "cms-op"

    def identifiable(self, classes: int) -> int:
        """C^2 (C - 1)."""
        return classes**2 * (classes - 1)

    coordinates: ClassVar[Coordinates] = Gaps()
