from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from segcal.errors import UsageError
from segcal.metrics.statistics.clustered import cluster_bootstrap
from segcal.metrics.statistics.estimate import repeat_range
from segcal.metrics.statistics.hierarchical import hierarchical_bootstrap
from segcal.metrics.statistics.resamples import ByGroup, Resamples, Scheme, TwoLevel

SCHEMES: tuple[Scheme, ...] = (TwoLevel(), ByGroup(), ByGroup(repeats=True))
every = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name.replace(" ", "-"))


def study(
    rng: np.random.Generator, repeats: int = 3, cases: int = 12, pool: int = 20
) -> tuple[list[int], list[str], Any]:
    """Rows of a study whose repeats share cases, and three columns of values."""
    chosen = [sorted(rng.permutation(pool)[:cases]) for _ in range(repeats)]
    repeat = np.repeat(np.arange(repeats), cases).tolist()
    ids = [f"case{c:03}" for r in chosen for c in r]
    return repeat, ids, rng.normal(size=(len(ids), 3)) + rng.normal(size=pool)[np.concatenate(chosen)][:, None]


def test_two_levels_are_those_of_the_reference() -> None:
    repeat, ids, x = study(np.random.default_rng(0))
    x[[3, 14, 15], 1] = np.nan
    x[:12, 2] = np.nan
    got = Resamples(TwoLevel(), repeat, ids, seed=7).intervals(x)
    for k in range(3):
        expected = hierarchical_bootstrap(x[:, k].reshape(3, 12), seed=7)
        numbers = [(e.mean, e.low, e.high, e.standard_error) for e in (got[k], expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-12, abs=1e-14)
        assert (got[k].values, got[k].dropped, got[k].groups) == (expected.values, expected.dropped, expected.groups)


def test_repeats_alone_give_the_oracle() -> None:
    got = Resamples(TwoLevel(), [0, 1, 2], ["a", "b", "c"]).interval([0.3, 0.5, 0.9])
    assert (got.low, got.high) == (0.3, 0.9) and got.mean == pytest.approx(1.7 / 3)


def test_groups_of_one_repeat_are_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x, groups = rng.normal(size=60), np.repeat(np.arange(20), 3).tolist()
    got = Resamples(ByGroup(), [0] * 60, list(range(60)), groups, replicates=20_000).interval(x)
    expected = cluster_bootstrap(x, groups, replicates=20_000)
    assert got.mean == pytest.approx(expected.mean) and got.groups == 20
    assert (got.low, got.high, got.standard_error) == pytest.approx(
        (expected.low, expected.high, expected.standard_error), abs=0.01
    )


def test_additive_repeats_and_cases_have_the_closed_form() -> None:
    """x = a_r + c_i on a full grid: a replicate is mean(a drawn) + mean(c drawn), whose variances are those of the
    numbers given, over R and over n.
    """
    rng = np.random.default_rng(2)
    a, c = rng.normal(size=6), rng.normal(size=25)
    rows = [(r, i) for r in range(6) for i in range(25)]
    repeat, ids = [r for r, _ in rows], [i for _, i in rows]
    x = [a[r] + c[i] for r, i in rows]
    both = Resamples(ByGroup(repeats=True), repeat, ids, replicates=20_000).interval(x)
    alone = Resamples(ByGroup(), repeat, ids, replicates=20_000).interval(x)
    levels = Resamples(TwoLevel(), repeat, ids, replicates=20_000).interval(x)
    assert both.standard_error**2 == pytest.approx(a.var() / 6 + c.var() / 25, rel=0.04)
    assert alone.standard_error**2 == pytest.approx(c.var() / 25, rel=0.04)
    assert levels.standard_error**2 == pytest.approx(
        a.var() / 6 + c.var() / 25 / 6, rel=0.04
    )  # takes shared cases for new ones


@every
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_shift_scale_and_sign(scheme: Scheme, seed: int, shift: float, scale: float) -> None:
    repeat, ids, x = study(np.random.default_rng(seed))
    resamples = Resamples(scheme, repeat, ids, replicates=200)
    base, moved = resamples.interval(x[:, 0]), resamples.interval(scale * x[:, 0] + shift)
    assert (moved.mean, moved.low, moved.high) == pytest.approx(
        tuple(scale * v + shift for v in (base.mean, base.low, base.high)), rel=1e-9, abs=1e-9
    )
    turned = resamples.interval(-x[:, 0])
    assert (turned.low, turned.high) == pytest.approx((-base.high, -base.low), rel=1e-9, abs=1e-9)


@every
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_no_bit(scheme: Scheme, seed: int) -> None:
    rng = np.random.default_rng(seed)
    repeat, ids, x = study(rng)
    x[rng.integers(len(x)), 1] = np.nan
    order = rng.permutation(len(ids))
    mixed = Resamples(scheme, [repeat[i] for i in order], [ids[i] for i in order], replicates=100)
    assert np.array_equal(
        mixed.replicated(x[order]), Resamples(scheme, repeat, ids, replicates=100).replicated(x), equal_nan=True
    )


@every
def test_the_names_of_repeats_and_cases_change_nothing(scheme: Scheme) -> None:
    repeat, ids, x = study(np.random.default_rng(3))
    renamed = Resamples(scheme, [f"repeat {r}" for r in repeat], [f"image of {i}" for i in ids])
    assert renamed.intervals(x) == Resamples(scheme, repeat, ids).intervals(x)


@every
def test_columns_and_threads_change_no_bit(scheme: Scheme) -> None:
    rng = np.random.default_rng(4)
    repeat, ids, _ = study(rng)
    x = rng.normal(size=(len(ids), 700))

    def made(threads: int) -> Any:
        with threadpool_limits(threads):
            return Resamples(scheme, repeat, ids, replicates=300).replicated(x)

    one, four = made(1), made(4)
    assert np.array_equal(one, four)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(one, other) for other in pool.map(made, [1, 1, 4, 4]))
    resamples = Resamples(scheme, repeat, ids, replicates=300)
    assert all(np.array_equal(resamples.replicated(x[:, [k]])[:, 0], one[:, k]) for k in (0, 511, 512, 699))


