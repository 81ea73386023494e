"""What is minimised: the NLL of a field of temperatures, and how it is shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from segcal.fitting.evaluation import Evaluation
from segcal.fitting.penalties import SquaredResiduals
from segcal.fitting.solvers.query import Query
from segcal.methods.boundary.look import Look
from segcal.methods.boundary.sums import BoundaryNLL


@dataclass(frozen=True, eq=False)
class BoundaryProblem:
    """NLL plus penalty in what the weights exceed `least` by."""

    look: Look
    part: int
    penalty: SquaredResiduals
    least: float

    def accumulator(self, query: Query) -> BoundaryNLL:
        """The NLL at the weights."""
        return BoundaryNLL(self.look, self.part, tuple((self.least + query.theta).tolist()), query.order)

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """With the penalty."""
        weight, curvature = self.least + query.theta, found.curvature
        if curvature is not None:
            free = list(query.free) or list(range(len(weight)))
            curvature = (curvature + self.penalty.curvature)[np.ix_(free, free)]
        return Evaluation(
            found.value + self.penalty.value(weight),
            found.gradient + self.penalty.gradient(weight),
            curvature,
            found.voxels,
        )


@lru_cache(maxsize=256)
def shrinkage(look: Look, classes: int, beta: float, lambda_: float, mu: float, ridge: float) -> SquaredResiduals:
    """By `lambda_` of the tables of classes towards their mean, by `mu` of that and by `ridge` of all towards 1/T =
    `beta`, in its units:

        lambda mean_gk (w_gk - m_k)^2 / beta^2 + mu mean_k (m_k - beta_k)^2 / beta^2,   m_k = mean_g w_gk
    """
    size, groups, rows, offsets, before = look.size(classes), look.groups(classes), [], [], 0
    centre = 1 / look.numbers
    for knots in look.tables:
        length = groups * len(knots)
        table = np.zeros((length, size))
        table[:, before : before + length] = np.eye(length) / beta
        mean = table.reshape(groups, len(knots), size).mean(0)
        apart = table - np.tile(mean, (groups, 1))
        rows += [np.sqrt(lambda_ / length) * apart, np.sqrt(mu / len(knots)) * mean, np.sqrt(ridge / length) * table]
        offsets += [
            np.zeros(length),
            np.full(len(knots), -centre * np.sqrt(mu / len(knots))),
            np.full(length, -centre * np.sqrt(ridge / length)),
        ]
        before += length
    return SquaredResiduals(np.concatenate(rows), np.concatenate(offsets))
