"""Verdicts: a word is what its interval says, the sentence what the cells do, and a jackknife what it claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from segcal.metrics.statistics.clustered import clustered_mean, jackknife
from segcal.metrics.statistics.estimate import Estimate
from segcal.metrics.statistics.verdict import LEAST_GROUPS, METRICS, WHERE, Band, Cell, Verdict


def estimate(mean: float, error: float, groups: int = 8) -> Estimate:
    reach = float(stats.t.ppf(0.975, max(groups - 1, 1))) * error
    return Estimate(mean, mean - reach, mean + reach, error, 0.95, groups, 0, groups)


def cell(mean: float, error: float, groups: int = 8, metric: str = "nll", where: str = "overall") -> Cell:
    return Cell(where, metric, 1.0, 1.0 + mean, estimate(mean, error, groups))


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(1, 30))
def test_a_word_is_what_the_interval_says(mean: float, error: float, groups: int) -> None:
    one = cell(mean, error, groups)
    if one.word == "better":
        assert one.change.high < 0 and groups >= LEAST_GROUPS
    elif one.word == "worse":
        assert one.change.low > 0 and groups >= LEAST_GROUPS
    elif one.word == "unchanged":
        assert abs(mean) <= 1e-9 and error <= 1e-9
    else:
        assert groups < LEAST_GROUPS or one.change.low <= 0 <= one.change.high


def test_a_change_of_the_size_told_is_seen_four_times_in_five() -> None:
    groups, rng = 6, np.random.default_rng(0)
    size = cell(0.0, 1 / math.sqrt(groups), groups).seen
    draws = rng.normal(-size, 1, (20_000, groups))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(groups))
    seen = float((t < -stats.t.ppf(0.975, groups - 1)).mean())
    assert seen == pytest.approx(0.8, abs=0.03)  # the sum of two quantiles is near, not exact
    assert math.isnan(cell(0.1, 0.1, 2).seen)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.integers(1, 4))
def test_the_jackknife_of_a_mean_over_equal_groups_is_the_clustered_interval(means: list[float], size: int) -> None:
    groups = [g for g in range(len(means)) for _ in range(size)]
    values = np.repeat(means, size) + np.tile(np.linspace(-1, 1, size), len(means))
    without = [np.mean([v for v, g in zip(values, groups, strict=True) if g != out]) for out in range(len(means))]
    ours, theirs = jackknife(float(values.mean()), without, values=len(values)), clustered_mean(values, groups)
    assert ours.mean == pytest.approx(theirs.mean, abs=1e-12)
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], rtol=1e-7, atol=1e-9)


def test_a_jackknife_says_why_there_is_no_interval() -> None:
    one, gone, nothing = (
        jackknife(1.0, [math.nan], values=3),
        jackknife(1.0, [0.5, math.nan, 2.0], values=3),
        jackknife(math.nan, [1.0, 2.0], values=0),
    )
    assert (one.mean, one.groups, one.values) == (1.0, 1, 3) and "one group" in one.reason
    assert gone.mean == 1.0 and math.isnan(gone.low) and "without one of the groups" in gone.reason
    assert math.isnan(nothing.mean) and nothing.reason == "no value to average"


def whole(**changes: tuple[float, float]) -> Verdict:
    """Overall cells by metric, and `where_metric` ones."""
    cells = [cell(*changes.get(metric, (0.0, 0.1)), metric=metric) for metric in METRICS]
    cells += [
        cell(*value, metric=name.split("_")[1], where=name.split("_")[0])
        for name, value in changes.items()
        if "_" in name
    ]
    return Verdict(cells, (), dict.fromkeys(WHERE, 0.1))


def test_the_sentence_says_what_is_better_what_is_worse_and_what_cannot_be_told() -> None:
    mixed = whole(nll=(-0.1, 0.01), ece=(-0.1, 0.01), ace=(0.01, 0.003), foreground_ace=(0.02, 0.003))
    assert mixed.sentence == (
        "Better overall by NLL and ECE; ACE (+0.01, +0.0029 to +0.017) is worse; by Brier it cannot be told."
        " Worse in the predicted foreground by ACE (+0.02, +0.013 to +0.027)."
    )
    assert whole().sentence == "Whether it is better cannot be told, by NLL, Brier, ECE and ACE."
    assert whole(nll=(0.1, 0.01)).sentence.startswith("Worse overall by NLL (+0.1")
    assert whole(ece=(-0.1, 0.01)).sentence == (
        "Whether it is better cannot be told, by NLL, Brier and ACE; ECE is lower."
    )
    assert whole(nll=(0.1, 0.01), ece=(-0.1, 0.01), ace=(-0.1, 0.01)).sentence == (
        "Worse overall by NLL (+0.1, +0.076 to +0.12); ECE and ACE are lower; by Brier it cannot be told."
    )
    same = whole(**dict.fromkeys(METRICS, (0.0, 0.0)))
    assert same.sentence == "Nothing changes."
    assert Verdict((), (), {}).sentence == "Nothing to compare."


def test_bands_that_are_certainly_off_are_named() -> None:
    band = Band(11 / 15, 12 / 15, 0.024, 0.767, 0.70, estimate(0.067, 0.004))
    assert band.off and "73-80 % (2.4 % of all) are right 70 % of the time: 7 points over-confident" in band.sentence
    assert not Band(0.2, 0.4, 0.1, 0.3, 0.28, estimate(0.02, 0.001)).off
    assert not Band(0.2, 0.4, 0.1, 0.3, 0.1, estimate(0.2, 0.01, 2)).off
    under = Band(0.2, 0.4, 0.1, 0.3, 0.5, estimate(-0.2, 0.01), "tumour")
    assert "voxels of tumour given 20-40 %" in under.sentence and "20 points under-confident" in under.sentence
    several = Verdict(whole().cells, [band, under, band], {})
    assert several.sentence.endswith("; and 1 more band(s).") and "Still off: voxels given 73-80 %" in several.sentence