@every
def test_seeds_repeat(scheme: Scheme) -> None:
    repeat, ids, x = study(np.random.default_rng(5))
    first = Resamples(scheme, repeat, ids, seed=1).intervals(x)
    assert (
        first
        == Resamples(scheme, repeat, ids, seed=1).intervals(x)
        != Resamples(scheme, repeat, ids, seed=2).intervals(x)
    )


@every
def test_missing_values_are_as_if_their_rows_were_absent(scheme: Scheme) -> None:
    repeat, ids, x = study(np.random.default_rng(6))
    x[[0, 5, 30], 1] = np.nan
    got = Resamples(scheme, repeat, ids).intervals(x)
    keep = ~np.isnan(x[:, 1])
    alone = Resamples(
        scheme, [r for r, k in zip(repeat, keep, strict=True) if k], [c for c, k in zip(ids, keep, strict=True) if k]
    ).interval(x[keep, 1])
    assert (
        (got[1].mean, got[1].low, got[1].high) == (alone.mean, alone.low, alone.high)
        and got[1].dropped == 3
        and got[0].dropped == 0
    )
    assert got[0] == Resamples(scheme, repeat, ids).interval(x[:, 0])


@every
def test_nothing_and_a_single_value_have_no_interval(scheme: Scheme) -> None:
    resamples = Resamples(scheme, [0, 0, 1], ["a", "b", "a"])
    nothing = resamples.interval([math.nan] * 3)
    assert math.isnan(nothing.mean) and nothing.values == 0 and nothing.dropped == 3 and nothing.reason
    single = resamples.interval([math.nan, 4.0, math.nan])
    assert single.mean == 4 and math.isnan(single.low) and single.reason and not single.excludes_zero
    assert math.isnan(resamples.compare([[math.nan], [4.0], [math.nan]], [[0.0], [5.0], [0.0]])[0].p)


