from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.head import Softmax
from segcal.errors import UsageError
from segcal.metrics.binning import EDGE_TOLERANCE, Binning, Curve, bin_counts

COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=4).map(bin_counts)


def coarse(bins: int, among: tuple[int, ...], values: torch.Tensor) -> list[int]:
    """Bin of each value, read off the regrouped histogram of that value alone."""
    binning = Binning(among)
    out = []
    for i in binning.index(values).tolist():
        one = np.zeros(binning.fine, np.int64)
        one[i] = 1
        out.append(int(binning.regroup(bins, one).argmax()))
    return out


@pytest.mark.parametrize("store", ["float64", "float32 probability", "float32 log-probability", "both float32"])
@pytest.mark.parametrize("bins", [5, 10, 15, 20, 50])
def test_a_probability_on_an_edge_falls_in_the_bin_below_it_however_it_was_stored(bins: int, store: str) -> None:
    edges = torch.arange(1, bins + 1, dtype=torch.float64) / bins
    stored = edges.float().double() if store in ("float32 probability", "both float32") else edges
    log = stored.log()
    if store in ("float32 log-probability", "both float32"):
        log = log.float().double()
    assert coarse(bins, (5, 10, 15, 20, 50), log.exp()) == list(range(bins))


@pytest.mark.parametrize("classes", [3, 5, 6, 10, 15, 20])
def test_uniform_voxels_stay_in_the_bin_whose_upper_edge_they_are(classes: int) -> None:
    head = Softmax(tuple(map(str, range(classes))))
    bins = tuple(b for b in (15, 20, 30, 50, 60) if b % classes == 0)
    assert bins
    logits = head.canonical(torch.zeros(classes, 3), "logits")
    stored = head.canonical(torch.full((classes, 3), 1 / classes, dtype=torch.float32), "probs")
    for log_probs in (logits, stored, logits.float(), stored.float()):
        p = log_probs.double().exp().flatten()
        for b in bins:
            assert set(coarse(b, (15, 20, 30, 50, 60), p)) == {b // classes - 1}


def test_zero_is_in_the_first_bin_and_one_in_the_last_rounding_included() -> None:
    values = torch.tensor([0.0, 1e-300, 1.0, 1.0 + 1e-9], dtype=torch.float64)
    assert coarse(15, (15,), values) == [0, 0, 14, 14]


@given(COUNTS, st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_every_bin_count_gives_what_its_own_edges_give(bins: tuple[int, ...], values: list[float]) -> None:
    for b in bins:
        edges = [float(Fraction(k, b)) + EDGE_TOLERANCE for k in range(1, b)]
        assert coarse(b, bins, torch.tensor(values, dtype=torch.float64)) == [sum(v > e for e in edges) for v in values]


@given(COUNTS, st.integers(0, 2**32 - 1))
def test_regrouping_keeps_totals_and_whole_numbers(bins: tuple[int, ...], seed: int) -> None:
    binning = Binning(bins)
    fine = np.random.default_rng(seed).integers(0, 2**50, (3, binning.fine))
    for b in bins:
        got = binning.regroup(b, fine)
        assert got.dtype == np.int64 and got.shape == (3, b)
        np.testing.assert_array_equal(got.sum(-1), fine.sum(-1))


@pytest.mark.parametrize("bad", [(), (0,), (15, -1), (True,), (2.0,), (10**9,), tuple(range(1, 200))])
def test_bin_counts_must_be_whole_and_positive(bad: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="whole numbers from 1"):
        bin_counts(bad)


def test_a_bin_count_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match=r"one of \(15, 50\)"):
        Binning((15, 50)).regroup(10, np.zeros(Binning((15, 50)).fine))


def test_a_curve_gives_means_errors_and_json() -> None:
    curve = Curve(np.array([2, 0, 2]), np.array([0.5, 0.0, 1.8]), np.array([1, 0, 1]))
    np.testing.assert_allclose(curve.confidence, [0.25, math.nan, 0.9])
    np.testing.assert_allclose(curve.accuracy, [0.5, math.nan, 0.5])
    assert curve.ece == pytest.approx((0.5 + 0.8) / 4)
    assert curve.ace == pytest.approx((0.25 + 0.4) / 2)
    described = json.loads(json.dumps(curve.to_json(), allow_nan=False))
    assert described["counts"] == [2, 0, 2] and described["confidence"][1] is None
    np.testing.assert_allclose(described["edges"], [0, 1 / 3, 2 / 3, 1])


def test_a_curve_without_voxels_has_no_error() -> None:
    empty = Curve(np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64))
    assert math.isnan(empty.ece) and math.isnan(empty.ace) and empty.voxels == 0
