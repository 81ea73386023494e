from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.engine.accumulate import fold, result, zero
from segcal.errors import UsageError
from segcal.metrics.overlap import Overlap, Overlaps

EVEN = np.full((4, 6), 0.25)


def measure(make_rows: Any, targets: list[int], decision: list[int], metric: Overlap) -> Overlaps:
    got: Overlaps = result(metric, fold(metric, make_rows(EVEN[:, : len(targets)], targets, decision)))
    return got


@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.sampled_from([None, 0, 2]))
def test_dice_and_iou_are_those_of_sets(random_rows: Any, seed: int, n: int, background: int | None) -> None:
    rows = random_rows(seed, n, 4)
    metric = Overlap(4, background)
    got = result(metric, fold(metric, rows))
    y, d = rows.targets.numpy(), rows.decision.numpy()
    dice, iou = [], []
    for k in range(4):
        a, b = set(np.flatnonzero(y == k)), set(np.flatnonzero(d == k))
        dice.append(2 * len(a & b) / (len(a) + len(b)) if a or b else math.nan)
        iou.append(len(a & b) / len(a | b) if a or b else math.nan)
    np.testing.assert_allclose(got.dice, dice)
    np.testing.assert_allclose(got.iou, iou)
    counted = [k for k in range(4) if k != background and not math.isnan(dice[k])]
    for mean, each in ((got.mean_dice, dice), (got.mean_iou, iou)):
        assert mean == pytest.approx(np.mean([each[k] for k in counted])) if counted else math.isnan(mean)
    assert got.accuracy == pytest.approx((y == d).mean())
    np.testing.assert_array_equal(got.labelled, np.bincount(y, minlength=4))
    np.testing.assert_array_equal(got.delivered, np.bincount(d, minlength=4))


def test_a_class_that_is_nowhere_is_left_out_or_scored_as_declared(make_rows: Any) -> None:
    targets, decision = [0, 0, 1, 1], [0, 0, 1, 2]
    left_out = measure(make_rows, targets, decision, Overlap(4, 0))
    assert math.isnan(left_out.dice[3]) and left_out.mean_dice == pytest.approx((2 / 3 + 0) / 2)
    scored = measure(make_rows, targets, decision, Overlap(4, 0, empty=1))
    assert scored.dice[3] == 1 and scored.iou[3] == 1 and scored.mean_dice == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_a_class_that_is_delivered_but_not_there_scores_zero(make_rows: Any) -> None:
    for metric in (Overlap(4, 0), Overlap(4, 0, empty=1.0)):
        assert measure(make_rows, [0, 0], [0, 2], metric).dice[2] == 0


def test_an_image_of_background_only_has_no_dice(make_rows: Any) -> None:
    got = measure(make_rows, [0, 0, 0], [0, 0, 0], Overlap(4, 0))
    assert math.isnan(got.mean_dice) and math.isnan(got.mean_iou) and got.accuracy == 1
    assert measure(make_rows, [0, 0, 0], [0, 0, 0], Overlap(4, None)).mean_dice == 1


def test_no_voxel_has_no_overlap() -> None:
    got = result(Overlap(3, 0), zero(Overlap(3, 0)))
    assert math.isnan(got.accuracy) and math.isnan(got.mean_dice)


@pytest.mark.parametrize("background", [-1, 3])
def test_a_background_out_of_range_is_refused(background: int) -> None:
    with pytest.raises(UsageError, match="a class from 0 to 2"):
        Overlap(3, background)


def test_configurations_stay_equal_through_a_process() -> None:
    assert pickle.loads(pickle.dumps(Overlap(3, 0))) == Overlap(3, 0) != Overlap(3, 0, 1.0)
