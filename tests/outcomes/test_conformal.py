"""Thresholds are those of the theorems, and too few groups are refused with the number that is needed."""

from __future__ import annotations

import numpy as np
import pytest

from segcal.errors import UsageError
from segcal.outcomes.conformal import TooFewError, bound, controlled, least, rank


@pytest.mark.parametrize(("alpha", "n"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3)])
def test_the_least_number(alpha: float, n: int) -> None:
    assert least(alpha) == n
    assert rank(n, alpha) == n
    with pytest.raises(TooFewError, match=f"at least {n} "):
        rank(n - 1, alpha)


def test_ten_patients_cannot_tell_five_per_cent() -> None:
    with pytest.raises(TooFewError, match="at least 19"):
        bound(np.arange(10), 0.05)
    with pytest.raises(TooFewError, match="at least 19"):
        controlled(np.zeros(5), 10, 0.05)


@pytest.mark.parametrize("n", [9, 20, 57])
def test_a_bound_covers_as_often_as_it_says(n: int) -> None:
    """Of n + 1 numbers in any order each is as probably the last: count exactly."""
    values = np.random.default_rng(n).normal(size=n + 1)
    covered = [values[k] <= bound(np.delete(values, k), 0.1) for k in range(n + 1)]
    assert sum(covered) == np.ceil(round((n + 1) * 0.9, 9))


def test_the_last_setting_whose_risk_is_low_enough() -> None:
    losses = np.array([0.0, 0.01, 0.05, 0.2])
    # (n mean + 1) / (n + 1) for n = 39: .025, .03475, .07375, .22
    assert controlled(losses, 39, 0.03) == 0
    assert controlled(losses, 39, 0.05) == 1
    assert controlled(losses, 39, 0.08) == 2
    assert controlled(np.array([0.5]), 39, 0.05) == -1


def test_the_bound_itself_counts_as_low_enough() -> None:
    assert controlled(np.zeros(3), 19, 0.05) == 2


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_what_is_no_share(alpha: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        bound([1.0, 2.0], alpha)
