"""Full-batch Adam with a plateau schedule and early stopping on a second objective: how the papers train, for
comparison with the exact solvers.

Each step asks for the training objective with its gradient (`train`) and for the value on other data (`validation`) at
one point, so both come from one pass. The learning rate falls by `factor` after `patience // 2` steps without
improvement (torch's `ReduceLROnPlateau`, its other defaults), and the descent ends after `patience` steps without a new
lowest validation value, after `most` steps, or where a value is not finite. What is returned is the best point visited,
the start included, so the validation value never rises. It is no optimum of anything: `converged` is always False and
the gap infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from segcal.fitting.solvers.query import Query, Solved, Steps, Vector


@dataclass(frozen=True)
class Adam:
    """`learning_rate` at the start, `patience` of early stopping, at most `most` steps, `factor` of the schedule."""

    learning_rate: float
    patience: int
    most: int = 200
    factor: float = 0.1

    def solve(self, start: Vector) -> Steps:
        """Descend from `start` (d,).

        `Solved.value` is the validation value at the best point, `evaluations` the points visited.
        """
        point = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimiser = torch.optim.Adam([point], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, factor=self.factor, patience=self.patience // 2
        )
        best, lowest, at, steepest = np.array(start, float), math.inf, 0, math.inf
        count = 0
        while True:
            here = point.detach().numpy().copy()
            found = yield {"train": Query(here, 1), "validation": Query(here, 0)}
            train, value = found["train"], found["validation"].value
            finite = math.isfinite(train.value) and bool(np.isfinite(train.gradient).all())
            if value < lowest and finite:
                best, lowest, at, steepest = here, value, count, float(np.abs(train.gradient).max(initial=0.0))
            if not finite:
                note = f"a value that is not finite at step {count}"
                break
            if count - at >= self.patience:
                note = f"no lower validation value for {self.patience} steps"
                break
            if count >= self.most:
                note = "the limit of steps"
                break
            schedule.step(value)
            point.grad = torch.tensor(train.gradient, dtype=torch.float64)
            optimiser.step()
            count += 1
        return Solved(
            best, lowest, steepest, math.inf, "none", False, count + 1, notes=(f"best at step {at} of {count}", note)
        )
