"""Intra-order-preserving functions (Rahimi et al. 2020): gaps of the sorted log-probabilities times positive outputs of
a small net of them, summed from the lowest rank.

Every order is kept, by construction; ranks, not classes, are seen. Trained from the exact identity by full-batch Adam
on the mean NLL plus weight decay, with a plateau schedule and early stopping on validation cases (those given, else a
third of the groups; with a single group the fitted cases themselves). Not convex: no optimum is claimed; the
certificate says only that an NLL is not negative. A fit that ends above temperature scaling on its training cases says
so. Deviations: full batches, one learning rate, weight decay on all parameters, the net's input compressed
(`segcal.intra_order`), the constant left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from segcal.accumulate import Accumulator
from segcal.calibrators import IntraOrderMap, Map, Solution
from segcal.fitting import Plan, Subset, Task, together
from segcal.intra_order import scores, shapes, unpacked
from segcal.methods.method import ByEpochs, FittedMap, Method
from segcal.methods.numbers import check_numbers
from segcal.methods.temperature_scaling import temperatures
from segcal.objectives import IntraOrderNLL
from segcal.ranking import descending
from segcal.recipe import Parameterisation
from segcal.recipe.descent import Descent, put, split_of
from segcal.recipe.parameterisation import Stage, parameter, softplus_inverse
from segcal.recipe.search import Settings
from segcal.solvers import Adam

_ONLY = "all"

WIDEST = 1_000
"""Most hidden units of a layer."""


@dataclass(frozen=True)
class IntraOrderPreserving(ByEpochs, Method):
    """`hidden` units in each of two layers; `learning_rate`, `weight_decay`, at most `epochs`, `patience` of early
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
        return {_ONLY: self.theta}

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
