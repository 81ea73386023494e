"""What isotonic regression and histogram binning share: counts of each class's probability on a fine grid, and a
probability for each bin of it.

One pass counts, for every class k, the voxels with p_k in each bin and how many of them are labelled k (int64, so that
folds and subsets add up exactly); a second takes the NLL of the maps found. The grid: `GRID` bins of equal width in log
p - log (1 - p) from -`REACH` to `REACH`, the outer two open. What is minimised is the *binned one-vs-rest* NLL, a mean
over voxels and classes; not the NLL of the normalised probabilities, which `Solution.nll` reports. So temperature
scaling is not nested.

Nothing is 0 or 1: each bin starts from `prior` voxels a unit of log-odds, with the share of hits that the bin's centre
says (an m-estimate: an empty bin changes nothing, a thin one little), and no probability is nearer to 0 or 1 than 1 /
(n + 2), Laplace's rule for all n voxels alike. Both are part of the problem that the certificate speaks of. Deviations:
the grid (within a bin of width 1/16 a probability is off by at most 0.008), the prior and the bounds; step functions,
not interpolated.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segcal import accumulate
from segcal.accumulate import Array, Count, Leaf
from segcal.calibrators import BinnedMap, Solution
from segcal.calibrators.binned import bins_of
from segcal.cases import Rows
from segcal.engines import Ask, Level, Need
from segcal.engines.need import HANDED, state_bytes
from segcal.errors import UsageError
from segcal.fitting import Plan, Subset, Task
from segcal.methods.method import FittedMap, Method
from segcal.methods.numbers import at_least_0
from segcal.metrics import Likelihood, LogLikelihood

GRID = 512
"""Bins of the grid."""

REACH = 16.0
"""The grid ends at these log-odds: probabilities of 1.1e-7 and 1 - 1.1e-7."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class GridCount:
    """Voxels by bin of each class's probability, and those labelled with the class: (C, GRID) each."""

    classes: int

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Two counts a class and bin."""
        return {"voxels": Count((self.classes, GRID)), "hits": Count((self.classes, GRID))}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Counts of a block."""
        index = bins_of(rows.log_probs, REACH, GRID) + GRID * torch.arange(self.classes)[:, None]
        own = index.gather(0, rows.targets[None])[0]
        size = self.classes * GRID
        return {
            name: torch.bincount(at.flatten(), minlength=size).reshape(self.classes, GRID).numpy()
            for name, at in (("voxels", index), ("hits", own))
        }

    def result(self, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """`voxels` and `hits`, int64 (C, GRID)."""
        return values["voxels"], values["hits"]


@dataclass(frozen=True, eq=False)
class MappedBy:
    """A map of rows by a fitted map; the decision is not looked at."""

    map: BinnedMap

    def __call__(self, rows: Rows) -> Rows:
        """Mapped rows."""
        mapped = self.map(rows.log_probs)
        return replace(rows, log_probs=mapped, free_energy=None)


@dataclass(frozen=True)
class Binned(Method):
    """`prior` > 0: voxels a unit of log-odds that speak for the scores as they are."""

    prior: float = 1.0

    def __post_init__(self) -> None:
        if not at_least_0(self.prior) or self.prior == 0:
            raise UsageError(
                "prior",
                found=repr(self.prior),
                expected="a number above 0",
                do="Leave it out for the default; a bin without voxels has no other value.",
            )

    @property
    def needs_every_class(self) -> bool:
        """An absent class has no hit in any bin."""
        return True

    @property
    @abstractmethod
    def columns(self) -> int:
        """Bins of the fitted map, a divisor of GRID."""

    @abstractmethod
    def curve(self, share: Vector, weight: Vector, low: float, high: float) -> tuple[Vector, float, float]:
        """Probability by bin (B,) of one class, the objective there, and a bound on how far above its optimum
        that is.
        """

    @property
    @abstractmethod
    def proof(self) -> str:
        """Of what problem it is the optimum, and why."""

    def need(self, task: Task) -> Need:
        """Counts of every fold, and a map a subset."""
        counts = state_bytes({0: GridCount(task.classes)})
        return Need((max(1, len(task.folds)) + 2 * len(task.subsets)) * counts, HANDED * counts)

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """Counts of every fold, maps of every subset, and their NLL."""
        counter = GridCount(task.classes)
        pieces = dict(enumerate(task.folds)) if task.folds else {0: tuple(task.cases)}
        counted = yield {
            k: Ask(counter, task.part, frozenset(cases) if task.folds else None) for k, cases in pieces.items()
        }
        fitted = {}
        for subset in task.subsets:
            state = accumulate.zero(counter)
            for k in pieces:
                if k not in subset:
                    state = accumulate.merge(counter, state, counted[k])
            fitted[subset] = self._fitted(*accumulate.result(counter, state))
        likelihood = LogLikelihood(task.classes)
        asks = {s: task.ask(likelihood, s, Level.ALL) for s in task.subsets}
        found = yield {s: Ask(likelihood, a.part, a.cases, through=MappedBy(fitted[s][0])) for s, a in asks.items()}
        return {s: _with_nll(fitted[s], accumulate.result(likelihood, found[s])) for s in task.subsets}

    def _fitted(self, voxels: Array, hits: Array) -> tuple[BinnedMap, Solution]:
        classes, count = len(voxels), int(voxels[0].sum())
        n, h = (a.reshape(classes, self.columns, -1).sum(2) for a in (voxels, hits))
        width = 2 * REACH / self.columns
        centre = 1 / (1 + np.exp(REACH - width * (np.arange(self.columns) + 0.5)))
        low = 1 / (count + 2)
        weight = n + self.prior * width
        share = (h + self.prior * width * centre) / weight
        curves: list[tuple[Vector, float, float]] = [
            self.curve(share[k], weight[k], low, 1 - low) for k in range(classes)
        ]
        fitted = BinnedMap(torch.from_numpy(np.stack([values for values, _, _ in curves])), REACH)
        constant = bool(((n > 0).sum(1) <= 1).all())
        steps = ", ".join(str(s) for s in fitted.describe()["steps"])  # type: ignore[attr-defined]  # a list
        message = f"{steps} steps on {self.columns} bins; probabilities from {low:.2g} to 1 - {low:.2g}" + (
            "; all scores are equal, or all beyond the grid" if constant else ""
        )
        objective, gap = (
            math.fsum(value for _, value, _ in curves) / classes,
            math.fsum(bound for _, _, bound in curves) / classes,
        )
        certificate = {"gap": gap, "proof": self.proof, "gradient": 0.0, "evaluations": 1}
        settings = {
            "bins": self.columns,
            "bin_width": width,
            "prior": float(self.prior),
            "floor": low,
            "objective": "binned one-vs-rest NLL",
        }
        return fitted, Solution(
            objective, objective, "degenerate" if constant else "optimal", message, 0, certificate, settings
        )


def _with_nll(fitted: tuple[BinnedMap, Solution], found: Likelihood) -> FittedMap:
    m, s = fitted
    return FittedMap(
        m, Solution(s.objective, found.nll if found.voxels else 0.0, s.status, s.message, 0, s.certificate, s.settings)
    )
