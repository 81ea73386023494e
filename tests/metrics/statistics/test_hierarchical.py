from __future__ import annotations

import math

import numpy as np
import pytest

from segcal.errors import UsageError
from segcal.metrics.statistics.hierarchical import hierarchical_bootstrap


def test_repeats_alone_give_the_oracle() -> None:
    got = hierarchical_bootstrap([[0.3], [0.5], [0.9]])
    assert (got.low, got.high) == (0.3, 0.9) and got.mean == pytest.approx(1.7 / 3) and got.groups == 3


def test_the_two_levels_add_their_variances() -> None:
    """Var = Var(repeat means) / R + mean of Var(cases) / n / R, with the bootstrap's own divisors."""
    rng = np.random.default_rng(6)
    repeats = [rng.normal(m, 1, 25) for m in (0.0, 1.0, 3.0, 2.0)]
    got = hierarchical_bootstrap(repeats, replicates=20_000)
    means = np.array([r.mean() for r in repeats])
    expected = means.var() / 4 + np.mean([r.var() / 25 for r in repeats]) / 4
    assert got.standard_error**2 == pytest.approx(expected, rel=0.05)
    assert got.mean == pytest.approx(means.mean())


def test_a_repeat_drawn_twice_has_its_cases_drawn_twice() -> None:
    """With one repeat of two cases in two identical copies a replicate mixes four independent draws: five values, not
    three.
    """
    from_two = hierarchical_bootstrap([[0.0, 1.0], [0.0, 1.0]], replicates=4000)
    assert from_two.standard_error**2 == pytest.approx(0.25 / 4, rel=0.1)


def test_repeats_of_unequal_length_and_missing_values() -> None:
    got = hierarchical_bootstrap([[1.0, math.nan, 3.0], [math.nan], [4.0]], seed=3)
    assert got.mean == 3 and got.values == 3 and got.dropped == 2 and got.groups == 2
    assert 1 <= got.low <= got.high <= 4
    assert hierarchical_bootstrap([[1.0, math.nan, 3.0], [math.nan], [4.0]], seed=3) == got
    nothing = hierarchical_bootstrap([[math.nan], []])
    assert math.isnan(nothing.mean) and nothing.dropped == 1
    assert "one repeat" in hierarchical_bootstrap([[1.0, 2.0]]).reason


def test_a_level_that_is_none_gets_a_message() -> None:
    with pytest.raises(UsageError, match="a number between 0 and 1"):
        hierarchical_bootstrap([[1.0]], level=0)
