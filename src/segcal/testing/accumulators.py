"""Laws of accumulators: what makes a sum over voxels independent of how the voxels were cut, ordered and shared out.

The subject is a factory: number of classes to a new accumulator. Costs: about half a second. A factory that ignores the
number of classes is fine. NaNs count as one value here: which of its bit patterns an addition leaves is the processor's
choice.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st

from segcal.data.rows import Rows
from segcal.data.surroundings import Pinnable
from segcal.engine import accumulate
from segcal.engine.accumulate import Accumulator, Array, State
from segcal.errors import UsageError
from segcal.testing.law import Law, check_all, forall, law, require
from segcal.testing.strategies import REGIMES, SEEDS, rows

Factory = Callable[[int], Accumulator]

CLASSES = 3


def state_bits(state: State) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What makes two states the same: names, types, shapes and bits."""
    return {name: (a.dtype.str, a.shape, _plain_nan(a).tobytes()) for name, a in state.items()}


def _plain_nan(a: Array) -> Array:
    return np.where(np.isnan(a), np.nan, a) if a.dtype.kind == "f" else a


def _total(accumulator: Accumulator, states: Sequence[State]) -> State:
    out = accumulate.zero(accumulator)
    for state in states:
        out = accumulate.merge(accumulator, out, state)
    return out


@law
def zero_is_neutral(make: Factory) -> None:
    """Merging the zero state, on either side, changes no bit."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator))
    def _(block: Rows) -> None:
        state, zero = accumulate.fold(accumulator, block), accumulate.zero(accumulator)
        expected = state_bits(state)
        require(state_bits(accumulate.merge(accumulator, state, zero)) == expected, "state + zero is not the state")
        require(state_bits(accumulate.merge(accumulator, zero, state)) == expected, "zero + state is not the state")


@law
def order_and_grouping_change_no_bit(make: Factory) -> None:
    """Merge is associative and commutative bit for bit: blocks merged in any order and grouping give one state."""
    accumulator = make(CLASSES)

    @forall(st.lists(_rows(accumulator), min_size=2, max_size=6), SEEDS)
    def _(blocks: list[Rows], seed: int) -> None:
        states = [accumulate.fold(accumulator, block) for block in blocks]
        expected, rng = state_bits(_total(accumulator, states)), np.random.default_rng(seed)
        left = [states[i] for i in rng.permutation(len(states))]
        while len(left) > 1:
            at = int(rng.integers(len(left) - 1))
            left[at : at + 2] = [accumulate.merge(accumulator, left[at], left[at + 1])]
        require(state_bits(left[0]) == expected, "another order of merging gave other bits")


@law
def merging_changes_neither_state(make: Factory) -> None:
    """Merge returns a new state and leaves both of its arguments as they were."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator), _rows(accumulator))
    def _(one: Rows, two: Rows) -> None:
        a, b = accumulate.fold(accumulator, one), accumulate.fold(accumulator, two)
        before = state_bits(a), state_bits(b)
        accumulate.merge(accumulator, a, b)
        require((state_bits(a), state_bits(b)) == before, "a state changed while it was merged")


@law
def equality_follows_the_configuration(make: Factory) -> None:
    """Accumulators of one configuration are equal, hash alike and survive pickling; states of unequal ones do not
    merge.
    """
    a, again, other = make(CLASSES), make(CLASSES), make(CLASSES + 1)
    require(a == again and hash(a) == hash(again), "two made alike are not equal, or hash differently")
    require(pickle.loads(pickle.dumps(a)) == a, "a pickled copy is not equal")
    if a == other:
        require(dict(a.leaves) == dict(other.leaves), "equal accumulators have different leaves")
        return
    try:
        accumulate.merge(a, accumulate.zero(a), accumulate.zero(other), other)
    except UsageError:
        return
    require(False, "states of unequal accumulators were merged")


@law
def only_rows_count(make: Factory) -> None:
    """No row leaves the zero state."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator))
    def _(block: Rows) -> None:
        empty = accumulate.fold(accumulator, _part(block, slice(0, 0)))
        require(state_bits(empty) == state_bits(accumulate.zero(accumulator)), "no row is not zero")


@law
def where_rows_come_from_does_not_matter(make: Factory) -> None:
    """Case and offset of rows change no bit. What chooses among voxels cannot keep this one."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator))
    def _(block: Rows) -> None:
        moved = replace(block, case=block.case + 1, start=block.start + 65_536)
        require(
            state_bits(accumulate.fold(accumulator, moved)) == state_bits(accumulate.fold(accumulator, block)),
            "the same rows of another case count otherwise",
        )


