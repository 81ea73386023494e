from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segcal.data.head import Softmax
from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, merge, result, zero
from segcal.errors import UsageError
from segcal.metrics.calibration import Calibration, CalibrationError


def measure(rows: Rows, bins: tuple[int, ...]) -> Calibration:
    metric = CalibrationError(rows.log_probs.shape[0], bins)
    measured: Calibration = result(metric, fold(metric, rows))
    return measured


def brute(confidence: np.ndarray[Any, Any], correct: np.ndarray[Any, Any], bins: int) -> tuple[float, float]:
    """ECE and unweighted error, bin by bin."""
    weighted, gaps = 0.0, []
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins) if b else confidence <= 1 / bins
        if inside.any():
            gap = abs(confidence[inside].mean() - correct[inside].mean())
            weighted += inside.mean() * gap
            gaps.append(gap)
    return weighted, float(np.mean(gaps))


def test_the_toy_of_the_definitions(binary: Any) -> None:
    got = measure(binary([0.95, 0.9, 0.62, 0.58, 0.35], [1, 0, 1, 0, 0]), (10, 5))
    assert got.ece(5) == pytest.approx(0.432, abs=1e-12) and got.ace(5) == pytest.approx(0.43375, abs=1e-12)
    assert got.ece(10) == pytest.approx(0.452, abs=1e-12) and got.ace(10) == pytest.approx(0.452, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(2, 6))
def test_errors_are_those_of_a_loop_over_bins(random_rows: Any, seed: int, n: int, classes: int) -> None:
    rows = random_rows(seed, n, classes)
    got = measure(rows, (15, 50, 7))
    confidence = rows.log_probs.exp().amax(0).numpy()
    correct = (rows.decision == rows.targets).numpy()
    for bins in (7, 15, 50):
        np.testing.assert_allclose(
            (got.ece(bins), got.ace(bins)), brute(confidence, correct, bins), rtol=1e-10, atol=1e-12
        )
    assert (
        got.confidence == pytest.approx(confidence.mean())
        and got.accuracy == pytest.approx(correct.mean())
        and got.voxels == n
    )


@pytest.mark.parametrize("bins", [10, 15, 50])
def test_agrees_with_fiducio_on_data_away_from_edges(random_rows: Any, bins: int) -> None:
    peer = pytest.importorskip("fiducio.metrics", reason="fiducio is not installed")
    rows = random_rows(3, 4000, 5)
    p = rows.log_probs.exp()
    got = measure(rows, (bins,))
    curve = peer.reliability_curve(p.T.reshape(1, 4000, 5).movedim(-1, 1), rows.targets[None], n_bins=bins)
    np.testing.assert_array_equal(got.curve(bins).counts, curve.bin_counts.numpy())
    np.testing.assert_allclose((got.ece(bins), got.ace(bins)), (curve.ece, curve.ace), rtol=1e-10)


def test_confidence_is_that_of_the_delivered_label(make_rows: Any) -> None:
    """A post-processed label that the network gave 0.2 is a decision of confidence 0.2, not 0.7."""
    rows = make_rows([[0.7, 0.7], [0.2, 0.2], [0.1, 0.1]], [1, 0], decision=[1, 0])
    got = measure(rows, (10,))
    assert got.confidence == pytest.approx(0.45) and got.accuracy == 1
    assert got.ece(10) == pytest.approx((0.8 + 0.3) / 2)


def test_padding_taken_as_logits_has_the_error_of_the_oracle() -> None:
    logits = torch.zeros(5, 100)
    logits[0] = 1
    y = torch.zeros(100, dtype=torch.int64)
    got = measure(Rows(0, 0, Softmax(tuple("abcde")).canonical(logits, "logits"), y, y, y), (50,))
    assert got.confidence == pytest.approx(0.4046097, abs=5e-8) and got.ece(50) == pytest.approx(
        1 - 0.4046097, abs=5e-8
    )


def test_forty_million_voxels_in_one_bin_keep_their_error(binary: Any) -> None:
    """Counting in float32 saturates at 16 777 216 a bin and returns 0 here."""
    metric = CalibrationError(2)
    block = fold(metric, binary(np.full(50_000, 0.9), np.arange(50_000) % 100 < 73))
    total = zero(metric)
    for _ in range(800):
        total = merge(metric, total, block)
    got = result(metric, total)
    assert got.voxels == 40_000_000
    for bins in (15, 50):
        assert got.ece(bins) == pytest.approx(0.17, abs=1e-12) and got.ace(bins) == pytest.approx(0.17, abs=1e-12)


def test_a_trillion_voxels_are_counted_one_by_one(binary: Any) -> None:
    metric = CalibrationError(2, (15,))
    total = fold(metric, binary([0.8, 0.8, 0.8, 0.8], [1, 1, 1, 0]))
    single = fold(metric, binary([0.8], [1]))
    for _ in range(38):
        total = merge(metric, total, total)
    got = result(metric, merge(metric, total, single))
    assert got.voxels == 2**40 + 1
    assert int(got.curve(15).hits.sum()) == 3 * 2**38 + 1
    assert got.ece(15) == pytest.approx(0.05, abs=1e-11)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40))
def test_pooled_error_is_at_most_the_mean_over_images_of_one_size(
    random_rows: Any, seed: int, images: int, n: int
) -> None:
    metric = CalibrationError(3, (15, 50))
    states = [fold(metric, random_rows(seed + i, n, 3)) for i in range(images)]
    total = zero(metric)
    for state in states:
        total = merge(metric, total, state)
    for bins in metric.bins:
        assert result(metric, total).ece(bins) <= np.mean([result(metric, s).ece(bins) for s in states]) + 1e-12


def test_the_order_in_which_bin_counts_are_named_does_not_matter() -> None:
    assert CalibrationError(3, (50, 15, 15)) == CalibrationError(3, (15, 50))


def test_a_bin_count_not_asked_for_is_refused(random_rows: Any) -> None:
    with pytest.raises(UsageError, match=r"one of \(15, 50\)"):
        measure(random_rows(0, 5), (15, 50)).ece(10)


def test_no_voxel_has_no_error(random_rows: Any) -> None:
    got = measure(random_rows(0, 0), (15, 50))
    assert got.voxels == 0 and all(math.isnan(v) for v in (got.confidence, got.accuracy, got.ece(15), got.ace(50)))
