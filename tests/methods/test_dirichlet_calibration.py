"""Dirichlet calibration: recovers a known map, matches marginals, bounds what an absent class would send to
infinity.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import DirichletCalibration
from segcal.engine.serial import Serial


def test_recovers_a_known_map_up_to_the_gauge(truth) -> None:
    weight = np.array([[0.7, 0.2, 0.0], [0.0, 0.9, 0.1], [0.1, -0.1, 0.6]])
    bias = np.array([0.4, -0.2, -0.2])
    z, y = truth(8, 4, 20_000, weight, bias)
    m = DirichletCalibration(0.0).fit(z, y, engine=Serial()).maps[0]
    centred = m.weight - m.weight.mean(0)
    np.testing.assert_allclose(centred.numpy(), weight - weight.mean(0), atol=0.05)
    np.testing.assert_allclose((m.bias - m.bias.mean()).numpy(), bias, atol=0.08)


def test_marginals_match_and_so_do_scores(arrays) -> None:
    z, y = arrays
    calibrator = DirichletCalibration(0.0).fit(z, y, engine=Serial())
    x = torch.log_softmax(torch.from_numpy(z).double(), 1)
    residual = calibrator.log_probs(torch.from_numpy(z)).exp() - torch.nn.functional.one_hot(
        torch.from_numpy(y), 3
    ).movedim(-1, 1)
    assert torch.einsum("bin,bjn->ij", residual, x).abs().max() / y.size < 1e-6
    assert residual.mean((0, 2)).abs().max() < 1e-6


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_an_absent_class_is_finite_and_reported(strength, arrays) -> None:
    z, y = arrays
    calibrator = DirichletCalibration(strength).fit(z, np.where(y == 2, 1, y), engine=Serial())
    assert "no voxel is labelled 2" in calibrator.solution.message
    assert calibrator.solution.status == ("degenerate" if strength == 0 else "optimal")
    assert calibrator.solution.certificate["gap"] <= 1e-7
    p = calibrator(torch.from_numpy(z))
    assert torch.isfinite(p).all()
    if strength == 0:
        assert p[:, 2].mean() < 1e-3


def test_parameters_are_counted_as_the_definitions_do(arrays) -> None:
    """C^2 - 1 identifiable: the rank of the map's Jacobian in its parameters."""
    z, _ = arrays
    x = torch.log_softmax(torch.from_numpy(z[0]).double(), 0)

    def probabilities(theta: torch.Tensor) -> torch.Tensor:
        m = theta.reshape(3, 4)
        return torch.softmax(m[:, :3] @ x + m[:, 3:], 0)

    jacobian = torch.autograd.functional.jacobian(probabilities, torch.randn(12, dtype=torch.float64)).reshape(-1, 12)
    assert torch.linalg.matrix_rank(jacobian) == 3 * 3 - 1
