"""The head of a network: softmax over classes, or one sigmoid a region. Nothing else in the library tells the two
apart: whoever would ask which of them it has, asks the head what it wanted to know.

A head turns labels into targets, scores into canonical rows, and rows into the decision a user publishes. To the rest
of the library every problem is a softmax problem: a region head of R regions is R binary problems ("parts", rows of
two: outside, inside), a softmax head is one part with C rows. Rows of all parts are stacked: `rows` has `sum of part
sizes` channels.

Ties go to the lowest index (the first maximum, as np.argmax has it), so a region at exactly p = 0.5 is decided
"outside", as nnU-Net's `p > 0.5` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcal.data import scores as scores_
from segcal.data.numbering import Numbering, counted, out_of_range
from segcal.data.ranking import winner
from segcal.data.region_head import NO_TARGET, UNNAMED, Regions, check_ignored, same_ignored
from segcal.data.scores import FULL, KINDS, Kind, Resolution
from segcal.data.tracing import traced
from segcal.errors import UsageError

__all__ = ["NO_TARGET", "Head", "Regions", "Softmax", "check_labels", "from_json", "undescribed"]


UNIT_ABOVE = 0.75 * 2.0**-23
"""Times a float32 number above 1e-37: three quarters to three halves of the distance to the next one."""


@dataclass(frozen=True)
class Softmax:
    """One probability a class, summing to one.

    `background` is the index left out of Dice and IoU (None: every class counts); `ignore` the label never scored.
    """

    classes: tuple[str, ...]
    background: int | None = None
    ignore: int | None = None

    noun: ClassVar[str] = "classes"
    """What the channels are called."""

    kinds: ClassVar[tuple[Kind, ...]] = KINDS
    """Kinds that its scores can have."""

    logits_kind: ClassVar[Kind] = "log_probs"
    """Kind of what `logits` gives."""

    sums_to_one: ClassVar[bool] = True
    """Whether the probabilities of a voxel sum to one over the channels; if not, each channel is a part of its own,
    whose probability is told from 1 as well as from 0."""

    can_keep_decision: ClassVar[bool] = False
    """Whether any map's probabilities can be kept on the side of the decision without spoiling their sum."""

    has_free_energy: ClassVar[bool] = True
    """Whether logits have an offset that the head does not see."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UsageError(
                "classes",
                found=f"{len(self.classes)} class(es)",
                expected="at least 2",
                do="One sigmoid channel is a region head: segcal.Regions(('lesion',), ((1,),), (1,)).",
            )
        check_ignored(self.ignore)

    @property
    def channels(self) -> int:
        """Channels of the network's output."""
        return len(self.classes)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the softmax problems this head is made of: one, called 'softmax'."""
        return ("softmax",)

    @property
    def rows(self) -> int:
        """Channels of the canonical rows."""
        return len(self.classes)

    def slice(self, part: int) -> slice:
        """Which rows belong to `part`."""
        return slice(0, len(self.classes))

    def part_classes(self, part: int) -> tuple[str, ...]:
        """Class names within `part`."""
        return self.classes

    def part_background(self, part: int) -> int | None:
        """Index of the background within `part`, or None."""
        return self.background

    @property
    def labels(self) -> int:
        """Labels run from 0 to `labels` - 1."""
        return len(self.classes)

    @property
    def highest(self) -> int:
        """The highest label that a label map of decisions can hold."""
        return len(self.classes) - 1

    @property
    def label_names(self) -> tuple[str, ...]:
        """What each label from 0 on stands for."""
        return self.classes

    def declared(
        self, classes: Sequence[str] | None, background: int | EllipsisType | None, ignore: int | Sequence[int] | None
    ) -> Softmax:
        """The head with what a user declares beside it; None (of `background`: ...): as it is. UsageError where that
        contradicts it. Of several ignored labels it keeps its own, or else the first: the others are a matter of
        reading (`segcal.data.numbering`).
        """
        names = self.classes if classes is None else tuple(classes)
        if len(names) != len(self.classes):
            raise UsageError(
                "classes",
                found=f"{len(names)} names",
                expected=f"{len(self.classes)} as in dataset.json",
                do="Name every class, or leave --classes out.",
            )
        if background is ...:
            background = self.background
        elif background is not None and not 0 <= background < len(names):
            raise UsageError(
                "background",
                found=str(background),
                expected=f"an index from 0 to {len(names) - 1}, or none",
                do="Name the index of the background class.",
            )
        return Softmax(names, background, same_ignored(self.ignore, ignore))

    def of_channels(self, channels: int) -> Head:
        """The same for scores of so many channels: of one channel for two classes, the sigmoid of the class that is not
        the background; the first, where none is declared.
        """
        if channels != 1 or self.channels != 2:
            return self
        inside = 0 if self.background == 1 else 1
        return Regions((self.classes[inside],), ((inside,),), (inside,), self.ignore)

    def completed(self, other: Head, *, background: bool) -> Softmax:
        """The head with names, ignored label and, if asked for, `background` of `other`, where its own classes are only
        numbered or have the same names; as it is for a head of another kind or size.
        """
        unnamed = self.classes == tuple(str(k) for k in range(self.channels))
        if not isinstance(other, Softmax) or other.channels != self.channels:
            return self
        if not unnamed and self.classes != other.classes:
            return self
        left_out = other.background if background and self.background is None else self.background
        return Softmax(other.classes, left_out, other.ignore if self.ignore is None else self.ignore)

    def check(self, scores: Tensor, kind: Kind, where: str) -> None:
        """Raise ScoreError if `scores` (C, n) cannot be of `kind`."""
        scores_.check(scores, kind, where)

    def canonical(self, scores: Tensor, kind: Kind, resolution: Resolution = FULL) -> Tensor:
        """Canonical log-probabilities (C, n), float64."""
        return scores_.canonical(scores, kind, resolution=resolution)

    def floored(self, scores: Tensor, kind: Kind, resolution: Resolution = FULL) -> Tensor:
        """(C, n): which scores stand for a probability at the floor of their `resolution` or below."""
        s = scores.double()
        if kind == "logits":
            return self.canonical(s, kind) <= math.log(scores_.FLOOR)
        if kind == "log_probs":
            return s <= math.log(resolution.zero)
        return s <= resolution.zero * (s.sum(0, keepdim=True) if kind == "scores" else 1.0)

    def floors(self, resolution: Resolution) -> list[float]:
        """The smallest probability of each row that is stored at `resolution`."""
        return [resolution.zero] * self.rows

    def free_energy(self, scores: Tensor, kind: Kind) -> Tensor | None:
        """F(z) per voxel, shape (n,), for logits; None where the kind has none to measure."""
        return scores_.free_energy(scores) if kind == "logits" else None

    def canonical_and_energy(
        self, scores: Tensor, kind: Kind, resolution: Resolution = FULL
    ) -> tuple[Tensor, Tensor | None]:
        """What `canonical` and `free_energy` say, from one sum over classes."""
        energy = self.free_energy(scores, kind)
        rows = self.canonical(scores, kind, resolution) if energy is None else scores_.less(scores, energy, resolution)
        return rows, energy

    def decide(self, scores: Tensor, kind: Kind) -> Tensor:
        """The class each part decides for, shape (1, n), from the scores as given; ties to the lowest index."""
        return winner(scores)[None]

    def ranking(self, scores: Tensor, kind: Kind) -> Tensor:
        """Numbers (rows, n) in the order of the scores as given, ties to the lowest index: what `decide` and a ranking
        of the classes are read off.
        """
        return scores

    def padding(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Voxels (n,) whose probabilities (C, n) are what nnU-Net writes outside its crop box: (1, 0, ..., 0)."""
        found: NDArray[np.bool_] = (scores[0] == 1) & (scores[1:] == 0).all(0)
        return found

    def targets(self, labels: Tensor) -> Tensor:
        """Target of each part, shape (1, n), int64; the ignored label becomes NO_TARGET."""
        y = labels.long()
        return (torch.where(y == self.ignore, NO_TARGET, y) if self.ignore is not None else y)[None]

    def tally(self, decision: Tensor) -> Tensor:
        """Voxels by class, shape (C,), of decisions (1, n)."""
        return torch.bincount(decision[0], minlength=self.channels)

    def foreground(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Which labels are not the background; all of them where none is declared."""
        return np.ones(labels.shape, bool) if self.background is None else np.asarray(labels != self.background)

    def channel_rows(self, log_rows: Tensor) -> Tensor:
        """Of log-probability rows (C, n) those of the network's channels: all."""
        return log_rows

    def probabilities(self, log_rows: Tensor) -> Tensor:
        """From calibrated log-probability rows (C, n) back to the network's channels (C, n)."""
        return log_rows.exp()

    def logits(self, log_rows: Tensor) -> Tensor:
        """What stands for logits (C, n) where only log-probability rows are known."""
        return log_rows

    def deliver(self, log_rows: Tensor, decision: Tensor | None) -> Tensor:
        """Probabilities (C, n), float32, in which the class of `decision` (1, n), where given, is strictly first.

        Rounding to float32 can tie or swap neighbours (T = 1e10 makes whole rows equal). There the winner gets the
        float32 number just above the largest other: one unit in the last place, so that voxels still sum to one within
        1e-6.
        """
        p = self.probabilities(log_rows).float()
        if decision is None:
            return p
        at = decision[0].long()[None]
        own = p.gather(0, at)[0]
        others = p.scatter(0, at, -1.0).amax(0)
        # the next number above: what is added rounds to one unit in the last place, since no largest other of a voxel
        # that does not lead is below 1/C; torch.nextafter cannot be exported
        raised = others + others * UNIT_ABOVE
        return p.scatter(0, at, torch.where(own > others, own, raised)[None])

    def keeping(self, log_rows: Tensor, scores: Tensor, kind: Kind) -> Tensor:
        """What `deliver` says for the decision of `scores` (C, n), which is looked for only where the largest
        probability is not that of the one largest score.
        """
        if traced():
            return self.deliver(log_rows, self.decide(scores, kind))
        p = self.probabilities(log_rows).float()
        behind = p != p.amax(0)
        # one probability is in front of all others, and of the scores it is one and the same
        if int(behind.sum()) == p.numel() - p.shape[1] and torch.equal(behind, scores != scores.amax(0)):
            return p
        return self.deliver(log_rows, self.decide(scores, kind))

    def held(self, log_probs: Tensor, decision: Tensor) -> Tensor:
        """Rows of a part (C, n) on the side of its `decision` (n,): as they are, since the order of classes says it."""
        return log_probs

    def entropy(self, probabilities: Tensor) -> Tensor:
        """Of each voxel's distribution, in nats: (n,)."""
        entropy: Tensor = torch.special.entr(probabilities)
        return entropy.sum(0)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """Probability of the decided class: (n,)."""
        return probabilities.amax(0)

    def error(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Probability that `labels` (n,) are wrong: (n,); NaN where there is no such class."""
        known = (labels >= 0) & (labels < self.channels)
        own = probabilities.gather(0, torch.where(known, labels, 0)[None])[0]
        return torch.where(known, 1 - own, torch.nan)

    def label_map(self, probabilities: Tensor) -> Tensor:
        """The label map a user publishes for delivered probabilities (C, n): int64 (n,)."""
        return winner(probabilities)

    def predicted(self, scores: Tensor, kind: Kind) -> Tensor:
        """The label map of scores as given (C, n), before any calibrator: int64 (n,)."""
        return self.decide(scores, kind)[0]

    def to_json(self) -> dict[str, Any]:
        """A plain description, from which `from_json` makes the same head."""
        return {"type": "softmax", "classes": list(self.classes), "background": self.background, "ignore": self.ignore}


Head = Softmax | Regions


def undescribed(
    channels: int,
    classes: Sequence[str] | None = None,
    background: int | EllipsisType | None = ...,
    ignore: int | Sequence[int] | None = None,
) -> Head:
    """The head of scores that nothing describes but what a user declares (`Softmax.declared`): a softmax; of one
    channel, one sigmoid, whose region is label 1.

    Of one channel `classes` name the region, or the background too, before it.
    """
    if channels != 1:
        names = tuple(classes) if classes is not None else tuple(str(k) for k in range(channels))
        return Softmax(names).declared(None, background, ignore)
    names = UNNAMED if classes is None else tuple(classes)
    if 1 <= len(names) <= 2 and background in (..., None, 0):
        return Regions(names[-1:], ((1,),), (1,)).declared(None, ..., ignore)
    miscounted = not 1 <= len(names) <= 2
    raise UsageError(
        "classes" if miscounted else "background",
        found=f"{len(names)} names" if miscounted else str(background),
        expected="the name of the region of one sigmoid, which label 1 is inside of and 0 outside",
        do="Name the region only; read other labels as 0 and 1 with label_map= (--label-map).",
    )


def from_json(described: dict[str, Any]) -> Head:
    """The head that `to_json` described."""
    if described["type"] == "softmax":
        return Softmax(tuple(described["classes"]), described["background"], described["ignore"])
    return Regions(
        tuple(described["names"]),
        tuple(tuple(m) for m in described["members"]),
        tuple(described["order"]),
        described["ignore"],
    )


def check_labels(
    head: Head,
    labels: Tensor,
    where: str,
    whole: Callable[[], Mapping[int, int]] | None = None,
    numbering: Numbering | None = None,
) -> None:
    """Raise LabelError, naming `where`, if a label is neither the ignored one nor in 0 .. head.labels - 1.

    `whole`: counts the labels of the whole case, of which `labels` are some; `numbering`: how they were read. No voxel:
    nothing to check.
    """
    known = (labels >= 0) & (labels < head.labels)
    if head.ignore is not None:
        known |= labels == head.ignore
    if not bool(known.all()):
        counts = counted(labels) if whole is None else whole()
        raise out_of_range(counts, head.labels, head.ignore, where, numbering)
