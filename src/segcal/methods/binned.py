"""One step function a class, on bins even in the log-odds of its probability: q_k = f_k(p_k), then q / sum q (Zadrozny
and Elkan 2002).

Isotonic regression and histogram binning end here. Bins have edges at i w, i integer, from -`reach` to `reach`; the
outer two take whatever lies beyond. With two classes the bin of class 1 mirrors that of class 0, so that a tie counts
for class 0, as in every arg max here. Promises: it sees log-probabilities only, hence translation-invariant. With two
classes it preserves label and order iff f_0 > f_1 in every pair of mirrored bins on class 0's side of 0.5 and f_0 < f_1
on the other. With more, two classes whose probabilities share a bin tie, and the label is not preserved. Costs a
logarithm and a look-up a class.

What both methods share is counts of each class's probability on a fine grid, and a probability for each bin of it.

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
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.accumulate import Array, Count, Leaf
from segcal.engine.ask import Ask, Level, Through
from segcal.engine.need import HANDED, Need, state_bytes
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task
from segcal.fitting.solvers.isotonic import binned_nll, gap_free, gap_non_decreasing, pooled
from segcal.methods.calibrator import Solution
from segcal.methods.guarantees import Guarantees, Status
from segcal.methods.maps import Map
from segcal.methods.method import FittedMap, Method
from segcal.methods.numbers import at_least_0
from segcal.metrics.likelihood import Likelihood, LogLikelihood


def bins_of(log_probs: Tensor, reach: float, bins: int) -> Tensor:
    """Bin (C, n), int64, of each class's log-odds log p_k - log (1 - p_k), from log-probabilities (C, n)."""
    half = bins // 2
    scale = half / reach
    if log_probs.shape[0] == 2:
        first = _place(log_probs[0] - log_probs[1], scale, half)
        return torch.stack([first, bins - 1 - first])
    others = torch.log(-torch.expm1(log_probs.clamp_max(0)))
    return _place(log_probs - others, scale, half)


def _place(log_odds: Tensor, scale: float, half: int) -> Tensor:
    return (log_odds * scale).clamp(-half, half - 1).floor().long() + half


