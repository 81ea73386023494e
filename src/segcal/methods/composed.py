"""Two maps of one softmax problem, one after the other, one of which may need something of the case.

What either draws of a case it draws from the scores as they came, and the class decided is theirs: what the second
draws does not depend on the first. Promises: the weaker of both, each. A file names it "FIRST > SECOND". No voxel: an
empty result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segcal.data.rows import Rows
from segcal.data.surroundings import Context, Neighbourhood
from segcal.errors import UsageError
from segcal.methods.guarantees import Guarantees, weakest
from segcal.methods.maps import AtBound, Needs, PartMap

THEN = " > "
"""Stands between the names of two maps."""


class Composed(PartMap):
    """`first`, then `second`; one of them needs no more than rows (UsageError otherwise)."""

    first: PartMap
    second: PartMap

    def __init__(self, first: PartMap, second: PartMap) -> None:
        super().__init__()
        if first.needs.case and second.needs.case:
            raise UsageError(
                "second",
                found=f"a map of the kind {second.named} after a {first.named}, both of which look around",
                expected="a map of rows before or after one that looks around",
                do="Take one of them alone.",
            )
        self.first, self.second = first, second

    @property
    def named(self) -> str:
        """FIRST > SECOND."""
        return f"{self.first.named}{THEN}{self.second.named}"

    @property
    def classes(self) -> int | None:
        """What either is for."""
        return self.first.classes if self.second.classes is None else self.second.classes

    @property
    def needs(self) -> Needs:
        """Of the case what the one that looks around needs."""
        return replace(self._around.needs, logits=self.first.needs.logits or self.second.needs.logits)

    @property
    def _around(self) -> PartMap:
        """The one that may need something of the case."""
        return self.first if self.first.needs.case else self.second

    def context(self, near: Neighbourhood) -> Tensor:
        """Of the one that looks around."""
        return self._around.context(near)

    def settled(self, context: Tensor) -> Tensor:
        """Of the one that looks around."""
        return self._around.settled(context)

    def forward(
        self,
        log_probs: Tensor,
        free_energy: Tensor | None = None,
        given: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities of the second of those of the first, (C, n)."""
        as_came = log_probs if given is None else given
        before, after = (
            (context,) if m is self._around and context is not None else () for m in (self.first, self.second)
        )
        between = self.first(log_probs, free_energy, given, *before)
        mapped: Tensor = self.second(between, None, as_came, *after)
        return mapped

    def guarantees(self) -> Guarantees:
        """The weaker of both."""
        return weakest([self.first.guarantees(), self.second.guarantees()])

    def at_bounds(self, classes: Sequence[str]) -> list[AtBound]:
        """Those of both."""
        return [*self.first.at_bounds(classes), *self.second.at_bounds(classes)]

    def describe(self) -> dict[str, object]:
        """What both say."""
        return {"first": self.first.describe(), "then": self.second.describe()}

    def sensitivity(self) -> float | None:
        """The product, where both are bounded."""
        first, second = self.first.sensitivity(), self.second.sensitivity()
        return None if first is None or second is None else first * second

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Composed:
        """A file tells of what kinds the two are: `segcal.methods.files` makes each."""
        raise NotImplementedError("made from its two maps")


@dataclass(frozen=True, eq=False)
class ThroughMap:
    """A map of rows applied to rows before they are folded."""

    map: PartMap

    @property
    def contexts(self) -> frozenset[Context]:
        """Nothing."""
        return frozenset()

    def __call__(self, rows: Rows) -> Rows:
        """Mapped rows, whose decision is that of the scores as they came."""
        given = rows.log_probs.scatter(0, rows.decision[None], torch.inf)
        return replace(rows, log_probs=self.map(rows.log_probs, rows.free_energy, given))
