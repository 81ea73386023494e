"""Pooling by hand, optimality of both fits against points around them, and honest certificates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.fitting.solvers.isotonic import binned_nll, gap_free, gap_non_decreasing, pooled

LOW, HIGH = 0.01, 0.99


def problem(seed: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 2000, bins).astype(float)
    return (
        rng.binomial(weight.astype(int), np.clip(np.linspace(-0.2, 1.2, bins) + rng.normal(0, 0.2, bins), 0, 1))
        / weight,
        weight,
    )


def test_small_ones_by_hand() -> None:
    assert pooled(np.array([]), np.array([])).tolist() == []
    assert pooled(np.array([0.2, 0.4]), np.ones(2)).tolist() == [0.2, 0.4]
    assert pooled(np.array([1.0, 0.0]), np.array([1.0, 3.0])).tolist() == [0.25, 0.25]
    assert pooled(np.array([0.6, 0.9, 0.0]), np.array([1.0, 0.0, 1.0])).tolist() == pytest.approx([0.3, 0.3, 0.3])
    assert pooled(np.array([0.6, 0.1]), np.zeros(2)).tolist() == pytest.approx([0.35, 0.35])


@given(seed=st.integers(0, 10**6))
def test_no_other_non_decreasing_function_is_better(seed: int) -> None:
    share, weight = problem(seed, 30)
    best = pooled(share, weight).clip(LOW, HIGH)
    value = binned_nll(best, share, weight)
    assert gap_non_decreasing(best, share, weight, LOW, HIGH) <= 1e-12
    rng = np.random.default_rng(seed)
    for other in np.sort(rng.uniform(LOW, HIGH, (20, 30))):
        near = np.sort((best + 0.02 * rng.normal(size=30)).clip(LOW, HIGH))
        for candidate in (other, near):
            excess = binned_nll(candidate, share, weight) - value
            assert excess >= -1e-12
            assert gap_non_decreasing(candidate, share, weight, LOW, HIGH) >= excess - 1e-12


@given(seed=st.integers(0, 10**6))
def test_the_free_optimum_is_the_share_and_its_certificate_holds_elsewhere(seed: int) -> None:
    share, weight = problem(seed, 12)
    best = share.clip(LOW, HIGH)
    value = binned_nll(best, share, weight)
    assert gap_free(best, share, weight, LOW, HIGH) <= 1e-12
    for candidate in np.random.default_rng(seed).uniform(LOW, HIGH, (20, 12)):
        excess = binned_nll(candidate, share, weight) - value
        assert excess >= -1e-12
        assert gap_free(candidate, share, weight, LOW, HIGH) >= excess - 1e-12


def test_nothing_to_sum_is_zero() -> None:
    none = np.zeros(4)
    assert binned_nll(none + 0.5, none, none) == 0
    assert gap_non_decreasing(none + 0.5, none, none, LOW, HIGH) == gap_free(none + 0.5, none, none, LOW, HIGH) == 0
