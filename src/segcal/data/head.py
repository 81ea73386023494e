"""The head of a network: softmax over classes, or one sigmoid a region. Nothing else in the library tells the two
apart.

A head turns labels into targets, scores into canonical rows, and rows into the decision a user publishes. To the rest
of the library every problem is a softmax problem: a region head of R regions is R binary problems ("parts", rows of
two: outside, inside), a softmax head is one part with C rows. Rows of all parts are stacked: `rows` has `sum of part
sizes` channels.

Ties go to the lowest index (the first maximum, as np.argmax has it), so a region at exactly p = 0.5 is decided
"outside", as nnU-Net's `p > 0.5` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from segcal.data import scores as scores_
from segcal.data.ranking import winner
from segcal.data.scores import FULL, Kind, Resolution
from segcal.errors import LabelError, UsageError

NO_TARGET = -1


def _check_ignored(label: int | None) -> None:
    """UsageError for a label that no array of integers can hold."""
    if label is not None and not -(2**63) <= label < 2**63:
        raise UsageError(
            "ignore_index",
            found="a number of more than 64 bits",
            expected="a label of 64 bits or fewer",
            do="Give the label that marks voxels without one, such as 255.",
        )


@dataclass(frozen=True)
class Softmax:
    """One probability a class, summing to one.

    `background` is the index left out of Dice and IoU (None: every class counts); `ignore` the label never scored.
    """

    classes: tuple[str, ...]
    background: int | None = None
    ignore: int | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UsageError(
                "classes",
                found=f"{len(self.classes)} class(es)",
                expected="at least 2",
                do="A single sigmoid output is a region head: Regions(...).",
            )
        _check_ignored(self.ignore)

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

    def free_energy(self, scores: Tensor, kind: Kind) -> Tensor | None:
        """F(z) per voxel, shape (n,), for logits; None where the kind has none to measure."""
        return scores_.free_energy(scores) if kind == "logits" else None

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

    def probabilities(self, log_rows: Tensor) -> Tensor:
        """From calibrated log-probability rows (C, n) back to the network's channels (C, n)."""
        return log_rows.exp()

    def label_map(self, probabilities: Tensor) -> Tensor:
        """The label map a user publishes for delivered probabilities (C, n): int64 (n,)."""
        return winner(probabilities)

    def predicted(self, scores: Tensor, kind: Kind) -> Tensor:
        """The label map of scores as given (C, n), before any calibrator: int64 (n,)."""
        return self.decide(scores, kind)[0]

    def to_json(self) -> dict[str, Any]:
        """A plain description, from which `from_json` makes the same head."""
        return {"type": "softmax", "classes": list(self.classes), "background": self.background, "ignore": self.ignore}


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

    def __post_init__(self) -> None:
        _check_ignored(self.ignore)
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

    def check(self, scores: Tensor, kind: Kind, where: str) -> None:
        """Raise ScoreError if `scores` (R, n) cannot be of `kind`; region probabilities need not sum to one."""
        if kind not in ("probs", "logits"):
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
            pair = torch.stack([logsigmoid(-s), logsigmoid(s)], 1).clamp_min(resolution.lowest)
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

    def free_energy(self, scores: Tensor, kind: Kind) -> Tensor | None:
        """None: a sigmoid output has no free energy to measure."""
        return None

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

    def probabilities(self, log_rows: Tensor) -> Tensor:
        """From calibrated log-probability rows (2R, n) to the network's channels (R, n)."""
        return log_rows[1::2].exp()

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


Head = Softmax | Regions


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


def check_labels(head: Head, labels: Tensor, where: str) -> None:
    """Raise LabelError, naming `where`, if a label is neither the ignored one nor in 0 .. head.labels - 1.

    No voxel: nothing to check.
    """
    known = (labels >= 0) & (labels < head.labels)
    if head.ignore is not None:
        known |= labels == head.ignore
    if not bool(known.all()):
        strange = torch.unique(labels[~known])[:5].tolist()
        raise LabelError(
            where,
            found=f"labels {strange}",
            expected=f"0 to {head.labels - 1}" + (f" or the ignored {head.ignore}" if head.ignore is not None else ""),
            do="If one of these marks voxels without a label, name it with ignore_index (--ignore-index).",
        )
