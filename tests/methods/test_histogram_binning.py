"""Histogram binning: shares of hits by bin, as NumPy counts them, and empty bins that change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from segcal import HistogramBinning
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.binned import REACH


@pytest.mark.parametrize("bins", [2, 32, 64])
def test_it_is_numpys_share_of_hits(bins: int, arrays) -> None:
    z, y = arrays
    calibrator = HistogramBinning(bins=bins, prior=1e-9).fit(z, y, engine=Serial())
    odds = special.logit(special.softmax(z.astype(float), 1)).transpose(1, 0, 2).reshape(3, -1)
    floor = 1 / (y.size + 2)
    for k in range(3):
        count, hits = (np.histogram(odds[k][keep], bins, (-REACH, REACH))[0] for keep in (slice(None), y.ravel() == k))
        expected = (hits[count > 0] / count[count > 0]).clip(floor, 1 - floor)
        np.testing.assert_allclose(calibrator.maps[0].table[k].numpy()[count > 0], expected, atol=1e-6)
    assert calibrator.solution.certificate["gap"] < 1e-12


def test_an_empty_bin_is_its_own_centre_and_a_thin_one_stays_near(arrays) -> None:
    z, y = arrays
    table = HistogramBinning().fit(z, y, engine=Serial()).maps[0].table
    centres = special.expit(np.arange(-15.5, 16))
    floor = 1 / (y.size + 2)
    odds = special.logit(special.softmax(z.astype(float), 1)).transpose(1, 0, 2).reshape(3, -1)
    for k in range(3):
        count = np.histogram(odds[k], 32, (-REACH, REACH))[0]
        empty = count == 0
        assert empty.any()
        np.testing.assert_allclose(table[k].numpy()[empty], centres[empty].clip(floor, 1 - floor), rtol=1e-12)


def test_a_class_rarer_than_it_says_is_lowered(truth) -> None:
    z, y = truth(5, 3, 5000, np.eye(3), np.array([0.0, 0.0, -2.0]))
    share, before = (y == 2).mean(), special.softmax(z, 1).mean((0, 2))[2]
    after = HistogramBinning().fit(z, y, engine=Serial())(torch.from_numpy(z)).mean((0, 2)).numpy()[2]
    assert before - share > 0.1
    assert abs(after - share) < 0.3 * (
        before - share
    )  # not zero: each class is fitted alone, and then they are normalised


@pytest.mark.parametrize("bins", [0, 1, 3, 30, 1024, 2.0])
def test_bins_divide_the_grid(bins) -> None:
    with pytest.raises(UsageError, match="bins"):
        HistogramBinning(bins=bins)
