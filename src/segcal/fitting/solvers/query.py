"""What solvers ask and what they return."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Evaluated(Protocol):
    """An answer: value, gradient (d,), curvature (d, d) or None."""

    @property
    def value(self) -> float:
        """The objective."""

    @property
    def gradient(self) -> Vector:
        """Its gradient."""

    @property
    def curvature(self) -> Vector | None:
        """Its curvature."""


@dataclass(frozen=True, eq=False)
class Query:
    """Evaluate at `theta` (d,): value (order 0), gradient (1), curvature (2); `rough` curvature may come from a sample.

    `free`: the entries (indices into theta) whose curvature is wanted; empty: all.
    """

    theta: Vector
    order: int
    rough: bool = False
    free: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Solved:
    """Where a solver stopped: `theta`, `value` there, the largest `gradient` entry, a bound on the remaining `gap` and
    how it was proven.

    `converged`: whether it ended by its own test. `model`: the curvature it last used, if it keeps one.
    """

    theta: Vector
    value: float
    gradient: float
    gap: float
    proof: str
    converged: bool
    evaluations: int
    model: Vector | None = None
    notes: tuple[str, ...] = field(default=())


Steps = Generator[Mapping[str, Query], Mapping[str, Evaluated], Solved]
