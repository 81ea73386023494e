"""Mean and spread of arrays one after another are those of the stack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.data.running import Running
from segcal.errors import ShapeError

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False)


@given(arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4)), elements=NUMBERS))
def test_streamed_is_stacked(stack: np.ndarray) -> None:
    running = Running()
    for one in stack:
        running.add(one)
    assert running.count == len(stack)
    np.testing.assert_allclose(running.mean, stack.mean(0), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(running.spread, stack.std(0), rtol=1e-7, atol=1e-5)


def test_probabilities_to_twelve_digits() -> None:
    stack = np.random.default_rng(0).dirichlet(np.ones(4), (180, 50)).swapaxes(1, 2)
    running = Running()
    for one in stack:
        running.add(one)
    np.testing.assert_allclose(running.mean, stack.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(running.spread, stack.std(0), rtol=0, atol=1e-12)


def test_equal_arrays_have_no_spread_at_all() -> None:
    running, x = Running(), np.random.default_rng(1).random((3, 7))
    for _ in range(11):
        running.add(x)
    assert (running.spread == 0).all()
    assert (running.mean == x).all()


def test_nothing_and_another_shape() -> None:
    running = Running()
    assert np.isnan(running.mean)
    assert np.isnan(running.spread)
    running.add(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="those before it"):
        running.add(np.zeros((3, 2)))
