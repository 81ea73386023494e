"""Temperature scaling (Guo et al. 2017; K26 Eq. 3): p = S(z / T), fitted exactly by safeguarded Newton in beta = 1/T on
[1e-4, 1e4].

A hit on a bound is reported (all voxels right: T goes to 0). Where the scores are constant the temperature is not
determined and stays 1. Translation-invariant, order-preserving. One parameter; nothing to over-fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from segcal.calibrators import ScaleMap, Solution
from segcal.engines import Level
from segcal.fitting import Binding, Plan, Subset, Task, together
from segcal.methods.method import FittedMap, Published
from segcal.objectives import Evaluation, ScaleNLL
from segcal.solvers import Query, ScalarNewton, Solved


@dataclass(frozen=True)
class ScaleProblem:
    """NLL as a function of beta."""

    def accumulator(self, query: Query) -> ScaleNLL:
        """The NLL at beta."""
        return ScaleNLL(float(query.theta[0]))

    def evaluated(self, query: Query, found: Evaluation) -> Evaluation:
        """As it is."""
        del query
        return found


def temperature(task: Task, subset: Subset, level: Level, start: float = 1.0) -> Plan[Solved]:
    """The best beta of a subset."""
    return Binding(task, subset, level, level, ScaleProblem()).run(ScalarNewton().solve(start))


def sampled_temperatures(task: Task, subsets: Iterable[Subset]) -> Plan[dict[Subset, Solved]]:
    """The best beta of each subset on the sample."""
    return together({s: temperature(task, s, Level.SAMPLE) for s in subsets})


def refined_temperatures(task: Task, rough: Mapping[Subset, Solved]) -> Plan[dict[Subset, Solved]]:
    """The best beta of each subset on all voxels, from what the sample said."""

    def one(subset: Subset) -> Plan[Solved]:
        found = yield from temperature(task, subset, Level.ALL, float(rough[subset].theta[0]))
        # why it is undetermined shows on the way out from 1, not far out, where every slope is zero
        return replace(found, notes=rough[subset].notes) if found.notes and rough[subset].notes else found

    return together({s: one(s) for s in rough})


def temperatures(task: Task) -> Plan[dict[Subset, Solved]]:
    """The best beta of every subset the task names: from the sample, then from all voxels."""
    rough = yield from sampled_temperatures(task, task.subsets)
    return (yield from refined_temperatures(task, rough))


def certificate(solved: Solved) -> dict[str, Any]:
    """What a solution says of its optimality."""
    return {"gap": solved.gap, "proof": solved.proof, "gradient": solved.gradient, "evaluations": solved.evaluations}


@dataclass(frozen=True)
class TemperatureScaling(Published):
    """No options but the solver."""

    name: ClassVar[str] = "ts"

    @classmethod
    def variables(cls, classes: int) -> int:
        """One temperature."""
        del classes
        return 1

    def identifiable(self, classes: int) -> int:
        """The temperature."""
        del classes
        return 1

    def exact(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """One temperature a subset."""
        solved = yield from temperatures(task)
        return {s: _fitted(found, task.unit) for s, found in solved.items()}


def _fitted(solved: Solved, unit: float) -> FittedMap:
    beta = float(solved.theta[0])
    status = "stopped" if not solved.converged else "degenerate" if solved.notes else "optimal"
    message = f"T = {unit / beta:.4g}" + (": " + "; ".join(solved.notes) if solved.notes else "")
    return FittedMap(ScaleMap(beta), Solution(solved.value, solved.value, status, message, 0, certificate(solved)))
