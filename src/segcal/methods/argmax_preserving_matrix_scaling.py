"""Argmax-preserving class-conditional matrix scaling, CMS_ap (K26 3.2): u_winner = 0, u_k = -(A_i m + g_i)_k, m the
margins to each competitor, A_i, g_i >= 0.

Every label is kept, at every voxel; competitors may pass each other. Translation-invariant. Between temperature scaling
and class-conditional Dirichlet calibration. Deviation: fitted without the gauge of the paper (definitions 4.4) and with
bounds where the paper takes softplus, so that zeros are reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segcal.experts import Coordinates, Margins
from segcal.methods.penalised_conditional import BoundedExperts


@dataclass(frozen=True)
class ArgmaxPreservingMatrixScaling(BoundedExperts):
    """C^2 (C - 1) parameters, all identifiable; the paper optimises C (C^2 + 1)."""

    name: ClassVar[str] = "cms-ap"

    def identifiable(self, classes: int) -> int:
        """C^2 (C - 1)."""
        return classes**2 * (classes - 1)

    coordinates: ClassVar[Coordinates] = Margins()
