"""Matrix scaling: on logits it is itself, on probabilities it is Dirichlet calibration and says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from segcal import DirichletCalibration, MatrixScaling
from segcal.data.head import Softmax
from segcal.engine.serial import Serial
from segcal.methods.affine.map import AffineMap
from segcal.methods.calibrator import Calibrator


def test_on_probabilities_it_coincides_with_its_canonical_form(arrays) -> None:
    z, y = arrays
    p = torch.softmax(torch.from_numpy(z).double(), 1)
    ms, dc = (
        method(0.0, 0.0).fit(p, y, kind="probs", engine=Serial()) for method in (MatrixScaling, DirichletCalibration)
    )
    assert torch.equal(ms.maps[0].weight, dc.maps[0].weight)
    assert torch.equal(ms.maps[0].bias, dc.maps[0].bias)
    assert "coincides with its canonical form" in ms.solution.message
    assert "coincides" not in dc.solution.message
    assert ms.guarantees() == dc.guarantees()


def test_on_logits_it_uses_the_offset_and_says_so(truth) -> None:
    """Labels that depend on the offset of the logits: MS sees it, DC cannot, and MS promises no invariance."""
    z, y = truth(4, 3, 2000, np.eye(3), np.zeros(3))
    offset = np.where(y == 0, 2.0, -1.0)[:, None] + 0.5 * np.random.default_rng(0).normal(size=(3, 1, 2000))
    z = (z + offset).astype(np.float32)
    ms, dc = (method(0.0, 0.0).fit(z, y, engine=Serial()) for method in (MatrixScaling, DirichletCalibration))
    assert ms.solution.nll < dc.solution.nll - 0.1
    assert ms.guarantees().translation_invariant == "no"
    assert dc.guarantees().translation_invariant == "proven"
    shifted = torch.from_numpy(z) + 20
    assert (ms(shifted) - ms(torch.from_numpy(z))).abs().max() > 0.1
    torch.testing.assert_close(dc(shifted), dc(torch.from_numpy(z)), atol=1e-5, rtol=0)


def test_residuals_are_orthogonal_to_the_scores(arrays) -> None:
    """Optimality 9.5: mean (p - e) phi^T = 0 and mean p = class frequencies, up to the ridge's pull."""
    z, y = arrays
    calibrator = MatrixScaling(0.0, 0.0).fit(z, y, engine=Serial())
    residual = calibrator.log_probs(torch.from_numpy(z)).exp() - torch.nn.functional.one_hot(
        torch.from_numpy(y), 3
    ).movedim(-1, 1)
    assert torch.einsum("bin,bjn->ij", residual, torch.from_numpy(z).double()).abs().max() / y.size < 1e-6
    assert residual.mean((0, 2)).abs().max() < 1e-6


@pytest.mark.parametrize("penalty", ["ts", "odir"])
def test_the_objective_is_what_the_formulas_say(penalty, arrays) -> None:
    z, y = arrays
    calibrator = MatrixScaling(0.3, 0.2, penalty).fit(z, y, engine=Serial())
    w, b = calibrator.maps[0].weight, calibrator.maps[0].bias
    beta = 1 / calibrator.solution.settings["temperature"]
    eye = torch.eye(3, dtype=torch.float64)
    if penalty == "odir":
        expected = 0.3 * (w**2)[eye == 0].mean() + 0.2 * (b**2).mean()
    else:
        expected = 0.3 * ((w - beta * eye) ** 2).mean() + 0.2 * (b**2).mean()
    expected = expected + 1e-8 * (((w - eye) ** 2).mean() + (b**2).mean())
    nll = torch.nn.functional.nll_loss(calibrator.log_probs(torch.from_numpy(z)), torch.from_numpy(y)).item()
    assert calibrator.solution.nll == pytest.approx(nll, abs=1e-6)
    assert calibrator.solution.objective == pytest.approx(nll + expected.item(), abs=1e-6)
    assert calibrator.solution.objective - calibrator.solution.nll == pytest.approx(expected.item(), abs=1e-10)


def test_odir_ends_with_columns_and_biases_that_sum_to_nothing(arrays) -> None:
    """The gauge (definitions 2.6): at a minimiser off-diagonal column sums and the sum of biases vanish."""
    z, y = arrays
    m = MatrixScaling(0.3, 0.2, "odir", eps=0.0).fit(z, y, engine=Serial()).maps[0]
    off = m.weight - torch.diag(m.weight.diagonal())
    assert off.sum(0).abs().max() < 1e-6
    assert abs(m.bias.sum().item()) < 1e-6


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 6), sign=st.sampled_from([1.0, -1.0]))
def test_a_growing_offset_decides_alone(seed: int, classes: int, sign: float) -> None:
    """As a common offset grows, S(W (z + c 1) + b) tends to one class at every voxel: that of the largest row sum of W
    (the smallest, as c falls), whatever the network said (K26 3.1).
    """
    rng = np.random.default_rng(seed)
    weight, bias = torch.from_numpy(rng.normal(size=(classes, classes))), torch.from_numpy(rng.normal(size=classes))
    sums, _ = (sign * weight.sum(1)).sort(descending=True)
    assume(sums[0] - sums[1] > 1e-3)
    head = Softmax(tuple(map(str, range(classes))))
    calibrator = Calibrator(head, "logits", [AffineMap(weight, bias, logits=True)], "ms")
    z = torch.from_numpy(rng.normal(size=(1, classes, 50)))
    far = 1e3 / float(sums[0] - sums[1])
    probs = calibrator.log_probs(z + sign * far).exp()[0]
    limit = torch.nn.functional.one_hot((sign * weight.sum(1)).argmax(), classes).double()
    torch.testing.assert_close(probs, limit[:, None].expand_as(probs), atol=1e-9, rtol=0)
    assert calibrator.guarantees().translation_invariant == "no"
