"""What is read of a case: a block of voxels, its scored rows for accumulators, and what is remembered of the whole."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from segcal.data.head import Head
from segcal.data.places.place import Place
from segcal.data.scores import Kind
from segcal.errors import UsageError


def selected(values: Tensor, keep: Tensor) -> Tensor:
    """Those of `values` (..., n) where `keep` (n,) holds; themselves, uncopied, where it holds everywhere."""
    return values if bool(keep.all()) else values[..., keep]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive voxels of one case: pooled `scores` (channels, n) of `kind`, `labels` (n,) or None, `role` (n,)
    uint8.

    `members`: each member's own scores before pooling (channels, n), kept only where they were asked for.
    """

    case: int
    start: int
    scores: Tensor
    kind: Kind
    labels: Tensor | None
    role: Tensor
    members: tuple[Tensor, ...] = ()

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.scores.shape[1]


@dataclass(frozen=True, eq=False)
class Rows:
    """Scored voxels of one softmax problem, what accumulators fold.

    `log_probs` (C, n): canonical log-probabilities, float32 if kept, else float64. `targets` (n,) int64. `decision`
    (n,): the class decided, from the scores as given. `reference` (n,): the decision before any calibrator.
    `free_energy` (n,) or None where only probabilities are known. `places`: (n,) float64 each, those that were asked
    for; `contexts`: (..., n) each, what a map drew from the case.
    """

    case: int
    start: int
    log_probs: Tensor
    targets: Tensor
    decision: Tensor
    reference: Tensor
    free_energy: Tensor | None = None
    places: Mapping[Place, Tensor] = field(default_factory=dict)
    contexts: Mapping[Hashable, Tensor] = field(default_factory=dict)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.log_probs.shape[1]

    def place(self, place: Place) -> Tensor:
        """Where the voxels lie, (n,) float64. UsageError if the rows were made without it."""
        if place not in self.places:
            raise UsageError(
                "rows",
                found=f"no {place}",
                expected="rows that know where their voxels lie",
                do=(
                    "Accumulators that need places are answered by Engine.survey, or by rows from CaseReader.prepare"
                    " with `places`."
                ),
            )
        return self.places[place]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Scored voxels of a block, for all parts of a head:

    `log_probs` (head.rows, n), `targets` and `decision` (parts, n), `free_energy` (n,) or None, `places` (n,) and
    `contexts` (..., n) each.
    """

    case: int
    start: int
    log_probs: Tensor
    targets: Tensor
    decision: Tensor
    free_energy: Tensor | None
    places: Mapping[Place, Tensor] = field(default_factory=dict)
    contexts: Mapping[Hashable, Tensor] = field(default_factory=dict)

    def part(self, head: Head, part: int) -> Rows:
        """The rows of one softmax problem."""
        decision = self.decision[part].long()
        return Rows(
            self.case,
            self.start,
            self.log_probs[head.slice(part)],
            self.targets[part].long(),
            decision,
            decision,
            self.free_energy,
            self.places,
            self.contexts,
        )

    def take(self, index: Tensor) -> Prepared:
        """Some of the voxels."""
        energy = None if self.free_energy is None else self.free_energy[index]
        return Prepared(
            self.case,
            self.start,
            self.log_probs[:, index],
            self.targets[:, index],
            self.decision[:, index],
            energy,
            {place: value[index] for place, value in self.places.items()},
            {context: value[..., index] for context, value in self.contexts.items()},
        )


@dataclass(frozen=True)
class Note:
    """What was seen of one block while it was read: digests of labels and pooled scores, voxels by role, the lowest and
    highest label scored, voxels of labelled foreground, those of them `hidden` in padding, and scored voxels whose
    label's probability is stored as 0.
    """

    start: int
    labels: str
    scores: str
    roles: tuple[int, int, int, int]
    low: int
    high: int
    foreground: int
    hidden: int
    floored: int = 0


@dataclass(frozen=True)
class Record:
    """What is remembered of a case: enough to recognise it later without keeping it.

    `labels` is '' where all labels are equal: such a map identifies nothing. `foreground`: voxels of labelled
    foreground; `hidden`: those of them in padding; `floored`: scored voxels whose label's probability is stored as 0.
    """

    id: str
    group: str
    labels: str
    scores: str
    roles: tuple[int, int, int, int]
    foreground: int = 0
    hidden: int = 0
    floored: int = 0

    def is_same_case(self, other: Record) -> bool:
        """Whether the same scores, or the same labels, were seen."""
        return self.scores == other.scores or (self.labels != "" and self.labels == other.labels)