def test_replicates_without_a_value_are_left_out() -> None:
    """Two repeats of one case each: drawing one case only leaves the other repeat empty, and with repeats drawn too
    there may be nothing at all.
    """
    resamples = Resamples(ByGroup(repeats=True), [0, 1], ["a", "b"])
    made = resamples.replicated([[0.0], [1.0]])[:, 0]
    # nothing is left when both draws of repeats miss the single case drawn: 2 * 1/4 * 1/4
    assert np.isnan(made).mean() == pytest.approx(1 / 8, abs=0.02)
    got = resamples.interval([0.0, 1.0])
    assert (got.low, got.high, got.mean) == (0, 1, 0.5)


@every
def test_paired_intervals_are_narrower_on_paired_data(scheme: Scheme) -> None:
    rng = np.random.default_rng(7)
    repeat, ids, x = study(rng, 5, 30, 40)
    first = x[:, :1]
    second = first - 0.1 + rng.normal(0, 0.05, first.shape)
    resamples = Resamples(scheme, repeat, ids)
    paired = resamples.compare(first, second)[0]
    made = resamples.replicated(first)[:, 0], Resamples(scheme, repeat, ids, seed=1).replicated(second)[:, 0]
    low, high = np.percentile(made[1] - made[0], [2.5, 97.5])  # as if the two had been measured on unrelated cases
    assert paired.estimate.high - paired.estimate.low < 0.3 * (high - low)
    assert (
        paired.estimate.excludes_zero and paired.p == 2 / 2001 and paired.estimate.mean == pytest.approx(-0.1, abs=0.02)
    )
    assert low < 0 < high
    same_draws = resamples.replicated(second) - resamples.replicated(first)
    assert np.percentile(same_draws, 2.5) == pytest.approx(paired.estimate.low, rel=1e-9)


@every
def test_what_is_the_same_is_no_test(scheme: Scheme) -> None:
    repeat, ids, x = study(np.random.default_rng(8))
    x[2, 0] = np.nan
    same, other = Resamples(scheme, repeat, ids).compare(x[:, [0, 1]], x[:, [0, 2]])
    assert same.identical and math.isnan(same.p) and same.estimate.low == same.estimate.high == 0
    assert not other.identical and 0 < other.p <= 1


def test_p_is_small_as_often_as_it_says() -> None:
    """One repeat of 80 cases without a difference: a two-sided p below .1 in a tenth of studies, and p and interval
    agree.
    """
    x = np.random.default_rng(9).normal(size=(80, 800))
    resamples = Resamples(ByGroup(), [0] * 80, list(range(80)))
    found = resamples.compare(np.zeros_like(x), x)
    assert np.mean([c.p < 0.1 for c in found]) == pytest.approx(0.1, abs=0.035)
    assert np.mean([(c.p < 0.05) == c.estimate.excludes_zero for c in found]) > 0.99


def test_ranges_over_repeats() -> None:
    got = repeat_range([0.2, math.nan, 0.5, 0.2])
    assert (got.mean, got.low, got.high, got.values, got.dropped) == (pytest.approx(0.3), 0.2, 0.5, 3, 1)
    assert math.isnan(repeat_range([math.nan]).mean) and repeat_range([]).values == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Resamples(TwoLevel(), [0], ["a", "b"]), "1 repeats, 2 cases, 2 groups"),
        (lambda: Resamples(TwoLevel(), [0, 1, 0], ["a", "a", "a"]), "case 'a' twice in repeat 0"),
        (lambda: Resamples(TwoLevel(), [0, 0], ["a", "b"], replicates=1), "at least 2"),
        (lambda: Resamples(TwoLevel(), [0, 0], ["a", "b"]).intervals([1.0, 2.0]), r"expected \(2, k\)"),
        (lambda: Resamples(TwoLevel(), [0, 0], ["a", "b"]).interval([1.0, 2.0], level=2), "between 0 and 1"),
        (
            lambda: Resamples(TwoLevel(), [0, 0], ["a", "b"]).compare([[1.0], [2.0]], [[1.0, 2.0], [2.0, 3.0]]),
            "as many as first",
        ),
    ],
)
def test_bad_arguments_get_a_message(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
