"""Quadratic penalties: on an affine map [W | b], diagonal in its entries, sum of weight * (theta - centre)^2; on an
expert [A | g], squared residuals.

`odir`: K26 Eq. 15, lambda mean of squared off-diagonals + mu mean of squared biases. `towards_temperature`: lambda mean
(W - beta I)^2 + mu mean b^2, the default (definitions 16). `ridge`: eps mean (W - I)^2 + eps mean b^2, always added, so
that a unique finite optimum exists and its distance can be bounded. Deviation from definitions 16: the ridge covers the
bias too (a class absent from the labels would otherwise send it to minus infinity). Penalties of one kind add with `+`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segcal.fitting.evaluation import Vector


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
        constant = (
            self.constant
            + other.constant
            + float(self.weight @ self.centre**2 + other.weight @ other.centre**2 - weight @ centre**2)
        )
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
    return Penalty(
        _spread(classes, 0.0, lambda_ / (classes * (classes - 1)), mu / classes), np.zeros(classes * (classes + 1))
    )


def towards_temperature(classes: int, lambda_: float, mu: float, beta: float) -> Penalty:
    """Shrinks to temperature scaling with beta = 1/T; at lambda -> infinity that is what is left."""
    return Penalty(
        _spread(classes, lambda_ / classes**2, lambda_ / classes**2, mu / classes), scaled_identity(classes, beta)
    )


def ridge(classes: int, eps: float) -> Penalty:
    """A very small pull to the identity."""
    return Penalty(_spread(classes, eps / classes**2, eps / classes**2, eps / classes), scaled_identity(classes, 1.0))


@dataclass(frozen=True, eq=False)
class SquaredResiduals:
    """A quadratic penalty |S theta + s|^2, with `matrix` S (r, d) and `offset` s (r,)."""

    matrix: Vector
    offset: Vector

    def value(self, theta: Vector) -> float:
        """The penalty at theta."""
        residual = self.matrix @ theta + self.offset
        return float(residual @ residual)

    def gradient(self, theta: Vector) -> Vector:
        """Its gradient (d,)."""
        return np.asarray(2 * (self.matrix.T @ (self.matrix @ theta + self.offset)))

    @cached_property
    def curvature(self) -> Vector:
        """Its curvature (d, d)."""
        return np.asarray(2 * self.matrix.T @ self.matrix)

    @cached_property
    def convexity(self) -> Vector:
        """(d,): w such that the curvature is at least diag w; the diagonal itself where there is nothing else."""
        diagonal = np.diag(self.curvature)
        if np.count_nonzero(self.curvature - np.diag(diagonal)) == 0:
            return np.array(diagonal)
        return np.full(len(diagonal), max(0.0, float(np.linalg.eigvalsh(self.curvature)[0]) * (1 - 1e-9)))

    def times(self, factor: float) -> SquaredResiduals:
        """The penalty, weighted."""
        return SquaredResiduals(self.matrix * np.sqrt(factor), self.offset * np.sqrt(factor))

    def __add__(self, other: SquaredResiduals) -> SquaredResiduals:
        return SquaredResiduals(np.vstack([self.matrix, other.matrix]), np.concatenate([self.offset, other.offset]))


def experts_towards_temperature(size: int, lambda_: float, mu: float, beta: float) -> SquaredResiduals:
    """lambda mean (A - beta I)^2 + mu mean g^2 of one expert [A | g] of (size, size + 1); with lambda = mu = eps and
    beta = 1 the ridge of definitions 16.
    """
    weight = np.full((size, size + 1), np.sqrt(lambda_) / size)
    weight[:, size] = np.sqrt(mu / size)
    centre = np.zeros((size, size + 1))
    centre[:, :size] = beta * np.eye(size)
    return SquaredResiduals(np.diag(weight.ravel()), -(weight * centre).ravel())


def experts_odir(classes: int, lambda_: float, mu: float, *, ranked: bool, pinned: bool) -> SquaredResiduals:
    """K26 Eq. 15 on the map an expert [A | g] induces, W = 1 w^T - K A D and b = beta 1 - K g, in its own order of the
    classes.

    Free gauge (the paper's): w and beta are what makes the penalty least (definitions 4.6), any temperature costs
    nothing. `pinned` (fiducio's): w picks the winner, beta = 0.
    """
    c, k = classes, classes - 1
    spread = np.vstack([np.zeros((1, k)), np.tril(np.ones((k, k))) if ranked else np.eye(k)])
    differences = np.zeros((k, c))
    for j in range(k):
        differences[j, j if ranked else 0] = 1
        differences[j, j + 1] -= 1
    off = ~np.eye(c, dtype=bool)

    def residuals(theta: Vector) -> Vector:
        matrix = theta.reshape(k, k + 1)
        weight, bias = spread @ matrix[:, :k] @ differences, spread @ matrix[:, k]
        if pinned:
            weight = weight.copy()
            weight[:, 0] -= 1
        else:
            weight = weight - np.where(off, weight, 0).sum(0) / (c - 1)
            bias = bias - bias.mean()
        return np.concatenate([weight[off] * np.sqrt(lambda_ / (c * (c - 1))), bias * np.sqrt(mu / c)])

    offset = residuals(np.zeros(k * (k + 1)))
    return SquaredResiduals(np.column_stack([residuals(row) - offset for row in np.eye(k * (k + 1))]), offset)
