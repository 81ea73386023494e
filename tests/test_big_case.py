"""A case of 40 million voxels with a true calibration error of 0.17 is measured as 0.17, where counting in float32
saturates at 2^24.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segcal.data.case import Case
from segcal.data.cohort import Cohort
from segcal.data.head import Softmax
from segcal.engine.ask import Ask
from segcal.engine.threads import Threads
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.overlap import Overlap
from segcal.tasks.evaluate import evaluate
from tests.lazy import CELL, LazyField

RATE = 400
"""In every run of so many voxels, exactly the stated share is right."""


def biased_case(shape: tuple[int, ...]) -> Cohort:
    """Nine voxels in ten are 0.87 sure and right in 0.70, the tenth is 0.62 sure and right in 0.45: a true ECE of 0.17,
    and nearly all voxels in one bin.
    """

    def place(cell: int) -> np.ndarray:
        return (np.arange(cell * CELL, (cell + 1) * CELL) // 10) % RATE

    def sure(cell: int) -> np.ndarray:
        return np.arange(cell * CELL, (cell + 1) * CELL) % 10 > 0

    def scores(cell: int) -> np.ndarray:
        confidence = np.where(sure(cell), np.float32(0.87), np.float32(0.62))
        return np.stack([confidence, 1 - confidence])

    def labels(cell: int) -> np.ndarray:
        return (place(cell) >= np.where(sure(cell), 0.70 * RATE, 0.45 * RATE)).astype(np.uint8)

    case = Case("big", (LazyField("scores", shape, 2, scores),), LazyField("labels", shape, None, labels))
    return Cohort((case,), Softmax(("a", "b")), "probs")


def measured(shape: tuple[int, ...]) -> tuple[float, int, int]:
    metric = CalibrationError(2, (15, 50))
    found, (record,) = Threads(2).survey(biased_case(shape), {"ece": Ask(metric), "overlap": Ask(Overlap(2))})
    values = {name: leaf.value(found["ece"][name]) for name, leaf in metric.leaves.items()}
    result = metric.result(values)
    assert record.roles == (math.prod(shape), 0, 0, 0)
    assert int(found["overlap"]["confusion"].sum()) == math.prod(shape)
    assert result.ece(15) == pytest.approx(result.ece(50), abs=1e-12)
    assert result.ace(50) == pytest.approx(0.17, abs=1e-5)
    return result.ece(50), result.voxels, int(result.curve(50).counts.max())


def test_three_million_voxels_are_measured_exactly():
    ece, voxels, _ = measured((150, 160, 125))
    assert voxels == 3_000_000
    assert ece == pytest.approx(0.17, abs=1e-6)


@pytest.mark.slow
def test_forty_million_voxels_are_measured_exactly():
    ece, voxels, largest = measured((400, 400, 250))
    assert voxels == 40_000_000
    assert largest == 36_000_000 > 2**24
    assert ece == pytest.approx(0.17, abs=1e-6)


def test_float32_counting_is_what_would_fail():
    count = torch.tensor(2.0**24)
    assert count + 1 == count


def test_evaluate_reports_the_same():
    block = evaluate(biased_case((100, 80, 50)), None, Threads(2)).uncalibrated.block
    assert (block["ece"], block["ece_pooled"]) == pytest.approx((0.17, 0.17), abs=1e-6)
    assert block["voxels"] == 400_000
