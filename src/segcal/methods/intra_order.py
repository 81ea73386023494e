"""Intra-order-preserving functions (Rahimi et al., NeurIPS 2020): scores whose order is that of their input, whatever
the parameters.

With x the log-probabilities sorted from highest to lowest and d_j = x_(j) - x_(j+1) >= 0 their gaps, u_(j) = sum over k
>= j of d_k f_k(x), where f > 0 is the softplus of a small net of the sorted x. Sums of non-negative terms do not fall,
so the order is kept exactly, also in floating point, up to ties. The original appends a constant 1 to the gaps; its
term is common to all classes, so the softmax does not see it, and it is left out. It would be the only term that is not
translation-invariant on logits.

The net: two hidden layers, tanh, of log(1 - x), which keeps it calm for any score; C - 1 outputs. C = 2: one factor
that depends on the confidence. No voxel: empty results.

The map is translation-invariant and order-preserving for all parameters: it sees log-probabilities, and its scores are
sums of non-negative terms over the ranks below. The ranking is read off `given`, where it is handed in. Not aware of
classes: it sees ranks only. Costs, a voxel: a sort and O(C H + H^2) for hidden layers of H units.

The NLL is not convex in the parameters of the net; its gradient is torch's differentiation of each block. Theta is
flat: each layer's weight, row-major, then its bias (`unpacked`). No voxel: zeros.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from segcal.data.ranking import descending, winner
from segcal.data.rows import Rows
from segcal.data.tracing import softplus
from segcal.engine.accumulate import Accumulator, Array, Count, ExactSum, Leaf
from segcal.fitting.evaluation import Evaluation, at_once
from segcal.fitting.plans import Plan, Subset, Task, together
from segcal.fitting.solvers.adam import Adam
from segcal.methods.calibrator import Solution
from segcal.methods.descent import Descent, Settings, put, split_of
from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import Map
from segcal.methods.method import ByEpochs, FittedMap, Method
from segcal.methods.nets import Layers, NetMap, inputs
from segcal.methods.numbers import check_numbers
from segcal.methods.parameterisation import (
    WHOLE,
    ParameterCount,
    Parameterisation,
    Stage,
    parameter,
    softplus_inverse,
)
from segcal.methods.temperature import temperatures


def shapes(classes: int, hidden: int) -> list[tuple[int, int]]:
    """(out, in) of each layer."""
    return [(hidden, classes), (hidden, hidden), (classes - 1, hidden)]


def factors(x: Tensor, layers: Layers) -> Tensor:
    """What each gap is multiplied by, (C - 1, n), for sorted log-probabilities (C, n)."""
    inner = torch.log1p(-x.clamp_max(0))
    for weight, bias in layers[:-1]:
        inner = torch.tanh(weight @ inner + bias[:, None])
    weight, bias = layers[-1]
    return softplus(weight @ inner + bias[:, None])


def scores(x: Tensor, layers: Layers) -> Tensor:
    """Scores before the softmax, (C, n), for sorted log-probabilities (C, n); the last is 0."""
    # a gap below zero can only be rounding: the ranking was read off the scores as given
    steps = (x[:-1] - x[1:]).clamp_min(0) * factors(x, layers)
    return torch.cat([steps.flip(0).cumsum(0).flip(0), torch.zeros_like(x[:1])])


def unpacked(theta: Tensor, classes: int, hidden: int) -> list[tuple[Tensor, Tensor]]:
    """Layers from a flat vector: each layer's weight, row-major, then its bias."""
    out, at = [], 0
    for rows, columns in shapes(classes, hidden):
        weight = theta[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns
        out.append((weight, theta[at : at + rows]))
        at += rows
    return out


class IntraOrderMap(NetMap):
    """`layers`: weight and bias of the two hidden layers and of the last, finite and of fitting shapes (UsageError
    otherwise).
    """

    type_name: ClassVar[str] = "intra_order"

    def __init__(self, layers: Layers) -> None:
        classes = inputs(layers)
        expected = shapes(classes, int(layers[0][0].shape[0])) if classes else []
        super().__init__(layers, expected, "(H, C), (H, H), (C - 1, H)")

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(u), (C, n)."""
        ranking = log_probs if given is None else given
        # stable, so that ties keep the order of the classes
        places = descending(ranking)
        layers = [(w.to(log_probs.dtype), b.to(log_probs.dtype)) for w, b in self.layers]
        u = scores(log_probs.gather(0, places), layers)
        return torch.log_softmax(torch.zeros_like(u).scatter(0, places, u), 0)

    def guarantees(self) -> Guarantees:
        """All three hold for all parameters."""
        reasons = {"translation_invariant": "it sees log-probabilities only"}
        reasons |= dict.fromkeys(
            ("preserves_argmax", "preserves_order"), "scores are sums over lower ranks of gaps times positive factors"
        )
        return Guarantees("proven", "proven", "proven", reasons)

    def describe(self) -> dict[str, object]:
        """The size of the net."""
        return {
            "hidden units": int(self.get_buffer("weight0").shape[0]),
            "numbers": self.numbers_of_net,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> IntraOrderMap:
        return cls([(tensors[f"weight{k}"], tensors[f"bias{k}"]) for k in range(3)])


@dataclass(frozen=True)
class IntraOrderNLL:
    """Value (`order` 0) and gradient (1) at `theta`, for nets of `hidden` units a layer."""

    classes: int
    hidden: int
    theta: tuple[float, ...]
    order: int = 1

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Sums of what was asked for."""
        out: dict[str, Leaf] = {"voxels": Count(), "value": ExactSum()}
        return out | ({"gradient": ExactSum((len(self.theta),))} if self.order else {})

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Sums over the rows of a block."""
        value, gradient = 0.0, torch.zeros(len(self.theta), dtype=torch.float64)
        step = at_once(len(rows.log_probs))
        for low in range(0, rows.voxels, step):
            given = rows.log_probs[:, low : low + step]
            places = descending(given)
            x, rank = given.gather(0, places), winner(places == rows.targets[None, low : low + step])
            with torch.set_grad_enabled(self.order > 0):
                theta = torch.tensor(self.theta, dtype=torch.float64, requires_grad=self.order > 0)
                total = (
                    -torch.log_softmax(scores(x, unpacked(theta, self.classes, self.hidden)), 0)
                    .gather(0, rank[None])
                    .sum()
                )
            value += total.item()
            if self.order:
                gradient += torch.autograd.grad(total, theta)[0]
        out: dict[str, Any] = {"voxels": rows.voxels, "value": value}
        return out | ({"gradient": gradient.numpy()} if self.order else {})

    def result(self, values: Mapping[str, Array]) -> Evaluation:
        """Means over voxels."""
        n = int(values["voxels"])
        gradient = values["gradient"] / max(n, 1) if self.order else np.zeros(len(self.theta))
        return Evaluation(float(values["value"]) / max(n, 1), gradient, None, n)


WIDEST = 1_000
"""Most hidden units of a layer."""


@dataclass(frozen=True)
class IntraOrderPreserving(ByEpochs, Method):
    """Intra-order-preserving functions (Rahimi et al. 2020): gaps of the sorted log-probabilities times positive
    outputs of a small net of them, summed from the lowest rank.

    Every order is kept, by construction; ranks, not classes, are seen. Trained from the exact identity by full-batch
    Adam on the mean NLL plus weight decay, with a plateau schedule and early stopping on validation cases (those given,
    else a third of the groups; with a single group the fitted cases themselves). Not convex: no optimum is claimed; the
    certificate says only that an NLL is not negative. A fit that ends above temperature scaling on its training cases
    says so. Deviations: full batches, one learning rate, weight decay on all parameters, the net's input compressed
    (`segcal.methods.intra_order`), the constant left out.

    `hidden` units in each of two layers; `learning_rate`, `weight_decay`, at most `epochs`, `patience` of early
    stopping; `seed` of the net and of the split.

    UsageError for values out of range.
    """

    name: ClassVar[str] = "iop"
    hidden: int = 10
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    epochs: int = 300
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, hidden=WIDEST)

    def drawn(self, classes: int) -> IntraOrderMap:
        """As the net begins: whatever its numbers, it keeps every order."""
        return IntraOrderMap(unpacked(Net(classes, self.hidden, 0).stage.theta.detach(), classes, self.hidden))

    def counted(self, classes: int) -> ParameterCount:
        """The net's numbers; of a smooth net no rank can be told (its singular values fall without a step)."""
        return ParameterCount(Net(classes, self.hidden, 0).optimised, None, None, math.inf)

    def identifiable(self, classes: int) -> int:
        """All numbers of the net: which of them data can tell is not known (its singular values fall without a
        step).
        """
        return sum(rows * (columns + 1) for rows, columns in shapes(classes, self.hidden))

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """One descent a subset."""
        return together({s: self._one(task, s) for s in task.subsets})

    def _one(self, task: Task, subset: Subset) -> Plan[FittedMap]:
        split = split_of(task, subset, self.seed)
        net = Net(task.classes, self.hidden, self.seed)
        settings = Settings(self.learning_rate, self.patience, self.weight_decay, 0.0)
        descent = Descent(task, split, net, 0, settings)
        solved = yield from descent.run(Adam(self.learning_rate, self.patience, self.epochs))
        put(net.stage, solved.theta)
        found = yield from descent.certify()
        rest = (task.cases | task.validation) - split.train
        alone = (yield from temperatures(replace(task, cases=split.train, folds=(), subsets=((),), validation=rest)))[
            ()
        ]
        notes = [*solved.notes, f"validation NLL {solved.value:.6g}", split.why]
        if found.nll > alone.value:
            more = "patience or learning_rate" if solved.converged else "epochs or learning_rate"
            notes.append(
                f"on the cases trained on, temperature scaling alone reaches {alone.value:.6g}, this {found.nll:.6g}:"
                f" raise {more}"
            )
        told = {
            "hidden": self.hidden,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "epochs": self.epochs,
            "patience": self.patience,
            "seed": self.seed,
            "validation_nll": solved.value if math.isfinite(solved.value) else None,
            "optimised": net.optimised,
        }
        certificate = {
            "gap": None,
            "proof": "none: the problem is not convex",
            "gradient": found.gradient,
            "evaluations": solved.evaluations,
        }
        return FittedMap(
            net.map(task.logits),
            Solution(
                found.objective,
                found.nll,
                "trained" if solved.converged else "stopped",
                "; ".join(notes),
                0,
                certificate,
                told,
            ),
        )


class NetStage(Stage):
    """The net's numbers, flat; the penalty's lambda is its weight decay."""

    def __init__(self, classes: int, hidden: int, seed: int) -> None:
        super().__init__()
        self.classes, self.hidden = classes, hidden
        generator = torch.Generator().manual_seed(seed)
        pieces: list[Tensor] = []
        for rows, columns in shapes(classes, hidden)[:-1]:
            pieces += [
                torch.randn(rows * columns, generator=generator, dtype=torch.float64) / math.sqrt(columns),
                torch.zeros(rows, dtype=torch.float64),
            ]
        # factors of 1, whatever the hidden layers say: the identity
        last = shapes(classes, hidden)[-1]
        pieces += [
            torch.zeros(last[0] * last[1], dtype=torch.float64),
            torch.full((last[0],), softplus_inverse(1.0), dtype=torch.float64),
        ]
        self.theta = parameter(torch.cat(pieces))

    def pieces(self) -> Mapping[Hashable, Tensor]:
        return {WHOLE: self.theta}

    def accumulator(self, piece: Hashable, numbers: Sequence[float], order: int, logits: bool) -> Accumulator:
        del piece, logits
        return IntraOrderNLL(self.classes, self.hidden, tuple(numbers), order)

    def penalty(self, lambda_: float, mu: float) -> Tensor:
        """Half of lambda times the sum of squares, whose gradient is Adam's coupled weight decay."""
        del mu
        return lambda_ * (self.theta**2).sum() / 2


class Net(Parameterisation):
    """The whole map: one stage."""

    name: ClassVar[str] = "iop"
    canonical: ClassVar[bool] = True

    def __init__(self, classes: int, hidden: int, seed: int) -> None:
        super().__init__(classes)
        self.stage = NetStage(classes, hidden, seed)

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.stage,)

    def forward(self, features: Tensor) -> Tensor:
        places = descending(features)
        x = features.gather(0, places)
        u = scores(x, unpacked(self.stage.theta, self.classes, self.stage.hidden))
        return torch.log_softmax(torch.zeros_like(u).scatter(0, places, u), 0)

    def map(self, logits: bool) -> Map:
        del logits
        return IntraOrderMap(unpacked(self.stage.theta.detach(), self.classes, self.stage.hidden))
