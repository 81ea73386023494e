"""Voxels by label."""

from __future__ import annotations

import numpy as np

from segcal.fitting.labels import LabelCount


def test_counts_every_class_named_or_not(make_rows, evaluate) -> None:
    assert evaluate(LabelCount(4), make_rows(np.zeros((4, 5)), [0, 2, 2, 0, 2])).tolist() == [2, 0, 3, 0]


def test_no_voxel_is_zero(make_rows, evaluate) -> None:
    assert evaluate(LabelCount(3), make_rows(np.zeros((3, 0)), [])).tolist() == [0, 0, 0]
