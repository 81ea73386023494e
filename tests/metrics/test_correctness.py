"""What W23 makes of correct and of mispredicted voxels, exactly: its Figure 2d in closed form, and the bound of its
oracle (definitions 17).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segcal import evaluate_arrays
from segcal.engine.accumulate import fold, result
from segcal.metrics.spatial import SpatialCalibration

Array = NDArray[Any]


@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(2, 6), st.integers(1, 60))
def test_the_errors_of_correct_and_of_mispredicted_voxels(
    random_rows: Any, seed: int, n: int, classes: int, bins: int
) -> None:
    """Whatever the bins: E[c | mispredicted] and 1 - E[c | correct]."""
    rows = random_rows(seed, n, classes)
    metric = SpatialCalibration(classes, bins=bins)
    found = result(metric, fold(metric, rows))
    confidence = rows.log_probs.exp().numpy()[rows.decision.numpy(), np.arange(n)]
    right = (rows.decision == rows.targets).numpy()
    expected = {"incorrect": confidence[~right], "correct": 1 - confidence[right]}
    for name, values in expected.items():
        mean = values.mean() if len(values) else np.nan
        assert getattr(found, name).ece == pytest.approx(mean, abs=1e-12, nan_ok=True)


def oracle(z: Array, y: Array) -> Array:
    """Probabilities where every mispredicted voxel is as sure of each class, all others as they are."""
    p = scipy.special.softmax(z, 1)
    return np.where((z.argmax(1) == y)[:, None], p, 1 / z.shape[1])


def ece(p: Array, y: Array, decided: Array, bins: int = 10) -> float:
    """Right-closed bins, mean of images."""
    found = []
    for one, labels, top in zip(p, y, decided, strict=True):
        c = np.take_along_axis(one, top[None], 0)[0].ravel()
        right = (top == labels).ravel()
        b = np.clip(np.ceil(c * bins - 1e-9).astype(int) - 1, 0, bins - 1)
        gap = np.bincount(b, c, bins) - np.bincount(b, right, bins)
        found.append(np.abs(gap).sum() / c.size)
    return float(np.mean(found))


def calibrated(classes: int, seed: int, spread: float) -> tuple[Array, Array]:
    """Logits, and labels drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=(6, classes, 40, 50))
    p = scipy.special.softmax(z, 1)
    return z, (p.cumsum(1) < rng.random((6, 1, 40, 50))).sum(1).clip(0, classes - 1)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("spread", [0.7, 2.0, 5.0])
def test_the_oracle_at_rate_1_is_bounded(classes: int, spread: float) -> None:
    """ECE <= acc E[1 - c | correct] + err / C."""
    z, y = calibrated(classes, 0, spread)
    decided = z.argmax(1)
    p, q = scipy.special.softmax(z, 1).max(1), oracle(z, y)
    bounds = []
    for top, labels, c in zip(decided, y, p, strict=True):
        right = top == labels
        bounds.append((1 - c[right]).sum() / c.size + (~right).mean() / classes)
    assert ece(q, y, decided) <= np.mean(bounds) + 1e-12


def test_where_no_correct_voxel_shares_its_bin_the_bound_is_met() -> None:
    rng = np.random.default_rng(1)
    top = rng.integers(3, size=(2, 30, 30))
    z = rng.normal(size=(2, 3, 30, 30))
    np.put_along_axis(z, top[:, None], 4.0, 1)  # surer than 1/3 by far
    y = np.where(rng.random(top.shape) < 0.3, (top + 1) % 3, top)
    c = scipy.special.softmax(z, 1).max(1)
    right = top == y
    bound = np.mean([(1 - a[r]).sum() / a.size + (~r).mean() / 3 for a, r in zip(c, right, strict=True)])
    assert ece(oracle(z, y), y, top) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_on_a_calibrated_model_the_oracle_raises_the_error_from_0(classes: int) -> None:
    z, y = calibrated(classes, 2, 2.0)
    p, top = scipy.special.softmax(z, 1), z.argmax(1)
    assert ece(p, y, top) < 0.03
    assert ece(oracle(z, y), y, top) > 0.1
    found = evaluate_arrays(p, y)["ece_by_bins"]["50"]["ece_pooled"]
    assert found < 0.02
