"""An ask: one thing a fit or an evaluation wants to know about the data.

It names an accumulator, the part of the head and the cases it concerns, and how many of the voxels: all (`Level.ALL`),
an even sample that stays in memory (`Level.SAMPLE`), or a thinner one for curvature (`Level.CURVATURE`). Samples are
nested. With a `group` it concerns some rows of a view, filed and ordered once for all asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from segcal.data.rows import Rows
from segcal.data.surroundings import Context
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator
from segcal.engine.view import Group


class Level(IntEnum):
    """How many voxels an ask concerns."""

    ALL = 0
    SAMPLE = 1
    CURVATURE = 2


class Through(Protocol):
    """A map applied to rows before they are folded, such as a calibrator; equality decides whether two asks share its
    result.
    """

    @property
    def contexts(self) -> frozenset[Context]:
        """What its rows must bring of the case they are from: nothing, unless it says so."""
        return frozenset()

    def __call__(self, rows: Rows) -> Rows:
        """Mapped rows."""


@dataclass(frozen=True)
class Ask:
    """`accumulator` over the rows of `part`, restricted to `cases` (indices; None: all), at `level`, one state a case
    with `by_case`, after `through`.

    `group`: only those rows, as their view has them; no `through` and no free energy then.
    """

    accumulator: Accumulator
    part: int = 0
    cases: frozenset[int] | None = None
    level: Level = Level.ALL
    by_case: bool = False
    through: Through | None = None
    group: Group | None = None

    @property
    def contexts(self) -> frozenset[Context]:
        """What the rows must bring, for `through` and for the accumulator."""
        mapped = frozenset[Context]() if self.through is None else self.through.contexts
        return mapped | accumulate.contexts(self.accumulator)

    def about(self, cases: frozenset[int], by_case: bool = False) -> Ask:
        """The same about other cases."""
        return replace(self, cases=cases, by_case=by_case)

    def wants_any(self, cases: frozenset[int]) -> bool:
        """Whether any of `cases` is concerned."""
        return bool(cases if self.cases is None else cases & self.cases)

    def wants(self, case: int) -> bool:
        """Whether `case` is concerned."""
        return self.cases is None or case in self.cases
