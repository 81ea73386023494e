"""What is summed of a case: for each structure (a class but the background, or a region) voxels that are labelled and
delivered, probabilities, and how these are spread over voxels with and without the label.

Promises: exact, mergeable sums (`segcal.engine.accumulate`); one pass, memory for the states of one case. p is the
probability of a structure at a voxel, d whether the delivered label map has it there, y whether the label does:

    decided, labelled, both        counts of d, of y, of d and y
    inside, inside_spread          sums of p and of p (1 - p) where d
    total, spread                  the same over all voxels
    histogram (2, structures, b)   voxels by p, for y = 0 and y = 1, between `THRESHOLDS`

and over the voxels of any delivered structure the sum of the probability of the decision (`confidence`), over all
voxels the entropy in nats. Without labels the counts of y are 0. No voxel: zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data.head import NO_TARGET, Head
from segcal.data.rows import Rows
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf
from segcal.outcomes.dice import expected_dice

THRESHOLDS = torch.linspace(-10, 10, 257, dtype=torch.float64).sigmoid().float()
"""Probabilities at which a mask may be cut, even in their log odds."""

_ARRAYS = ("decided", "labelled", "both", "inside", "inside_spread", "total", "spread")


@dataclass(frozen=True, eq=False)
class CaseOutcome:
    """The sums of one case, by structure (S,); `histogram` (2, S, len(THRESHOLDS) + 1), or None where it was not asked
    for. `confidence`, `entropy`: means over voxels of any delivered structure; NaN where there is none.
    """

    decided: NDArray[np.int64]
    labelled: NDArray[np.int64]
    both: NDArray[np.int64]
    inside: NDArray[np.float64]
    inside_spread: NDArray[np.float64]
    total: NDArray[np.float64]
    spread: NDArray[np.float64]
    confidence: float
    entropy: float
    histogram: NDArray[np.int64] | None = field(default=None, repr=False)

    @property
    def expected_dice(self) -> NDArray[np.float64]:
        """Of each structure (S,); NaN where none is delivered."""
        return expected_dice(
            self.decided,
            self.inside,
            self.inside_spread,
            self.total - self.inside,
            self.spread - self.inside_spread,
        )

    @property
    def true_dice(self) -> NDArray[np.float64]:
        """Of each structure (S,), by the labels; NaN where it is neither labelled nor delivered."""
        either = self.decided + self.labelled
        return np.asarray(np.divide(2.0 * self.both, either, out=np.full(len(either), np.nan), where=either > 0))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; without the histogram, and None for NaN."""
        plain: dict[str, Any] = {name: getattr(self, name).tolist() for name in _ARRAYS}
        for name in ("confidence", "entropy"):
            value = float(getattr(self, name))
            plain[name] = None if np.isnan(value) else value
        return plain

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> CaseOutcome:
        """The outcome that `to_json` described."""
        kinds = {name: np.int64 if name in _ARRAYS[:3] else np.float64 for name in _ARRAYS}
        arrays: dict[str, Any] = {name: np.array(described[name], kind) for name, kind in kinds.items()}
        numbers: dict[str, Any] = {
            n: np.nan if described[n] is None else float(described[n]) for n in ("confidence", "entropy")
        }
        return cls(**arrays, **numbers)


