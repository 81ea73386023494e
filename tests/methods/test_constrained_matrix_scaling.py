"""Constrained matrix scaling: equal row sums, invariance, Platt scaling for two classes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from segcal import ConstrainedMatrixScaling
from segcal.engine.serial import Serial


@pytest.mark.parametrize(
    "options", [{"lambda_": 0.0}, {"lambda_": 0.5, "mu": 0.1}, {"lambda_": 0.5, "mu": 0.1, "penalty": "odir"}], ids=str
)
def test_row_sums_are_equal_and_offsets_change_nothing(options, arrays) -> None:
    z, y = arrays
    calibrator = ConstrainedMatrixScaling(**options).fit(z, y, engine=Serial())
    sums = calibrator.maps[0].weight.sum(1)
    assert (sums - sums[0]).abs().max() < 1e-11
    assert calibrator.guarantees().translation_invariant == "proven"
    shifted = ConstrainedMatrixScaling(**options).fit(z + 4, y, engine=Serial())
    assert shifted.solution.objective == pytest.approx(calibrator.solution.objective, abs=1e-6)


def test_probabilities_and_logits_give_the_same_map(arrays) -> None:
    z, y = arrays
    logits = ConstrainedMatrixScaling(0.0).fit(z, y, engine=Serial())
    probs = ConstrainedMatrixScaling(0.0).fit(
        torch.softmax(torch.from_numpy(z).double(), 1), y, kind="probs", engine=Serial()
    )
    torch.testing.assert_close(logits.maps[0].weight, probs.maps[0].weight, atol=1e-5, rtol=1e-5)
    assert logits.solution.nll == pytest.approx(probs.solution.nll, abs=1e-7)


def test_two_classes_are_platt_scaling(truth) -> None:
    """p_1 = logistic(a (z_1 - z_0) + b), by scipy."""
    z, y = truth(6, 2, 2000, np.array([[0.6, 0.1], [0.0, 0.9]]), np.array([0.3, -0.1]))
    solution = ConstrainedMatrixScaling(0.0, eps=1e-10).fit(z, y, engine=Serial()).solution
    d = (z[:, 1] - z[:, 0]).ravel().astype(float)
    sign = np.where(y.ravel() == 1, 1.0, -1.0)
    platt = scipy.optimize.minimize(
        lambda t: np.logaddexp(0, -sign * (t[0] * d + t[1])).mean(), [1.0, 0.0], method="BFGS", options={"gtol": 1e-9}
    )
    assert solution.nll == pytest.approx(platt.fun, abs=1e-7)


def test_the_row_sum_is_a_gauge(arrays) -> None:
    """The NLL does not see s; with the ridge alone it stays within reach of 1."""
    z, y = arrays
    calibrator = ConstrainedMatrixScaling(0.0).fit(z, y, engine=Serial())
    x = torch.log_softmax(torch.from_numpy(z).double(), 1)
    w, b = calibrator.maps[0].weight, calibrator.maps[0].bias
    for shift in (-3.0, 5.0):
        moved = w.clone()
        moved[:, -1] += shift
        u = torch.einsum("ij,bjn->bin", moved, x) + b[:, None]
        assert torch.nn.functional.cross_entropy(u, torch.from_numpy(y)).item() == pytest.approx(
            calibrator.solution.nll, abs=1e-7
        )
