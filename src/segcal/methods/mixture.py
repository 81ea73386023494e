"""Ensemble temperature scaling: p = l1 S(beta x) + l2 S(x) + l3 / C, l on the simplex (Zhang et al. 2020; K26 Eq. 6):
the map, its sums, its exact fit, and the module as papers train it.

The map is translation-invariant; order-preserving, strictly while l1 + l2 > 0. With l3 > 0 the confidence never exceeds
1 - l3 (1 - 1/C).

The NLL at a fixed beta is convex in l on the simplex: with q the true-class probabilities of the three components, the
gradient is the mean of -q / (l.q) and the curvature of q q^T / (l.q)^2 (definitions 9.2). Where l.q is 0 the value is
infinite; l3 > 0 rules that out. No voxel: zeros.

The paper's module starts its weights at (0.998, 0.001, 0.001), as in the authors' library: a softmax reaches no zero.
Temperature and weights carry no penalty.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine.accumulate import Accumulator, Array, Count, ExactSum, Leaf
from segcal.engine.ask import Level
from segcal.errors import UsageError
from segcal.fitting.evaluation import Evaluation
from segcal.fitting.plans import Binding, Plan, Subset, Task, together
from segcal.fitting.solvers.query import Query, Solved
from segcal.fitting.solvers.simplex import SimplexNewton
from segcal.methods.calibrator import Solution
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import AtBound, Map
from segcal.methods.method import FittedMap
from segcal.methods.parameterisation import WHOLE, Parameterisation, Stage, parameter
from segcal.methods.published import Published
from segcal.methods.temperature import ScaleMap, TemperatureStage, certificate, temperatures


class MixtureMap(Map):
    """`beta` > 0 and three `weights` >= 0 that sum to one (UsageError otherwise)."""

    type_name: ClassVar[str] = "mixture"
    beta: Tensor
    weights: Tensor

    def __init__(self, beta: float | Tensor, weights: Tensor) -> None:
        super().__init__()
        value = torch.as_tensor(beta, dtype=torch.float64).reshape(())
        share = torch.as_tensor(weights, dtype=torch.float64)
        if not (torch.isfinite(value) and value > 0):
            raise UsageError(
                "beta", found=f"{value.item()}", expected="a finite number above 0", do="Temperatures are positive."
            )
        if share.shape != (3,) or not bool((share >= 0).all()) or abs(share.sum().item() - 1) > 1e-9:
            raise UsageError(
                "weights",
                found=str(share.tolist()),
                expected="three weights >= 0 that sum to one",
                do="Give the shares of S(x/T), S(x) and the uniform.",
            )
        self.parameter("beta", value)
        self.parameter("weights", share)

    @property
    def classes(self) -> int | None:
        """Any."""
        return None

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log of the mixture, (C, n)."""
        kind = log_probs.dtype
        log_weights = self.weights.to(kind).clamp_min(torch.finfo(kind).tiny).log()
        cooled = torch.log_softmax(self.beta.to(kind) * log_probs, 0) + log_weights[0]
        plain = torch.log_softmax(log_probs, 0) + log_weights[1]
        uniform = log_weights[2] - math.log(log_probs.shape[0])
        return torch.logaddexp(torch.logaddexp(cooled, plain), uniform.expand_as(plain))

    def guarantees(self) -> Guarantees:
        """Order is preserved while some weight is on a tempered softmax."""
        why = "a mixture of increasing functions of the same score"
        order: Status = "proven" if bool(self.weights[:2].sum() > 0) else "no"
        reasons = {"translation_invariant": why, "preserves_argmax": why, "preserves_order": why}
        if order == "no":
            reasons |= dict.fromkeys(
                ("preserves_argmax", "preserves_order"), "all weight is on the uniform distribution: every class ties"
            )
        return Guarantees("proven", order, order, reasons)

    def at_bounds(self, classes: Sequence[str]) -> list[AtBound]:
        """The temperature, and weights of 0."""
        meanings = (
            "the tempered softmax is not used",
            "the softmax as it is is not used",
            "nothing is mixed in from the uniform distribution",
        )
        weights = [
            AtBound(f"weights[{k}]", 0.0, meaning)
            for k, (w, meaning) in enumerate(zip(self.weights.tolist(), meanings, strict=True))
            if w == 0
        ]
        return ScaleMap(self.beta).at_bounds(classes) + weights

    def describe(self) -> dict[str, object]:
        """Temperature and weights."""
        return {"temperature": 1 / self.beta.item(), "weights": self.weights.tolist()}

    def sensitivity(self) -> float:
        """That of the component that moves most."""
        return 2 * max(self.beta.item(), 1.0)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MixtureMap:
        return cls(tensors["beta"], tensors["weights"])


