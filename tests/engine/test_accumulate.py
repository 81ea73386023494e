"""Leaves and their laws: sums whose bits do not depend on an order, counts that do not saturate, states that merge only
with their like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.rows import Rows
from segcal.engine import accumulate
from segcal.engine.accumulate import Array, Count, ExactSum, Leaf, Max, Min
from segcal.errors import UsageError

sums = st.floats(-(2.0**43) * 0.999, 2.0**43 * 0.999, allow_subnormal=True)


@dataclass(frozen=True)
class Sums:
    """Two sums over voxels."""

    power: int = 1

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        return {"voxels": Count(), "sum": ExactSum(), "classes": ExactSum((2,)), "top": Max(), "low": Min()}

    def fold(self, rows: Rows) -> Mapping[str, Any]:
        x = rows.log_probs**self.power
        return {
            "voxels": rows.voxels,
            "sum": x.sum().item(),
            "classes": x.sum(1),
            "top": x.max().item(),
            "low": x.min().item(),
        }

    def result(self, values: Mapping[str, Array]) -> dict[str, Any]:
        return {name: value.tolist() for name, value in values.items()}


def rows(*values: float) -> Rows:
    x = torch.tensor([values, values], dtype=torch.float64)
    y = torch.zeros(len(values), dtype=torch.int64)
    return Rows(0, 0, x, y, y, y)


def bits(state: Any) -> bytes:
    return np.ascontiguousarray(state).tobytes()


@given(sums)
def test_one_term_is_kept_to_two_to_the_minus_43(x):
    leaf = ExactSum()
    assert abs(Fraction(float(leaf.value(leaf.lift(x)))) - Fraction(x)) <= max(
        Fraction(1, 2**43), Fraction(math.ulp(x)) / 2
    )
    high, low = leaf.lift(x)
    assert (high * 2**8) % 1 == 0
    assert (low * 2.0**42) % 1 == 0
    assert abs(low) <= 2.0**-9


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_any_order_and_any_grouping_give_the_same_bits(terms, random):
    leaf = ExactSum()
    states = [leaf.lift(x) for x in terms]
    in_order = leaf.zero()
    for state in states:
        in_order = leaf.merge(in_order, state)
    random.shuffle(states)
    while len(states) > 1:
        k = random.randrange(len(states) - 1)
        states[k : k + 2] = [leaf.merge(states[k], states[k + 1])]
    assert bits(states[0]) == bits(in_order)
    exact = sum((Fraction(x) for x in terms), Fraction(0))
    assert abs(Fraction(float(in_order[0])) + Fraction(float(in_order[1])) - exact) <= len(terms) * Fraction(1, 2**43)


def test_a_sum_of_many_small_terms_beside_large_ones_loses_nothing():
    leaf = ExactSum()
    state = leaf.lift(2.0**42)
    small = leaf.lift(2.0**-30)
    for _ in range(1000):
        state = leaf.merge(state, small)
    state = leaf.merge(state, leaf.lift(-(2.0**42)))
    assert float(leaf.value(state)) == 1000 * 2.0**-30


@pytest.mark.parametrize(
    ("x", "value"), [(2.0**43, math.inf), (-(2.0**60), -math.inf), (math.inf, math.inf), (-math.inf, -math.inf)]
)
def test_what_no_score_reaches_counts_as_infinite(x, value):
    leaf = ExactSum((3,))
    state = leaf.lift(np.array([1.5, x, -2.0]))
    assert leaf.value(state).tolist() == [1.5, value, -2.0]
    assert leaf.value(leaf.merge(state, leaf.lift(np.ones(3)))).tolist() == [2.5, value, -1.0]


def test_nan_and_opposite_infinities_are_nan_without_a_warning():
    leaf = ExactSum()
    assert math.isnan(leaf.value(leaf.lift(math.nan)))
    assert math.isnan(leaf.value(leaf.merge(leaf.lift(math.inf), leaf.lift(-math.inf))))


def test_counts_go_beyond_what_floats_can_count():
    leaf = Count()
    state = leaf.lift(2**24)
    for _ in range(3):
        state = leaf.merge(state, state)
    assert int(leaf.merge(state, leaf.lift(1))) == 2**27 + 1
    assert leaf.lift(2**40).dtype == np.int64


@pytest.mark.parametrize("raw", [1.0, np.ones(1), torch.ones(1)])
def test_a_count_of_real_numbers_is_refused(raw):
    with pytest.raises(UsageError, match="Use ExactSum for real numbers"):
        Count().lift(np.asarray(raw))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=8))
def test_extremes(values):
    for leaf, fold in ((Max(), max), (Min(), min)):
        state = leaf.zero()
        for v in values:
            state = leaf.merge(state, leaf.lift(v))
        assert float(leaf.value(state)) == fold(values)


@pytest.mark.parametrize("leaf", [Count((2,)), ExactSum((2,)), Max((2,)), Min((2,))])
def test_zero_is_neutral_and_of_the_right_shape(leaf):
    state = leaf.lift(np.array([3, -5]))
    assert bits(leaf.merge(state, leaf.zero())) == bits(leaf.merge(leaf.zero(), state)) == bits(state)
    assert leaf.value(leaf.zero()).shape == (2,)


def test_partial_sums_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        ExactSum((3,)).lift(np.zeros(2))


def test_folding_and_merging_is_folding_together():
    a, b = rows(1.0, -2.5), rows(4.0)
    accumulator = Sums()
    merged = accumulate.merge(accumulator, accumulate.fold(accumulator, a), accumulate.fold(accumulator, b))
    whole = accumulate.fold(accumulator, rows(1.0, -2.5, 4.0))
    assert accumulate.result(accumulator, merged) == accumulate.result(accumulator, whole)
    assert accumulate.result(accumulator, whole) == {
        "voxels": 3,
        "sum": 5.0,
        "classes": [2.5, 2.5],
        "top": 4.0,
        "low": -2.5,
    }


def test_the_zero_state_has_a_result():
    assert accumulate.result(Sums(), accumulate.zero(Sums())) == {
        "voxels": 0,
        "sum": 0.0,
        "classes": [0.0, 0.0],
        "top": -math.inf,
        "low": math.inf,
    }


def test_unequal_accumulators_do_not_merge():
    state = accumulate.fold(Sums(), rows(1.0))
    with pytest.raises(UsageError, match="states of one and the same accumulator"):
        accumulate.merge(Sums(), state, state, Sums(power=2))
    assert accumulate.merge(Sums(), state, state, Sums())["voxels"] == 2


def test_a_state_is_plain_arrays_and_merging_changes_neither():
    accumulator = Sums()
    a, b = accumulate.fold(accumulator, rows(1.0)), accumulate.fold(accumulator, rows(2.0))
    before = [bits(x) for x in (*a.values(), *b.values())]
    accumulate.merge(accumulator, a, b)
    assert [bits(x) for x in (*a.values(), *b.values())] == before
    assert all(type(x) is np.ndarray for x in a.values())
