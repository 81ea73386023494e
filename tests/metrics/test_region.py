"""ECE and SCE in O22's region of interest, against a plain transcription."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segcal.data.formats.arrays import cohort_from_arrays
from segcal.engine.accumulate import result
from segcal.engine.ask import Ask
from segcal.engine.serial import Serial
from segcal.metrics.region import RegionCalibration, RegionScores

Array = NDArray[Any]


def transcribed(p: Array, labels: Array, bins: int = 10) -> tuple[float, float, int]:
    """O22's region around labels above 0, ECE and SCE of probabilities (C, H, W)."""
    region = np.zeros(labels.shape, bool)
    for i, j in np.argwhere(labels > 0):
        region[max(0, i - 5) : i + 5, max(0, j - 5) : j + 5] = True
    q, y = p[:, region], labels[region]
    if not q.size:
        return math.nan, math.nan, 0
    edges = np.linspace(0, 1, bins + 1)
    confidence, correct = q.max(0), q.argmax(0) == y
    ece = sce = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
        for k in range(len(q)):
            inside = (q[k] > low) & (q[k] <= high)  # a probability of exactly 0 is in no bin
            if inside.any():
                sce += inside.mean() * abs(q[k][inside].mean() - (y[inside] == k).mean()) / len(q)
    return ece, sce, int(region.sum())


def found(p: Array, labels: Array) -> RegionScores:
    cohort = cohort_from_arrays(p[None], labels[None], kind="probs", background=0)
    metric = RegionCalibration(len(p))
    answers, _ = Serial().survey(cohort, {"it": Ask(metric)})
    scores: RegionScores = result(metric, answers["it"])
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_transcription(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((40, 36), int)
    labels[12:20, 8:15] = rng.integers(0, 4, (8, 7))
    labels[39, 35] = 2
    p = rng.dirichlet(np.full(4, 0.3), labels.shape).transpose(2, 0, 1)
    ece, sce, voxels = transcribed(p, labels)
    scores = found(p, labels)
    assert scores.voxels == voxels
    assert scores.ece == pytest.approx(ece, abs=1e-12)
    assert scores.sce == pytest.approx(sce, abs=1e-12)


def test_a_voxel_at_20_covers_15_to_24() -> None:
    labels = np.zeros((40, 1), int)
    labels[20] = 1
    p = np.full((2, 40, 1), 0.5)
    p[0, 15:25], p[1, 15:25] = 0.9, 0.1
    scores = found(p, labels)
    assert scores.voxels == 10
    assert scores.curve.counts[8] == 10  # .9 lies in (.8, .9]


def test_no_foreground_is_not_defined() -> None:
    scores = found(np.full((2, 8, 8), 0.5), np.zeros((8, 8), int))
    assert scores.voxels == 0
    assert math.isnan(scores.ece)
    assert math.isnan(scores.sce)