_LEAVES: Mapping[str, Leaf] = {
    "voxels": Count(),
    "value": ExactSum(),
    "gradient": ExactSum((3,)),
    "curvature": ExactSum((3, 3)),
}

TINY = 1e-300


@dataclass(frozen=True)
class MixtureNLL:
    """Value, gradient and curvature in the three `weights`, at `beta`."""

    beta: float
    weights: tuple[float, float, float]

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Four sums."""
        return _LEAVES

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        x, at = rows.log_probs, rows.targets[None]
        picked = x.gather(0, at)[0]
        cooled = (self.beta * picked - torch.logsumexp(self.beta * x, 0)).exp_()
        q = torch.stack([cooled, picked.exp(), torch.full_like(picked, 1 / x.shape[0])])
        mixed = (torch.tensor(self.weights, dtype=torch.float64) @ q).clamp_min_(TINY)
        ratio = q / mixed
        return {
            "voxels": rows.voxels,
            "value": -mixed.log().sum().item(),
            "gradient": -ratio.sum(1).numpy(),
            "curvature": (ratio @ ratio.T).numpy(),
        }

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        scale = 1 / max(n, 1)
        return Evaluation(float(values["value"]) * scale, values["gradient"] * scale, values["curvature"] * scale, n)


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


class WeightsStage(Stage):
    """Mixture weights as a softmax of three raw numbers, at the temperature of the stage before."""

    START = (0.998, 0.001, 0.001)

    def __init__(self, first: TemperatureStage) -> None:
        super().__init__()
        self.raw = parameter(torch.tensor(self.START, dtype=torch.float64).log())
        self._first = (first,)  # in a tuple: its parameter belongs to the stage before

    @property
    def weights(self) -> Tensor:
        return torch.softmax(self.raw, 0)

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {WHOLE: self.weights}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece, order, logits
        a, b, c = numbers
        return MixtureNLL(self._first[0].beta.item(), (a, b, c))

    def gap(
        self, numbers: Mapping[Hashable, Tensor], gradient: Mapping[Hashable, Tensor], lambda_: float, mu: float
    ) -> tuple[float, str]:
        del lambda_, mu
        slope = gradient[WHOLE]
        return max(0.0, (slope @ numbers[WHOLE] - slope.min()).item()), "Frank-Wolfe, at this temperature"


class EnsembleTemperature(Parameterisation):
    """4 numbers: the temperature first, then the weights."""

    name: ClassVar[str] = "ets"

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.scale = TemperatureStage()
        self.mixture = WeightsStage(self.scale)

    @property
    def stages(self) -> Sequence[Stage]:
        return self.scale, self.mixture

    def forward(self, features: Tensor) -> Tensor:
        components = torch.stack(
            [
                torch.softmax(self.scale.beta * features, 0),
                torch.softmax(features, 0),
                torch.full_like(features, 1 / self.classes),
            ]
        )
        return torch.einsum("k,kcn->cn", self.mixture.weights, components).log()

    def map(self, logits: bool) -> Map:
        del logits
        return MixtureMap(self.scale.beta.item(), self.mixture.weights.detach())


@dataclass(frozen=True)
class EnsembleTemperatureScaling(Published):
    """Ensemble temperature scaling (Zhang et al. 2020; K26 Eq. 6): p = l1 S(z/T) + l2 S(z) + l3 / C.

    Two stages, NLL in both (definitions 2.7; the original code hard-codes a squared error): T as in temperature
    scaling, then the weights by Newton on the simplex, certified by the Frank-Wolfe gap. With T = 1 the first two
    components coincide; all their weight is given to the first. Deviation: scores that tell nothing of the labels would
    put all weight on the uniform distribution, where every class ties and the label is lost; `LEAST` of it stays on the
    first component.

    No options but the solver.
    """

    name: ClassVar[str] = "ets"
    papers: ClassVar[Mapping[str, str]] = {"ETS": "ets"}
    suggested: ClassVar[bool] = True
    evaluations: ClassVar[int] = 40
    parameterisation: ClassVar[type[Parameterisation]] = EnsembleTemperature

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
