"""Quadratic penalties on an affine map [W | b], diagonal in its entries: sum of weight * (theta - centre)^2.

`odir`: K26 Eq. 15, lambda mean of squared off-diagonals + mu mean of squared biases. `towards_temperature`: lambda mean (W - beta I)^2 + mu mean b^2, the
default (definitions 16). `ridge`: eps mean (W - I)^2 + eps mean b^2, always added, so that a unique finite optimum exists and its distance can be bounded.
Deviation from definitions 16: the ridge covers the bias too (a class absent from the labels would otherwise send it to minus infinity).
Penalties add with `+`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcal.objectives.evaluation import Vector


@dataclass(frozen=True, eq=False)
class Penalty:
    """sum w (theta - c)^2 + constant, with `weight` w >= 0 and `centre` c, both (d,)."""

    weight: Vector
    centre: Vector
    constant: float = 0.0

    def value(self, theta: Vector) -> float:
        """The penalty at theta."""
        return float(self.weight @ (theta - self.centre) ** 2) + self.constant

    def gradient(self, theta: Vector) -> Vector:
        """Its gradient (d,)."""
        return 2 * self.weight * (theta - self.centre)

    @property
    def curvature(self) -> Vector:
        """Diagonal of its curvature (d,)."""
        return 2 * self.weight

    def __add__(self, other: Penalty) -> Penalty:
        weight = self.weight + other.weight
        total = self.weight * self.centre + other.weight * other.centre
        centre = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        constant = self.constant + other.constant + float(self.weight @ self.centre**2 + other.weight @ other.centre**2 - weight @ centre**2)
        return Penalty(weight, centre, constant)


def _spread(classes: int, on_diagonal: float, off_diagonal: float, on_bias: float) -> Vector:
    weight = np.full((classes, classes + 1), off_diagonal)
    weight[:, :classes][np.diag_indices(classes)] = on_diagonal
    weight[:, classes] = on_bias
    return weight.ravel()


def scaled_identity(classes: int, beta: float) -> Vector:
    """[beta I | 0] as a flat vector of C (C + 1)."""
    out = np.zeros((classes, classes + 1))
    out[:, :classes] = beta * np.eye(classes)
    return out.ravel()


def odir(classes: int, lambda_: float, mu: float) -> Penalty:
    """K26 Eq. 15: the diagonal is free."""
    return Penalty(_spread(classes, 0.0, lambda_ / (classes * (classes - 1)), mu / classes), np.zeros(classes * (classes + 1)))


def towards_temperature(classes: int, lambda_: float, mu: float, beta: float) -> Penalty:
    """Shrinks to temperature scaling with beta = 1/T; at lambda -> infinity that is what is left."""
    return Penalty(_spread(classes, lambda_ / classes**2, lambda_ / classes**2, mu / classes), scaled_identity(classes, beta))


def ridge(classes: int, eps: float) -> Penalty:
    """A very small pull to the identity."""
    return Penalty(_spread(classes, eps / classes**2, eps / classes**2, eps / classes), scaled_identity(classes, 1.0))
