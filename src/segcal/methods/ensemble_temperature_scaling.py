"""Ensemble temperature scaling (Zhang et al. 2020; K26 Eq. 6): p = l1 S(z/T) + l2 S(z) + l3 / C.

Two stages, NLL in both (definitions 2.7; the original code hard-codes a squared error): T as in temperature scaling,
then the weights by Newton on the simplex, certified by the Frank-Wolfe gap. With T = 1 the first two components
coincide; all their weight is given to the first. Deviation: scores that tell nothing of the labels would put all weight
on the uniform distribution, where every class ties and the label is lost; `LEAST` of it stays on the first component.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from segcal.calibrators import MixtureMap, Solution
from segcal.engines import Level
from segcal.fitting import Binding, Plan, Subset, Task, together
from segcal.methods.method import FittedMap, Published
from segcal.methods.temperature_scaling import certificate, temperatures
from segcal.objectives import Evaluation, MixtureNLL
from segcal.solvers import Query, SimplexNewton, Solved

LEAST = 1e-6
"""Least weight of the two components that know the scores: it costs at most as much NLL and keeps label and order."""

_UNRELATED = "the scores tell nothing of the labels: all weight but what keeps the label is on the uniform distribution"


@dataclass(frozen=True)
class WeightsProblem:
    """NLL as a function of the three weights, at a fixed beta."""

    beta: float

    def accumulator(self, query: Query) -> MixtureNLL:
        """The NLL at these weights."""
        a, b, c = (float(w) for w in query.theta)
        return MixtureNLL(self.beta, (a, b, c))

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """As it is."""
        del query
        return found


@dataclass(frozen=True)
class EnsembleTemperatureScaling(Published):
    """No options but the solver."""

    name: ClassVar[str] = "ets"

    @classmethod
    def variables(cls, classes: int) -> int:
        """A temperature and three weights."""
        del classes
        return 4

    def identifiable(self, classes: int) -> int:
        """The temperature and two weights."""
        del classes
        return 3

    def exact(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Temperatures first, then weights."""
        first = yield from temperatures(task)

        def weights(subset: Subset) -> Plan[Solved]:
            problem = WeightsProblem(float(first[subset].theta[0]))
            rough = yield from Binding(task, subset, Level.SAMPLE, Level.SAMPLE, problem).run(
                SimplexNewton().solve(np.array([0.9, 0.05, 0.05]))
            )
            # not from the simplex's border: there a weight that should grow may have no slope in the model
            start = 0.999 * rough.theta + 0.001 / 3
            every = Binding(task, subset, Level.ALL, Level.ALL, problem)
            found = yield from every.run(SimplexNewton().solve(start))
            if found.theta[:2].sum() >= LEAST:
                return found
            kept = yield from every.run(SimplexNewton().proven(np.array([LEAST, 0.0, 1 - LEAST])))
            return replace(kept, converged=found.converged, notes=(*found.notes, _UNRELATED))

        second = yield from together({s: weights(s) for s in task.subsets})
        return {s: _fitted(first[s], second[s]) for s in task.subsets}


def _fitted(scale: Solved, mixed: Solved) -> FittedMap:
    beta, share = float(scale.theta[0]), np.maximum(mixed.theta, 0)
    share = share / share.sum()
    value, cert = mixed.value, certificate(mixed)
    if abs(beta - 1) < 1e-9:
        share = np.array([share[0] + share[1], 0.0, share[2]])
    if scale.value < mixed.value:
        # the weights (1, 0, 0) are feasible, and by rounding they can be the better end of a stopped descent
        share, value = np.array([1.0, 0.0, 0.0]), scale.value
    notes = [*scale.notes, *mixed.notes]
    status = "stopped" if not (scale.converged and mixed.converged) else "degenerate" if scale.notes else "optimal"
    message = f"T = {1 / beta:.4g}, weights {share[0]:.4f}, {share[1]:.4f}, {share[2]:.4f}" + (
        ": " + "; ".join(notes) if notes else ""
    )
    return FittedMap(MixtureMap(beta, torch.from_numpy(share)), Solution(value, value, status, message, 0, cert))
