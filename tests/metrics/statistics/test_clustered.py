from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segcal.errors import UsageError
from segcal.metrics.statistics.clustered import (
    cluster_bootstrap,
    clustered_mean,
    lowest_probabilities,
    paired_difference,
)
from segcal.metrics.statistics.estimate import REPLICATES


def test_groups_of_one_give_the_textbook_t_interval() -> None:
    x = np.random.default_rng(0).normal(3, 2, 12)
    got = clustered_mean(x, range(12))
    low, high = stats.t.interval(0.95, 11, x.mean(), stats.sem(x))
    assert (got.mean, got.low, got.high) == pytest.approx((x.mean(), low, high), rel=1e-12)
    assert got.standard_error == pytest.approx(stats.sem(x)) and got.values == got.groups == 12


def test_equal_groups_give_the_t_interval_of_their_means() -> None:
    x = np.random.default_rng(1).normal(size=(7, 5))
    got = clustered_mean(x.ravel(), np.repeat(np.arange(7), 5).tolist())
    means = x.mean(1)
    low, high = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0.1, 10))
def test_shift_scale_order_and_names_of_groups(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, groups = rng.normal(size=20), rng.integers(0, 6, 20).tolist()
    base = clustered_mean(x, groups)
    moved = clustered_mean(scale * x + shift, groups)
    assert (moved.mean, moved.standard_error) == pytest.approx(
        (scale * base.mean + shift, scale * base.standard_error), rel=1e-9, abs=1e-9
    )
    order = rng.permutation(20)
    mixed = clustered_mean(x[order], [f"g{groups[i]}" for i in order])
    assert (mixed.mean, mixed.low, mixed.high) == pytest.approx((base.mean, base.low, base.high), rel=1e-12, abs=1e-12)


def simulated(rng: np.random.Generator, groups: int, size: int) -> tuple[Any, list[int]]:
    """Cases with a shared part for each group: intra-group correlation 1/2, true mean 0."""
    x = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, size))
    return x.ravel(), np.repeat(np.arange(groups), size).tolist()


def test_the_t_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered, naive = 0, 0
    for _ in range(2000):
        x, groups = simulated(rng, 8, 5)
        got = clustered_mean(x, groups)
        covered += got.low <= 0 <= got.high
        alone = clustered_mean(x, range(len(x)))
        naive += alone.low <= 0 <= alone.high
    assert 0.93 <= covered / 2000 <= 0.97
    assert naive / 2000 < 0.85  # cases treated as independent claim too much


def test_the_standard_error_is_that_of_the_closed_form() -> None:
    """Var(mean) = (1 + 1 / size) / groups for unit variances between and within."""
    rng = np.random.default_rng(3)
    variances = [clustered_mean(*simulated(rng, 12, 4)).standard_error ** 2 for _ in range(1500)]
    assert np.mean(variances) == pytest.approx((1 + 1 / 4) / 12, rel=0.05)


def test_paired_differences_remove_what_both_share() -> None:
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 5, 30)
    groups = [f"subject {i // 3}" for i in range(30)]
    got = paired_difference(difficulty, difficulty - 0.1 + rng.normal(0, 0.02, 30), groups)
    assert got.mean == pytest.approx(-0.1, abs=0.02) and got.excludes_zero and got.standard_error < 0.02
    assert not clustered_mean(difficulty, groups).excludes_zero
    same = paired_difference(difficulty, difficulty, groups)
    assert same.mean == same.low == same.high == 0 and not same.excludes_zero


def test_what_is_not_a_number_is_dropped_and_counted() -> None:
    got = clustered_mean([1, math.nan, 3, 5], ["a", "a", "b", "c"])
    assert (got.mean, got.values, got.dropped, got.groups) == (3, 3, 1, 3)
    pair = paired_difference([1, math.nan, 3, 5], [2, 2, math.nan, 7], "abcd")
    assert (pair.mean, pair.values, pair.dropped) == (1.5, 2, 2)


