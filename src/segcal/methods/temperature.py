"""Temperature scaling: p = S(beta x), beta = 1/T > 0 (Guo et al. 2017; K26 Eq. 3): the map, its sums, its exact fit,
and the module as papers train it.

The map is translation-invariant and order-preserving for every beta > 0. The NLL is convex in beta, not in T: d/dbeta =
E_p[x] - x_y and d2/dbeta2 = Var_p(x), averaged over voxels (definitions 9.2). No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from segcal.data.rows import Rows
from segcal.engine.accumulate import Accumulator, Array, Count, ExactSum, Leaf
from segcal.engine.ask import Level
from segcal.errors import UsageError
from segcal.fitting.evaluation import Evaluation, at_once
from segcal.fitting.plans import Binding, Plan, Subset, Task, together
from segcal.fitting.solvers.query import Query, Solved
from segcal.fitting.solvers.scalar import ScalarNewton
from segcal.methods.calibrator import Solution
from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import AtBound, Map, one_positive_factor
from segcal.methods.method import FittedMap
from segcal.methods.parameterisation import FLOOR, WHOLE, Parameterisation, Stage, parameter, softplus_inverse
from segcal.methods.published import Published


class ScaleMap(Map):
    """`beta`: a number > 0 (UsageError otherwise)."""

    type_name: ClassVar[str] = "scale"
    beta: Tensor

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(beta, dtype=torch.float64).reshape(())
        if not (torch.isfinite(value) and value > 0):
            raise UsageError(
                "beta", found=f"{value.item()}", expected="a finite number above 0", do="Temperatures are positive."
            )
        self.parameter("beta", value)

    @property
    def classes(self) -> int | None:
        """Any."""
        return None

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(beta x), (C, n)."""
        return torch.log_softmax(self.beta.to(log_probs.dtype) * log_probs, 0)

    def guarantees(self) -> Guarantees:
        """All three hold for every beta > 0."""
        return one_positive_factor("proven", "one positive factor for all classes")

    def at_bounds(self, classes: Sequence[str]) -> list[AtBound]:
        """The temperature, at the ends of where it is sought."""
        del classes
        beta, (low, high) = self.beta.item(), BETA
        if beta <= low:
            meaning = "the data ask for a temperature beyond the largest: the scores say nothing about the labels"
            return [AtBound("beta", beta, meaning)]
        if beta >= high:
            return [AtBound("beta", beta, "the data ask for a temperature below the smallest: no label is wrong")]
        return []

    def describe(self) -> dict[str, object]:
        """The temperature."""
        return {"temperature": 1 / self.beta.item()}

    def in_units(self, unit: float) -> ScaleMap:
        """A temperature `unit` times as high."""
        return ScaleMap(self.beta / unit)

    def sensitivity(self) -> float:
        """Each score moves beta times as far, and the free energy no further."""
        return 2 * self.beta.item()

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ScaleMap:
        return cls(tensors["beta"])


_LEAVES: Mapping[str, Leaf] = {"voxels": Count(), "value": ExactSum(), "gradient": ExactSum(), "curvature": ExactSum()}


@dataclass(frozen=True)
class ScaleNLL:
    """Value, slope and curvature at `beta`. Rows: (C, n)."""

    beta: float

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Four sums."""
        return _LEAVES

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        sums = torch.zeros(3, dtype=torch.float64)
        step = at_once(len(rows.log_probs))
        for low in range(0, rows.voxels, step):
            x = rows.log_probs[:, low : low + step].contiguous()
            picked = x.gather(0, rows.targets[None, low : low + step])[0]
            p = self.beta * x
            top = p.amax(0)
            p.sub_(top).exp_()
            total = p.sum(0)
            mean = (p * x).sum(0) / total
            # the variance is taken around the mean: the difference of moments cancels for confident voxels
            spread = p.mul_((x - mean).square_()).sum(0) / total
            sums += torch.stack([(total.log() + top - self.beta * picked).sum(), (mean - picked).sum(), spread.sum()])
        value, slope, curvature = sums.tolist()
        return {"voxels": rows.voxels, "value": value, "gradient": slope, "curvature": curvature}

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        return Evaluation(
            float(values["value"]) * scale,
            np.array([float(values["gradient"]) * scale]),
            np.array([[float(values["curvature"]) * scale]]),
            n,
        )


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


BETA = (1e-4, 1e4)
"""Where the exact temperature is sought; the bound on a gap holds there."""


class TemperatureStage(Stage):
    """T = softplus(raw) + 1e-6; one number, beta = 1/T, for the accumulator."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = parameter(softplus_inverse(1 - FLOOR))

    @property
    def beta(self) -> Tensor:
        return 1 / (softplus(self.raw) + FLOOR)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {WHOLE: self.beta.reshape(1)}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece, order, logits
        return ScaleNLL(numbers[0])

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        del lambda_, mu
        beta, slope = numbers[WHOLE].item(), gradient[WHOLE].item()
        return (
            abs(slope) * max(beta - BETA[0] if slope > 0 else BETA[1] - beta, 0.0),
            f"convexity on {BETA[0]:g} <= 1/T <= {BETA[1]:g}",
        )


class Temperature(Parameterisation):
    """1 number."""

    name: ClassVar[str] = "ts"

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = TemperatureStage()

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.scale,)

    def forward(self, features: Tensor) -> Tensor:
        return torch.log_softmax(self.scale.beta * features, 0)

    def map(self, logits: bool) -> Map:
        del logits
        return ScaleMap(self.scale.beta.item())


@dataclass(frozen=True)
class TemperatureScaling(Published):
    """Temperature scaling (Guo et al. 2017; K26 Eq. 3): p = S(z / T), fitted exactly by safeguarded Newton in beta =
    1/T on [1e-4, 1e4].

    A hit on a bound is reported (all voxels right: T goes to 0). Where the scores are constant the temperature is not
    determined and stays 1. Translation-invariant, order-preserving. One parameter; nothing to over-fit.

    No options but the solver.
    """

    name: ClassVar[str] = "ts"
    papers: ClassVar[Mapping[str, str]] = {"TS": "ts"}
    suggested: ClassVar[bool] = True
    evaluations: ClassVar[int] = 12
    parameterisation: ClassVar[type[Parameterisation]] = Temperature

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
