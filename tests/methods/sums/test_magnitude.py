"""Mean size of log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from segcal.fitting.magnitude import Magnitude


def test_is_the_mean_over_voxels_of_the_largest(make_rows, evaluate) -> None:
    rows = make_rows(np.log([[0.5, 0.9, 0.25], [0.5, 0.1, 0.75]]), [0, 0, 1])
    assert evaluate(Magnitude(), rows) == pytest.approx(np.mean(np.log([2, 10, 4])), abs=1e-12)


def test_no_voxel_is_zero(make_rows, evaluate) -> None:
    assert evaluate(Magnitude(), make_rows(np.zeros((3, 0)), [])) == 0.0
