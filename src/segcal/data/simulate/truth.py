"""The truth of a simulated cohort: labels follow q = S(W x + b), x the network's canonical log-probabilities.

Three kinds of distortion, by what can undo them: a temperature (W = beta I, b = 0: temperature scaling), equal row sums
(matrix scaling with equal row sums), general (Dirichlet calibration). Only `identifiable` combinations of W and b can
be recovered: adding the same row to all rows of W, or a number to all of b, changes no probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from segcal.errors import ShapeError, UsageError


@dataclass(frozen=True, eq=False)
class Truth:
    """`weight` (C, C) and `bias` (C,) of the true map; equal where these are.

    Shapes that do not go together: ShapeError.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __post_init__(self) -> None:
        if (
            self.weight.ndim != 2
            or self.weight.shape[0] != self.weight.shape[1]
            or self.bias.shape != self.weight.shape[:1]
        ):
            raise ShapeError(
                "weight, bias",
                found=f"shapes {self.weight.shape} and {self.bias.shape}",
                expected="(C, C) and (C,)",
                do="Give a square matrix and one bias a class.",
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Truth)
            and np.array_equal(self.weight, other.weight)
            and np.array_equal(self.bias, other.bias)
        )

    def __hash__(self) -> int:
        return hash((self.weight.tobytes(), self.bias.tobytes()))

    @classmethod
    def temperature(cls, classes: int, beta: float) -> Truth:
        """A network that is off by a temperature 1 / beta alone."""
        if not (math.isfinite(beta) and beta > 0):
            raise UsageError(
                "beta", found=str(beta), expected="a finite number above 0", do="Temperatures are positive."
            )
        return cls(beta * np.eye(classes), np.zeros(classes))

    @classmethod
    def general(cls, classes: int, seed: int = 0) -> Truth:
        """As `equal_row_sums`, and the overall confidence tilts the classes too: row sums of W differ."""
        equal = cls.equal_row_sums(classes, seed)
        return cls(
            equal.weight + np.random.default_rng([seed, classes, 1]).uniform(-0.06, 0.06, classes)[:, None], equal.bias
        )

    @classmethod
    def equal_row_sums(cls, classes: int, seed: int = 0) -> Truth:
        """An over-confident network whose classes are distorted each in its own way, so that no temperature undoes it;
        all rows of W have the same sum.
        """
        generator = np.random.default_rng([seed, classes])
        weight = np.diag(generator.uniform(0.5, 0.8, classes)) + generator.normal(0.0, 0.06, (classes, classes))
        weight -= (weight.sum(1) - weight.sum(1).mean())[:, None] / classes
        bias = generator.normal(0.0, 0.3, classes)
        return cls(weight, bias - bias.mean())

    @property
    def classes(self) -> int:
        """C."""
        return len(self.bias)

    def log_posterior(self, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """log q (C, ...) of canonical log-probabilities (C, ...), class axis first."""
        scores = np.einsum("ij,j...->i...", self.weight, log_probs) + self.bias.reshape(
            -1, *(1,) * (log_probs.ndim - 1)
        )
        return np.asarray(scores - special.logsumexp(scores, axis=0, keepdims=True))

    def identifiable(self) -> NDArray[np.float64]:
        """What data can tell of the true W and b, see the function of this name."""
        return identifiable(self.weight, self.bias)


def identifiable(weight: ArrayLike, bias: ArrayLike) -> NDArray[np.float64]:
    """[W | b] (C, C + 1) without what no probability depends on: the mean of each of its columns removed."""
    joined = np.column_stack([np.asarray(weight, np.float64), np.asarray(bias, np.float64)])
    return np.asarray(joined - joined.mean(0, keepdims=True))
