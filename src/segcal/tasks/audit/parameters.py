"""Parameters at their bounds, and how many there are: optimised, and identifiable from probabilities.

Promises: a bound is named with what it means; a map without bounds gives none. Optimised are the numbers of the paper's
module, identifiable what the method says of itself (K26 Table 2), over all parts of the head; a method without such a
module has none (None), and is not guessed from its tensors, which methods share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

from segcal.fitting.solvers.scalar import ScalarNewton
from segcal.methods.calibrator import Calibrator
from segcal.methods.conditional.map import ConditionalMap
from segcal.methods.conditional.sums import Scores
from segcal.methods.maps import PartMap
from segcal.methods.mixture import MixtureMap
from segcal.methods.registry import find
from segcal.methods.temperature import ScaleMap


@dataclass(frozen=True)
class AtBound:
    """A fitted number `value` that sits at the end of what it may be; `meaning` says what that does."""

    name: str
    value: float
    meaning: str


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


@singledispatch
def at_bounds(m: PartMap, classes: Sequence[str]) -> list[AtBound]:
    """Parameters of a map that sit at a bound; none unless its kind says otherwise. `classes` names its classes."""
    return []


@at_bounds.register
def _(m: ScaleMap, classes: Sequence[str]) -> list[AtBound]:
    return _temperature(m.beta.item())


@at_bounds.register
def _(m: MixtureMap, classes: Sequence[str]) -> list[AtBound]:
    meanings = (
        "the tempered softmax is not used",
        "the softmax as it is is not used",
        "nothing is mixed in from the uniform distribution",
    )
    weights = [
        AtBound(f"weights[{k}]", 0.0, meaning)
        for k, (w, meaning) in enumerate(zip(m.weights.tolist(), meanings, strict=True))
        if w == 0
    ]
    return _temperature(m.beta.item()) + weights


@at_bounds.register
def _(m: ConditionalMap, classes: Sequence[str]) -> list[AtBound]:
    if isinstance(m.coordinates, Scores):
        return []
    out = []
    for name, a, g in zip(classes, m.weight, m.bias, strict=True):
        if zeros := int((a == 0).sum()):
            out.append(
                AtBound(
                    f"A of expert {name}",
                    0.0,
                    f"{zeros} of {a.numel()} entries: those margins do not move those classes",
                )
            )
        if zeros := int((g == 0).sum()):
            out.append(
                AtBound(
                    f"g of expert {name}", 0.0, f"{zeros} of {g.numel()} entries: no class is moved by a constant there"
                )
            )
    return out


def _temperature(beta: float) -> list[AtBound]:
    solver = ScalarNewton()
    if beta <= solver.low:
        return [
            AtBound(
                "beta",
                beta,
                "the data ask for a temperature beyond the largest: the scores say nothing about the labels",
            )
        ]
    if beta >= solver.high:
        return [AtBound("beta", beta, "the data ask for a temperature below the smallest: no label is wrong")]
    return []
