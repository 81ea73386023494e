"""How many parameters there are: optimised, and identifiable from probabilities.

Optimised are the numbers of the paper's
module, identifiable what the method says of itself (K26 Table 2), over all parts of the head; a method without such a
module has none (None), and is not guessed from its tensors, which methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from segcal.methods.calibrator import Calibrator
from segcal.methods.registry import find


@dataclass(frozen=True)
class Counts:
    """Scalars handed to an optimiser, and the dimension of the set of distinct maps from scores to probabilities."""

    optimised: int
    identifiable: int


def counts(calibrator: Calibrator) -> Counts | None:
    """Parameters of all parts together; None for a method whose paper's module is not written here."""
    named, head = find(calibrator.method), calibrator.head
    classes = [len(head.part_classes(part)) for part in range(len(head.parts))]
    optimised = [] if named is None else [n for c in classes if (n := named.kind.optimised(c)) is not None]
    if named is None or not optimised:
        return None
    return Counts(sum(optimised), sum(named().identifiable(c) for c in classes))
