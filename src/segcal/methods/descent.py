"""One descent of a parameterisation: a solver's queries become asks about cases to train on and cases to validate on,
and gradients go back to the module's own parameters.

The exact accumulators give value and gradient in the pieces' numbers (such as [W | b]); the small map from the
parameters to those numbers is torch's to differentiate. So a descent streams, shares passes with others, and gives the
same bits however it is run.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from segcal.data import splits
from segcal.engine import accumulate
from segcal.engine.ask import Ask, Level
from segcal.fitting.evaluation import Evaluation
from segcal.fitting.plans import Plan, Subset, Task
from segcal.fitting.solvers.adam import Adam
from segcal.fitting.solvers.query import Query, Solved, Steps, Vector
from segcal.methods.parameterisation import Parameterisation, Stage

VALIDATION_SHARE = 3
"""One group in so many is validated on, where no validation cases are given."""


@dataclass(frozen=True)
class Settings:
    """How a descent goes: learning rate, patience in epochs, and the penalty's strengths."""

    learning_rate: float
    patience: int
    lambda_: float
    mu: float


@dataclass(frozen=True)
class Split:
    """Cases to train on, cases to validate on, and `why` in words."""

    train: frozenset[int]
    validation: frozenset[int]
    why: str


@dataclass(frozen=True)
class Certified:
    """Penalised objective and NLL on the cases trained on, a bound on how far above the optimum it is and its proof,
    the largest entry of the gradient.
    """

    objective: float
    nll: float
    gap: float
    proof: str
    gradient: float


def split_of(task: Task, subset: Subset, seed: int) -> Split:
    """Which cases of a subset are trained on, and which validate: those given for it, else a third of the groups drawn
    by `seed`; with a single group the same cases do both.
    """
    members = sorted(task.members(subset))
    if task.validation:
        return Split(frozenset(members), task.validation, f"validated on {len(task.validation)} cases given for it")
    groups = [task.groups[i] for i in members]
    if len(set(groups)) < 2:
        whole = frozenset(members)
        return Split(
            whole,
            whole,
            "only one group of cases: validated on the fitted cases themselves, so early stopping means little",
        )
    held = frozenset(members[i] for i in splits.folds(groups, VALIDATION_SHARE, seed).test[0])
    return Split(frozenset(members) - held, held, f"validated on {len(held)} of {len(members)} cases, not trained on")


@dataclass(frozen=True, eq=False)
class Descent:
    """One stage of one trial: a solver's queries become asks about the pieces of the stage, on the cases to train on
    and on those to validate on.
    """

    task: Task
    split: Split
    family: Parameterisation
    index: int
    settings: Settings
    level: Level = Level.ALL
    stage: Stage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage", self.family.stages[self.index])

    def run(self, solver: Adam) -> Plan[Solved]:
        """The solver's conversation; the stage is left at the best point."""
        steps = solver.solve(get(self.stage))
        solved = yield from self._answered(steps)
        put(self.stage, solved.theta)
        return solved

    def start(self) -> Plan[tuple[float, float]]:
        """NLL of the cases to train on and of those to validate on, at the present parameters."""
        found = yield from self.sums({"train": Query(get(self.stage), 0), "validation": Query(get(self.stage), 0)})
        return found["train"].value, found["validation"].value

    def certify(self) -> Plan[Certified]:
        """What is known of the present parameters."""
        theta = get(self.stage)
        found = (yield from self.sums({"train": Query(theta, 1)}, Level.ALL))["train"]
        numbers = {piece: value.detach() for piece, value in self.stage.pieces().items()}
        penalty = self.stage.penalty(self.settings.lambda_, self.settings.mu).item()
        gap, proof = self.stage.gap(numbers, found.gradient, self.settings.lambda_, self.settings.mu)
        raw = self.chained(found)
        return Certified(found.value + penalty, found.value, gap, proof, float(np.abs(raw.gradient).max(initial=0.0)))

    def _answered(self, steps: Steps) -> Plan[Solved]:
        try:
            queries = next(steps)
            while True:
                found = yield from self.sums(queries)
                put(self.stage, queries["train"].theta)
                answers = {
                    name: self.chained(sums) if queries[name].order else Evaluation(sums.value, np.zeros(0), None, 0)
                    for name, sums in found.items()
                }
                queries = steps.send(answers)
        except StopIteration as stop:
            solved: Solved = stop.value
            return solved

    def sums(
        self, queries: Mapping[str, Query], level: Level | None = None
    ) -> Generator[Mapping[Any, Ask], Mapping[Any, Any], dict[str, Sums]]:
        """Mean NLL over the voxels of all pieces and its gradient in each piece's numbers, at the descent's own level
        unless another is named.
        """
        cases = {"train": self.split.train, "validation": self.split.validation}
        asks: dict[tuple[str, Hashable], Ask] = {}
        for name, query in queries.items():
            put(self.stage, query.theta)
            for piece, numbers in self.stage.pieces().items():
                accumulator = self.stage.accumulator(
                    piece, numbers.tolist(), query.order, self.family.fitted_on_logits and self.task.logits
                )
                asks[name, piece] = Ask(
                    accumulator,
                    self.task.part,
                    cases[name],
                    self.level if level is None else level,
                    group=self.stage.group(piece),
                )
        answers = yield asks
        out = {}
        for name in queries:
            found: dict[Hashable, Evaluation] = {
                p: accumulate.result(a.accumulator, answers[n, p]) for (n, p), a in asks.items() if n == name
            }
            total = max(sum(f.voxels for f in found.values()), 1)
            value = sum(f.value * (f.voxels / total) for f in found.values())
            out[name] = Sums(
                value, {p: torch.from_numpy(np.asarray(f.gradient * (f.voxels / total))) for p, f in found.items()}
            )
        return out

    def chained(self, sums: Sums) -> Evaluation:
        """Value and gradient of the penalised objective in the stage's own parameters."""
        with torch.enable_grad():
            pieces = self.stage.pieces()
            penalty = self.stage.penalty(self.settings.lambda_, self.settings.mu)
            surrogate = penalty + sum(
                ((sums.gradient[p].reshape(-1) * v.reshape(-1)).sum() for p, v in pieces.items()),
                torch.zeros((), dtype=torch.float64),
            )
            parameters = list(self.stage.parameters())
            gradient = torch.autograd.grad(surrogate, parameters)
        return Evaluation(sums.value + penalty.item(), parameters_to_vector(gradient).numpy(), None, 0)


@dataclass(frozen=True, eq=False)
class Sums:
    """Mean NLL over the voxels of all pieces, and its gradient in the numbers of each."""

    value: float
    gradient: Mapping[Hashable, Tensor]


def get(stage: Stage) -> Vector:
    """A stage's parameters (d,)."""
    return np.asarray(parameters_to_vector(stage.parameters()).detach().numpy().copy())


def put(stage: Stage, theta: Vector) -> None:
    """Set a stage's parameters."""
    vector_to_parameters(torch.tensor(theta, dtype=torch.float64), stage.parameters())
