"""The largest class and the order of all: what argmax and a stable sort say."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.ranking import ROWS, SOME, descending, winner


@st.composite
def columns(draw: st.DrawFn) -> torch.Tensor:
    """Values with many ties, of either precision, signed zeros and infinities among them."""
    classes, voxels, seed = draw(st.integers(1, ROWS + 4)), draw(st.integers(0, 40)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    pool = np.array([-np.inf, -1e300, -2.0, -1e-320, -0.0, 0.0, 1e-320, 1.0, 1.0 + 2**-52, np.inf])
    values = torch.from_numpy(rng.choice(pool, size=(classes, voxels)))
    return values.float() if draw(st.booleans()) else values


@given(columns())
def test_they_say_what_argmax_and_a_stable_sort_say(values: torch.Tensor) -> None:
    expected = np.argsort(-values.numpy(), axis=0, kind="stable")
    found = descending(values)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)
    if values.shape[1]:
        np.testing.assert_array_equal(winner(values).numpy(), np.argmax(values.numpy(), 0))


def test_columns_of_a_large_block_are_found_one_by_one() -> None:
    for classes in (3, SOME, SOME + 1, ROWS, ROWS + 1):
        values = torch.randn(classes, 70_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round(
            decimals=1
        )
        np.testing.assert_array_equal(descending(values).numpy(), np.argsort(-values.numpy(), axis=0, kind="stable"))
        np.testing.assert_array_equal(winner(values).numpy(), values.numpy().argmax(0))
