"""The papers' recipe as a solver choice: over-parameterised modules, full-batch Adam, early stopping on validation
cases, Optuna (K26 App. B).

It exists for comparison: the same methods fitted as their paper fitted them, beside their exact optima. The loss is the
unweighted mean NLL over all fitted voxels plus ODIR. Where the paper is silent: full batches, at most `epochs` steps
(200, as in the authors' library), plateau factor 0.1 after half of the patience, best point kept, the identity
included. Validation cases are those given, else a third of the fitted groups drawn by `seed`, kept out of the training.
With a single group there is nothing to validate on: the fitted cases themselves decide, which the message says.

What it ends in is an ordinary calibrator whose status is 'stopped': no optimum is claimed. The certificate is the bound
that convexity gives at the point reached. Trials that do not wait for each other run over the same passes. Costs:
trials * epochs evaluations at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from segcal.engine.ask import Level
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task, together
from segcal.fitting.solvers.adam import Adam
from segcal.fitting.solvers.query import Vector
from segcal.methods.calibrator import Solution
from segcal.methods.descent import Descent, Settings, Split, put, split_of
from segcal.methods.maps import Map
from segcal.methods.parameterisation import Parameterisation
from segcal.study.recipe.search import STARTUP, Journal, Search, Trial, require_optuna


@dataclass(frozen=True)
class Recipe:
    """`trials` of the search, `epochs` at most in each, `seed` of search and split, `storage`: a file of finished
    trials, to be taken up after an interruption.

    `sample`: train and validate on the even sample of voxels that a fit keeps in memory (2^18 of them, about) instead
    of all; the objective reported is of all.

    UsageError where Optuna is not installed, or for numbers below 1.
    """

    trials: int = 20
    epochs: int = 200
    seed: int = 0
    storage: Path | str | None = None
    sample: bool = False

    def __post_init__(self) -> None:
        for name in ("trials", "epochs"):
            if getattr(self, name) < 1:
                raise UsageError(
                    name,
                    found=str(getattr(self, name)),
                    expected="at least 1",
                    do="Leave it out for the papers' recipe.",
                )
        if self.seed < 0:
            raise UsageError("seed", found=str(self.seed), expected="0 or more", do="Leave it out for 0.")
        require_optuna()

    def fit(self, task: Task, make: Callable[[], Parameterisation]) -> Plan[dict[Subset, tuple[Map, Solution]]]:
        """Search and train on every subset the task names; `make` makes the parameterisation at its start."""
        return together({s: self._one(task, s, make) for s in task.subsets})

    def _one(self, task: Task, subset: Subset, make: Callable[[], Parameterisation]) -> Plan[tuple[Map, Solution]]:
        split = split_of(task, subset, self.seed)
        family, level = make(), Level.SAMPLE if self.sample else Level.ALL
        search = Search(self.seed, any(stage.penalised for stage in family.stages))
        begin = yield from Descent(task, split, family, 0, Settings(0.0, 1, 0.0, 0.0), level).start()
        path = None if self.storage is None else Path(self.storage)
        left_out = ",".join(map(str, subset)) or "nothing"
        journal = Journal(
            path,
            f"{family.name}, part {task.part}, without fold {left_out}, seed {self.seed}, {self.epochs} epochs"
            + (", sampled" if self.sample else ""),
            begin,
        )
        done = {k: t for k, t in journal.read().items() if k < self.trials}

        def trial(number: int) -> Plan[None]:
            settings, params = search.propose(number, list(done.values()))
            theta: list[Vector] = []
            notes: list[str] = []
            mine, value = make(), math.inf
            for k in range(len(mine.stages)):
                solved = yield from Descent(task, split, mine, k, settings, level).run(
                    Adam(settings.learning_rate, settings.patience, self.epochs)
                )
                theta.append(solved.theta)
                notes.append("; ".join(solved.notes))
                value = solved.value
            done[number] = Trial(
                number, params, value if math.isfinite(value) else 1e300, " / ".join(notes), tuple(theta)
            )
            journal.write(done)

        yield from together({k: trial(k) for k in range(min(STARTUP, self.trials)) if k not in done})
        for number in range(STARTUP, self.trials):
            if number not in done:
                yield from trial(number)
        best = min(done.values(), key=lambda t: (t.value, t.number))
        return (yield from self._fitted(task, split, make(), best, done))

    def _fitted(
        self, task: Task, split: Split, family: Parameterisation, best: Trial, done: Mapping[int, Trial]
    ) -> Plan[tuple[Map, Solution]]:
        for stage, theta in zip(family.stages, best.theta, strict=True):
            put(stage, theta)
        last = len(family.stages) - 1
        found = yield from Descent(task, split, family, last, best.settings).certify()
        settings = {
            "solver": "recipe",
            "learning_rate": best.settings.learning_rate,
            "patience": best.settings.patience,
            "strengths": ({"lambda": best.settings.lambda_, "mu": best.settings.mu, "weight": 1.0},),
            "validation_nll": best.value,
            "optimised": family.optimised,
            "trials": len(done),
            "epochs": self.epochs,
            "seed": self.seed,
            "sample": self.sample,
        }
        message = (
            f"the papers' recipe: trial {best.number + 1} of {len(done)}, {best.notes}; validation NLL"
            f" {best.value:.6g}; {split.why}"
        )
        certificate = {"gap": found.gap, "proof": found.proof, "gradient": found.gradient, "evaluations": len(done)}
        solution = Solution(
            found.objective,
            found.nll,
            "stopped",
            message,
            0,
            certificate,
            settings,
            tuple(done[k].row() for k in sorted(done)),
        )
        return family.map(family.fitted_on_logits and task.logits), solution