@dataclass(frozen=True)
class OutcomeSums:
    """The sums over the rows of one part with so many `classes`, of which `background` (None: none) is no structure;
    with `thresholds`, histograms too.
    """

    classes: int
    background: int | None = None
    thresholds: bool = True

    @property
    def structures(self) -> list[int]:
        """Rows that are structures."""
        return [k for k in range(self.classes) if k != self.background]

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts and sums."""
        s = (len(self.structures),)
        found: dict[str, Leaf] = {name: Count(s) for name in _ARRAYS[:3]} | {name: ExactSum(s) for name in _ARRAYS[3:]}
        found |= {"front": Count(), "confidence": ExactSum(), "entropy": ExactSum()}
        return found | ({"histogram": Count((2, *s, len(THRESHOLDS) + 1))} if self.thresholds else {})

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Partial sums of labelled voxels."""
        return self.of(rows.log_probs, rows.decision, rows.targets)

    def of(self, log_probs: Tensor, decision: Tensor, targets: Tensor | None) -> Mapping[str, Any]:
        """Partial sums of voxels: log-probabilities (C, n), the delivered class and the true one (n,), None where
        nobody knows it.
        """
        whole = log_probs.double()
        p = whole.exp()
        names = torch.tensor(self.structures)[:, None]
        delivered = decision[None] == names
        true = torch.zeros_like(delivered) if targets is None else targets[None] == names
        mine = p[self.structures]
        uncertain = mine * (1 - mine)
        front = delivered.any(0)
        chosen = p.gather(0, decision.clamp(0, self.classes - 1)[None])[0]
        found: dict[str, Any] = {
            "decided": delivered.sum(1),
            "labelled": true.sum(1),
            "both": (delivered & true).sum(1),
            "inside": (mine * delivered).sum(1),
            "inside_spread": (uncertain * delivered).sum(1),
            "total": mine.sum(1),
            "spread": uncertain.sum(1),
            "front": front.sum(),
            "confidence": (chosen * front).sum(),
            "entropy": -(p * whole).sum(),
        }
        if self.thresholds:
            found["histogram"] = _histogram(mine.float(), true)
        return found

    def result(self, values: Mapping[str, Array]) -> CaseOutcome:
        """The sums as an outcome."""
        front = int(values["front"])
        means: dict[str, Any] = {n: float(values[n]) / front if front else np.nan for n in ("confidence", "entropy")}
        arrays: dict[str, Any] = {name: values[name] for name in _ARRAYS}
        return CaseOutcome(**arrays, **means, histogram=values.get("histogram"))


def _histogram(p: Tensor, true: Tensor) -> Tensor:
    """Voxels (2, S, bins) by probability, of p and y (S, n)."""
    bins, count = len(THRESHOLDS) + 1, len(p)
    place = torch.bucketize(p, THRESHOLDS, right=True)
    at = (true.long() * count + torch.arange(count)[:, None]) * bins + place
    return torch.bincount(at.flatten(), minlength=2 * count * bins).reshape(2, count, bins)


def sums_of(head: Head, *, thresholds: bool = True) -> list[OutcomeSums]:
    """The sums of each part of a head."""
    return [
        OutcomeSums(len(head.part_classes(part)), head.part_background(part), thresholds)
        for part in range(len(head.parts))
    ]


def structures(head: Head) -> tuple[str, ...]:
    """Names of all structures, those of the first part first."""
    return tuple(head.part_classes(part)[k] for part, one in enumerate(sums_of(head)) for k in one.structures)


def channels(head: Head) -> tuple[int, ...]:
    """The channel of each structure."""
    return tuple(sums_of(head)[0].structures if head.sums_to_one else range(head.channels))


def joined(parts: Sequence[CaseOutcome]) -> CaseOutcome:
    """The structures of all parts of a head, one after the other; confidence and entropy are means over the parts where
    they are known.
    """
    if len(parts) == 1:
        return parts[0]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in parts]) for name in _ARRAYS}
    numbers: dict[str, Any] = {}
    for name in ("confidence", "entropy"):
        known = [value for one in parts if not np.isnan(value := getattr(one, name))]
        numbers[name] = float(np.mean(known)) if known else np.nan
    histograms = [one.histogram for one in parts if one.histogram is not None]
    return CaseOutcome(**arrays, **numbers, histogram=np.concatenate(histograms, 1) if histograms else None)


def known_targets(targets: Tensor) -> Tensor:
    """Targets in which what is ignored is of no class."""
    return torch.where(targets == NO_TARGET, -1, targets)
