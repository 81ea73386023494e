"""Isotonic regression: SciPy's on the same bins, the truth where it is monotone, subsets, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from scipy.optimize import isotonic_regression

from segcal import IsotonicRegression, cohort_from_arrays, evaluate_arrays
from segcal.data.head import Softmax
from segcal.engine.serial import Serial
from segcal.errors import UsageError
from segcal.methods.binned import GRID, REACH, GridCount
from segcal.testing.accumulators import check_accumulator

EDGES = np.linspace(-REACH, REACH, GRID + 1)[1:-1]


def log_odds(z: np.ndarray) -> np.ndarray:
    """(C, n) of logits (cases, C, voxels)."""
    p = special.softmax(z.astype(float), 1).transpose(1, 0, 2).reshape(z.shape[1], -1)
    return special.logit(p)


def test_grid_counts_keep_the_laws_of_accumulators() -> None:
    check_accumulator(lambda classes: GridCount(classes))


def test_it_is_scipys_on_the_binned_data(arrays) -> None:
    z, y = arrays
    calibrator = IsotonicRegression(prior=1e-9).fit(z, y, engine=Serial())
    n, width = y.size, 2 * REACH / GRID
    for k, odds in enumerate(log_odds(z)):
        at = np.searchsorted(EDGES, odds, side="right")
        count = np.bincount(at, minlength=GRID)
        hits = np.bincount(at, y.ravel() == k, minlength=GRID)
        seen = count > 0
        expected = isotonic_regression(hits[seen] / count[seen], weights=count[seen]).x.clip(
            1 / (n + 2), 1 - 1 / (n + 2)
        )
        np.testing.assert_allclose(calibrator.maps[0].table[k].numpy()[seen], expected, atol=1e-6)
    assert calibrator.solution.status == "optimal"
    assert calibrator.solution.certificate["gap"] < 1e-12
    assert calibrator.solution.settings["bin_width"] == width


def test_reported_nll_is_that_of_the_probabilities(arrays) -> None:
    z, y = arrays
    calibrator = IsotonicRegression().fit(z, y, engine=Serial())
    found = evaluate_arrays(calibrator(torch.from_numpy(z)), y)
    assert calibrator.solution.nll == pytest.approx(found["nll_pooled"], abs=1e-5)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_two_classes_with_a_monotone_truth_are_found(scale: float, truth) -> None:
    z, y = truth(3, 4, 20_000, scale * np.eye(2), np.array([0.6, 0.0]))
    calibrator = IsotonicRegression().fit(z, y, engine=Serial())
    fresh, _ = truth(4, 1, 5000, scale * np.eye(2), np.zeros(2))
    expected = special.expit(scale * (fresh[0, 1] - fresh[0, 0]) - 0.6)
    off = np.abs(calibrator(torch.from_numpy(fresh))[0, 1].numpy() - expected)
    assert off.mean() < 0.02


def test_functions_do_not_fall(arrays) -> None:
    z, y = arrays
    table = IsotonicRegression().fit(z, y, engine=Serial()).maps[0].table
    assert (table.diff(dim=1) >= 0).all()


def test_crossfits_are_fits_of_the_rest(arrays, fit) -> None:
    z, y = arrays
    cohort = cohort_from_arrays(z, y, groups=["a", "b", "c", "c"])
    found = fit({"it": IsotonicRegression()}, cohort, crossfit=True, folds=3)["it"]
    for fold, calibrator in zip(found.folds, found.held_out, strict=True):
        rest = [i for i in range(4) if i not in fold]
        alone = IsotonicRegression().fit(z[rest], y[rest], engine=Serial())
        assert torch.equal(calibrator.maps[0].table, alone.maps[0].table)


@pytest.mark.parametrize(("shift", "kept"), [(0.0, "proven"), (1.5, "no")])
def test_two_classes_keep_the_label_where_each_side_stays_on_its_side(shift: float, kept: str) -> None:
    rng = np.random.default_rng(0)
    z = 3 * rng.normal(size=(3, 2, 4000))
    right = (z[:, 1] + shift > z[:, 0]).astype(int)
    y = np.where(rng.random(right.shape) < 0.1, 1 - right, right)
    head = Softmax(("out", "in"), 0)
    calibrator = IsotonicRegression().fit(cohort_from_arrays(z, y, kind="logits", head=head), engine=Serial())
    assert calibrator.guarantees().preserves_argmax == kept
    moved = calibrator(torch.from_numpy(z)).argmax(1).numpy() != z.argmax(1)
    assert moved.any() == (kept == "no")


def test_certain_and_wrong_costs_a_finite_nll() -> None:
    z = np.zeros((2, 2, 50))
    z[:, 0] = 100.0
    y = np.zeros((2, 50), int)
    calibrator = IsotonicRegression().fit(z, y, engine=Serial())
    found = evaluate_arrays(calibrator(torch.from_numpy(z)), 1 - y)
    assert found["nll"] <= np.log(102) + 1e-6


def test_an_absent_class_is_said(arrays) -> None:
    z, y = arrays
    solution = IsotonicRegression().fit(z, np.minimum(y, 1), engine=Serial()).solution
    assert solution.status == "degenerate"
    assert "no voxel is labelled 2" in solution.message


@pytest.mark.parametrize("prior", [0, -1.0, float("inf"), "much"])
def test_a_prior_is_a_number_above_zero(prior) -> None:
    with pytest.raises(UsageError, match="prior"):
        IsotonicRegression(prior=prior)
