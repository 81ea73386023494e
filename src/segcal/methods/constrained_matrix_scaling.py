"""Constrained matrix scaling (K26 3.2): matrix scaling with equal row sums, W 1 = s 1, hence translation-invariant.

W = [W_free, s 1 - W_free 1]. s is a pure gauge of the NLL and moves through the penalty only. The penalty acts on the
whole W, its dependent last column included, as in fiducio. It gives the same probabilities from logits and from
log-probabilities; the better conditioned log-probabilities are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segcal.methods.penalised_affine import PenalisedAffine
from segcal.objectives.evaluation import Vector


@dataclass(frozen=True)
class ConstrainedMatrixScaling(PenalisedAffine):
    """C^2 + 1 parameters, C (C - 1) identifiable."""

    name: ClassVar[str] = "ms-c"

    def identifiable(self, classes: int) -> int:
        """C (C - 1)."""
        return classes * (classes - 1)

    @classmethod
    def variables(cls, classes: int) -> int:
        """Free entries, their common sum, biases."""
        return classes * (classes - 1) + 1 + classes

    @staticmethod
    def design(classes: int) -> Vector:
        """Variables: W_free (C, C - 1) row-major, s, b."""
        c = classes
        out = np.zeros((c, c + 1, c * (c - 1) + 1 + c))
        for i in range(c):
            for j in range(c - 1):
                out[i, j, i * (c - 1) + j] = 1
                out[i, c - 1, i * (c - 1) + j] = -1
            out[i, c - 1, c * (c - 1)] = 1
            out[i, c, c * (c - 1) + 1 + i] = 1
        return out.reshape(c * (c + 1), -1)

    @staticmethod
    def entries(classes: int) -> int:
        """All of W."""
        return classes**2

    @staticmethod
    def on_logits(logits: bool) -> bool:
        """It makes no difference."""
        del logits
        return False