class BinnedMap(Map):
    """`table` (C, B), B even: calibrated probability of each class by bin, strictly between 0 and 1; `reach` > 0 in
    log-odds. UsageError for anything else.
    """

    type_name: ClassVar[str] = "binned"
    table: Tensor
    reach: Tensor

    def __init__(self, table: Tensor, reach: float | Tensor) -> None:
        super().__init__()
        limit = torch.as_tensor(reach, dtype=torch.float64).reshape(())
        if table.dim() != 2 or table.shape[0] < 2 or table.shape[1] < 2 or table.shape[1] % 2:
            raise UsageError(
                "table",
                found=f"shape {tuple(table.shape)}",
                expected="(C, B), C at least 2, B even",
                do="Give one row a class and an even number of bins.",
            )
        if not bool(((table > 0) & (table < 1)).all()):
            raise UsageError(
                "table",
                found="a probability of 0, of 1, or none",
                expected="numbers strictly between 0 and 1",
                do="Keep them away from 0 and 1: no NLL is finite there.",
            )
        if not (torch.isfinite(limit) and limit > 0):
            raise UsageError(
                "reach",
                found=f"{limit.item()}",
                expected="a finite number above 0",
                do="Bins run from -reach to reach.",
            )
        self.parameter("table", table)
        self.parameter("reach", limit)
        self.derive()

    def derive(self) -> None:
        self._limit = self.reach.item()

    @property
    def classes(self) -> int | None:
        """C."""
        return self.table.shape[0]

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log of the normalised f_k(p_k), (C, n)."""
        index = bins_of(log_probs, self._limit, self.table.shape[1])
        return torch.log_softmax(self.table.log().to(log_probs.dtype).gather(1, index), 0)

    def guarantees(self) -> Guarantees:
        """Read off the table."""
        reasons = {"translation_invariant": "it sees log-probabilities only"}
        status: Status = "no"
        why = "one step function a class: two classes in one bin tie"
        if self.table.shape[0] == 2:
            half = self.table.shape[1] // 2
            ahead = self.table[0] - self.table[1].flip(0)
            if bool((ahead[half:] > 0).all() and (ahead[:half] < 0).all()):
                status, why = "proven", "in every bin the class ahead before is ahead after"
            else:
                why = "in some bin the class ahead before is not ahead after"
        reasons |= {"preserves_argmax": why, "preserves_order": why}
        return Guarantees("proven", status, status, reasons)

    def describe(self) -> dict[str, object]:
        """Steps of each class, its lowest and highest probability, and the bins."""
        return {
            "bins": self.table.shape[1],
            "bin_width": 2 * self._limit / self.table.shape[1],
            "steps": [len(torch.unique_consecutive(row)) for row in self.table],
            "lowest": self.table.amin(1).tolist(),
            "highest": self.table.amax(1).tolist(),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> BinnedMap:
        return cls(tensors["table"], tensors["reach"])


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
class MappedBy(Through):
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

    def drawn(self, classes: int) -> BinnedMap:
        """A random step function a class."""
        table = torch.rand(classes, 8, generator=torch.Generator().manual_seed(0))
        return BinnedMap(table.sort(1).values, 6.0)

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


@dataclass(frozen=True)
class HistogramBinning(Binned):
    """Histogram binning, one class against the rest (Zadrozny and Elkan 2001; Guo et al. 2017): q_k is the share of
    class k among voxels whose p_k is in the same bin, then normalised.

    Bins are even in log-odds, a deviation: of the probabilities of a segmentation nine in ten lie within 1e-3 of 0 or
    1, where bins even in p, or of equal mass, have one bin or none between. See `segcal.methods.binned` for the grid,
    the prior and the bounds. Translation-invariant. With two classes it keeps the label where each side of 0.5 stays on
    its side; with more it does not. Nothing keeps a function from falling; `isotonic` does.

    `bins` a class: an even divisor of 512 (UsageError otherwise); 32 are one unit of log-odds wide.
    """

    name: ClassVar[str] = "histogram"
    bins: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bins, int) or self.bins < 2 or self.bins % 2 or GRID % self.bins:
            raise UsageError(
                "bins",
                found=repr(self.bins),
                expected=f"an even divisor of {GRID}: 2, 4, 8, ... {GRID}",
                do="Leave it out for 32.",
            )

    def identifiable(self, classes: int) -> int:
        """One probability a class and bin."""
        return classes * self.bins

    @property
    def columns(self) -> int:
        """As asked."""
        return self.bins

    @property
    def proof(self) -> str:
        """In closed form."""
        return (
            "closed form, bin by bin, and gradient times the way to the better bound; binned one-vs-rest NLL with its"
            " prior and bounds"
        )

    def curve(self, share: Vector, weight: Vector, low: float, high: float) -> tuple[Vector, float, float]:
        """The share itself, clipped."""
        values = share.clip(low, high)
        return values, binned_nll(values, share, weight), gap_free(values, share, weight, low, high)


@dataclass(frozen=True)
class IsotonicRegression(Binned):
    """Isotonic regression, one class against the rest (Zadrozny and Elkan 2002): q_k = f_k(p_k) with f_k
    non-decreasing, then normalised over classes.

    Pooling adjacent violators on the grid's counts is the exact optimum of the binned problem, for its NLL and its
    Brier score alike; see `segcal.methods.binned` for the grid, the prior, the bounds and the deviations.
    Translation-invariant. With two classes it keeps the label where each side of 0.5 stays on its side; with more it
    does not.

    One non-decreasing step function a class.
    """

    name: ClassVar[str] = "isotonic"

    def identifiable(self, classes: int) -> int:
        """One probability a class and bin; pooling leaves fewer."""
        return classes * GRID

    @property
    def columns(self) -> int:
        """The whole grid."""
        return GRID

    @property
    def proof(self) -> str:
        """By convexity."""
        return (
            "convex over non-decreasing functions: gradient times the way to the best step function; binned one-vs-rest"
            " NLL with its prior and bounds"
        )

    def curve(self, share: Vector, weight: Vector, low: float, high: float) -> tuple[Vector, float, float]:
        """Pooled, then clipped."""
        values = pooled(share, weight).clip(low, high)
        return values, binned_nll(values, share, weight), gap_non_decreasing(values, share, weight, low, high)
