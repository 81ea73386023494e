"""Meta-Cal (Ma and Blaschko, ICML 2021): temperature scaling of voxels whose entropy is below a threshold; the others
are left undecided, or all but.

    p = S(z / T) where the entropy of S(z) is below the threshold, 1/C elsewhere; or S(z / `temperature`) there, which
    keeps the label: W23's Meta-Cal*

The threshold is found on a few voxels drawn at random, T is fitted exactly on those of all others that are below it.
Under the control of "miscoverage" a tenth of the voxels decided right, `voxels` at most, are drawn, and the threshold
is the (1 - alpha) quantile of their entropies, the higher of two: about alpha of the correct voxels are above it. Under
that of "accuracy" a tenth of all voxels, `voxels` at most; their entropies are cut into twenty bins of equal mass, and
the threshold is where the running mean of the bins' accuracies, a falling function of the entropy by isotonic
regression, is the accuracy asked for (UsageError where it is never that). As in the released code, the lowest entropy
is in no bin, and an empty bin counts with accuracy 0 at entropy 0.

Promises: translation-invariant; label and order are kept only with `keep_decision`. What is drawn, by `seed`, the
number of the case and where a voxel lies in it, is the same for any number of workers and any memory. No voxel decided
right: none is rejected. Source: the paper's algorithms, its released code (definitions 5.2, 5.3, 17). Deviations: T is
exact; on the sample that its fit begins with, drawn voxels take part.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.ask import Level
from segcal.errors import UsageError
from segcal.fitting.plans import Plan, Subset, Task, mapped, together
from segcal.fitting.sample import Lots, Sample, VoxelSample
from segcal.methods.calibrator import Solution
from segcal.methods.guarantees import Guarantees
from segcal.methods.maps import Map, one_positive_factor
from segcal.methods.method import FittedMap, Method
from segcal.methods.numbers import MOST, SEEDS, at_least_0, check_choices, check_counts
from segcal.methods.temperature import certificate, temperatures
from segcal.metrics.probabilities import entropy

BINS = 20
"""Of entropies, under the control of accuracy."""

SHARE = 10
"""One voxel in so many is drawn, at most."""


class MetaCalMap(Map):
    """`threshold` of the entropy, `beta` = 1/T below it; above it `rejected` = 1/T, 0 for 1/C.

    UsageError for numbers out of range.
    """

    type_name: ClassVar[str] = "meta_cal"
    numbers: Tensor

    def __init__(self, threshold: float, beta: float, rejected: float = 0.0) -> None:
        super().__init__()
        if not (0 <= threshold < math.inf and 0 < beta < math.inf and 0 <= rejected < math.inf):
            raise UsageError(
                "numbers",
                found=f"threshold {threshold}, 1/T {beta}, and {rejected} above it",
                expected="finite numbers of 0 or more, 1/T above 0",
                do="Give an entropy and two inverse temperatures.",
            )
        self.parameter("numbers", torch.tensor([threshold, beta, rejected], dtype=torch.float64))
        self.derive()

    def derive(self) -> None:
        """Whether rejected voxels keep their label."""
        self._keeps = bool(self.numbers[2] > 0)

    @property
    def classes(self) -> int | None:
        """Any number."""
        return None

    def forward(self, log_probs: Tensor, free_energy: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        """log S(beta x), (C, n)."""
        threshold, beta, rejected = self.numbers.to(log_probs.dtype)
        return torch.log_softmax(torch.where(entropy(log_probs) < threshold, beta, rejected) * log_probs, 0)

    def guarantees(self) -> Guarantees:
        """Invariance; label and order where rejected voxels have a temperature."""
        why = "entropies are of probabilities"
        if self._keeps:
            return one_positive_factor("proven", why)
        lost = "every class is as probable where the entropy is high"
        reasons = {"translation_invariant": why, "preserves_argmax": lost, "preserves_order": lost}
        return Guarantees("proven", "no", "no", reasons)

    def describe(self) -> dict[str, object]:
        """Threshold and temperatures."""
        threshold, beta, rejected = self.numbers.tolist()
        above = {"temperature above": 1 / rejected} if rejected else {"above": "1/C"}
        return {"threshold of the entropy": threshold, "temperature": 1 / beta, **above}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> MetaCalMap:
        return cls(*tensors["numbers"].tolist())


@dataclass(frozen=True)
class Below:
    """Rows whose entropy is below `threshold`, those left out that were drawn: of all, or of those decided `right`, the
    ones whose lot is `last` or lower. A sample of several cases keeps them.
    """

    threshold: float
    lots: Lots
    last: float
    right: bool

    @property
    def contexts(self) -> frozenset[Any]:
        """Nothing."""
        return frozenset()

    def __call__(self, rows: Rows) -> Rows:
        """Some of the rows."""
        kept = entropy(rows.log_probs) < self.threshold
        if rows.case >= 0:
            drawn = torch.from_numpy(self.lots.of(rows) <= self.last)
            kept &= ~(drawn & (rows.decision == rows.targets) if self.right else drawn)
        some = {name: getattr(rows, name)[kept] for name in ("targets", "decision", "reference")}
        energy = None if rows.free_energy is None else rows.free_energy[kept]
        return replace(rows, log_probs=rows.log_probs[:, kept], free_energy=energy, places={}, contexts={}, **some)


def miscoverage_threshold(entropies: np.ndarray[Any, Any], alpha: float) -> float:
    """Of entropies (n,) of voxels decided right: their (1 - alpha) quantile, the higher of two."""
    return float(np.quantile(entropies, 1 - alpha, method="higher"))


def accuracy_threshold(entropies: np.ndarray[Any, Any], right: np.ndarray[Any, Any], accuracy: float) -> float:
    """Of entropies (n,) and whether each voxel is decided `right`: where the running accuracy is `accuracy`; NaN where
    it never is.
    """
    cuts = np.quantile(entropies, np.linspace(0, 1, BINS + 1))
    inside = [(entropies > low) & (entropies <= high) for low, high in itertools.pairwise(cuts)]
    accuracies = np.array([right[i].mean() if i.any() else 0.0 for i in inside])
    means = np.array([entropies[i].mean() if i.any() else 0.0 for i in inside])
    running = np.cumsum(accuracies) / np.arange(1, BINS + 1)
    # bins of one running accuracy are one point, at their mean
    at, which, count = np.unique(running, return_inverse=True, return_counts=True)
    found = isotonic_regression(np.bincount(which, means) / count, weights=count, increasing=False).x
    if not at[0] <= accuracy <= at[-1]:
        return math.nan
    return float(np.interp(accuracy, at, found))


@dataclass(frozen=True)
class MetaCal(Method):
    """Meta-Cal (Ma and Blaschko, ICML 2021): p = S(z / T) where the entropy is below a threshold, 1/C above it; with
    keep_decision S(z / temperature) there.

    `control` of "miscoverage" by `alpha`, the share of correct voxels above the threshold, or of "accuracy", that of
    the voxels below it; `temperature` above it, with `keep_decision`; at most `voxels`, drawn by `seed`, decide on the
    threshold. UsageError for values out of range.
    """

    name: ClassVar[str] = "meta-cal"
    papers: ClassVar[Mapping[str, str]] = {"Meta-Cal": "meta-cal", "Meta-Cal*": "meta-cal-star"}
    automatic: ClassVar[bool] = False
    keep_decision: bool = False
    control: Literal["miscoverage", "accuracy"] = field(
        default="miscoverage", metadata={"help": "what the threshold is set by: miscoverage or accuracy"}
    )
    alpha: float = field(default=0.05, metadata={"help": "share of correct voxels that may be above the threshold"})
    accuracy: float = field(default=0.97, metadata={"help": "accuracy below the threshold, with --control accuracy"})
    temperature: float = field(default=1e4, metadata={"help": "of voxels above the threshold, where labels are kept"})
    voxels: int = field(default=500, metadata={"help": "that decide on the threshold, at most"})
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self, keep_decision=(False, True), control=("miscoverage", "accuracy"))
        ranges = {"alpha": (0.0, 1.0), "accuracy": (0.0, 1.0), "temperature": (0.0, math.inf)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (at_least_0(value) and low < value < high):
                raise UsageError(
                    name,
                    found=repr(value),
                    expected=f"a number above {low:g}, below {high:g}",
                    do="Leave it out for the default.",
                )
        check_counts(self, voxels=(1, MOST), seed=SEEDS)

    @classmethod
    def variants(cls) -> Mapping[str, Mapping[str, Any]]:
        """By what happens above the threshold."""
        return {"meta-cal": {"keep_decision": False}, "meta-cal-star": {"keep_decision": True}}

    @property
    def method(self) -> str:
        """`meta-cal-star` where labels are kept."""
        return "meta-cal-star" if self.keep_decision else "meta-cal"

    @property
    def convex(self) -> bool:
        """The threshold is no optimum."""
        return False

    def drawn(self, classes: int) -> MetaCalMap:
        """With half of the largest entropy."""
        return self._map(math.log(classes) / 2, 0.7)

    def identifiable(self, classes: int) -> int:
        """Threshold and temperature."""
        del classes
        return 2

    @classmethod
    def optimised(cls, classes: int) -> int:
        """Threshold and temperature."""
        del classes
        return 2

    def plan(self, task: Task) -> Plan[dict[Subset, FittedMap]]:
        """A threshold and a temperature a subset."""
        return together({s: self._one(task, s) for s in task.subsets})

    def _map(self, threshold: float, beta: float) -> MetaCalMap:
        return MetaCalMap(threshold, beta, 1 / self.temperature if self.keep_decision else 0.0)

    def _threshold(self, sample: Sample, count: int) -> float:
        """By the first `count` voxels of a sample; where there is none, above every entropy."""
        if not count:
            return math.log(len(sample.log_probs)) + 1
        entropies = entropy(torch.from_numpy(sample.log_probs[:, :count])).numpy()
        if self.control == "miscoverage":
            return miscoverage_threshold(entropies, self.alpha)
        found = accuracy_threshold(entropies, sample.right[:count], self.accuracy)
        if math.isnan(found):
            raise UsageError(
                "accuracy",
                found=f"{self.accuracy:g}, which the voxels of low entropy do not have",
                expected="an accuracy between that of all voxels and that of the surest",
                do="Ask for another accuracy, or take --control miscoverage.",
            )
        return found

    def _one(self, task: Task, subset: Subset) -> Plan[FittedMap]:
        right = self.control == "miscoverage"
        lots = Lots(task.names, self.seed)
        accumulator = VoxelSample(task.classes, self.voxels, lots, right)
        found = yield {"drawn": task.ask(accumulator, subset, Level.ALL)}
        sample: Sample = accumulate.result(accumulator, found["drawn"])
        count = min(len(sample.drew), max(1, sample.voxels // SHARE))
        threshold = self._threshold(sample, count)
        below = Below(threshold, lots, float(sample.drew[count - 1]) if count else -1.0, right)
        inside = replace(task, cases=task.members(subset), folds=(), subsets=((),), validation=frozenset())
        solved = (yield from mapped(temperatures(inside), {inside.cases: below}))[()]
        unit = task.unit / float(solved.theta[0])
        message = f"T = {unit:.4g} where the entropy is below {threshold:.4g}, by {count} voxels"
        notes = list(solved.notes) if count else [*solved.notes, "no voxel is decided right: none is rejected"]
        settings = {"control": self.control, "drawn": count, "seed": self.seed, "threshold": threshold}
        settings |= {"alpha": self.alpha} if right else {"accuracy": self.accuracy}
        status = "stopped" if not solved.converged else "degenerate" if notes else "trained"
        gap = {**certificate(solved), "proof": f"of T alone, on the voxels below the threshold: {solved.proof}"}
        made = self._map(threshold, float(solved.theta[0]))
        return FittedMap(
            made, Solution(solved.value, solved.value, status, "; ".join([message, *notes]), 0, gap, settings)
        )
