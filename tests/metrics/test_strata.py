"""Strata of the prediction: numbers are those of their voxels alone, and lie where the prediction has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.data.rows import Rows
from segcal.engine.accumulate import fold, result
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.metrics.calibration import CalibrationError
from segcal.metrics.likelihood import LogLikelihood
from segcal.metrics.strata import AT_BOUNDARY, BOUNDARY, FOREGROUND, NEAR, PredictedStrata


def some(rows: Rows, keep: torch.Tensor) -> Rows:
    return replace(
        rows,
        log_probs=rows.log_probs[:, keep],
        targets=rows.targets[keep],
        decision=rows.decision[keep],
        reference=rows.reference[keep],
    )


@pytest.mark.parametrize("background", [0, 2, None])
def test_numbers_of_a_stratum_are_those_of_its_voxels(random_rows: Any, background: int | None) -> None:
    rows = random_rows(3, 700)
    metric = PredictedStrata(4, background)
    found = result(metric, fold(metric, rows))
    inside = torch.zeros(700, dtype=torch.bool) if background is None else rows.reference != background
    for name, keep in ((FOREGROUND, inside), (BOUNDARY, rows.place(AT_BOUNDARY) < NEAR)):
        alone = some(rows, keep)
        likelihood = result(LogLikelihood(4), fold(LogLikelihood(4), alone))
        calibration = result(CalibrationError(4), fold(CalibrationError(4), alone))
        assert found[name].voxels == int(keep.sum()) == likelihood.voxels
        np.testing.assert_allclose([found[name].nll, found[name].brier], [likelihood.nll, likelihood.brier], rtol=1e-12)
        for bins in (15, 50):
            np.testing.assert_array_equal(found[name].curves[bins].counts, calibration.curves[bins].counts)
            np.testing.assert_array_equal(found[name].curves[bins].hits, calibration.curves[bins].hits)
            np.testing.assert_allclose(found[name].curves[bins].confidence, calibration.curves[bins].confidence)


def test_the_boundary_is_that_of_the_prediction_not_of_the_labels() -> None:
    z = np.zeros((1, 2, 1, 12))
    z[0, 1, 0, :4] = 5.0  # decided for class 1 up to voxel 3, so voxels 3 and 4 are boundary
    z[0, 0, 0, 4:] = 5.0
    y = np.zeros((1, 1, 12), int)
    y[..., 8:] = 1  # the labels' boundary lies elsewhere
    cohort = cohort_from_arrays(z, y, kind="logits", background=0)
    metric = PredictedStrata(2, 0)
    answers, _ = Serial().survey(cohort, {"strata": Ask(metric)})
    found = result(metric, answers["strata"])
    assert found[BOUNDARY].voxels == 6  # 1, 2, 3 | 4, 5, 6
    assert found[FOREGROUND].voxels == 4
    wrong = -np.log(1 / (1 + np.exp(5.0)))
    right = -np.log(1 / (1 + np.exp(-5.0)))
    assert found[FOREGROUND].nll == pytest.approx(wrong)
    assert found[BOUNDARY].nll == pytest.approx((3 * wrong + 3 * right) / 6)
