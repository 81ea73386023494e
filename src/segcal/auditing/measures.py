"""What is measured of delivered probabilities against the scores they were made from: sums over blocks of voxels that
merge exactly.

    Preservation   labels changed, pairs of classes swapped, ties created: of the float32 array delivered, against the
                   scores as given
    Movement       how far shifted scores move what is delivered, beside a plain softmax of the same scores
    Saturation     scores at or below the floor: 1e-12, or what a stored 0 counts as

A label is changed where np.argmax of what is delivered (for a region: its side of 0.5) is another than that of the
scores. A pair is swapped where one class is strictly above in the scores and strictly below in what is delivered. A tie
is created where two classes differ in the scores and are equal in what is delivered; a plain softmax rounded to float32
creates some too, and is counted beside. Promises: the laws of `segcal.accumulate`. Costs: C^2 comparisons a voxel. No
voxel: zero counts, maxima of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segcal.accumulate import Array, Count, ExactSum, Leaf, Max, Mergeable
from segcal.head import Head, Regions
from segcal.ranking import winner
from segcal.scores import FULL, Kind, Resolution

Parts = tuple[Tensor, ...]

MOVED = ("largest", "plain", "units", "plain_units", "exact", "plain_exact")

COUNTED = (
    "voxels",
    "labels_changed",
    "orders_changed",
    "ties",
    "ties_with_winner",
    "plain_ties",
    "plain_ties_with_winner",
)


def scores_by_part(scores: Tensor, kind: Kind, head: Head) -> Parts:
    """Scores as given (channels, n) as one array (classes, n) a softmax problem; for a region: the boundary between
    outside and inside, and its score.
    """
    if not isinstance(head, Regions):
        return (scores,)
    return tuple(torch.stack([torch.full_like(s, 0.5 if kind == "probs" else 0.0), s]) for s in scores)


@dataclass(frozen=True)
class Preserved:
    """Counts over `voxels`: `labels_changed` and `orders_changed` are voxels, `ties` pairs of classes,
    `ties_with_winner` those of the class decided; `plain_ties` a softmax's.

    `label_gap`, `order_gap`: the largest difference of delivered probabilities between the new and the old winner, and
    between two swapped classes. `decided`: voxels by class.
    """

    voxels: int
    labels_changed: int
    label_gap: float
    orders_changed: int
    order_gap: float
    ties: int
    ties_with_winner: int
    plain_ties: int
    plain_ties_with_winner: int
    decided: tuple[int, ...]


@dataclass(frozen=True)
class Preservation:
    """Of `head`."""

    head: Head

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts and two maxima."""
        return {
            **{name: Count() for name in COUNTED},
            "label_gap": Max(),
            "order_gap": Max(),
            "decided": Count((self.head.channels,)),
        }

    def fold(self, scores: Tensor, kind: Kind, delivered: Tensor) -> Mapping[str, Any]:
        """Partial sums of one block: scores as given and delivered float32 probabilities, both (channels, n)."""
        n = scores.shape[1]
        plain = self.head.probabilities(self.head.canonical(scores, kind)).float()
        changed, swapped = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        label_gap = order_gap = 0.0
        ties, plain_ties = np.zeros(2, np.int64), np.zeros(2, np.int64)
        parts = zip(
            scores_by_part(scores, kind, self.head),
            scores_by_part(delivered, "probs", self.head),
            scores_by_part(plain, "probs", self.head),
            strict=True,
        )
        for before, after, softmax in parts:
            old, new = winner(before), winner(after)
            moved = old != new
            if bool(moved.any()):
                changed |= moved
                label_gap = max(label_gap, float((after.gather(0, new[None]) - after.gather(0, old[None])).max()))
            for a in range(len(before) - 1):
                above, below = before[a] > before[a + 1 :], before[a] < before[a + 1 :]
                difference = after[a] - after[a + 1 :]
                wrong = (above & (difference < 0)) | (below & (difference > 0))
                if bool(wrong.any()):
                    swapped |= wrong.any(0)
                    order_gap = max(order_gap, float(difference.abs()[wrong].max()))
                distinct = above | below
                top = (old == a)[None] | (old[None] == torch.arange(a + 1, len(before))[:, None])
                ties += _tied(distinct & (difference == 0), top)
                plain_ties += _tied(distinct & (softmax[a] == softmax[a + 1 :]), top)
        decision = self.head.decide(scores, kind)
        decided = (
            decision.sum(1)
            if isinstance(self.head, Regions)
            else torch.bincount(decision[0], minlength=self.head.channels)
        )
        return {
            "voxels": n,
            "labels_changed": int(changed.sum()),
            "label_gap": label_gap,
            "orders_changed": int(swapped.sum()),
            "order_gap": order_gap,
            "ties": int(ties[0]),
            "ties_with_winner": int(ties[1]),
            "plain_ties": int(plain_ties[0]),
            "plain_ties_with_winner": int(plain_ties[1]),
            "decided": decided,
        }

    def result(self, values: Mapping[str, Array]) -> Preserved:
        """Plain numbers."""
        gaps = {name: max(float(values[name]), 0.0) for name in ("label_gap", "order_gap")}
        count = {name: int(values[name]) for name in COUNTED}
        decided = tuple(int(v) for v in values["decided"])
        return Preserved(**count, label_gap=gaps["label_gap"], order_gap=gaps["order_gap"], decided=decided)


