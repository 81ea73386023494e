"""How many numbers each method has: optimised as its paper writes it, identifiable, and varied by the exact solver (K26
Table 2, from the code itself).

Counts and promises are what the methods say of themselves (`AnyMethod.counted`, `AnyMethod.drawn`); what one does not
say is unknown. Identifiable is a rank, see `segcal.methods.parameterisation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segcal.engine.single import one_thread
from segcal.methods.guarantees import Guarantees
from segcal.methods.parameterisation import ParameterCount
from segcal.methods.registry import Named, methods

CLASSES = (2, 5, 20)
"""Numbers of classes of the paper's three data sets."""


@dataclass(frozen=True, eq=False)
class Row:
    """One method: its name, class and first sentence, what its maps promise (None: not known without a fit), its
    counts by number of classes, and its options with what they are, as far as their fields say.
    """

    name: str
    type_name: str
    what: str
    guarantees: Guarantees | None
    counts: Mapping[int, ParameterCount]
    options: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """A plain description."""
        counts = {
            str(c): {"optimised": n.optimised, "identifiable": n.identifiable, "exact": n.exact}
            for c, n in self.counts.items()
        }
        promises = (
            None if self.guarantees is None else {k: v for k, v in self.guarantees.to_json().items() if k != "reasons"}
        )
        return {
            "name": self.name,
            "class": self.type_name,
            "what": self.what,
            "guarantees": promises,
            "counts": counts,
            "options": dict(self.options),
        }


def table(classes: Sequence[int] = CLASSES) -> list[Row]:
    """A row for every name that `--method` takes. UsageError for fewer than two classes."""
    with one_thread():
        return [_row(named, classes) for named in methods().values()]


def _row(named: Named, classes: Sequence[int]) -> Row:
    method = named()
    counts = {c: n for c in classes if (n := method.counted(c)) is not None}
    options = {o.rstrip("_"): f.metadata.get("help", "") for o, f in named.options.items() if o not in named.settled}
    return Row(named.name, named.kind.__name__, method.what, named.guarantees, counts, options)
