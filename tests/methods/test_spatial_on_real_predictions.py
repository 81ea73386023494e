"""BA-ECE on real predictions: a boundary counts only between labels (definitions 16)."""

from __future__ import annotations

import numpy as np

from segcal.data.cohort import Cohort
from segcal.data.places.distance import BoundaryDistance
from segcal.engine.accumulate import result
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.metrics.spatial import SpatialCalibration


def test_taking_contact_with_ignored_voxels_for_a_boundary_lowers_ba_ece(camvid_whole: Cohort) -> None:
    asks = {
        literal: Ask(SpatialCalibration(11, distance=BoundaryDistance(literal=literal)), by_case=True)
        for literal in (True, False)
    }
    answers = Serial().survey(camvid_whole, asks)[0]
    mean = {k: np.mean([result(asks[k].accumulator, s).ba_ece for s in answers[k].values()]) for k in asks}
    assert 0 < mean[True] < mean[False]
