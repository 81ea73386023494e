"""Laws of accumulators, for everything that `segcal.metrics` registers."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.accumulate import Accumulator, State, fold, merge, result, zero
from segcal.errors import UsageError
from segcal.metrics import REGISTERED, Factory

every = pytest.mark.parametrize("factory", REGISTERED, ids=lambda f: type(f(3, 0)).__name__)


def bits(state: State) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in state.items()}


def total(metric: Accumulator, states: list[State]) -> State:
    out = zero(metric)
    for state in states:
        out = merge(metric, out, state)
    return out


@every
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 5))
def test_states_merged_in_any_order_and_tree_are_the_same_bits(random_rows: Any, factory: Factory, data: st.DataObject, seed: int, classes: int) -> None:
    metric = factory(classes, 0)
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=7))
    states = [fold(metric, random_rows(seed + i, n, classes)) for i, n in enumerate(sizes)]
    expected = bits(total(metric, states))
    shuffled = data.draw(st.permutations(states))
    while len(shuffled) > 1:  # a random tree
        at = data.draw(st.integers(0, len(shuffled) - 2))
        shuffled = [*shuffled[:at], merge(metric, shuffled[at], shuffled[at + 1]), *shuffled[at + 2 :]]
    assert bits(merge(metric, zero(metric), shuffled[0])) == expected


@every
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 50))
def test_zero_is_neutral_and_no_voxel_is_zero(random_rows: Any, factory: Factory, seed: int, n: int) -> None:
    metric = factory(3, None)
    state = fold(metric, random_rows(seed, n, 3))
    assert bits(merge(metric, state, zero(metric))) == bits(merge(metric, zero(metric), state)) == bits(state)
    assert bits(fold(metric, random_rows(seed, 0, 3))) == bits(zero(metric))
    assert result(metric, zero(metric)) is not None


@every
def test_folding_is_pure(random_rows: Any, factory: Factory) -> None:
    metric, rows = factory(4, 0), random_rows(5, 200, 4)
    kept = [t.clone() for t in (rows.log_probs, rows.targets, rows.decision, rows.reference, rows.free_energy)]
    first = bits(fold(metric, rows))
    fold(metric, random_rows(6, 10, 4))
    assert bits(fold(metric, rows)) == first
    for before, after in zip(kept, (rows.log_probs, rows.targets, rows.decision, rows.reference, rows.free_energy), strict=True):
        assert torch.equal(before, after)


@every
def test_equality_and_hash_follow_the_configuration_through_a_process(factory: Factory) -> None:
    metric = factory(4, 0)
    again = pickle.loads(pickle.dumps(metric))
    assert again == metric == factory(4, 0) and hash(again) == hash(metric)


def test_states_of_other_configurations_do_not_merge() -> None:
    for factory in REGISTERED:
        metric = factory(3, 0)
        for other in REGISTERED:
            strange = other(4, 1)
            if strange != metric:
                with pytest.raises(UsageError, match="one and the same accumulator"):
                    merge(metric, zero(metric), zero(strange), strange)


@every
def test_another_cut_gives_the_same_counts_and_nearly_the_same_sums(random_rows: Any, factory: Factory) -> None:
    metric, rows = factory(4, 0), random_rows(9, 1000, 4)

    def part(start: int, stop: int) -> State:
        s = slice(start, stop)
        return fold(metric, type(rows)(0, start, rows.log_probs[:, s], rows.targets[s], rows.decision[s], rows.reference[s], rows.free_energy[s]))

    whole, cut = fold(metric, rows), total(metric, [part(0, 137), part(137, 600), part(600, 1000)])
    for name, leaf in metric.leaves.items():
        a, b = leaf.value(whole[name]), leaf.value(cut[name])
        if a.dtype == np.int64:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-10)


@every
def test_float32_rows_give_nearly_the_same_state(random_rows: Any, factory: Factory) -> None:
    metric = factory(4, 0)
    full, kept = (fold(metric, random_rows(2, 500, 4, dtype)) for dtype in (torch.float64, torch.float32))
    for name, leaf in metric.leaves.items():
        np.testing.assert_allclose(leaf.value(full[name]), leaf.value(kept[name]), rtol=1e-5, atol=1e-4)
