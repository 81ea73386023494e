"""Matrix scaling (K26 Eq. 5): p = S(W z + b), W and b free; on raw logits where they are known.

Not translation-invariant: it depends on the logits' offset, which the loss never fixed (K26 3.1). From probabilities it
coincides with Dirichlet calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segcal.methods.penalised_affine import PenalisedAffine
from segcal.objectives.evaluation import Vector


@dataclass(frozen=True)
class MatrixScaling(PenalisedAffine):
    """C (C + 1) parameters, C^2 - 1 identifiable."""

    name: ClassVar[str] = "ms"

    def identifiable(self, classes: int) -> int:
        """C^2 - 1."""
        return classes**2 - 1

    @classmethod
    def variables(cls, classes: int) -> int:
        """Every entry of [W | b]."""
        return classes * (classes + 1)

    @staticmethod
    def design(classes: int) -> Vector:
        """Every entry is free."""
        return np.eye(classes * (classes + 1))

    @staticmethod
    def entries(classes: int) -> int:
        """All of W."""
        return classes**2

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """Where they are known."""
        return logits