@pytest.mark.parametrize("interval", [clustered_mean, cluster_bootstrap])
def test_one_group_has_a_mean_and_no_interval(interval: Any) -> None:
    got = interval([1.0, 2.0, 6.0], ["a", "a", "a"])
    assert (
        got.mean == 3
        and math.isnan(got.low)
        and math.isnan(got.high)
        and "one group" in got.reason
        and not got.excludes_zero
    )
    json.dumps(got.to_json(), allow_nan=False)
    assert got.to_json()["low"] is None and got.to_json()["mean"] == 3


@pytest.mark.parametrize("interval", [clustered_mean, cluster_bootstrap])
def test_no_value_has_no_mean(interval: Any) -> None:
    for values in ([], [math.nan, math.nan]):
        got = interval(values, ["a"] * len(values))
        assert math.isnan(got.mean) and got.values == 0 and got.groups == 0 and got.reason


def test_the_cluster_bootstrap_agrees_with_the_robust_error_and_repeats() -> None:
    x, groups = simulated(np.random.default_rng(5), 60, 3)
    got, robust = cluster_bootstrap(x, groups, seed=1), clustered_mean(x, groups)
    assert got.mean == robust.mean and got.standard_error == pytest.approx(robust.standard_error, rel=0.08)
    assert (got.low, got.high) == pytest.approx((robust.low, robust.high), abs=0.08)
    assert cluster_bootstrap(x, groups, seed=1) == got != cluster_bootstrap(x, groups, seed=2)


def test_the_cluster_bootstrap_draws_whole_groups() -> None:
    """Two groups of very different size: a replicate is one of three values."""
    got = cluster_bootstrap([0.0] * 9 + [1.0], ["big"] * 9 + ["small"])
    assert (got.mean, got.low, got.high) == (0.1, 0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clustered_mean([1, 2], ["a"]), "1 groups for 2 values"),
        (lambda: paired_difference([1, 2], [1], ["a", "b"]), "the same cases"),
        (lambda: clustered_mean([1, 2], "ab", level=95), "a number between 0 and 1"),
        (lambda: cluster_bootstrap([1, 2], "ab", replicates=1), "at least 2"),
    ],
)
def test_bad_arguments_get_a_message(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_of_two_groups_that_disagree_the_probabilities_are_those_of_a_uniform_weight() -> None:
    """The mean difference is w a - (1 - w) b with w uniform: the first is lower with probability b / (a + b)."""
    found = lowest_probabilities([[3.0, 0.0], [0.0, 1.0]], ["a", "b"])
    assert found.sum() == pytest.approx(1)
    assert found[0] == pytest.approx(1 / 4, abs=4 * np.sqrt(0.25 * 0.75 / REPLICATES))


def test_of_groups_that_agree_one_is_certain_and_ties_go_to_the_first() -> None:
    x = np.random.default_rng(0).normal(size=7)
    np.testing.assert_array_equal(lowest_probabilities([x, x - 1, x - 1, x + 1], list("abcdefg")), [0, 1, 0, 0])
    np.testing.assert_array_equal(lowest_probabilities([[1.0]], ["a"]), [1])


def test_groups_are_drawn_whole() -> None:
    """Ten cases of one group are no more certain than one case of it with ten times the weight in the mean:

    10 w a - (1 - w) b.
    """
    found = lowest_probabilities([[0.0] * 10 + [9.0], [1.0] * 10 + [0.0]], ["a"] * 10 + ["b"])
    assert found[0] == pytest.approx(1 - 9 / 19, abs=4 * 0.5 / np.sqrt(REPLICATES))


@pytest.mark.parametrize("values", [[], [[]], [1.0, 2.0], [[1.0, np.nan]]])
def test_nothing_to_compare_is_refused(values) -> None:
    with pytest.raises(UsageError, match="values"):
        lowest_probabilities(values, ["a", "b"])
