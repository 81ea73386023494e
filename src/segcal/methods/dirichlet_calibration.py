"""Dirichlet calibration (Kull et al. 2019; K26 Eq. 10): p = S(W log S(z) + b), W and b free; translation-invariant by
construction.

Not order-preserving. A label that never occurs sends W_kk to infinity whatever lambda and mu; the ridge bounds it
(definitions 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segcal.methods.penalised_affine import PenalisedAffine
from segcal.objectives.evaluation import Vector


@dataclass(frozen=True)
class DirichletCalibration(PenalisedAffine):
    """C (C + 1) parameters, C^2 - 1 identifiable."""

    name: ClassVar[str] = "dc"

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
        """Never: it sees log-probabilities."""
        del logits
        return False
