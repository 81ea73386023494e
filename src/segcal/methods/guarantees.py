"""Promises as data: what a calibrator guarantees, and why.

Each of the three promises is `proven` (from parameters), `measured` (on data, by an audit) or `no`. `reasons` says why
in a sentence. Preservation is weak (K26's closed cones): an order may become a tie in exact arithmetic; what is
*delivered* keeps the winner strictly first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["proven", "measured", "no"]


@dataclass(frozen=True)
class Guarantees:
    """`translation_invariant`: adding a constant to all logits of a voxel changes nothing.

    `preserves_argmax`: the label stays. `preserves_order`: the ranking of classes stays.
    """

    translation_invariant: Status
    preserves_argmax: Status
    preserves_order: Status
    reasons: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """A plain description."""
        return {
            "translation_invariant": self.translation_invariant,
            "preserves_argmax": self.preserves_argmax,
            "preserves_order": self.preserves_order,
            "reasons": self.reasons,
        }


def weakest(all_of: list[Guarantees]) -> Guarantees:
    """What holds for several maps at once: each promise at its weakest.

    No map: UsageError is not needed, everything holds vacuously.
    """
    rank: dict[Status, int] = {"no": 0, "measured": 1, "proven": 2}

    def low(name: str) -> Status:
        return min((getattr(g, name) for g in all_of), key=lambda s: rank[s], default="proven")

    reasons: dict[str, str] = {}
    for g in all_of:
        for name, why in g.reasons.items():
            if getattr(g, name) == low(name):
                reasons.setdefault(name, why)
    return Guarantees(low("translation_invariant"), low("preserves_argmax"), low("preserves_order"), reasons)