@law
def a_state_is_plain_arrays(make: Factory) -> None:
    """A state holds one NumPy array of numbers a leaf, of the type and shape of its zero."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator))
    def _(block: Rows) -> None:
        state, zero = accumulate.fold(accumulator, block), accumulate.zero(accumulator)
        require(
            set(state) == set(accumulator.leaves), f"arrays {sorted(state)} for leaves {sorted(accumulator.leaves)}"
        )
        for name, a in state.items():
            require(
                type(a) is np.ndarray and a.dtype.kind in "iuf", f"{name} is {type(a).__name__}, no array of numbers"
            )
            require(
                (a.dtype, a.shape) == (zero[name].dtype, zero[name].shape),
                f"{name} is {a.dtype}{a.shape}, its zero {zero[name].dtype}{zero[name].shape}",
            )


@law
def folding_is_pure(make: Factory) -> None:
    """Folding the same rows again gives the same bits, whatever was folded between, and leaves the rows as they
    were.
    """
    accumulator = make(CLASSES)

    @forall(_rows(accumulator), _rows(accumulator))
    def _(block: Rows, between: Rows) -> None:
        before = _tensors(block)
        first = state_bits(accumulate.fold(accumulator, block))
        require(all(torch.equal(a, b) for a, b in zip(before, _tensors(block), strict=True)), "the rows were changed")
        accumulate.fold(accumulator, between)
        require(state_bits(accumulate.fold(accumulator, block)) == first, "folding again gave other bits")


@law
def another_cut_agrees_to_rounding(make: Factory) -> None:
    """Rows folded in several blocks agree with the same rows in one: counts exactly, sums to 1e-9 of their size."""
    accumulator = make(CLASSES)

    @forall(_rows(accumulator, 200, ("ordinary",)), st.floats(0, 1), st.floats(0, 1))
    def _(block: Rows, first: float, second: float) -> None:
        a, b = sorted((int(first * block.voxels), int(second * block.voxels)))
        whole = accumulate.fold(accumulator, block)
        cut = _total(
            accumulator,
            [accumulate.fold(accumulator, _part(block, s)) for s in (slice(0, a), slice(a, b), slice(b, None))],
        )
        for name, leaf in accumulator.leaves.items():
            x, y = leaf.value(whole[name]), leaf.value(cut[name])
            if x.dtype.kind in "iu":
                require(np.array_equal(x, y), f"counts {name} differ")
            else:
                size = float(np.abs(x[np.isfinite(x)]).max(initial=1.0))
                require(
                    np.allclose(x, y, rtol=1e-9, atol=1e-9 * size, equal_nan=True),
                    f"sums {name} differ by {np.abs(x - y).max(initial=0.0):.3g}",
                )


@law
def nothing_has_a_result(make: Factory) -> None:
    """The result of the zero state is defined: no error, no None."""
    accumulator = make(CLASSES)
    require(accumulate.result(accumulator, accumulate.zero(accumulator)) is not None, "the result of nothing is None")


ACCUMULATOR_LAWS: tuple[Law[Factory], ...] = (
    zero_is_neutral,
    order_and_grouping_change_no_bit,
    merging_changes_neither_state,
    equality_follows_the_configuration,
    only_rows_count,
    where_rows_come_from_does_not_matter,
    a_state_is_plain_arrays,
    folding_is_pure,
    another_cut_agrees_to_rounding,
    nothing_has_a_result,
)
"""What `check_accumulator` checks."""


def check_accumulator(make: Factory) -> None:
    """Check all laws of accumulators on `make`: number of classes to a new accumulator.

    Raises BrokenLawError, or an ExceptionGroup of several.
    """
    check_all(ACCUMULATOR_LAWS, make)


def _rows(
    accumulator: Accumulator, most: int = 60, regimes: tuple[str, ...] = tuple(REGIMES)
) -> st.SearchStrategy[Rows]:
    """Rows that bring the places and contexts the accumulator needs."""
    around = [one for one in sorted(accumulate.contexts(accumulator), key=repr) if isinstance(one, Pinnable)]
    return rows(CLASSES, most, regimes, sorted(accumulate.needs(accumulator), key=repr), around)


def _tensors(block: Rows) -> list[torch.Tensor]:
    energy = [] if block.free_energy is None else [block.free_energy]
    return [
        t.clone()
        for t in (
            block.log_probs,
            block.targets,
            block.decision,
            block.reference,
            *energy,
            *(p.nan_to_num(-1) for p in block.places.values()),
            *block.contexts.values(),
        )
    ]


def _part(block: Rows, s: slice) -> Rows:
    energy = None if block.free_energy is None else block.free_energy[s]
    return Rows(
        block.case,
        block.start + (s.start or 0),
        block.log_probs[:, s],
        block.targets[s],
        block.decision[s],
        block.reference[s],
        energy,
        {k: v[s] for k, v in block.places.items()},
        {k: v[..., s] for k, v in block.contexts.items()},
    )
