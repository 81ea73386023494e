"""Vector scaling: what it can reach, and where it is translation-invariant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcal import VectorScaling
from segcal.engine.serial import Serial


def test_only_the_diagonal_is_free(arrays) -> None:
    z, y = arrays
    m = VectorScaling(0.0, 0.0).fit(z, y, engine=Serial()).maps[0]
    assert m.weight.fill_diagonal_(0).abs().max() == 0


def test_recovers_factors_and_biases(truth) -> None:
    factors, bias = np.array([0.5, 1.0, 1.5]), np.array([0.5, 0.0, -0.5])
    z, y = truth(2, 2, 20_000, np.diag(factors), bias)
    p = torch.softmax(torch.from_numpy(z).double(), 1).numpy()
    m = VectorScaling(0.0, 0.0).fit(p, y, kind="probs", engine=Serial()).maps[0]
    np.testing.assert_allclose(m.weight.diagonal().numpy(), factors, atol=0.08)
    np.testing.assert_allclose((m.bias - m.bias.mean()).numpy(), bias - bias.mean(), atol=0.08)


def test_marginals_and_scaled_scores_match(arrays) -> None:
    """Optimality 9.5: mean p_k = mean y_k and mean z_k p_k = mean z_k y_k, up to the ridge's pull."""
    z, y = arrays
    calibrator = VectorScaling(0.0, 0.0).fit(z, y, engine=Serial())
    residual = calibrator.log_probs(torch.from_numpy(z)).exp() - torch.nn.functional.one_hot(
        torch.from_numpy(y), 3
    ).movedim(-1, 1)
    assert residual.mean((0, 2)).abs().max() < 1e-6
    assert (residual * torch.from_numpy(z).double()).mean((0, 2)).abs().max() < 1e-6


def test_promises_follow_the_input(arrays) -> None:
    z, y = arrays
    logits = VectorScaling(0.0, 0.0).fit(z, y, engine=Serial())
    canonical = VectorScaling(0.0, 0.0).fit(
        torch.softmax(torch.from_numpy(z).double(), 1), y, kind="probs", engine=Serial()
    )
    assert (logits.guarantees().translation_invariant, canonical.guarantees().translation_invariant) == ("no", "proven")
    assert logits.needs.logits
    assert not canonical.needs.logits


@pytest.mark.parametrize("penalty", ["ts", "odir"])
def test_penalties_are_means_over_the_diagonal(penalty, arrays) -> None:
    """'odir' for a diagonal is the peers' mean (a - 1)^2, 'ts' the same around 1/T."""
    z, y = arrays
    solution = (calibrator := VectorScaling(0.3, 0.2, penalty).fit(z, y, engine=Serial())).solution
    m = calibrator.maps[0]
    centre = 1.0 if penalty == "odir" else 1 / solution.settings["temperature"]
    expected = 0.3 * ((m.weight.diagonal() - centre) ** 2).mean() + 0.2 * (m.bias**2).mean()
    assert solution.objective - solution.nll == pytest.approx(expected.item(), abs=1e-7)
