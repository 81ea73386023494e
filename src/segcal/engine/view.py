"""Views: the rows of a part grouped by a key, and, if wanted, with the classes of each row in order, for asks about one
group.

A view is data: two that are equal are one arrangement of the rows, made once for all asks (`segcal.engine.filed`). What
a group means is the caller's. No row of a key: an ask about it gets the zero state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from segcal.data.ranking import descending, winner
from segcal.data.rows import Rows


def decided(rows: Rows) -> Tensor:
    """The class decided for each row."""
    return rows.decision


@dataclass(frozen=True)
class View:
    """Rows grouped by `key`, a whole number of 0 or more each (n,). `ordered`: log-probabilities are sorted, the class
    decided first and the others from the highest down, and targets are places in that order.
    """

    key: Callable[[Rows], Tensor] = decided
    ordered: bool = False

    def at(self, value: int) -> Group:
        """The rows of one key."""
        return Group(self, value)

    def arranged(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Log-probabilities (C, n) and targets (n,) as the view has them."""
        if not self.ordered:
            return rows.log_probs, rows.targets
        # the class decided comes first even where float32 ties it with another
        places = descending(rows.log_probs.scatter(0, rows.decision[None], float("inf")))
        return rows.log_probs.gather(0, places), winner(places == rows.targets[None])


@dataclass(frozen=True)
class Group:
    """The rows of a view whose key is `value`."""

    view: View
    value: int