def _tied(equal: Tensor, winner: Tensor) -> Array:
    total = int(equal.sum())
    return np.array([total, int((equal & winner).sum()) if total else 0])


@dataclass(frozen=True)
class Moved:
    """How far a shift moved probabilities over `voxels`: the `largest` and the `mean` (over voxels, of each one's
    largest) change of what is delivered, and labels it changed.

    `plain`: the largest change of a softmax of the same pooled scores, rounded to float32. `units`, `plain_units`: how
    many float32 numbers the farthest moved probability was moved by (units in its last place). `exact`, `plain_exact`:
    changes before rounding, in float64 (`exact` None: not known).
    """

    voxels: int
    largest: float
    mean: float
    labels_changed: int
    plain: float
    units: int
    plain_units: int
    exact: float | None
    plain_exact: float


@dataclass(frozen=True)
class Movement:
    """Of `head`. `exact`: whether probabilities before rounding are known."""

    head: Head
    exact: bool

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts, maxima and a sum."""
        return {"voxels": Count(), "labels_changed": Count(), "sum": ExactSum(), **{name: Max() for name in MOVED}}

    def fold(self, base: View, moved: View) -> Mapping[str, Any]:
        """Partial sums of one block as it was and as shifted."""
        change = _change(base.delivered, moved.delivered)
        old, new = (scores_by_part(v.delivered, "probs", self.head) for v in (base, moved))
        labels = torch.stack([winner(a) != winner(b) for a, b in zip(old, new, strict=True)]).any(0)
        known = base.exact is not None and moved.exact is not None
        softmax = base.plain.float(), moved.plain.float()
        return {
            "voxels": change.shape[0],
            "labels_changed": int(labels.sum()),
            "sum": float(change.sum()),
            "largest": _largest(change),
            "plain": _largest(_change(*softmax)),
            "units": _largest(_units(base.delivered, moved.delivered)),
            "plain_units": _largest(_units(*softmax)),
            "exact": (
                _largest(_change(base.exact, moved.exact))
                if known and base.exact is not None and moved.exact is not None
                else 0.0
            ),
            "plain_exact": _largest(_change(base.plain, moved.plain)),
        }

    def result(self, values: Mapping[str, Array]) -> Moved:
        """Plain numbers."""
        n = int(values["voxels"])
        top = {name: max(float(values[name]), 0.0) for name in MOVED}
        mean = float(values["sum"]) / n if n else 0.0
        return Moved(
            n,
            top["largest"],
            mean,
            int(values["labels_changed"]),
            top["plain"],
            int(top["units"]),
            int(top["plain_units"]),
            top["exact"] if self.exact else None,
            top["plain_exact"],
        )


@dataclass(frozen=True, eq=False)
class View:
    """Probabilities of one block (channels, n):

    `delivered` float32; `exact` float64 before rounding, where known; `plain`: softmax of the scores, float64.
    """

    delivered: Tensor
    exact: Tensor | None
    plain: Tensor

    def take(self, keep: Tensor) -> View:
        """Some of the voxels."""
        return View(self.delivered[:, keep], None if self.exact is None else self.exact[:, keep], self.plain[:, keep])


def _change(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).abs().amax(0)


def _units(a: Tensor, b: Tensor) -> Tensor:
    """How many float32 numbers lie between two probabilities, the larger one counted: numbers that are not negative are
    ordered as their bits are.
    """
    return (a.contiguous().view(torch.int32).long() - b.contiguous().view(torch.int32).long()).abs()


def _largest(change: Tensor) -> float:
    return float(change.max()) if change.numel() else 0.0


@dataclass(frozen=True)
class Saturated:
    """Of `scores` numbers in `voxels` voxels, how many stand for a probability at the floor or below, and in how many
    voxels one does.
    """

    scores: int
    voxels: int
    scores_at_floor: int
    voxels_at_floor: int


@dataclass(frozen=True)
class Saturation:
    """Of `head`, whose scores are stored at `resolution`; for a region both its inside and its outside count."""

    head: Head
    resolution: Resolution = FULL

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Counts."""
        return {name: Count() for name in ("scores", "voxels", "scores_at_floor", "voxels_at_floor")}

    def fold(self, scores: Tensor, kind: Kind) -> Mapping[str, Any]:
        """Partial counts of one block of scores (channels, n)."""
        low = self.head.floored(scores, kind, self.resolution)
        return {
            "scores": low.numel(),
            "voxels": low.shape[1],
            "scores_at_floor": int(low.sum()),
            "voxels_at_floor": int(low.any(0).sum()),
        }

    def result(self, values: Mapping[str, Array]) -> Saturated:
        """Plain numbers."""
        return Saturated(**{name: int(v) for name, v in values.items()})


REGISTERED: tuple[Callable[[Head], Mergeable], ...] = (Preservation, lambda head: Movement(head, True), Saturation)
"""One factory a measure."""
