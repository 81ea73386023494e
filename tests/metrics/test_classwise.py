from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.engine.accumulate import fold, result, zero
from segcal.errors import UsageError
from segcal.metrics.classwise import ClasswiseCalibrationError


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 6), st.sampled_from([10, 15]))
def test_each_class_is_what_a_loop_over_bins_gives(
    random_rows: Any, seed: int, n: int, classes: int, bins: int
) -> None:
    rows = random_rows(seed, n, classes)
    metric = ClasswiseCalibrationError(classes, bins)
    got = result(metric, fold(metric, rows))
    p, y = rows.log_probs.exp().numpy(), rows.targets.numpy()
    for k, one in enumerate(got.table):
        where = np.clip(np.ceil(p[k] * bins) - 1, 0, bins - 1)
        parts = [abs(p[k][where == b].sum() - (y[where == b] == k).sum()) for b in range(bins)]
        assert one.ece == pytest.approx(sum(parts) / n, rel=1e-10, abs=1e-12)
        assert one.frequency == pytest.approx((y == k).mean()) and one.probability == pytest.approx(p[k].mean())
        assert one.curve.voxels == n
    assert got.cece == pytest.approx(np.mean([one.ece for one in got.table]))


def test_perfect_one_hot_probabilities_have_no_error(make_rows: Any) -> None:
    with np.errstate(divide="ignore"):
        rows = make_rows(np.eye(3), [0, 1, 2])
    metric = ClasswiseCalibrationError(3)
    assert result(metric, fold(metric, rows)).cece == 0


def test_an_absent_class_counts_with_the_probability_given_to_it(make_rows: Any) -> None:
    rows = make_rows([[0.7, 0.7], [0.2, 0.2], [0.1, 0.1]], [0, 0])
    metric = ClasswiseCalibrationError(3)
    got = result(metric, fold(metric, rows))
    assert [one.ece for one in got.table] == pytest.approx([0.3, 0.2, 0.1]) and got.table[2].frequency == 0
    assert got.cece == pytest.approx(0.2)


def test_no_voxel_has_no_error() -> None:
    metric = ClasswiseCalibrationError(3)
    got = result(metric, zero(metric))
    assert math.isnan(got.cece) and all(math.isnan(one.frequency) for one in got.table)


def test_bins_are_checked() -> None:
    with pytest.raises(UsageError, match="whole numbers from 1"):
        ClasswiseCalibrationError(3, 0)
