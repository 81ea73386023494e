"""Class-conditional Dirichlet calibration (K26 3.2): p = S(W_i log S(z) + b_i), i the decided class, W_i and b_i free.

Translation-invariant by construction; it may flip labels. The unconstrained reference of the class-conditional methods:
nested above Dirichlet calibration and CMS_ap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from segcal.experts import Coordinates, Scores
from segcal.methods.penalised_conditional import FreeExperts


@dataclass(frozen=True)
class ClassConditionalDirichlet(FreeExperts):
    """C^2 (C + 1) parameters, C (C^2 - 1) identifiable."""

    name: ClassVar[str] = "cdc"

    def identifiable(self, classes: int) -> int:
        """C (C^2 - 1)."""
        return classes * (classes**2 - 1)

    coordinates: ClassVar[Coordinates] = Scores()
