"""Vector scaling (Guo et al. 2017; K26 Eq. 4): p = S(a * z + b), one factor and one bias a class; on raw logits where
they are known.

Translation-invariant iff all factors are equal; from log-probabilities always (then it is diagonal Dirichlet
calibration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segcal.methods.penalised_affine import PenalisedAffine
from segcal.objectives.evaluation import Vector


@dataclass(frozen=True)
class VectorScaling(PenalisedAffine):
    """2 C parameters, 2 C - 1 identifiable."""

    name: ClassVar[str] = "vs"

    def identifiable(self, classes: int) -> int:
        """2 C - 1."""
        return 2 * classes - 1

    @classmethod
    def variables(cls, classes: int) -> int:
        """A factor and a bias a class."""
        return 2 * classes

    @staticmethod
    def design(classes: int) -> Vector:
        """Variables: a, b."""
        out = np.zeros((classes, classes + 1, 2 * classes))
        for k in range(classes):
            out[k, k, k] = 1
            out[k, classes, classes + k] = 1
        return out.reshape(classes * (classes + 1), -1)

    @staticmethod
    def entries(classes: int) -> int:
        """The diagonal."""
        return classes

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """Where they are known."""
        return logits
