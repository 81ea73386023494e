"""The head of a network that puts out one sigmoid a region: it answers what `segcal.data.head.Softmax` answers, where
each answer is explained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data import scores as scores_
from segcal.data.numbering import checked, listed
from segcal.data.scores import FULL, Kind, Resolution
from segcal.data.tracing import log_sigmoid
from segcal.errors import UsageError

NO_TARGET = -1

UNNAMED = ("foreground",)
"""What the region of one sigmoid is called where nobody names it."""


def check_ignored(label: int | None) -> None:
    """UsageError for a label that no array of integers can hold."""
    if label is not None:
        checked(label, "ignore_index")


def same_ignored(described: int | None, given: int | Sequence[int] | None) -> int | None:
    """The ignored label that files describe, or the first that is given; UsageError where the first is not among the
    second.
    """
    several = listed(given)
    if several and described not in (None, *several):
        raise UsageError(
            "ignore_index",
            found=", ".join(map(str, several)),
            expected=f"{described} as in dataset.json",
            do=(
                "Leave --ignore-index out, or name both if both are never scored: --ignore-index"
                f" {' '.join(map(str, (described, *several)))}."
            ),
        )
    return several[0] if several and described is None else described


ABOVE_HALF = 0.5 + 2.0**-24
"""The float32 number next above a half."""


@dataclass(frozen=True)
class Regions:
    """One sigmoid a region, as nnU-Net's region-based training.

    `members[r]`: the labels that make up region r. `order[r]`: the label written where region r is decided, later
    regions over earlier ones.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    ignore: int | None = None

    noun: ClassVar[str] = "regions"
    kinds: ClassVar[tuple[Kind, ...]] = ("logits", "probs")
    logits_kind: ClassVar[Kind] = "logits"
    sums_to_one: ClassVar[bool] = False
    can_keep_decision: ClassVar[bool] = True
    has_free_energy: ClassVar[bool] = False
    background: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_ignored(self.ignore)
        if not self.names or not (len(self.names) == len(self.members) == len(self.order)):
            raise UsageError(
                "regions",
                found=(
                    f"{len(self.names)} names, {len(self.members)} member lists, {len(self.order)} entries of"
                    " regions_class_order"
                ),
                expected="one of each a region",
                do="Check `labels` and `regions_class_order` in dataset.json.",
            )
        empty = [name for name, member in zip(self.names, self.members, strict=True) if not member or min(member) < 0]
        if empty:
            raise UsageError(
                "regions",
                found=f"region {empty[0]!r} of labels {self.members[self.names.index(empty[0])]}",
                expected="at least one label a region, from 0 on",
                do="Check `labels` in dataset.json.",
            )

    @property
    def channels(self) -> int:
        """Channels of the network's output: one a region."""
        return len(self.names)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the binary problems: the regions."""
        return self.names

    @property
    def rows(self) -> int:
        """Channels of the canonical rows: two a region (outside, inside)."""
        return 2 * len(self.names)

    def slice(self, part: int) -> slice:
        """Which rows belong to `part`."""
        return slice(2 * part, 2 * part + 2)

    def part_classes(self, part: int) -> tuple[str, ...]:
        """Class names within `part`."""
        return (f"not {self.names[part]}", self.names[part])

    def part_background(self, part: int) -> int | None:
        """Index of the background within `part`: outside."""
        return 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's channels."""
        return self.names

    @property
    def labels(self) -> int:
        """Labels run from 0 to `labels` - 1."""
        return max(max(m) for m in self.members) + 1

    @property
    def highest(self) -> int:
        """The highest label that a label map of decisions can hold."""
        return max(self.order)

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label from 0 on stands for: the regions it is in."""
        inside = [
            [name for name, members in zip(self.names, self.members, strict=True) if label in members]
            for label in range(max(self.labels - 1, self.highest) + 1)
        ]
        return tuple(" + ".join(names) or "in no region" for names in inside)

    def declared(
        self, classes: Sequence[str] | None, background: int | EllipsisType | None, ignore: int | Sequence[int] | None
    ) -> Regions:
        """The head with the ignored label that a user declares. UsageError for names or a background."""
        if classes is not None or background is not ...:
            raise UsageError(
                "classes",
                found="class names or a background beside a region head",
                expected="neither",
                do="dataset.json names the regions; leave --classes and --background out.",
            )
        return replace(self, ignore=same_ignored(self.ignore, ignore))

    def of_channels(self, channels: int) -> Regions:
        """The head as it is."""
        return self

    def completed(self, other: object, *, background: bool) -> Regions:
        """The head with the ignored label of `other`, and its names where its own region has none, where both are
        regions of the same labels; else as it is.
        """
        if type(other) is not Regions or other.members != self.members or self.names not in (UNNAMED, other.names):
            return self
        return replace(self, names=other.names, ignore=other.ignore if self.ignore is None else self.ignore)

    def check(self, scores: Tensor, kind: Kind, where: str) -> None:
        """Raise ScoreError if `scores` (R, n) cannot be of `kind`; region probabilities need not sum to one."""
        if kind not in self.kinds:
            raise UsageError(
                "kind",
                found=repr(kind),
                expected="'probs' or 'logits' for a region head",
                do="Region heads put out one sigmoid a region.",
            )
        scores_.check(scores, kind, where, classes_sum=False)

    def canonical(self, scores: Tensor, kind: Kind, resolution: Resolution = FULL) -> Tensor:
        """Canonical log-probabilities (2R, n), float64: outside and inside of each region."""
        s = scores.double()
        if kind == "logits":
            pair = torch.stack([log_sigmoid(-s), log_sigmoid(s)], 1).clamp_min(resolution.lowest)
        else:
            pair = torch.stack([(1 - s).clamp_min(resolution.one), s.clamp_min(resolution.zero)], 1).log()
            pair = pair - pair.logsumexp(1, keepdim=True)
        return pair.flatten(0, 1)

    def floored(self, scores: Tensor, kind: Kind, resolution: Resolution = FULL) -> Tensor:
        """(2R, n): which scores stand for a probability at the floor of their `resolution` or below."""
        s = scores.double()
        if kind == "logits":
            return self.canonical(s, kind) <= math.log(scores_.FLOOR)
        return torch.stack([1 - s <= resolution.one, s <= resolution.zero], 1).flatten(0, 1)

    def floors(self, resolution: Resolution) -> list[float]:
        """The smallest probability of each row that is stored at `resolution`."""
        return [resolution.one, resolution.zero] * len(self.names)

    def free_energy(self, scores: Tensor, kind: Kind) -> Tensor | None:
        """None: a sigmoid output has no free energy to measure."""
        return None

    def canonical_and_energy(self, scores: Tensor, kind: Kind, resolution: Resolution = FULL) -> tuple[Tensor, None]:
        """Canonical log-probabilities, and nothing."""
        return self.canonical(scores, kind, resolution), None

    def decide(self, scores: Tensor, kind: Kind) -> Tensor:
        """1 where a region is decided inside (p > 0.5, z > 0), shape (R, n)."""
        return (scores > (0.5 if kind == "probs" else 0.0)).long()

    def ranking(self, scores: Tensor, kind: Kind) -> Tensor:
        """Numbers (rows, n) in whose order each region is decided outside or inside; at exactly the threshold
        outside.
        """
        threshold = torch.full_like(scores, 0.5 if kind == "probs" else 0.0)
        return torch.stack([threshold, scores], 1).flatten(0, 1)

    def padding(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Voxels (n,) whose probabilities (R, n) are what nnU-Net writes outside its crop box: zeros."""
        found: NDArray[np.bool_] = (scores == 0).all(0)
        return found

    def targets(self, labels: Tensor) -> Tensor:
        """Target of each part, shape (R, n):

        1 where the label belongs to the region; the ignored label becomes NO_TARGET.
        """
        y = labels.long()
        inside = torch.stack([torch.isin(y, torch.tensor(m)) for m in self.members]).long()
        return torch.where(y == self.ignore, NO_TARGET, inside) if self.ignore is not None else inside

    def tally(self, decision: Tensor) -> Tensor:
        """Voxels inside each region, shape (R,), of decisions (R, n)."""
        return decision.sum(1)

    def foreground(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Which labels are of any region."""
        return np.isin(labels, sorted({label for members in self.members for label in members}))

    def channel_rows(self, log_rows: Tensor) -> Tensor:
        """Of log-probability rows (2R, n) those of the network's channels, the insides: (R, n)."""
        return log_rows[1::2]

    def probabilities(self, log_rows: Tensor) -> Tensor:
        """From calibrated log-probability rows (2R, n) to the network's channels (R, n)."""
        return self.channel_rows(log_rows).exp()

    def logits(self, log_rows: Tensor) -> Tensor:
        """What stands for logits (R, n) where only log-probability rows are known: log odds."""
        return log_rows[1::2] - log_rows[0::2]

    def deliver(self, log_rows: Tensor, decision: Tensor | None) -> Tensor:
        """Probabilities (R, n), float32, on the side of 0.5 of `decision` (R, n), where given."""
        p = self.probabilities(log_rows).float()
        if decision is None:
            return p
        return torch.where(decision.bool(), p.clamp_min(ABOVE_HALF), p.clamp_max(0.5))

    def keeping(self, log_rows: Tensor, scores: Tensor, kind: Kind) -> Tensor:
        """What `deliver` says for the decision of `scores` (R, n)."""
        return self.deliver(log_rows, self.decide(scores, kind))

    def held(self, log_probs: Tensor, decision: Tensor) -> Tensor:
        """Rows of a part (2, n) on the side of 0.5 of its `decision` (n,)."""
        inside, half = decision.bool(), torch.full_like(log_probs[0], 0.5).log()
        lower, upper = torch.minimum(log_probs, half), torch.maximum(log_probs, half)
        return torch.where(torch.stack([inside, ~inside]), lower, upper)

    def entropy(self, probabilities: Tensor) -> Tensor:
        """Of the region that is least sure, in nats: (n,)."""
        p = probabilities
        entropy: Tensor = torch.special.entr(p) + torch.special.entr(1 - p)
        return entropy.amax(0)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """Probability of the decision of the region that is least sure: (n,)."""
        return torch.maximum(probabilities, 1 - probabilities).amin(0)

    def error(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The largest probability that a region of `labels` (n,) is wrong: (n,), a lower bound of the label's."""
        inside = torch.stack([torch.isin(labels, torch.tensor(m)) for m in self.members])
        return torch.where(inside, 1 - probabilities, probabilities).amax(0)

    def label_map(self, probabilities: Tensor) -> Tensor:
        """The label map for delivered region probabilities (R, n): regions written in order where p > 0.5, later over
        earlier.
        """
        out = torch.zeros(probabilities.shape[1:], dtype=torch.int64)
        for r, label in enumerate(self.order):
            out[probabilities[r] > 0.5] = label
        return out

    def predicted(self, scores: Tensor, kind: Kind) -> Tensor:
        """The label map of scores as given (R, n), before any calibrator: int64 (n,)."""
        return self.label_map(self.decide(scores, kind).double())

    def to_json(self) -> dict[str, Any]:
        """A plain description, from which `from_json` makes the same head."""
        return {
            "type": "regions",
            "names": list(self.names),
            "members": [list(m) for m in self.members],
            "order": list(self.order),
            "ignore": self.ignore,
        }
