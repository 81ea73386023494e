"""Accumulators: everything that is summed over voxels, and the laws that make sums exact.

An accumulator declares its `leaves` and turns rows into raw partial sums; leaves lift those into a state of plain
arrays and merge states. Laws (checked by `segcal.testing.check_accumulator`): zero is neutral; merge is exactly
associative and commutative, bit for bit; states of accumulators that are not equal do not merge; only scored voxels
count (rows hold nothing else). Sums, never means.

`ExactSum` holds a float64 sum on two fixed grids: the high part a multiple of 2^-8, the low part of 2^-42, each
extracted by adding and subtracting a large constant. Sums of such parts are exact while |sum| < 2^44 and fewer than
2^20 blocks are added, so no order matters. The cost is an absolute rounding of 2^-43 a block. A block's own sum at or
beyond 2^43 counts as infinite (a solver's wild trial step; no score has that size). No rows: the zero state, whose
value is 0 (sums), -inf (Max), +inf (Min) or no row (Lowest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segcal.errors import UsageError

if TYPE_CHECKING:
    from segcal.data.places.place import Place
    from segcal.data.rows import Rows
    from segcal.data.surroundings import Context

Array = NDArray[Any]
State = dict[str, Array]

_HIGH = 1.5 * 2.0 ** (52 - 8)
_LOW = 1.5 * 2.0 ** (52 - 42)
_LIMIT = 2.0**43


class Leaf(Protocol):
    """One array of a state: how it starts, how a raw partial sum becomes part of it, how two merge, what it is
    worth.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the raw partial sum."""

    def zero(self) -> Array:
        """The neutral element."""

    def lift(self, raw: Array) -> Array:
        """A raw partial sum of one block as a state."""

    def merge(self, a: Array, b: Array) -> Array:
        """Both together; exactly associative and commutative."""

    def value(self, state: Array) -> Array:
        """The number(s) the state stands for."""


@dataclass(frozen=True)
class Count:
    """An int64 count."""

    shape: tuple[int, ...] = ()

    def zero(self) -> Array:
        return np.zeros(self.shape, np.int64)

    def lift(self, raw: Array) -> Array:
        out = np.asarray(raw)
        if out.dtype.kind not in "iu":
            raise UsageError(
                "Count",
                found=f"a partial sum of type {out.dtype}",
                expected="integers",
                do="Use ExactSum for real numbers.",
            )
        return out.astype(np.int64).reshape(self.shape)

    def merge(self, a: Array, b: Array) -> Array:
        return np.asarray(a + b)

    def value(self, state: Array) -> Array:
        return state


@dataclass(frozen=True)
class ExactSum:
    """A float64 sum whose bits do not depend on the order of its terms; the state has shape (2, *shape): high and low
    part.
    """

    shape: tuple[int, ...] = ()

    def zero(self) -> Array:
        return np.zeros((2, *self.shape))

    def lift(self, raw: Array) -> Array:
        x = np.asarray(raw, np.float64).reshape(self.shape)
        beyond = ~(np.abs(x) < _LIMIT)
        if beyond.any():
            inside = np.where(beyond, 0.0, x)
            return np.stack(
                [
                    np.where(beyond, np.where(np.isnan(x), np.nan, np.copysign(np.inf, x)), self._high(inside)),
                    self._low(inside),
                ]
            )
        return np.stack([self._high(x), self._low(x)])

    def merge(self, a: Array, b: Array) -> Array:
        with np.errstate(invalid="ignore"):  # infinities of both signs make a NaN, which says what it should
            return np.asarray(a + b)

    def value(self, state: Array) -> Array:
        return np.asarray(state[0] + state[1])

    @staticmethod
    def _high(x: Array) -> Array:
        return np.asarray((x + _HIGH) - _HIGH)

    @staticmethod
    def _low(x: Array) -> Array:
        return np.asarray(((x - ExactSum._high(x)) + _LOW) - _LOW)


@dataclass(frozen=True)
class Max:
    """A float64 maximum."""

    shape: tuple[int, ...] = ()

    def zero(self) -> Array:
        return np.full(self.shape, -np.inf)

    def lift(self, raw: Array) -> Array:
        return np.asarray(raw, np.float64).reshape(self.shape)

    def merge(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def value(self, state: Array) -> Array:
        return state


@dataclass(frozen=True)
class Min:
    """A float64 minimum."""

    shape: tuple[int, ...] = ()

    def zero(self) -> Array:
        return np.full(self.shape, np.inf)

    def lift(self, raw: Array) -> Array:
        return np.asarray(raw, np.float64).reshape(self.shape)

    def merge(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def value(self, state: Array) -> Array:
        return state


@dataclass(frozen=True)
class Lowest:
    """At most `most` rows of a table of so many `columns`, those with the lowest numbers in the first: where these are
    random, an even choice. Rows stand in order, so that it does not matter in which order they came; behind them,
    infinities.
    """

    most: int
    columns: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.most, self.columns)

    def zero(self) -> Array:
        return np.full(self.shape, np.inf)

    def lift(self, raw: Array) -> Array:
        return self.merge(self.zero(), np.asarray(raw, np.float64).reshape(-1, self.columns))

    def merge(self, a: Array, b: Array) -> Array:
        x = np.concatenate([a, b])
        return np.asarray(x[np.lexsort(x.T[::-1])[: self.most]])

    def value(self, state: Array) -> Array:
        return state[np.isfinite(state[:, 0])]


class Mergeable(Protocol):
    """What a state belongs to: its leaves, and what their values say."""

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """The arrays of the state."""

    def result(self, values: Mapping[str, Array]) -> Any:
        """What the sums say."""


class Accumulator(Mergeable, Protocol):
    """What is summed over voxels.

    - frozen and hashable: equality decides whether two states may merge;
    - `leaves` names the arrays of its state;
    - `fold` is pure, runs on one thread, and returns one raw partial sum a leaf (not a state: use `accumulate.fold`);
    - `result` turns the values of a state into what a caller wants; it is defined for the zero state too;
    - it is *not* told which voxels are ignored or padding: rows hold scored voxels only.
    """

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        """Raw partial sums of one block of scored voxels of one softmax problem."""


@runtime_checkable
class PlacedAccumulator(Accumulator, Protocol):
    """An accumulator that has to know where voxels lie: its rows must bring the places it `needs`."""

    @property
    def needs(self) -> frozenset[Place]:
        """Places of the rows it folds."""


@runtime_checkable
class ContextAccumulator(Accumulator, Protocol):
    """An accumulator that has to know what lies around voxels: its rows must bring these contexts."""

    @property
    def contexts(self) -> frozenset[Context]:
        """Contexts of the rows it folds."""


def contexts(accumulator: Mergeable) -> frozenset[Context]:
    """The contexts an accumulator needs; none for most."""
    return accumulator.contexts if isinstance(accumulator, ContextAccumulator) else frozenset()


def needs(accumulator: Mergeable) -> frozenset[Place]:
    """The places an accumulator needs; none for most."""
    return accumulator.needs if isinstance(accumulator, PlacedAccumulator) else frozenset()


def zero(accumulator: Mergeable) -> State:
    """The neutral state."""
    return {name: leaf.zero() for name, leaf in accumulator.leaves.items()}


def fold(accumulator: Accumulator, rows: Rows) -> State:
    """The state of one block."""
    return lift(accumulator, accumulator.fold(rows))


def lift(accumulator: Mergeable, raw: Mapping[str, Any]) -> State:
    """Raw partial sums of one block as a state."""
    return {name: leaf.lift(np.asarray(raw[name])) for name, leaf in accumulator.leaves.items()}


def merge(accumulator: Mergeable, a: State, b: State, other: Mergeable | None = None) -> State:
    """Both states together. With `other`, the accumulator that made `b`: unequal ones raise UsageError."""
    if other is not None and other != accumulator:
        raise UsageError(
            "merge",
            found=f"{other} beside {accumulator}",
            expected="states of one and the same accumulator",
            do="Merge states only of equal configuration.",
        )
    return {name: leaf.merge(a[name], b[name]) for name, leaf in accumulator.leaves.items()}


def result(accumulator: Mergeable, state: State) -> Any:
    """The accumulator's result for a state."""
    return accumulator.result({name: leaf.value(state[name]) for name, leaf in accumulator.leaves.items()})
